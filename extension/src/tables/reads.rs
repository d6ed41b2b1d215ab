//! Reads that queries share.
//!
//! osquery asks a table again for each row that it is joined with, each time by another `=`. So what is read here does
//! not depend on equalities: one read answers every call of the next moment, and from the second one on it is looked
//! up by number. Each call gets what a read of its own at that moment would have given it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::constraint::Constraint;
use super::lookup::{Lookup, numbers};
use super::scan::{self, Request, Rows, Scan, ScanError};
use super::{Cursor, Table, Viewer};
use crate::record::Store;

/// How old a read may be that answers a query.
pub const SHARED_FOR: Duration = Duration::from_millis(200);

/// Values in a list from which on it is looked up, though the read may never be asked again.
const LONG_LIST: usize = 16;

/// What tells one read from another. A read takes a whole table; who asks is looked at row by row, and
/// what will narrow it (a range of time) belongs here as soon as it does, but for equalities.
type Key = &'static str;

/// The reads of the last moment.
#[derive(Clone, Default)]
pub struct Reads(Arc<Mutex<HashMap<Key, Arc<Mutex<Slot>>>>>);

#[derive(Default)]
struct Slot {
    read: Option<Read>,
    /// A thread is about to empty it.
    watched: bool,
}

/// A table's rows as they were at one moment.
struct Read {
    taken: Instant,
    store: Arc<Store>,
    cursor: Box<dyn Cursor>,
    /// By column: none the first time that it is asked for.
    lookups: HashMap<usize, Option<Lookup>>,
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
    ) -> Scan {
        let slot = self.slot(table.info().name);
        // Held while the rows are read, so that who asks at the same moment waits for this read.
        let mut here = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh =
            here.read.take().filter(|read| read.taken.elapsed() < SHARED_FOR && Arc::ptr_eq(&read.store, store));
        let mut read = fresh.unwrap_or_else(|| Read::take(store, table));
        let scan = read.scan(viewer, table, constraints);
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
        scan::collect(self.open(store, request.viewer, table, &request.constraints), table, request)
    }

    fn slot(&self, key: Key) -> Arc<Mutex<Slot>> {
        Arc::clone(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default())
    }
}

impl Read {
    fn take(store: &Arc<Store>, table: &'static dyn Table) -> Self {
        let taken = Instant::now();
        Self { taken, store: Arc::clone(store), cursor: table.cursor(store), lookups: HashMap::new() }
    }

    fn scan(&mut self, viewer: Viewer, table: &'static dyn Table, constraints: &[Constraint]) -> Scan {
        let Some((column, numbers)) = numbers(&table.columns(), constraints) else {
            return scan::over(self.cursor.fork(), viewer, None, table, constraints);
        };
        let again = self.lookups.contains_key(&column);
        let lookup = self.lookups.entry(column).or_default();
        if !again && numbers.len() < LONG_LIST {
            return scan::over(self.cursor.fork(), viewer, None, table, constraints);
        }
        let lookup = lookup.get_or_insert_with(|| Lookup::over(self.cursor.fork(), column));
        scan::open_at_rows(viewer, table, lookup, &numbers, constraints)
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
    use crate::fixture;
    use crate::record::rows::FileOpRow;
    use crate::tables::constraint::Op;
    use crate::tables::{all, find, scan};
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
