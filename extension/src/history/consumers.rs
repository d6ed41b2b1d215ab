//! Who reads events on from where it stopped, and how far it got.
//!
//! Kept in the file itself, so that it is never ahead of the rows that it is about, nor lost without them. What was given
//! to a query is not known to have arrived: it is given again until the next query shows that it has.

use std::sync::PoisonError;

use duckdb::{OptionalExt as _, Transaction, params};
use serde::{Deserialize, Serialize};

use super::schema::Kept;
use super::{HistoryError, Readers};
use crate::record::clock::unix_seconds;

/// How often a row is given of which it stays unknown whether it arrived: a query that drops all rows that it gets looks
/// like one that fails.
const TIMES: usize = 3;

/// A consumer that was not seen for so long is forgotten.
const FORGOTTEN_AFTER: i64 = 90 * 24 * 3600;

/// Of whom so many are known at most, for each user: the one that was not seen for the longest time is forgotten.
const MOST: usize = 500;

/// A query of a consumer that is being run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// Whose consumer it is: users do not share them.
    pub whose: String,
    /// Who reads.
    pub consumer: String,
    /// Which of its queries this is: scans with the same one get the same rows.
    pub number: String,
    /// What is counted of its results.
    pub counted: Option<Counted>,
    /// The one before got no rows of all that it was given: there is nothing that could not have arrived.
    pub none_before: bool,
}

/// What osqueryd counts of a scheduled query's results: it changes with each result that has rows, before it is logged
/// (`Query::addNewEvents`, `osquery/core/query.cpp`, 5.x).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted(pub String);

/// What is known of a consumer, in one table.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The last eid that it got for sure.
    answered: i64,
    /// Up to where it was given since, each time.
    given: Vec<i64>,
    execution: String,
    counted: Option<Counted>,
}

impl Known {
    /// Where the next query begins. What the last one got arrived if its results were counted, or if there was nothing in
    /// it. Where nothing is counted, neither then nor now, that there is a next one has to do: they follow each other.
    fn go_on(&mut self, now: Option<&Counted>, none_before: bool) {
        let arrived = none_before || now.is_none() || self.counted.as_ref() != now;
        if let Some(last) = self.given.last().filter(|_| arrived) {
            self.answered = *last;
            self.given.clear();
        } else if self.given.len() >= TIMES {
            self.answered = self.given.remove(0);
        }
    }
}

impl Readers {
    /// The rows that an execution gets of a table of events: those with an eid above the first and up to the second. No
    /// more than `most`; for a consumer that is new, those above `from`.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn give(
        &self,
        table: &str,
        execution: &Execution,
        most: Option<u64>,
        from: i64,
    ) -> Result<(i64, i64), HistoryError> {
        let reader = self.reader()?;
        let Some(kept) = reader.kept(table) else { return Ok((from, from)) };
        let _turn = reader.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let give = || {
            let transaction = reader.connection.unchecked_transaction()?;
            let span = give(&transaction, kept, execution, most, from)?;
            transaction.commit()?;
            Ok(span)
        };
        give().map_err(|error| HistoryError::of(&reader.path, &error))
    }
}

fn give(
    transaction: &Transaction<'_>,
    kept: &Kept,
    execution: &Execution,
    most: Option<u64>,
    from: i64,
) -> duckdb::Result<(i64, i64)> {
    let (name, table) = (&format!("{}/{}", execution.whose, execution.consumer), kept.name());
    let before = known(transaction, name, table)?;
    if let Some(before) = before.as_ref().filter(|before| before.execution == execution.number) {
        return Ok((before.answered, before.given.last().copied().unwrap_or(before.answered)));
    }
    let mut known = before.unwrap_or(Known { answered: from, ..Known::default() });
    known.go_on(execution.counted.as_ref(), execution.none_before);
    let until = until(transaction, kept, known.answered, most)?;
    known.given.push(until);
    let given: Vec<_> = known.given.iter().map(ToString::to_string).collect();
    let counted = execution.counted.as_ref().map_or(String::new(), |counted| counted.0.clone());
    let now = unix_seconds();
    transaction.execute(
        "DELETE FROM consumers WHERE name = ? AND of = ? OR used < ?",
        params![name, table, now.saturating_sub(FORGOTTEN_AFTER)],
    )?;
    transaction.execute(
        "INSERT INTO consumers VALUES (?, ?, ?, ?, ?, ?, ?)",
        params![name, table, known.answered, given.join(" "), execution.number, counted, now],
    )?;
    let whose = format!("{}/", execution.whose);
    transaction.execute(
        &format!(
            "DELETE FROM consumers WHERE starts_with(name, ?) AND used < (SELECT used FROM consumers WHERE \
             starts_with(name, ?) ORDER BY used DESC LIMIT 1 OFFSET {MOST})"
        ),
        params![whose, whose],
    )?;
    Ok((known.answered, until))
}

fn known(transaction: &Transaction<'_>, name: &str, table: &str) -> duckdb::Result<Option<Known>> {
    let sql = "SELECT answered, given, execution, proof FROM consumers WHERE name = ? AND of = ?";
    let read = |row: &duckdb::Row<'_>| {
        let (given, counted): (String, String) = (row.get(1)?, row.get(3)?);
        Ok(Known {
            answered: row.get(0)?,
            given: given.split(' ').filter_map(|eid| eid.parse().ok()).collect(),
            execution: row.get(2)?,
            counted: Some(counted).filter(|counted| !counted.is_empty()).map(Counted),
        })
    };
    transaction.query_row(sql, params![name, table], read).optional()
}

/// How far one query gets: to where all rows are stored, or to the last of as many as it may get.
fn until(transaction: &Transaction<'_>, kept: &Kept, from: i64, most: Option<u64>) -> duckdb::Result<i64> {
    let complete: i64 = transaction.query_row("SELECT complete FROM meta", [], |row| row.get(0))?;
    let complete = complete.max(from);
    let Some(most) = most else { return Ok(complete) };
    let (key, source, skipped) = (kept.key, kept.source(), most.saturating_sub(1));
    let sql = format!(
        "SELECT {key} FROM {source} WHERE {key} > {from} AND {key} <= {complete} ORDER BY {key} LIMIT 1 OFFSET {skipped}"
    );
    let last = transaction.query_row(&sql, [], |row| row.get(0)).optional()?;
    Ok(last.unwrap_or(complete))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_has_arrived_and_what_was_not_is_given_again() {
        let counted = |count: &str| Some(Counted(count.to_owned()));
        let mut known = Known { answered: 10, given: vec![20], counted: counted("1/0"), ..Known::default() };
        known.go_on(counted("2/0").as_ref(), false);
        assert_eq!((known.answered, &known.given[..]), (20, &[][..]));
        // The next two results had no rows, or were lost: the core counts neither.
        for until in [30, 40] {
            known.given.push(until);
            known.counted = counted("2/0");
            known.go_on(counted("2/0").as_ref(), false);
            assert_eq!(known.answered, 20);
        }
        known.given.push(50);
        known.go_on(counted("2/0").as_ref(), false);
        assert_eq!((known.answered, &known.given[..]), (30, &[40, 50][..]), "what was given three times");
        known.given.push(60);
        known.go_on(counted("3/0").as_ref(), false);
        assert_eq!((known.answered, &known.given[..]), (60, &[][..]));
        known.given.push(70);
        known.counted = counted("3/0");
        known.go_on(counted("3/0").as_ref(), true);
        assert_eq!((known.answered, &known.given[..]), (70, &[][..]), "there was nothing in it for this query");
    }

    #[test]
    fn where_nothing_is_counted_the_next_query_has_to_do() {
        let mut known = Known { answered: 10, given: vec![20], ..Known::default() };
        known.go_on(None, false);
        assert_eq!((known.answered, &known.given[..]), (20, &[][..]));
        // The first result of a scheduled query is that from which on the core counts.
        known.given.push(30);
        known.go_on(Some(&Counted("1/0".into())), false);
        assert_eq!(known.answered, 30);
    }
}
