//! Tables of events in scheduled queries of osquery: each row is logged once, whatever ends meanwhile.
//!
//! The core is played by osquery's own Python classes, with what osqueryd keeps in its database: which query is run, since
//! when, and how many results it logged. Its log is compared with the tables in the end.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

#[path = "support/osquery.rs"]
mod osquery;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use osquery::Core;
use serde_json::{Value, json};
use support::{AGENTQUERY, Agent, Recorder, can_record, wait_until};

/// A scheduled query.
struct Scheduled {
    name: &'static str,
    sql: &'static str,
    tables: Value,
    /// How often each of its tables is scanned.
    scans: usize,
}

/// Queries over tables of events: plain ones, one that is cut, a cross join, and one with two such tables.
fn schedule() -> [Scheduled; 5] {
    let capped = json!({"max_rows": [[2, "50"]]});
    [
        Scheduled {
            name: "files",
            sql: "SELECT eid FROM agent_file_ops",
            tables: json!({"agent_file_ops": {}}),
            scans: 1,
        },
        Scheduled {
            name: "pack/cut",
            sql: "SELECT eid FROM agent_events WHERE max_rows = 50",
            tables: json!({"agent_events": capped}),
            scans: 1,
        },
        Scheduled {
            name: "cross",
            sql: "SELECT e.eid FROM (SELECT 1 UNION SELECT 2 UNION SELECT 3) n CROSS JOIN agent_events e GROUP BY e.eid",
            tables: json!({"agent_events": {}}),
            scans: 3,
        },
        Scheduled {
            name: "two",
            sql: "SELECT eid FROM agent_file_ops UNION ALL SELECT -eid FROM agent_events",
            tables: json!({"agent_file_ops": {}, "agent_events": {}}),
            scans: 2,
        },
        // Most of its runs have no row: to the core they look like those that fail.
        Scheduled {
            name: "few",
            sql: "SELECT eid FROM agent_file_ops WHERE path LIKE '%7'",
            tables: json!({"agent_file_ops": {}}),
            scans: 1,
        },
    ]
}

/// A core with a schedule, the extension, and an agent that makes files and processes.
struct Scene {
    core: Option<Core>,
    extension: Option<Child>,
    folder: tempfile::TempDir,
    /// Runs that did not end well.
    failed: usize,
}

impl Scene {
    fn new() -> Self {
        let mut scene = Self { core: None, extension: None, folder: tempfile::tempdir().unwrap(), failed: 0 };
        scene.start_core();
        scene.start_extension();
        scene.wait();
        scene
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("osquery.em")
    }

    fn start_core(&mut self) {
        drop(self.core.take());
        let _ = std::fs::remove_file(self.socket());
        self.core = Some(Core::with_database(&self.socket(), &self.folder.path().join("osquery.db")));
    }

    fn start_extension(&mut self) {
        self.extension = Some(osquery::extension(self.folder.path()).spawn().unwrap());
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn end_extension(&mut self, signal: i32) {
        let mut extension = self.extension.take().unwrap();
        // SAFETY: a signal to a child that was not waited for.
        assert_eq!(unsafe { libc::kill(i32::try_from(extension.id()).unwrap(), signal) }, 0);
        support::ended(&mut extension, Duration::from_secs(10));
    }

    fn core(&mut self) -> &mut Core {
        self.core.as_mut().unwrap()
    }

    /// Until the extension answers.
    fn wait(&mut self) {
        let core = self.core();
        core.tell("back", &json!([40]));
        wait_until("it records", 60, || {
            let rows = core.try_tell("generate", &json!(["agent_collector", {}, null]));
            rows.is_ok_and(|rows| !rows.as_array().unwrap().is_empty())
        });
    }

    /// A run of a query: how many rows it logged; none when it failed.
    fn run(&mut self, query: &Scheduled, fails: bool) -> Option<u64> {
        let arguments = json!([query.name, query.sql, query.tables, query.scans, fails]);
        let rows = self.core().try_tell("schedule", &arguments).ok().map(|rows| rows.as_u64().unwrap());
        self.failed += usize::from(rows.is_none());
        rows
    }

    /// Numbers of rows of a table, as a person gets them, by the shell.
    fn eids(&self, table: &str, condition: &str) -> BTreeSet<i64> {
        self.values("eid", table, condition)
    }

    fn values(&self, column: &str, table: &str, condition: &str) -> BTreeSet<i64> {
        let sql = format!("SELECT {column} FROM {table} WHERE {condition}");
        let mut command = Command::new(AGENTQUERY);
        command.env("AGENTQUERY_STATE_DIR", self.state()).args(["query", "--json"]).arg(sql);
        let rows: Vec<BTreeMap<String, String>> =
            serde_json::from_str(&osquery::text(command.output().unwrap())).unwrap();
        rows.iter().map(|row| row[column].parse().unwrap()).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(mut extension) = self.extension.take() {
            let _ = extension.kill();
            let _ = extension.wait();
        }
    }
}

/// Makes a file and a process now and then, until it is told to stop.
fn work(agent: &Agent) -> Child {
    agent.start("for ((i = 0; ; i++)); do : > f$i; [ -e stop ] && exit; /bin/sleep 0.03; done")
}

#[test]
fn each_event_is_logged_once() {
    if !can_record("each_event_is_logged_once") {
        return;
    }
    let mut scene = Scene::new();
    let agent = Agent::new();
    let mut working = work(&agent);
    let queries = schedule();
    for round in 0..50 {
        for query in &queries {
            scene.run(query, round % 10 == 4);
            // What a person asks in between is the last day, and moves nobody on.
            let adhoc = json!([if round % 2 == 0 { "agent_events" } else { "agent_file_ops" }, {}, ["eid"]]);
            if round < 10 {
                assert!(round < 3 || !scene.core().tell("generate", &adhoc).as_array().unwrap().is_empty());
            }
        }
        match round {
            12 | 32 => {
                scene.end_extension(if round == 12 { libc::SIGTERM } else { libc::SIGKILL });
                scene.start_extension();
                scene.wait();
            }
            // In the middle of a run: it was answered, or not, and not logged.
            17 | 27 | 37 => {
                let query = &queries[round % queries.len()];
                let arguments = json!([query.name, query.sql, query.tables, 40, false]);
                scene.core().begin("schedule", &arguments);
                std::thread::sleep(Duration::from_millis(40));
                if round == 37 {
                    scene.end_extension(libc::SIGKILL);
                }
                scene.start_core();
                if round == 37 {
                    scene.start_extension();
                }
                scene.wait();
            }
            _ => {}
        }
    }
    std::fs::write(agent.work().join("stop"), "").unwrap();
    working.wait().unwrap();
    let ended = format!("pid = {} AND state = 'exited'", working.id());
    wait_until("it is known to have ended", 30, || !scene.values("agent_id", "ai_agents", &ended).is_empty());
    let id = scene.values("agent_id", "ai_agents", &ended).pop_first().unwrap();
    let mine = format!("time > 0 AND agent_id = {id}");
    let (files, events) = (scene.eids("agent_file_ops", &mine), scene.eids("agent_events", &mine));
    // The last rows are given once they are stored, half a second after they came.
    std::thread::sleep(Duration::from_secs(2));
    for query in &queries {
        // A reader that is not told whether its rows arrived gets them three times.
        let mut quiet = 0;
        wait_until("it has got all", 60, || {
            quiet = if scene.run(query, false) == Some(0) { quiet + 1 } else { 0 };
            quiet > 4
        });
    }
    assert!(scene.failed >= 5 * queries.len(), "{} runs failed", scene.failed);
    assert!(files.len() > 300 && events.len() > files.len() + 300, "{} files, {} events", files.len(), events.len());
    assert!(files.is_subset(&events));
    let few = scene.eids("agent_file_ops", &format!("{mine} AND path LIKE '%7'"));
    // Other agents of the machine may have done something, and go on doing it.
    let all = scene.eids("agent_events", "time > 0");
    for (name, wanted) in [("files", &files), ("pack/cut", &events), ("cross", &events), ("few", &few)] {
        let logged = scene.core().tell("logged", &json!([name]));
        once(name, &logged, wanted, &all);
        let most = logged["most"].as_u64().unwrap();
        assert!(name != "pack/cut" || most == 50, "{most} rows in a run of at most 50");
    }
    let both = |files: &BTreeSet<i64>, events: &BTreeSet<i64>| -> BTreeSet<i64> {
        files.iter().copied().chain(events.iter().map(|eid| -eid)).collect()
    };
    let logged = scene.core().tell("logged", &json!(["two"]));
    once("two", &logged, &both(&files, &events), &both(&all, &all));
}

/// Each of those that are wanted was logged, none was logged twice, and none that there is not.
fn once(name: &str, logged: &Value, wanted: &BTreeSet<i64>, there: &BTreeSet<i64>) {
    let all: Vec<i64> = logged["eids"].as_array().unwrap().iter().map(|eid| eid.as_i64().unwrap()).collect();
    let different: BTreeSet<i64> = all.iter().copied().collect();
    assert_eq!(all.len(), different.len(), "{name}: rows were logged twice");
    let missed: Vec<_> = wanted.difference(&different).collect();
    let strange: Vec<_> = different.difference(there).collect();
    assert!(missed.is_empty() && strange.is_empty(), "{name}: of {} missed {missed:?}, more {strange:?}", wanted.len());
}

#[test]
fn who_names_itself_reads_on() {
    if !can_record("who_names_itself_reads_on") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("history.duckdb");
    let recorder = Recorder::start(&["--syscalls", "always", "--database", database.to_str().unwrap()]);
    let agent = Agent::new();
    let mut first = agent.start("for i in 1 2 3 4 5 6 7 8; do : > f$i; done; sleep 0.3");
    first.wait().unwrap();
    let of_mine = "path GLOB '*/f[0-9]*' AND operation = 'create'";
    recorder.wait_for(
        &format!("SELECT count(*) FROM agent_file_ops WHERE {of_mine} AND agent_id = {}", mine(&recorder, &first)),
        "8",
    );
    let id = mine(&recorder, &first);
    let ask = |name: &str| {
        let sql = format!("SELECT eid FROM agent_file_ops WHERE consumer = '{name}' AND agent_id = {id} AND {of_mine}");
        recorder.query(&sql).len()
    };
    // Its rows are given once they are stored.
    let mut got = 0;
    wait_until("all have been read", 10, || {
        got += ask("one");
        got >= 8
    });
    assert_eq!((got, ask("one"), ask("two")), (8, 0, 8));
    // A join scans again and again, and gets the same each time.
    let joined = format!(
        "SELECT count(*), count(DISTINCT f.eid), count(DISTINCT n) FROM (SELECT 1 AS n UNION SELECT 2 UNION SELECT 3) CROSS JOIN \
         agent_file_ops f WHERE f.consumer = 'three' AND f.agent_id = {id} AND f.{of_mine}"
    );
    let row = recorder.query(&joined).remove(0);
    assert_eq!(row.values().flatten().map(String::as_str).collect::<Vec<_>>(), ["24", "8", "3"], "{row:?}");
    // And each table is read on by itself.
    let events = format!("SELECT count(*) FROM agent_events WHERE consumer = 'one' AND agent_id = {id}");
    assert!(recorder.value(&events).unwrap().parse::<i64>().unwrap() > 10);
    assert_eq!(recorder.value(&events).as_deref(), Some("0"));
    // After the next recorder too.
    recorder.end();
    let recorder = Recorder::start(&["--syscalls", "always", "--database", database.to_str().unwrap()]);
    assert_eq!(recorder.value(&events).as_deref(), Some("0"));
    assert!(recorder.value(&events.replace("'one'", "'four'")).unwrap().parse::<i64>().unwrap() > 10);
}

#[test]
fn each_start_and_each_end_is_an_event() {
    if !can_record("each_start_and_each_end_is_an_event") {
        return;
    }
    let (folder, system) = (tempfile::tempdir().unwrap(), support::BpfFs::new());
    let (database, pins) = (folder.path().join("history.duckdb"), system.pins());
    let start = || {
        let (database, pins) = (database.to_str().unwrap(), pins.to_str().unwrap());
        Recorder::start(&["--syscalls", "always", "--database", database, "--pin", pins])
    };
    let mut recorder = start();
    let agent = Agent::new();
    // Forks with and without a program, a program in the place of another, connections that are made, refused and left
    // open; the second half of it after another recorder has taken over.
    let mut working = agent.start(
        "half() {
            (:); /bin/true; sh -c 'exec /bin/true'; sh -c 'exit 3'; sh -c 'kill -9 $$'
            unshare -n sh -c 'ip link set lo up; exec python3 -' <<'P'
import socket
listener = socket.socket(); listener.bind(('127.0.0.1', 0)); listener.listen()
with socket.create_connection(listener.getsockname()) as here, listener.accept()[0] as there: here.send(b'x')
socket.socket().connect_ex(('127.0.0.1', 1))
local = socket.socket(socket.AF_UNIX); local.connect_ex('nothing')
P
        }
        half; exec 5>held; touch first; until [ -e second ]; do sleep 0.02; done; half; exec 5>&-",
    );
    wait_until("the first half is done", 20, || agent.work().join("first").exists());
    recorder.wait_for(&format!("SELECT count(*) FROM ai_agents WHERE pid = {}", working.id()), "1");
    std::thread::sleep(Duration::from_millis(600)); // that there is a recorder to go on from has been stored
    recorder.kill();
    recorder = start();
    std::fs::write(agent.work().join("second"), "").unwrap();
    working.wait().unwrap();
    let id = mine(&recorder, &working);
    recorder.wait_for(&format!("SELECT state FROM ai_agents WHERE agent_id = {id}"), "exited");
    let count = |sql: &str| -> i64 { recorder.value(&sql.replace("ID", &id)).unwrap().parse().unwrap() };
    let events =
        |kind: &str| count(&format!("SELECT count(*) FROM agent_events WHERE agent_id = ID AND event_type = '{kind}'"));
    for (table, kind, least) in [("agent_processes", "process", 20), ("agent_connections", "connection", 8)] {
        let of = |suffix: &str, condition: &str| {
            let rows = format!("FROM {table} r WHERE agent_id = ID AND {condition}");
            let events = format!(
                "SELECT count(*) FROM agent_events e WHERE agent_id = ID AND event_type = '{kind}_{suffix}' AND \
                 e.subject_eid = r.eid"
            );
            assert_eq!(count(&format!("SELECT count(*) {rows} AND ({events}) <> 1")), 0, "{kind}_{suffix}");
            count(&format!("SELECT count(*) {rows}"))
        };
        let (started, ended) = (of("start", "1"), of("end", "end_time IS NOT NULL"));
        let rows = || recorder.query(&format!("SELECT * FROM {table} WHERE agent_id = {id}"));
        assert!(started >= least && ended >= least - 2, "{table}: {ended} of them ended: {:?}", rows());
        assert_eq!((started, ended), (events(&format!("{kind}_start")), events(&format!("{kind}_end"))), "{table}");
    }
    assert_eq!((events("agent_start"), events("agent_end")), (1, 1));
    let execs = "SELECT count(*) FROM agent_processes WHERE agent_id = ID AND how = 'exec'";
    assert!((1..=count(execs)).contains(&events("process_exec")));
    let files = "SELECT count(*) FROM agent_file_ops f JOIN agent_events e ON e.eid = f.eid WHERE f.agent_id = ID AND \
                 e.event_type = 'file_' || f.operation AND json_extract(e.details, '$.path') = f.path";
    assert_eq!(count(files), count("SELECT count(*) FROM agent_file_ops WHERE agent_id = ID"));
    let order = "SELECT count(*) FROM agent_events a JOIN agent_events b USING (subject_eid) WHERE a.agent_id = ID AND \
                 a.event_type LIKE '%start' AND b.event_type LIKE '%end' AND a.eid > b.eid AND a.event_type <> 'agent_start'";
    assert_eq!(count(order), 0);
}

/// The instance of an agent of ours.
fn mine(recorder: &Recorder, agent: &Child) -> String {
    recorder.value(&format!("SELECT agent_id FROM ai_agents WHERE pid = {}", agent.id())).unwrap()
}
