//! The history of a running recorder: what is found after it ended, and what it does when nothing can be stored.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{Agent, Recorder, can_record, wait_until};

const FAULTS: &str = "SELECT group_concat(message) FROM agent_collector WHERE event = 'history'";

/// A recorder with that file; the machine's own configuration does not count.
fn start(folder: &Path, database: &Path) -> Recorder {
    let config = folder.join("config.yaml");
    std::fs::write(&config, "retention_days: 30\n").unwrap();
    let (config, database) = (config.to_str().unwrap(), database.to_str().unwrap());
    Recorder::start(&["--syscalls", "always", "--config", config, "--database", database])
}

/// The message of `agent_collector` about the history.
fn fault(recorder: &Recorder) -> String {
    recorder.value(FAULTS).unwrap_or_default()
}

fn number(recorder: &Recorder, sql: &str) -> i64 {
    recorder.value(sql).unwrap().parse().unwrap()
}

/// All that is known of an agent that ran.
fn all_rows(recorder: &Recorder, run: u32) -> Vec<support::Row> {
    let id = number(recorder, &format!("SELECT agent_id FROM ai_agents WHERE pid = {run}"));
    let mut rows = Vec::new();
    for (table, key) in
        [("ai_agents", "agent_id"), ("agent_processes", "eid"), ("agent_connections", "eid"), ("agent_file_ops", "eid")]
    {
        rows.extend(recorder.query(&format!("SELECT * FROM {table} WHERE agent_id = {id} ORDER BY {key}")));
    }
    rows
}

#[test]
fn rows_are_found_after_a_restart() {
    if !can_record("rows_are_found_after_a_restart") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("history.duckdb");
    let recorder = start(folder.path(), &database);
    let run = Agent::new().run("echo a > file; cat file > copy; rm copy; mkdir d; true").recorded(&recorder);
    let before = all_rows(&recorder, run.pid);
    assert!(before.len() > 8, "{before:?}");
    let last: i64 = number(&recorder, "SELECT max(eid) FROM agent_file_ops");
    let began = Instant::now();
    recorder.end();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let recorder = start(folder.path(), &database);
    assert_eq!(all_rows(&recorder, run.pid), before);
    let next = Agent::new().run("echo b > file").recorded(&recorder);
    let newer = format!("SELECT min(eid) FROM agent_file_ops WHERE agent_id = {}", next.id());
    assert!(number(&recorder, &newer) > last);
    assert_eq!(fault(&recorder), "");
}

#[test]
fn a_kill_in_a_storm_loses_a_second_and_doubles_nothing() {
    if !can_record("a_kill_in_a_storm_loses_a_second_and_doubles_nothing") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("history.duckdb");
    let agent = Agent::new();
    for _ in 0..2 {
        let mut recorder = start(folder.path(), &database);
        let mut storm = agent.start("while :; do echo a > f1; echo b > f2; rm f1 f2; done");
        let count = "SELECT count(*) FROM agent_file_ops WHERE time > 0";
        let first = number(&recorder, count);
        wait_until("rows", 20, || number(&recorder, count) > first + 2000);
        // What is there must be there for good a second later.
        let last = number(&recorder, "SELECT max(eid) FROM agent_file_ops");
        let asked = Instant::now();
        let sure = format!("SELECT count(*) FROM agent_file_ops WHERE eid <= {last}");
        let rows = number(&recorder, &sure);
        std::thread::sleep(Duration::from_millis(1200).saturating_sub(asked.elapsed()));
        recorder.kill();
        storm.kill().unwrap();
        storm.wait().unwrap();
        assert_apart(&database);
        let recorder = start(folder.path(), &database);
        assert_eq!(fault(&recorder), "");
        assert_eq!(number(&recorder, &sure), rows);
        for (table, key) in [("agent_file_ops", "eid"), ("agent_processes", "eid"), ("ai_agents", "agent_id")] {
            let twice = format!("SELECT count(*) - count(DISTINCT {key}) FROM {table} WHERE time > 0");
            assert_eq!(number(&recorder, &twice), 0, "{table}");
        }
    }
}

/// An agent that goes on while recorders come and go: a storm of files and processes, two programs that stay, a file that
/// stays open, and a server with a connection.
struct Worker {
    agent: Agent,
    shell: std::process::Child,
    /// What stays to its end, and what is killed between two recorders.
    stays: u32,
    leaves: u32,
    server: u32,
    /// Stays too, without a parent of the agent's.
    orphan: u32,
}

const WORK: &str = r#"
    exec 8>>log
    sleep 1000 & stays=$!
    sleep 1001 & leaves=$!
    (sleep 1002 & echo $! > orphan)
    python3 -c '
import os, socket, time
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
server, peer = listener.accept()
open("connected", "w").close()
while not os.path.exists("stop"): time.sleep(0.02)
' & server=$!
    echo $stays $leaves $server $(cat orphan) > told; mv told pids
    while [ ! -e stop ]; do echo a > f1; echo b > f2; rm f1 f2; /bin/true; done
    kill $stays $leaves $(cat orphan) 2>/dev/null; wait
"#;

impl Worker {
    fn start() -> Self {
        let agent = Agent::new();
        let shell = agent.start(WORK);
        let work = agent.work();
        wait_until("the worker", 20, || work.join("pids").exists() && work.join("connected").exists());
        let pids = std::fs::read_to_string(work.join("pids")).unwrap();
        let pids: Vec<u32> = pids.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect();
        Self { agent, shell, stays: pids[0], leaves: pids[1], server: pids[2], orphan: pids[3] }
    }

    fn id(&self, recorder: &Recorder) -> i64 {
        number(recorder, &format!("SELECT agent_id FROM ai_agents WHERE pid = {}", self.shell.id()))
    }

    /// One of its programs leaves.
    fn leave(&self) {
        run(Command::new("kill").arg(self.leaves.to_string()));
        wait_until("it is gone", 20, || !Path::new(&format!("/proc/{}", self.leaves)).exists());
    }

    /// Ends it.
    fn stop(&mut self) {
        let _ = std::fs::write(self.agent.work().join("stop"), "");
        let _ = self.shell.wait();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The keys of all rows, by table. No key may be there twice.
fn keys(recorder: &Recorder, of: &str) -> Vec<(&'static str, Vec<i64>)> {
    let tables = [
        ("ai_agents", "agent_id", "process_eid"),
        ("agent_processes", "eid", "eid"),
        ("agent_connections", "eid", "eid"),
        ("agent_file_ops", "eid", "eid"),
        ("agent_open_files", "eid", "eid"),
    ];
    let keys = |(table, key, eid): (&'static str, &str, &str)| {
        let sql = format!("SELECT {key} AS k FROM {table} WHERE time > 0 AND {eid} {of} ORDER BY {key}");
        let keys: Vec<i64> =
            recorder.query(&sql).iter().map(|row| row["k"].as_ref().unwrap().parse().unwrap()).collect();
        let mut once = keys.clone();
        once.dedup();
        assert_eq!(once.len(), keys.len(), "{table} has a key twice");
        (table, keys)
    };
    tables.map(keys).into()
}

/// All rows that were there are there.
fn assert_kept(before: &[(&'static str, Vec<i64>)], recorder: &Recorder) {
    let after = keys(recorder, "> 0");
    for ((table, before), (_, after)) in before.iter().zip(&after) {
        if *table == "agent_open_files" {
            continue; // the open has its row in agent_file_ops
        }
        let lost: Vec<_> = before.iter().filter(|key| after.binary_search(key).is_err()).collect();
        assert!(lost.is_empty(), "{table}: {} of {} are lost: {lost:?}", lost.len(), before.len());
    }
}

/// Keys of what is older than a second, and a little for the question itself. Later rows are not there yet, so nothing
/// is asked for at the very end of the storm.
fn old_keys(recorder: &Recorder) -> Vec<(&'static str, Vec<i64>)> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    keys(recorder, &format!("<= {}", now - 1_200_000_000))
}

fn program(recorder: &Recorder, pid: u32) -> support::Row {
    let rows = recorder.query(&format!("SELECT * FROM agent_processes WHERE pid = {pid} AND time > 0"));
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.into_iter().next().unwrap()
}

#[test]
fn an_agent_that_outlives_the_recorder_keeps_its_rows() {
    if !can_record("an_agent_that_outlives_the_recorder_keeps_its_rows") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("history.duckdb");
    let mut recorder = start(folder.path(), &database);
    let mut worker = Worker::start();
    let connection = format!(
        "SELECT * FROM agent_connections WHERE pid = {} AND state = 'established' AND direction = 'outbound'",
        worker.server
    );
    let log = format!("SELECT * FROM agent_open_files WHERE pid = {} AND path LIKE '%/work/log'", worker.shell.id());
    wait_until("the connection", 20, || recorder.query(&connection).len() == 1);
    let id = worker.id(&recorder);
    let (stays, leaves) = (program(&recorder, worker.stays), program(&recorder, worker.leaves));
    let orphan = program(&recorder, worker.orphan);
    let (connected, logged) = (recorder.query(&connection), recorder.query(&log));
    let rows = format!("SELECT count(*) FROM agent_file_ops WHERE agent_id = {id} AND time > 0");
    let (first, began) = (number(&recorder, &rows), Instant::now());
    wait_until("rows", 20, || number(&recorder, &rows) > first + 1000 && began.elapsed() > Duration::from_millis(1500));
    let before = old_keys(&recorder);
    assert!(before.iter().all(|(_, keys)| !keys.is_empty()), "{before:?}");
    recorder.kill();
    assert_apart(&database);
    worker.leave();

    // Killed again before it may have stored anything, and then in peace.
    let mut recorder = start(folder.path(), &database);
    assert_kept(&before, &recorder);
    recorder.kill();
    for (graceful, gaps) in [(true, 1), (false, 2)] {
        let recorder = start(folder.path(), &database);
        assert_eq!(fault(&recorder), "");
        assert_eq!(worker.id(&recorder), id);
        assert_eq!(
            (program(&recorder, worker.stays), program(&recorder, worker.orphan)),
            (stays.clone(), orphan.clone())
        );
        let left = program(&recorder, worker.leaves);
        assert_eq!(
            (&left["eid"], left["state"].as_deref(), &left["end_time"]),
            (&leaves["eid"], Some("unknown"), &None)
        );
        assert_eq!((recorder.query(&connection), cells(&recorder.query(&log))), (connected.clone(), cells(&logged)));
        assert_kept(&before, &recorder);
        let gap = "SELECT count(*) FROM agent_collector WHERE event = 'gap' AND message LIKE 'recording ended%'";
        assert!(number(&recorder, gap) >= gaps);
        let first = number(&recorder, &rows);
        wait_until("it is still followed", 20, || number(&recorder, &rows) > first + 100);
        if graceful {
            recorder.end();
        } else {
            worker.stop();
            let running = format!("SELECT processes FROM ai_agents WHERE agent_id = {id}");
            recorder.wait_for(&running, "0");
            assert_eq!(program(&recorder, worker.stays)["signal"].as_deref(), Some("15"));
            assert_kept(&before, &recorder);
            recorder.end();
        }
        assert_apart(&database);
    }
}

/// What of open files is not looked at anew.
fn cells(rows: &[support::Row]) -> Vec<support::Row> {
    let mut rows = rows.to_vec();
    for row in &mut rows {
        row.retain(|column, _| column != "fd" && !column.starts_with("bytes_"));
    }
    rows
}

#[test]
fn a_history_that_is_opened_late_is_closed_and_no_agent_doubled() {
    if !can_record("a_history_that_is_opened_late_is_closed_and_no_agent_doubled") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("history.duckdb");
    let mut first = start(folder.path(), &database);
    let mut worker = Worker::start();
    let id = worker.id(&first);
    let stays = program(&first, worker.stays);
    let began = Instant::now();
    wait_until("it is stored", 20, || began.elapsed() > Duration::from_millis(1500));
    let before = old_keys(&first);
    let created = format!("SELECT files_created FROM ai_agents WHERE agent_id = {id}");
    let second = start(folder.path(), &database);
    assert!(fault(&second).contains("in use by process"), "{}", fault(&second));
    assert_eq!(worker.id(&second), id);
    let counted = number(&second, &created);
    first.kill();
    wait_until("it takes over the file", 20, || fault(&second).is_empty());
    wait_until("it has what was stored", 20, || number(&second, &created) > counted + 100);
    assert_kept(&before, &second);
    let rows = format!("SELECT state, eid FROM agent_processes WHERE pid = {} AND time > 0 ORDER BY eid", worker.stays);
    let rows = second.query(&rows);
    let states: Vec<_> = rows.iter().map(|row| row["state"].as_deref().unwrap()).collect();
    assert_eq!((states, &rows[0]["eid"]), (vec!["unknown", "running"], &stays["eid"]));
    worker.stop();
    second.wait_for(&format!("SELECT processes FROM ai_agents WHERE agent_id = {id}"), "0");
    second.end();
    let third = start(folder.path(), &database);
    assert_kept(&before, &third);
    assert_eq!(
        number(&third, &format!("SELECT count(*) FROM agent_processes WHERE agent_id = {id} AND state = 'running'")),
        0
    );
}

/// What a recorder left in its file: each row has either ended or not, and where it is running it is there once.
fn assert_apart(database: &Path) {
    let file = duckdb::Connection::open(database).unwrap();
    let count = |sql: String| file.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap();
    // It may be stored as what it is before the eid.
    let stored = "SELECT count(*) FROM duckdb_columns() WHERE column_name = 'open_eid'";
    let opened = if count(stored.to_owned()) > 0 { "open_eid" } else { "eid - eid_minus_open_eid" };
    let closed = format!("SELECT {opened} FROM agent_file_ops WHERE operation = 'close'");
    for (table, ended) in [
        ("ai_agents", "SELECT agent_id FROM ai_agents"),
        ("agent_processes", "SELECT eid FROM agent_processes"),
        ("agent_connections", "SELECT eid FROM agent_connections"),
        ("agent_open_files", &*closed),
    ] {
        let running = format!("FROM running WHERE of = '{table}'");
        assert_eq!(count(format!("SELECT count(*) {running} AND key IN ({ended})")), 0, "{table}");
        assert_eq!(count(format!("SELECT count(*) - count(DISTINCT key) {running}")), 0, "{table}");
    }
}

/// A small file system, as long as it lives.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder.path()));
        Self(folder)
    }

    fn remount(&self, options: &str) {
        run(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.0.path()));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

#[test]
fn a_full_disk_is_told_and_rows_are_stored_when_there_is_room() {
    if !can_record("a_full_disk_is_told_and_rows_are_stored_when_there_is_room") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mount = Mount::new("size=4m,mode=700");
    let database = mount.0.path().join("history.duckdb");
    let recorder = start(folder.path(), &database);
    let first = Agent::new().run("echo a > file").recorded(&recorder);
    let count = format!("SELECT count(*) FROM agent_file_ops WHERE agent_id = {}", first.id());
    let rows = number(&recorder, &count);
    wait_until("it is stored", 20, || {
        std::fs::metadata(mount.0.path().join("history.duckdb.wal")).unwrap().len() > 1000
    });
    std::thread::sleep(Duration::from_secs(1));
    std::fs::write(mount.0.path().join("other"), vec![0; 8 << 20]).unwrap_err();
    let second = Agent::new().run("for n in 1 2 3 4 5 6 7 8 9; do echo b > file$n; done").recorded(&recorder);
    wait_until("the fault", 20, || fault(&recorder).contains("disk is full"));
    assert_eq!(number(&recorder, &count), rows, "what was stored is still found");
    let later = format!("SELECT count(*) FROM agent_file_ops WHERE agent_id = {}", second.id());
    let waiting = number(&recorder, &later);
    assert!(waiting >= 18, "{waiting}");
    mount.remount("size=64m");
    wait_until("the end of it", 20, || fault(&recorder).is_empty());
    assert_eq!((number(&recorder, &count), number(&recorder, &later)), (rows, waiting));
    assert_eq!(number(&recorder, "SELECT max(evicted) FROM agent_collector"), 0);
    drop(recorder);
    let recorder = start(folder.path(), &database);
    assert_eq!((number(&recorder, &count), number(&recorder, &later)), (rows, waiting));
}

#[test]
fn a_place_that_cannot_be_written_is_told_until_it_can() {
    if !can_record("a_place_that_cannot_be_written_is_told_until_it_can") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mount = Mount::new("size=64m,mode=700,ro");
    let database = mount.0.path().join("history.duckdb");
    let recorder = start(folder.path(), &database);
    let run = Agent::new().run("echo a > file").recorded(&recorder);
    assert!(fault(&recorder).contains("--database"), "{}", fault(&recorder));
    let rows = all_rows(&recorder, run.pid);
    mount.remount("rw");
    wait_until("the end of it", 20, || fault(&recorder).is_empty());
    assert_eq!(all_rows(&recorder, run.pid), rows);
    drop(recorder);
    assert_eq!(all_rows(&start(folder.path(), &database), run.pid), rows);
}

#[test]
fn a_damaged_file_is_set_aside_and_told() {
    if !can_record("a_damaged_file_is_set_aside_and_told") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("history.duckdb");
    std::fs::write(&database, b"this is no database, but a letter to somebody".repeat(300)).unwrap();
    let recorder = start(folder.path(), &database);
    assert!(fault(&recorder).contains("damaged"), "{}", fault(&recorder));
    let run = Agent::new().run("echo a > file").recorded(&recorder);
    let rows = all_rows(&recorder, run.pid);
    recorder.end();
    let recorder = start(folder.path(), &database);
    assert_eq!((all_rows(&recorder, run.pid), fault(&recorder)), (rows, String::new()));
    let aside = |file: &std::fs::DirEntry| file.file_name().to_string_lossy().contains(".corrupt-");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().filter(|file| aside(file.as_ref().unwrap())).count(), 1);
}

#[test]
fn a_newer_version_and_another_recorder_are_told() {
    if !can_record("a_newer_version_and_another_recorder_are_told") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("history.duckdb");
    let mut first = start(folder.path(), &database);
    let second = start(folder.path(), &database);
    assert!(fault(&second).contains("in use by process"), "{}", fault(&second));
    let run = Agent::new().run("echo a > file").recorded(&second);
    assert_eq!(fault(&first), "");
    first.kill();
    wait_until("it takes over the file", 20, || fault(&second).is_empty());
    let rows = all_rows(&second, run.pid);
    drop(second);

    let file = duckdb::Connection::open(&database).unwrap();
    file.execute_batch("UPDATE meta SET version = 1000").unwrap();
    drop(file);
    let recorder = start(folder.path(), &database);
    assert!(fault(&recorder).contains("update agentquery"), "{}", fault(&recorder));
    let _ = Agent::new().run("echo b > file").recorded(&recorder);
    assert!(!rows.is_empty());
}
