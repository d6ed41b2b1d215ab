//! The history: finished rows in one `DuckDB` file, found again after the recorder has ended.
//!
//! A [`History`] belongs to one thread, which appends; [`Readers`] makes connections for queries, which never wait for
//! it. What it keeps follows from the tables' declarations alone (`schema`). A flush is one transaction: after it is
//! committed its rows are on the disk together with the [`Mark`] that says how far they go, before it nothing of it is.

mod append;
mod condition;
mod consumers;
mod error;
mod open;
mod read;
mod retain;
mod running;
mod schema;
mod writer;

pub use append::{Flush, Mark};
pub use condition::{Conditions, Query};
pub use consumers::{Counted, Execution};
pub use error::HistoryError;
pub use open::OpenNote;
pub use read::{Cursor, Reader, Readers, Row};
pub use retain::{Pruned, Retention};
pub use running::{FoundRow, RunningRow};
pub use schema::VERSION;
pub use writer::{Settings, Writer};

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use duckdb::Connection;

use schema::Kept;

/// Bytes of the log from which a checkpoint should be made. Rows in the log are in memory as well.
pub const LOG_LIMIT: u64 = 8 << 20;

/// Bytes of the log below which a checkpoint is not worth it: each begins a block in the file.
pub const LOG_LEAST: u64 = 2 << 20;

/// How long a checkpoint waits for queries that are in its way.
const BUSY: Duration = Duration::from_secs(1);

/// The history, for the thread that writes.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    connection: Connection,
    /// Rows from before that are being removed, for there are too many.
    cut: Option<i64>,
    /// Where readers' connections come from.
    readers: Readers,
    kept: Arc<[Kept]>,
    /// After the connections: the file is somebody else's only when all are closed, the readers' too.
    _lock: Arc<File>,
}

impl History {
    /// Opens the history at `path`, or begins one. A damaged file is set aside, and that is told.
    ///
    /// # Errors
    /// When the place cannot be used, somebody has the file, or it is of a newer version.
    pub fn open(path: &Path) -> Result<(Self, Vec<OpenNote>), HistoryError> {
        open::open(path, true)
    }

    /// Opens the history at `path` for who reads only: one that is not there or damaged is an error, and stays as it is.
    ///
    /// # Errors
    /// When it cannot be used, somebody has the file, or it is of a newer version.
    pub fn open_existing(path: &Path) -> Result<Self, HistoryError> {
        open::open(path, false).map(|(history, _)| history)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Connections for queries.
    #[must_use]
    pub fn readers(&self) -> Readers {
        self.readers.clone()
    }

    /// Bytes in the log, which a checkpoint moves into the file.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        std::fs::metadata(open::log_of(&self.path)).map_or(0, |metadata| metadata.len())
    }

    /// Moves what is in the log into the file. Appends wait for it, readers do not.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn checkpoint(&mut self) -> Result<(), HistoryError> {
        let until = Instant::now() + BUSY;
        loop {
            match self.connection.execute_batch("CHECKPOINT") {
                // By a query, for a moment.
                Err(error) if error.to_string().contains("Cannot CHECKPOINT") && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                done => return done.map_err(|error| HistoryError::of(&self.path, &error)),
            }
        }
    }
}
