//! A query over a table's rows.

use std::sync::Arc;
use std::time::Instant;

use super::constraint::{Constraint, Op};
use super::filter::Filter;
use super::past::{self, Past, Step, Wanted};
use super::{
    Asked, CONSUMER, Column, Cursor, Lookup, MAX_ROWS, Owner, Position, TIME_COLUMNS, Table, Viewer, consumer,
};
use crate::history::HistoryError;
use crate::record::Store;
use crate::record::clock::unix_seconds;
use crate::value::{Text, Value};

/// Rows that a query may get through osquery, unless it says otherwise. The core holds them all several times over,
/// and its watchdog ends it at 200 MB.
pub const DEFAULT_ROW_CAP: u64 = 10_000;

/// How far back a query reads that says nothing of time.
pub const WINDOW_SECONDS: i64 = 24 * 3600;

/// Rows between two looks at the clock: a long list in a constraint can make a row take a millisecond.
const ROWS_A_LOOK: u32 = 16;

/// What a query asks of a table.
#[derive(Debug, Clone)]
pub struct Request {
    /// In whose name.
    pub viewer: Viewer,
    /// Rows that cannot match these are left out.
    pub constraints: Vec<Constraint>,
    /// Columns to fill, by name; none for all.
    pub columns: Option<Vec<String>>,
    /// Rows at most: more are an error. None for no limit.
    pub cap: Option<u64>,
    /// When the reading ends, done or not. None for no limit.
    pub deadline: Option<Instant>,
}

impl Request {
    /// All rows and columns that the viewer may see.
    #[must_use]
    pub fn of(viewer: Viewer) -> Self {
        Self { viewer, constraints: Vec::new(), columns: None, cap: None, deadline: None }
    }
}

/// Why a query got no rows.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ScanError {
    /// More rows than the query may get. A cut result would be a silent lie under `count(*)`.
    #[error(
        "{table}: more than {cap} rows match. Narrow the query (for example: time > strftime('%s', 'now') - 3600, or \
         agent_id = N; conditions on hidden or computed values do not count), or allow more in WHERE: max_rows = N"
    )]
    TooManyRows {
        /// Table that was read.
        table: &'static str,
        /// Rows that were allowed.
        cap: u64,
    },
    /// The time was up.
    #[error(
        "{table}: stopped, for the answer took too long. Narrow the query (for example: time > strftime('%s', 'now') - \
         3600, or agent_id = N), or compare with fewer values"
    )]
    TooSlow {
        /// Table that was read.
        table: &'static str,
    },
    /// The rows that are not in memory cannot be read.
    #[error("{table}: the history cannot be read: {reason}")]
    History {
        /// Table that was read.
        table: &'static str,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Nothing says how far a reader got.
    #[error(
        "{table}: how far a reader got is kept in the history, and there is none (database: none). Ask without consumer, \
         and not as a scheduled query"
    )]
    NotKept {
        /// Table that was read.
        table: &'static str,
    },
    /// No such table.
    #[error("no such table: {0}")]
    NoTable(String),
}

/// A walk over the rows that may match: those in memory, newest first, and then those in the history. It stands before
/// the first row at the start.
pub struct Scan {
    table: &'static dyn Table,
    cursor: Box<dyn Cursor>,
    past: Option<Past>,
    /// Whether it is among the rows of the history.
    in_past: bool,
    viewer: Viewer,
    /// The only rows to look at, the last one first; none for all.
    candidates: Option<Vec<Position>>,
    filter: Filter,
    /// Rows that ended before this second are not shown.
    since: Option<i64>,
    max_rows: Option<i64>,
    max_rows_column: Option<usize>,
    consumer: Option<Text>,
    consumer_column: Option<usize>,
    deadline: Option<Instant>,
    /// Steps since the last look at the clock.
    steps: u32,
    /// Why it ended before the end.
    failed: Option<ScanError>,
}

/// Opens a table for reading. Of rows in the history the used columns are read, or all.
#[must_use]
pub fn open(
    store: &Store,
    viewer: Viewer,
    table: &'static dyn Table,
    constraints: &[Constraint],
    used: Option<&[usize]>,
) -> Scan {
    let (cursor, failed) = table.cursor(store, &Asked::by(constraints, None));
    // After the cursor: what has left memory by now is in the history.
    let readers = store.history().filter(|_| table.is_kept());
    let past = readers.map(|readers| {
        let except = Arc::new(past::keys(table, &*cursor));
        Past::new(store, readers, wanted(viewer, table, constraints, used), except)
    });
    over(cursor, viewer, None, table, constraints).then(past).failing(failed)
}

/// What a query asks of the history.
pub(super) fn wanted(
    viewer: Viewer,
    table: &'static dyn Table,
    constraints: &[Constraint],
    used: Option<&[usize]>,
) -> Wanted {
    let columns = past::columns(table, used, constraints);
    Wanted { table, viewer, constraints: constraints.to_vec(), since: since(constraints), columns }
}

/// Opens a table whose rows are known by one of their columns, of which one must hold one of the numbers.
pub(super) fn open_at_rows(
    viewer: Viewer,
    table: &'static dyn Table,
    lookup: &Lookup,
    numbers: &[i64],
    constraints: &[Constraint],
) -> Scan {
    over(lookup.cursor(), viewer, Some(lookup.rows(numbers)), table, constraints)
}

impl Asked {
    /// What a query asks for by these constraints, within its time.
    #[must_use]
    pub fn by(constraints: &[Constraint], deadline: Option<Instant>) -> Self {
        Self { since: since(constraints), deadline }
    }
}

/// The second from which on a query sees rows that ended.
fn since(constraints: &[Constraint]) -> Option<i64> {
    let timed = constraints.iter().any(|constraint| TIME_COLUMNS.contains(&constraint.column.as_str()));
    (!timed).then(|| unix_seconds().saturating_sub(WINDOW_SECONDS))
}

pub(super) fn over(
    cursor: Box<dyn Cursor>,
    viewer: Viewer,
    candidates: Option<Vec<Position>>,
    table: &'static dyn Table,
    constraints: &[Constraint],
) -> Scan {
    let columns = table.columns();
    let place = |name| columns.iter().position(|column| column.name == name);
    Scan {
        table,
        cursor,
        past: None,
        in_past: false,
        viewer,
        candidates,
        filter: Filter::compile(&columns, constraints),
        since: since(constraints),
        max_rows: max_rows(constraints),
        max_rows_column: place(MAX_ROWS),
        consumer: consumer::named(constraints).map(Text::from),
        consumer_column: place(CONSUMER),
        deadline: None,
        steps: 0,
        failed: None,
    }
}

/// The row cap that a query sets itself.
pub(super) fn max_rows(constraints: &[Constraint]) -> Option<i64> {
    constraints
        .iter()
        .filter(|constraint| constraint.column == MAX_ROWS && matches!(constraint.op, Op::Equal | Op::Is))
        .filter_map(|constraint| constraint.value.trim_ascii().parse().ok())
        .max()
}

impl Scan {
    /// The same, and rows of the history after it.
    pub(super) fn then(self, past: Option<Past>) -> Self {
        Self { past, ..self }
    }

    /// The same, but it fails at once where there is a reason to.
    pub(super) fn failing(self, error: Option<ScanError>) -> Self {
        Self { failed: error, ..self }
    }

    /// The same, with an end to its time.
    pub(super) fn until(self, deadline: Option<Instant>) -> Self {
        Self { deadline, ..self }
    }

    /// Goes to the next row; false when there is none, and when it failed.
    pub fn advance(&mut self) -> bool {
        while self.step() {
            // Of the history such rows are not read.
            let ended = if self.in_past { None } else { self.cursor.ended() };
            let old = self.since.is_some_and(|since| ended.is_some_and(|ended| ended < since));
            if !old && self.viewer.sees(self.owner()) && self.filter.may_match(|column| self.cell(column)) {
                return true;
            }
        }
        false
    }

    /// Why it ended before it had all rows.
    #[must_use]
    pub fn error(&self) -> Option<&ScanError> {
        self.failed.as_ref()
    }

    fn step(&mut self) -> bool {
        if self.failed.is_some() {
            return false;
        }
        if self.steps == 0 && self.is_late() {
            return false;
        }
        self.steps = (self.steps + 1) % ROWS_A_LOOK;
        if !self.in_past {
            if self.step_in_memory() {
                return true;
            }
            self.in_past = true;
        }
        self.step_in_past()
    }

    fn is_late(&mut self) -> bool {
        let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if late {
            self.failed = Some(ScanError::TooSlow { table: self.table.info().name });
        }
        late
    }

    fn step_in_memory(&mut self) -> bool {
        let Some(candidates) = &mut self.candidates else { return self.cursor.advance() };
        let next = candidates.pop();
        next.is_some_and(|position| {
            self.cursor.seek(position);
            true
        })
    }

    fn step_in_past(&mut self) -> bool {
        loop {
            let Some(past) = &mut self.past else { return false };
            match past.step() {
                Ok(Step::Row) => return true,
                Ok(Step::Page) if self.is_late() => return false,
                Ok(Step::Page) => {}
                Ok(Step::End) => self.past = None,
                Err(error) => {
                    self.failed = Some(history(self.table, &error));
                    return false;
                }
            }
        }
    }

    fn owner(&self) -> Owner {
        match &self.past {
            Some(past) if self.in_past => past.owner(),
            _ => self.cursor.owner(),
        }
    }

    /// The user whose the row is.
    pub(super) fn uid(&self) -> Option<i64> {
        if let Owner::User(uid) = self.owner() { Some(uid) } else { None }
    }

    fn cell(&self, column: usize) -> Value {
        match &self.past {
            Some(past) if self.in_past => past.value(column),
            _ => self.cursor.value(column),
        }
    }

    /// A cell of the row.
    #[must_use]
    pub fn value(&self, column: usize) -> Value {
        // The engine compares these columns with what was asked, so that is what they hold.
        if Some(column) == self.max_rows_column {
            self.max_rows.into()
        } else if Some(column) == self.consumer_column {
            (&self.consumer).into()
        } else {
            self.cell(column)
        }
    }
}

/// The error of a scan whose history cannot be read.
pub(super) fn history(table: &dyn Table, error: &HistoryError) -> ScanError {
    ScanError::History { table: table.info().name, reason: error.to_string() }
}

/// Rows of a query, newest first: for each column in `columns` a cell.
#[derive(Debug)]
pub struct Rows {
    /// The columns that were asked for, in the table's order.
    pub columns: Vec<&'static Column>,
    /// The rows.
    pub rows: Vec<Vec<Value>>,
}

/// Reads a table into memory.
///
/// # Errors
/// When more rows match than the request or the query's `max_rows` allows, or the request's time is up.
pub fn scan(store: &Store, table: &'static dyn Table, request: &Request) -> Result<Rows, ScanError> {
    let used = used(table, request);
    collect(open(store, request.viewer, table, &request.constraints, used.as_deref()), table, request)
}

/// The columns that a request asks for; none for all.
pub(super) fn used(table: &dyn Table, request: &Request) -> Option<Vec<usize>> {
    let names = request.columns.as_ref()?;
    let columns = table.columns().into_iter().enumerate();
    Some(columns.filter(|(_, column)| names.iter().any(|name| name == column.name)).map(|(index, _)| index).collect())
}

/// Takes a scan's rows into memory.
pub(super) fn collect(mut scan: Scan, table: &'static dyn Table, request: &Request) -> Result<Rows, ScanError> {
    let all = table.columns();
    let used =
        |column: &&Column| request.columns.as_ref().is_none_or(|names| names.iter().any(|name| name == column.name));
    let (indexes, columns): (Vec<_>, Vec<_>) = all.into_iter().enumerate().filter(|(_, column)| used(column)).unzip();
    scan.deadline = request.deadline;
    let cap = request.cap.map(|cap| scan.max_rows.and_then(|rows| u64::try_from(rows).ok()).unwrap_or(cap));
    let mut rows = Vec::new();
    while scan.advance() {
        if cap.is_some_and(|cap| rows.len() as u64 >= cap) {
            return Err(ScanError::TooManyRows { table: table.info().name, cap: cap.unwrap_or_default() });
        }
        rows.push(indexes.iter().map(|index| scan.value(*index)).collect());
    }
    if let Some(error) = scan.failed {
        return Err(error);
    }
    Ok(Rows { columns, rows })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::record::log::Snapshot;
    use crate::tables::{Declaration, Info, Owner, Source, bigint, find};
    use std::time::Duration;

    fn eids(constraints: &[Constraint], cap: Option<u64>) -> Result<Vec<i64>, ScanError> {
        let request = Request {
            constraints: constraints.to_vec(),
            columns: Some(vec!["eid".into()]),
            cap,
            ..Request::of(Viewer::All)
        };
        let rows = scan(&fixture::store(10), find("agent_file_ops").unwrap(), &request)?;
        assert_eq!(rows.columns.iter().map(|column| column.name).collect::<Vec<_>>(), ["eid"]);
        let eid = |row: Vec<Value>| if let [Value::Integer(eid)] = row[..] { eid - fixture::EID - 1000 } else { -1 };
        Ok(rows.rows.into_iter().map(eid).collect())
    }

    #[test]
    fn newest_first_and_a_day_back() {
        assert_eq!(eids(&[], None).unwrap(), [9, 8, 7, 6, 5, 4, 3, 2]);
        assert_eq!(eids(&[Constraint::new("time", Op::Greater, "0")], None).unwrap().len(), 10);
        assert_eq!(eids(&[Constraint::new("eid", Op::NotEqual, "7")], None).unwrap().len(), 10);
        assert_eq!(eids(&[Constraint::new("pid", Op::Equal, "101")], None).unwrap(), [9, 5]);
    }

    #[test]
    fn a_live_row_is_in_the_window_however_old() {
        let rows = scan(&fixture::store(0), find("ai_agents").unwrap(), &Request::of(Viewer::All)).unwrap();
        let agents: Vec<_> = rows.rows.iter().map(|row| row[1].clone()).collect();
        assert_eq!(agents, ["claude-code".into(), "codex".into()]);
    }

    #[test]
    fn too_many_rows_are_an_error_that_says_what_to_do() {
        let max_rows = |n: &str| Constraint::new("max_rows", Op::Equal, n);
        assert_eq!(eids(&[], Some(8)).unwrap().len(), 8);
        let error = eids(&[], Some(7)).unwrap_err();
        assert_eq!(error, ScanError::TooManyRows { table: "agent_file_ops", cap: 7 });
        assert!(error.to_string().contains("max_rows = N"), "{error}");
        assert_eq!(eids(&[max_rows("8")], Some(7)).unwrap().len(), 8);
        assert!(eids(&[max_rows("2")], Some(7)).is_err());
        assert!(eids(&[max_rows("many")], Some(7)).is_err());
    }

    #[test]
    fn a_slow_read_stops_at_its_deadline() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static LOOKED_AT: AtomicUsize = AtomicUsize::new(0);
        static SLOW: Declaration<()> = Declaration {
            info: Info { name: "slow", description: "", platforms: &[], event_based: false, examples: &[] },
            fields: &[bigint("number", "", |()| {
                LOOKED_AT.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
                0.into()
            })],
            rows: Source::Store(|_| Snapshot::of(vec![(); 1_000_000])),
            ended: |()| None,
            owner: |()| Owner::Anyone,
            finished: None,
            running: None,
        };
        // No row matches: it is the scan that has to look at the clock, not who takes its rows.
        let constraints = vec![Constraint::new("number", Op::Equal, "1")];
        let deadline = Some(Instant::now() + Duration::from_millis(100));
        let error = scan(&Store::default(), &SLOW, &Request { constraints, deadline, ..Request::of(Viewer::All) });
        let error = error.unwrap_err();
        assert_eq!(error, ScanError::TooSlow { table: "slow" });
        assert!(error.to_string().starts_with("slow: stopped"), "{error}");
        let rows = LOOKED_AT.load(Ordering::Relaxed);
        assert!(rows <= 100 + 16, "{rows}");
    }

    #[test]
    fn max_rows_answers_what_was_asked() {
        let constraint = Constraint::new("max_rows", Op::Equal, "50");
        let request = Request {
            constraints: vec![constraint],
            columns: Some(vec!["max_rows".into()]),
            ..Request::of(Viewer::All)
        };
        let rows = scan(&fixture::store(3), find("agent_file_ops").unwrap(), &request).unwrap();
        assert_eq!(rows.rows, [[Value::Integer(50)]]);
    }
}
