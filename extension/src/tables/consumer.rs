//! Reading on: rows of events that the asker did not get yet.
//!
//! A scheduled query of osquery over a table of events gets each row once, as over osquery's own; so does whoever names
//! itself in the hidden column `consumer`. How far each got is kept in the history ([`crate::history::Execution`]). What it
//! gets is a span of eids, and so two more constraints: all else is as for any other query.

use std::collections::HashMap;
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

/// Narrows a query to the rows that its reader did not get yet, when it has one: at most `cap`, or what the query allows
/// itself; none for all.
///
/// # Errors
/// When the history is not there or cannot be used.
pub fn read_on(
    store: &Store,
    viewer: Viewer,
    table: &dyn Table,
    constraints: &mut Vec<Constraint>,
    running: Option<&Running>,
    cap: Option<u64>,
) -> Result<(), ScanError> {
    let Some(running) = running.filter(|_| table.info().event_based) else { return Ok(()) };
    let whose = if let Viewer::User(uid) = viewer { uid.to_string() } else { String::new() };
    let consumer = match (named(constraints), &running.scheduled) {
        (Some(name), _) => format!("named/{name}"),
        (None, Some(query)) => format!("scheduled/{query}"),
        (None, None) => return Ok(()),
    };
    let table_name = table.info().name;
    let readers = store.history().ok_or(ScanError::NotKept { table: table_name })?;
    let execution = Execution { whose, consumer, number: running.number.clone(), counted: running.counted.clone() };
    let window = unix_ns().saturating_sub(WINDOW_SECONDS.saturating_mul(1_000_000_000));
    let most = scan::max_rows(constraints).and_then(|rows| u64::try_from(rows).ok()).or(cap);
    let (after, until) =
        readers.give(table_name, &execution, most, window).map_err(|error| scan::history(table, &error))?;
    constraints.push(Constraint::new("eid", Op::Greater, after.to_string()));
    constraints.push(Constraint::new("eid", Op::LessOrEqual, until.to_string()));
    Ok(())
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
}
