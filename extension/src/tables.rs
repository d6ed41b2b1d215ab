//! The tables, each declared once.
//!
//! A declaration says what a column is called, what it holds, what type it has and how it is read from a row. All else
//! is made from it: the rows that register the table with osquery and the schema of the embedded engine ([`schema`]),
//! its page in `docs/tables` ([`docs`]), and what a query gets ([`scan`]). So the fronts cannot differ, and a new column
//! is one line.

mod agent_collector;
mod agent_connections;
mod agent_endpoints;
mod agent_events;
mod agent_file_ops;
mod agent_open_files;
mod agent_processes;
mod agent_signatures;
mod ai_agents;
pub mod constraint;
mod consumer;
pub mod docs;
pub mod filter;
#[cfg(test)]
mod golden;
mod lookup;
mod past;
mod pattern;
mod reads;
mod scan;
pub mod schema;
mod viewer;

pub use consumer::{Got, Neighbours, Reader, Running as RunningQuery};
use lookup::Lookup;
pub use reads::{Read, Reads, SHARED_FOR};
pub use scan::{DEFAULT_ROW_CAP, Request, Rows, Scan, ScanError, WINDOW_SECONDS, open, scan};
pub use viewer::{Owner, Viewer};

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::history::RunningRow;
use crate::record::live::Live;
use crate::record::log::{Log, Snapshot};
use crate::record::rows::Identity;
use crate::record::{State, Store};
use crate::value::Value;

/// Type of a column, as SQL names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    /// UTF-8 text.
    Text,
    /// 32 bits: ports, codes, booleans.
    Integer,
    /// 64 bits: ids, counts, bytes, times.
    BigInt,
    /// Floating point.
    Double,
}

impl ColumnType {
    /// The name that osquery and SQLite use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "TEXT",
            Self::Integer => "INTEGER",
            Self::BigInt => "BIGINT",
            Self::Double => "DOUBLE",
        }
    }
}

/// osquery's column options, as bits.
pub mod options {
    /// A constraint on the column is passed to the table.
    pub const INDEX: u8 = 1;
    /// The column changes what the table returns.
    pub const ADDITIONAL: u8 = 4;
    /// An IN list comes as one call.
    pub const OPTIMIZED: u8 = 8;
    /// Left out of `SELECT *`.
    pub const HIDDEN: u8 = 16;
}

/// Columns by which a table is searched, in every table that has them: osquery passes constraints on these on. Which rows
/// are wanted is told by words, too; a query that looks for a few among many would have to take all of them else.
const INDEXED: [&str; 24] = [
    "time",
    "time_ns",
    "eid",
    "start_time",
    "end_time",
    "first_seen",
    "last_seen",
    "agent",
    "agent_id",
    "pid",
    "process_eid",
    "operation",
    "path",
    "remote_host",
    "remote_port",
    "event_type",
    "category",
    "sensitivity",
    "in_project",
    "direction",
    "endpoint_type",
    "expected",
    "state",
    "permission_mode",
];

/// Columns that a plain `SELECT *` leaves out.
const HIDDEN: [&str; 3] = [CONSUMER, MAX_ROWS, "ns_pid"];

/// Columns of which a constraint lifts the default window.
pub(crate) const TIME_COLUMNS: [&str; 7] =
    ["time", "time_ns", "eid", "start_time", "end_time", "first_seen", "last_seen"];

/// The hidden column by which a query sets its own row cap.
pub(crate) const MAX_ROWS: &str = "max_rows";

/// The hidden column by which a query says who reads on.
pub(crate) const CONSUMER: &str = "consumer";

/// A column as users see it.
#[derive(Debug)]
pub struct Column {
    /// Name.
    pub name: &'static str,
    /// Type.
    pub kind: ColumnType,
    /// What it holds; a sentence without its full stop.
    pub description: &'static str,
}

impl Column {
    /// osquery's option bits. They follow from the name, so that a column means the same to a planner in every table.
    #[must_use]
    pub fn options(&self) -> u8 {
        if self.is_hidden() {
            options::HIDDEN | options::ADDITIONAL
        } else if INDEXED.contains(&self.name) {
            options::INDEX | options::OPTIMIZED
        } else {
            options::OPTIMIZED
        }
    }

    /// Whether it is a word of the query's, and no row has a value in it.
    #[must_use]
    pub fn is_of_query(&self) -> bool {
        [CONSUMER, MAX_ROWS].contains(&self.name)
    }

    /// Whether `SELECT *` leaves it out.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        HIDDEN.contains(&self.name)
    }
}

/// A query that shows what a table is for.
#[derive(Debug)]
pub struct Example {
    /// What it answers.
    pub question: &'static str,
    /// The query.
    pub sql: &'static str,
}

/// What a table is, apart from its columns.
#[derive(Debug)]
pub struct Info {
    /// Name.
    pub name: &'static str,
    /// What a row is, in a sentence or two.
    pub description: &'static str,
    /// Systems on which rows can appear.
    pub platforms: &'static [&'static str],
    /// Rows never change after they appear; osquery then keeps no differences of its own.
    pub event_based: bool,
    /// Queries to start from.
    pub examples: &'static [Example],
}

/// A column and the way to its value.
#[derive(Debug)]
pub(crate) struct Field<R> {
    column: Column,
    value: fn(&R) -> Value,
}

impl<R> Field<R> {
    const fn new(name: &'static str, kind: ColumnType, description: &'static str, value: fn(&R) -> Value) -> Self {
        Self { column: Column { name, kind, description }, value }
    }
}

/// A column of TEXT.
const fn text<R>(name: &'static str, description: &'static str, value: fn(&R) -> Value) -> Field<R> {
    Field::new(name, ColumnType::Text, description, value)
}
/// A column of INTEGER.
const fn integer<R>(name: &'static str, description: &'static str, value: fn(&R) -> Value) -> Field<R> {
    Field::new(name, ColumnType::Integer, description, value)
}
/// A column of BIGINT.
const fn bigint<R>(name: &'static str, description: &'static str, value: fn(&R) -> Value) -> Field<R> {
    Field::new(name, ColumnType::BigInt, description, value)
}
/// A column of DOUBLE.
const fn double<R>(name: &'static str, description: &'static str, value: fn(&R) -> Value) -> Field<R> {
    Field::new(name, ColumnType::Double, description, value)
}
/// The accessor of a column that has no source yet.
fn unknown<R>(_: &R) -> Value {
    Value::Null
}
/// The hidden column of every table; [`Scan`] answers with what the query asked for.
const fn max_rows<R>() -> Field<R> {
    bigint(MAX_ROWS, "Set in WHERE to the number of rows that this query may return through osquery", unknown)
}
/// The hidden column of tables of events.
const fn consumer<R>() -> Field<R> {
    text(
        CONSUMER,
        "Set in WHERE to a name of your choice: the rows that no query of that name got yet. A scheduled query of osquery does so by itself",
        unknown,
    )
}

/// A table of rows `R`.
pub(crate) struct Declaration<R: 'static> {
    info: Info,
    fields: &'static [Field<R>],
    rows: Source<R>,
    /// The last second of a row's life; none while it lives and for rows that have no time.
    ended: fn(&R) -> Option<i64>,
    owner: fn(&R) -> Owner,
    /// Where its finished rows wait for the history; none for a table whose rows are not kept.
    finished: Option<Finished<R>>,
    /// Those that can still change; none for a table without such.
    running: Option<Running<R>>,
}

/// Where a table's rows in memory come from.
pub(crate) enum Source<R> {
    /// They are there.
    Store(fn(&Store) -> Snapshot<R>),
    /// They are made of those of another table, when they are asked for.
    Made(fn(&Store, &Asked) -> Result<Snapshot<R>, ScanError>),
}

/// What a query asks of rows that are made of others.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked {
    /// What ended before this second does not count; none for all that is known.
    pub since: Option<i64>,
    /// When the reading ends, done or not.
    pub deadline: Option<Instant>,
}

/// The rows of a table that can still change.
pub(crate) struct Running<R> {
    live: fn(&mut State) -> &mut Live<R>,
    identity: fn(&R) -> Identity,
}

/// The finished rows of a table.
pub(crate) struct Finished<R> {
    log: fn(&State) -> &Log<R>,
    forget: fn(&mut State, &Range<u64>),
    /// The column that says which running row each ends, and of which table; none where they end none.
    ends: Option<(&'static str, &'static str)>,
    /// Rows of another table that are rows of this one as well, and are stored there alone.
    with: Option<With>,
}

/// Rows of another table that are kept.
#[derive(Debug, Clone, Copy)]
pub struct With {
    /// That table.
    pub table: &'static str,
    /// Its rows as rows of this one, in the history's SQL: a SELECT that gives the stored columns by their names.
    pub sql: &'static str,
}

/// Finished rows that are to be stored, the newest first.
pub struct Batch {
    /// The rows.
    pub rows: Box<dyn Cursor>,
    /// Whether newer ones are finished too.
    pub more: bool,
    numbers: Range<u64>,
}

impl Batch {
    /// How many rows.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.numbers.end - self.numbers.start).unwrap_or(usize::MAX)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }
}

/// A declared table, whatever its rows are.
pub trait Table: Sync {
    /// What it is.
    fn info(&self) -> &Info;
    /// Its columns, in order.
    fn columns(&self) -> Vec<&Column>;
    /// Its rows as they are now, newest first, and why those are not all.
    fn cursor(&'static self, store: &Store, asked: &Asked) -> (Box<dyn Cursor>, Option<ScanError>);
    /// Whether its rows are made of those of another table.
    fn is_made(&self) -> bool;
    /// Whether its finished rows go into the history.
    fn is_kept(&self) -> bool;
    /// Its oldest finished rows in memory, about so many at most; none for a table that is not kept.
    fn finished(&'static self, state: &State, most: usize) -> Option<Batch>;
    /// Takes rows that are stored out of memory.
    fn forget(&self, store: &Store, stored: &Batch);
    /// The column of its finished rows that says which running row each ends, and of which table.
    fn ends(&self) -> Option<(usize, &'static str)>;
    /// Rows of another table that are rows of this one as well.
    fn with(&self) -> Option<With>;
    /// Whether it has rows that can still change.
    fn is_running(&self) -> bool;
    /// Its running rows that the history does not have, or not as they are.
    fn running(&self, state: &mut State) -> Vec<RunningRow>;

    /// The column that tells its rows apart: the number of each, or of what it is about.
    fn key(&self) -> usize {
        self.columns().iter().position(|column| column.name == "eid").unwrap_or(0)
    }
}

/// A row in a walk; a newer one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    segment: usize,
    /// Counted from 1; 0 is beside the rows.
    row: usize,
}

/// A walk over a table's rows as they were at one moment, newest first. It stands before the first row at the start.
pub trait Cursor: Send {
    /// Goes to the next row; false when there is none.
    fn advance(&mut self) -> bool;
    /// Where it stands.
    fn position(&self) -> Position;
    /// Goes to where it stood.
    fn seek(&mut self, position: Position);
    /// Another walk over the same rows, from here on.
    fn fork(&self) -> Box<dyn Cursor>;
    /// A cell of the row; NULL beside a row or beyond the last column.
    fn value(&self, column: usize) -> Value;
    /// The last second of the row's life; none while it lives and for rows that have no time.
    fn ended(&self) -> Option<i64>;
    /// Whose the row is.
    fn owner(&self) -> Owner;
}

impl<R: Clone + Send + Sync + 'static> Table for Declaration<R> {
    fn info(&self) -> &Info {
        &self.info
    }

    fn columns(&self) -> Vec<&Column> {
        self.fields.iter().map(|field| &field.column).collect()
    }

    fn cursor(&'static self, store: &Store, asked: &Asked) -> (Box<dyn Cursor>, Option<ScanError>) {
        tracing::debug!(table = self.info.name, "read");
        let rows = match self.rows {
            Source::Store(rows) => {
                store.count_read();
                Ok(rows(store))
            }
            Source::Made(make) => make(store, asked), // reads another one
        };
        match rows {
            Ok(rows) => (self.walk(rows), None),
            Err(error) => (self.walk(Snapshot::of(Vec::new())), Some(error)),
        }
    }

    fn is_made(&self) -> bool {
        matches!(self.rows, Source::Made(_))
    }

    fn is_kept(&self) -> bool {
        self.finished.is_some()
    }

    fn finished(&'static self, state: &State, most: usize) -> Option<Batch> {
        let finished = self.finished.as_ref()?;
        let log = (finished.log)(state);
        let (rows, numbers) = log.oldest(most);
        let taken = usize::try_from(numbers.end - numbers.start).unwrap_or(usize::MAX);
        Some(Batch { rows: self.walk(rows), more: taken < log.len(), numbers })
    }

    fn forget(&self, store: &Store, stored: &Batch) {
        if let Some(finished) = &self.finished {
            store.update(|state| (finished.forget)(state, &stored.numbers));
        }
    }

    fn ends(&self) -> Option<(usize, &'static str)> {
        let (name, table) = self.finished.as_ref()?.ends?;
        let place = self.fields.iter().position(|field| field.column.name == name)?;
        Some((place, table))
    }

    fn with(&self) -> Option<With> {
        self.finished.as_ref()?.with
    }

    fn is_running(&self) -> bool {
        self.running.is_some()
    }

    fn running(&self, state: &mut State) -> Vec<RunningRow> {
        let Some(running) = &self.running else { return Vec::new() };
        let row = |row: &R| RunningRow {
            values: self.fields.iter().map(|field| (field.value)(row)).collect(),
            owner: if let Owner::User(uid) = (self.owner)(row) { Some(uid) } else { None },
            identity: (running.identity)(row),
        };
        (running.live)(state).take_new().map(row).collect()
    }
}

impl<R: Clone + Send + Sync + 'static> Declaration<R> {
    fn walk(&'static self, rows: Snapshot<R>) -> Box<dyn Cursor> {
        let segments: Arc<[_]> = rows.into_segments().into();
        let position = Position { segment: segments.len(), row: 0 };
        Box::new(Walk { table: self, segments, position })
    }
}

/// The walk over a snapshot, from its end. It takes references only, so that a million rows are not copied.
struct Walk<R: 'static> {
    table: &'static Declaration<R>,
    segments: Arc<[Arc<Vec<R>>]>,
    /// Beyond the last segment before its first step; beside the first row at the end.
    position: Position,
}

impl<R> Walk<R> {
    fn current(&self) -> Option<&R> {
        self.segments.get(self.position.segment)?.get(self.position.row.checked_sub(1)?)
    }
}

impl<R: Clone + Send + Sync> Cursor for Walk<R> {
    fn advance(&mut self) -> bool {
        let Position { mut segment, mut row } = self.position;
        while row <= 1 {
            let Some(before) = segment.checked_sub(1) else {
                self.position = Position { segment: 0, row: 0 };
                return false;
            };
            segment = before;
            row = self.segments.get(segment).map_or(0, |rows| rows.len()) + 1;
        }
        self.position = Position { segment, row: row - 1 };
        true
    }

    fn position(&self) -> Position {
        self.position
    }

    fn seek(&mut self, position: Position) {
        self.position = position;
    }

    fn fork(&self) -> Box<dyn Cursor> {
        let segments = Arc::clone(&self.segments);
        Box::new(Self { table: self.table, segments, position: self.position })
    }

    fn value(&self, column: usize) -> Value {
        self.current().zip(self.table.fields.get(column)).map_or(Value::Null, |(row, field)| (field.value)(row))
    }

    fn ended(&self) -> Option<i64> {
        self.current().and_then(self.table.ended)
    }

    fn owner(&self) -> Owner {
        self.current().map_or(Owner::Unknown, self.table.owner)
    }
}

/// Every table, in the order of the documentation.
#[must_use]
pub fn all() -> [&'static dyn Table; 9] {
    [
        &ai_agents::TABLE,
        &agent_processes::TABLE,
        &agent_connections::TABLE,
        &agent_endpoints::TABLE,
        &agent_file_ops::TABLE,
        &agent_events::TABLE,
        &agent_open_files::TABLE,
        &agent_signatures::TABLE,
        &agent_collector::TABLE,
    ]
}

/// The table of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static dyn Table> {
    all().into_iter().find(|table| table.info().name.eq_ignore_ascii_case(name))
}

/// Seconds of a time in nanoseconds.
fn seconds(time_ns: i64) -> i64 {
    time_ns.div_euclid(1_000_000_000)
}
