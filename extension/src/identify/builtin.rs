//! The signatures that are compiled in.

macro_rules! builtin {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../signatures/agents/", $name, ".yaml")))),*]
    };
}

/// Name and text of every file in `signatures/agents`.
pub(super) const FILES: &[(&str, &str)] = builtin![
    "agentquery-demo",
    "aider",
    "amazon-q",
    "amp",
    "antigravity",
    "auggie",
    "claude-code",
    "claude-desktop",
    "cline",
    "codebuff",
    "codeium",
    "codex",
    "cody",
    "continue",
    "continue-editors",
    "copilot-cli",
    "copilot-editors",
    "crush",
    "cursor",
    "cursor-agent",
    "devin",
    "droid",
    "forge",
    "gemini-cli",
    "goose",
    "gpt4all",
    "gptme",
    "grok",
    "grok-cli",
    "hermes",
    "iflow",
    "jan",
    "junie",
    "kilo-code",
    "kimi-code",
    "kiro",
    "kiro-cli",
    "llama-server",
    "lm-studio",
    "localai",
    "mistral-vibe",
    "ollama",
    "omp",
    "openclaw",
    "opencode",
    "openhands",
    "pi",
    "qoder",
    "qoder-cli",
    "qwen-code",
    "roo-code",
    "supermaven",
    "tabnine",
    "trae",
    "vllm",
    "warp",
    "windsurf",
    "zed",
    "zencoder",
];

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::identify::signature::Signature;

    #[test]
    fn the_list_is_the_directory() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../signatures/agents");
        let mut names: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| name.strip_suffix(".yaml").expect("only .yaml files belong here").to_owned())
            .collect();
        names.sort();
        assert_eq!(names, FILES.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }

    #[test]
    fn every_file_compiles_and_is_called_as_its_agent() {
        for (name, text) in FILES {
            let signature = Signature::compile(name, text).unwrap();
            assert_eq!(*signature.name, **name);
            assert!(signature.literals().1.is_empty(), "{name} would be recognised late");
            assert!(!signature.lacks_script_names(), "{name}");
        }
    }

    /// What a file's comment says of where its facts come from: `# seen: ...` or `# read: ...`, up to the first stop.
    fn fact(text: &str, kind: &str) -> Option<String> {
        let comment: Vec<&str> = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim).collect();
        let from = comment.iter().position(|line| line.starts_with(kind))?;
        let rest = comment[from..].iter().enumerate();
        let lines = rest.take_while(|(at, line)| *at == 0 || !line.starts_with("read:")).map(|(_, line)| *line);
        let whole = lines.collect::<Vec<_>>().join(" ").split_off(kind.len());
        let end = [": ", "; ", ". "].iter().filter_map(|stop| whole.find(stop)).min().unwrap_or(whole.len());
        Some(whole[..end].trim().trim_end_matches('.').to_owned())
    }

    /// `docs/agents.md`, as the files say.
    fn documentation() -> String {
        let mut text = include_str!("agents.md").to_owned();
        for (name, file) in FILES {
            let signature = Signature::compile(name, file).unwrap();
            let vendor = signature.vendor.as_deref().unwrap_or_default();
            let seen = fact(file, "seen:").unwrap_or_else(|| "no".to_owned());
            let category = signature.category.as_str();
            writeln!(text, "| {} | `{name}` | {vendor} | {category} | {seen} |", signature.display_name).unwrap();
        }
        text
    }

    #[test]
    fn the_documentation_lists_them() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/agents.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(file, documentation()).unwrap();
        }
        let is = std::fs::read_to_string(file).unwrap();
        assert!(is == documentation(), "docs/agents.md is stale: ./dev docs");
    }

    #[test]
    fn every_file_says_where_its_facts_come_from() {
        for (name, text) in FILES.iter().filter(|(name, _)| *name != "agentquery-demo") {
            assert!(fact(text, "seen:").or_else(|| fact(text, "read:")).is_some(), "{name}");
        }
    }
}
