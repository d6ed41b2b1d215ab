//! Rows by a number: what makes a join two reads and not as many as there are rows.

use super::constraint::{Constraint, Op};
use super::{Column, ColumnType, Cursor, MAX_ROWS, Position};
use crate::value::Value;

/// The rows of a table as they were at one moment, by the number in one of their columns.
pub struct Lookup {
    cursor: Box<dyn Cursor>,
    /// In order: a quarter of what a map of lists would take.
    rows: Vec<(i64, Position)>,
}

impl Lookup {
    /// Goes over rows once, by a cursor that did not step yet. Cells that are no whole numbers are in no row that a whole
    /// number finds.
    #[must_use]
    pub fn over(cursor: Box<dyn Cursor>, column: usize) -> Self {
        let mut walk = cursor.fork();
        let mut rows = Vec::new();
        while walk.advance() {
            if let Value::Integer(number) = walk.value(column) {
                rows.push((number, walk.position()));
            }
        }
        rows.sort_unstable();
        Self { cursor, rows }
    }

    /// The rows with one of the numbers, each once, the newest last.
    pub(super) fn rows(&self, numbers: &[i64]) -> Vec<Position> {
        let mut found = Vec::new();
        for number in numbers {
            let start = self.rows.partition_point(|(other, _)| other < number);
            let same = self.rows.get(start..).unwrap_or_default().iter().take_while(|(other, _)| other == number);
            found.extend(same.map(|(_, position)| *position));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    pub(super) fn cursor(&self) -> Box<dyn Cursor> {
        self.cursor.fork()
    }
}

/// The column by which a query can be looked up, and the whole numbers of which one must be in it: the column with
/// the fewest of them. None when no column is compared for equality with whole numbers only.
#[must_use]
pub fn numbers(columns: &[&Column], constraints: &[Constraint]) -> Option<(usize, Vec<i64>)> {
    let of = |(index, column): (usize, &&Column)| {
        let integer = matches!(column.kind, ColumnType::Integer | ColumnType::BigInt) && column.name != MAX_ROWS;
        let equal = constraints.iter().filter(|constraint| {
            matches!(constraint.op, Op::Equal | Op::Is) && constraint.column.eq_ignore_ascii_case(column.name)
        });
        // Several are the values of a list. What is no whole number, such as 5.0, may equal one all the same.
        let numbers: Option<Vec<i64>> = integer.then(|| equal.map(|c| c.value.parse().ok()).collect()).flatten();
        numbers.filter(|numbers| !numbers.is_empty()).map(|numbers| (index, numbers))
    };
    columns.iter().enumerate().filter_map(of).min_by_key(|(_, numbers)| numbers.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::tables::{Asked, find};

    #[test]
    fn finds_what_a_walk_finds() {
        // More rows than a segment has.
        let (store, table) = (fixture::store(2000), find("agent_file_ops").unwrap());
        let columns = table.columns();
        let column = |name| columns.iter().position(|column| column.name == name).unwrap();
        let lookup = Lookup::over(table.cursor(&store, &Asked::default()).0, column("pid"));
        let mut cursor = lookup.cursor();
        let mut eids = Vec::new();
        for position in lookup.rows(&[103]) {
            cursor.seek(position);
            assert_eq!(cursor.value(column("pid")), Value::Integer(103));
            eids.push(cursor.value(column("eid")));
        }
        assert_eq!(eids.len(), 500);
        assert_eq!(eids[499], Value::Integer(fixture::EID + 1000 + 1999));
        assert_eq!(lookup.rows(&[7]), []);
        assert_eq!(lookup.rows(&[103, 7, 101, 103]).len(), 1000);
    }

    #[test]
    fn the_shortest_list_of_whole_numbers_is_looked_up() {
        let columns = find("agent_file_ops").unwrap().columns();
        let equal = |column: &str, value: &str| Constraint::new(column, Op::Equal, value);
        let found = |constraints: &[Constraint]| {
            numbers(&columns, constraints).map(|(index, numbers)| (columns[index].name, numbers))
        };
        assert_eq!(found(&[equal("pid", "1"), equal("pid", "2"), equal("UID", "3")]), Some(("uid", vec![3])));
        assert_eq!(found(&[equal("pid", "1"), equal("pid", "5.0")]), None);
        assert_eq!(found(&[equal("path", "1"), equal("max_rows", "1"), Constraint::new("pid", Op::Less, "1")]), None);
    }

    #[test]
    fn a_walk_ends_and_stays_so() {
        let (store, table) = (fixture::store(513), find("agent_file_ops").unwrap());
        let mut cursor = table.cursor(&store, &Asked::default()).0;
        assert_eq!(cursor.value(0), Value::Null);
        let mut count = 0;
        while cursor.advance() {
            count += 1;
        }
        assert_eq!(count, 513);
        assert!(!cursor.advance() && cursor.value(0) == Value::Null);
    }
}
