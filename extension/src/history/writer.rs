//! The thread that stores what has finished.
//!
//! It is not the one that records: a commit or a checkpoint may take hundreds of milliseconds. Rows leave memory after
//! they are stored, so that a query finds each in the one or the other. When nothing can be stored they stay in memory,
//! up to its limit, and it is tried again until it works.
//!
//! A flush is of one moment: what had finished by then, and what was running. So the next recorder finds each row in one
//! of the two, however this one ends.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::running::{FoundRow, key};
use super::{History, HistoryError, LOG_LEAST, LOG_LIMIT, Mark, OpenNote, Readers, Retention, RunningRow};
use crate::collect::Place;
use crate::record::clock::{unix_ns, unix_seconds};
use crate::record::found::Found;
use crate::record::{State, Store};
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

/// Running rows that change while nothing begins or ends are stored so often.
const REFRESH: Duration = Duration::from_secs(5);

/// While an agent lives the file tells so often that it was recorded, if there is no row to tell it.
const BEAT: Duration = Duration::from_secs(60);

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

/// Between two times that memory which nobody uses is given back to the system.
const TRIM: Duration = Duration::from_secs(10);

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
    /// Opens the history and begins to store, once what an earlier recorder left running is taken from the store. Says
    /// above which eid new ones must be. `boot` identifies this boot of the machine.
    ///
    /// # Errors
    /// When there is no thread to be had. That the history cannot be opened is none: `agent_collector` tells it, and it
    /// is tried again.
    pub fn start(settings: Settings, boot: &str, store: Arc<Store>) -> std::io::Result<(Self, i64)> {
        let (go_on, ended) = mpsc::channel();
        let work = Work::new(settings, boot, store);
        let highest = work.highest;
        let thread = std::thread::Builder::new().name("history".into()).spawn(move || work.run(&ended))?;
        Ok((Self { go_on: Some(go_on), thread: Some(thread) }, highest))
    }
}

impl Work {
    /// Opens the history, if it can be.
    fn new(settings: Settings, boot: &str, store: Arc<Store>) -> Self {
        let mut work = Work {
            settings,
            boot: boot.to_owned(),
            began: unix_ns(),
            store,
            history: None,
            highest: 0,
            running: HashMap::new(),
            trouble: None,
            flushed: Instant::now(),
            stored: Instant::now(),
            committed: Instant::now(),
            series: 0,
            unmoved: true,
            tidied: None,
            trimmed: Instant::now(),
            doubtful: None,
            notes: Vec::new(),
            refused: None,
        };
        // Nothing yet, for all that it is known.
        work.store.set_durable(Place::default());
        work.open();
        work.tell();
        work
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
    /// This boot of the machine.
    boot: String,
    /// When recording began.
    began: i64,
    store: Arc<Store>,
    history: Option<History>,
    /// The highest eid that is known to be given.
    highest: i64,
    /// Keys of the running rows that the file has, by table; of some it may not.
    running: HashMap<&'static str, HashSet<i64>>,
    /// What went wrong the last time, and when.
    trouble: Option<(String, Instant)>,
    flushed: Instant,
    /// When there was something to store.
    stored: Instant,
    /// When something was stored, be it only that there was nothing.
    committed: Instant,
    /// The series of events that the file knows: the next recorder goes on with no other.
    series: u64,
    /// The log has rows.
    unmoved: bool,
    tidied: Option<Instant>,
    trimmed: Instant,
    /// A flush whose commit failed, perhaps after it was durable, and its number.
    doubtful: Option<(Vec<Pending>, i64)>,
    /// What was done to open it, and why it was not opened; still to be told.
    notes: Vec<String>,
    refused: Option<HistoryError>,
}

/// Rows of a table that are to be stored.
type Pending = (&'static dyn Table, Batch);

/// What is to be stored, as it was at one moment.
struct Moment {
    finished: Vec<Pending>,
    running: Vec<(&'static dyn Table, Vec<RunningRow>)>,
    highest: i64,
    /// How far the collector had read, when all rows of it are in this.
    place: Option<Place>,
    /// Up to which eid all rows of events are in this or stored: a reader may go that far and misses none.
    complete: i64,
}

impl Work {
    fn run(mut self, go_on: &Receiver<()>) {
        while matches!(go_on.recv_timeout(LOOK), Err(RecvTimeoutError::Timeout)) {
            self.turn();
            if self.trimmed.elapsed() > TRIM {
                give_back_memory();
                self.trimmed = Instant::now();
            }
        }
        let until = Instant::now() + GOODBYE;
        // Once in any case: what runs is stored as it is, and until when it was recorded.
        while self.history.is_some() {
            match self.flush() {
                Ok(true) if self.store.finished() > 0 && Instant::now() < until => {}
                Ok(_) => break,
                Err(error) => {
                    self.failed(&error);
                    break;
                }
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
        let read = opened.and_then(|(history, notes)| {
            let found = (history.mark()?, history.gaps()?, history.running()?);
            Ok((found, history, notes))
        });
        match read {
            Ok(((mark, gaps, running), history, notes)) => {
                self.notes.extend(notes.iter().map(told));
                // An earlier recorder's, for none of this one's is older.
                let ended = Some(mark.flush).filter(|ended| (1..self.began).contains(ended));
                self.store.set_gaps(gaps, ended);
                self.find(running);
                self.highest = self.highest.max(mark.eid);
                self.series = place_of(&mark).series;
                self.store.set_durable(place_of(&mark));
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

    /// Hands on what the file has of running rows, but for those that are of this recorder.
    fn find(&mut self, running: Vec<FoundRow>) {
        let before = std::mem::take(&mut self.running);
        let mut found = Found::default();
        for FoundRow { table, key, boot, row } in running {
            let name = table.info().name;
            self.running.entry(name).or_default().insert(key);
            if before.get(name).is_none_or(|own| !own.contains(&key)) {
                found.add(table, &row, !boot.is_empty() && boot == self.boot);
            }
        }
        self.store.update(|state| {
            state.all_new();
            if !found.is_empty() {
                state.found.get_or_insert(found);
            }
        });
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
        let (finished, (begun, changed), lives, series) = {
            let _whole = self.store.whole();
            self.store.read(|state| {
                if state.finished() == 0 && state.running() == (0, 0) && state.found.is_none() {
                    self.store.set_durable(state.place); // nothing of it has to be stored
                }
                (state.finished(), state.running(), !state.live_agents.is_empty(), state.place.series)
            })
        };
        let waiting = finished + begun;
        // In trouble, only what is stored shows that it is over. And that there is a series is stored at once: the next
        // recorder goes on with no other.
        let known = self.trouble.is_none() && series == self.series;
        if waiting > 0 && known && waiting < MANY && self.flushed.elapsed() < FLUSH {
            return Ok(());
        }
        let age = self.committed.elapsed();
        if waiting > 0 || changed > 0 && age > REFRESH || lives && age > BEAT || series != self.series {
            self.flush()?;
        }
        if waiting > 0 {
            self.stored = Instant::now();
            self.unmoved = true;
        }
        self.flushed = Instant::now();
        let (idle, retention) = (self.stored.elapsed() > IDLE, self.settings.retention);
        let Some(history) = &mut self.history else { return Ok(()) };
        let log = history.log_bytes();
        if log > LOG_LIMIT || idle && self.unmoved && log > LOG_LEAST {
            history.checkpoint()?;
            self.unmoved = false;
        }
        if self.tidied.is_none_or(|at| at.elapsed() > TIDY) && self.store.finished() < MANY {
            let pruned = history.prune(&retention, unix_seconds())?;
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

    /// What is to be stored; nothing while it is open what becomes of the rows that an earlier recorder left.
    fn moment(&self) -> Option<Moment> {
        let _whole = self.store.whole();
        self.store.update(|state: &mut State| {
            if state.found.is_some() {
                return None;
            }
            let waiting = state.finished();
            let highest = state.highest_live_eid();
            let finished = tables::all().into_iter().filter_map(|table| Some((table, table.finished(state, BATCH)?)));
            let finished: Vec<Pending> = finished.filter(|(_, batch)| !batch.is_empty()).collect();
            let taken: usize = finished.iter().map(|(_, batch)| batch.len()).sum();
            let place = (taken == waiting).then_some(state.place);
            let complete = finished.iter().filter_map(last_of_part).fold(state.eids.last(), i64::min);
            let running = tables::all().into_iter().map(|table| (table, table.running(state)));
            let running = running.filter(|(_, rows)| !rows.is_empty()).collect();
            Some(Moment { finished, running, highest, place, complete })
        })
    }

    /// Stores one moment in one transaction, and takes what has finished out of memory after it. False when it is not
    /// the time for it.
    fn flush(&mut self) -> Result<bool, HistoryError> {
        let Some(history) = &self.history else { return Ok(false) };
        let mark = history.mark()?;
        if let Some((batches, _)) = self.doubtful.take_if(|(_, flush)| *flush == mark.flush) {
            forget(&self.store, &batches);
        }
        let Some(moment) = self.moment() else { return Ok(false) };
        // The time, and new in any case: it tells whether a commit that failed was durable.
        let number = unix_ns().max(mark.flush + 1);
        let place = moment.place.unwrap_or_else(|| place_of(&mark));
        let (position, series) = (place.position.cast_signed(), place.series.cast_signed());
        let complete = moment.complete.max(mark.complete);
        if let Err(error) = self.write(&moment, Mark { flush: number, position, series, complete, ..mark }) {
            // Which of the running rows the file has is open now.
            self.store.update(State::all_new);
            self.doubtful = Some((moment.finished, number));
            return Err(error);
        }
        self.doubtful = None;
        forget(&self.store, &moment.finished);
        self.store.set_durable(place);
        self.series = place.series;
        self.committed = Instant::now();
        Ok(true)
    }

    fn write(&mut self, moment: &Moment, mark: Mark) -> Result<(), HistoryError> {
        let Some(history) = &mut self.history else { return Ok(()) };
        let mut highest = self.highest.max(moment.highest);
        let mut ended: HashMap<&str, Vec<i64>> = HashMap::new();
        let mut flush = history.flush()?;
        for (table, batch) in &moment.finished {
            let columns = table.columns();
            let has_eid = columns.get(table.key()).is_some_and(|column| column.name == "eid");
            let (place, of) = table.ends().unwrap_or_default();
            each_chunk(*table, batch, |rows, keys| {
                if has_eid {
                    highest = highest.max(keys.iter().copied().max().unwrap_or(0));
                } else {
                    // An instance that was thought to have ended may have come back.
                    flush.remove(table.info().name, keys)?;
                }
                if let Some(running) = self.running.get(of) {
                    let keys = rows.iter().filter_map(|(row, _)| key(row, place));
                    ended.entry(of).or_default().extend(keys.filter(|key| running.contains(key)));
                }
                flush.append(table.info().name, &mut rows.iter().map(|(row, owner)| (&row[..], *owner)))
            })?;
        }
        for (table, keys) in &ended {
            flush.end(table, keys)?;
        }
        for (table, rows) in &moment.running {
            let (name, place) = (table.info().name, table.key());
            let keys: Vec<_> = rows.iter().filter_map(|row| key(&row.values, place)).collect();
            let running = self.running.entry(name).or_default();
            let before: Vec<_> = keys.iter().copied().filter(|key| running.contains(key)).collect();
            flush.end(name, &before)?;
            flush.begin(*table, &self.boot, rows)?;
            running.extend(keys);
        }
        let gap = self.store.gap();
        if let Some(gap) = gap {
            flush.gap(gap, unix_ns().saturating_sub(self.settings.retention.seconds.saturating_mul(1_000_000_000)))?;
        }
        flush.commit(&Mark { eid: highest, ..mark })?;
        if gap.is_some() {
            let gaps = history.gaps()?;
            self.store.set_gaps(gaps, None);
        }
        for (table, keys) in ended {
            if let Some(running) = self.running.get_mut(table) {
                for key in keys {
                    running.remove(&key);
                }
            }
        }
        self.highest = highest;
        Ok(())
    }
}

/// The last eid of a table's rows of events, when there are more of them than are stored now.
fn last_of_part((table, batch): &Pending) -> Option<i64> {
    if !batch.more || !table.info().event_based {
        return None;
    }
    let mut newest = batch.rows.fork();
    newest.advance();
    if let Value::Integer(eid) = newest.value(table.key()) { Some(eid) } else { None }
}

/// A query over much leaves the C library with a hundred megabytes that are free and never given back by it.
fn give_back_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: no preconditions; it takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn place_of(mark: &Mark) -> Place {
    Place { series: mark.series.cast_unsigned(), position: mark.position.cast_unsigned() }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::rows::ProcessRow;

    #[test]
    fn a_file_that_is_opened_anew_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.duckdb");
        let (settings, store) = (Settings { path, retention: Retention::default() }, Arc::new(Store::default()));
        let mut work = Work::new(settings, "boot", Arc::clone(&store));
        let row = |eid| ProcessRow { eid, ..ProcessRow::default() };
        store.update(|state| {
            state.live_processes.insert(1, row(1));
            state.live_processes.insert(2, row(2));
            state.processes.push(row(3));
        });
        assert!(work.flush().unwrap());
        store.update(|state| {
            let ended = state.live_processes.remove(1).unwrap();
            state.processes.push(ended);
        });
        let broken = HistoryError::Engine { path: work.settings.path.clone(), reason: "FATAL Error".into() };
        work.failed(&broken);
        assert!(work.history.is_some() && store.history().is_some(), "it is open again");
        // What runs is this recorder's own, and nothing was found.
        assert!(store.read(|state| state.found.is_none()));
        assert!(work.flush().unwrap());
        assert_eq!(store.finished(), 0);
        let history = work.history.as_ref().unwrap();
        let running: Vec<_> = history.running().unwrap().iter().map(|found| found.key).collect();
        let ended = "SELECT count(*) FROM agent_processes WHERE eid IN (1, 3)";
        let ended: i64 = history.connection.query_row(ended, [], |row| row.get(0)).unwrap();
        assert_eq!((running, ended), (vec![2], 2));
    }
}
