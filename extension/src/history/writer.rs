//! The thread that stores what has finished.
//!
//! It is not the one that records: a commit or a checkpoint may take hundreds of milliseconds. Rows leave memory after
//! they are stored, so that a query finds each in the one or the other. When nothing can be stored they stay in memory,
//! up to its limit, and it is tried again until it works.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{History, HistoryError, LOG_LIMIT, Mark, OpenNote, Retention};
use crate::record::Store;
use crate::tables::{self, Batch, Cursor, Owner, Table};
use crate::value::Value;

/// Between two looks at what is to be stored.
const LOOK: Duration = Duration::from_millis(100);

/// A finished row waits at most so long, unless the disk keeps us waiting.
const FLUSH: Duration = Duration::from_millis(500);

/// Unless so many wait.
const MANY: usize = 8192;

/// Rows of a table that one transaction stores, about.
const BATCH: usize = 16_384;

/// Rows whose cells are held at a time.
const CHUNK: usize = 512;

/// Before it is tried again.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Without a row, before the log is moved into the file though it is short.
const IDLE: Duration = Duration::from_secs(60);

/// Between two looks at what is too old or too much.
const TIDY: Duration = Duration::from_secs(600);

/// Time that the last rows get.
const GOODBYE: Duration = Duration::from_millis(1500);

/// Where the history is, and how much of it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The file.
    pub path: PathBuf,
    /// What is kept.
    pub retention: Retention,
}

/// The running thread; when this is dropped it stores what there is, and ends.
#[derive(Debug)]
pub struct Writer {
    /// Hangs up to end it.
    go_on: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Opens the history and begins to store. Says above which eid new ones must be.
    ///
    /// # Errors
    /// When there is no thread to be had. That the history cannot be opened is none: `agent_collector` tells it, and it
    /// is tried again.
    pub fn start(settings: Settings, store: Arc<Store>) -> std::io::Result<(Self, i64)> {
        let (go_on, ended) = mpsc::channel();
        let mut work = Work {
            settings,
            store,
            history: None,
            highest: 0,
            trouble: None,
            flushed: Instant::now(),
            stored: Instant::now(),
            tidied: None,
        };
        work.open();
        let highest = work.highest;
        let thread = std::thread::Builder::new().name("history".into()).spawn(move || work.run(&ended))?;
        Ok((Self { go_on: Some(go_on), thread: Some(thread) }, highest))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.go_on.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Work {
    settings: Settings,
    store: Arc<Store>,
    history: Option<History>,
    /// The highest eid that is known to be given.
    highest: i64,
    /// What went wrong the last time, and when.
    trouble: Option<(String, Instant)>,
    flushed: Instant,
    /// When there was something to store.
    stored: Instant,
    tidied: Option<Instant>,
}

impl Work {
    fn run(mut self, go_on: &Receiver<()>) {
        while matches!(go_on.recv_timeout(LOOK), Err(RecvTimeoutError::Timeout)) {
            self.turn();
        }
        let until = Instant::now() + GOODBYE;
        while self.history.is_some() && self.store.finished() > 0 && Instant::now() < until {
            if let Err(error) = self.flush() {
                self.failed(&error);
                break;
            }
        }
        // Queries that still run keep what they need.
        self.store.set_history(None);
    }

    fn turn(&mut self) {
        if self.trouble.as_ref().is_some_and(|(_, at)| at.elapsed() < AFTER_FAILURE) {
            return;
        }
        if self.history.is_none() {
            self.open();
        }
        if self.history.is_some() {
            match self.store_and_tidy() {
                Ok(()) => self.worked(),
                Err(error) => self.failed(&error),
            }
        }
    }

    fn open(&mut self) {
        match History::open(&self.settings.path) {
            Ok((history, notes)) => match history.mark() {
                Ok(mark) => {
                    for note in &notes {
                        let note = told(note);
                        tracing::error!("{note}");
                        self.store.note_history(note);
                    }
                    self.highest = self.highest.max(mark.eid);
                    self.store.set_history(Some(history.readers()));
                    self.history = Some(history);
                }
                Err(error) => self.failed(&error),
            },
            Err(error) => self.failed(&error),
        }
    }

    fn worked(&mut self) {
        if self.trouble.take().is_some() {
            tracing::info!(path = %self.settings.path.display(), "the history is stored again");
            self.store.set_history_fault(None);
        }
    }

    fn failed(&mut self, error: &HistoryError) {
        let message = format!("{error}; finished rows stay in memory until it works again");
        if self.trouble.as_ref().is_none_or(|(before, _)| *before != message) {
            tracing::error!("{message}");
        }
        self.store.set_history_fault(Some(message.clone()));
        self.trouble = Some((message, Instant::now()));
        // On a full disk what is stored can still be read; after anything else only opening it anew tells what is left.
        if self.history.is_some() && !matches!(error, HistoryError::DiskFull { .. }) {
            self.store.set_history(None);
            self.history = None;
        }
    }

    fn store_and_tidy(&mut self) -> Result<(), HistoryError> {
        let waiting = self.store.finished();
        if waiting > 0 {
            // In trouble, only what is stored shows that it is over.
            if self.trouble.is_none() && waiting < MANY && self.flushed.elapsed() < FLUSH {
                return Ok(());
            }
            self.flush()?;
            self.stored = Instant::now();
        }
        self.flushed = Instant::now();
        let (idle, retention) = (self.stored.elapsed() > IDLE, self.settings.retention);
        let Some(history) = &mut self.history else { return Ok(()) };
        let log = history.log_bytes();
        if log > LOG_LIMIT || idle && log > 0 {
            history.checkpoint()?;
        }
        if self.tidied.is_none_or(|at| at.elapsed() > TIDY) && self.store.finished() < MANY {
            let pruned = history.prune(&retention, now())?;
            if pruned.rows > 0 {
                tracing::debug!(rows = pruned.rows, "left the history");
            }
            // One step a turn: rows that finish meanwhile are stored between them.
            if !pruned.more {
                self.tidied = Some(Instant::now());
            }
        }
        Ok(())
    }

    /// Stores finished rows in one transaction, and takes them out of memory after it.
    fn flush(&mut self) -> Result<(), HistoryError> {
        let Some(history) = &mut self.history else { return Ok(()) };
        let (store, mut highest) = (&self.store, self.highest.max(self.store.highest_live_eid()));
        let batches: Vec<_> = tables::all()
            .into_iter()
            .filter_map(|table| Some((table, table.finished(store, BATCH)?)))
            .filter(|(_, batch)| !batch.is_empty())
            .collect();
        if batches.is_empty() {
            return Ok(());
        }
        let mark = history.mark()?;
        let mut flush = history.flush()?;
        for (table, batch) in &batches {
            let columns = table.columns();
            let has_eid = columns.get(table.key()).is_some_and(|column| column.name == "eid");
            each_chunk(*table, batch, |rows, keys| {
                if has_eid {
                    highest = highest.max(keys.iter().copied().max().unwrap_or(0));
                } else {
                    // An instance that was thought to have ended may have come back.
                    flush.remove(table.info().name, keys)?;
                }
                flush.append(table.info().name, &mut rows.iter().map(|(row, owner)| (&row[..], *owner)))
            })?;
        }
        flush.commit(&Mark { eid: highest, ..mark })?;
        for (table, batch) in &batches {
            table.forget(store, batch);
        }
        self.highest = highest;
        Ok(())
    }
}

type Rows = [(Vec<Value>, Option<i64>)];

/// Goes over a batch from its oldest row on, some rows at a time. Of rows with the same key the newest counts.
fn each_chunk(
    table: &dyn Table,
    batch: &Batch,
    mut chunk: impl FnMut(&Rows, &[i64]) -> Result<(), HistoryError>,
) -> Result<(), HistoryError> {
    let (mut cursor, columns, key) = (batch.rows.fork(), table.columns().len(), table.key());
    let (mut positions, mut seen) = (Vec::with_capacity(batch.len()), HashSet::with_capacity(batch.len()));
    let key_of = |cursor: &dyn Cursor| if let Value::Integer(key) = cursor.value(key) { key } else { 0 };
    while cursor.advance() {
        if seen.insert(key_of(&*cursor)) {
            positions.push(cursor.position());
        }
    }
    positions.reverse();
    for positions in positions.chunks(CHUNK) {
        let (mut rows, mut keys) = (Vec::with_capacity(CHUNK), Vec::with_capacity(CHUNK));
        for position in positions {
            cursor.seek(*position);
            let owner = if let Owner::User(uid) = cursor.owner() { Some(uid) } else { None };
            rows.push(((0..columns).map(|column| cursor.value(column)).collect(), owner));
            keys.push(key_of(&*cursor));
        }
        chunk(&rows, &keys)?;
    }
    Ok(())
}

fn told(note: &OpenNote) -> String {
    match note {
        OpenNote::SetAside { path, reason } => {
            format!("the history was damaged ({reason}): it is kept as {}, and a new one was begun", path.display())
        }
        OpenNote::LogSetAside { path, reason } => format!(
            "the end of the history was damaged ({reason}): it is kept as {}, what is before it is there",
            path.display()
        ),
    }
}

fn now() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX)
}
