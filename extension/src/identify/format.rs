//! The signature file, as it is written. `docs/signatures.md` tells it to users.
//!
//! A mistake in a file is named with its line and column, also where the YAML is right and what it says is not: texts
//! keep their place until they are compiled.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

/// Bytes that a signature file may have.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// What is wrong with a signature file.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// It could not be read.
    #[error("{file}: cannot be read: {source}", file = file.display())]
    Read {
        /// The file or directory.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not a regular file.
    #[error("{file}: not a regular file; replace it by one", file = file.display())]
    NotAFile {
        /// The file.
        file: PathBuf,
    },
    /// It is too large.
    #[error("{file}: larger than 1 MiB; a file describes one agent", file = file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// Somebody else could change it.
    #[error(
        "{file}: others can change it, so it is not trusted; run: chown root {file} && chmod go-w {file}",
        file = file.display()
    )]
    Untrusted {
        /// The file or directory.
        file: PathBuf,
    },
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

    /// An error about a path that could not be read.
    pub(super) fn read(file: &Path, source: std::io::Error) -> Self {
        Self::Read { file: file.into(), source }
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
    let options = serde_saphyr::options! {
        with_snippet: false,
        // A signature has some hundred short texts; what needs more than this is an attack on memory.
        budget: serde_saphyr::budget! { max_nodes: 20_000, max_depth: 16, max_aliases: 256, max_anchors: 64 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 20_000, max_replay_stack_depth: 8 },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let location = error.location().unwrap_or(Location::UNKNOWN);
        let message = error.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter);
        // The place stands before the message already.
        let place = format!(" at line {}, column {}", location.line(), location.column());
        SignatureError::at(source, location, message.strip_suffix(&place).unwrap_or(&message))
    })
}
