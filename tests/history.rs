//! The history as a file: what survives, what is refused, and how rows come back.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agentquery::history::{
    Counted, Execution, History, HistoryError, Mark, OpenNote, Query, Retention, RunningRow, Settings, VERSION, Writer,
};
use agentquery::record::rows::{Identity, ProcessRow};
use agentquery::record::{State, Store};
use agentquery::tables::constraint::{Constraint, Op};
use agentquery::tables::filter::Filter;
use agentquery::tables::{self, Column, ColumnType, Viewer};
use agentquery::value::Value;
use proptest::prelude::*;

const TABLE: &str = "agent_file_ops";
const START: i64 = 1_795_000_000_000_000_000;
const ALL: Query<'static> = Query { viewer: Viewer::All, constraints: &[], since: None };

fn columns(table: &str) -> Vec<&'static Column> {
    tables::find(table).unwrap().columns()
}

fn index(table: &str, name: &str) -> usize {
    columns(table).iter().position(|column| column.name == name).unwrap()
}

/// The `n`th row of a table: every column that is kept has a value.
fn row(table: &str, n: i64) -> Vec<Value> {
    let time_ns = START + n * 1_000_000 + n % 977;
    let cell = |column: &&Column| match (column.name, column.kind) {
        _ if column.is_of_query() => Value::Null,
        ("eid" | "agent_id", _) if column.name == "eid" || table == "ai_agents" => Value::Integer(time_ns + 5),
        ("time_ns", _) => Value::Integer(time_ns),
        ("time" | "start_time" | "end_time", _) => Value::Integer(time_ns / 1_000_000_000),
        ("path", _) => format!("/home/dev/project/src/module{}/file{}.rs", n % 40, n % 997).into(),
        ("pid", _) => Value::Integer(4000 + n / 50 % 300),
        (_, ColumnType::Text) => ["a", "B", "c d"][usize::try_from(n % 3).unwrap()].into(),
        (_, ColumnType::Integer | ColumnType::BigInt) => Value::Integer(n % 7),
        (_, ColumnType::Double) => Value::Double(0.25),
    };
    columns(table).iter().map(cell).collect()
}

fn flush(history: &mut History, table: &str, numbers: std::ops::Range<i64>) -> Result<(), HistoryError> {
    let rows: Vec<_> = numbers.clone().map(|n| row(table, n)).collect();
    let mut flush = history.flush()?;
    flush.append(table, &mut rows.iter().map(|row| (&row[..], Some(1000))))?;
    flush.commit(&Mark {
        eid: START + numbers.end,
        position: numbers.end,
        series: 3,
        flush: 4,
        complete: START + numbers.end,
    })
}

/// All rows of a table, page by page, newest first, with all columns.
fn all(history: &History, table: &str, query: &Query<'_>) -> Result<Vec<(i64, Vec<Value>)>, HistoryError> {
    let reader = history.readers().reader()?;
    let indexes: Vec<_> = (0..columns(table).len()).collect();
    let conditions = reader.conditions(table, query).unwrap();
    let mut rows: Vec<(i64, Vec<Value>)> = Vec::new();
    loop {
        let page = reader.page(table, &indexes, &conditions, (rows.last().map(|row| row.0), None), 3000)?;
        if page.is_empty() {
            return Ok(rows);
        }
        rows.extend(page.into_iter().map(|row| (row.eid, row.values)));
    }
}

fn expected(table: &str, numbers: std::ops::Range<i64>) -> Vec<Vec<Value>> {
    numbers.rev().map(|n| row(table, n)).collect()
}

fn values(rows: Vec<(i64, Vec<Value>)>) -> Vec<Vec<Value>> {
    rows.into_iter().map(|row| row.1).collect()
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.duckdb");
    (folder, path)
}

fn open(path: &Path) -> History {
    let (history, notes) = History::open(path).unwrap();
    assert_eq!(notes, []);
    history
}

#[test]
fn a_reader_gets_each_row_once_and_no_more_than_it_can_hold() {
    let (_folder, path) = place();
    let mut history = open(&path);
    flush(&mut history, TABLE, 0..100).unwrap();
    let give = |history: &History, whose: &str, number: &str, counted: &str, most| {
        let counted = (!counted.is_empty()).then(|| Counted(counted.to_owned()));
        let (consumer, number) = ("scheduled/files".to_owned(), number.to_owned());
        let execution = Execution { whose: whose.to_owned(), consumer, number, counted, none_before: false };
        let (after, until) = history.readers().give(TABLE, &execution, most, START).unwrap();
        let rows = all(history, TABLE, &ALL).unwrap();
        rows.iter().filter(|(eid, _)| (after + 1..=until).contains(eid)).count()
    };
    let complete = |history: &mut History, n: i64| {
        let mark = history.mark().unwrap();
        let complete = START + n * 1_000_000;
        history.flush().unwrap().commit(&Mark { complete, ..mark }).unwrap();
    };
    // Only as far as all is stored.
    complete(&mut history, 60);
    assert_eq!(give(&history, "", "1", "1/0", None), 60);
    assert_eq!(give(&history, "", "1", "1/0", None), 60, "another scan of the same query");
    complete(&mut history, 200);
    assert_eq!(give(&history, "", "1", "1/0", None), 60, "which sees what the first one saw");
    assert_eq!(give(&history, "", "2", "1/0", Some(80)), 80, "it did not arrive: again, with new ones");
    assert_eq!(give(&history, "", "3", "2/0", Some(15)), 15, "no more than are wanted, the oldest first");
    drop(history);
    let history = open(&path);
    assert_eq!(give(&history, "", "4", "3/0", Some(15)), 5, "the rest, after the next start");
    assert_eq!(give(&history, "", "5", "4/0", Some(15)), 0);
    assert_eq!(give(&history, "1000", "5", "4/0", None), 100, "another user's is another one");
}

#[test]
fn every_column_of_every_table_comes_back() {
    let (_folder, path) = place();
    let mut history = open(&path);
    for table in ["ai_agents", "agent_processes", "agent_connections", TABLE] {
        flush(&mut history, table, 0..5000).unwrap();
    }
    drop(history);
    let history = open(&path);
    for table in ["ai_agents", "agent_processes", "agent_connections", TABLE] {
        assert_eq!(values(all(&history, table, &ALL).unwrap()), expected(table, 0..5000), "{table}");
    }
    assert_eq!(
        history.mark().unwrap(),
        Mark { eid: START + 5000, position: 5000, series: 3, flush: 4, complete: START + 5000 }
    );
    #[cfg(unix)]
    for file in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        use std::os::unix::fs::PermissionsExt as _;
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", file.path());
    }
}

#[test]
fn a_flush_that_is_dropped_leaves_nothing() {
    let (_folder, path) = place();
    let mut history = open(&path);
    flush(&mut history, TABLE, 0..10).unwrap();
    let rows: Vec<_> = (10..20).map(|n| row(TABLE, n)).collect();
    let mut dropped = history.flush().unwrap();
    dropped.append(TABLE, &mut rows.iter().map(|row| (&row[..], None))).unwrap();
    drop(dropped);
    assert_eq!(values(all(&history, TABLE, &ALL).unwrap()), expected(TABLE, 0..10));
    assert_eq!(history.mark().unwrap().position, 10);
}

const RUNNING: [&str; 4] = ["ai_agents", "agent_processes", "agent_connections", "agent_open_files"];
const BOOT: &str = "8c2f9d0e-boot";

fn identity(start_ns: u64) -> Identity {
    Identity { start_ns, ..Identity::default() }
}

fn running(table: &str, numbers: std::ops::Range<i64>) -> Vec<RunningRow> {
    let row = |n| RunningRow { values: row(table, n), owner: Some(n), identity: identity(n.unsigned_abs() * 7) };
    numbers.map(row).collect()
}

fn begin(history: &mut History, numbers: std::ops::Range<i64>) {
    let mark = history.mark().unwrap();
    let mut flush = history.flush().unwrap();
    for table in RUNNING {
        flush.begin(tables::find(table).unwrap(), BOOT, &running(table, numbers.clone())).unwrap();
    }
    flush.commit(&mark).unwrap();
}

/// Running rows of a table, with the boot that they are of.
fn found(history: &History, table: &str) -> Vec<(String, RunningRow)> {
    let found = history.running().unwrap().into_iter().filter(|found| found.table.info().name == table);
    found.map(|found| (found.boot, found.row)).collect()
}

fn assert_runs(history: &History, numbers: std::ops::Range<i64>) {
    for table in RUNNING {
        let rows: Vec<_> = running(table, numbers.clone()).into_iter().map(|row| (BOOT.to_owned(), row)).collect();
        assert_eq!(found(history, table), rows, "{table}");
    }
}

#[test]
fn running_rows_come_back_until_they_end() {
    let (_folder, path) = place();
    let mut history = open(&path);
    begin(&mut history, 0..50);
    drop(history);
    let mut history = open(&path);
    assert_runs(&history, 0..50);
    // They are no rows of the tables, and end in the moment in which those appear.
    let end = |history: &mut History, commit: bool| {
        let mut flush = history.flush().unwrap();
        for table in RUNNING {
            let rows: Vec<_> = (0..20).map(|n| row(table, n)).collect();
            let key = tables::find(table).unwrap().key();
            let keys = rows.iter().map(|row| if let Value::Integer(key) = row[key] { key } else { panic!("no key") });
            flush.end(table, &keys.collect::<Vec<_>>()).unwrap();
            flush.append(table, &mut rows.iter().map(|row| (&row[..], Some(1000)))).unwrap();
        }
        if commit {
            flush.commit(&Mark::default()).unwrap();
        }
    };
    end(&mut history, false);
    assert_runs(&history, 0..50);
    assert_eq!(all(&history, "agent_processes", &ALL).unwrap(), []);
    end(&mut history, true);
    drop(history);
    let history = open(&path);
    assert_runs(&history, 20..50);
    assert_eq!(values(all(&history, "agent_processes", &ALL).unwrap()), expected("agent_processes", 0..20));
}

#[test]
fn a_row_whose_end_is_not_known_is_of_the_time_of_its_start() {
    let (_folder, path) = place();
    let mut history = open(&path);
    let table = "agent_processes";
    let seconds = |row: &[Value], column: &str| match row[index(table, column)] {
        Value::Integer(time) => time,
        _ => panic!("no {column}"),
    };
    let ended = row(table, 0);
    // One that ended after it, and one that began after it and of whose end nothing is known.
    let since = seconds(&ended, "time") + 10;
    let late = |mut row: Vec<Value>, eid, column: &str, value: Value| {
        row[index(table, "eid")] = Value::Integer(eid);
        row[index(table, column)] = value;
        row
    };
    let unknown = |n, eid| late(row(table, n), eid, "end_time", Value::Null);
    let rows = [ended.clone(), unknown(0, 1), unknown(11_000, 2), late(ended, 3, "end_time", Value::Integer(since))];
    let mut flush = history.flush().unwrap();
    flush.append(table, &mut rows.iter().map(|row| (&row[..], None))).unwrap();
    flush.commit(&Mark::default()).unwrap();
    let found = all(&history, table, &Query { since: Some(since), ..ALL }).unwrap();
    assert_eq!(found.iter().map(|row| row.0).collect::<Vec<_>>(), [3, 2]);
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn record(path: &Path, boot: &str) -> (Writer, Arc<Store>, i64) {
    let (settings, store) =
        (Settings { path: path.into(), retention: Retention::default() }, Arc::new(Store::default()));
    let (writer, highest) = Writer::start(settings, boot, Arc::clone(&store)).unwrap();
    (writer, store, highest)
}

fn process(eid: i64, state: &'static str) -> ProcessRow {
    let identity = identity(eid.unsigned_abs());
    ProcessRow { eid, pid: eid, identity, time_ns: START + eid, state, how: "exec", ..ProcessRow::default() }
}

#[test]
fn what_runs_when_a_recorder_ends_is_found_by_the_next() {
    let (_folder, path) = place();
    let (writer, store, _) = record(&path, "one");
    store.update(|state| {
        state.live_processes.insert(1, process(1, "running"));
        state.live_processes.insert(2, process(2, "running"));
    });
    // Whether they have been stored as running or not.
    wait_until("they are stored", || store.read(State::running) == (0, 0));
    std::thread::sleep(Duration::from_millis(700));
    store.update(|state| {
        let ended = state.live_processes.remove(1).unwrap();
        state.processes.push(ProcessRow { state: "exited", ..ended });
        state.live_processes.insert(2, ProcessRow { name: "other".into(), ..process(2, "running") });
        state.live_processes.insert(3, process(3, "running"));
        let ended = process(4, "exited");
        state.processes.push(ended);
    });
    drop(writer);
    for (boot, here) in [("one", true), ("two", false)] {
        let (writer, store, highest) = record(&path, boot);
        assert_eq!(highest, 4);
        // Nothing is stored before somebody has seen to it.
        store.update(|state| state.processes.push(process(5, "exited")));
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(store.finished(), 1);
        let found = store.read(|state| state.found.clone()).unwrap();
        let rows = if here { &found.here } else { &found.gone };
        let rows: Vec<_> = rows.processes.iter().map(|row| (row.eid, row.identity.start_ns, &*row.name)).collect();
        assert_eq!(rows, [(2, 2, "other"), (3, 3, "")]);
        assert_eq!(found.here.processes.len() + found.gone.processes.len(), 2);
        // It ends before that: nothing is lost and nothing twice.
        drop(writer);
    }
    let (writer, store, _) = record(&path, "two");
    store.take_found().unwrap();
    store.update(|state| {
        state.processes.push(process(2, "unknown"));
        state.live_processes.insert(3, process(3, "running"));
    });
    wait_until("they are stored", || store.finished() == 0);
    drop(writer);
    let history = open(&path);
    let mut ended: Vec<_> = all(&history, "agent_processes", &ALL).unwrap().iter().map(|row| row.0).collect();
    ended.sort_unstable();
    assert_eq!(ended, [1, 2, 4]);
    let running = found(&history, "agent_processes");
    assert_eq!((running.len(), history.running().unwrap().len()), (1, 1));
    assert_eq!((&*running[0].0, &running[0].1.values[0]), ("two", &Value::Integer(3)));
}

#[test]
fn a_walk_misses_no_row_while_others_are_appended() {
    let (_folder, path) = place();
    let mut history = open(&path);
    let (committed, stop) = (AtomicI64::new(0), AtomicBool::new(false));
    let (readers, began) = (history.readers(), Instant::now());
    std::thread::scope(|scope| {
        let walk = || {
            let (mut worst, mut walks) = ((0, 0), 0);
            while !stop.load(Ordering::Relaxed) {
                let before = committed.load(Ordering::SeqCst);
                let reader = readers.reader().unwrap();
                let conditions = reader.conditions(TABLE, &ALL).unwrap();
                let (mut cursor, mut rows) = (reader.walk(TABLE, vec![0], conditions).unwrap(), 0);
                while let Some(page) = cursor.page().unwrap() {
                    rows += i64::try_from(page.len()).unwrap();
                }
                walks += 1;
                if before - rows > worst.0 - worst.1 {
                    worst = (before, rows);
                }
            }
            (worst, walks)
        };
        let walks = [scope.spawn(walk), scope.spawn(walk)];
        for next in (0..).step_by(1000).take_while(|_| began.elapsed() < Duration::from_secs(6)) {
            flush(&mut history, TABLE, next..next + 1000).unwrap();
            committed.store(next + 1000, Ordering::SeqCst);
            if next % 5000 == 0 {
                let _ = history.checkpoint(); // not while somebody reads
            }
        }
        stop.store(true, Ordering::Relaxed);
        for walk in walks {
            let ((before, rows), walks) = walk.join().unwrap();
            assert!(walks > 0);
            assert!(rows >= before, "{rows} of {before} rows, in one of {walks} walks");
        }
    });
}

#[test]
fn when_nothing_was_recorded_is_remembered() {
    let (_folder, path) = place();
    let (writer, store, _) = record(&path, "one");
    store.set_recording_since(1000);
    assert_eq!(store.gap(), None, "it is the first");
    drop(writer);
    let now = || i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap();
    for round in 0..3 {
        let began = now();
        let (writer, store, _) = record(&path, "one");
        assert_eq!(store.gap(), None, "it does not record yet");
        store.set_recording_since(now());
        let (from, to) = store.gap().unwrap();
        assert!(from < began && to >= began && to <= now(), "{from} {to}");
        drop(writer);
        let history = open(&path);
        let gaps = history.gaps().unwrap();
        assert_eq!((gaps.len(), gaps[round]), (round + 1, (from, to)));
    }
}

/// Not a test of its own: what `what_was_flushed_survives_a_kill` kills.
#[test]
#[ignore = "run by another test"]
fn appends_until_it_is_killed() {
    let Some(path) = std::env::var_os("AGENTQUERY_HISTORY_KILL") else { return };
    let (mut history, _) = History::open(Path::new(&path)).unwrap();
    let mut next = history.mark().unwrap().position;
    loop {
        flush(&mut history, TABLE, next..next + 500).unwrap();
        next += 500;
        println!("\nflushed {next}");
        if next % 5000 == 0 {
            history.checkpoint().unwrap();
        }
    }
}

#[test]
fn what_was_flushed_survives_a_kill() {
    let (_folder, path) = place();
    let mut told = 0;
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "appends_until_it_is_killed", "--nocapture"])
            .env("AGENTQUERY_HISTORY_KILL", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let enough = told + 2500 + round * 700;
        while told < enough {
            let line = lines.next().expect("the child ended by itself").unwrap();
            if let Some(next) = line.strip_prefix("flushed ") {
                told = next.parse().unwrap();
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            told = line.strip_prefix("flushed ").map_or(told, |next| next.parse().unwrap());
        }
        let history = open(&path);
        let position = history.mark().unwrap().position;
        assert!(position >= told, "{position} rows are stored, {told} were flushed");
        assert_eq!(position % 500, 0);
        assert_eq!(values(all(&history, TABLE, &ALL).unwrap()), expected(TABLE, 0..position));
        told = position;
    }
}

#[test]
fn one_at_a_time() {
    let (_folder, path) = place();
    let history = open(&path);
    let error = History::open(&path).unwrap_err();
    assert!(matches!(error, HistoryError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    drop(history);
    open(&path);
}

#[test]
fn a_damaged_file_is_set_aside() {
    let (folder, path) = place();
    let mut history = open(&path);
    flush(&mut history, TABLE, 0..20_000).unwrap();
    history.checkpoint().unwrap();
    drop(history);
    let good = std::fs::read(&path).unwrap();
    let damages: [(&str, Vec<u8>); 4] = [
        ("no header", good.iter().enumerate().map(|(i, byte)| if i < 4096 { byte ^ 0x55 } else { *byte }).collect()),
        ("text", b"this is no database, but a letter to somebody".repeat(300)),
        ("headers", good.iter().enumerate().map(|(i, byte)| if i < 12288 { 0xff } else { *byte }).collect()),
        ("cut", good[..12288 + 100].to_vec()),
    ];
    for (what, bytes) in damages {
        std::fs::write(&path, &bytes).unwrap();
        let (mut history, notes) = History::open(&path).unwrap_or_else(|error| panic!("{what}: {error}"));
        let [OpenNote::SetAside { path: aside, .. }] = &notes[..] else { panic!("{what}: {notes:?}") };
        assert_eq!(std::fs::read(aside).unwrap(), bytes, "{what}: nothing of it is lost");
        flush(&mut history, TABLE, 0..10).unwrap();
        assert_eq!(values(all(&history, TABLE, &ALL).unwrap()), expected(TABLE, 0..10), "{what}");
    }
    // Each under a name of its own.
    let aside = std::fs::read_dir(folder.path())
        .unwrap()
        .filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().contains(".corrupt-"));
    assert_eq!(aside.count(), 4);
}

#[test]
fn a_flipped_byte_is_an_error_and_no_wrong_row() {
    let (_folder, path) = place();
    let mut history = open(&path);
    flush(&mut history, TABLE, 0..20_000).unwrap();
    history.checkpoint().unwrap();
    drop(history);
    let size = std::fs::metadata(&path).unwrap().len();
    for part in 1..12 {
        let at = SeekFrom::Start(size * part / 12);
        let mut file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        file.seek(at).unwrap();
        file.read_exact(&mut byte).unwrap();
        file.seek(at).unwrap();
        file.write_all(&[!byte[0]]).unwrap();
        match History::open(&path) {
            Ok((history, notes)) if notes.is_empty() => match all(&history, TABLE, &ALL) {
                Ok(rows) => assert_eq!(values(rows), expected(TABLE, 0..20_000), "byte in part {part}"),
                Err(error) => assert!(matches!(error, HistoryError::Corrupt { .. }), "{error}"),
            },
            Ok((history, notes)) => {
                drop(history);
                let [OpenNote::SetAside { path: aside, .. }] = &notes[..] else { panic!("{notes:?}") };
                std::fs::rename(aside, &path).unwrap();
            }
            Err(error) => panic!("part {part}: {error}"),
        }
        file.seek(at).unwrap();
        file.write_all(&byte).unwrap();
    }
}

#[test]
fn a_newer_version_is_refused() {
    let (_folder, path) = place();
    drop(open(&path));
    let other = duckdb::Connection::open(&path).unwrap();
    other.execute("UPDATE meta SET version = ?", [VERSION + 1]).unwrap();
    drop(other);
    let error = History::open(&path).unwrap_err();
    assert!(matches!(error, HistoryError::Newer { .. }), "{error}");
    assert!(error.to_string().contains("update agentquery"), "{error}");
}

#[test]
fn a_column_that_the_file_lacks_is_added() {
    let (_folder, path) = place();
    let mut history = open(&path);
    flush(&mut history, TABLE, 0..10).unwrap();
    drop(history);
    let other = duckdb::Connection::open(&path).unwrap();
    other
        .execute_batch(
            "ALTER TABLE agent_file_ops DROP COLUMN mode; ALTER TABLE agent_file_ops ADD COLUMN gone VARCHAR",
        )
        .unwrap();
    drop(other);
    let mut history = open(&path);
    flush(&mut history, TABLE, 10..20).unwrap();
    let mode = index(TABLE, "mode");
    let mut rows = expected(TABLE, 0..20);
    for row in &mut rows[10..] {
        row[mode] = Value::Null;
    }
    assert_eq!(values(all(&history, TABLE, &ALL).unwrap()), rows);
}

fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// A small file system, as long as it lives.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(options: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder.path()).status();
        status.is_ok_and(|status| status.success()).then_some(Self(folder))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_and_what_was_stored_stays() {
    let Some(mount) = is_root().then(|| Mount::new("size=4m,mode=700")).flatten() else {
        eprintln!("left out: it takes root to mount a small file system");
        return;
    };
    let path = mount.0.path().join("history.duckdb");
    let mut history = open(&path);
    let mut stored = 0;
    let error = loop {
        match flush(&mut history, TABLE, stored..stored + 2000) {
            Ok(()) => stored += 2000,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, HistoryError::DiskFull { .. }), "{error}");
    assert!(stored > 0);
    drop(history);
    // Room again: it goes on where it stopped.
    let status = Command::new("mount").args(["-o", "remount,size=64m"]).arg(mount.0.path()).status().unwrap();
    assert!(status.success());
    let mut history = open(&path);
    assert_eq!(history.mark().unwrap().position, stored);
    flush(&mut history, TABLE, stored..stored + 2000).unwrap();
    assert_eq!(values(all(&history, TABLE, &ALL).unwrap()), expected(TABLE, 0..stored + 2000));
}

#[test]
fn a_directory_that_cannot_be_written_is_told() {
    let Some(mount) = is_root().then(|| Mount::new("size=1m,mode=700,ro")).flatten() else {
        eprintln!("left out: it takes root to mount a small file system");
        return;
    };
    let error = History::open(&mount.0.path().join("history.duckdb")).unwrap_err();
    assert!(matches!(error, HistoryError::NotUsable { .. }), "{error}");
    assert!(error.to_string().contains("--database"), "{error}");
}

#[test]
fn readers_do_not_wait_for_a_checkpoint() {
    let (_folder, path) = place();
    let mut history = open(&path);
    for part in 0..20 {
        flush(&mut history, TABLE, part * 10_000..(part + 1) * 10_000).unwrap();
    }
    let readers = history.readers();
    let done = Arc::new(AtomicBool::new(false));
    let over = Arc::clone(&done);
    let pages = std::thread::spawn(move || {
        let reader = readers.reader().unwrap();
        let conditions = reader.conditions(TABLE, &ALL).unwrap();
        let mut spans = Vec::new();
        while !over.load(Ordering::SeqCst) {
            let start = Instant::now();
            assert_eq!(reader.page(TABLE, &[0, 9], &conditions, (None, None), 100).unwrap().len(), 100);
            spans.push((start, start.elapsed()));
        }
        spans
    });
    let start = Instant::now();
    history.checkpoint().unwrap();
    let end = Instant::now();
    done.store(true, Ordering::SeqCst);
    let spans = pages.join().unwrap();
    let inside = spans.iter().filter(|(from, took)| *from > start && *from + *took < end).count();
    let longest = spans.iter().map(|span| span.1).max().unwrap_or_default();
    println!("checkpoint {:?}, {inside} pages meanwhile, the longest {longest:?}", end - start);
    assert!(inside > 0, "no page was read within the {:?} of the checkpoint", end - start);
}

#[test]
fn commits_and_checkpoints_succeed_beside_queries() {
    let (_folder, path) = place();
    let mut history = open(&path);
    flush(&mut history, TABLE, 0..20_000).unwrap();
    let (readers, done) = (history.readers(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let walk = || {
            let mut pages = 0;
            while !done.load(Ordering::SeqCst) {
                let reader = readers.reader().unwrap();
                let conditions = reader.conditions(TABLE, &ALL).unwrap();
                let mut cursor = reader.walk(TABLE, (0..columns(TABLE).len()).collect(), conditions).unwrap();
                while cursor.page().unwrap().is_some() && !done.load(Ordering::SeqCst) {
                    pages += 1;
                }
            }
            pages
        };
        let walkers: Vec<_> = (0..6).map(|_| scope.spawn(walk)).collect();
        let mut failed = None;
        for part in 2..16 {
            let stored = flush(&mut history, TABLE, part * 10_000..(part + 1) * 10_000);
            let stored = stored.and_then(|()| if part % 4 == 0 { history.checkpoint() } else { Ok(()) });
            failed = failed.or(stored.err());
        }
        done.store(true, Ordering::SeqCst);
        assert!(failed.is_none(), "{failed:?}");
        assert!(walkers.into_iter().all(|walker| walker.join().unwrap() > 0));
    });
    assert!(values(all(&history, TABLE, &ALL).unwrap()) == expected(TABLE, 0..160_000));
}

#[test]
fn the_oldest_rows_leave_by_age_and_by_size() {
    let (_folder, path) = place();
    let mut history = open(&path);
    for part in 0..20 {
        flush(&mut history, TABLE, part * 10_000..(part + 1) * 10_000).unwrap();
    }
    history.checkpoint().unwrap();
    // Rows are a millisecond apart: half of them are older than 100 s after the start.
    let retention = Retention { seconds: 50, bytes: 1 << 30 };
    while history.prune(&retention, START / 1_000_000_000 + 150).unwrap().more {}
    let rows = values(all(&history, TABLE, &ALL).unwrap());
    assert!(rows == expected(TABLE, 200_000 - i64::try_from(rows.len()).unwrap()..200_000));
    assert!((99_900..=100_100).contains(&rows.len()), "{}", rows.len());
    history.checkpoint().unwrap();
    let used = history.used_bytes().unwrap();
    let retention = Retention { seconds: i64::MAX / 2_000_000_000, bytes: used / 2 };
    let deadline = Instant::now() + Duration::from_secs(20);
    while history.prune(&retention, START / 1_000_000_000).unwrap().more {
        assert!(Instant::now() < deadline);
    }
    let left = values(all(&history, TABLE, &ALL).unwrap()).len();
    assert!(left < rows.len() && history.used_bytes().unwrap() <= used / 2, "{left} rows, {used} bytes before");
    // What was freed is used again.
    let before = std::fs::metadata(&path).unwrap().len();
    flush(&mut history, TABLE, 200_000..210_000).unwrap();
    history.checkpoint().unwrap();
    assert!(std::fs::metadata(&path).unwrap().len() <= before);
}

/// Cells and values of constraints that meet: equal, nearly equal, and of other types.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "", " ", "a", "A", "a ", "ab", "Ab%", "1", "1.0", "é", "É", "K", "\u{212a}", "a_b", "a\0b"
        ])
        .prop_map(str::to_owned),
        "[aAbB%_*?é ]{0,4}",
    ]
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![-3i64..4, Just(i64::MAX), Just(i64::MIN), Just(1_000_000_000), Just(1_999_999_999)]
}

fn cell(column: &'static Column) -> BoxedStrategy<Value> {
    match column.kind {
        _ if column.is_of_query() => Just(Value::Null).boxed(),
        ColumnType::Text => prop_oneof![Just(Value::Null), text().prop_map(|text| Value::Text(text.into()))].boxed(),
        ColumnType::Integer | ColumnType::BigInt => {
            prop_oneof![Just(Value::Null), number().prop_map(Value::Integer)].boxed()
        }
        ColumnType::Double => {
            prop_oneof![Just(Value::Null), (-2.0..2.0f64).prop_map(Value::Double), Just(Value::Double(0.5))].boxed()
        }
    }
}

fn constraint(table: &'static str) -> impl Strategy<Value = Constraint> {
    let names: Vec<_> = columns(table).iter().map(|column| column.name).collect();
    let ops = [
        Op::Equal,
        Op::Is,
        Op::Greater,
        Op::GreaterOrEqual,
        Op::Less,
        Op::LessOrEqual,
        Op::Like,
        Op::Glob,
        Op::NotEqual,
        Op::IsNot,
    ];
    let value = prop_oneof![
        text(),
        number().prop_map(|number| number.to_string()),
        prop::sample::select(vec![
            "0.5",
            "1e0",
            "1.0000000000001",
            "1e999",
            " 2 ",
            "9223372036854775808",
            "a*",
            "A%",
            "[a]*"
        ])
        .prop_map(str::to_owned),
    ];
    (prop::sample::select(names), prop::sample::select(ops.to_vec()), value)
        .prop_map(|(name, op, value)| Constraint::new(name, op, value))
}

/// Rows of a table, with their numbers and what follows from other columns put right.
fn rows(table: &'static str) -> impl Strategy<Value = Vec<Vec<Value>>> {
    let cells = columns(table).into_iter().map(cell).collect::<Vec<_>>();
    let key = columns(table).iter().position(|column| ["eid", "agent_id"].contains(&column.name)).unwrap();
    let (time, time_ns) = (index(table, "time"), index(table, "time_ns"));
    let near: Vec<_> = (0..columns(table).len())
        .filter(|column| table == TABLE && ["time_ns", "open_eid"].contains(&columns(table)[*column].name))
        .collect();
    prop::collection::vec(cells, 1..60).prop_map(move |mut rows| {
        for (n, row) in rows.iter_mut().enumerate() {
            let number = i64::try_from(n).unwrap();
            row[key] = Value::Integer(number);
            for near in &near {
                // What is too far from the eid is not stored.
                if matches!(row[*near], Value::Integer(other) if number.checked_sub(other).is_none()) {
                    row[*near] = Value::Null;
                }
            }
            row[time] = match row[time_ns] {
                Value::Integer(ns) => Value::Integer(ns.div_euclid(1_000_000_000)),
                _ => Value::Null,
            };
        }
        rows.reverse();
        rows
    })
}

type Case = (&'static str, Vec<Vec<Value>>, Vec<Vec<Constraint>>);

fn case(table: &'static str) -> impl Strategy<Value = Case> {
    (Just(table), rows(table), prop::collection::vec(prop::collection::vec(constraint(table), 0..3), 60))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_pushed_loses_no_row((table, rows, queries) in prop_oneof![case("ai_agents"), case(TABLE)]) {
        let (_folder, path) = place();
        let mut history = open(&path);
        let mut flush = history.flush().unwrap();
        // The oldest first, as they are stored.
        let mut owned = rows.iter().enumerate().rev().map(|(n, row)| (&row[..], Some(i64::try_from(n % 2).unwrap())));
        flush.append(table, &mut owned).unwrap();
        flush.commit(&Mark::default()).unwrap();
        for constraints in &queries {
            let filter = Filter::compile(&columns(table), constraints);
            let matches = |row: &&Vec<Value>| filter.may_match(|column| row[column].clone());
            let wanted: Vec<_> = rows.iter().filter(matches).cloned().collect();
            let query = Query { constraints, ..ALL };
            let got = values(all(&history, table, &query).unwrap());
            let got: Vec<_> = got.iter().filter(matches).cloned().collect();
            prop_assert_eq!(&got, &wanted, "{:?}", constraints);
            let got = walked(&history, table, &query);
            let got: Vec<_> = got.iter().filter(matches).cloned().collect();
            prop_assert_eq!(&got, &wanted, "walked: {:?}", constraints);
        }
        let own = all(&history, table, &Query { viewer: Viewer::User(1), ..ALL }).unwrap();
        prop_assert_eq!(values(own), rows.iter().skip(1).step_by(2).cloned().collect::<Vec<_>>());
    }
}

/// All rows of a table, by a walk.
fn walked(history: &History, table: &str, query: &Query<'_>) -> Vec<Vec<Value>> {
    let reader = history.readers().reader().unwrap();
    let conditions = reader.conditions(table, query).unwrap();
    let mut cursor = reader.walk(table, (0..columns(table).len()).collect(), conditions).unwrap();
    let mut rows = Vec::new();
    while let Some(page) = cursor.page().unwrap() {
        rows.extend(page.into_iter().map(|row| row.values));
    }
    rows
}

#[test]
fn a_walk_has_every_row_once() {
    let (_folder, path) = place();
    let mut history = open(&path);
    flush(&mut history, TABLE, 0..30_000).unwrap();
    // Hours later, and many at once.
    flush(&mut history, TABLE, 20_000_000..20_050_000).unwrap();
    let mut wanted = expected(TABLE, 20_000_000..20_050_000);
    wanted.extend(expected(TABLE, 0..30_000));
    assert!(walked(&history, TABLE, &ALL) == wanted);
    let time = |op, second: i64| Constraint::new("time", op, (START / 1_000_000_000 + second).to_string());
    let between = [time(Op::GreaterOrEqual, 20), time(Op::Less, 20_010)];
    let wanted: Vec<_> = (20_000..30_000).chain(20_000_000..20_010_000).rev().map(|n| row(TABLE, n)).collect();
    assert!(walked(&history, TABLE, &Query { constraints: &between, ..ALL }) == wanted);
}

#[test]
fn a_database_of_version_1_is_read() {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/history/v1.duckdb.gz");
    let (_folder, path) = place();
    let bytes = Command::new("gzip").arg("-dc").arg(&packed).output().unwrap();
    assert!(bytes.status.success(), "{}", packed.display());
    std::fs::write(&path, bytes.stdout).unwrap();
    // A column that came later is NULL in its rows.
    let file = duckdb::Connection::open(&path).unwrap();
    let mut known = file.prepare("SELECT table_name || '.' || column_name FROM duckdb_columns()").unwrap();
    let known: Vec<String> = known.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    drop(file);
    let history = open(&path);
    assert_eq!(history.mark().unwrap().position, 100);
    for table in RUNNING {
        let keys: Vec<_> =
            found(&history, table).into_iter().map(|(boot, row)| (boot, row.owner, row.identity.start_ns)).collect();
        assert_eq!(keys, [7_i64, 8].map(|n| (BOOT.to_owned(), Some(n), n.unsigned_abs() * 7)), "{table}");
    }
    for table in ["ai_agents", "agent_processes", "agent_connections", TABLE] {
        let mut rows = expected(table, 0..100);
        for (index, column) in columns(table).into_iter().enumerate().filter(|(_, column)| column.name != "time") {
            let stored = [column.name.to_owned(), format!("eid_minus_{}", column.name)];
            if !stored.iter().any(|name| known.contains(&format!("{table}.{name}"))) {
                for row in &mut rows {
                    row[index] = Value::Null;
                }
            }
        }
        assert_eq!(values(all(&history, table, &ALL).unwrap()), rows, "{table}");
    }
}

/// Writes the fixture of the version that is current: see `docs/SCHEMA_CHANGES.md`.
#[test]
#[ignore = "writes a fixture"]
fn write_a_fixture() {
    let Some(to) = std::env::var_os("AGENTQUERY_HISTORY_FIXTURE") else { return };
    let mut history = open(Path::new(&to));
    for table in ["ai_agents", "agent_processes", "agent_connections", TABLE] {
        flush(&mut history, table, 0..100).unwrap();
    }
    begin(&mut history, 7..9);
    history.checkpoint().unwrap();
}
