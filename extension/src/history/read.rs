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
use duckdb::arrow::array::{Array, Float64Array, Int64Array, StringArray, StructArray};

use super::condition::Interval;
use super::schema::{Kept, Place};
use super::{Conditions, HistoryError, Query};
use crate::tables::Column;
use crate::value::{Text, Value};

/// Rows of a page at most.
const PAGE: usize = 8192;

/// Cells of a page at most, about: the engine holds each several times while it sorts.
const CELLS: usize = 96 * 1024;

/// Rows that a walk's first page goes over, about: of these it has the newest.
const FIRST_LOOK: i64 = 16_384;

/// Rows that a page goes over at most, about: others wait for their turn.
const LOOKED_AT: i64 = 500_000;

/// Rows of a walk's first page: who wants only some does not wait for more. Each next one has twice as many.
const FIRST_PAGE: usize = 1024;

/// Makes readers.
#[derive(Debug, Clone)]
pub struct Readers {
    path: PathBuf,
    /// Only cloned from, so it is held for a moment.
    connection: Arc<Mutex<Connection>>,
    kept: Arc<[Kept]>,
    turn: Arc<Mutex<()>>,
    lock: Arc<File>,
}

/// A connection for queries, of one thread at a time.
#[derive(Debug)]
pub struct Reader {
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
    kept: Arc<[Kept]>,
    /// One page is read at a time. With several at once the engine's memory could not be so small: for want of it a commit
    /// fails beside them, and that ends the engine.
    pub(super) turn: Arc<Mutex<()>>,
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
    widest: i64,
    /// Rows of the next page at most, and of any.
    size: usize,
    most: usize,
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
        let page = self.reader.page(&self.table, &self.columns, &self.conditions, (below, from), self.size)?;
        match page.last() {
            Some(last) if page.len() >= self.size => {
                self.span = top.saturating_sub(last.eid).max(1);
                self.place.1 = Some(last.eid);
            }
            _ => {
                self.done = from.is_none();
                self.place.1 = from;
                let wider = (self.size * 3 / 4 / page.len().max(1)).clamp(1, 8);
                self.span = self.span.saturating_mul(i64::try_from(wider).unwrap_or(1));
            }
        }
        if self.size < self.most {
            self.size = (self.size * 2).min(self.most);
            self.span = self.span.saturating_mul(2);
        }
        self.span = self.span.min(self.widest);
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
        Self { path, connection: Arc::new(Mutex::new(connection)), kept, turn: Arc::default(), lock }
    }

    /// A reader.
    ///
    /// # Errors
    /// When the engine has none left.
    pub fn reader(&self) -> Result<Reader, HistoryError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner).try_clone();
        let connection = connection.map_err(|error| HistoryError::of(&self.path, &error))?;
        let (kept, turn) = (Arc::clone(&self.kept), Arc::clone(&self.turn));
        Ok(Reader { path: self.path.clone(), connection, kept, turn, _lock: Arc::clone(&self.lock) })
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
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
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
        let is_stored =
            |(kept, column): &(&Kept, &Column)| matches!(kept.place(column), Place::Stored | Place::BeforeEid);
        let Some((kept, column)) = place.filter(is_stored) else { return Ok(None) };
        let (column, limit) = (kept.sql(column), most.saturating_add(1));
        let sql = format!("SELECT DISTINCT {column} FROM {}{} LIMIT {limit}", kept.source(), conditions.sql());
        let read = || {
            let mut statement = self.connection.prepare(&sql)?;
            let cells = statement.query_map(duckdb::params_from_iter(conditions.parameters()), |row| row.get(0))?;
            cells.collect::<duckdb::Result<Vec<Option<i64>>>>()
        };
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let cells = read().map_err(|error| HistoryError::of(&self.path, &error))?;
        Ok((cells.len() <= most).then(|| cells.into_iter().flatten().collect()))
    }

    /// Walks a table's rows, newest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn walk(self, table: &str, columns: Vec<usize>, conditions: Conditions) -> Result<Cursor, HistoryError> {
        let kept = self.kept(table);
        let keys = kept.and_then(Kept::keys);
        let reach = keys.map(|(low, high)| {
            let Interval(from, to) = conditions.eids();
            (low.max(from), high.min(to))
        });
        let (low, high) = reach.unwrap_or((1, 0));
        let rows = kept.map_or(0, Kept::rows).max(1);
        let (least, greatest) = keys.unwrap_or_default();
        // In which there are so many rows, were they evenly spread.
        let span = |wanted: i64| {
            let span = (i128::from(greatest) - i128::from(least) + 1) * i128::from(wanted) / i128::from(rows) + 1;
            i64::try_from(span).unwrap_or(i64::MAX)
        };
        let most = (CELLS / columns.len().max(1)).clamp(FIRST_PAGE, PAGE);
        Ok(Cursor {
            table: table.to_owned(),
            columns,
            conditions,
            place: (high, None),
            low,
            done: low > high,
            span: span(FIRST_LOOK),
            widest: span(LOOKED_AT),
            size: FIRST_PAGE,
            most,
            reader: self,
        })
    }

    pub(super) fn kept(&self, table: &str) -> Option<&Kept> {
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
        let mut sql = format!("SELECT {key}, owner");
        for index in columns {
            let _ =
                write!(sql, ", {}", kept.columns.get(*index).map_or("NULL::BIGINT".into(), |column| kept.sql(column)));
        }
        let _ = write!(sql, " FROM {}{} ORDER BY {key} DESC LIMIT {limit}", kept.source(), conditions.sql());
        let is_seconds: Vec<_> = columns
            .iter()
            .map(|index| kept.columns.get(*index).is_some_and(|column| kept.place(column) == Place::Seconds))
            .collect();
        let mut statement = self.connection.prepare(&sql)?;
        for (index, parameter) in conditions.parameters().iter().enumerate() {
            statement.raw_bind_parameter(index + 1, parameter)?;
        }
        statement.raw_execute()?;
        let mut page = Vec::new();
        // Chunks, and in them column after column: by rows it takes several times as long.
        while let Some(chunk) = statement.step()? {
            let from = page.len();
            let whole = |column| numbers_of(&chunk, column).map(Int64Array::iter);
            page.extend(whole(0)?.zip(whole(1)?).map(|(eid, owner)| Row {
                eid: eid.unwrap_or(0),
                owner,
                values: Vec::with_capacity(columns.len()),
            }));
            let rows = page.get_mut(from..).unwrap_or_default();
            for (column, is_seconds) in is_seconds.iter().enumerate() {
                fill(rows, &chunk, column + 2, *is_seconds)?;
            }
        }
        Ok(page)
    }
}

/// A column's cells, to the ends of the rows.
fn fill(rows: &mut [Row], chunk: &StructArray, column: usize, is_seconds: bool) -> duckdb::Result<()> {
    let array = chunk.columns().get(column).map(Array::as_any);
    if let Some(texts) = array.and_then(|array| array.downcast_ref::<StringArray>()) {
        // Texts repeat: an open's path in its close, an agent's name in all. The last one of each length is at hand.
        let mut recent: [Option<Text>; 32] = [const { None }; 32];
        for (row, text) in rows.iter_mut().zip(texts.iter()) {
            row.values.push(text.map_or(Value::Null, |text| share(&mut recent, text)));
        }
    } else if let Some(doubles) = array.and_then(|array| array.downcast_ref::<Float64Array>()) {
        rows.iter_mut().zip(doubles.iter()).for_each(|(row, double)| row.values.push(double.into()));
    } else {
        for (row, number) in rows.iter_mut().zip(numbers_of(chunk, column)?.iter()) {
            row.values
                .push(number.map(|number| if is_seconds { number.div_euclid(1_000_000_000) } else { number }).into());
        }
    }
    Ok(())
}

fn share(recent: &mut [Option<Text>; 32], text: &str) -> Value {
    let Some(place) = recent.get_mut(text.len() % 32) else { return Value::Text(text.into()) };
    match place {
        Some(same) if **same == *text => Value::Text(Arc::clone(same)),
        _ => Value::Text(Arc::clone(place.insert(text.into()))),
    }
}

fn numbers_of(chunk: &StructArray, column: usize) -> duckdb::Result<&Int64Array> {
    let array = chunk.columns().get(column).ok_or(duckdb::Error::InvalidColumnIndex(column))?;
    let numbers = array.as_any().downcast_ref();
    numbers.ok_or_else(|| duckdb::Error::InvalidColumnType(column, String::new(), (array.data_type()).into()))
}
