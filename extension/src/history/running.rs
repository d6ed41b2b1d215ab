//! Rows that can still change, stored for the next recorder alone: it goes on with them or closes them.
//!
//! Queries never read them here, for they are in memory. They come and go in the transaction that appends finished rows,
//! so that a row is in one of the two at any moment.

use duckdb::appender_params_from_iter;
use duckdb::types::ValueRef;

use super::append::{Flush, cell, number};
use super::schema::Kept;
use super::{History, HistoryError};
use crate::tables::ColumnType;
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
    /// Of a process: its start, nanoseconds since boot.
    pub start_ns: Option<i64>,
}

/// Running rows of a table, each with the boot that it is of.
#[derive(Debug, Clone)]
pub struct RunningRows {
    /// The table.
    pub table: &'static str,
    /// The columns.
    pub columns: Vec<&'static str>,
    /// The rows.
    pub rows: Vec<(String, RunningRow)>,
}

impl History {
    /// The rows that could still change when they were stored.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn running(&self) -> Result<Vec<RunningRows>, HistoryError> {
        let read = |kept: &Kept| {
            let stored: Vec<_> = kept.stored().collect();
            let names: Vec<_> = stored.iter().map(|(_, _, name)| &**name).collect();
            let sql = format!("SELECT owner, boot, start_ns, {} FROM {}", names.join(", "), kept.name());
            let mut statement = self.connection.prepare(&sql)?;
            let row = |row: &duckdb::Row<'_>| {
                let boot: Option<String> = row.get(1)?;
                let mut values = vec![Value::Null; kept.columns.len()];
                for (cell, (place, _, _)) in stored.iter().enumerate() {
                    if let Some(here) = values.get_mut(*place) {
                        *here = value(row.get_ref(cell + 3)?);
                    }
                }
                Ok((boot.unwrap_or_default(), RunningRow { values, owner: row.get(0)?, start_ns: row.get(2)? }))
            };
            let rows = statement.query_map([], row)?.collect::<duckdb::Result<_>>()?;
            let columns = kept.columns.iter().map(|column| column.name).collect();
            Ok(RunningRows { table: kept.table.info().name, columns, rows })
        };
        self.running
            .iter()
            .map(read)
            .collect::<duckdb::Result<_>>()
            .map_err(|error| HistoryError::of(&self.path, &error))
    }
}

impl Flush<'_> {
    /// Stores rows that began.
    ///
    /// # Errors
    /// When they cannot be stored; then nothing of the flush is.
    pub fn begin(&mut self, table: &str, boot: &str, rows: &[RunningRow]) -> Result<(), HistoryError> {
        let Some(kept) = self.history.running_of(table) else { return Ok(()) };
        let stored: Vec<_> = kept.stored().collect();
        let names: Vec<_> = stored.iter().map(|(_, _, name)| &**name).chain(["owner", "boot", "start_ns"]).collect();
        let boot = Value::Text(boot.into());
        let append = || {
            let mut appender = self.transaction.appender_with_columns(kept.name(), &names)?;
            for row in rows {
                let cells = stored
                    .iter()
                    .map(|(place, column, _)| cell(row.values.get(*place).unwrap_or(&Value::Null), column.kind));
                let more = [number(row.owner), cell(&boot, ColumnType::Text), number(row.start_ns)];
                appender.append_row(appender_params_from_iter(cells.chain(more)))?;
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
        let Some(kept) = self.history.running_of(table) else { return Ok(()) };
        for keys in keys.chunks(KEYS) {
            let list: Vec<_> = keys.iter().map(ToString::to_string).collect();
            let sql = format!("DELETE FROM {} WHERE {} IN ({})", kept.name(), kept.key, list.join(", "));
            self.transaction.execute_batch(&sql).map_err(|error| HistoryError::of(&self.history.path, &error))?;
        }
        Ok(())
    }
}

impl History {
    fn running_of(&self, table: &str) -> Option<&Kept> {
        self.running.iter().find(|kept| kept.table.info().name == table)
    }
}

fn value(cell: ValueRef<'_>) -> Value {
    match cell {
        ValueRef::BigInt(integer) => Value::Integer(integer),
        ValueRef::Double(double) => Value::Double(double),
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into()),
        _ => Value::Null,
    }
}
