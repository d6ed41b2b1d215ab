//! What can be wrong with the history, and what to do about it.
//!
//! `DuckDB` tells its errors as text alone, so their kind is read from it.

use std::io;
use std::path::{Path, PathBuf};

use crate::trust::TrustError;

/// Why the history could not be opened, written or read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Others could change what is in the directory.
    #[error(transparent)]
    Untrusted(#[from] TrustError),
    /// No space left.
    #[error("{}: the disk is full; make room, or keep less history", path.display())]
    DiskFull {
        /// The database.
        path: PathBuf,
    },
    /// The system does not let it be written or read.
    #[error("{}: cannot be used: {reason}; make it writable, or choose another place with --database", path.display())]
    NotUsable {
        /// The database, or its directory.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// It was written by a version that knows more.
    #[error(
        "{}: written by a newer version ({reason}); update agentquery, or choose another file with --database",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Which version it has.
        reason: String,
    },
    /// Somebody has it open.
    #[error("{}: in use by {holder}; end that process, or choose another file with --database", path.display())]
    InUse {
        /// The database.
        path: PathBuf,
        /// The other process.
        holder: String,
    },
    /// It is damaged. One that cannot be opened is set aside.
    #[error(
        "{}: the file is damaged ({reason}); what is in another part of it can still be asked for. A file that cannot be \
         opened is set aside by itself; to begin anew before, stop the recorder and move this one and its .wal away",
        path.display()
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Anything else that the engine said.
    #[error("{}: {reason}", path.display())]
    Engine {
        /// The database.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
}

/// Parts of what `DuckDB` says of a file that is not as it wrote it.
const DAMAGED: [&str; 7] = [
    "Corrupt",
    "corrupt",
    "not a valid DuckDB",
    "Serialization Error",
    "INTERNAL Error",
    "replaying WAL",
    "ould not read enough bytes",
];

impl HistoryError {
    pub(super) fn of(path: &Path, error: &duckdb::Error) -> Self {
        let reason = match error {
            duckdb::Error::DuckDBFailure(_, Some(text)) => text.clone(),
            other => other.to_string(),
        };
        Self::from_text(path, &reason)
    }

    fn from_text(path: &Path, reason: &str) -> Self {
        let path = path.to_owned();
        // The first line tells; the rest may be a trace.
        let reason = reason.lines().next().unwrap_or_default().to_owned();
        let has = |part: &str| reason.contains(part);
        if has("No space left") || has("Disk quota") {
            Self::DiskFull { path }
        } else if has("Could not set lock") {
            let holder = reason.split_once("held in ").map_or("another process", |(_, holder)| holder);
            Self::InUse { path, holder: holder.split(". ").next().unwrap_or_default().to_owned() }
        } else if has("database file with version") {
            Self::Newer { path, reason }
        } else if has("Permission denied") || has("Read-only file system") || has("Cannot open file") {
            Self::NotUsable { path, reason }
        } else if DAMAGED.iter().any(|part| has(part)) {
            Self::Corrupt { path, reason }
        } else {
            Self::Engine { path, reason }
        }
    }

    /// Whether the engine goes on with what it has open.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::DiskFull { .. } | Self::NotUsable { .. } => true,
            Self::Engine { reason, .. } => !reason.contains("FATAL"),
            _ => false,
        }
    }

    pub(super) fn io(path: &Path, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::StorageFull {
            return Self::DiskFull { path: path.into() };
        }
        Self::NotUsable { path: path.into(), reason: error.to_string() }
    }
}
