//! What the file holds, made from the tables' declarations.
//!
//! A column that a declaration has and the file lacks is added when the file is opened; one that only the file has
//! stays, and is not filled any more. All other changes are a step here and a higher [`VERSION`]
//! (`docs/SCHEMA_CHANGES.md`).

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use duckdb::Connection;

use super::HistoryError;
use crate::tables::{self, Column, ColumnType, Table};

/// Version of what is stored. A file of a higher one is refused.
pub const VERSION: i64 = 2;

/// Steps to a version from the one before it, the first to version 1. Never change one that was released.
const STEPS: [&str; 2] = [
    "CREATE TABLE meta (
    version BIGINT NOT NULL, created_by VARCHAR NOT NULL, eid BIGINT NOT NULL, position BIGINT NOT NULL,
    series BIGINT NOT NULL, flush BIGINT NOT NULL
 );
 INSERT INTO meta VALUES (0, '', 0, 0, 0, 0);
 CREATE TABLE running (
    of VARCHAR NOT NULL, key BIGINT NOT NULL, boot VARCHAR NOT NULL, owner BIGINT, identity VARCHAR NOT NULL,
    cells VARCHAR NOT NULL
 );
 CREATE TABLE gaps (ended BIGINT NOT NULL, began BIGINT NOT NULL)",
    "ALTER TABLE meta ADD COLUMN complete BIGINT DEFAULT 0;
 UPDATE meta SET complete = eid;
 CREATE TABLE consumers (
    name VARCHAR NOT NULL, of VARCHAR NOT NULL, answered BIGINT NOT NULL, given VARCHAR NOT NULL, execution VARCHAR NOT NULL,
    proof VARCHAR NOT NULL, used BIGINT NOT NULL
 )",
];

/// Seconds, which are not stored where nanoseconds are.
const SECONDS: &str = "time";
pub(super) const NANOSECONDS: &str = "time_ns";
/// The number of a row.
pub(super) const EID: &str = "eid";

/// Numbers that are near their row's eid. What they are before it is stored: a byte or two in place of five.
const NEAR_EID: [&str; 3] = [NANOSECONDS, "open_eid", "subject_eid"];

/// A table that is kept.
pub(super) struct Kept {
    pub(super) table: &'static dyn Table,
    pub(super) columns: Vec<&'static Column>,
    /// The column that orders its rows: no two have the same.
    pub(super) key: &'static str,
    /// Of the rows that it stores.
    pub(super) extent: Arc<Extent>,
    /// Of those that are another table's as well.
    with: Option<Arc<Extent>>,
}

/// How far a table's rows reach: never less than they do, so that no query has to ask for it.
#[derive(Default)]
pub(super) struct Extent {
    /// How many rows, about.
    pub(super) rows: AtomicI64,
    /// Of the key.
    pub(super) keys: Range,
    /// By how much the eid is above the time.
    pub(super) delays: Range,
}

/// The least and the greatest of the numbers that were added.
pub(super) struct Range(AtomicI64, AtomicI64);

impl Default for Range {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MAX), AtomicI64::new(i64::MIN))
    }
}

impl Range {
    pub(super) fn add(&self, number: i64) {
        self.0.fetch_min(number, Ordering::Relaxed);
        self.1.fetch_max(number, Ordering::Relaxed);
    }

    /// None when there are no numbers.
    pub(super) fn get(&self) -> Option<(i64, i64)> {
        let (least, greatest) = (self.0.load(Ordering::Relaxed), self.1.load(Ordering::Relaxed));
        (least <= greatest).then_some((least, greatest))
    }
}

/// Where a column's cells are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the column of that name.
    Stored,
    /// As what it is before the eid.
    BeforeEid,
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
    fn new(table: &'static dyn Table) -> Self {
        let columns = table.columns();
        let key = columns.get(table.key()).map_or("", |column| column.name);
        Self { table, columns, key, extent: Arc::default(), with: None }
    }

    /// What its rows are read from: the table, with the rows of another one that are its own as well.
    pub(super) fn source(&self) -> Cow<'static, str> {
        let name = self.name();
        match self.table.with() {
            None => name.into(),
            Some(with) => {
                let columns: Vec<_> = self.stored().map(|(_, _, name)| name).collect();
                let columns = columns.join(", ");
                format!("(SELECT owner, {columns} FROM {name} UNION ALL SELECT owner, {columns} FROM ({}))", with.sql)
                    .into()
            }
        }
    }

    fn extents(&self) -> impl Iterator<Item = &Extent> {
        [Some(&*self.extent), self.with.as_deref()].into_iter().flatten()
    }

    /// How many rows are read, about.
    pub(super) fn rows(&self) -> i64 {
        self.extents().map(|extent| extent.rows.load(Ordering::Relaxed)).sum()
    }

    /// The least and the greatest of the keys that are read; none when there are none.
    pub(super) fn keys(&self) -> Option<(i64, i64)> {
        Self::reach(self.extents().map(|extent| extent.keys.get()))
    }

    /// The same of what eids are above their times.
    pub(super) fn delays(&self) -> Option<(i64, i64)> {
        Self::reach(self.extents().map(|extent| extent.delays.get()))
    }

    fn reach(ranges: impl Iterator<Item = Option<(i64, i64)>>) -> Option<(i64, i64)> {
        ranges.flatten().reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))
    }

    pub(super) fn name(&self) -> &'static str {
        self.table.info().name
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column.name == name)
    }

    pub(super) fn place(&self, column: &Column) -> Place {
        if column.is_of_query() {
            Place::Nowhere
        } else if column.name == SECONDS && self.has(NANOSECONDS) {
            Place::Seconds
        } else if NEAR_EID.contains(&column.name) && self.key == EID {
            Place::BeforeEid
        } else {
            Place::Stored
        }
    }

    /// The stored columns, by their index in the declaration, with their names in the file.
    pub(super) fn stored(&self) -> impl Iterator<Item = (usize, &'static Column, Cow<'static, str>)> {
        let columns = self.columns.iter().copied().enumerate();
        columns.filter_map(|(index, column)| match self.place(column) {
            Place::Stored => Some((index, column, column.name.into())),
            Place::BeforeEid => Some((index, column, before_eid(column.name).into())),
            Place::Seconds | Place::Nowhere => None,
        })
    }

    /// What a column is in SQL; of seconds, their nanoseconds.
    pub(super) fn sql(&self, column: &Column) -> Cow<'static, str> {
        match self.place(column) {
            Place::Stored => column.name.into(),
            Place::BeforeEid => format!("({EID} - {})", before_eid(column.name)).into(),
            Place::Seconds => self.nanoseconds(),
            Place::Nowhere => "NULL::BIGINT".into(),
        }
    }

    /// The time of a row in SQL.
    pub(super) fn nanoseconds(&self) -> Cow<'static, str> {
        let column = self.columns.iter().find(|column| column.name == NANOSECONDS);
        column.map_or("NULL::BIGINT".into(), |column| self.sql(column))
    }

    /// Whether a row's time tells about where its eid is.
    pub(super) fn is_in_order_of_time(&self) -> bool {
        self.key == EID && self.has(NANOSECONDS)
    }

    /// Looks how far the rows reach. Where a part of the file is damaged they may reach anywhere.
    pub(super) fn measure(&self, connection: &Connection) {
        let (name, key, extent) = (self.name(), self.key, &self.extent);
        let delays = if self.is_in_order_of_time() { before_eid(NANOSECONDS) } else { "NULL::BIGINT".to_owned() };
        let sql = format!("SELECT count(*), min({key}), max({key}), min({delays}), max({delays}) FROM {name}");
        let read = connection.query_row(&sql, [], |row| {
            extent.rows.store(row.get(0)?, Ordering::Relaxed);
            let numbers = (1..5).map(|at| row.get::<_, Option<i64>>(at));
            numbers.collect::<duckdb::Result<Vec<_>>>()
        });
        let numbers = read.unwrap_or_else(|_| [i64::MIN, i64::MAX, i64::MIN, i64::MAX].map(Some).into());
        for (at, number) in numbers.into_iter().enumerate() {
            let range = if at < 2 { &extent.keys } else { &extent.delays };
            if let Some(number) = number {
                range.add(number);
            }
        }
    }
}

fn before_eid(name: &str) -> String {
    format!("{EID}_minus_{name}")
}

/// The tables that are kept.
pub(super) fn kept() -> Vec<Kept> {
    let mut kept: Vec<_> = tables::all().into_iter().filter(|table| table.is_kept()).map(Kept::new).collect();
    let extents: Vec<_> = kept.iter().map(|kept| (kept.name(), Arc::clone(&kept.extent))).collect();
    for one in &mut kept {
        let with = one.table.with().and_then(|with| extents.iter().find(|(name, _)| *name == with.table));
        one.with = with.map(|(_, extent)| Arc::clone(extent));
    }
    kept
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
    for (_, column, stored) in kept.stored() {
        let wanted = type_of(column.kind);
        match there.iter().find(|(other, _)| *other == stored) {
            None => {
                connection
                    .execute_batch(&format!("ALTER TABLE {name} ADD COLUMN {stored} {wanted}"))
                    .map_err(failed)?;
            }
            Some((_, kind)) if kind != wanted => {
                let reason = format!("{name}.{stored} is {kind}, not {wanted}");
                return Err(HistoryError::Newer { path: path.into(), reason });
            }
            Some(_) => {}
        }
    }
    Ok(())
}
