//! Rows that can still change, stored for the next recorder alone: it goes on with them or closes them.
//!
//! Queries never read them here, for they are in memory. They come and go in the transaction that appends finished rows,
//! so that a row is in one of the two at any moment.

use duckdb::appender_params_from_iter;
use duckdb::types::ValueRef;

use super::append::{Flush, cell, number};
use super::schema::Kept;
use super::{History, HistoryError};
use crate::event::Mark;
use crate::record::rows::Identity;
use crate::tables::ColumnType;
use crate::value::Value;

/// Columns of what the collector knows a row by.
pub(super) const IDENTITY: [&str; 4] = ["start_ns", "mark", "main", "id"];

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
            let sql = format!("SELECT owner, boot, {}, {} FROM {}", IDENTITY.join(", "), names.join(", "), kept.name());
            let mut statement = self.connection.prepare(&sql)?;
            let row = |row: &duckdb::Row<'_>| {
                let boot: Option<String> = row.get(1)?;
                let mut values = vec![Value::Null; kept.columns.len()];
                for (cell, (place, _, _)) in stored.iter().enumerate() {
                    if let Some(here) = values.get_mut(*place) {
                        *here = value(row.get_ref(cell + 2 + IDENTITY.len())?);
                    }
                }
                let numbers = [row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?];
                Ok((boot.unwrap_or_default(), RunningRow { values, owner: row.get(0)?, identity: identity(numbers) }))
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
        let names: Vec<_> =
            stored.iter().map(|(_, _, name)| &**name).chain(["owner", "boot"]).chain(IDENTITY).collect();
        let boot = Value::Text(boot.into());
        let append = || {
            let mut appender = self.transaction.appender_with_columns(kept.name(), &names)?;
            for row in rows {
                let cells = stored
                    .iter()
                    .map(|(place, column, _)| cell(row.values.get(*place).unwrap_or(&Value::Null), column.kind));
                let more = [number(row.owner), cell(&boot, ColumnType::Text)];
                let identity = numbers(row.identity).map(number);
                appender.append_row(appender_params_from_iter(cells.chain(more).chain(identity)))?;
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

/// In the order of [`IDENTITY`]. All bits of a number are kept.
fn numbers(identity: Identity) -> [Option<i64>; 4] {
    let Identity { start_ns, mark, main, id } = identity;
    let mark = mark.map(|mark| (u64::from(mark.slot) << 32 | u64::from(mark.generation)).cast_signed());
    [Some(start_ns.cast_signed()), mark, Some(main.into()), Some(id.cast_signed())]
}

fn identity([start_ns, mark, main, id]: [Option<i64>; 4]) -> Identity {
    let whole = |number: Option<i64>| number.unwrap_or(0).cast_unsigned();
    let mark = mark.map(i64::cast_unsigned).and_then(|mark| {
        let (slot, generation) = (mark >> 32, mark & u64::from(u32::MAX));
        Some(Mark { slot: slot.try_into().ok()?, generation: generation.try_into().ok()? })
    });
    Identity { start_ns: whole(start_ns), mark, main: main == Some(1), id: whole(id) }
}
