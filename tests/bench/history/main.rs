//! The history with the rows of ten busy days, and the same rows and questions in plain SQLite beside it.
//!
//! Prints a line for each measured value: figure, condition, value and unit, with tabs between them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a benchmark fails by panicking
#![allow(clippy::cast_precision_loss)] // figures for people

mod rows;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agentquery::history::{History, LOG_LIMIT, Mark};
use agentquery::record::Store;
use agentquery::shell::{Backend, Engine, Limits, Sink};
use agentquery::tables::constraint::{Constraint, Op};
use agentquery::tables::{self, ColumnType, Request, Viewer};
use agentquery::value::Value;
use rows::{Maker, SPAN};

const TABLE: &str = "agent_file_ops";
/// Rows of a flush: what a busy second makes.
const FLUSH: usize = 8192;
const ROUNDS: usize = 5;
/// The time of the first row.
const START: i64 = 1_795_000_000_000_000_000;
const SECOND: i64 = 1_000_000_000;

/// `[ROWS]`, or `fill FILE ROWS` to make a history that ends now and measure nothing of it.
fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fill", file, rows] => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let start = i64::try_from(now.as_nanos()).unwrap() - SPAN - 60 * SECOND;
            fill(Path::new(file), rows.parse().unwrap(), start);
        }
        [] => compare(10_000_000),
        [rows] => compare(rows.parse().unwrap()),
        _ => panic!("history [ROWS], or history fill FILE ROWS"),
    }
}

fn compare(rows: i64) {
    let folder = tempfile::tempdir().unwrap();
    let history = fill(&folder.path().join("history.duckdb"), rows, START);
    let store = Arc::new(Store::default());
    store.set_history(Some(history.readers()));
    let mut ours = Engine::new(Arc::clone(&store), Viewer::All, Limits::default()).unwrap();
    let theirs = folder.path().join("plain.sqlite");
    fill_sqlite(&theirs, rows);
    let theirs = rusqlite::Connection::open(&theirs).unwrap();
    for (figure, sql) in queries() {
        for round in 0..ROUNDS {
            let begun = Instant::now();
            let count = ask(&mut ours, &sql);
            tell(figure, "history", milliseconds(begun.elapsed()), "ms");
            let begun = Instant::now();
            let same = ask_sqlite(&theirs, &sql);
            tell(figure, "SQLite", milliseconds(begun.elapsed()), "ms");
            assert_eq!(count, same, "{sql}");
            if round == 0 {
                tell(&format!("{figure}: rows"), "", count as f64, "rows");
            }
        }
    }
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let count = hour(&store);
        tell("an hour by time, without SQL", "history", milliseconds(begun.elapsed()), "ms");
        assert!(count > 0);
    }
}

/// The same hour as the first query's, as an extension reads it for osquery.
fn hour(store: &Store) -> usize {
    let middle = (START + SPAN / 2) / SECOND;
    let bound = |op, second: i64| Constraint::new("time", op, second.to_string());
    let request = Request {
        constraints: vec![bound(Op::GreaterOrEqual, middle), bound(Op::Less, middle + 3600)],
        columns: Some(["time", "agent", "pid", "operation", "path"].map(str::to_owned).into()),
        ..Request::of(Viewer::All)
    };
    tables::scan(store, tables::find(TABLE).unwrap(), &request).unwrap().rows.len()
}

fn tell(figure: &str, condition: &str, value: f64, unit: &str) {
    println!("{figure}\t{condition}\t{value}\t{unit}");
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn queries() -> [(&'static str, String); 4] {
    let middle = (START + SPAN / 2) / SECOND;
    let all = START / SECOND;
    [
        (
            "an hour by time",
            format!(
                "SELECT time, agent, pid, operation, path FROM {TABLE} WHERE time >= {middle} AND time < {}",
                middle + 3600
            ),
        ),
        (
            "one pid of a day",
            format!(
                "SELECT time, operation, path, bytes_written FROM {TABLE} WHERE time >= {middle} AND time < {} \
                 AND pid = (SELECT max(pid) FROM {TABLE} WHERE time >= {} AND time < {})",
                middle + 86400,
                middle + 3600,
                middle + 7200
            ),
        ),
        (
            "a path, the newest 100",
            format!(
                "SELECT eid, time, path FROM {TABLE} WHERE time >= {all} AND path LIKE '%/billing/queue/%' ORDER BY eid DESC LIMIT 100"
            ),
        ),
        (
            "all, by agent",
            format!("SELECT agent, count(*), sum(bytes_written) FROM {TABLE} WHERE time >= {all} GROUP BY agent"),
        ),
    ]
}

fn fill(path: &Path, rows: i64, start: i64) -> History {
    let (mut history, _) = History::open(path).unwrap();
    let mut maker = Maker::new(rows, start);
    let (mut spent, mut checkpoints) = (Duration::ZERO, Vec::new());
    maker.batches(rows, FLUSH, |batch, left| {
        let begun = Instant::now();
        let mut flush = history.flush().unwrap();
        flush.append(TABLE, &mut batch.iter().map(|row| (&row[..], Some(1000)))).unwrap();
        flush.commit(&Mark::default()).unwrap();
        spent += begun.elapsed();
        if history.log_bytes() > LOG_LIMIT || left == 0 {
            let begun = Instant::now();
            history.checkpoint().unwrap();
            checkpoints.push(begun.elapsed());
        }
    });
    let all = spent + checkpoints.iter().sum();
    tell("filling", "history", all.as_secs_f64(), "s");
    tell("appended, with checkpoints", "history", rows as f64 / all.as_secs_f64(), "rows/s");
    tell("appended, without them", "history", rows as f64 / spent.as_secs_f64(), "rows/s");
    for checkpoint in checkpoints {
        tell("checkpoint", "history", milliseconds(checkpoint), "ms");
    }
    tell("size", "history", history.used_bytes().unwrap() as f64 / rows as f64, "bytes/row");
    history
}

fn fill_sqlite(path: &Path, rows: i64) {
    let db = rusqlite::Connection::open(path).unwrap();
    let columns: Vec<_> =
        tables::find(TABLE).unwrap().columns().into_iter().filter(|column| !column.is_of_query()).collect();
    let declared: Vec<_> = columns
        .iter()
        .map(|column| match column.name {
            "eid" => "eid INTEGER PRIMARY KEY".to_owned(),
            name => format!("{name} {}", if column.kind == ColumnType::Text { "TEXT" } else { "INTEGER" }),
        })
        .collect();
    db.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; CREATE TABLE {TABLE} ({});
         CREATE INDEX by_time ON {TABLE} (time); CREATE INDEX by_pid ON {TABLE} (pid)",
        declared.join(", ")
    ))
    .unwrap();
    let marks = vec!["?"; columns.len()].join(", ");
    let sql = format!("INSERT INTO {TABLE} VALUES ({marks})");
    let mut maker = Maker::new(rows, START);
    let mut spent = Duration::ZERO;
    maker.batches(rows, FLUSH, |batch, _| {
        let begun = Instant::now();
        let transaction = db.unchecked_transaction().unwrap();
        {
            let mut insert = transaction.prepare_cached(&sql).unwrap();
            for row in batch {
                for (index, cell) in row.iter().take(columns.len()).enumerate() {
                    match cell {
                        Value::Null => insert.raw_bind_parameter(index + 1, rusqlite::types::Null),
                        Value::Integer(integer) => insert.raw_bind_parameter(index + 1, integer),
                        Value::Double(double) => insert.raw_bind_parameter(index + 1, double),
                        Value::Text(text) => insert.raw_bind_parameter(index + 1, &**text),
                    }
                    .unwrap();
                }
                insert.raw_execute().unwrap();
            }
        }
        transaction.commit().unwrap();
        spent += begun.elapsed();
    });
    let begun = Instant::now();
    db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    spent += begun.elapsed();
    tell("filling", "SQLite", spent.as_secs_f64(), "s");
    tell("appended, with checkpoints", "SQLite", rows as f64 / spent.as_secs_f64(), "rows/s");
    tell("size", "SQLite", std::fs::metadata(path).unwrap().len() as f64 / rows as f64, "bytes/row");
}

/// Takes rows and counts them.
#[derive(Default)]
struct Count(usize);

impl Sink for Count {
    fn begin(&mut self, _: &[String]) -> io::Result<()> {
        Ok(())
    }

    fn row(&mut self, _: &[Value]) -> io::Result<()> {
        self.0 += 1;
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn ask(engine: &mut Engine, sql: &str) -> usize {
    let mut count = Count::default();
    engine.run(sql, &mut count).unwrap();
    count.0
}

/// Every cell is looked at, as the other does.
fn ask_sqlite(db: &rusqlite::Connection, sql: &str) -> usize {
    let mut statement = db.prepare(sql).unwrap();
    let columns = statement.column_count();
    let mut rows = statement.query([]).unwrap();
    let mut count = 0;
    while let Some(row) = rows.next().unwrap() {
        for index in 0..columns {
            std::hint::black_box(row.get_ref(index).unwrap().data_type());
        }
        count += 1;
    }
    count
}
