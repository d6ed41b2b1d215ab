//! Rows by a number: what makes a join two reads and not as many as there are rows.

use std::collections::HashMap;

use super::{Cursor, Position, Table};
use crate::record::Store;
use crate::value::Value;

/// The rows of a table as they were at one moment, by the number in one of their columns.
pub struct Lookup {
    cursor: Box<dyn Cursor>,
    column: usize,
    rows: HashMap<i64, Vec<Position>>,
}

impl Lookup {
    /// Reads the table once. Cells that are no whole numbers are in no row that a whole number finds.
    #[must_use]
    pub fn new(store: &Store, table: &'static dyn Table, column: usize) -> Self {
        let cursor = table.cursor(store);
        let mut walk = cursor.fork();
        let mut rows: HashMap<_, Vec<_>> = HashMap::new();
        while walk.advance() {
            if let Value::Integer(number) = walk.value(column) {
                rows.entry(number).or_default().push(walk.position());
            }
        }
        Self { cursor, column, rows }
    }

    /// The column.
    #[must_use]
    pub fn column(&self) -> usize {
        self.column
    }

    /// The rows with the number, newest first.
    pub(super) fn rows(&self, number: i64) -> &[Position] {
        self.rows.get(&number).map_or(&[], Vec::as_slice)
    }

    pub(super) fn cursor(&self) -> Box<dyn Cursor> {
        self.cursor.fork()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::tables::find;

    #[test]
    fn finds_what_a_walk_finds() {
        // More rows than a segment has.
        let (store, table) = (fixture::store(2000), find("agent_file_ops").unwrap());
        let columns = table.columns();
        let column = |name| columns.iter().position(|column| column.name == name).unwrap();
        let lookup = Lookup::new(&store, table, column("pid"));
        let mut cursor = lookup.cursor();
        let mut eids = Vec::new();
        for position in lookup.rows(103) {
            cursor.seek(*position);
            assert_eq!(cursor.value(column("pid")), Value::Integer(103));
            eids.push(cursor.value(column("eid")));
        }
        assert_eq!(eids.len(), 500);
        assert_eq!(eids[0], Value::Integer(fixture::EID + 1000 + 1999));
        assert_eq!(lookup.rows(7), []);
    }

    #[test]
    fn a_walk_ends_and_stays_so() {
        let (store, table) = (fixture::store(513), find("agent_file_ops").unwrap());
        let mut cursor = table.cursor(&store);
        assert_eq!(cursor.value(0), Value::Null);
        let mut count = 0;
        while cursor.advance() {
            count += 1;
        }
        assert_eq!(count, 513);
        assert!(!cursor.advance() && cursor.value(0) == Value::Null);
    }
}
