//! What files and peers mean, by rules that users can add to: loading them.
//!
//! A bad file is refused with its line and what is wrong; what is compiled in, and the other files, still hold.

use std::path::PathBuf;

use serde_saphyr::{Location, Spanned};

use super::endpoints::Endpoints;
use super::files::FileRules;
use crate::identify::RULES;
use crate::record::rows::SignatureRow;
use crate::yaml::{self, FileError};

/// Bytes that an entry may have.
const MAX_ENTRY: usize = 1024;

const ENDPOINTS: &str = include_str!("../../../signatures/endpoints.yaml");
const FILE_RULES: &str = include_str!("../../../signatures/files.yaml");

/// The rules that hold.
#[derive(Debug, Default)]
pub struct Meaning {
    /// What peers are.
    pub endpoints: Endpoints,
    /// What files are.
    pub files: FileRules,
    refused: Vec<(String, FileError)>,
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
        let mut meaning = Self::default();
        for name in RULES {
            for file in dirs.iter().rev().map(|dir| dir.join(name)).filter(|file| file.symlink_metadata().is_ok()) {
                let source = file.display().to_string();
                let added = yaml::read(&file).and_then(|text| meaning.add(name, &source, &text));
                meaning.refused.extend(added.err().map(|error| (source, error)));
            }
            let (source, text) =
                if name == "files.yaml" { ("builtin:files", FILE_RULES) } else { ("builtin:endpoints", ENDPOINTS) };
            let added = meaning.add(name, source, text);
            meaning.refused.extend(added.err().map(|error| (source.to_owned(), error)));
        }
        meaning
    }

    fn add(&mut self, name: &str, source: &str, text: &str) -> Result<(), FileError> {
        let check = Check { source };
        if name == "files.yaml" {
            self.files.add(&yaml::parse_file(source, text)?, &check)
        } else {
            self.endpoints.add(&yaml::parse_file(source, text)?, &check)
        }
    }

    /// A row a file that was refused, for `agent_signatures`.
    pub fn rows(&self) -> impl Iterator<Item = SignatureRow> {
        self.refused.iter().map(|(source, error)| SignatureRow {
            agent: source.rsplit('/').next().unwrap_or(source).into(),
            display_name: source.rsplit('/').next().unwrap_or(source).into(),
            source: source.as_str().into(),
            status: "refused",
            message: Some(error.to_string().into()),
            ..SignatureRow::default()
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
        let problem = match value.len() {
            0 => "is empty",
            length if length > MAX_ENTRY => "is longer than 1024 bytes",
            _ if value.contains(char::is_control) => "has control characters",
            _ if value.contains('/') && !value.starts_with(['/', '*', '@']) => {
                "must begin with / or *, for the whole path is compared"
            }
            _ if value.chars().all(|c| c == '*' || c == '/') => "fits everything",
            _ => return Ok(()),
        };
        Err(self.wrong(text.referenced, format!("{field}: {value:?} {problem}")))
    }

    /// A host, in lower case.
    pub(super) fn host(&self, field: &str, text: &Spanned<String>) -> Result<String, FileError> {
        yaml::host(self.source, field, text)
    }
}
