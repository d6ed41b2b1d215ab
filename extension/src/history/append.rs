//! Appending: one transaction a flush.

use duckdb::types::{ToSql, ToSqlOutput, Value as Owned, ValueRef};
use duckdb::{Transaction, appender_params_from_iter, params};

use super::schema::Kept;
use super::{History, HistoryError};
use crate::tables::ColumnType;
use crate::value::Value;

/// How far what is stored goes. It is written with the rows, so it is never ahead of them or behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mark {
    /// The highest eid that was ever given.
    pub eid: i64,
    /// The collector's position.
    pub position: i64,
    /// What else the collector needs to go on from there.
    pub data: Vec<u8>,
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
            let data: Option<Vec<u8>> = row.get(2)?;
            Ok(Mark { eid: row.get(0)?, position: row.get(1)?, data: data.unwrap_or_default() })
        };
        self.connection
            .query_row("SELECT eid, position, data FROM meta", [], read)
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
        let names: Vec<_> = stored.iter().map(|(_, column)| column.name).chain(["owner"]).collect();
        let mut appender = self.transaction.appender_with_columns(kept.name(), &names)?;
        for (values, owner) in rows {
            let cells =
                stored.iter().map(|(index, column)| Cell(values.get(*index).unwrap_or(&Value::Null), column.kind));
            let owner = owner.map_or(Value::Null, Value::Integer);
            appender.append_row(appender_params_from_iter(cells.chain([Cell(&owner, ColumnType::BigInt)])))?;
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
            .execute("UPDATE meta SET eid = ?, position = ?, data = ?", params![mark.eid, mark.position, mark.data])
            .and_then(|_| transaction.commit())
            .map_err(|error| HistoryError::of(&history.path, &error))?;
        history.protect();
        Ok(())
    }
}

/// A cell for a column of that type. A value of another type, which no declaration gives, is stored as NULL.
pub(super) struct Cell<'a>(pub(super) &'a Value, pub(super) ColumnType);

impl ToSql for Cell<'_> {
    #[allow(clippy::cast_precision_loss)] // a DOUBLE column was asked for
    fn to_sql(&self) -> duckdb::Result<ToSqlOutput<'_>> {
        Ok(match (self.0, self.1) {
            (Value::Integer(integer), ColumnType::Integer | ColumnType::BigInt) => {
                ToSqlOutput::Borrowed(ValueRef::BigInt(*integer))
            }
            (Value::Integer(integer), ColumnType::Double) => ToSqlOutput::Borrowed(ValueRef::Double(*integer as f64)),
            (Value::Double(double), ColumnType::Double) => ToSqlOutput::Borrowed(ValueRef::Double(*double)),
            (Value::Text(text), ColumnType::Text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            _ => ToSqlOutput::Owned(Owned::Null),
        })
    }
}
