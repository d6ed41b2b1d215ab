//! The fronts against each other and against osquery's own classes: the same queries give the same rows through the
//! embedded engine, a socket, and osquery's protocol as a third party speaks it.
//!
//! Rows come from a fixture, so that these tests run on any machine with Python.
#![cfg(unix)]
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::cast_precision_loss)] // a test may end at once

mod fixture;
#[path = "support/osquery.rs"]
mod osquery;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use agentquery::osquery::client::Client;
use agentquery::osquery::{Access, Server, Source, Stop, extension, manager};
use agentquery::shell::format::{Mode, Writer};
use agentquery::shell::{Backend, Engine, Limits};
use agentquery::tables::Viewer;
use osquery::{Core, python, tests, text};
use serde_json::{Value, json as value};

fn agentquery() -> Command {
    Command::new(env!("CARGO_BIN_EXE_agentquery"))
}

fn serve(directory: &Path, file_ops: i64) -> Server {
    manager::serve(&directory.join("agentquery.em"), Access::Own, fixture::store(file_ops)).unwrap()
}

/// Rows of a result in no order, NULL as osquery writes it.
fn rows(json: &Value) -> Vec<String> {
    let row = |row: &Value| {
        let row = row.as_object().unwrap();
        let cells: std::collections::BTreeMap<_, _> =
            row.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect();
        format!("{cells:?}")
    };
    let mut rows: Vec<_> = json.as_array().unwrap().iter().map(row).collect();
    rows.sort();
    rows
}

fn json(backend: &mut dyn Backend, sql: &str) -> Value {
    let mut out = Vec::new();
    backend.run(sql, &mut Writer::new(&mut out, Mode::Json)).unwrap_or_else(|error| panic!("{sql}: {error}"));
    serde_json::from_slice(&out).unwrap()
}

#[test]
fn the_same_rows_through_every_front() {
    let directory = tempfile::tempdir().unwrap();
    let store = fixture::store(10);
    let server = manager::serve(&directory.path().join("agentquery.em"), Access::Own, store.clone()).unwrap();

    let osquery = directory.path().join("osquery.em");
    let stop = Stop::default();
    let options = extension::Options {
        socket: osquery.clone(),
        timeout: Duration::from_secs(30),
        interval: Duration::from_millis(500),
    };
    let ended = stop.clone();
    let source = Source::of(store.clone());
    let serving = std::thread::spawn(move || extension::run(&options, &source, &ended));
    let queries = tests().join("data/queries.json");
    let contexts = tests().join("data/osquery-contexts.jsonl");
    let arguments = ["rows", osquery.to_str().unwrap(), queries.to_str().unwrap(), contexts.to_str().unwrap()];
    let extension: Value = serde_json::from_str(&text(python(&arguments).output().unwrap())).unwrap();
    stop.request();
    serving.join().unwrap().unwrap();

    let queries: Value = serde_json::from_str(&std::fs::read_to_string(queries).unwrap()).unwrap();
    let mut engine = Engine::new(store, Viewer::All, Limits::default()).unwrap();
    let mut client = Client::new(server.path());
    let mut not_empty = 0;
    for (query, extension) in queries.as_array().unwrap().iter().zip(extension.as_array().unwrap()) {
        let sql = query["sql"].as_str().unwrap();
        let embedded = json(&mut engine, sql);
        assert_eq!(rows(&embedded), rows(extension), "extension: {sql}");
        assert_eq!(embedded, json(&mut client, sql), "socket: {sql}");
        not_empty += usize::from(!rows(&embedded).is_empty());
    }
    assert_eq!(not_empty, queries.as_array().unwrap().len(), "a query without rows shows nothing");
}

#[test]
fn the_program_asks_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let server = serve(directory.path(), 10);
    let sql = "SELECT path, eid, mode FROM agent_file_ops WHERE pid = 101 ORDER BY eid";
    let ask = |arguments: &[&str]| {
        let mut command = agentquery();
        command.args(["query", sql, "--connect", server.path().to_str().unwrap()]).args(arguments);
        text(command.output().unwrap())
    };
    assert_eq!(
        ask(&["--json"]),
        "[\n  {\"path\":\"/work/a5.rs\",\"eid\":\"1795000000000001005\",\"mode\":null},\n  \
         {\"path\":\"/work/a9.rs\",\"eid\":\"1795000000000001009\",\"mode\":\"0644\"}\n]\n"
    );
    assert_eq!(ask(&["--csv"]).lines().next(), Some("path,eid,mode"));
    let shell = format!("shell --csv --connect {}", server.path().display());
    let mut child = agentquery()
        .args(shell.split(' '))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"select agent from ai_agents;\nnonsense;\n.exit\n").unwrap();
    let out = text(child.wait_with_output().unwrap());
    assert!(out.starts_with("agent\r\nclaude-code\r\ncodex\r\nError: ") && out.contains("nonsense"), "{out}");

    let failed =
        agentquery().args(["query", "nonsense", "--connect", server.path().to_str().unwrap()]).output().unwrap();
    assert_eq!((failed.status.code(), failed.stdout.as_slice()), (Some(1), &b""[..]));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("nonsense"));
}

#[test]
fn osquerys_own_client_asks_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let server = serve(directory.path(), 10);
    let sql = "SELECT name, pid FROM agent_processes WHERE name = 'p3'";
    let answer: Value =
        serde_json::from_str(&text(python(&["query", server.path().to_str().unwrap(), sql]).output().unwrap()))
            .unwrap();
    assert_eq!(answer, serde_json::json!({"columns": ["name", "pid"], "rows": [{"name": "p3", "pid": "103"}]}));
}

#[test]
fn an_extension_without_a_manager_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("nobody.em");
    let mut command = agentquery();
    command.args(["extension", "--timeout", "1", "--socket", socket.to_str().unwrap()]);
    let output = command.env("AGENTQUERY_STATE_DIR", directory.path().join("state")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nobody.em"));
}

#[test]
fn garbage_on_the_socket_harms_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let server = serve(directory.path(), 10);
    let query = [&[0x80, 1, 0, 1, 0, 0, 0, 5][..], b"query", &[0, 0, 0, 1]].concat();
    let mut garbage: Vec<Vec<u8>> = vec![
        vec![],
        vec![0xff; 100_000],
        vec![0; 100_000],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        // A name of 2 GB; a negative one; half a header.
        vec![0x80, 1, 0, 1, 0x7f, 0xff, 0xff, 0xff],
        vec![0x80, 1, 0, 1, 0xff, 0xff, 0xff, 0xff],
        vec![0x80, 1, 0],
        // A query whose text claims 2 GB; is not UTF-8; is a list of 2^31 - 1 maps; nests structs without end.
        [&query[..], &[11, 0, 1, 0x7f, 0xff, 0xff, 0xff]].concat(),
        [&query[..], &[11, 0, 1, 0, 0, 0, 2, 0xc3, 0x28, 0]].concat(),
        [&query[..], &[15, 0, 1, 13, 0x7f, 0xff, 0xff, 0xff]].concat(),
        [&query[..], &[12, 0, 9].repeat(100_000)].concat(),
        // A message whose parts add up beyond any limit.
        [&query[..], &[&[11, 0, 9, 0, 0x10, 0, 0][..], &vec![b'a'; 1 << 20][..]].concat().repeat(12)].concat(),
    ];
    // And what differs from a good message in one byte.
    let good = [&query[..], &[11, 0, 1, 0, 0, 0, 8], b"SELECT 1", &[0]].concat();
    for position in 0..good.len() {
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            let mut message = good.clone();
            message[position] = byte;
            garbage.push(message);
        }
    }
    for message in garbage {
        let mut stream = UnixStream::connect(server.path()).unwrap();
        let _ = stream.write_all(&message);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        // A reset is as good an end as any, a server that hangs is not.
        assert!(!ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "{:?}", message.get(..32));
    }
    assert_eq!(json(&mut Client::new(server.path()), "SELECT 1 AS a"), serde_json::json!([{"a": "1"}]));
    let peak = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        peak.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok());
    assert!(peak.is_none_or(|kilobytes| kilobytes < 500_000), "{peak:?} kB");
}

#[test]
fn a_slow_query_keeps_nobody_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let server = serve(directory.path(), 10);
    let slow = Client::new(server.path());
    let endless =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000000) SELECT max(i) FROM n";
    let running = std::thread::spawn(move || (slow.query(endless).unwrap(), Instant::now()));
    std::thread::sleep(Duration::from_millis(100));
    let client = Client::new(server.path());
    for _ in 0..20 {
        client.columns("SELECT 1").unwrap();
    }
    let answered = Instant::now();
    let (rows, ended) = running.join().unwrap();
    assert_eq!(rows.len(), 1);
    assert!(answered < ended, "the short queries waited for the long one");
}

#[test]
fn a_result_without_end_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let server = serve(directory.path(), 10);
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT hex(zeroblob(100000)) FROM n";
    let error = Client::new(server.path()).query(sql).unwrap_err();
    assert!(error.to_string().contains("48 MB"), "{error}");
}

#[test]
fn held_connections_keep_nobody_out() {
    let directory = tempfile::tempdir().unwrap();
    let server = serve(directory.path(), 10);
    let connect = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(server.path()).unwrap();
        // One that is dropped at once is no matter.
        let _ = stream.write_all(bytes);
        stream
    };
    let asked = || Client::new(server.path()).columns("SELECT 1");
    let answers = |what: &str| {
        let began = Instant::now();
        asked().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(began.elapsed() < Duration::from_secs(3), "{what}: {:?}", began.elapsed());
    };
    let idle: Vec<_> = (0..200).map(|_| connect(b"")).collect();
    answers("idle");
    let half: Vec<_> = (0..200).map(|_| connect(&[0x80, 1, 0])).collect();
    answers("half a message");
    // A good query, again and again, and no reply ever taken: each stalls when the socket is full.
    let sql = "SELECT hex(zeroblob(150000)) AS a";
    let length = u8::try_from(sql.len()).unwrap();
    let query = [&[0x80, 1, 0, 1, 0, 0, 0, 5][..], b"query", &[0, 0, 0, 1, 11, 0, 1, 0, 0, 0, length]].concat();
    let query = [&query, sql.as_bytes(), &[0]].concat();
    let deaf: Vec<_> = (0..200).map(|_| connect(&query)).collect();
    // While all are still at work on the queries, one more is refused.
    let began = Instant::now();
    while asked().is_err() {
        assert!(began.elapsed() < Duration::from_secs(10), "replies that nobody takes keep others out");
        std::thread::sleep(Duration::from_millis(20));
    }
    answers("replies that nobody takes");
    // And nobody is dropped without need.
    let mut living = 0;
    for stream in idle.iter().chain(&half).chain(&deaf) {
        stream.set_nonblocking(true).unwrap();
        let mut byte = [0];
        let read = (&*stream).read(&mut byte);
        living +=
            usize::from(!matches!(read, Ok(0)) && !read.is_err_and(|e| e.kind() != std::io::ErrorKind::WouldBlock));
    }
    assert!(living >= 32, "{living}");
    // The server takes its idle connections with it.
    let last = connect(b"");
    drop(server);
    last.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let ended = (&last).read(&mut [0]);
    assert!(!ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
}

#[test]
fn a_join_over_osquery_is_two_reads_at_most() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("osquery.em");
    let mut core = Core::start(&socket);
    let store = fixture::store(2000);
    let (source, stop) = (Source::of(store.clone()), Stop::default());
    let options = extension::Options { socket, timeout: Duration::from_secs(30), interval: Duration::from_secs(3) };
    let ended = stop.clone();
    let serving = std::thread::spawn(move || extension::run(&options, &source, &ended));
    core.tell("back", &value!([20]));
    for table in agentquery::tables::all() {
        let (name, columns) = (table.info().name, table.columns());
        // By a number where there is one, else by a text; the list is on another column.
        let has = |wanted: &&&str| columns.iter().any(|column| column.name == **wanted);
        let by = ["pid", "agent", "event"].iter().find(has).unwrap();
        let list = ["eid", "agent_id", "rules", "seen", "connections"].iter().find(has).unwrap();
        let values: Vec<_> = (0..200).map(|pid| pid.to_string()).collect();
        let in_list: Vec<_> = (0..500).map(|i| (2, (fixture::EID + 1000 + i).to_string())).collect();
        let list = value!({*list: in_list});
        let mut reads = |calls: &Value| {
            let before = store.reads();
            let seconds = core.tell("join", calls).as_f64().unwrap();
            (store.reads() - before, seconds)
        };
        // A read is shared for 200 ms: a machine that is too busy for a join in twice that gets one for each 200 ms.
        let join = value!([name, by, values, {}]);
        for again in (0..4).rev() {
            let (taken, seconds) = reads(&join);
            assert!(taken as f64 <= seconds / 0.2 + 1.0, "{name}: {taken} in {seconds} s");
            if taken <= 2 || again == 0 {
                break;
            }
        }
        let (taken, seconds) = reads(&value!([name, by, values, list]));
        assert!(taken as f64 <= seconds / 0.2 + 1.0, "{name} with a list: {taken} in {seconds} s");
        let (taken, _) = reads(&value!([name, by, ["100"], list]));
        assert!(taken <= 1, "{name}, a list: {taken}");
    }
    assert!(store.reads() >= 8, "reads are not counted");
    stop.request();
    serving.join().unwrap().unwrap();
}

#[test]
fn a_slow_generate_ends_and_keeps_no_ping_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("osquery.em");
    let mut core = Core::start(&socket);
    let (source, stop) = (Source::of(fixture::store(20_000)), Stop::default());
    let options = extension::Options {
        socket: socket.clone(),
        timeout: Duration::from_secs(30),
        interval: Duration::from_secs(3),
    };
    let ended = stop.clone();
    let serving = std::thread::spawn(move || extension::run(&options, &source, &ended));
    core.tell("back", &value!([20]));
    let uuid = core.uuid().unwrap();
    let began = Instant::now();
    core.begin("slow", &value!(["/work/a10000.rs"]));
    let asking = Client::new(&socket.with_file_name(format!("osquery.em.{uuid}")));
    let mut longest = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        // An extension knows no queries; that it says so is an answer as quick as a ping.
        let error = asking.query("SELECT 1").unwrap_err().to_string();
        assert!(error.contains("query"), "{error}");
        longest = longest.max(asked.elapsed());
    }
    let error = core.end().unwrap_err();
    let taken = began.elapsed();
    assert!(error.contains("agent_file_ops: stopped"), "{error}");
    assert!((4.5..8.0).contains(&taken.as_secs_f64()), "{taken:?}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    stop.request();
    serving.join().unwrap().unwrap();
}
