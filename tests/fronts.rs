//! The fronts against each other and against osquery's own classes: the same queries give the same rows through the
//! embedded engine, a socket, and osquery's protocol as a third party speaks it.
//!
//! Rows come from a fixture, so that these tests run on any machine with Python.
#![cfg(unix)]
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test may end at once

mod fixture;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use agentquery::osquery::client::Client;
use agentquery::osquery::{Access, Server, Source, Stop, extension, manager};
use agentquery::shell::format::{Mode, Writer};
use agentquery::shell::{Backend, Engine, Limits};
use agentquery::tables::Viewer;
use serde_json::Value;

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests")
}

fn text(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn python(arguments: &[&str]) -> Command {
    static PYTHON: OnceLock<String> = OnceLock::new();
    let python = PYTHON.get_or_init(|| text(Command::new(tests().join("python-venv.sh")).output().unwrap()));
    let mut command = Command::new(python.trim());
    command.arg(tests().join("manager.py")).args(arguments);
    command
}

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
fn the_extension_lives_as_osquery_wants_it() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("agentquery.ext");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_agentquery"), &program).unwrap();
    let socket = directory.path().join("osquery.em");
    text(python(&["life", socket.to_str().unwrap(), program.to_str().unwrap()]).output().unwrap());
}

#[test]
fn an_extension_without_a_manager_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("nobody.em");
    let output =
        agentquery().args(["extension", "--timeout", "1", "--socket", socket.to_str().unwrap()]).output().unwrap();
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
