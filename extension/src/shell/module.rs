//! The tables as SQLite's virtual tables.
//!
//! What SQLite could leave out by a constraint is passed on and checked by it again, as osquery does: so both fronts
//! ask the tables the same.

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_int};
use std::fmt::Write as _;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::types::{Null, ValueRef};
use rusqlite::vtab::{
    Context, CreateVTab, Filters, IndexConstraintOp, IndexInfo, Module, VTab, VTabConnection, VTabCursor, VTabKind,
    sqlite3_vtab, sqlite3_vtab_cursor,
};
use rusqlite::{Connection, Error, Result};

use crate::record::Store;
use crate::record::clock::unix_ns;
use crate::tables::constraint::{Constraint, Op};
use crate::tables::schema::{create_table, quote};
use crate::tables::{Asked, Column, ColumnType, Read, Reader, RunningQuery, Scan, Table, Viewer, all, find, options};
use crate::value::Value;

/// Rows that a table is taken to have, for the planner.
const ROWS: i64 = 100_000;

const MODULE: Module<'static, AgentTable> = Module::read_only_module();

/// Creates every table in the connection.
pub(super) fn create(db: &Connection, store: Arc<Store>, viewer: Viewer, statement: Statement) -> Result<()> {
    db.create_module(c"agentquery", &MODULE, Some((store, viewer, statement)))?;
    for table in all() {
        db.execute_batch(&format!("CREATE VIRTUAL TABLE {} USING agentquery", quote(table.info().name)))?;
    }
    Ok(())
}

/// The statement that is run, by a number that no other one of this history has: when it began.
#[derive(Clone, Default)]
pub(super) struct Statement(Arc<AtomicI64>);

impl Statement {
    /// Another one begins.
    pub(super) fn begin(&self) {
        self.0.store(unix_ns(), Ordering::Relaxed);
    }

    fn query(&self) -> RunningQuery {
        let number = format!("statement {}", self.0.load(Ordering::Relaxed));
        RunningQuery { scheduled: None, number, counted: None }
    }
}

/// A virtual table. SQLite reads the base through a pointer to the whole, so it comes first.
#[repr(C)]
struct AgentTable {
    base: sqlite3_vtab,
    table: &'static dyn Table,
    store: Arc<Store>,
    viewer: Viewer,
    statement: Statement,
}

// SAFETY: the struct is repr(C) and begins with sqlite3_vtab.
unsafe impl<'vtab> VTab<'vtab> for AgentTable {
    type Aux = (Arc<Store>, Viewer, Statement);
    type Cursor = AgentCursor<'vtab>;

    fn connect(
        _db: &mut VTabConnection,
        aux: Option<&Self::Aux>,
        _module_name: &[u8],
        _database_name: &[u8],
        table_name: &[u8],
        _args: &[&[u8]],
    ) -> Result<(Cow<'static, CStr>, Self)> {
        let name = String::from_utf8_lossy(table_name);
        let (Some(table), Some((store, viewer, statement))) = (find(&name), aux) else {
            return Err(Error::ModuleError(format!("no such table: {name}")));
        };
        let schema = CString::new(create_table(table))?;
        Ok((
            Cow::Owned(schema),
            Self {
                base: sqlite3_vtab::default(),
                table,
                store: Arc::clone(store),
                viewer: *viewer,
                statement: statement.clone(),
            },
        ))
    }

    fn best_index(&self, info: &mut IndexInfo) -> Result<bool> {
        let columns = self.table.columns();
        let usable = |constraint: rusqlite::vtab::IndexConstraint<'_>| {
            let index = usize::try_from(constraint.column()).ok()?;
            constraint.is_usable().then_some((index, code(&constraint.operator())?))
        };
        let offered: Vec<_> = info.constraints().map(usable).collect();
        let mut plan = format!("{:x};", info.col_used());
        let mut rows = ROWS;
        let mut arguments = 0;
        for (position, (index, code)) in offered.into_iter().enumerate().filter_map(|(at, some)| Some((at, some?))) {
            let Some(column) = columns.get(index) else { continue };
            arguments += 1;
            info.constraint_usage(position).set_argv_index(arguments);
            // An IN list comes as one scan.
            let list = info.set_in_constraint(position, true)?;
            let _ = write!(plan, "{index}:{code}{},", if list { "+" } else { "" });
            rows = rows.min(ROWS / selectivity(column, code)).max(1);
        }
        info.set_idx_str(&plan);
        info.set_estimated_rows(rows);
        // A scan reads all rows whatever the constraint, but what it hands on costs more than what it skips.
        #[allow(clippy::cast_precision_loss)]
        info.set_estimated_cost(rows as f64 + 1000.0);
        Ok(true)
    }

    fn open(&'vtab mut self) -> Result<AgentCursor<'vtab>> {
        Ok(AgentCursor {
            base: sqlite3_vtab_cursor::default(),
            table: self.table,
            store: Arc::clone(&self.store),
            viewer: self.viewer,
            statement: self.statement.clone(),
            scan: None,
            row: 0,
            read: None,
            phantom: PhantomData,
        })
    }
}

impl CreateVTab<'_> for AgentTable {
    const KIND: VTabKind = VTabKind::Default;
}

/// How many times fewer rows a constraint leaves, roughly.
fn selectivity(column: &Column, code: u8) -> i64 {
    match (code, column.name) {
        (2 | 72, "eid") => ROWS,
        (2 | 72, _) if column.options() & options::INDEX != 0 => 1000,
        (2 | 72, _) => 10,
        (4 | 8 | 16 | 32, _) => 4,
        _ => 1,
    }
}

/// SQLite's number of a comparison that tables can use.
fn code(op: &IndexConstraintOp) -> Option<u8> {
    Some(match op {
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ => 2,
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GT => 4,
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LE => 8,
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LT => 16,
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GE => 32,
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LIKE => 65,
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GLOB => 66,
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_NE => 68,
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_ISNOT => 69,
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_IS => 72,
        _ => return None,
    })
}

/// A walk of SQLite over a table.
#[repr(C)]
struct AgentCursor<'vtab> {
    base: sqlite3_vtab_cursor,
    table: &'static dyn Table,
    store: Arc<Store>,
    viewer: Viewer,
    statement: Statement,
    /// None at the end.
    scan: Option<Scan>,
    row: i64,
    /// Of the first time that it was filtered: in a join, that is once for each row of the other table.
    read: Option<Read>,
    phantom: PhantomData<&'vtab AgentTable>,
}

impl AgentCursor<'_> {
    fn step(&mut self) -> Result<()> {
        self.row += 1;
        let Some(scan) = &mut self.scan else { return Ok(()) };
        if scan.advance() {
            return Ok(());
        }
        let failed = scan.error().map(ToString::to_string);
        self.scan = None;
        failed.map_or(Ok(()), |message| Err(Error::ModuleError(message)))
    }
}

// SAFETY: the struct is repr(C) and begins with sqlite3_vtab_cursor.
unsafe impl VTabCursor for AgentCursor<'_> {
    fn filter(&mut self, _idx_num: c_int, idx_str: Option<&str>, args: &Filters<'_>) -> Result<()> {
        let columns = self.table.columns();
        let mut constraints = Vec::new();
        let (used, plan) = idx_str.and_then(|plan| plan.split_once(';')).unwrap_or_default();
        for (argument, (step, value)) in plan.split_terminator(',').zip(args.iter()).enumerate() {
            let Some((column, op, list)) = read_step(&columns, step) else { continue };
            if list {
                let mut values = args.in_values(argument)?;
                let mut alternatives = Vec::new();
                while let Some(value) = values.next()? {
                    alternatives.push(value_text(column, value).map(|text| Constraint::new(column.name, op, text)));
                }
                // A value that the table cannot judge, such as a NULL, may match any row.
                constraints.extend(alternatives.into_iter().collect::<Option<Vec<_>>>().unwrap_or_default());
            } else {
                constraints.extend(value_text(column, value).map(|text| Constraint::new(column.name, op, text)));
            }
        }
        let used = used_columns(used, columns.len());
        if let Some(reader) = Reader::of(self.viewer, self.table, &constraints, Some(&self.statement.query())) {
            reader
                .narrow(&self.store, &mut constraints, None, false)
                .map_err(|error| Error::ModuleError(error.to_string()))?;
        }
        let asked = Asked::by(&constraints, None);
        let read = self.read.get_or_insert_with(|| Read::take(&self.store, self.table, &asked));
        self.scan = Some(read.scan(self.viewer, &constraints, used.as_deref(), None));
        self.row = 0;
        self.step()
    }

    fn next(&mut self) -> Result<()> {
        self.step()
    }

    fn eof(&self) -> bool {
        self.scan.is_none()
    }

    fn column(&self, context: &mut Context, index: c_int) -> Result<()> {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        match self.scan.as_ref().map_or(Value::Null, |scan| scan.value(index)) {
            Value::Null => context.set_result(Null),
            Value::Integer(integer) => context.set_result(integer),
            Value::Double(double) => context.set_result(double),
            Value::Text(text) => context.set_result(&*text),
        }
    }

    fn rowid(&self) -> Result<i64> {
        Ok(self.row)
    }
}

/// The columns that a query uses, of a mask in which one bit stands for all from the 64th on; none for all.
fn used_columns(mask: &str, columns: usize) -> Option<Vec<usize>> {
    let mask = u64::from_str_radix(mask, 16).ok()?;
    Some((0..columns).filter(|column| mask >> (*column).min(63) & 1 == 1).collect())
}

/// A step of the plan: the column, the comparison, and whether its value is a list.
fn read_step<'a>(columns: &[&'a Column], step: &str) -> Option<(&'a Column, Op, bool)> {
    let (index, code) = step.split_once(':')?;
    let (code, list) = code.strip_suffix('+').map_or((code, false), |code| (code, true));
    Some((columns.get(index.parse::<usize>().ok()?)?, Op::from_code(code.parse().ok()?)?, list))
}

/// A value as osquery would pass it on; none where it would not, or where its text is the engine's own matter.
fn value_text(column: &Column, value: ValueRef<'_>) -> Option<String> {
    let text = match value {
        ValueRef::Integer(integer) => integer.to_string(),
        ValueRef::Real(double) if column.kind != ColumnType::Text => format!("{double:?}"),
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).ok()?.to_owned(),
        ValueRef::Real(_) | ValueRef::Null | ValueRef::Blob(_) => return None,
    };
    (!text.is_empty()).then_some(text)
}
