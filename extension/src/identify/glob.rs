//! Path patterns, in which `*` is any run of characters, `/` included.
//!
//! One wildcard is enough for install paths, and it needs no backtracking: the first place where a piece fits is as
//! good as any other.

use super::interpreter::is_interpreter;
use super::windows;

/// Components that stand in the paths of every program: they say nothing, and as literals would mark all of them. In order,
/// for they are searched.
const GENERIC: &[&str] = &[
    ".bin",
    ".cache",
    ".config",
    ".local",
    "AppData",
    "Applications",
    "Caskroom",
    "Cellar",
    "Contents",
    "Library",
    "Local",
    "MacOS",
    "Microsoft",
    "Packages",
    "Program Files",
    "Program Files (x86)",
    "ProgramData",
    "Programs",
    "Resources",
    "Roaming",
    "Scripts",
    "Users",
    "WinGet",
    "Windows",
    "app",
    "apps",
    "bash",
    "bin",
    "build",
    "bundle",
    "cli",
    "cli.js",
    "current",
    "dist",
    "etc",
    "extensions",
    "home",
    "index.js",
    "lib",
    "lib64",
    "libexec",
    "local",
    "main.js",
    "main.py",
    "nix",
    "node_modules",
    "opt",
    "out",
    "packages",
    "releases",
    "resources",
    "root",
    "run.js",
    "sbin",
    "server.js",
    "sh",
    "share",
    "site-packages",
    "src",
    "store",
    "tmp",
    "tools",
    "usr",
    "var",
    "vendor",
    "venvs",
    "versions",
];

/// Characters that a directory of a pattern must begin with to be a fact of its own.
const DIRECTORY_PREFIX: usize = 3;

/// A compiled pattern, anchored at both ends.
#[derive(Debug, Clone)]
pub(crate) struct Glob {
    text: Box<str>,
}

impl Glob {
    pub(crate) fn new(text: &str) -> Self {
        Self { text: text.into() }
    }

    /// The pattern as it was written.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The pattern in small letters.
    pub(crate) fn folded(&self) -> Self {
        Self::new(&self.text.to_lowercase())
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        if windows::is_plain(text) {
            return Self::holds(&windows::folded(&self.text), text);
        }
        self.fits(text)
    }

    /// The same of a text that is no path, or one that is told apart already.
    pub(crate) fn fits(&self, text: &str) -> bool {
        Self::holds(&self.text, text)
    }

    fn holds(pattern: &str, text: &str) -> bool {
        let Some((prefix, rest)) = pattern.split_once('*') else { return *pattern == *text };
        let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
        let Some(text) = text.strip_prefix(prefix) else { return false };
        let Some(mut text) = text.strip_suffix(suffix) else { return false };
        for piece in middle.split('*') {
            let Some(at) = text.find(piece) else { return false };
            text = text.get(at + piece.len()..).unwrap_or_default();
        }
        true
    }

    /// The component that every match has whole and that tells most; none when there is only what all programs have.
    pub(super) fn literal(&self) -> Option<&str> {
        self.text
            .rsplit('/')
            .filter(|component| !component.is_empty())
            .take(super::WINDOW)
            .filter(|component| !component.contains('*') && !is_generic(component))
            .min_by_key(|component| std::cmp::Reverse(component.len()))
    }

    /// Names a directory that is not every program's: enough to decide alone, as a file name is not.
    pub(super) fn names_directory(&self) -> bool {
        let Some((directories, _)) = self.text.rsplit_once('/') else { return false };
        // Nothing of Windows' own puts programs below `.local`.
        let of_windows = windows::is(&self.text);
        directories.split('/').any(|component| {
            let prefix = component.split('*').next().unwrap_or_default();
            prefix.len() >= DIRECTORY_PREFIX && (!is_generic(component) || (of_windows && component == ".local"))
        })
    }
}

pub(super) fn is_generic(component: &str) -> bool {
    GENERIC.binary_search(&component).is_ok() || is_interpreter(component)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Glob::new(pattern).matches(text)
    }

    #[test]
    fn star_is_any_run_and_all_else_is_itself() {
        assert!(matches("*/a/*", "/x/y/a/b/c"));
        assert!(matches("/a", "/a"));
        assert!(!matches("/a", "/a/"));
        assert!(!matches("/a/*/b", "/a/b"));
        assert!(matches("/a/*b", "/a/b"));
        assert!(matches("*", ""));
        assert!(matches("**", "x"));
        assert!(!matches("ab*ba", "aba"), "pieces do not overlap");
        assert!(matches("*ab*ab*", "xababx"));
        assert!(!matches("*ab*ab*", "xabx"));
        assert!(!matches("/a.b", "/aXb"), "a dot is a dot");
        assert!(matches("/é/*", "/é/ü"));
    }

    #[test]
    fn components_of_everybody_are_in_order() {
        assert!(GENERIC.is_sorted());
    }

    #[test]
    fn literal_is_the_component_that_tells_most() {
        let literal = |pattern: &str| Glob::new(pattern).literal().map(str::to_owned);
        assert_eq!(literal("*/.local/share/claude/versions/*").as_deref(), Some("claude"));
        assert_eq!(literal("*/@google/gemini-cli/bundle/gemini.js").as_deref(), Some("gemini-cli"));
        assert_eq!(literal("*claude*"), None);
        assert_eq!(literal("/usr/bin/*"), None);
        assert_eq!(literal("*/node_modules/x-*/bin/node"), None, "interpreters alone never mark");
        assert_eq!(literal("/far/a/b/c/d/e/f/g/h"), Some("h".to_owned()), "beyond the window nothing is seen");
    }

    #[test]
    fn only_a_directory_of_its_own_decides_alone() {
        let names_directory = |pattern: &str| Glob::new(pattern).names_directory();
        assert!(names_directory("*/opencode-*/bin/opencode"));
        assert!(names_directory("*/.opencode/bin/opencode"));
        assert!(!names_directory("*claude*"));
        assert!(!names_directory("/usr/local/bin/q"));
        assert!(!names_directory("*/bin/aider"));
        assert!(!names_directory("claude"));
    }

    proptest! {
        /// The same answers as the regular expression that the pattern stands for.
        #[test]
        fn agrees_with_a_regex(pattern in "[ab/*]{0,8}", text in "[ab/]{0,12}") {
            let regex = format!(r"\A(?s:{})\z", regex::escape(&pattern).replace(r"\*", ".*"));
            prop_assert_eq!(matches(&pattern, &text), regex::Regex::new(&regex).unwrap().is_match(&text));
        }
    }
}
