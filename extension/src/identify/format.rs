//! The signature file, as it is written. `docs/signatures.md` tells it to users.
//!
//! A mistake in a file is named with its line and column, also where the YAML is right and what it says is not: texts
//! keep their place until they are compiled.

use std::path::PathBuf;

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::trust::TrustError;
use crate::yaml::FileError;

/// What is wrong with a signature file.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] FileError),
    /// There are too many files.
    #[error("{dir}: more than {limit} signature files; the rest was not read", dir = dir.display())]
    TooMany {
        /// The directory.
        dir: PathBuf,
        /// Files that are read.
        limit: usize,
    },
}

impl From<TrustError> for SignatureError {
    fn from(error: TrustError) -> Self {
        Self::File(error.into())
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
    pub child_env: Texts,
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
