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

use super::{History, HistoryError, LOG_LEAST, LOG_LIMIT, Mark, OpenNote, Readers, Retention};
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
const BATCH: usize = 8192;

/// Rows whose cells are held at a time.
const CHUNK: usize = 512;

/// Before it is tried again.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// How long queries wait for it to be opened anew.
const REOPEN: Duration = Duration::from_secs(2);

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
            doubtful: None,
            notes: Vec::new(),
            refused: None,
        };
        work.open();
        work.tell();
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
    /// A flush whose commit failed, perhaps after it was durable, and its number.
    doubtful: Option<(Vec<Pending>, Vec<u8>)>,
    /// What was done to open it, and why it was not opened; still to be told.
    notes: Vec<String>,
    refused: Option<HistoryError>,
}

/// Rows of a table that are to be stored.
type Pending = (&'static dyn Table, Batch);

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
        // Queries that still run keep what they need. The next recorder opens the file.
        self.store.set_history(None);
    }

    fn turn(&mut self) {
        if self.trouble.as_ref().is_some_and(|(_, at)| at.elapsed() < AFTER_FAILURE) {
            return;
        }
        if self.history.is_none() {
            self.open();
        }
        self.tell();
        if self.history.is_some() {
            match self.store_and_tidy() {
                Ok(()) => self.worked(),
                Err(error) => self.failed(&error),
            }
        }
    }

    fn open(&mut self) {
        let readers = self.take(History::open(&self.settings.path));
        self.store.set_history(readers);
    }

    /// Goes on with what was opened, and says where queries read it.
    fn take(&mut self, opened: Result<(History, Vec<OpenNote>), HistoryError>) -> Option<Readers> {
        let read = opened.and_then(|(history, notes)| Ok((history.mark()?, history, notes)));
        match read {
            Ok((mark, history, notes)) => {
                self.notes.extend(notes.iter().map(told));
                self.highest = self.highest.max(mark.eid);
                let readers = history.readers();
                self.history = Some(history);
                Some(readers)
            }
            Err(error) => {
                self.refused = Some(error);
                None
            }
        }
    }

    /// Tells what came of opening.
    fn tell(&mut self) {
        for note in self.notes.drain(..) {
            tracing::error!("{note}");
            self.store.note_history(note);
        }
        if let Some(error) = self.refused.take() {
            self.failed(&error);
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
        if self.history.is_some() && !error.is_passing() {
            self.reopen();
        }
    }

    /// Only opening it anew tells what is left. A query that begins meanwhile waits, or it would miss what is stored.
    fn reopen(&mut self) {
        let store = Arc::clone(&self.store);
        store.replace_history(|| {
            self.history = None;
            let until = Instant::now() + REOPEN;
            loop {
                match History::open(&self.settings.path) {
                    // By readers of before, which are about to fail.
                    Err(HistoryError::InUse { .. }) if Instant::now() < until => std::thread::sleep(LOOK),
                    opened => break self.take(opened),
                }
            }
        });
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
        if log > LOG_LIMIT || idle && log > LOG_LEAST {
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
        let mark = history.mark()?;
        if let Some((batches, _)) = self.doubtful.take_if(|(_, number)| *number == mark.data) {
            forget(&self.store, &batches);
        }
        let (store, mut highest) = (&self.store, self.highest.max(self.store.highest_live_eid()));
        let batches: Vec<Pending> = tables::all()
            .into_iter()
            .filter_map(|table| Some((table, table.finished(store, BATCH)?)))
            .filter(|(_, batch)| !batch.is_empty())
            .collect();
        if batches.is_empty() {
            return Ok(());
        }
        let before = mark.data.as_slice().try_into().map_or(0, u64::from_le_bytes);
        let number = before.wrapping_add(1).to_le_bytes().to_vec();
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
        let committed = flush.commit(&Mark { eid: highest, data: number.clone(), ..mark });
        if let Err(error) = committed {
            self.doubtful = Some((batches, number));
            return Err(error);
        }
        self.doubtful = None;
        forget(store, &batches);
        self.highest = highest;
        Ok(())
    }
}

fn forget(store: &Store, batches: &[Pending]) {
    for (table, batch) in batches {
        table.forget(store, batch);
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
