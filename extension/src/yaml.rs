//! YAML, for whatever a person writes: bounded, and a mistake is named with its place.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_path_to_error::{Segment, Track};
use serde_saphyr::{Error, Location, Spanned};

use crate::meant::nearest;
use crate::trust::{self, TrustError};

/// Bytes that a file may have.
const MAX_FILE: u64 = 1 << 20;
/// Bytes that an entry of it may have.
const MAX_ENTRY: usize = 1024;

/// What is wrong with a file of signatures or rules.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It could not be read, or is not to be trusted.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The text is not what such a file has.
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

impl FileError {
    /// An error at a place of a text.
    pub(crate) fn at(file: &str, location: Location, message: impl Into<String>) -> Self {
        Self::Invalid { file: file.into(), line: location.line(), column: location.column(), message: message.into() }
    }
}

/// The text of a file that only root or this user can change.
pub(crate) fn read(path: &Path) -> Result<String, FileError> {
    text(path, trust::read(path, MAX_FILE)?)
}

/// The text of any file, for one that only looks at it.
pub(crate) fn read_any(path: &Path) -> Result<String, FileError> {
    text(path, trust::read_any(path, MAX_FILE)?)
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String, FileError> {
    String::from_utf8(bytes).map_err(|bytes| {
        let valid = bytes.as_bytes().get(..bytes.utf8_error().valid_up_to()).unwrap_or_default();
        let line = valid.split(|byte| *byte == b'\n').count() as u64;
        let column = valid.rsplit(|byte| *byte == b'\n').next().map_or(0, <[u8]>::len) as u64 + 1;
        let message = "is not UTF-8; save it in that encoding".to_owned();
        FileError::Invalid { file: path.display().to_string(), line, column, message }
    })
}

/// Reads one file's text. `source` is how messages call it.
pub(crate) fn parse_file<T: DeserializeOwned>(source: &str, text: &str) -> Result<T, FileError> {
    parse(text).map_err(|mistake| FileError::at(source, mistake.at, mistake.message))
}

/// What is wrong with any text of a file; none when nothing is.
pub(crate) fn problem(text: &str) -> Option<&'static str> {
    match text.len() {
        0 => Some("is empty"),
        length if length > MAX_ENTRY => Some("is longer than 1024 bytes"),
        _ => text.contains(char::is_control).then_some("has control characters"),
    }
}

/// What is wrong with the name of an agent or of a pack; none when nothing is.
pub(crate) fn name_problem(name: &str) -> Option<&'static str> {
    let fits = name.len() <= 64
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte));
    (!fits).then_some("must be 1 to 64 of a-z, 0-9, - and _, and begin with a letter")
}

/// A host that stands for itself and all below it, in lower case.
pub(crate) fn host(source: &str, field: &str, text: &Spanned<String>) -> Result<String, FileError> {
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    if text.value.split('.').all(label) {
        return Ok(text.value.to_ascii_lowercase());
    }
    let message =
        format!("{field}: {:?} must be a host such as api.example.com; all below it are meant too", text.value);
    Err(FileError::at(source, text.referenced, message))
}

/// A mistake in a text.
#[derive(Debug)]
pub(crate) struct Mistake {
    pub(crate) at: Location,
    pub(crate) message: String,
}

/// Reads a text.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Mistake> {
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| {
        // Which key it is about costs as much as all the rest: asked for when there is a mistake.
        let mut key = String::new();
        let again = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |deserializer| {
            let mut track = Track::new();
            let read = T::deserialize(serde_path_to_error::Deserializer::new(deserializer, &mut track));
            read.inspect_err(|_| key = key_of(&track.path()))
        });
        mistake(&again.err().unwrap_or(error), &key)
    })
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        // A file has some hundred short texts; what needs more than this is an attack on memory.
        budget: serde_saphyr::budget! { max_nodes: 20_000, max_depth: 16, max_aliases: 256, max_anchors: 64 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 20_000, max_replay_stack_depth: 8 },
    }
}

/// A key as people write it: `detection.names[0]`.
fn key_of(path: &serde_path_to_error::Path) -> String {
    let part = |segment: &Segment| match segment {
        Segment::Seq { index } => Some(format!("[{index}]")),
        // `value` is no key of ours, but where serde-saphyr keeps what has a place.
        Segment::Map { key } | Segment::Enum { variant: key } if key != "value" => Some(format!(".{key}")),
        _ => None,
    };
    let key: String = path.iter().filter_map(part).collect();
    key.strip_prefix('.').map_or(key.clone(), str::to_owned)
}

fn mistake(error: &Error, mut key: &str) -> Mistake {
    let error = error.without_snippet();
    let at = error.location().unwrap_or(Location::UNKNOWN);
    let message = match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            // It is said of what it is in.
            key = key.strip_suffix(field.as_str()).map_or(key, |above| above.trim_end_matches('.'));
            match nearest(field, expected.iter().copied()) {
                Some(meant) => format!("unknown field `{field}`; did you mean {meant}?"),
                None => format!("unknown field `{field}`, expected one of {}", expected.join(", ")),
            }
        }
        error => {
            let message = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
            // The place stands apart already.
            let place = format!(" at line {}, column {}", at.line(), at.column());
            message.strip_suffix(&place).unwrap_or(&message).to_owned()
        }
    };
    Mistake { at, message: if key.is_empty() { message } else { format!("{key}: {message}") } }
}
