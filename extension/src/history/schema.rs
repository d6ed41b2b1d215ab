//! What the file holds, made from the tables' declarations.
//!
//! A column that a declaration has and the file lacks is added when the file is opened; one that only the file has
//! stays, and is not filled any more. All other changes are a step here and a higher [`VERSION`]
//! (`docs/SCHEMA_CHANGES.md`).

use std::path::Path;

use duckdb::Connection;

use super::HistoryError;
use crate::tables::{self, Column, ColumnType, Table};

/// Version of what is stored. A file of a higher one is refused.
pub const VERSION: i64 = 1;

/// Steps to a version from the one before it, the first to version 1. Never change one that was released.
const STEPS: [&str; 1] = ["CREATE TABLE meta (
    version BIGINT NOT NULL, created_by VARCHAR NOT NULL, eid BIGINT NOT NULL, position BIGINT NOT NULL, data BLOB
 );
 INSERT INTO meta VALUES (0, '', 0, 0, NULL);
 CREATE TABLE running (of VARCHAR, key BIGINT, boot VARCHAR, owner BIGINT, start_ns BIGINT, cells VARCHAR);
 CREATE TABLE gaps (ended BIGINT, began BIGINT)"];

/// Seconds, which are not stored where nanoseconds are.
const SECONDS: &str = "time";
pub(super) const NANOSECONDS: &str = "time_ns";

/// A table that is kept.
pub(super) struct Kept {
    name: String,
    pub(super) table: &'static dyn Table,
    pub(super) columns: Vec<&'static Column>,
    /// The column that orders its rows: no two have the same.
    pub(super) key: &'static str,
}

/// Where a column's cells are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the column of that name.
    Stored,
    /// The seconds of `time_ns`.
    Seconds,
    /// Nowhere: NULL.
    Nowhere,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

impl Kept {
    fn new(prefix: &str, table: &'static dyn Table) -> Self {
        let name = format!("{prefix}{}", table.info().name);
        let columns = table.columns();
        let key = columns.get(table.key()).map_or("", |column| column.name);
        Self { name, table, columns, key }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column.name == name)
    }

    pub(super) fn place(&self, column: &Column) -> Place {
        if column.is_of_query() {
            Place::Nowhere
        } else if column.name == SECONDS && self.has(NANOSECONDS) {
            Place::Seconds
        } else {
            Place::Stored
        }
    }

    /// The stored columns, by their index in the declaration.
    pub(super) fn stored(&self) -> impl Iterator<Item = (usize, &'static Column)> {
        self.columns.iter().copied().enumerate().filter(|(_, column)| self.place(column) == Place::Stored)
    }
}

/// The tables that are kept.
pub(super) fn kept() -> Vec<Kept> {
    tables::all().into_iter().filter(|table| table.is_kept()).map(|table| Kept::new("", table)).collect()
}

/// The type in the file. INTEGER is stored as BIGINT, which takes no more room there: an odd value must not stop a flush.
fn type_of(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Text => "VARCHAR",
        ColumnType::Integer | ColumnType::BigInt => "BIGINT",
        ColumnType::Double => "DOUBLE",
    }
}

/// Brings the file to this version.
pub(super) fn migrate(path: &Path, connection: &Connection) -> Result<(), HistoryError> {
    let failed = |error: duckdb::Error| HistoryError::of(path, &error);
    let transaction = connection.unchecked_transaction().map_err(failed)?;
    let found = version(&transaction).map_err(failed)?;
    let newer = || HistoryError::Newer { path: path.into(), reason: format!("schema {found}, known is {VERSION}") };
    let from = usize::try_from(found).map_err(|_| newer())?;
    for step in STEPS.get(from..).ok_or_else(newer)? {
        transaction.execute_batch(step).map_err(failed)?;
    }
    for table in kept() {
        columns(path, &transaction, &table, "owner BIGINT")?;
    }
    if found != VERSION {
        transaction.execute("UPDATE meta SET version = ?", [VERSION]).map_err(failed)?;
    }
    if found == 0 {
        transaction.execute("UPDATE meta SET created_by = ?", [env!("CARGO_PKG_VERSION")]).map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}

/// 0 for an empty file.
fn version(connection: &Connection) -> duckdb::Result<i64> {
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'meta'", [], |row| row.get(0))?;
    if tables == 0 { Ok(0) } else { connection.query_row("SELECT version FROM meta", [], |row| row.get(0)) }
}

/// Makes the table, which has more columns than those declared, or adds the columns that it lacks.
fn columns(path: &Path, connection: &Connection, kept: &Kept, more: &str) -> Result<(), HistoryError> {
    let failed = |error: duckdb::Error| HistoryError::of(path, &error);
    let name = kept.name();
    connection.execute_batch(&format!("CREATE TABLE IF NOT EXISTS {name} ({more})")).map_err(failed)?;
    let mut statement = connection
        .prepare("SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ?")
        .map_err(failed)?;
    let there: Vec<(String, String)> = statement
        .query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))
        .and_then(Iterator::collect)
        .map_err(failed)?;
    for (_, column) in kept.stored() {
        let wanted = type_of(column.kind);
        match there.iter().find(|(other, _)| other == column.name) {
            None => connection
                .execute_batch(&format!("ALTER TABLE {name} ADD COLUMN {} {wanted}", column.name))
                .map_err(failed)?,
            Some((_, kind)) if kind != wanted => {
                let reason = format!("{name}.{} is {kind}, not {wanted}", column.name);
                return Err(HistoryError::Newer { path: path.into(), reason });
            }
            Some(_) => {}
        }
    }
    Ok(())
}
