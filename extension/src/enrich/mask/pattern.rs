//! Secrets that their own form or the name before them gives away.

use std::ops::Range;

use regex::Regex;

/// Expressions whose first group that takes part is the secret. `\b` is of ASCII, which keeps the fast engine on any text.
#[rustfmt::skip]
const PATTERNS: &[&str] = &[
    // Model providers: Anthropic, OpenAI and those that copied its form, Google, xAI, Groq, Perplexity, Hugging Face,
    // Replicate, NVIDIA, Cerebras, Sourcegraph, Cursor, Tavily.
    r"(?-u:\b)sk-(?:ant|proj|svcacct|admin|or|kimi|lf|cp)-([A-Za-z0-9_-]{8,})",
    r"(?-u:\b)sk-(?:[a-z0-9]{1,12}-)?([A-Za-z0-9]{20,})",
    r"(?-u:\b)AIza([A-Za-z0-9_-]{30,})",
    r"(?-u:\b)ya29\.([A-Za-z0-9_-]{20,})",
    r"(?-u:\b)GOCSPX-([A-Za-z0-9_-]{20,})",
    r"(?-u:\b)(?:xai|pplx|csk|fk)-([A-Za-z0-9]{20,})",
    r"(?-u:\b)(?:nvapi|tvly)-([A-Za-z0-9_-]{20,})",
    r"(?-u:\b)(?:gsk|hf|r8|fw|sgp|sgamp_user|key)_([A-Za-z0-9_]{30,})",
    // Source control and registries: GitHub, GitLab, npm, PyPI, RubyGems, crates.io, Docker.
    r"(?-u:\b)gh[pousr]_([A-Za-z0-9]{16,})",
    r"(?-u:\b)github_pat_([A-Za-z0-9_]{16,})",
    r"(?-u:\b)gl(?:pat|dt|rt|cbt|ptt|ft|soat|agent|imt|oas)-([A-Za-z0-9_.-]{16,})",
    r"(?-u:\b)npm_([A-Za-z0-9]{30,})",
    r"(?-u:\b)pypi-(Ag[A-Za-z0-9_-]{30,})",
    r"(?-u:\b)rubygems_([0-9a-f]{40,})",
    r"(?-u:\b)dckr_(?:pat|oat)_([A-Za-z0-9_-]{16,})",
    // Clouds and services: AWS, DigitalOcean, Databricks, Vault, Slack, Stripe, SendGrid, Shopify, Linear, Grafana,
    // Atlassian, Telegram, age.
    r"(?-u:\b)(?:AKIA|ASIA)([A-Z0-9]{16})(?-u:\b)",
    r"(?-u:\b)do[opr]_v1_([0-9a-f]{32,})",
    r"(?-u:\b)dapi([0-9a-f]{32})(?-u:\b)",
    r"(?-u:\b)hv[sbr]\.([A-Za-z0-9_-]{20,})",
    r"(?-u:\b)xox[a-z](?:\.xox[a-z])?-([A-Za-z0-9-]{8,})",
    r"(?-u:\b)xapp-([A-Za-z0-9-]{16,})",
    r"hooks\.slack\.com/(?:services|workflows)/([A-Za-z0-9/_-]+)",
    r"discord(?:app)?\.com/api/webhooks/([0-9]+/[A-Za-z0-9_-]+)",
    r"(?-u:\b)[rsp]k_(?:live|test)_([A-Za-z0-9]{8,})",
    r"(?-u:\b)whsec_([A-Za-z0-9+/=]{20,})",
    r"(?-u:\b)SG\.([A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,})",
    r"(?-u:\b)shp(?:at|ca|pa|ss)_([0-9a-fA-F]{32})",
    r"(?-u:\b)lin_(?:api|oauth)_([A-Za-z0-9]{20,})",
    r"(?-u:\b)gl(?:sa|c)_([A-Za-z0-9+/=_]{20,})",
    r"(?-u:\b)ATATT3([A-Za-z0-9_=-]{20,})",
    r"(?-u:\b)[0-9]{8,10}:(AA[A-Za-z0-9_-]{32,34})(?-u:\b)",
    r"AGE-SECRET-KEY-1([A-Z0-9]{20,})",
    // JSON web tokens, signed or encrypted.
    r"(?-u:\b)eyJ([A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*){1,3})",
    // Private keys, also cut off ones.
    r"(?s)-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----(.*?)(?:-----END|\z)",
    // Headers. After a scheme stands the secret; a word of letters may be a scheme that is not known here.
    r#"(?i)(?-u:\b)authorization\\?["']?\s*[:=]\s*\\?["']?(?:(?:bearer|basic|token|digest|negotiate|apikey)\s+([^\s"'\\]+)|([a-z][a-z0-9-]*\s+[^\s"'\\]+|[^\s"'\\]+))"#,
    r"(?i)(?-u:\b)bearer\s+([A-Za-z0-9._~+/=-]{16,})",
    r#"(?i)(?-u:\b)(?:x-[a-z0-9-]*(?:key|token|secret)|api-?key|private-token|job-token|deploy-token)\\?["']?:\s*\\?["']?([^\s"'\\]+)"#,
    r#"(?i)(?-u:\b)(?:set-)?cookie:\s*([^"'\r\n]+)"#,
    // URLs: a password, or a token in place of the user.
    r#"(?-u:\b)[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#:@"'\\]*:([^\s/?#"'\\]+)@"#,
    r"(?-u:\b)[A-Za-z][A-Za-z0-9+.-]*://([A-Za-z0-9_-]{20,})(?::[^\s/?#@]*)?@",
    r#"(?i)[?&](?:[a-z0-9_.-]*(?:token|secret|password|passwd|api[_-]?key|access[_-]?key|signature)|sig|pwd)=([^&\s"'#\\]+)"#,
    // npm's configuration of a registry.
    r#":_(?:authToken|auth|password)[= ]["']?([^\s"']+)"#,
];

/// Ends of names whose value is a secret, in any case.
const NAMES: &str = r"(?i:password|passwd|passphrase|sshpass|mysql_pwd|token|secret|api[_-]?key|secret[_-]?key|(?:secret[_-]?)?access[_-]?key|auth[_-]?key|encryption[_-]?key|signing[_-]?key|master[_-]?key|account[_-]?key)";
/// Such ends that only environment variables have.
const VARIABLES: &str = r"_KEY|_PASS|_PAT|_CREDENTIAL";

/// The compiled expressions.
#[derive(Debug)]
pub(super) struct Patterns {
    secrets: Vec<Regex>,
    whole_assignment: Option<Regex>,
}

impl Default for Patterns {
    fn default() -> Self {
        let named = format!(r"(?-u:\b)[A-Za-z0-9_.-]*(?:{NAMES}|(?:{VARIABLES}))");
        let assignment = format!(r#"{named}=(\\?"[^"]*|\\?'[^']*|[^\s"'&;|\\]+)"#);
        let member = format!(r#"{named}\\?["']\s*:\s*\\?["']([^"'\\]+)"#);
        let texts = PATTERNS.iter().copied().chain([&*assignment, &*member]);
        // A pattern that does not compile would be a hole; a test holds that all do.
        Self {
            secrets: texts.filter_map(|text| Regex::new(text).ok()).collect(),
            whole_assignment: Regex::new(&format!(r"(?s)\A(?:-{{0,2}})[A-Za-z0-9_.-]*(?:{NAMES}|{VARIABLES})=(.+)\z"))
                .ok(),
        }
    }
}

impl Patterns {
    /// Where the secrets are.
    pub(super) fn find(&self, text: &str) -> Vec<Range<usize>> {
        let found = self.secrets.iter().flat_map(|regex| regex.captures_iter(text));
        let groups = found.filter_map(|found| found.iter().skip(1).flatten().next());
        groups.map(|group| without_quotes(text, group.range())).collect()
    }

    /// The value of an argument that is an assignment from end to end.
    pub(super) fn whole_assignment(&self, argument: &str) -> Option<Range<usize>> {
        Some(self.whole_assignment.as_ref()?.captures(argument)?.get(1)?.range())
    }
}

/// The part of a value inside its quotes.
pub(super) fn without_quotes(text: &str, range: Range<usize>) -> Range<usize> {
    let value = text.get(range.clone()).unwrap_or_default();
    let inner = value.trim_start_matches('\\');
    let inner = inner.strip_prefix(['"', '\'']).unwrap_or(inner);
    let start = range.end - inner.len();
    let inner = inner.strip_suffix(['"', '\'']).unwrap_or(inner);
    start..start + inner.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles_and_has_a_group() {
        let patterns = Patterns::default();
        assert_eq!(patterns.secrets.len(), PATTERNS.len() + 2);
        for regex in patterns.secrets.iter().chain([patterns.whole_assignment.as_ref().unwrap()]) {
            assert!(regex.captures_len() > 1, "{regex}");
        }
    }
}
