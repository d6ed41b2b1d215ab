//! One recorder and those who ask it: who takes over, who sees what, and what is refused.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

#[path = "support/osquery.rs"]
mod osquery;
mod support;

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use osquery::Core;
use support::{AGENTQUERY, Agent, Recorder, can_record, wait_until};

/// Users that need no entry in the passwd file.
const ALICE: u32 = 61_001;
const BOB: u32 = 61_002;
/// The group, in the recorder's own group file.
const GROUP: u32 = 61_009;

/// `agentquery ARGUMENTS` as a user, with at most one more group.
fn as_user(uid: u32, group: Option<u32>, arguments: &[&str]) -> Output {
    let id = uid.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id]);
    match group {
        Some(group) => command.arg(format!("--groups={group}")),
        None => command.arg("--clear-groups"),
    };
    support::for_users(command.arg(AGENTQUERY).args(arguments)).output().unwrap()
}

fn ask_as(uid: u32, group: Option<u32>, socket: &Path, sql: &str) -> Result<Vec<support::Row>, String> {
    let output = as_user(uid, group, &["query", "--json", "--connect", socket.to_str().unwrap(), sql]);
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A recorder that knows the group `agentquery`, whatever the machine's group file says.
fn recorder_with_group(folder: &Path) -> Recorder {
    // Everybody may come as far as the program and the socket.
    let file = folder.join("group");
    std::fs::write(&file, format!("root:x:0:\nagentquery:x:{GROUP}:\n")).unwrap();
    let mut command = Command::new("unshare");
    let script = "mount --bind \"$1\" /etc/group && shift && exec \"$@\"";
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(&file).arg(AGENTQUERY);
    let recorder = Recorder::start_by(command, &["--syscalls", "always"]);
    let above = recorder.socket.parent().unwrap();
    std::fs::set_permissions(above, std::fs::Permissions::from_mode(0o755)).unwrap();
    recorder
}

#[test]
fn each_user_sees_their_own_rows_and_the_group_sees_all() {
    if !can_record("each_user_sees_their_own_rows_and_the_group_sees_all") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let recorder = recorder_with_group(folder.path());
    let script = r#"
        echo hello > file; cat file > copy; exec 7>open
        python3 -c 'import socket; l = socket.create_server(("127.0.0.1", 0)); socket.create_connection(l.getsockname())'
    "#;
    let agent = Agent::new();
    // An open file that lives on is a row, too: one process of each stays.
    let of_alice = Agent::new().run_as(ALICE, script).recorded(&recorder);
    let of_bob = Agent::new().run_as(BOB, script).recorded(&recorder);
    let of_root = agent.run(script).recorded(&recorder);
    let pids = [of_alice.pid, of_bob.pid, of_root.pid];

    let tables = ["ai_agents", "agent_processes", "agent_connections", "agent_file_ops"];
    let instances = |rows: Result<Vec<support::Row>, String>| -> Vec<u32> {
        let mut ids: Vec<u32> = rows.unwrap().iter().map(|row| row["pid"].as_ref().unwrap().parse().unwrap()).collect();
        ids.sort_unstable();
        // Somebody else's agents may run on this machine, which root and the group see as well.
        ids.retain(|pid| pids.contains(pid));
        ids
    };
    for table in tables {
        let sql = format!(
            "SELECT DISTINCT a.pid FROM {table} t JOIN ai_agents a ON a.agent_id = t.agent_id WHERE t.time > 0 AND a.time > 0"
        );
        let all = {
            let mut all = pids.to_vec();
            all.sort_unstable();
            all
        };
        assert_eq!(instances(ask_as(ALICE, None, &recorder.socket, &sql)), [of_alice.pid], "{table}");
        assert_eq!(instances(ask_as(BOB, None, &recorder.socket, &sql)), [of_bob.pid], "{table}");
        assert_eq!(instances(ask_as(ALICE, Some(GROUP), &recorder.socket, &sql)), all, "{table}: the group");
        assert_eq!(instances(Ok(recorder.query(&sql))), all, "{table}: root");
        // Not by an id that was guessed, and not by counting.
        let foreign =
            format!("SELECT count(*) AS n FROM {table} WHERE agent_id = {}", of_bob_id(&recorder, of_bob.pid));
        let count = ask_as(ALICE, None, &recorder.socket, &foreign).unwrap();
        assert_eq!(count[0]["n"].as_deref(), Some("0"), "{table}");
    }
    let messages = "SELECT message FROM agent_collector WHERE event = 'gap'";
    assert_eq!(ask_as(61_003, None, &recorder.socket, messages).unwrap(), [], "a gap tells of somebody's agent");
}

fn of_bob_id(recorder: &Recorder, pid: u32) -> String {
    recorder.value(&format!("SELECT agent_id FROM ai_agents WHERE pid = {pid}")).unwrap()
}

#[test]
fn what_a_query_may_not_do_is_refused_or_stopped() {
    if !can_record("what_a_query_may_not_do_is_refused_or_stopped") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let recorder = recorder_with_group(folder.path());
    let file = folder.path().join("new.db");
    for sql in [
        &*format!("ATTACH '{}' AS x", file.display()),
        &format!("VACUUM INTO '{}'", file.display()),
        "SELECT load_extension('/tmp/x.so')",
        "PRAGMA hard_heap_limit = 0",
        "PRAGMA temp_store_directory = '/tmp'",
        "CREATE TABLE x (a)",
        "INSERT INTO ai_agents (agent) VALUES ('x')",
        "SELECT writefile('/tmp/x', 'x')",
    ] {
        for user in [0, ALICE] {
            let error = ask_as(user, None, &recorder.socket, sql).unwrap_err();
            assert!(
                error.contains("only reading") || error.contains("no such") || error.contains("not authorized"),
                "{sql}: {error}"
            );
        }
    }
    assert!(!file.exists());
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";
    let socket = &recorder.socket;
    std::thread::scope(|scope| {
        let endless = scope.spawn(move || {
            let began = Instant::now();
            let error = ask_as(ALICE, None, socket, &format!("{numbers} SELECT count(*) FROM n")).unwrap_err();
            assert!(error.contains("longer than 10 seconds"), "{error}");
            assert!(began.elapsed() < Duration::from_secs(30));
        });
        let large = format!("{numbers} SELECT * FROM (SELECT hex(randomblob(1000)) AS t FROM n) ORDER BY t");
        let error = ask_as(BOB, None, socket, &large).unwrap_err();
        assert!(error.contains("MB of memory"), "{error}");
        let error = ask_as(BOB, None, socket, "SELECT length(zeroblob(2000000000))").unwrap_err();
        assert!(error.contains("too big"), "{error}");
        // And the others are answered meanwhile.
        assert_eq!(ask_as(ALICE, None, socket, "SELECT 1 AS a").unwrap()[0]["a"].as_deref(), Some("1"));
        endless.join().unwrap();
    });
    assert_eq!(recorder.value("SELECT 1"), Some("1".into()));
}

#[test]
fn what_others_can_write_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, "syscalls: always\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    let query = |arguments: &[&str]| {
        let state = folder.path().join("state");
        let mut command = Command::new(AGENTQUERY);
        command.args(["query", "--json", "SELECT * FROM agent_signatures", "--state-dir"]).arg(state).args(arguments);
        command.output().unwrap()
    };
    let refused = query(&["--config", file.to_str().unwrap()]);
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && message.contains(file.to_str().unwrap()), "{message}");
    assert!(message.contains("others can change it"), "{message}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(&file, "syscalls: sometimes\n").unwrap();
    let message = String::from_utf8_lossy(&query(&["--config", file.to_str().unwrap()]).stderr).into_owned();
    assert!(message.contains(&format!("{}:1:11: ", file.display())), "{message}");

    if !can_record("what_others_can_write_is_refused_by_name") {
        return;
    }
    let signature = folder.path().join("signatures/mine.yaml");
    std::fs::create_dir(signature.parent().unwrap()).unwrap();
    std::fs::write(&signature, "name: mine\n").unwrap();
    std::fs::set_permissions(&signature, std::fs::Permissions::from_mode(0o602)).unwrap();
    let output = query(&["--signatures", signature.parent().unwrap().to_str().unwrap()]);
    let rows: Vec<support::Row> = serde_json::from_slice(&output.stdout).unwrap();
    let row = rows.iter().find(|row| row["source"].as_deref() == signature.to_str()).unwrap();
    assert_eq!(row["status"].as_deref(), Some("refused"));
    assert!(row["message"].as_ref().unwrap().contains("others can change it"), "{row:?}");
    assert!(rows.iter().any(|row| row["status"].as_deref() == Some("loaded")), "the others still load");
}

#[test]
fn without_a_place_for_its_state_one_line_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let output = as_user(ALICE, None, &["query", "SELECT 1", "--state-dir", state.to_str().unwrap()]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && message.lines().count() == 1, "{message}");
    assert!(message.contains("choose another one with --state-dir"), "{message}");
}

/// A process of the program that ends with the test.
struct Front(Child);

impl Front {
    fn start(arguments: &[&str], recorder: &Recorder) -> Self {
        let mut command = Command::new(AGENTQUERY);
        command.args(arguments).arg("--state-dir").arg(recorder.state_dir());
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn holder(recorder: &Recorder) -> Option<u32> {
    let text = std::fs::read_to_string(recorder.state_dir().join("lock")).ok()?;
    let holder: serde_json::Value = serde_json::from_str(&text).ok()?;
    holder["pid"].as_u64().and_then(|pid| pid.try_into().ok())
}

#[test]
fn when_the_recorder_is_killed_one_takes_over_and_rows_go_on() {
    if !can_record("when_the_recorder_is_killed_one_takes_over_and_rows_go_on") {
        return;
    }
    let mut recorder = Recorder::start(&["--syscalls", "always"]);
    let state = recorder.state_dir();
    let socket = recorder.socket.to_str().unwrap().to_owned();
    // Two who wait, an extension of osquery's, a shell that asks, and two queries on their way.
    let waiting: Vec<_> =
        (0..2).map(|_| Front::start(&["run", "--syscalls", "always", "--socket", &socket], &recorder)).collect();
    let folder = tempfile::tempdir().unwrap();
    let manager = folder.path().join("osquery.em");
    let mut core = Core::start(&manager);
    let extension = Front::start(&["extension", "--socket", manager.to_str().unwrap()], &recorder);
    core.tell("registered", &serde_json::json!([20]));
    let mut shell = Front::start(&["shell", "--csv"], &recorder);
    let mut input = shell.0.stdin.take().unwrap();
    input.write_all(b"SELECT 'before' AS a;\n").unwrap();
    let agent = Agent::new();
    agent.run("echo 1 > before").recorded(&recorder);
    let path = |name: &str| agent.work().join(name).to_str().unwrap().to_owned();
    assert_eq!(core.rows("agent_file_ops", "path", &path("before")).len(), 2, "through osquery: an open and its close");
    let slow =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000000) SELECT max(i) AS m FROM n";
    let queries: Vec<_> = (0..2)
        .map(|_| {
            let mut command = Command::new(AGENTQUERY);
            command.args(["query", "--csv", slow, "--state-dir"]).arg(&state);
            command.stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));

    let first = holder(&recorder).unwrap();
    recorder.kill();
    let killed = Instant::now();
    let answers = || {
        let mut command = Command::new(AGENTQUERY);
        let output = command
            .args(["query", "--csv", "SELECT count(*) > 0 AS n FROM agent_collector", "--connect", &socket])
            .output();
        String::from_utf8_lossy(&output.unwrap().stdout) == "n\r\n1\r\n"
    };
    wait_until("somebody answers", 10, answers);
    let took = killed.elapsed();
    let second = holder(&recorder).unwrap();
    let in_line = waiting.iter().chain([&extension]).any(|front| front.0.id() == second);
    assert!(second != first && in_line, "one that waited takes over");
    // A second by itself; a machine with other work needs longer to load programs into the kernel.
    assert!(took < Duration::from_secs(3), "{took:?}");

    for query in queries {
        let output = query.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "m\r\n10000000\r\n", "a query on its way is asked again");
    }
    agent.run("echo 2 > after").recorded(&recorder);
    assert_eq!(core.rows("agent_file_ops", "path", &path("after")).len(), 2, "through osquery");
    input
        .write_all(
            b"SELECT count(*) AS after FROM agent_file_ops WHERE path LIKE '%/work/after' AND operation = 'create';\n",
        )
        .unwrap();
    drop(input);
    let mut out = String::new();
    std::io::Read::read_to_string(&mut shell.0.stdout.take().unwrap(), &mut out).unwrap();
    assert_eq!(out, "a\r\nbefore\r\nafter\r\n1\r\n");
}
