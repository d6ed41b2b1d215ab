//! The signature file, as it is written. `docs/signatures.md` tells it to users.
//!
//! A mistake in a file is named with its line and column, also where the YAML is right and what it says is not: texts
//! keep their place until they are compiled.

use std::fmt;
use std::path::PathBuf;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Category {
    #[default]
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
pub(super) type Patterns = Vec<Spanned<Written>>;

/// An entry of a list of patterns: what a plain text means is the list's to say, `{regex: ...}` is an expression in
/// every one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Written {
    Plain(String),
    Regex(String),
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WrittenVisitor)
    }
}

/// The long way to write an expression.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InRegex {
    pub regex: String,
}

struct WrittenVisitor;

impl<'de> Visitor<'de> for WrittenVisitor {
    type Value = Written;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text or {regex: ...}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Written, E> {
        Ok(Written::Plain(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Written, A::Error> {
        InRegex::deserialize(MapAccessDeserializer::new(map)).map(|InRegex { regex }| Written::Regex(regex))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub name: Spanned<String>,
    pub display_name: Option<Spanned<String>>,
    /// For catalogues that have it: shown nowhere yet.
    #[serde(rename = "icon")]
    pub _icon: Option<String>,
    pub vendor: Option<String>,
    #[serde(default)]
    pub category: Category,
    pub detection: Option<Spanned<Detection>>,
    // The flat shape, in place of `detection`.
    #[serde(default)]
    pub process_patterns: Texts,
    #[serde(default)]
    pub command_patterns: Patterns,
    #[serde(default)]
    pub exe_path_patterns: Texts,
    #[serde(default)]
    pub parent_hints: Texts,
    #[serde(default)]
    pub roles: Roles,
    #[serde(default)]
    pub version: Vec<Spanned<Version>>,
    #[serde(default)]
    pub sessions: Texts,
    #[serde(default)]
    pub unattended: Patterns,
    #[serde(default = "yes", alias = "track_children")]
    pub child_process_tracking: bool,
    #[serde(default)]
    pub child_env: Texts,
    #[serde(default)]
    pub network_endpoints: NetworkEndpoints,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Detection {
    #[serde(default, alias = "process_names")]
    pub names: Texts,
    #[serde(default)]
    pub exe_patterns: Patterns,
    #[serde(default)]
    pub script_patterns: Patterns,
    #[serde(default)]
    pub script_names: Texts,
    #[serde(default)]
    pub script_modules: Texts,
    #[serde(default)]
    pub interpreters: Texts,
    #[serde(default)]
    pub packages: Texts,
    #[serde(default, alias = "command_patterns")]
    pub argv_patterns: Patterns,
    #[serde(default)]
    pub env: Texts,
    #[serde(default)]
    pub parent_hints: Texts,
    pub versions: Option<Spanned<String>>,
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
    pub daemon: Patterns,
    #[serde(default)]
    pub helper: Patterns,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Version {
    pub of: Option<Spanned<String>>,
    pub path: Option<Spanned<String>>,
    pub package_json: Option<Spanned<String>>,
}

#[derive(Debug, Default)]
pub(super) struct NetworkEndpoints {
    pub expected: Texts,
    pub suspicious_if_not_in_list: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InEndpoints {
    #[serde(default)]
    pub expected: Texts,
    #[serde(default = "yes")]
    pub suspicious_if_not_in_list: bool,
}

impl<'de> Deserialize<'de> for NetworkEndpoints {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EndpointsVisitor)
    }
}

struct EndpointsVisitor;

impl<'de> Visitor<'de> for EndpointsVisitor {
    type Value = NetworkEndpoints;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of hosts or {expected: [...]}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<NetworkEndpoints, A::Error> {
        let expected = Texts::deserialize(SeqAccessDeserializer::new(list))?;
        Ok(NetworkEndpoints { expected, suspicious_if_not_in_list: true })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<NetworkEndpoints, A::Error> {
        let InEndpoints { expected, suspicious_if_not_in_list } =
            InEndpoints::deserialize(MapAccessDeserializer::new(map))?;
        Ok(NetworkEndpoints { expected, suspicious_if_not_in_list })
    }
}
