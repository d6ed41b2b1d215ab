//! Rows that can still change, stored for the next recorder alone: it goes on with them or closes them.
//!
//! Queries never read them here, for they are in memory. They come and go in the transaction that appends finished rows,
//! so that a row is in one of the two at any moment. All are in one table, with their cells as JSON: to come and go, a row
//! of fifty columns would cost the engine fifty blocks of memory.

use std::collections::HashMap;

use duckdb::params;
use serde_json::{Map, Value as Json};

use super::append::Flush;
use super::{History, HistoryError};
use crate::record::rows::Identity;
use crate::tables::{self, Column, Table};
use crate::value::Value;

/// Keys in one statement.
const KEYS: usize = 1000;

/// A row that can still change.
#[derive(Debug, Clone, PartialEq)]
pub struct RunningRow {
    /// Its cells, in the declaration's order.
    pub values: Vec<Value>,
    /// The uid whose it is.
    pub owner: Option<i64>,
    /// What the collector knows it by.
    pub identity: Identity,
}

/// A running row that was found.
#[derive(Clone)]
pub struct FoundRow {
    /// Its table.
    pub table: &'static dyn Table,
    /// Its key there.
    pub key: i64,
    /// The boot that it is of.
    pub boot: String,
    /// The row.
    pub row: RunningRow,
}

impl History {
    /// The rows that could still change when they were stored.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn running(&self) -> Result<Vec<FoundRow>, HistoryError> {
        let read = || {
            let sql = "SELECT of, key, boot, owner, identity, cells FROM running ORDER BY key";
            let mut statement = self.connection.prepare(sql)?;
            let mut rows = statement.query([])?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let (of, identity, cells): (String, String, String) = (row.get(0)?, row.get(4)?, row.get(5)?);
                if let Some(table) = tables::find(&of) {
                    let values = from_json(&table.columns(), &cells);
                    let identity = serde_json::from_str(&identity).unwrap_or_default();
                    let row_of = RunningRow { values, owner: row.get(3)?, identity };
                    found.push(FoundRow { table, key: row.get(1)?, boot: row.get(2)?, row: row_of });
                }
            }
            Ok(found)
        };
        read().map_err(|error| HistoryError::of(&self.path, &error))
    }
}

impl History {
    /// When nothing was recorded, from and to, in UNIX nanoseconds; the oldest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn gaps(&self) -> Result<Vec<(i64, i64)>, HistoryError> {
        let read = || {
            let mut statement = self.connection.prepare("SELECT ended, began FROM gaps ORDER BY ended")?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<duckdb::Result<_>>()
        };
        read().map_err(|error| HistoryError::of(&self.path, &error))
    }
}

impl Flush<'_> {
    /// Stores from when to when nothing was recorded, and forgets what is older than the oldest row may be.
    ///
    /// # Errors
    /// When it cannot be stored; then nothing of the flush is.
    pub fn gap(&mut self, (ended, began): (i64, i64), oldest: i64) -> Result<(), HistoryError> {
        self.transaction
            .execute("DELETE FROM gaps WHERE ended = ? OR began < ?", [ended, oldest])
            .and_then(|_| self.transaction.execute("INSERT INTO gaps VALUES (?, ?)", [ended, began]))
            .map(drop)
            .map_err(|error| HistoryError::of(&self.history.path, &error))
    }

    /// Stores rows that began.
    ///
    /// # Errors
    /// When they cannot be stored; then nothing of the flush is.
    pub fn begin(&mut self, table: &dyn Table, boot: &str, rows: &[RunningRow]) -> Result<(), HistoryError> {
        let (name, columns) = (table.info().name, table.columns());
        let append = || {
            let mut appender = self.transaction.appender("running")?;
            for row in rows {
                let Some(key) = key(&row.values, table.key()) else { continue };
                let cells = to_json(&columns, &row.values);
                let identity = serde_json::to_string(&row.identity).unwrap_or_default();
                appender.append_row(params![name, key, boot, row.owner, identity, cells])?;
            }
            appender.flush()
        };
        append().map_err(|error| HistoryError::of(&self.history.path, &error))
    }

    /// Removes rows with these keys: they have ended, or others take their place.
    ///
    /// # Errors
    /// When they cannot be removed; then nothing of the flush is stored.
    pub fn end(&mut self, table: &str, keys: &[i64]) -> Result<(), HistoryError> {
        for keys in keys.chunks(KEYS) {
            let list: Vec<_> = keys.iter().map(ToString::to_string).collect();
            let sql = format!("DELETE FROM running WHERE of = '{table}' AND key IN ({})", list.join(", "));
            self.transaction.execute_batch(&sql).map_err(|error| HistoryError::of(&self.history.path, &error))?;
        }
        Ok(())
    }
}

/// The key of a row.
pub(super) fn key(row: &[Value], place: usize) -> Option<i64> {
    if let Some(Value::Integer(key)) = row.get(place) { Some(*key) } else { None }
}

/// The cells that are known, by the names of their columns.
fn to_json(columns: &[&Column], values: &[Value]) -> String {
    let cell = |(column, value): (&&Column, &Value)| {
        let known = (*value != Value::Null).then(|| serde_json::to_value(value).ok()).flatten();
        Some((column.name.to_owned(), known?))
    };
    Json::Object(columns.iter().zip(values).filter_map(cell).collect::<Map<_, _>>()).to_string()
}

/// Cells of columns that another version has are left out.
fn from_json(columns: &[&Column], cells: &str) -> Vec<Value> {
    let mut cells: HashMap<String, Json> = serde_json::from_str(cells).unwrap_or_default();
    let value = |column: &&Column| match cells.remove(column.name) {
        Some(Json::Number(number)) => {
            number.as_i64().map(Value::Integer).or(number.as_f64().map(Value::Double)).unwrap_or(Value::Null)
        }
        Some(Json::String(text)) => text.into(),
        _ => Value::Null,
    };
    columns.iter().map(value).collect()
}
