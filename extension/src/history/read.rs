//! Reading: pages of rows, newest first.
//!
//! Each reader has a connection of its own and sees the file as it was when its page began. It waits for no flush and
//! no checkpoint, and a page is all that is in memory.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use duckdb::Connection;
use duckdb::types::ValueRef;

use super::schema::{Kept, NANOSECONDS, Place};
use super::{Conditions, HistoryError, Query};
use crate::value::Value;

/// Rows of a page at most.
pub const PAGE: usize = 4096;

/// Makes readers.
#[derive(Debug, Clone)]
pub struct Readers {
    path: PathBuf,
    /// Only cloned from, so it is held for a moment.
    connection: Arc<Mutex<Connection>>,
    kept: Arc<[Kept]>,
    lock: Arc<File>,
}

/// A connection for queries, of one thread at a time.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    connection: Connection,
    kept: Arc<[Kept]>,
    /// After the connection: nobody opens the file anew beside a reader of before.
    _lock: Arc<File>,
}

/// A walk over a table's rows, newest first.
///
/// It goes back from range to range of eids, each about as wide as a page has rows: to sort all that is left for each
/// page would make a long walk quadratic.
#[derive(Debug)]
pub struct Cursor {
    reader: Reader,
    table: String,
    columns: Vec<usize>,
    conditions: Conditions,
    /// The newest eid when it began, and below which it goes on.
    place: (i64, Option<i64>),
    /// The oldest eid.
    low: i64,
    span: i64,
    done: bool,
}

impl Cursor {
    /// The next rows; there may be none in a page, and none is the end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn page(&mut self) -> Result<Option<Vec<Row>>, HistoryError> {
        if self.done {
            return Ok(None);
        }
        let (newest, below) = self.place;
        let top = below.unwrap_or(newest);
        let from = Some(top.saturating_sub(self.span)).filter(|from| *from > self.low);
        let page = self.reader.page(&self.table, &self.columns, &self.conditions, (below, from), PAGE)?;
        match page.last() {
            Some(last) if page.len() >= PAGE => {
                self.span = top.saturating_sub(last.eid).max(1);
                self.place.1 = Some(last.eid);
            }
            _ => {
                self.done = from.is_none();
                self.place.1 = from;
                let wider = (PAGE * 3 / 4 / page.len().max(1)).clamp(1, 8);
                self.span = self.span.saturating_mul(i64::try_from(wider).unwrap_or(1));
            }
        }
        Ok(Some(page))
    }
}

/// A row of a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its number; of an agent, the instance's.
    pub eid: i64,
    /// The uid whose it is.
    pub owner: Option<i64>,
    /// The cells that were asked for, in that order.
    pub values: Vec<Value>,
}

impl Readers {
    pub(super) fn new(path: PathBuf, connection: Connection, kept: Arc<[Kept]>, lock: Arc<File>) -> Self {
        Self { path, connection: Arc::new(Mutex::new(connection)), kept, lock }
    }

    /// A reader.
    ///
    /// # Errors
    /// When the engine has none left.
    pub fn reader(&self) -> Result<Reader, HistoryError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner).try_clone();
        let connection = connection.map_err(|error| HistoryError::of(&self.path, &error))?;
        Ok(Reader { path: self.path.clone(), connection, kept: Arc::clone(&self.kept), _lock: Arc::clone(&self.lock) })
    }
}

impl Reader {
    /// Compiles what a query asks of a table; none for a table that is not kept.
    #[must_use]
    pub fn conditions(&self, table: &str, query: &Query<'_>) -> Option<Conditions> {
        self.kept(table).map(|kept| Conditions::compile(kept, query))
    }

    /// Rows of a table, newest first: below the one eid and from the other on, where there are such. Columns are the
    /// declaration's indexes; those that are not stored are NULL.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn page(
        &self,
        table: &str,
        columns: &[usize],
        conditions: &Conditions,
        (below, from): (Option<i64>, Option<i64>),
        limit: usize,
    ) -> Result<Vec<Row>, HistoryError> {
        let Some(kept) = self.kept(table) else { return Ok(Vec::new()) };
        self.read(kept, columns, conditions, (below, from), limit.min(PAGE))
            .map_err(|error| HistoryError::of(&self.path, &error))
    }

    /// The different whole numbers in a column of the rows; none when there are more than `most`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn numbers(
        &self,
        table: &str,
        column: usize,
        conditions: &Conditions,
        most: usize,
    ) -> Result<Option<HashSet<i64>>, HistoryError> {
        let place = self.kept(table).and_then(|kept| Some((kept, *kept.columns.get(column)?)));
        let Some((kept, column)) = place.filter(|(kept, column)| kept.place(column) == Place::Stored) else {
            return Ok(None);
        };
        let limit = most.saturating_add(1);
        let sql = format!("SELECT DISTINCT {} FROM {}{} LIMIT {limit}", column.name, kept.name(), conditions.sql());
        let read = || {
            let mut statement = self.connection.prepare(&sql)?;
            let cells = statement.query_map(duckdb::params_from_iter(conditions.parameters()), |row| row.get(0))?;
            cells.collect::<duckdb::Result<Vec<Option<i64>>>>()
        };
        let cells = read().map_err(|error| HistoryError::of(&self.path, &error))?;
        Ok((cells.len() <= most).then(|| cells.into_iter().flatten().collect()))
    }

    /// Walks a table's rows, newest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn walk(self, table: &str, columns: Vec<usize>, conditions: Conditions) -> Result<Cursor, HistoryError> {
        let Some(kept) = self.kept(table) else {
            let place = (0, None);
            return Ok(Cursor {
                reader: self,
                table: String::new(),
                columns,
                conditions,
                place,
                low: 0,
                done: true,
                span: 0,
            });
        };
        let sql = format!("SELECT count(*), min({0}), max({0}) FROM {1}", kept.key, kept.name());
        let read = self.connection.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        let (count, low, high): (i64, Option<i64>, Option<i64>) =
            read.map_err(|error| HistoryError::of(&self.path, &error))?;
        let (low, high) = (low.unwrap_or(0), high.unwrap_or(0));
        let rows = i128::from(count.max(1));
        // As many as fill a page, were they evenly spread.
        let span = (i128::from(high) - i128::from(low) + 1) * PAGE as i128 / rows + 1;
        let span = i64::try_from(span).unwrap_or(i64::MAX);
        let (table, done) = (table.to_owned(), count == 0);
        Ok(Cursor { reader: self, table, columns, conditions, place: (high, None), low, done, span })
    }

    fn kept(&self, table: &str) -> Option<&Kept> {
        self.kept.iter().find(|kept| kept.name() == table)
    }

    fn read(
        &self,
        kept: &Kept,
        columns: &[usize],
        conditions: &Conditions,
        (below, from): (Option<i64>, Option<i64>),
        limit: usize,
    ) -> duckdb::Result<Vec<Row>> {
        let key = kept.key;
        let mut conditions = conditions.clone();
        // Written out: what the planner knows it compares with the least and the greatest of each block.
        if let Some(below) = below {
            conditions.push(format!("{key} < {below}"), []);
        }
        if let Some(from) = from {
            conditions.push(format!("{key} >= {from}"), []);
        }
        let places: Vec<_> = columns
            .iter()
            .map(|index| kept.columns.get(*index).map_or(Place::Nowhere, |column| kept.place(column)))
            .collect();
        let mut sql = format!("SELECT {key}, owner");
        for (index, place) in columns.iter().zip(&places) {
            let name = match place {
                Place::Stored => kept.columns.get(*index).map_or("NULL", |column| column.name),
                Place::Seconds => NANOSECONDS,
                Place::Nowhere => "NULL",
            };
            let _ = write!(sql, ", {name}");
        }
        let _ = write!(sql, " FROM {}{} ORDER BY {key} DESC LIMIT {limit}", kept.name(), conditions.sql());
        let mut statement = self.connection.prepare(&sql)?;
        let mut rows = statement.query(duckdb::params_from_iter(conditions.parameters()))?;
        let mut page = Vec::new();
        while let Some(row) = rows.next()? {
            let cell = |(index, place): (usize, &Place)| {
                row.get_ref(index + 2).map(|cell| match (place, value(cell)) {
                    (Place::Seconds, Value::Integer(time_ns)) => Value::Integer(time_ns.div_euclid(1_000_000_000)),
                    (_, value) => value,
                })
            };
            let values = places.iter().enumerate().map(cell).collect::<duckdb::Result<_>>()?;
            page.push(Row { eid: row.get(0)?, owner: row.get(1)?, values });
        }
        Ok(page)
    }
}

pub(super) fn value(cell: ValueRef<'_>) -> Value {
    match cell {
        ValueRef::BigInt(integer) => Value::Integer(integer),
        ValueRef::Int(integer) => integer.into(),
        ValueRef::Double(double) => Value::Double(double),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into()),
        _ => Value::Null,
    }
}
