//! Reading on: rows of events that the asker did not get yet.
//!
//! A scheduled query of osquery over a table of events gets each row once, as over osquery's own; so does whoever names
//! itself in the hidden column `consumer`. How far each got is kept in the history ([`crate::history::Execution`]). What it
//! gets is a span of eids, and so two more constraints: all else is as for any other query.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::constraint::{Constraint, Op};
use super::{CONSUMER, ScanError, Table, Viewer, WINDOW_SECONDS, scan};
use crate::history::{Counted, Execution};
use crate::record::Store;
use crate::record::clock::unix_ns;

/// A query that is being run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The name of the scheduled query; none for any other one.
    pub scheduled: Option<String>,
    /// What tells it from others of the same reader.
    pub number: String,
    /// What is counted of its results.
    pub counted: Option<Counted>,
}

/// Who reads on, by the query's words.
pub(super) fn named(constraints: &[Constraint]) -> Option<&str> {
    let is_name = |one: &&Constraint| one.column == CONSUMER && matches!(one.op, Op::Equal | Op::Is);
    constraints.iter().find(is_name).map(|one| one.value.as_str())
}

/// A query that reads events on, in one table.
#[derive(Clone)]
pub struct Reader {
    table: &'static dyn Table,
    whose: String,
    consumer: String,
    running: Running,
}

impl Reader {
    /// The reader that a query is of; none for one that asks for whatever there is.
    #[must_use]
    pub fn of(
        viewer: Viewer,
        table: &'static dyn Table,
        constraints: &[Constraint],
        running: Option<&Running>,
    ) -> Option<Self> {
        let running = running.filter(|_| table.info().event_based)?.clone();
        let consumer = match (named(constraints), &running.scheduled) {
            (Some(name), _) => format!("named/{name}"),
            (None, query) => format!("scheduled/{}", query.as_ref()?),
        };
        let whose = if let Viewer::User(uid) = viewer { uid.to_string() } else { String::new() };
        Some(Self { table, whose, consumer, running })
    }

    /// Narrows the query to the rows that it did not get yet: at most `cap`, or what it allows itself; none for all.
    ///
    /// # Errors
    /// When the history is not there or cannot be used.
    pub fn narrow(
        &self,
        store: &Store,
        constraints: &mut Vec<Constraint>,
        cap: Option<u64>,
        none_before: bool,
    ) -> Result<(), ScanError> {
        let table = self.table.info().name;
        let readers = store.history().ok_or(ScanError::NotKept { table })?;
        let (whose, consumer) = (self.whose.clone(), self.consumer.clone());
        let Running { number, counted, .. } = self.running.clone();
        let execution = Execution { whose, consumer, number, counted, none_before };
        let window = unix_ns().saturating_sub(WINDOW_SECONDS.saturating_mul(1_000_000_000));
        let most = scan::max_rows(constraints).and_then(|rows| u64::try_from(rows).ok()).or(cap);
        let (after, until) =
            readers.give(table, &execution, most, window).map_err(|error| scan::history(self.table, &error))?;
        constraints.push(Constraint::new("eid", Op::Greater, after.to_string()));
        constraints.push(Constraint::new("eid", Op::LessOrEqual, until.to_string()));
        Ok(())
    }
}

/// A reader, as its queries are told apart.
type Key = (String, String, &'static str);

/// Which readers' last queries got no rows, since this recorder runs.
#[derive(Debug, Default)]
pub struct Got(Mutex<HashMap<Key, (String, usize)>>);

impl Got {
    /// Readers whose last queries are remembered: of a user there is no end of names.
    const MOST: usize = 1000;

    fn key(reader: &Reader) -> Key {
        (reader.whose.clone(), reader.consumer.clone(), reader.table.info().name)
    }

    /// A scan of the query begins: says whether no scan of the one before got a row.
    pub fn begin(&self, reader: &Reader) -> bool {
        let number = &reader.running.number;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= Self::MOST {
            known.clear();
        }
        match known.entry(Self::key(reader)) {
            Entry::Occupied(mut entry) if entry.get().0 == *number => {
                entry.get_mut().1 += 1;
                false
            }
            Entry::Occupied(mut entry) => entry.insert((number.clone(), 1)).1 == 0,
            Entry::Vacant(entry) => {
                entry.insert((number.clone(), 1));
                false
            }
        }
    }

    /// A scan that had begun got no row.
    pub fn none(&self, reader: &Reader) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((number, with_rows)) = known.get_mut(&Self::key(reader))
            && *number == reader.running.number
        {
            *with_rows = with_rows.saturating_sub(1);
        }
    }
}

/// Tells calls of one query from those of the next where nobody says it: they follow each other at once.
#[derive(Debug, Default)]
pub struct Neighbours(Mutex<HashMap<String, (Instant, i64)>>);

impl Neighbours {
    /// Calls of one query are not further apart.
    const NEAR: Duration = Duration::from_secs(1);

    /// The query that a call of this reader belongs to.
    pub fn query(&self, constraints: &[Constraint]) -> Option<Running> {
        let name = named(constraints)?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (last, _)| last.elapsed() < Self::NEAR);
        let (last, number) = known.entry(name.to_owned()).or_insert_with(|| (Instant::now(), unix_ns()));
        *last = Instant::now();
        Some(Running { scheduled: None, number: format!("call {number}"), counted: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_follow_each_other_are_of_one_query() {
        let neighbours = Neighbours::default();
        let of = |name: &str| neighbours.query(&[Constraint::new(CONSUMER, Op::Equal, name)]);
        let (first, again, other) = (of("a"), of("a"), of("b"));
        assert!(first.is_some() && first == again && first != other);
        std::thread::sleep(Neighbours::NEAR);
        assert_ne!(of("a"), first);
        assert_eq!(neighbours.query(&[Constraint::new("pid", Op::Equal, "a")]), None);
    }

    #[test]
    fn a_query_got_nothing_when_none_of_its_scans_did() {
        let got = Got::default();
        let reader = |number: &str| {
            let running = Running { scheduled: Some("q".into()), number: number.into(), counted: None };
            Reader::of(Viewer::All, crate::tables::find("agent_events").unwrap(), &[], Some(&running)).unwrap()
        };
        assert!(!got.begin(&reader("1")), "nothing is known of one before");
        got.none(&reader("1"));
        assert!(got.begin(&reader("2")));
        assert!(!got.begin(&reader("2")));
        got.none(&reader("2"));
        assert!(!got.begin(&reader("3")), "one of the two scans got rows, or failed");
        got.none(&reader("2"));
        assert!(!got.begin(&reader("4")));
    }
}
