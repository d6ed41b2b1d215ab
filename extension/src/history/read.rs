//! Reading: pages of rows, newest first.
//!
//! Each reader has a connection of its own and sees the file as it was when its page began. It waits for no flush and
//! no checkpoint, and a page is all that is in memory.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use duckdb::Connection;
use duckdb::types::{Value as Parameter, ValueRef};

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
}

/// A connection for queries, of one thread at a time.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    connection: Connection,
    kept: Arc<[Kept]>,
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
    pub(super) fn new(path: PathBuf, connection: Connection, kept: Arc<[Kept]>) -> Self {
        Self { path, connection: Arc::new(Mutex::new(connection)), kept }
    }

    /// A reader.
    ///
    /// # Errors
    /// When the engine has none left.
    pub fn reader(&self) -> Result<Reader, HistoryError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner).try_clone();
        let connection = connection.map_err(|error| HistoryError::of(&self.path, &error))?;
        Ok(Reader { path: self.path.clone(), connection, kept: Arc::clone(&self.kept) })
    }
}

impl Reader {
    /// Compiles what a query asks of a table; none for a table that is not kept.
    #[must_use]
    pub fn conditions(&self, table: &str, query: &Query<'_>) -> Option<Conditions> {
        self.kept(table).map(|kept| Conditions::compile(kept, query))
    }

    /// The next rows of a table, newest first: below that eid, or from the newest on. An empty page is the end. Columns
    /// are the declaration's indexes; those that are not stored are NULL.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn page(
        &self,
        table: &str,
        columns: &[usize],
        conditions: &Conditions,
        below: Option<i64>,
        limit: usize,
    ) -> Result<Vec<Row>, HistoryError> {
        let Some(kept) = self.kept(table) else { return Ok(Vec::new()) };
        self.read(kept, columns, conditions, below, limit.min(PAGE))
            .map_err(|error| HistoryError::of(&self.path, &error))
    }

    fn kept(&self, table: &str) -> Option<&Kept> {
        self.kept.iter().find(|kept| kept.name() == table)
    }

    fn read(
        &self,
        kept: &Kept,
        columns: &[usize],
        conditions: &Conditions,
        below: Option<i64>,
        limit: usize,
    ) -> duckdb::Result<Vec<Row>> {
        let key = kept.key;
        let mut conditions = conditions.clone();
        if let Some(below) = below {
            conditions.push(format!("{key} < ?"), [Parameter::BigInt(below)]);
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

fn value(cell: ValueRef<'_>) -> Value {
    match cell {
        ValueRef::BigInt(integer) => Value::Integer(integer),
        ValueRef::Int(integer) => integer.into(),
        ValueRef::Double(double) => Value::Double(double),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into()),
        _ => Value::Null,
    }
}
