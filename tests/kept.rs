//! The history of a running recorder: what is found after it ended, and what it does when nothing can be stored.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use support::{Agent, Recorder, can_record};

const FAULTS: &str = "SELECT group_concat(message) FROM agent_collector WHERE event = 'history'";

/// A recorder with that file; the machine's own configuration does not count.
fn start(folder: &Path, database: &Path) -> Recorder {
    let config = folder.join("config.yaml");
    std::fs::write(&config, "retention_days: 30\n").unwrap();
    let (config, database) = (config.to_str().unwrap(), database.to_str().unwrap());
    Recorder::start(&["--syscalls", "always", "--config", config, "--database", database])
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
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
    recorder.signal(libc::SIGTERM);
    wait_until("the recorder ends", || !recorder.socket.exists());
    drop(recorder);
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
        wait_until("rows", || number(&recorder, count) > first + 2000);
        // What is there must be there for good a second later.
        let last = number(&recorder, "SELECT max(eid) FROM agent_file_ops");
        let asked = Instant::now();
        let sure = format!("SELECT count(*) FROM agent_file_ops WHERE eid <= {last}");
        let rows = number(&recorder, &sure);
        std::thread::sleep(Duration::from_millis(1200).saturating_sub(asked.elapsed()));
        recorder.kill();
        storm.kill().unwrap();
        storm.wait().unwrap();
        let recorder = start(folder.path(), &database);
        assert_eq!(fault(&recorder), "");
        assert_eq!(number(&recorder, &sure), rows);
        for (table, key) in [("agent_file_ops", "eid"), ("agent_processes", "eid"), ("ai_agents", "agent_id")] {
            let twice = format!("SELECT count(*) - count(DISTINCT {key}) FROM {table} WHERE time > 0");
            assert_eq!(number(&recorder, &twice), 0, "{table}");
        }
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
    wait_until("it is stored", || std::fs::metadata(mount.0.path().join("history.duckdb.wal")).unwrap().len() > 1000);
    std::thread::sleep(Duration::from_secs(1));
    std::fs::write(mount.0.path().join("other"), vec![0; 8 << 20]).unwrap_err();
    let second = Agent::new().run("for n in 1 2 3 4 5 6 7 8 9; do echo b > file$n; done").recorded(&recorder);
    wait_until("the fault", || fault(&recorder).contains("disk is full"));
    assert_eq!(number(&recorder, &count), rows, "what was stored is still found");
    let later = format!("SELECT count(*) FROM agent_file_ops WHERE agent_id = {}", second.id());
    let waiting = number(&recorder, &later);
    assert!(waiting >= 18, "{waiting}");
    mount.remount("size=64m");
    wait_until("the end of it", || fault(&recorder).is_empty());
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
    wait_until("the end of it", || fault(&recorder).is_empty());
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
    drop(recorder);
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
    wait_until("it takes over the file", || fault(&second).is_empty());
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
