//! The rows of a table that have left memory, read from the history.
//!
//! A query takes the rows in memory first and those of the history after. Rows leave memory only when the history has
//! them, so none is missed; one that is in both, because it was stored but not forgotten yet, is known by its key and
//! left out of the history's.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;
use std::vec;

use super::constraint::Constraint;
use super::{Cursor, Owner, Position, Table, Viewer};
use crate::history::{self, HistoryError, Query, Readers, Row};
use crate::record::Store;
use crate::value::Value;

/// What a query asks of the history.
#[derive(Clone)]
pub(super) struct Wanted {
    pub(super) table: &'static dyn Table,
    pub(super) viewer: Viewer,
    pub(super) constraints: Vec<Constraint>,
    /// Rows that ended before this second are left out.
    pub(super) since: Option<i64>,
    /// Columns whose cells are asked for; the others are NULL.
    pub(super) columns: Vec<usize>,
}

/// The columns that a query reads: those that it uses, and those that its constraints look at.
pub(super) fn columns(table: &dyn Table, used: Option<&[usize]>, constraints: &[Constraint]) -> Vec<usize> {
    let looked_at = |name: &str| constraints.iter().any(|constraint| constraint.column.eq_ignore_ascii_case(name));
    let all = table.columns().into_iter().enumerate();
    all.filter(|(index, column)| used.is_none_or(|used| used.contains(index)) || looked_at(column.name))
        .map(|(index, _)| index)
        .collect()
}

/// The keys of the rows that a cursor, which did not step yet, goes over.
pub(super) fn keys(table: &dyn Table, cursor: &dyn Cursor) -> HashSet<i64> {
    let (key, mut walk, mut keys) = (table.key(), cursor.fork(), HashSet::new());
    while walk.advance() {
        if let Value::Integer(number) = walk.value(key) {
            keys.insert(number);
        }
    }
    keys
}

/// A walk over rows of the history, newest first.
pub(super) struct Past {
    readers: Readers,
    wanted: Wanted,
    /// Keys of the rows that were in memory.
    except: Arc<HashSet<i64>>,
    places: Arc<[Option<usize>]>,
    cursor: Option<history::Cursor>,
    page: vec::IntoIter<Row>,
    row: Option<Row>,
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Row,
    /// A page was read; it is time to look at the clock.
    Page,
    End,
}

impl Past {
    /// A walk that begins with its first step.
    pub(super) fn new(store: &Store, readers: Readers, wanted: Wanted, except: Arc<HashSet<i64>>) -> Self {
        store.count_read();
        let places = places(wanted.table, &wanted.columns);
        Self { readers, wanted, except, places, cursor: None, page: Vec::new().into_iter(), row: None }
    }

    pub(super) fn step(&mut self) -> Result<Step, HistoryError> {
        for row in self.page.by_ref() {
            if !self.except.contains(&row.eid) {
                self.row = Some(row);
                return Ok(Step::Row);
            }
        }
        self.row = None;
        let cursor = match &mut self.cursor {
            Some(cursor) => cursor,
            none => none.insert(begin(&self.readers, &self.wanted)?),
        };
        match cursor.page()? {
            Some(page) => {
                self.page = page.into_iter();
                Ok(Step::Page)
            }
            None => Ok(Step::End),
        }
    }

    pub(super) fn value(&self, column: usize) -> Value {
        self.row.as_ref().map_or(Value::Null, |row| cell(&self.places, row, column))
    }

    pub(super) fn owner(&self) -> Owner {
        self.row.as_ref().map_or(Owner::Unknown, |row| row.owner.into())
    }
}

fn begin(readers: &Readers, wanted: &Wanted) -> Result<history::Cursor, HistoryError> {
    let reader = readers.reader()?;
    let name = wanted.table.info().name;
    let query = Query { viewer: wanted.viewer, constraints: &wanted.constraints, since: wanted.since };
    let conditions = reader.conditions(name, &query).unwrap_or_default();
    reader.walk(name, wanted.columns.clone(), conditions)
}

fn places(table: &dyn Table, columns: &[usize]) -> Arc<[Option<usize>]> {
    (0..table.columns().len()).map(|column| columns.iter().position(|other| *other == column)).collect()
}

fn cell(places: &[Option<usize>], row: &Row, column: usize) -> Value {
    let place = places.get(column).copied().flatten();
    place.and_then(|place| row.values.get(place)).cloned().unwrap_or(Value::Null)
}

/// Rows in memory and behind them rows of the history, all held.
pub(super) struct Chain {
    memory: Box<dyn Cursor>,
    places: Arc<[Option<usize>]>,
    past: Arc<[Row]>,
    /// Among the rows of the history; none while it is in memory.
    at: Option<usize>,
}

/// Cells of the history that are held at most, and bytes of their texts: some tens of megabytes. Tests have fewer rows.
const HELD: usize = if cfg!(test) { 10_000 } else { 500_000 };
const HELD_TEXT: usize = 16 << 20;

/// Bytes of the texts that are this row's alone.
fn own_text(row: &Row) -> usize {
    let own = |value: &Value| match value {
        Value::Text(text) if Arc::strong_count(text) == 1 => text.len(),
        _ => 0,
    };
    row.values.iter().map(own).sum()
}

impl Chain {
    /// Reads what is wanted of the history. None when that is too much to hold, or the time is up.
    pub(super) fn read(
        memory: Box<dyn Cursor>,
        mut past: Past,
        deadline: Option<Instant>,
    ) -> Result<Option<Self>, HistoryError> {
        let most = HELD / past.wanted.columns.len().max(1);
        let (mut rows, mut text) = (Vec::new(), 0);
        loop {
            match past.step()? {
                Step::Row => {
                    text += past.row.as_ref().map_or(0, own_text);
                    rows.extend(past.row.take());
                }
                Step::Page if deadline.is_some_and(|deadline| Instant::now() >= deadline) => return Ok(None),
                Step::Page => {}
                Step::End => return Ok(Some(Self { memory, places: past.places, past: rows.into(), at: None })),
            }
            if rows.len() > most || text > HELD_TEXT {
                return Ok(None);
            }
        }
    }

    fn row(&self) -> Option<&Row> {
        self.past.get(self.at?)
    }
}

impl Cursor for Chain {
    fn advance(&mut self) -> bool {
        self.at = match self.at {
            None if self.memory.advance() => return true,
            None => Some(0),
            Some(at) => Some((at + 1).min(self.past.len())),
        };
        self.row().is_some()
    }

    fn position(&self) -> Position {
        match self.at {
            None => {
                let Position { segment, row } = self.memory.position();
                Position { segment: segment + 1, row }
            }
            Some(at) => Position { segment: 0, row: self.past.len() - at },
        }
    }

    fn seek(&mut self, position: Position) {
        match position.segment.checked_sub(1) {
            Some(segment) => {
                self.memory.seek(Position { segment, row: position.row });
                self.at = None;
            }
            None => self.at = Some(self.past.len().saturating_sub(position.row)),
        }
    }

    fn fork(&self) -> Box<dyn Cursor> {
        let (places, past) = (Arc::clone(&self.places), Arc::clone(&self.past));
        Box::new(Self { memory: self.memory.fork(), places, past, at: self.at })
    }

    fn value(&self, column: usize) -> Value {
        match self.at {
            None => self.memory.value(column),
            Some(_) => self.row().map_or(Value::Null, |row| cell(&self.places, row, column)),
        }
    }

    /// What ended too long ago was left out when it was read.
    fn ended(&self) -> Option<i64> {
        if self.at.is_none() { self.memory.ended() } else { None }
    }

    fn owner(&self) -> Owner {
        match self.at {
            None => self.memory.owner(),
            Some(_) => self.row().map_or(Owner::Unknown, |row| row.owner.into()),
        }
    }
}

/// The numbers in a column that are looked for in the history; none when there are too many.
pub(super) fn numbers(
    store: &Store,
    readers: &Readers,
    wanted: &Wanted,
    column: usize,
) -> Result<Option<HashSet<i64>>, HistoryError> {
    store.count_read();
    let reader = readers.reader()?;
    let name = wanted.table.info().name;
    let query = Query { viewer: wanted.viewer, constraints: &wanted.constraints, since: wanted.since };
    let conditions = reader.conditions(name, &query).unwrap_or_default();
    reader.numbers(name, column, &conditions, HELD)
}
