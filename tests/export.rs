//! Exports: what other engines read is what SQL answers, and a file is whole or not there.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

#[path = "support/osquery.rs"]
mod osquery;
mod support;
#[path = "support/terminal.rs"]
mod terminal;

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use agentquery::history::{History, Mark};
use agentquery::tables::{self, Column, ColumnType};
use agentquery::value::Value;
use osquery::script;
use support::{AGENTQUERY, Agent, Recorder, Row, can_record, wait_until};

const TABLES: [(&str, &str); 4] =
    [("ai_agents", "agent_id"), ("agent_processes", "eid"), ("agent_connections", "eid"), ("agent_file_ops", "eid")];

/// Midnight of 2026-11-10.
const DAY_1: i64 = 1_794_268_800;
const SPAN: [&str; 4] = ["--since", "2026-11-10", "--until", "2026-11-14"];

/// The text of a cell that breaks formats.
const HOSTILE: &str = "/tmp/\u{1b}[2J\"a\",|b\r\nc\\n\u{202e}'";

/// The `n`th row of a table, `n` times four minutes after the first day began. Some cells are NULL, some texts empty.
fn row(table: &str, n: i64) -> Vec<Value> {
    let time = DAY_1 + n * 240;
    let key = time * 1_000_000_000 + 5;
    let cell = |(index, column): (usize, &&Column)| match (column.name, column.kind) {
        _ if column.is_of_query() => Value::Null,
        ("agent_id", _) if table == "ai_agents" => Value::Integer(i64::MAX - n),
        ("eid", _) => Value::Integer(key),
        ("time_ns", _) => Value::Integer(key - 5),
        ("time" | "start_time", _) => Value::Integer(time),
        ("end_time", _) => Value::Integer(time + 30),
        ("path", _) if n % 5 == 0 => HOSTILE.into(),
        (_, ColumnType::Text) => ["", "NULL", "null", "é 1", "0", "-"]
            [usize::try_from((n + i64::try_from(index).unwrap()) % 6).unwrap()]
        .into(),
        _ if (n + i64::try_from(index).unwrap()) % 4 == 0 => Value::Null,
        (_, ColumnType::Integer) => Value::Integer(n % 7),
        (_, ColumnType::BigInt) => Value::Integer((1 << 60) + n),
        (_, ColumnType::Double) => Value::Double(0.25),
    };
    tables::find(table).unwrap().columns().iter().enumerate().map(cell).collect()
}

/// A history with these rows in each table.
fn history(file: &Path, numbers: Range<i64>) {
    let (mut history, _) = History::open(file).unwrap();
    let mut flush = history.flush().unwrap();
    for (table, _) in TABLES {
        let rows: Vec<_> = numbers.clone().map(|n| row(table, n)).collect();
        flush.append(table, &mut rows.iter().map(|row| (&row[..], Some(1000)))).unwrap();
    }
    flush.commit(&Mark::default()).unwrap();
}

fn visible(table: &str) -> Vec<&'static str> {
    let columns = tables::find(table).unwrap().columns();
    columns.into_iter().filter(|column| !column.is_hidden()).map(|column| column.name).collect()
}

/// The program, where no configuration of the machine counts.
fn agentquery(folder: &Path, arguments: &[&str]) -> Command {
    let config = folder.join("config.yaml");
    if !config.exists() {
        std::fs::write(&config, "").unwrap();
    }
    let mut command = Command::new(AGENTQUERY);
    command.arg("--config").arg(config).arg("--state-dir").arg(folder.join("state")).args(arguments);
    command
}

fn export(folder: &Path, database: &Path, to: &Path, more: &[&str]) -> Output {
    let arguments = ["export", to.to_str().unwrap(), "--database", database.to_str().unwrap()];
    agentquery(folder, &arguments).args(more).output().unwrap()
}

fn exported(output: Output) {
    assert_eq!(output.stderr, b"", "progress is for terminals");
    let text = osquery::text(output);
    assert!(text.contains(": rows "), "{text}");
}

/// All rows of a table, as SQL answers.
fn answered(folder: &Path, database: &Path, table: &str, key: &str) -> Vec<Row> {
    let sql = format!("SELECT {} FROM {table} WHERE time > 0 ORDER BY {key}", visible(table).join(", "));
    let arguments = ["query", "--json", "--database", database.to_str().unwrap(), &sql];
    serde_json::from_str(&osquery::text(agentquery(folder, &arguments).output().unwrap())).unwrap()
}

/// How DuckDB reads a format.
fn source(format: &str, folder: &Path) -> String {
    let folder = folder.display().to_string().replace('\'', "''").replace('[', "[[]");
    match format {
        "parquet" => format!("read_parquet('{folder}/*/*.parquet', hive_partitioning = true)"),
        "csv" => format!(
            "read_csv('{folder}/*/*.csv', hive_partitioning = true, header = true, all_varchar = true, \
             allow_quoted_nulls = false)"
        ),
        _ => format!("read_json('{folder}/*/*.jsonl', hive_partitioning = true)"),
    }
}

/// Rows of a query of DuckDB, as text.
fn duckdb(sql: &str) -> Vec<Row> {
    let connection = duckdb::Connection::open_in_memory().unwrap();
    let sql = format!("SELECT COLUMNS(*)::VARCHAR FROM ({sql})");
    let mut statement = connection.prepare(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let mut rows = statement.query([]).unwrap();
    let mut all = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let names = row.as_ref().column_names();
        all.push(names.into_iter().enumerate().map(|(index, name)| (name, row.get(index).unwrap())).collect());
    }
    all
}

/// Rows of exported files.
fn read(format: &str, to: &Path, table: &str, key: &str) -> Vec<Row> {
    let columns: Vec<_> = visible(table).iter().map(|name| format!("\"{name}\"")).collect();
    duckdb(&format!("SELECT {} FROM {} ORDER BY {key}::BIGINT", columns.join(", "), source(format, &to.join(table))))
}

/// The files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

fn partition(to: &Path, table: &str) -> Vec<String> {
    let mut days: Vec<_> = std::fs::read_dir(to.join(table))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    days.sort();
    days
}

fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (database, to) = (folder.path().join("history.duckdb"), folder.path().join("out's [1]"));
    (folder, database, to)
}

#[test]
fn every_format_has_the_rows_that_sql_answers() {
    let (folder, database, to) = place();
    // Three days, and a bit of a fourth.
    history(&database, 0..1100);
    for format in ["parquet", "csv", "json"] {
        let to = to.join(format);
        exported(export(
            folder.path(),
            &database,
            &to,
            &[&SPAN[..], &["--format", format, "--host", "web 1"]].concat(),
        ));
        for (table, key) in TABLES {
            let expected = answered(folder.path(), &database, table, key);
            assert_eq!(expected.len(), 1100);
            let got = if format == "parquet" { read(format, &to, table, key) } else { plain(format, &to, table, key) };
            let different = expected.iter().zip(&got).find(|(expected, got)| expected != got);
            assert!(got == expected, "{format} {table}: {} rows, {different:?}", got.len());
            assert_eq!(partition(&to, table), ["day=2026-11-10", "day=2026-11-11", "day=2026-11-12", "day=2026-11-13"]);
        }
        for file in files(&to) {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
            assert!(file.file_name().unwrap().to_str().unwrap().starts_with("web_1-"), "{file:?}");
        }
        assert_eq!(std::fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

/// Rows of files that are read by their own rules and not by the engine that wrote them.
fn plain(format: &str, to: &Path, table: &str, key: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for file in files(&to.join(table)) {
        let text = std::fs::read_to_string(&file).unwrap();
        if format == "json" {
            for line in text.lines() {
                let object: BTreeMap<String, serde_json::Value> = serde_json::from_str(line).unwrap();
                let cell = |value: serde_json::Value| match value {
                    serde_json::Value::Null => None,
                    serde_json::Value::String(text) => Some(text),
                    number => Some(number.to_string()),
                };
                rows.push(object.into_iter().map(|(name, value)| (name, cell(value))).collect());
            }
        } else {
            let mut records = csv(&text).into_iter();
            let names: Vec<_> = records.next().unwrap().into_iter().map(Option::unwrap).collect();
            rows.extend(records.map(|record| {
                assert_eq!(record.len(), names.len(), "{}", file.display());
                names.iter().cloned().zip(record).collect::<Row>()
            }));
        }
    }
    for row in &mut rows {
        assert_eq!(row.remove("host").flatten().as_deref(), Some("web 1"));
    }
    rows.sort_by_key(|row| row[key].as_ref().unwrap().parse::<i64>().unwrap());
    rows
}

/// RFC 4180. An empty cell that is not quoted is NULL.
fn csv(text: &str) -> Vec<Vec<Option<String>>> {
    let (mut records, mut record, mut rest) = (Vec::new(), Vec::new(), text);
    while !rest.is_empty() {
        let cell;
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut at = 0;
            loop {
                at += quoted[at..].find('"').unwrap();
                if quoted[at + 1..].starts_with('"') { at += 2 } else { break }
            }
            cell = Some(quoted[..at].replace("\"\"", "\""));
            rest = &quoted[at + 1..];
        } else {
            let end = rest.find([',', '\r']).unwrap();
            assert!(!rest[..end].contains(['"', '\n']), "{:?}", &rest[..end]);
            cell = (end > 0).then(|| rest[..end].to_owned());
            rest = &rest[end..];
        }
        record.push(cell);
        if let Some(after) = rest.strip_prefix(',') {
            rest = after;
        } else {
            rest = rest.strip_prefix("\r\n").unwrap();
            records.push(std::mem::take(&mut record));
        }
    }
    records
}

#[test]
fn pyarrow_reads_the_same_with_the_declared_types() {
    let (folder, database, to) = place();
    history(&database, 0..800);
    exported(export(folder.path(), &database, &to, &SPAN));
    for (table, key) in TABLES {
        let output = script("read_parquet.py", &[to.join(table).to_str().unwrap()]).output().unwrap();
        let mut lines: Vec<Row> =
            osquery::text(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut types = lines.pop().unwrap();
        assert_eq!(types.remove("host").flatten().as_deref(), Some("string"));
        types.remove("day");
        let columns = tables::find(table).unwrap().columns();
        let of = |kind| match kind {
            ColumnType::Text => "string",
            ColumnType::Integer => "int32",
            ColumnType::BigInt => "int64",
            ColumnType::Double => "double",
        };
        let declared = columns.iter().filter(|column| !column.is_hidden());
        let declared: Row = declared.map(|column| (column.name.into(), Some(of(column.kind).into()))).collect();
        assert_eq!(types, declared, "{table}");
        for line in &mut lines {
            let day = line.remove("day").flatten().unwrap();
            let begin = if table == "ai_agents" { "start_time" } else { "time" };
            let begin: i64 = line[begin].as_ref().unwrap().parse().unwrap();
            assert_eq!(day, format!("2026-11-{}", 10 + (begin - DAY_1) / 86400));
            assert!(line.remove("host").flatten().is_some());
        }
        lines.sort_by_key(|line| line[key].as_ref().unwrap().parse::<i64>().unwrap());
        assert!(lines == answered(folder.path(), &database, table, key), "{table}");
    }
}

#[test]
fn hosts_are_queried_together_and_an_export_again_doubles_nothing() {
    for format in ["parquet", "csv", "json"] {
        let (folder, _, to) = place();
        let (first, second) = (folder.path().join("1.duckdb"), folder.path().join("2.duckdb"));
        history(&first, 0..500);
        history(&second, 250..375);
        let from = |database: &Path, host: &str, more: &[&str]| {
            let arguments =
                [&["--host", host, "--format", format, "--tables", "agent_file_ops,ai_agents"], more].concat();
            exported(export(folder.path(), database, &to, &arguments));
        };
        let counted = |table: &str, key: &str| -> Vec<String> {
            let sql = format!(
                "SELECT host, count(*) AS n, count(DISTINCT {key}) AS k, min(day) AS d FROM {} GROUP BY 1 ORDER BY 1",
                source(format, &to.join(table))
            );
            let text = |row: Row| {
                format!("{} {} {} {}", text(&row, "host"), text(&row, "n"), text(&row, "k"), text(&row, "d"))
            };
            duckdb(&sql).into_iter().map(text).collect()
        };
        from(&first, "alpha", &["--since", "2026-11-10", "--until", "2026-11-10T12:00:00Z"]);
        assert_eq!(counted("agent_file_ops", "eid"), ["alpha 180 180 2026-11-10"]);
        from(&first, "alpha", &["--since", "2026-11-10T06:00:00+00:00", "--until", "1794787200"]);
        from(&first, "alpha", &SPAN);
        from(&second, "beta", &SPAN);
        for (table, key) in [TABLES[0], TABLES[3]] {
            assert_eq!(counted(table, key), ["alpha 500 500 2026-11-10", "beta 125 125 2026-11-10"], "{format}");
        }
        assert!(!to.join("agent_processes").exists(), "only what was asked for");
        // What was added to is as it was.
        let alpha = format!(
            "SELECT * EXCLUDE (host, day) FROM {} WHERE host = 'alpha' ORDER BY eid::BIGINT",
            source(format, &to.join("agent_file_ops"))
        );
        if format != "json" {
            assert!(duckdb(&alpha) == answered(folder.path(), &first, "agent_file_ops", "eid"), "{format}");
        }
        let before = files(&to);
        from(&first, "alpha", &SPAN);
        assert_eq!(files(&to), before);
    }
}

fn text<'a>(row: &'a Row, name: &str) -> &'a str {
    row[name].as_deref().unwrap_or_default()
}

/// A history that takes a moment to export.
fn large(file: &Path, rows: i64) {
    let (mut history, _) = History::open(file).unwrap();
    for start in (0..rows).step_by(50_000) {
        let mut flush = history.flush().unwrap();
        let rows: Vec<_> = (start..start + 50_000)
            .map(|n| {
                let mut row = row("agent_file_ops", n);
                // Two in a second, from late on the first day.
                let time_ns = ((DAY_1 + 85_000) * 2 + n) * 500_000_000;
                (row[0], row[1], row[2]) = ((time_ns + 5).into(), (time_ns / 1_000_000_000).into(), time_ns.into());
                row[9] = format!("/home/dev/project/module{}/file{n}.rs", n % 40).into();
                row
            })
            .collect();
        flush.append("agent_file_ops", &mut rows.iter().map(|row| (&row[..], Some(1000)))).unwrap();
        flush.commit(&Mark::default()).unwrap();
    }
    history.checkpoint().unwrap();
}

/// The inode of the first day's file.
fn first_file(to: &Path) -> Option<u64> {
    let folder = to.join("agent_file_ops/day=2026-11-10");
    folder.exists().then(|| files(&folder).first().map(|file| file.metadata().unwrap().ino())).flatten()
}

/// Starts an export and waits until it has written the first of its files.
fn begun(folder: &Path, database: &Path, to: &Path) -> Child {
    let before = first_file(to);
    let arguments = ["export", to.to_str().unwrap(), "--database", database.to_str().unwrap()];
    let child = agentquery(folder, &arguments).args(SPAN).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the first file", 20, || first_file(to) != before);
    child
}

/// The folders of exports that did not end.
fn unfinished(to: &Path) -> usize {
    let hidden = |entry: &std::io::Result<std::fs::DirEntry>| {
        entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with('.')
    };
    std::fs::read_dir(to).unwrap().filter(hidden).count()
}

#[test]
fn one_that_is_cut_leaves_whole_files_and_the_next_one_goes_on() {
    let (folder, database, to) = place();
    large(&database, 150_000);
    let rows = || {
        duckdb(&format!(
            "SELECT count(*) AS n, count(DISTINCT eid) AS k FROM {}",
            source("parquet", &to.join("agent_file_ops"))
        ))
    };
    let mut child = begun(folder.path(), &database, &to);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(unfinished(&to), 1);
    assert!(text(&rows()[0], "n").parse::<i64>().unwrap() > 0, "what is there can be read");

    let child = begun(folder.path(), &database, &to);
    // SAFETY: a child of ours that was not waited for.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) };
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("stopped; files that were written are whole"), "{error}");
    assert_eq!(unfinished(&to), 0, "what the killed one left is gone too");

    let arguments = ["export", to.to_str().unwrap(), "--database", database.to_str().unwrap()];
    let mut child = agentquery(folder.path(), &arguments).args(SPAN).stdout(Stdio::null()).spawn().unwrap();
    let mut peak: u64 = 0;
    while child.try_wait().unwrap().is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0).max(peak);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(child.wait().unwrap().success());
    assert!((1 << 10..200 << 10).contains(&peak), "{peak} kB");
    assert_eq!((text(&rows()[0], "n"), text(&rows()[0], "k")), ("150000", "150000"));
}

#[test]
fn a_terminal_shows_how_far_it_is() {
    let (folder, database, to) = place();
    large(&database, 50_000);
    let arguments = ["export", to.to_str().unwrap(), "--database", database.to_str().unwrap()];
    let mut command = agentquery(folder.path(), &arguments);
    command.args(SPAN);
    let mut terminal = terminal::Terminal::start(command);
    assert!(terminal.ended().success());
    let shown = String::from_utf8_lossy(&terminal.bytes()).into_owned();
    assert!(shown.contains("%  agent_file_ops 2026-11-1") && shown.contains(" left"), "{shown}");
    let end = terminal.screen();
    assert!(end.contains("agent_file_ops: rows 50000, files 2") && !end.contains('%'), "{end}");
}

fn refused(output: Output) -> String {
    assert!(!output.status.success() && output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn what_cannot_be_done_is_said_with_the_way_out() {
    let (folder, database, to) = place();
    let folder = folder.path();
    let error = refused(export(folder, &database, &to, &[]));
    assert!(error.contains("history.duckdb") && error.contains("No such file"), "{error}");
    assert!(!database.exists());
    history(&database, 0..10);
    let said = |more: &[&str]| refused(export(folder, &database, &to, more));
    let error = said(&["--tables", "agent_files"]);
    assert!(
        error.contains("agent_files") && error.contains("agent_file_ops") && error.contains("ai_agents"),
        "{error}"
    );
    let error = said(&["--since", "yesterday"]);
    assert!(error.contains("\"yesterday\"") && error.contains("24h"), "{error}");
    let error = said(&["--since", "1h", "--until", "2h"]);
    assert!(error.contains("--since must be before --until"), "{error}");
    assert!(said(&["--format", "xlsx"]).contains("parquet"));
    assert!(!to.exists());

    std::fs::write(&to, "").unwrap();
    let error = said(&SPAN);
    assert!(error.contains("cannot write to") && error.contains("choose another directory"), "{error}");
    std::fs::remove_file(&to).unwrap();
    std::fs::create_dir(&to).unwrap();
    std::os::unix::fs::symlink("/tmp", to.join("ai_agents")).unwrap();
    assert!(said(&SPAN).contains("is no directory of this user"));
    std::fs::remove_file(to.join("ai_agents")).unwrap();

    exported(export(folder, &database, &to, &SPAN));
    let file = files(&to.join("ai_agents")).pop().unwrap();
    std::fs::write(&file, "no Parquet").unwrap();
    let error = said(&SPAN);
    assert!(error.contains(file.to_str().unwrap()) && error.contains("move it away"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "no Parquet");

    let (held, _) = History::open(&database).unwrap();
    let error = said(&SPAN);
    assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
    drop(held);
}

#[test]
fn a_full_disk_is_told() {
    if !can_record("a_full_disk_is_told") {
        return;
    }
    let (folder, database, to) = place();
    large(&database, 100_000);
    std::fs::create_dir(&to).unwrap();
    let mount = |arguments: &[&str]| {
        assert!(Command::new(arguments[0]).args(&arguments[1..]).arg(&to).status().unwrap().success());
    };
    mount(&["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs"]);
    let output = export(folder.path(), &database, &to, &SPAN);
    let left: Vec<_> = files(&to).iter().map(|file| file.extension().unwrap().to_owned()).collect();
    let whole = duckdb(&format!("SELECT count(*) AS n FROM {}", source("parquet", &to.join("agent_file_ops"))));
    mount(&["umount", "--lazy"]);
    let error = refused(output);
    assert!(error.contains("the disk is full; make room"), "{error}");
    // The first day's rows are few.
    assert_eq!((left, text(&whole[0], "n")), (vec!["parquet".into()], "2800"));
}

#[test]
fn what_ran_when_the_recorder_ended_is_in_its_file() {
    if !can_record("what_ran_when_the_recorder_ended_is_in_its_file") {
        return;
    }
    let (folder, database, to) = place();
    let recorder = Recorder::start(&["--syscalls", "always", "--database", database.to_str().unwrap()]);
    let agent = Agent::new();
    let mut child = Command::new(agent.shell());
    child.args(["-c", "exec 5>open; read line"]).current_dir(agent.work()).stdin(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let open = format!("SELECT count(*) FROM agent_open_files WHERE pid = {} AND path LIKE '%/open'", child.id());
    recorder.wait_for(&open, "1");
    recorder.end();
    let ask = |sql: &str| -> Vec<Row> {
        let arguments = ["query", "--json", "--database", database.to_str().unwrap(), sql];
        serde_json::from_str(&osquery::text(agentquery(folder.path(), &arguments).output().unwrap())).unwrap()
    };
    for table in ["ai_agents", "agent_processes"] {
        let sql = format!("SELECT count(*) AS n FROM {table} WHERE pid = {} AND end_time IS NULL", child.id());
        assert_eq!(text(&ask(&sql)[0], "n"), "1", "{table}");
    }
    assert_eq!(text(&ask(&open.replace("count(*)", "count(*) AS n"))[0], "n"), "1");
    exported(
        agentquery(folder.path(), &["export", to.to_str().unwrap(), "--database", database.to_str().unwrap()])
            .output()
            .unwrap(),
    );
    let agents = read("parquet", &to, "ai_agents", "agent_id");
    let running: Vec<_> = agents.iter().filter(|row| text(row, "pid") == child.id().to_string()).collect();
    assert_eq!(running.len(), 1);
    assert!(running[0]["end_time"].is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A user that needs no entry in the passwd file.
const ALICE: u32 = 61_011;

#[test]
fn a_running_recorder_is_asked_in_the_name_of_who_asks() {
    if !can_record("a_running_recorder_is_asked_in_the_name_of_who_asks") {
        return;
    }
    let recorder = Recorder::start(&["--syscalls", "always"]);
    let folder = recorder.socket.parent().unwrap();
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let of_alice = Agent::new().run_as(ALICE, "echo a > file; cat file > copy; rm copy").recorded(&recorder);
    let of_root = Agent::new().run("echo a > file; mv file other").recorded(&recorder);
    // One goes on while it is exported.
    let living = Agent::new();
    let mut child = Command::new(living.shell());
    child.args(["-c", "echo b > file; read line"]).current_dir(living.work()).stdin(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let of_it = format!("(SELECT agent_id FROM ai_agents WHERE pid = {})", child.id());
    let written = format!("operation = 'close' AND bytes_written = 2 AND agent_id = {of_it}");
    recorder.wait_for(&format!("SELECT count(*) FROM agent_file_ops WHERE {written}"), "1");

    let to = folder.join("root");
    let connect = ["--connect", recorder.socket.to_str().unwrap()];
    let ask = |to: &Path| {
        let mut command = Command::new(AGENTQUERY);
        command.args(["export", "--since", "1h", to.to_str().unwrap()]).args(connect);
        command
    };
    // Others may run agents on this machine: what is compared is that of these three.
    let pids = [of_alice.pid, of_root.pid, child.id()].map(|pid| pid.to_string());
    let ids = |condition: &str| -> Vec<String> {
        let sql = format!("SELECT agent_id FROM ai_agents WHERE pid IN ({}) AND {condition}", pids.join(", "));
        recorder.query(&sql).iter().map(|row| text(row, "agent_id").to_owned()).collect()
    };
    let same = |to: &Path, condition: &str| {
        let ids = ids(condition);
        for (table, key) in TABLES {
            let columns = visible(table).join(", ");
            let sql = format!("SELECT {columns} FROM {table} WHERE agent_id IN ({}) ORDER BY {key}", ids.join(", "));
            let expected = recorder.query(&sql);
            let mut got = if to.join(table).exists() { read("parquet", to, table, key) } else { Vec::new() };
            got.retain(|row| ids.iter().any(|id| id == text(row, "agent_id")));
            assert!(got == expected, "{table} {condition}: {got:?} {expected:?}");
            assert!(table == "agent_connections" || !got.is_empty());
        }
    };
    exported(ask(&to).output().unwrap());
    assert_eq!(ids("1").len(), 3);
    same(&to, "1");

    let own = folder.join("alice");
    std::fs::create_dir(&own).unwrap();
    chown(&own, Some(ALICE), Some(ALICE)).unwrap();
    let id = ALICE.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(AGENTQUERY).args(ask(&own).get_args());
    exported(support::for_users(&mut command).output().unwrap());
    same(&own, &format!("uid = {ALICE}"));
    let agents = read("parquet", &own, "ai_agents", "agent_id");
    assert_eq!(agents.iter().map(|row| text(row, "pid")).collect::<Vec<_>>(), [of_alice.pid.to_string()]);
    assert!(files(&own.join("agent_file_ops")).len() <= 2);

    // What ended since takes the place of what ran, also when the span begins after it.
    child.kill().unwrap();
    child.wait().unwrap();
    let end = format!("SELECT end_time FROM ai_agents WHERE pid = {} AND end_time IS NOT NULL", child.id());
    wait_until("its end", 20, || recorder.value(&end).is_some());
    let end = recorder.value(&end).unwrap();
    let output =
        Command::new(AGENTQUERY).args(["export", "--since", &end, to.to_str().unwrap()]).args(connect).output();
    exported(output.unwrap());
    let agents = read("parquet", &to, "ai_agents", "agent_id");
    let living: Vec<_> = agents.iter().filter(|row| text(row, "pid") == child.id().to_string()).collect();
    assert_eq!(living.len(), 1);
    assert_eq!((text(living[0], "state"), text(living[0], "end_time")), ("exited", end.as_str()));
}

#[test]
fn the_recorder_answers_for_the_file_that_it_has() {
    if !can_record("the_recorder_answers_for_the_file_that_it_has") {
        return;
    }
    let (folder, other, to) = place();
    history(&other, 0..10);
    let recorder = Recorder::start(&["--syscalls", "always"]);
    let run = Agent::new().run("echo a > file").recorded(&recorder);
    let state = recorder.state_dir();
    let ask = |database: &Path, sql: &str| {
        let mut command = Command::new(AGENTQUERY);
        command.arg("--config").arg(folder.path().join("config.yaml")).arg("--state-dir").arg(&state);
        command.args(["query", "--csv", "--database"]).arg(database).arg(sql);
        osquery::text(command.output().unwrap())
    };
    std::fs::write(folder.path().join("config.yaml"), "").unwrap();
    let kept = state.join("history.duckdb");
    let sql = format!("SELECT count(*) FROM ai_agents WHERE pid = {}", run.pid);
    assert_eq!(ask(&kept, &sql), "count(*)\r\n1\r\n");
    assert_eq!(ask(&other, "SELECT count(*) FROM agent_file_ops WHERE time > 0"), "count(*)\r\n10\r\n");
    assert_eq!(ask(&other, &sql), "count(*)\r\n0\r\n");
    // Without a name the recorder is asked, and where none runs, its file.
    let export = || {
        let mut command = agentquery(folder.path(), &["export", to.to_str().unwrap(), "--tables", "ai_agents"]);
        exported(command.arg("--state-dir").arg(&state).output().unwrap());
        let agents = read("parquet", &to, "ai_agents", "agent_id");
        assert!(agents.iter().any(|row| text(row, "pid") == run.pid.to_string()));
        std::fs::remove_dir_all(&to).unwrap();
    };
    export();
    recorder.signal(libc::SIGTERM);
    wait_until("it ends", 20, || !recorder.socket.exists());
    wait_until("its file is free", 20, || History::open(&kept).is_ok());
    export();
}
