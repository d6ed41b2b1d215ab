//! Agents that run when recording starts: all of them is in the tables, and they are followed from then on.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use support::{Agent, Recorder, Row, Run, can_record, wait_until};

/// A server with a database, and a child that is connected to it. After `go` the child ends its connection and becomes
/// another program; the server writes on, and both end.
const SERVER: &str = r"
import os, socket, sqlite3, time
def wait():
    while not os.path.exists('go'): time.sleep(0.02)
database = sqlite3.connect('state.db')
database.execute('CREATE TABLE t (a)'); database.commit()
listener = socket.create_server(('127.0.0.1', 0))
address = listener.getsockname()
child = os.fork()
if child == 0:
    listener.close()
    client = socket.create_connection(address)
    wait(); client.close()
    os.execvp('sleep', ['sleep', '0.1'])
server, peer = listener.accept()
with open('told', 'w') as told: told.write(f'{os.getpid()} {child} {address[1]} {peer[1]}')
os.rename('told', 'ready')
wait()
database.execute('INSERT INTO t VALUES (1)'); database.commit()
with open('after', 'w') as after: after.write('abc')
server.recv(1); server.close(); os.waitpid(child, 0); listener.close(); database.close()
";

/// A tree that runs [`SERVER`] below a shell.
struct Tree {
    shell: Child,
    work: PathBuf,
    server: u32,
    child: u32,
    port: u16,
    peer_port: u16,
    net_namespace: String,
}

impl Tree {
    fn start(shell: &Path, work: PathBuf, own_network: bool) -> Self {
        let mut command = if own_network { Command::new("unshare") } else { Command::new("env") };
        if own_network {
            command.args(["-n", "sh", "-c", r#"ip link set lo up && exec "$@""#, "sh"]);
        }
        let script = r#"exec 8>>agent.log; python3 -c "$0"; echo ended >&8"#;
        command.arg(shell).args(["-c", script, SERVER]).current_dir(&work).stdin(Stdio::null());
        let shell = command.spawn().unwrap();
        wait_until("the server", 20, || work.join("ready").exists());
        let told = std::fs::read_to_string(work.join("ready")).unwrap();
        let mut numbers = told.split(' ').map(|number| number.parse::<u32>().unwrap());
        let mut next = || numbers.next().unwrap();
        let (server, child, port, peer) = (next(), next(), next(), next());
        let namespace = std::fs::read_link(format!("/proc/{server}/ns/net")).unwrap();
        let net_namespace = namespace.to_str().unwrap().replace(|c: char| !c.is_ascii_digit(), "");
        let (port, peer_port) = (u16::try_from(port).unwrap(), u16::try_from(peer).unwrap());
        Self { shell, work, server, child, port, peer_port, net_namespace }
    }

    fn pid(&self) -> u32 {
        self.shell.id()
    }

    fn go(&self) {
        std::fs::write(self.work.join("go"), "").unwrap();
    }

    /// The rows of a table that are of this agent, in an order.
    fn rows(&self, recorder: &Recorder, table: &str, order: &str) -> Vec<Row> {
        let id = Run { pid: self.pid() }.id();
        recorder.query(&format!("SELECT * FROM {table} WHERE agent_id = {id} ORDER BY {order}"))
    }
}

/// A test that fails leaves nobody waiting.
impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::write(self.work.join("go"), "");
        let _ = self.shell.wait();
    }
}

fn cell(row: &Row, column: &str) -> String {
    row[column].clone().unwrap_or_default()
}

fn cells<const N: usize>(rows: &[Row], columns: [&str; N]) -> Vec<[String; N]> {
    rows.iter().map(|row| columns.map(|column| cell(row, column))).collect()
}

fn strings<const N: usize>(texts: [&dyn ToString; N]) -> [String; N] {
    texts.map(ToString::to_string)
}

/// Each of these sees the agents of the others, and their losses.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn what_an_agent_is_and_has_when_recording_starts() {
    if !can_record("what_an_agent_is_and_has_when_recording_starts") {
        return;
    }
    let _alone = alone();
    let (first, second, other) = (Agent::new(), Agent::new(), tempfile::tempdir().unwrap());
    let mut agents =
        [Tree::start(first.program(), first.work(), true), Tree::start(second.program(), second.work(), false)];
    let mut stranger = Tree::start(Path::new("/bin/bash"), other.path().into(), false);
    assert_ne!(agents[0].net_namespace, agents[1].net_namespace);
    let recorder = Recorder::start(&["--syscalls", "on_demand"]);
    for tree in &agents {
        is_there(tree, &recorder);
    }
    for tree in agents.iter_mut().chain([&mut stranger]) {
        tree.go();
        assert!(tree.shell.wait().unwrap().success());
    }
    for tree in &agents {
        has_ended(tree, &recorder);
    }
    for (table, pids) in [("ai_agents", "pid"), ("agent_processes", "pid"), ("agent_file_ops", "pid")] {
        let sql = format!(
            "SELECT count(*) FROM {table} WHERE {pids} IN ({}, {}, {})",
            stranger.pid(),
            stranger.server,
            stranger.child
        );
        assert_eq!(recorder.value(&sql).as_deref(), Some("0"), "{table}");
    }
    let told = recorder.query("SELECT seen, submitted + filtered + ring_full + oversized + throttled AS told, received - discarded AS rows FROM agent_collector WHERE event <> 'gap'");
    assert!(told.iter().all(|row| row["seen"] == row["told"]), "{told:?}");
}

fn is_there(tree: &Tree, recorder: &Recorder) {
    let (pid, server, child) = (tree.pid(), tree.server, tree.child);
    let agent = recorder.query(&format!("SELECT * FROM ai_agents WHERE pid = {pid}"));
    assert_eq!(agent.len(), 1, "{agent:?}");
    let agent = &agent[0];
    assert_eq!(
        [cell(agent, "agent"), cell(agent, "version"), cell(agent, "processes"), cell(agent, "cwd")],
        strings([&"claude-code", &"1.2.3", &3, &tree.work.display()])
    );
    assert!(cell(agent, "cmdline").contains("exec 8>>agent.log"), "{agent:?}");
    let gap: i64 = cell(agent, "start_gap_ms").parse().unwrap();
    let age = recorder.value(&format!("SELECT strftime('%s', 'now') - start_time FROM ai_agents WHERE pid = {pid}"));
    assert!(gap > 0 && gap / 1000 <= age.unwrap().parse::<i64>().unwrap() + 1, "{gap} ms");
    let processes = tree.rows(recorder, "agent_processes", "depth");
    assert_eq!(
        cells(&processes, ["pid", "parent", "depth", "how", "state", "cwd"]),
        [(pid, std::process::id(), 0), (server, pid, 1), (child, server, 2)].map(|(pid, parent, depth)| strings([
            &pid,
            &parent,
            &depth,
            &"adopted",
            &"running",
            &tree.work.display()
        ]))
    );
    assert_eq!(cell(&processes[0], "name"), "claude.exe");
    assert!(cell(&processes[1], "cmdline").contains("sqlite3"), "{processes:?}");
    assert_eq!(processes[1]["parent_eid"], processes[0]["eid"]);
    let sockets = tree.rows(recorder, "agent_connections", "direction");
    let columns = ["direction", "state", "pid", "local_port", "remote_port", "net_namespace", "end_time"];
    let (port, peer, namespace) = (tree.port, tree.peer_port, &tree.net_namespace);
    assert_eq!(
        cells(&sockets, columns),
        [
            strings([&"inbound", &"established", &server, &port, &peer, namespace, &""]),
            strings([&"listen", &"listening", &server, &port, &"", namespace, &""]),
            strings([&"outbound", &"established", &child, &peer, &port, namespace, &""]),
        ]
    );
    for row in &sockets {
        let link = format!("/proc/{}/fd/{}", cell(row, "pid"), cell(row, "fd"));
        assert_eq!(std::fs::read_link(link).unwrap().to_str().unwrap(), format!("socket:[{}]", cell(row, "socket")));
    }
    let here = format!("{}/", tree.work.display());
    let open: Vec<_> = tree
        .rows(recorder, "agent_open_files", "path")
        .into_iter()
        .filter(|row| cell(row, "path").starts_with(&here))
        .collect();
    assert_eq!(
        cells(&open, ["path", "pid", "operation", "bytes_written"]),
        [
            strings([&format!("{here}agent.log"), &pid, &"open_write", &0]),
            strings([&format!("{here}state.db"), &server, &"open_write", &0]),
        ]
    );
}

fn has_ended(tree: &Tree, recorder: &Recorder) {
    let run = Run { pid: tree.pid() }.recorded(recorder);
    let id = run.id();
    let open = format!("SELECT count(*) FROM agent_connections WHERE agent_id = {id} AND end_time IS NULL");
    recorder.wait_for(&open, "0");
    let sockets = tree.rows(recorder, "agent_connections", "direction");
    // The client ended its side first.
    assert_eq!(cells(&sockets, ["state"]), [["closed"], ["closed"], ["time_wait"]].map(|[state]| strings([&state])));
    let processes = tree.rows(recorder, "agent_processes", "depth, eid");
    let (pid, server, child) = (tree.pid(), tree.server, tree.child);
    assert_eq!(
        cells(&processes, ["pid", "how", "state", "exit_code"]),
        [
            strings([&pid, &"adopted", &"exited", &0]),
            strings([&server, &"adopted", &"exited", &0]),
            strings([&child, &"adopted", &"replaced", &""]),
            strings([&child, &"exec", &"exited", &0]),
        ]
    );
    let files = tree.rows(recorder, "agent_file_ops", "eid");
    let of = |name: &str, operation: &str| {
        let path = tree.work.join(name).display().to_string();
        let wanted = |row: &&Row| cell(row, "path") == path && cell(row, "operation") == operation;
        files.iter().filter(wanted).cloned().collect::<Vec<_>>()
    };
    assert_eq!(cells(&of("after", "create"), ["pid"]), [strings([&server])]);
    assert_eq!(cells(&of("after", "close"), ["bytes_written", "close_source"]), [strings([&3, &"seen"])]);
    assert_eq!(cells(&of("agent.log", "close"), ["pid", "bytes_written"]), [strings([&pid, &6])]);
    let database = of("state.db", "close");
    assert_eq!(cells(&database, ["pid", "close_source"]), [strings([&server, &"seen"])]);
    assert!(cell(&database[0], "bytes_written").parse::<i64>().unwrap() > 0, "{database:?}");
    assert!(of("state.db", "open_write").is_empty(), "it was opened before");
}

#[test]
fn an_agent_that_forks_all_the_time_is_adopted_whole_and_once() {
    if !can_record("an_agent_that_forks_all_the_time_is_adopted_whole_and_once") {
        return;
    }
    let _alone = alone();
    // Pids are told after their birth, so those that are told after the recorder answers are its to know.
    let script = r"
        while [ ! -e stop ]; do
            (/bin/true; exec /bin/sh -c '/bin/true; exec /bin/true') & echo $! >>pids
            (exit 3) & echo $! >>pids
            wait
        done";
    for _ in 0..3 {
        let agent = Agent::new();
        let work = agent.work();
        let mut shells: Vec<_> = (0..2)
            .map(|_| Command::new(agent.program()).args(["-c", script]).current_dir(&work).spawn().unwrap())
            .collect();
        wait_until("the agents run", 20, || {
            std::fs::read_to_string(work.join("pids")).is_ok_and(|pids| pids.len() > 200)
        });
        let recorder = Recorder::start(&["--syscalls", "on_demand"]);
        let before = std::fs::read_to_string(work.join("pids")).unwrap().len();
        let told = || std::fs::read_to_string(work.join("pids")).unwrap().split_off(before);
        wait_until("they go on", 20, || told().len() > 500);
        std::fs::write(work.join("stop"), "").unwrap();
        for shell in &mut shells {
            assert!(shell.wait().unwrap().success());
            let run = Run { pid: shell.id() }.recorded(&recorder);
            let of_run = |what: &str| {
                recorder.query(&format!(
                    "SELECT pid, count(*) AS n FROM agent_processes WHERE agent_id = {} {what}",
                    run.id()
                ))
            };
            let running = of_run("AND state = 'running' GROUP BY pid");
            assert!(running.is_empty(), "{running:?}");
            let twice = of_run("AND state = 'exited' GROUP BY pid HAVING n > 1");
            assert!(twice.is_empty(), "a process ends once: {twice:?}");
            let endless = of_run("GROUP BY pid HAVING sum(state = 'exited') = 0");
            assert!(endless.is_empty(), "every process ends: {endless:?}");
            let mut adopted = of_run("AND how = 'adopted' AND depth = 0 GROUP BY pid");
            assert_eq!(adopted.len(), 1, "{adopted:?}");
            assert_eq!(adopted.remove(0)["n"].as_deref(), Some("1"));
        }
        let known = recorder.query("SELECT DISTINCT pid FROM agent_processes");
        let known: std::collections::HashSet<_> = known.iter().map(|row| cell(row, "pid")).collect();
        let told = told();
        let missing: Vec<_> = told.lines().skip(2).filter(|pid| !known.contains(*pid)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

#[test]
fn an_open_whose_descriptor_another_thread_closed_is_counted() {
    if !can_record("an_open_whose_descriptor_another_thread_closed_is_counted") {
        return;
    }
    let _alone = alone();
    let recorder = Recorder::start(&["--syscalls", "always"]);
    let agent = Agent::new();
    std::fs::write(agent.work().join("raced"), "").unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/programs/closes.c");
    let program = agent.work().join("closes");
    assert!(Command::new("cc").args(["-pthread", source, "-o"]).arg(&program).status().unwrap().success());
    let run = agent.run("./closes 30000 >opened").recorded(&recorder);
    let opened: i64 = std::fs::read_to_string(agent.work().join("opened")).unwrap().trim().parse().unwrap();
    let number = |sql: &str| -> i64 { recorder.value(sql).unwrap().parse().unwrap() };
    let rows = number(&format!(
        "SELECT count(*) FROM agent_file_ops WHERE agent_id = {} AND path LIKE '%/raced' AND operation != 'close'",
        run.id()
    ));
    let lost = number("SELECT ring_full + oversized + throttled FROM agent_collector WHERE event = 'open'");
    assert!(lost > 0, "no descriptor was closed in time: nothing was tested");
    assert_eq!(rows + lost, opened, "{rows} rows, {lost} lost");
    let seen = "SELECT seen = submitted + filtered + ring_full + oversized + throttled FROM agent_collector WHERE event = 'open'";
    assert_eq!(number(seen), 1);
}
