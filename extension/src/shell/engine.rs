//! SQLite over the tables, for reading only.

use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Batch, Connection, ErrorCode};

use super::module::{self, Statement};
use super::{Backend, Error, Interrupter, Sink};
use crate::event::escape;
use crate::record::Store;
use crate::tables::Viewer;
use crate::value::Value;

/// Bytes that all queries of the process may hold at once; large sorts go to temporary files before that.
const HEAP_LIMIT: u32 = 64 << 20;

/// Bytes of one text.
const TEXT_LIMIT: i32 = 16 << 20;

/// Steps of the engine between two looks at the clock.
const STEPS: c_int = 10_000;

/// PRAGMAs that only tell.
const PRAGMAS: [&str; 4] = ["table_info", "table_xinfo", "table_list", "compile_options"];

/// What a query may take.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Time for a query; none for as long as it takes.
    pub time: Option<Duration>,
    /// What does not fit into memory fails, in place of going to temporary files: for a query of somebody else.
    pub memory_only: bool,
}

/// The embedded engine. It reads the store as it is at each query.
pub struct Engine {
    db: Connection,
    limits: Limits,
    statement: Statement,
    /// The query was stopped by its asker, and not by the clock.
    interrupted: Arc<AtomicBool>,
}

impl Engine {
    /// An engine over the store's rows.
    ///
    /// # Errors
    /// When SQLite cannot be set up, which is for want of memory.
    pub fn new(store: Arc<Store>, viewer: Viewer, limits: Limits) -> Result<Self, Error> {
        Self::open(store, viewer, limits).map_err(|error| message(&error, limits))
    }

    fn open(store: Arc<Store>, viewer: Viewer, limits: Limits) -> rusqlite::Result<Self> {
        let mut db = Connection::open_in_memory()?;
        db.pragma_update(None, "hard_heap_limit", HEAP_LIMIT)?;
        db.set_limit(Limit::SQLITE_LIMIT_LENGTH, TEXT_LIMIT)?;
        db.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        if limits.memory_only {
            db.pragma_update(None, "temp_store", "MEMORY")?;
        }
        let statement = Statement::default();
        module::create(&db, store, viewer, statement.clone())?;
        db.authorizer(Some(authorize))?;
        Ok(Self { db, limits, statement, interrupted: Arc::default() })
    }

    /// Names and declared types of a query's columns, in its order. The type of an expression is TEXT.
    ///
    /// # Errors
    /// When the SQL is no query that may run.
    pub fn columns(&self, sql: &str) -> Result<Vec<(String, String)>, Error> {
        let statement = self.db.prepare(sql).map_err(|error| message(&error, self.limits))?;
        let column =
            |column: rusqlite::Column<'_>| (column.name().to_owned(), column.decl_type().unwrap_or("TEXT").to_owned());
        Ok(statement.columns().map(column).collect())
    }

    /// Looks whether statements could run, and runs none.
    ///
    /// # Errors
    /// What is wrong with the first that could not.
    pub fn check(&self, sql: &str) -> Result<(), Error> {
        let mut batch = Batch::new(&self.db, sql);
        loop {
            match batch.next() {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(error) => return Err(self.explain(&error, sql)),
            }
        }
    }

    fn explain(&self, error: &rusqlite::Error, sql: &str) -> Error {
        match message(error, self.limits) {
            Error::TooLong(_) if self.interrupted.load(Ordering::SeqCst) => Error::Interrupted,
            Error::Sql(message) => match place(error, sql) {
                Some(offset) => Error::Place { message, offset },
                None => Error::Sql(message),
            },
            other => other,
        }
    }

    fn run_all(&mut self, sql: &str, sink: &mut dyn Sink) -> Result<(), Failure> {
        if let Some(time) = self.limits.time {
            let end = Instant::now() + time;
            self.db.progress_handler(STEPS, Some(move || Instant::now() > end))?;
        }
        let mut ran = false;
        let mut batch = Batch::new(&self.db, sql);
        while let Some(mut statement) = batch.next()? {
            ran = true;
            self.statement.begin();
            let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
            sink.begin(&columns).map_err(Failure::Write)?;
            let mut rows = statement.query([])?;
            let mut cells = Vec::with_capacity(columns.len());
            while let Some(row) = rows.next()? {
                cells.clear();
                for index in 0..columns.len() {
                    cells.push(cell(row.get_ref(index)?));
                }
                sink.row(&cells).map_err(Failure::Write)?;
            }
            sink.end().map_err(Failure::Write)?;
        }
        if ran { Ok(()) } else { Err(Failure::Empty) }
    }
}

impl Backend for Engine {
    fn run(&mut self, sql: &str, sink: &mut dyn Sink) -> Result<(), Error> {
        self.interrupted.store(false, Ordering::SeqCst);
        self.run_all(sql, sink).map_err(|failure| match failure {
            Failure::Sql(error) => self.explain(&error, sql),
            Failure::Write(error) => Error::Write(error),
            Failure::Empty => Error::Empty,
        })
    }

    fn interrupter(&self) -> Interrupter {
        let (handle, interrupted) = (self.db.get_interrupt_handle(), Arc::clone(&self.interrupted));
        Arc::new(move || {
            interrupted.store(true, Ordering::SeqCst);
            handle.interrupt();
        })
    }
}

enum Failure {
    Sql(rusqlite::Error),
    Write(std::io::Error),
    Empty,
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

fn cell(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => integer.into(),
        ValueRef::Real(double) => double.into(),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => escape(bytes).into(),
    }
}

/// Where in all of the SQL the error is; the engine says it for the rest of the SQL that it was given last.
fn place(error: &rusqlite::Error, all: &str) -> Option<usize> {
    let rusqlite::Error::SqlInputError { sql, offset, .. } = error else { return None };
    let before = all.strip_suffix(sql.as_str())?.len();
    Some(before + usize::try_from(*offset).ok()?)
}

fn message(error: &rusqlite::Error, limits: Limits) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::AuthorizationForStatementDenied) => return Error::ReadOnly,
        Some(ErrorCode::OutOfMemory) => return Error::TooLarge(HEAP_LIMIT >> 20),
        Some(ErrorCode::OperationInterrupted) => return Error::TooLong(limits.time.unwrap_or_default().as_secs()),
        _ => {}
    }
    match error {
        rusqlite::Error::SqliteFailure(_, Some(text)) => Error::Sql(text.clone()),
        rusqlite::Error::SqlInputError { msg, .. } => Error::Sql(msg.clone()),
        other => Error::Sql(other.to_string()),
    }
}

/// What is not known to be reading is not allowed.
#[allow(clippy::needless_pass_by_value)] // the hook's signature
fn authorize(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Function { function_name } if !function_name.eq_ignore_ascii_case("load_extension") => {
            Authorization::Allow
        }
        AuthAction::Pragma { pragma_name, .. } if PRAGMAS.iter().any(|name| name.eq_ignore_ascii_case(pragma_name)) => {
            Authorization::Allow
        }
        _ => Authorization::Deny,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::tables::all;

    /// Rows as the engine gives them.
    #[derive(Default)]
    struct Collect(Vec<Vec<Value>>);

    impl Sink for Collect {
        fn begin(&mut self, _: &[String]) -> std::io::Result<()> {
            Ok(())
        }
        fn row(&mut self, cells: &[Value]) -> std::io::Result<()> {
            self.0.push(cells.to_vec());
            Ok(())
        }
        fn end(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn engine(limits: Limits) -> Engine {
        Engine::new(fixture::store(10), Viewer::All, limits).unwrap()
    }

    fn rows(sql: &str) -> Result<Vec<Vec<Value>>, Error> {
        let mut collect = Collect::default();
        engine(Limits::default()).run(sql, &mut collect)?;
        Ok(collect.0)
    }

    #[test]
    fn examples_in_the_docs_run() {
        for table in all() {
            for example in table.info().examples {
                match rows(example.sql) {
                    // How far a reader got is in the history, and this store has none.
                    Err(error) if example.sql.contains("consumer") => assert!(error.to_string().contains("history")),
                    rows => drop(rows.unwrap_or_else(|error| panic!("{}: {error}", example.sql))),
                }
            }
            let width = table.columns().iter().filter(|column| !column.is_hidden()).count();
            let everything = rows(&format!("SELECT * FROM {}", table.info().name)).unwrap();
            assert!(everything.iter().all(|row| row.len() == width) && !everything.is_empty(), "{}", table.info().name);
        }
    }

    #[test]
    fn constraints_give_the_rows_that_sql_wants() {
        let eids = |condition: &str| {
            let sql = format!("SELECT eid - {} - 1000 FROM agent_file_ops WHERE {condition}", fixture::EID);
            let integer = |row: Vec<Value>| if let [Value::Integer(i)] = row[..] { i } else { -1 };
            rows(&sql).unwrap().into_iter().map(integer).collect::<Vec<_>>()
        };
        assert_eq!(eids("1"), [9, 8, 7, 6, 5, 4, 3, 2]);
        assert_eq!(eids("pid IN (101, 102)"), [9, 6, 5, 2]);
        assert_eq!(eids("pid IN (101, NULL)"), [9, 5]);
        assert_eq!(eids("path IN ('', '/work/a9.rs')"), [9]);
        assert_eq!(eids("pid IN (SELECT pid FROM agent_processes WHERE name = 'p1') AND eid IN (1)"), [] as [i64; 0]);
        assert_eq!(eids("pid IN (SELECT pid FROM agent_processes WHERE name = 'p1')"), [9, 5]);
        assert_eq!(eids("pid = 101 AND time > 0"), [9, 5, 1]);
        assert_eq!(eids("path LIKE '/WORK/A9%'"), [9]);
        assert_eq!(eids("mode IS NULL AND operation = 'CLOSE' COLLATE NOCASE"), [7, 4]);
        assert_eq!(eids("pid = '101'"), [9, 5]);
        assert_eq!(eids("pid = 'abc'"), [] as [i64; 0]);
        assert_eq!(eids("pid < 'abc' AND bytes_written > 400.5"), [7]);
        assert_eq!(eids("max_rows = 1"), [9, 8, 7, 6, 5, 4, 3, 2], "the shell has no cap");
        assert_eq!(eids("1 LIMIT 2 OFFSET 1"), [8, 7]);
        assert_eq!(eids("path > '/work/a8'"), [9, 8]);
    }

    #[test]
    fn joins_across_tables() {
        let sql =
            "SELECT count(*), count(p.cmdline) FROM agent_file_ops f JOIN agent_processes p ON p.eid = f.process_eid";
        assert_eq!(rows(sql).unwrap(), [[Value::Integer(8), Value::Integer(7)]]);
    }

    #[test]
    fn a_join_of_many_rows_is_not_a_read_for_each() {
        let mut engine = Engine::new(fixture::store(20_000), Viewer::All, Limits::default()).unwrap();
        let mut collect = Collect::default();
        let sql = "SELECT count(*) FROM agent_file_ops a JOIN agent_file_ops b ON b.eid = a.eid WHERE a.time > 0";
        let began = Instant::now();
        engine.run(sql, &mut collect).unwrap();
        assert_eq!(collect.0, [[Value::Integer(20_000)]]);
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        let sql =
            "SELECT p.name, count(*) FROM agent_file_ops f JOIN agent_processes p ON p.eid = f.process_eid GROUP BY 1";
        let mut collect = Collect::default();
        engine.run(sql, &mut collect).unwrap();
        assert_eq!(collect.0.len(), 10);
        assert_eq!(collect.0[3], [Value::Text("p3".into()), Value::Integer(2000)]);
    }

    #[test]
    fn nothing_but_reading() {
        for sql in [
            "ATTACH '/tmp/x' AS x",
            "CREATE TABLE t (a)",
            "CREATE TEMP TABLE t (a)",
            "CREATE VIRTUAL TABLE t USING fts5(a)",
            "DELETE FROM ai_agents",
            "DROP TABLE ai_agents",
            "PRAGMA hard_heap_limit = 0",
            "PRAGMA temp_store_directory = '/tmp'",
            "SELECT load_extension('x')",
            "VACUUM INTO '/tmp/x'",
            "BEGIN",
        ] {
            assert!(matches!(rows(sql), Err(Error::ReadOnly | Error::Sql(_) | Error::Place { .. })), "{sql}");
        }
        assert!(matches!(rows("ATTACH '/tmp/x' AS x"), Err(Error::ReadOnly)));
        assert_eq!(
            rows("PRAGMA table_info(ai_agents)").unwrap().len(),
            rows("SELECT * FROM ai_agents").unwrap()[0].len()
        );
    }

    #[test]
    fn a_query_without_end_is_stopped() {
        let mut engine = engine(Limits { time: Some(Duration::from_millis(50)), ..Limits::default() });
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        assert!(matches!(engine.run(endless, &mut Collect::default()), Err(Error::TooLong(_))));
        engine.run("SELECT 1", &mut Collect::default()).unwrap();
    }

    #[test]
    fn a_query_is_stopped_by_its_asker() {
        let mut engine = engine(Limits { time: Some(Duration::from_secs(60)), ..Limits::default() });
        let stop = engine.interrupter();
        let (ended, end) = std::sync::mpsc::channel::<()>();
        let asker = std::thread::spawn(move || {
            // Again and again: one that comes before the query runs is not for it.
            while end.recv_timeout(Duration::from_millis(10)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                stop();
            }
        });
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        let result = engine.run(endless, &mut Collect::default());
        drop(ended);
        asker.join().unwrap();
        assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
        engine.run("SELECT 1", &mut Collect::default()).unwrap();
    }

    #[test]
    fn large_values_are_refused() {
        assert!(matches!(rows("SELECT zeroblob(100000000)"), Err(Error::Sql(_))));
    }

    #[test]
    fn several_statements_and_none() {
        assert_eq!(rows("SELECT 1; SELECT 2;").unwrap().len(), 2);
        assert!(matches!(rows(" -- nothing"), Err(Error::Empty)));
        assert!(matches!(rows("SELECT nothing"), Err(Error::Place { offset: 7, .. })));
        assert!(matches!(rows("SELECT 1; SELECT nothing"), Err(Error::Place { offset: 17, .. })));
    }

    #[test]
    fn columns_come_in_the_querys_order_with_types() {
        let columns = engine(Limits::default()).columns("SELECT pid, cost_usd, 1 AS one FROM ai_agents").unwrap();
        let expected = [("pid", "BIGINT"), ("cost_usd", "DOUBLE"), ("one", "TEXT")];
        assert_eq!(columns, expected.map(|(name, kind)| (name.to_owned(), kind.to_owned())));
    }
}
