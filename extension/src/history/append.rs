//! Appending: one transaction a flush.

use std::sync::atomic::Ordering;

use duckdb::types::{ToSqlOutput, Value as Owned, ValueRef};
use duckdb::{Transaction, appender_params_from_iter, params};

use super::schema::{EID, Kept, NANOSECONDS, Place};
use super::{History, HistoryError};
use crate::tables::ColumnType;
use crate::value::Value;

/// How far what is stored goes. It is written with the rows, so it is never ahead of them or behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    /// The highest eid that was ever given.
    pub eid: i64,
    /// How far the collector had read when the rows were as they are: the position in the series of events.
    pub position: i64,
    /// And which series that is.
    pub series: i64,
    /// Which flush this is: when it was, UNIX nanoseconds; no two have the same.
    pub flush: i64,
    /// Up to which eid all events are stored.
    pub complete: i64,
}

/// A flush that was begun. Dropped without [`Flush::commit`], nothing of it is stored.
#[derive(Debug)]
pub struct Flush<'a> {
    pub(super) history: &'a History,
    pub(super) transaction: Transaction<'a>,
}

impl History {
    /// How far the stored rows go.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn mark(&self) -> Result<Mark, HistoryError> {
        let read = |row: &duckdb::Row<'_>| {
            Ok(Mark {
                eid: row.get(0)?,
                position: row.get(1)?,
                series: row.get(2)?,
                flush: row.get(3)?,
                complete: row.get(4)?,
            })
        };
        self.connection
            .query_row("SELECT eid, position, series, flush, complete FROM meta", [], read)
            .map_err(|error| HistoryError::of(&self.path, &error))
    }

    /// Begins a flush.
    ///
    /// # Errors
    /// When the engine does not.
    pub fn flush(&mut self) -> Result<Flush<'_>, HistoryError> {
        let history = &*self;
        let transaction =
            history.connection.unchecked_transaction().map_err(|error| HistoryError::of(&history.path, &error))?;
        Ok(Flush { history, transaction })
    }
}

impl Flush<'_> {
    /// Appends rows of a table, with the uid whose each row is. A row has its values in the declaration's order. Rows of
    /// tables that are not kept are left out.
    ///
    /// # Errors
    /// When they cannot be stored; then nothing of the flush is.
    pub fn append(
        &mut self,
        table: &str,
        rows: &mut dyn Iterator<Item = (&[Value], Option<i64>)>,
    ) -> Result<(), HistoryError> {
        let Some(kept) = self.history.kept.iter().find(|kept| kept.table.info().name == table) else { return Ok(()) };
        self.append_to(kept, rows).map_err(|error| HistoryError::of(&self.history.path, &error))
    }

    fn append_to(&self, kept: &Kept, rows: &mut dyn Iterator<Item = (&[Value], Option<i64>)>) -> duckdb::Result<()> {
        let stored: Vec<_> = kept.stored().collect();
        let places: Vec<_> =
            stored.iter().map(|(index, column, _)| (*index, column.kind, kept.place(column))).collect();
        let names: Vec<_> = stored.iter().map(|(_, _, name)| &**name).chain(["owner"]).collect();
        let (key, extent) = (kept.table.key(), &kept.extent);
        let time = kept.columns.iter().position(|column| column.name == NANOSECONDS && kept.key == EID);
        let integer = |values: &[Value], index: usize| match values.get(index) {
            Some(Value::Integer(integer)) => Some(*integer),
            _ => None,
        };
        let mut appender = self.transaction.appender_with_columns(kept.name(), &names)?;
        for (values, owner) in rows {
            let eid = integer(values, key);
            let before = |index| eid?.checked_sub(integer(values, index)?);
            let cells = places.iter().map(|(index, kind, place)| match place {
                Place::BeforeEid => number(before(*index)),
                _ => cell(values.get(*index).unwrap_or(&Value::Null), *kind),
            });
            appender.append_row(appender_params_from_iter(cells.chain([number(owner)])))?;
            extent.rows.fetch_add(1, Ordering::Relaxed);
            if let Some(eid) = eid {
                extent.keys.add(eid);
            }
            if let Some(delay) = time.and_then(before) {
                extent.delays.add(delay);
            }
        }
        appender.flush()
    }

    /// Removes the rows with these keys: others are going to take their place.
    ///
    /// # Errors
    /// When they cannot be removed; then nothing of the flush is stored.
    pub fn remove(&mut self, table: &str, keys: &[i64]) -> Result<(), HistoryError> {
        let Some(kept) = self.history.kept.iter().find(|kept| kept.name() == table) else { return Ok(()) };
        let list: Vec<_> = keys.iter().map(ToString::to_string).collect();
        let sql = format!("DELETE FROM {} WHERE {} IN ({})", kept.name(), kept.key, list.join(", "));
        self.transaction.execute_batch(&sql).map_err(|error| HistoryError::of(&self.history.path, &error))
    }

    /// Makes the flush durable.
    ///
    /// # Errors
    /// When it cannot be stored; then nothing of it is.
    pub fn commit(self, mark: &Mark) -> Result<(), HistoryError> {
        let Self { history, transaction } = self;
        transaction
            .execute(
                "UPDATE meta SET eid = ?, position = ?, series = ?, flush = ?, complete = ?",
                params![mark.eid, mark.position, mark.series, mark.flush, mark.complete],
            )
            .and_then(|_| transaction.commit())
            .map_err(|error| HistoryError::of(&history.path, &error))?;
        history.protect();
        Ok(())
    }
}

fn number(integer: Option<i64>) -> ToSqlOutput<'static> {
    integer.map_or(ToSqlOutput::Owned(Owned::Null), |integer| ToSqlOutput::Borrowed(ValueRef::BigInt(integer)))
}

/// A cell for a column of that type. A value of another type, which no declaration gives, is stored as NULL.
#[allow(clippy::cast_precision_loss)] // a DOUBLE column was asked for
fn cell(value: &Value, kind: ColumnType) -> ToSqlOutput<'_> {
    match (value, kind) {
        (Value::Integer(integer), ColumnType::Integer | ColumnType::BigInt) => number(Some(*integer)),
        (Value::Integer(integer), ColumnType::Double) => ToSqlOutput::Borrowed(ValueRef::Double(*integer as f64)),
        (Value::Double(double), ColumnType::Double) => ToSqlOutput::Borrowed(ValueRef::Double(*double)),
        (Value::Text(text), ColumnType::Text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        _ => number(None),
    }
}
