//! Reads that queries share.
//!
//! osquery asks a table again for each row that it is joined with, each time by another `=`. So what is read here does
//! not depend on equalities: one read answers every call of the next moment, and from the second one on it is looked
//! up by number. Each call gets what a read of its own at that moment would have given it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::constraint::{Constraint, Op};
use super::lookup::{Lookup, numbers};
use super::past::{self, Chain, Past, Wanted};
use super::scan::{self, Request, Rows, Scan, ScanError};
use super::{Asked, Cursor, Table, Viewer};
use crate::history::{HistoryError, Readers};
use crate::record::Store;

/// How old a read may be that answers a query.
pub const SHARED_FOR: Duration = Duration::from_millis(200);

/// Values in a list from which on it is looked up, though the read may never be asked again.
const LONG_LIST: usize = 16;

/// Calls that differ in what a column of texts is equal to, before they are taken for those of a join: queries of a schedule
/// do so as well. Of numbers one is enough.
const TEXTS: u8 = 8;

/// What tells one read from another: the table, and for one that is made of another whether the last 24 hours of that
/// count. A read takes a whole table; who asks is looked at row by row.
type Key = (&'static str, bool);

/// The reads of the last moment.
#[derive(Clone, Default)]
pub struct Reads(Arc<Mutex<HashMap<Key, Arc<Mutex<Slot>>>>>);

#[derive(Default)]
struct Slot {
    read: Option<Read>,
    /// A thread is about to empty it.
    watched: bool,
}

/// A table's rows as they were at one moment, and what was read of the history after it.
pub struct Read {
    taken: Instant,
    store: Arc<Store>,
    table: &'static dyn Table,
    memory: Looked,
    failed: Option<ScanError>,
    past: Option<Behind>,
}

/// A cursor that did not step yet, and what its rows were put in order by.
struct Looked {
    cursor: Box<dyn Cursor>,
    /// By column: none the first time that it is asked for.
    lookups: HashMap<usize, Option<Lookup>>,
}

/// The history behind a read.
struct Behind {
    readers: Readers,
    /// Keys of the rows in memory.
    except: Arc<HashSet<i64>>,
    /// By all of a call but its equalities: constraints, columns, and whether it sees a window only.
    calls: HashMap<(Vec<Constraint>, Vec<usize>, bool), Calls>,
}

/// What calls that differ in equalities alone share. They are of a join, which makes many.
#[derive(Default)]
enum Calls {
    /// There was none yet.
    #[default]
    None,
    /// So many.
    Some(u8),
    /// All rows that any of them can want, with those in memory.
    Few(Looked),
    /// They are too many: the numbers in a column, so that a call for another one need not look. None when those are
    /// too many, too.
    Many(HashMap<usize, Option<HashSet<i64>>>),
}

impl Reads {
    /// Opens a table for reading.
    #[must_use]
    pub fn open(
        &self,
        store: &Arc<Store>,
        viewer: Viewer,
        table: &'static dyn Table,
        constraints: &[Constraint],
        used: Option<&[usize]>,
        deadline: Option<Instant>,
    ) -> Scan {
        let asked = Asked::by(constraints, deadline);
        let slot = self.slot((table.info().name, table.is_made() && asked.since.is_some()));
        // Held while the rows are read, so that who asks at the same moment waits for this read.
        let mut here = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh =
            here.read.take().filter(|read| read.taken.elapsed() < SHARED_FOR && Arc::ptr_eq(&read.store, store));
        let mut read = fresh.unwrap_or_else(|| Read::take(store, table, &asked));
        let scan = read.scan(viewer, constraints, used, deadline);
        here.read = Some(read);
        if !here.watched {
            here.watched = forget_later(&slot);
            if !here.watched {
                here.read = None;
            }
        }
        scan
    }

    /// Reads a table into memory.
    ///
    /// # Errors
    /// As [`scan::scan`].
    pub fn scan(&self, store: &Arc<Store>, table: &'static dyn Table, request: &Request) -> Result<Rows, ScanError> {
        let used = scan::used(table, request);
        let scan = self.open(store, request.viewer, table, &request.constraints, used.as_deref(), request.deadline);
        scan::collect(scan, table, request)
    }

    fn slot(&self, key: Key) -> Arc<Mutex<Slot>> {
        Arc::clone(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default())
    }
}

impl Looked {
    fn new(cursor: Box<dyn Cursor>) -> Self {
        Self { cursor, lookups: HashMap::new() }
    }

    /// A scan of the rows; of the ones with that number alone, when that pays.
    fn scan(
        &mut self,
        viewer: Viewer,
        table: &'static dyn Table,
        constraints: &[Constraint],
        numbers: Option<&(usize, Vec<i64>)>,
        at_once: bool,
    ) -> Scan {
        let Some((column, numbers)) = numbers else {
            return scan::over(self.cursor.fork(), viewer, None, table, constraints);
        };
        let again = at_once || self.lookups.contains_key(column);
        let lookup = self.lookups.entry(*column).or_default();
        if !again && numbers.len() < LONG_LIST {
            return scan::over(self.cursor.fork(), viewer, None, table, constraints);
        }
        let lookup = lookup.get_or_insert_with(|| Lookup::over(self.cursor.fork(), *column));
        scan::open_at_rows(viewer, table, lookup, numbers, constraints)
    }
}

impl Read {
    /// Takes the rows that are in memory.
    #[must_use]
    pub fn take(store: &Arc<Store>, table: &'static dyn Table, asked: &Asked) -> Self {
        let (cursor, failed) = table.cursor(store, asked);
        let taken = Instant::now();
        // After the cursor: what has left memory by now is in the history.
        let past = store.history().filter(|_| table.is_kept()).map(|readers| Behind {
            readers,
            except: Arc::new(past::keys(table, &*cursor)),
            calls: HashMap::new(),
        });
        Self { taken, store: Arc::clone(store), table, memory: Looked::new(cursor), failed, past }
    }

    /// A scan of what was read. Of rows in the history the used columns are read, or all.
    #[must_use]
    pub fn scan(
        &mut self,
        viewer: Viewer,
        constraints: &[Constraint],
        used: Option<&[usize]>,
        deadline: Option<Instant>,
    ) -> Scan {
        let table = self.table;
        let numbers = numbers(&table.columns(), constraints);
        let Some(behind) = &mut self.past else {
            let scan = self.memory.scan(viewer, table, constraints, numbers.as_ref(), false);
            return scan.failing(self.failed.clone());
        };
        let began = Instant::now();
        let wanted = scan::wanted(viewer, table, constraints, used);
        let calls = match behind.calls(&self.store, &*self.memory.cursor, &wanted, numbers.as_ref(), deadline) {
            Ok(calls) => calls,
            Err(error) => {
                let scan = scan::over(self.memory.cursor.fork(), viewer, None, table, constraints);
                return scan.failing(Some(scan::history(table, &error)));
            }
        };
        // What takes longer to read than reads are shared for would be read again for each call.
        self.taken += began.elapsed();
        let nowhere = match calls {
            Calls::Few(all) => return all.scan(viewer, table, constraints, numbers.as_ref(), true),
            Calls::Many(known) => numbers.as_ref().is_some_and(|(column, numbers)| {
                known.get(column).and_then(Option::as_ref).is_some_and(|all| numbers.iter().all(|n| !all.contains(n)))
            }),
            Calls::None | Calls::Some(_) => false,
        };
        let scan = self.memory.scan(viewer, table, constraints, numbers.as_ref(), false);
        if nowhere {
            return scan;
        }
        let past = Past::new(&self.store, behind.readers.clone(), wanted, Arc::clone(&behind.except));
        scan.then(Some(past))
    }
}

impl Behind {
    /// What a call shares with others, after it was added to them.
    fn calls(
        &mut self,
        store: &Store,
        memory: &dyn Cursor,
        wanted: &Wanted,
        numbers: Option<&(usize, Vec<i64>)>,
        deadline: Option<Instant>,
    ) -> Result<&mut Calls, HistoryError> {
        let unequal = |constraint: &&Constraint| !matches!(constraint.op, Op::Equal | Op::Is);
        let constraints: Vec<_> = wanted.constraints.iter().filter(unequal).cloned().collect();
        let calls =
            self.calls.entry((constraints.clone(), wanted.columns.clone(), wanted.since.is_some())).or_default();
        // Anybody's rows, for who asks may be another one in a call to come; but no other time than this one asks for.
        let shared = Wanted { viewer: Viewer::All, constraints, ..wanted.clone() };
        match calls {
            Calls::None => *calls = Calls::Some(1),
            Calls::Some(count) if numbers.is_none() && *count < TEXTS => *count += 1,
            Calls::Some(_) => {
                let past = Past::new(store, self.readers.clone(), shared.clone(), Arc::clone(&self.except));
                *calls = match Chain::read(memory.fork(), past, deadline)? {
                    Some(chain) => Calls::Few(Looked::new(Box::new(chain))),
                    None => Calls::Many(HashMap::new()),
                };
            }
            Calls::Few(_) | Calls::Many(_) => {}
        }
        if let (Calls::Many(known), Some((column, _))) = (&mut *calls, numbers)
            && let Entry::Vacant(entry) = known.entry(*column)
        {
            entry.insert(past::numbers(store, &self.readers, &shared, *column)?);
        }
        Ok(calls)
    }
}

/// Empties the slot when its read is too old, so that rows that the store gave up are not held for the next query.
/// False when there is no thread to be had for it.
fn forget_later(slot: &Arc<Mutex<Slot>>) -> bool {
    let slot = Arc::clone(slot);
    let forget = move || {
        let mut left = SHARED_FOR;
        loop {
            std::thread::sleep(left);
            let mut here = slot.lock().unwrap_or_else(PoisonError::into_inner);
            let age = here.read.as_ref().map_or(SHARED_FOR, |read| read.taken.elapsed());
            left = SHARED_FOR.saturating_sub(age);
            if left.is_zero() {
                *here = Slot::default();
                return;
            }
        }
    };
    std::thread::Builder::new().name("forget".into()).spawn(forget).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::rows::FileOpRow;
    use crate::tables::{all, find, scan};
    use crate::value::Value;
    use crate::{fixture, history};
    use proptest::prelude::*;

    fn equal(column: &str, value: i64) -> Constraint {
        Constraint::new(column, Op::Equal, value.to_string())
    }

    fn request(constraints: Vec<Constraint>) -> Request {
        Request { constraints, ..Request::of(Viewer::All) }
    }

    /// The number of rows of file operations with the pid.
    fn count(reads: &Reads, store: &Arc<Store>, pid: i64) -> usize {
        let table = find("agent_file_ops").unwrap();
        reads.scan(store, table, &request(vec![equal("pid", pid)])).unwrap().rows.len()
    }

    /// Runs it again when it took longer than a read is shared, as it may on a busy machine.
    fn in_one_moment<T>(test: impl Fn() -> T) -> T {
        for _ in 0..100 {
            let began = Instant::now();
            let result = test();
            if began.elapsed() < SHARED_FOR {
                return result;
            }
        }
        panic!("never done within {SHARED_FOR:?}");
    }

    #[test]
    fn calls_of_one_moment_share_a_read() {
        let store = fixture::store(10);
        let taken = in_one_moment(|| {
            let (reads, before) = (Reads::default(), store.reads());
            for pid in 0..200 {
                count(&reads, &store, pid);
            }
            store.reads() - before
        });
        assert_eq!(taken, 1);
    }

    #[test]
    fn calls_at_the_same_time_share_a_read() {
        let store = fixture::store(10);
        let taken = in_one_moment(|| {
            let (reads, before) = (Reads::default(), store.reads());
            std::thread::scope(|scope| {
                for pid in 0..8 {
                    let (reads, store) = (&reads, &store);
                    scope.spawn(move || count(reads, store, pid));
                }
            });
            store.reads() - before
        });
        assert_eq!(taken, 1);
    }

    #[test]
    fn an_old_read_answers_nobody_and_holds_nothing() {
        let (store, reads) = (fixture::store(10), Reads::default());
        let before = count(&reads, &store, 100);
        let held = Arc::strong_count(&store);
        store.update(|state| {
            state.file_ops.push(FileOpRow {
                pid: 100,
                time_ns: fixture::now() * 1_000_000_000,
                ..FileOpRow::default()
            });
        });
        let deadline = Instant::now() + Duration::from_secs(10);
        while Arc::strong_count(&store) == held {
            assert!(Instant::now() < deadline, "a read is held on to");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(count(&reads, &store, 100), before + 1);
        // And asking all the time does not keep it, either.
        store.update(|state| {
            state.file_ops.push(FileOpRow {
                pid: 100,
                time_ns: fixture::now() * 1_000_000_000,
                ..FileOpRow::default()
            });
        });
        let changed = Instant::now();
        while count(&reads, &store, 100) != before + 2 {
            assert!(changed.elapsed() < SHARED_FOR + Duration::from_secs(2), "an old read answers");
        }
    }

    #[test]
    fn another_store_is_another_read() {
        let reads = Reads::default();
        let (one, two) = (fixture::store(10), fixture::store(40));
        assert_ne!(count(&reads, &one, 100), count(&reads, &two, 100));
    }

    fn constraints() -> impl Strategy<Value = (usize, Vec<Constraint>)> {
        let ops = [Op::Equal, Op::Equal, Op::Equal, Op::Is, Op::Greater, Op::LessOrEqual, Op::Like, Op::NotEqual];
        let value = prop_oneof![
            (99..105_i64).prop_map(|pid| pid.to_string()),
            (0..50_i64).prop_map(|row| (fixture::EID + 1000 + row).to_string()),
            (0..12_i64).prop_map(|row| (fixture::AGENT_ID + 100 + row).to_string()),
            prop::sample::select(vec!["", "1", "0", "+100", "101.0", " 101", "close", "p3", "/work/a3.rs", "%a%"])
                .prop_map(str::to_owned),
        ];
        // Mostly columns that have such values.
        let column = prop_oneof![
            prop::sample::select(vec!["pid", "eid", "agent_id", "process_eid", "operation", "path", "name", "PID"])
                .prop_map(|name| Err(name.to_owned())),
            any::<prop::sample::Index>().prop_map(Ok),
        ];
        let one = (column, prop::sample::select(ops.to_vec()), value);
        (0..all().len(), prop::collection::vec(one, 0..4)).prop_map(|(index, list)| {
            let columns = all()[index].columns();
            let name = |column: Result<prop::sample::Index, String>| {
                column.map_or_else(|name| name, |index| columns[index.index(columns.len())].name.to_owned())
            };
            (index, list.into_iter().map(|(column, op, value)| Constraint::new(name(column), op, value)).collect())
        })
    }

    /// The same rows twice: in memory, and but for the live ones in a history, as long as the rest is held.
    fn kept(file_ops: i64) -> (Arc<Store>, Arc<Store>, (history::Writer, tempfile::TempDir)) {
        let (memory, store) = loop {
            let (now, stores) = (fixture::now(), (fixture::store(file_ops), fixture::store(file_ops)));
            if fixture::now() == now {
                break stores;
            }
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.duckdb");
        let settings = history::Settings { path, retention: history::Retention::default() };
        let (writer, _) = history::Writer::start(settings, "boot", Arc::clone(&store)).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while store.finished() > 0 {
            assert!(Instant::now() < deadline, "not stored");
            std::thread::sleep(Duration::from_millis(10));
        }
        (memory, store, (writer, folder))
    }

    #[test]
    fn a_join_with_the_history_is_a_few_reads() {
        // Few rows are held; of many it is asked what there is.
        for (rows, most) in [(100, 3), (2000, 4 + 4)] {
            let (memory, store, _kept) = kept(rows);
            let taken = || {
                let (reads, table, before) = (Reads::default(), find("agent_file_ops").unwrap(), store.reads());
                let requests: Vec<_> = (0..200).map(|pid| request(vec![equal("pid", pid)])).collect();
                let found: Vec<_> =
                    requests.iter().map(|request| reads.scan(&store, table, request).unwrap().rows).collect();
                let taken = store.reads() - before;
                for (request, found) in requests.iter().zip(found) {
                    assert_eq!(found, scan(&memory, table, request).unwrap().rows, "{request:?}");
                }
                taken
            };
            // A busy machine may take longer than a read is shared.
            let fewest = (0..50).map(|_| taken()).find(|taken| *taken <= most);
            assert!(fewest.is_some(), "{rows} rows: never so few as {most} reads");
        }
    }

    #[test]
    fn each_row_once_while_they_move() {
        const SECONDS: Duration = Duration::from_secs(4);
        let (_, store, _kept) = kept(0);
        let pushed = std::sync::atomic::AtomicI64::new(0);
        let (table, began) = (find("agent_file_ops").unwrap(), Instant::now());
        let eids = |rows: Rows| {
            let eid = |row: &Vec<Value>| if let Value::Integer(eid) = row[0] { eid } else { panic!("no eid") };
            let mut eids: Vec<_> = rows.rows.iter().map(eid).collect();
            let all = eids.len();
            eids.sort_unstable();
            eids.dedup();
            assert_eq!(eids.len(), all, "a row twice");
            i64::try_from(all).unwrap()
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while began.elapsed() < SECONDS {
                    let next = pushed.load(std::sync::atomic::Ordering::SeqCst) + 1;
                    let time_ns = fixture::now() * 1_000_000_000;
                    let row = FileOpRow { eid: fixture::EID + next, time_ns, ..FileOpRow::default() };
                    store.update(|state| state.file_ops.push(row));
                    pushed.store(next, std::sync::atomic::Ordering::SeqCst);
                    if next % 64 == 0 {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
            });
            for shared in [false, true] {
                let (store, pushed) = (&store, &pushed);
                scope.spawn(move || {
                    let (reads, mut last, mut moved) = (Reads::default(), 0, false);
                    while began.elapsed() < SECONDS {
                        let before = pushed.load(std::sync::atomic::Ordering::SeqCst);
                        let request = Request { columns: Some(vec!["eid".into()]), ..Request::of(Viewer::All) };
                        let rows =
                            if shared { reads.scan(store, table, &request) } else { scan(store, table, &request) };
                        let count = eids(rows.unwrap());
                        assert!(count >= last, "{count} after {last}");
                        assert!(shared || count >= before, "{count} of {before}");
                        last = count;
                        moved |= count > 0 && store.finished() < usize::try_from(count).unwrap();
                    }
                    assert!(moved, "no row was ever in the history");
                });
            }
        });
        assert_eq!(store.read(|state| state.file_ops.evicted()), 0);
        assert_eq!(
            eids(scan(&store, table, &Request::of(Viewer::All)).unwrap()),
            pushed.load(std::sync::atomic::Ordering::SeqCst)
        );
    }

    #[test]
    fn the_shell_finds_the_same_with_a_history() {
        use crate::shell::format::{Mode, Writer};
        use crate::shell::{Backend as _, Engine, Limits};
        let (memory, store, _kept) = kept(600);
        let ask = |store: &Arc<Store>, viewer, sql: &str| {
            let mut engine = Engine::new(Arc::clone(store), viewer, Limits::default()).unwrap();
            let mut text = Vec::new();
            engine.run(sql, &mut Writer::new(&mut text, Mode::Csv)).unwrap();
            String::from_utf8(text).unwrap()
        };
        for sql in [
            "SELECT count(*) FROM agent_file_ops WHERE time > 0",
            "SELECT * FROM agent_file_ops ORDER BY eid",
            "SELECT * FROM ai_agents WHERE start_time > 0 ORDER BY agent_id",
            "SELECT * FROM agent_processes ORDER BY eid",
            "SELECT * FROM agent_endpoints WHERE last_seen > 0 ORDER BY agent, remote_host, remote_address, remote_port",
            "SELECT path, count(*), sum(bytes_written) FROM agent_file_ops GROUP BY path ORDER BY path",
            "SELECT p.eid, f.eid, f.path FROM agent_processes p JOIN agent_file_ops f ON f.process_eid = p.eid ORDER BY 1, 2",
            "SELECT eid FROM agent_file_ops WHERE path LIKE '%A1%' AND pid IN (100, 101, 102) ORDER BY eid DESC LIMIT 7",
            "SELECT max_rows, eid FROM agent_file_ops WHERE max_rows = 5 ORDER BY eid LIMIT 3",
        ] {
            for viewer in [Viewer::All, Viewer::User(0), Viewer::User(1000)] {
                assert_eq!(ask(&store, viewer, sql), ask(&memory, viewer, sql), "{sql} as {viewer:?}");
            }
            assert!(ask(&store, Viewer::All, sql).lines().count() > 1, "{sql}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 5, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn with_a_history_the_rows_are_the_same(calls in prop::collection::vec(constraints(), 60..120)) {
            let (memory, store, _kept) = kept(600);
            let reads = Reads::default();
            for (index, constraints) in calls {
                let table = all()[index];
                let request = request(constraints);
                let sorted = |rows: Rows| {
                    let mut rows: Vec<_> = rows.rows.iter().map(|row| format!("{row:?}")).collect();
                    rows.sort_unstable();
                    rows
                };
                let wanted = sorted(scan(&memory, table, &request).unwrap());
                prop_assert_eq!(&sorted(scan(&store, table, &request).unwrap()), &wanted, "{:?}", request);
                for _ in 0..2 {
                    prop_assert_eq!(&sorted(reads.scan(&store, table, &request).unwrap()), &wanted, "{:?}", request);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn a_shared_read_gives_what_an_own_one_gives(calls in prop::collection::vec(constraints(), 1..40)) {
            // More than a segment, so that positions have two parts.
            let (store, reads) = (fixture::store(600), Reads::default());
            for (index, constraints) in calls {
                let table = all()[index];
                let request = request(constraints);
                let shared = reads.scan(&store, table, &request).unwrap().rows;
                prop_assert_eq!(shared, scan(&store, table, &request).unwrap().rows, "{:?}", request);
            }
        }
    }
}
