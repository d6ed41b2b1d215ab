//! What a file is to its owner, by its path: which kind of file, how much it would hurt to lose it, and whether reading it
//! says anything at all.
//!
//! All of it is data: `signatures/files.yaml`, and one's own `files.yaml` in a directory of signatures, whose rules come
//! first. Its format is told in `docs/rules.md`.

use std::sync::OnceLock;

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::meaning::Check;
use super::paths::PathSet;
use crate::identify::windows;
use crate::yaml::FileError;

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Category {
    Source,
    Config,
    Docs,
    Build,
    Dependency,
    Vcs,
    Lock,
    Data,
    Secret,
    Agent,
    System,
    Temp,
    Other,
}

impl Category {
    /// As it stands in a row.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Config => "config",
            Self::Docs => "docs",
            Self::Build => "build",
            Self::Dependency => "dependency",
            Self::Vcs => "vcs",
            Self::Lock => "lock",
            Self::Data => "data",
            Self::Secret => "secret",
            Self::Agent => "agent",
            Self::System => "system",
            Self::Temp => "temp",
            Self::Other => "other",
        }
    }
}

/// How much it would hurt if what is in it were known to others, or lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Sensitivity {
    #[default]
    Low,
    Medium,
    High,
}

impl Sensitivity {
    /// As it stands in a row.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

/// A file of rules, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    noise: Vec<Spanned<String>>,
    #[serde(default)]
    keep: Vec<Spanned<String>>,
    #[serde(default)]
    rules: Vec<Spanned<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    category: Category,
    #[serde(default)]
    sensitivity: Sensitivity,
    in_project: Option<bool>,
    paths: Vec<Spanned<String>>,
}

/// The rules that hold, those of users before those that are compiled in.
#[derive(Debug, Default)]
pub struct FileRules {
    sets: Sets,
    /// For paths of Windows, made when the first one is looked at.
    of_windows: OnceLock<Sets>,
    rules: Vec<(Category, Sensitivity, Option<bool>)>,
}

#[derive(Debug, Default)]
struct Sets {
    noise: PathSet,
    keep: PathSet,
    patterns: PathSet,
}

impl FileRules {
    /// Adds a file's rules behind those that there are. Nothing of a file with a mistake is added.
    pub(super) fn add(&mut self, file: &File, check: &Check<'_>) -> Result<(), FileError> {
        let lists = [("noise", &file.noise), ("keep", &file.keep)];
        let rules = file.rules.iter().map(|rule| ("paths", &rule.value.paths));
        for (field, list) in lists.into_iter().chain(rules) {
            for pattern in list {
                check.path(field, pattern)?;
            }
        }
        if let Some(empty) = file.rules.iter().find(|rule| rule.value.paths.is_empty()) {
            return Err(check.wrong(empty.referenced, "paths: is empty, so the rule would never hold"));
        }
        for (list, set) in [(&file.noise, &mut self.sets.noise), (&file.keep, &mut self.sets.keep)] {
            for pattern in list {
                set.add(&pattern.value, 0);
            }
        }
        for rule in &file.rules {
            let Rule { category, sensitivity, in_project, paths } = &rule.value;
            for pattern in paths {
                self.sets.patterns.add(&pattern.value, self.rules.len());
            }
            self.rules.push((*category, *sensitivity, *in_project));
        }
        self.of_windows = OnceLock::new();
        Ok(())
    }

    /// The path as the rules see it, and the sets that hold for it.
    fn sets<'p>(&self, path: &'p str) -> (std::borrow::Cow<'p, str>, &Sets) {
        if !windows::is(path) {
            return (path.into(), &self.sets);
        }
        let Sets { noise, keep, patterns } = &self.sets;
        let folded = || Sets { noise: noise.folded(), keep: keep.folded(), patterns: patterns.folded() };
        (windows::with_ending(path), self.of_windows.get_or_init(folded))
    }

    /// Whether *reading* this file says nothing about an agent. Of other operations that is never said.
    #[must_use]
    pub fn is_noise(&self, path: &str) -> bool {
        let (path, sets) = self.sets(path);
        sets.noise.holds(&path) && !sets.keep.holds(&path)
    }

    /// What a file is, by the first rule that fits.
    #[must_use]
    pub fn judge(&self, path: &str, in_project: bool) -> (Category, Sensitivity) {
        let mut first = usize::MAX;
        let holds = |number: usize| {
            let place = self.rules.get(number).and_then(|(_, _, place)| *place);
            place.is_none_or(|wanted| wanted == in_project)
        };
        let (path, sets) = self.sets(path);
        sets.patterns.each(&path, |number| {
            if number < first && holds(number) {
                first = number;
            }
        });
        self.rules.get(first).map_or((Category::Other, Sensitivity::Low), |rule| (rule.0, rule.1))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Meaning;

    #[test]
    fn loader_and_pseudo_files_are_noise() {
        let rules = Meaning::builtin().files;
        for path in [
            "/proc/self/maps",
            "/sys/devices/system/cpu/online",
            "/dev/null",
            "/etc/ld.so.cache",
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/usr/lib/x86_64-linux-gnu/libssl.so.3",
            "/usr/lib64/libm.so.6",
            "/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache",
            "/usr/lib/locale/locale-archive",
            "/usr/share/locale/locale.alias",
            "/etc/locale.alias",
            "/usr/lib/python3.11/os.py",
            "/usr/share/zoneinfo/UTC",
        ] {
            assert!(rules.is_noise(path), "{path}");
        }
        for path in [
            "/etc/passwd",
            "/home/u/lib/x.so",
            "/usr/libexec/git-core/x.so",
            "/home/u/proc/x",
            "/home/u/p/.git/config",
            "/development/x",
            "/home/u/.ssh/known_hosts",
        ] {
            assert!(!rules.is_noise(path), "{path}");
        }
    }

    #[test]
    fn what_files_are() {
        let rules = Meaning::builtin().files;
        for (path, category, sensitivity) in [
            ("/home/u/p/.env", "secret", "high"),
            ("/home/u/p/.env.production", "secret", "high"),
            ("/home/u/p/.env.example", "config", "low"),
            ("/home/u/p/server.pem", "secret", "high"),
            ("/home/u/.venv/lib/python3.12/site-packages/certifi/cacert.pem", "config", "low"),
            ("/home/u/.ssh/known_hosts", "secret", "high"),
            ("/home/u/.aws/credentials", "secret", "high"),
            ("/home/u/p/deploy_key", "secret", "high"),
            ("/home/u/p/my_key.txt", "secret", "high"),
            ("/home/u/p/monkey/a.rs", "source", "low"),
            ("/home/u/.kube/config", "secret", "high"),
            ("/home/u/kubeconfig", "secret", "high"),
            ("/home/u/.netrc", "secret", "high"),
            ("/home/u/.mozilla/firefox/x.default/cookies.sqlite", "secret", "high"),
            ("/home/u/.bash_history", "secret", "high"),
            ("/home/u/.claude/.credentials.json", "secret", "high"),
            ("/home/u/.claude/projects/x.jsonl", "agent", "medium"),
            ("/home/u/p/CLAUDE.md", "agent", "low"),
            ("/home/u/p/.git/config", "vcs", "medium"),
            ("/home/u/p/.git/objects/ab/cd", "vcs", "low"),
            ("/home/u/p/node_modules/x/index.js", "dependency", "low"),
            ("/home/u/p/Cargo.lock", "lock", "low"),
            ("/home/u/p/target/debug/x.d", "build", "low"),
            ("/home/u/p/src/main.rs", "source", "low"),
            ("/home/u/p/Cargo.toml", "config", "low"),
            ("/home/u/p/README.md", "docs", "low"),
            ("/home/u/p/app.sqlite", "data", "medium"),
            ("/tmp/p/src/main.rs", "source", "low"),
            ("/home/u/p/what", "other", "low"),
            ("", "other", "low"),
        ] {
            let (got, much) = rules.judge(path, true);
            assert_eq!((got.as_str(), much.as_str()), (category, sensitivity), "{path}");
        }
        let outside = |path: &str| rules.judge(path, false).0.as_str();
        assert_eq!(outside("/tmp/x/main.rs"), "temp");
        assert_eq!(outside("/etc/hostname"), "system");
        assert_eq!(outside("/usr/include/stdio.h"), "system");
        assert_eq!(outside("/home/u/x.rs"), "source");
    }

    /// Told by their form, on any system.
    #[test]
    fn files_of_windows() {
        let rules = Meaning::builtin().files;
        for (path, category, sensitivity) in [
            (r"C:\Users\x\.ssh\id_ed25519", "secret", "high"),
            (r"c:\users\X\.SSH\known_hosts", "secret", "high"),
            (r"C:\Users\x\.aws\credentials", "secret", "high"),
            (r"C:\Users\x\AppData\Local\Google\Chrome\User Data\Default\Login Data", "secret", "high"),
            (r"C:\Users\x\AppData\Local\Microsoft\Edge\User Data\Default\Network\Cookies", "secret", "high"),
            (r"C:\Users\x\AppData\Roaming\Mozilla\Firefox\Profiles\a.default\logins.json", "secret", "high"),
            (r"C:\Users\x\AppData\Roaming\Microsoft\Credentials\DFBE70A7E5CC19A3", "secret", "high"),
            (r"C:\Windows\System32\config\SAM", "secret", "high"),
            (r"\\?\C:\Users\x\p\.env", "secret", "high"),
            (r"\\server\home\x\.aws\config", "secret", "high"),
            (
                r"C:\Users\x\AppData\Roaming\Microsoft\Windows\PowerShell\PSReadLine\ConsoleHost_history.txt",
                "secret",
                "high",
            ),
            (r"C:\Users\x\.claude\projects\x.jsonl", "agent", "medium"),
            (r"C:\Users\x\AppData\Roaming\npm\node_modules\@openai\codex\bin\codex.js", "agent", "low"),
            (r"C:\p\CLAUDE.md", "agent", "low"),
            (r"C:\p\.git\config", "vcs", "medium"),
            (r"C:\p\node_modules\x\index.js", "dependency", "low"),
            (r"C:\p\makefile", "config", "low"),
            (r"D:/p/src/main.rs", "source", "low"),
            (r"C:\p\a.EXE", "build", "low"),
            (r"C:\p\README.MD", "docs", "low"),
            // Not of Windows: a `\` is a character of a name like any other.
            (r"/p/.ssh\x.rs", "source", "low"),
        ] {
            let (got, much) = rules.judge(path, true);
            assert_eq!((got.as_str(), much.as_str()), (category, sensitivity), "{path}");
        }
        let outside = |path: &str| rules.judge(path, false).0.as_str();
        assert_eq!(outside(r"C:\Users\x\AppData\Local\Temp\a.rs"), "temp");
        assert_eq!(outside(r"C:\Program Files\nodejs\node.exe"), "system");
        assert_eq!(outside(r"C:\Users\x\a.rs"), "source");
        assert!(rules.is_noise(r"C:\WINDOWS\system32\kernel32.dll"));
        assert!(!rules.is_noise(r"C:\Windows\System32\config\SAM"));
        assert!(!rules.is_noise(r"C:\Users\x\kernel32.dll"));
        assert!(rules.is_noise(r"C:\p\.git\objects\ab\cd"));
    }
}
