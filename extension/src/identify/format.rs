//! The signature file, as it is written. `docs/signatures.md` tells it to users.
//!
//! A mistake in a file is named with its line and column, also where the YAML is right and what it says is not: texts
//! keep their place until they are compiled.

use std::path::PathBuf;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use crate::trust::TrustError;
use crate::yaml;

/// Bytes that a signature file may have.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// What is wrong with a signature file.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// It could not be read, or is not to be trusted.
    #[error(transparent)]
    File(#[from] TrustError),
    /// There are too many files.
    #[error("{dir}: more than {limit} signature files; the rest was not read", dir = dir.display())]
    TooMany {
        /// The directory.
        dir: PathBuf,
        /// Files that are read.
        limit: usize,
    },
    /// The text is not what a signature is.
    #[error("{file}:{line}:{column}: {message}")]
    Invalid {
        /// The file's path, or `builtin:NAME`.
        file: String,
        /// Line, from 1; 0 when it is about the whole file.
        line: u64,
        /// Column, from 1.
        column: u64,
        /// What is wrong.
        message: String,
    },
}

impl SignatureError {
    /// An error at a place of a text.
    pub(super) fn at(file: &str, location: Location, message: impl Into<String>) -> Self {
        Self::Invalid { file: file.into(), line: location.line(), column: location.column(), message: message.into() }
    }
}

/// The kind of program that an agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Category {
    Cli,
    Ide,
    Desktop,
    EditorExtension,
    Daemon,
    LocalLlm,
}

impl Category {
    /// As it stands in a row.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cli => "cli",
            Self::Ide => "ide",
            Self::Desktop => "desktop",
            Self::EditorExtension => "editor_extension",
            Self::Daemon => "daemon",
            Self::LocalLlm => "local_llm",
        }
    }
}

pub(super) type Texts = Vec<Spanned<String>>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub name: Spanned<String>,
    pub display_name: Spanned<String>,
    pub vendor: Option<String>,
    pub category: Category,
    pub detection: Spanned<Detection>,
    #[serde(default)]
    pub roles: Roles,
    #[serde(default)]
    pub version: Vec<Spanned<Version>>,
    #[serde(default = "yes")]
    pub child_process_tracking: bool,
    #[serde(default)]
    pub network_endpoints: NetworkEndpoints,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Detection {
    #[serde(default)]
    pub names: Texts,
    #[serde(default)]
    pub exe_patterns: Texts,
    #[serde(default)]
    pub script_patterns: Texts,
    #[serde(default)]
    pub script_names: Texts,
    #[serde(default)]
    pub script_modules: Texts,
    #[serde(default)]
    pub interpreters: Texts,
    #[serde(default)]
    pub argv_patterns: Texts,
    #[serde(default)]
    pub parent_hints: Texts,
    #[serde(default)]
    pub not: Vec<Spanned<Not>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Not {
    pub argv0: Option<Spanned<String>>,
    pub exe: Option<Spanned<String>>,
    pub script: Option<Spanned<String>>,
    pub argv: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Roles {
    #[serde(default)]
    pub daemon: Texts,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Version {
    pub of: Option<Spanned<String>>,
    pub path: Option<Spanned<String>>,
    pub package_json: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NetworkEndpoints {
    #[serde(default)]
    pub expected: Texts,
}

/// Reads one file's text. `source` is how messages call it.
pub(super) fn parse(source: &str, text: &str) -> Result<File, SignatureError> {
    yaml::parse(text).map_err(|mistake| SignatureError::at(source, mistake.at, mistake.message))
}
