//! Opening the file: alone, private, with `DuckDB` kept small and to itself.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use duckdb::{Config, Connection};

use super::read::Readers;
use super::{History, HistoryError, schema};
use crate::os;
use crate::record::clock::unix_seconds;
use crate::trust;

/// What had to be done to open it, and its user should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenNote {
    /// The file was damaged; it has this name now, and a new one was begun.
    SetAside {
        /// Where it is.
        path: PathBuf,
        /// What was wrong.
        reason: String,
    },
    /// The log was damaged: what came since the last checkpoint is in this file, the rest is there.
    LogSetAside {
        /// Where it is.
        path: PathBuf,
        /// What was wrong.
        reason: String,
    },
}

/// The engine's memory at most. Rows in the log count too, and what a page of a query and a commit or a checkpoint work on
/// must fit: with half of it they fail beside each other, with three quarters they do not.
const MEMORY: &str = "64MB";

/// Opens the file; the one who writes begins it where there is none, and sets it aside when it is damaged.
pub(super) fn open(path: &Path, writes: bool) -> Result<(History, Vec<OpenNote>), HistoryError> {
    let path = std::path::absolute(path).map_err(|error| HistoryError::io(path, &error))?;
    if writes {
        let directory = path.parent().unwrap_or(Path::new("/"));
        os::make_private(directory).map_err(|error| HistoryError::io(directory, &error))?;
        trust::directory(directory)?;
    } else {
        std::fs::metadata(&path).map_err(|error| HistoryError::io(&path, &error))?;
    }
    let lock = Arc::new(lock(&path)?);
    let mut notes = Vec::new();
    let connection = loop {
        match connect(&path) {
            Err(HistoryError::Corrupt { reason, .. }) if writes && notes.len() < 2 => {
                notes.push(set_aside(&path, reason, notes.is_empty())?);
            }
            connected => break connected?,
        }
    };
    let kept: Arc<[_]> = schema::kept().into();
    for kept in &*kept {
        kept.measure(&connection);
    }
    let second = connection.try_clone().map_err(|error| HistoryError::of(&path, &error))?;
    let readers = Readers::new(path.clone(), second, Arc::clone(&kept), Arc::clone(&lock));
    let history = History { path, connection, cut: None, readers, kept, _lock: lock };
    history.protect();
    Ok((history, notes))
}

fn connect(path: &Path) -> Result<Connection, HistoryError> {
    let failed = |error: duckdb::Error| HistoryError::of(path, &error);
    keep_private();
    // Nobody can be using it: the lock is held. Only a killed process leaves one.
    let spill = beside(path, ".tmp");
    let _ = std::fs::remove_dir_all(&spill);
    let connection = config(&spill).and_then(|config| Connection::open_with_flags(path, config)).map_err(failed)?;
    schema::migrate(path, &connection)?;
    // It takes rows that are being appended for rows of the newest page, and leaves out the older ones instead.
    connection.execute_batch("SET GLOBAL disabled_optimizers = 'row_group_pruner'").map_err(failed)?;
    connection.execute_batch("SET enable_external_access = false; SET lock_configuration = true").map_err(failed)?;
    Ok(connection)
}

fn config(spill: &Path) -> duckdb::Result<Config> {
    Config::default()
        .threads(1)?
        .max_memory(MEMORY)?
        .enable_autoload_extension(false)?
        .with("temp_directory", spill.to_string_lossy())?
        .with("max_temp_directory_size", "256MB")?
        // Of the file: only from 1.3 on texts that repeat are compressed well. Any 1.5 reads it.
        .with("storage_compatibility_version", "v1.5.0")?
        // A checkpoint writes what is new. To merge it with what is there, as rows come in order anyway, takes ten times
        // as long and several times the memory.
        .with("max_vacuum_tasks", "0")?
        // Checkpoints are made when it suits, not inside a commit.
        .with("checkpoint_threshold", "1TB")
}

/// The engine makes its files, now and at checkpoints, with the process' own mode for files: that is private from here
/// on. What is for others is given its mode where it is made. On Windows they inherit from their directory.
fn keep_private() {
    // SAFETY: umask changes a number of this process and cannot fail.
    #[cfg(unix)]
    unsafe {
        libc::umask(0o077)
    };
}

impl History {
    /// Files that were there before may be readable by others, and a socket that is made has its umask for a moment.
    pub(super) fn protect(&self) {
        for file in [self.path.clone(), log_of(&self.path)] {
            // By name: to open and close the file would give up the engine's lock on it.
            let _ = os::protect(&file);
        }
    }
}

/// The log that the engine keeps beside the file.
pub(super) fn log_of(path: &Path) -> PathBuf {
    beside(path, ".wal")
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A lock of our own: the engine's does not keep out a second opener in the same process.
fn lock(path: &Path) -> Result<File, HistoryError> {
    let name = beside(path, ".lock");
    let failed = |error| HistoryError::io(&name, &error);
    let mut options = File::options();
    let mut file =
        os::private(options.read(true).write(true).create(true).truncate(false)).open(&name).map_err(failed)?;
    match os::try_lock(&file) {
        Ok(()) => {
            // Who it is is for messages only: on a full disk it is left out.
            let _ = file.set_len(0).and_then(|()| file.rewind());
            let _ = write!(file, "process {}", std::process::id());
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.take(64).read_to_string(&mut holder);
            if holder.is_empty() {
                "another process".clone_into(&mut holder);
            }
            Err(HistoryError::InUse { path: path.into(), holder })
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Gives the damaged file another name. Where the log is what is damaged, the file itself stays.
fn set_aside(path: &Path, reason: String, first: bool) -> Result<OpenNote, HistoryError> {
    let seconds = unix_seconds();
    let log = log_of(path);
    // Never over one that was set aside before.
    let free = |base: &Path| {
        let name = |n: u32| {
            beside(base, &format!(".corrupt-{seconds}{}", if n == 0 { String::new() } else { format!("-{n}") }))
        };
        (0..1000).map(name).find(|name| !name.exists()).unwrap_or_else(|| name(0))
    };
    let rename = |from: &Path, to: &Path| std::fs::rename(from, to).map_err(|error| HistoryError::io(from, &error));
    if first && reason.contains("WAL") && log.exists() {
        let to = free(&log);
        rename(&log, &to)?;
        return Ok(OpenNote::LogSetAside { path: to, reason });
    }
    let to = free(path);
    rename(path, &to)?;
    if log.exists() {
        rename(&log, &log_of(&to))?;
    }
    Ok(OpenNote::SetAside { path: to, reason })
}
