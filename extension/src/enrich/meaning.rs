//! What files and peers mean, by rules that users can add to: loading them.
//!
//! A bad file is refused with its line and what is wrong; what is compiled in, and the other files, still hold.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_saphyr::{Location, Spanned};

use super::endpoints::Endpoints;
use super::files::FileRules;
use crate::identify::{RULES, file_name, windows};
use crate::record::rows::SignatureRow;
use crate::yaml::{self, FileError};

const ENDPOINTS: &str = include_str!("../../../signatures/endpoints.yaml");
const FILE_RULES: &str = include_str!("../../../signatures/files.yaml");

/// The rules that hold.
#[derive(Debug, Default)]
pub struct Meaning {
    /// What peers are.
    pub endpoints: Endpoints,
    /// What files are.
    pub files: FileRules,
    /// Of each file the text that holds.
    good: HashMap<String, String>,
    refused: Vec<Refused>,
}

#[derive(Debug)]
struct Refused {
    source: String,
    error: FileError,
    /// Its last good version holds.
    kept: bool,
}

impl Meaning {
    /// The rules that are compiled in.
    #[must_use]
    pub fn builtin() -> Self {
        Self::load(&[])
    }

    /// The rules of the directories, the last one's first, and behind them those that are compiled in.
    #[must_use]
    pub fn load(dirs: &[PathBuf]) -> Self {
        Self::load_after(dirs, &Self::default())
    }

    /// The same, when others were loaded before: of a file that is bad by now the last good version is kept.
    #[must_use]
    pub fn load_after(dirs: &[PathBuf], before: &Self) -> Self {
        let mut meaning = Self::default();
        for name in RULES {
            for file in dirs.iter().rev().map(|dir| dir.join(name)).filter(|file| file.symlink_metadata().is_ok()) {
                let source = file.display().to_string();
                if let Err(error) = yaml::read(&file).and_then(|text| meaning.add(name, &source, &text)) {
                    let last = before.good.get(&source);
                    let kept = last.is_some_and(|text| meaning.add(name, &source, text).is_ok());
                    meaning.refused.push(Refused { source, error, kept });
                }
            }
            let (source, text) =
                if name == "files.yaml" { ("builtin:files", FILE_RULES) } else { ("builtin:endpoints", ENDPOINTS) };
            if let Err(error) = meaning.add(name, source, text) {
                meaning.refused.push(Refused { source: source.to_owned(), error, kept: false });
            }
        }
        meaning
    }

    /// Whether this is the text of a file of rules, of that name.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn check(name: &str, source: &str, text: &str) -> Result<(), FileError> {
        Self::default().add(name, source, text)
    }

    fn add(&mut self, name: &str, source: &str, text: &str) -> Result<(), FileError> {
        let check = Check { source };
        if name == "files.yaml" {
            self.files.add(&yaml::parse_file(source, text)?, &check)?;
        } else {
            self.endpoints.add(&yaml::parse_file(source, text)?, &check)?;
        }
        self.good.insert(source.to_owned(), text.to_owned());
        Ok(())
    }

    /// A row a file that was refused, for `agent_signatures`.
    pub fn rows(&self) -> impl Iterator<Item = SignatureRow> {
        self.refused.iter().map(|Refused { source, error, kept }| {
            let name = file_name(source);
            let (status, message) = if *kept {
                ("kept", format!("its last good version holds: {error}"))
            } else {
                ("refused", error.to_string())
            };
            SignatureRow {
                agent: name.into(),
                display_name: name.into(),
                source: source.as_str().into(),
                status,
                message: Some(message.into()),
                ..SignatureRow::default()
            }
        })
    }
}

/// Checks the texts of one file.
pub(super) struct Check<'a> {
    source: &'a str,
}

impl Check<'_> {
    pub(super) fn wrong(&self, at: Location, message: impl Into<String>) -> FileError {
        FileError::at(self.source, at, message)
    }

    /// A pattern of a path, or of a name.
    pub(super) fn path(&self, field: &str, text: &Spanned<String>) -> Result<(), FileError> {
        let value = &text.value;
        let problem = match yaml::problem(value) {
            Some(problem) => problem,
            None if value.contains('/') && !(value.starts_with(['/', '*', '@']) || windows::is(value)) => {
                "must begin with / or * (or a drive: C:/), for the whole path is compared"
            }
            None if value.chars().all(|c| c == '*' || c == '/') => "fits everything",
            None => return Ok(()),
        };
        Err(self.wrong(text.referenced, format!("{field}: {value:?} {problem}")))
    }

    /// A host, in lower case.
    pub(super) fn host(&self, field: &str, text: &Spanned<String>) -> Result<String, FileError> {
        yaml::host(self.source, field, text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::endpoints::Peer;
    use super::*;

    /// A directory with these files.
    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    #[test]
    fn what_is_compiled_in_has_no_mistake() {
        assert_eq!(Meaning::builtin().rows().count(), 0);
    }

    #[test]
    fn ones_own_rules_come_first() {
        let own = directory(&[
            (
                "files.yaml",
                "noise: [/opt/quiet/*]\nkeep: [/etc/hosts]\nrules:\n- {category: secret, sensitivity: high, paths: [customers.csv]}\n",
            ),
            ("endpoints.yaml", "rules:\n- {type: mcp, service: Ours, hosts: [github.com], ports: [8443]}\n"),
        ]);
        let meaning = Meaning::load(&[own.path().into()]);
        assert_eq!(meaning.rows().count(), 0);
        assert!(meaning.files.is_noise("/opt/quiet/x") && !meaning.files.is_noise("/etc/hosts"));
        assert!(meaning.files.is_noise("/proc/self/maps"), "what is compiled in holds as well");
        assert_eq!(meaning.files.judge("/w/customers.csv", true).0.as_str(), "secret");
        let at = |port| {
            let verdict =
                meaning.endpoints.judge(&Peer { host: Some("github.com"), port: Some(port), ..Peer::default() });
            verdict.kind.as_str()
        };
        assert_eq!((at(8443), at(443)), ("mcp", "source_control"));
    }

    #[test]
    fn a_file_with_a_mistake_is_refused_whole_and_by_its_place() {
        for (name, text, place, problem) in [
            ("files.yaml", "noise: [/a/*]\nrulse: []\n", ":2:1: ", "rulse"),
            ("files.yaml", "noise: [/a/*]\nkeep: [a/b]\n", ":2:8: ", "must begin with / or *"),
            ("files.yaml", "noise:\n- '*'\n", ":2:3: ", "fits everything"),
            ("files.yaml", "noise: [/a/*]\nrules: [{category: secret, paths: []}]\n", ":2:9: ", "never hold"),
            ("endpoints.yaml", "rules:\n- {type: mcp}\n", ":2:3: ", "fits everything"),
            ("endpoints.yaml", "rules:\n- {type: mcp, hosts: ['a b']}\n", ":2:23: ", "must be a host"),
            ("endpoints.yaml", "rules:\n- {type: mcp, addresses: [10.0.0.0/33]}\n", ":2:27: ", "an address or a range"),
        ] {
            let own = directory(&[(name, text)]);
            let meaning = Meaning::load(&[own.path().into()]);
            let rows: Vec<_> = meaning.rows().collect();
            let message = rows[0].message.as_deref().unwrap();
            assert_eq!((rows.len(), rows[0].status, &*rows[0].agent), (1, "refused", name));
            assert!(message.contains(&format!("{name}{place}")) && message.contains(problem), "{message}");
            assert!(!meaning.files.is_noise("/a/b") && meaning.files.is_noise("/proc/self/maps"));
        }
    }
}
