//! The packs in `packs/`: what is made from them is up to date, and every query in them does what it is there for: in the
//! embedded engine, and in osquery's SQL over the extension. A query that is added is tested by being there.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

mod format;
mod made;
#[path = "../support/osquery.rs"]
mod osquery;
mod store;
#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentquery::history::History;
use agentquery::osquery::{Source, Stop, extension};
use agentquery::record::Store;
use agentquery::shell::{Backend as _, Engine, Limits, Sink};
use agentquery::tables::constraint::Context;
use agentquery::tables::{SHARED_FOR, Viewer, options};
use agentquery::value::Value;
use format::{Query, packs, queries, root};
use osquery::Core;
use regex::Regex;
use serde_json::{Value as Json, json};

/// Tables that only a recorder fills.
const WITHOUT_ROWS: [&str; 1] = ["agent_open_files"];

/// In which a query answers, with two million rows in the history.
const ANSWER: Duration = Duration::from_millis(100);

#[test]
fn what_is_made_from_the_packs_is_up_to_date() {
    let update = std::env::var_os("UPDATE_DOCS").is_some();
    for (path, text) in made::files() {
        if update {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == text, "{} is stale: ./dev docs", path.display());
    }
    let fleet = std::fs::read_dir(root().join("packs/fleet")).unwrap().count();
    assert_eq!(fleet, packs().len(), "packs/fleet has a file that belongs to no pack");
}

#[test]
fn the_packs_are_whole() {
    let name = Regex::new("^[a-z][a-z_]*$").unwrap();
    let back = Regex::new(r"time > strftime\('%s', 'now'\) - (\d+)").unwrap();
    let old = Regex::new(r"\b(time|time_ns|eid|start_time|end_time)\s*[<>=]").unwrap();
    for (pack, content) in packs() {
        assert!(pack.starts_with("agentquery-") && content.platform == "linux", "{pack}");
        assert!(!content.queries.is_empty() && !content.discovery.is_empty(), "{pack}");
    }
    for (pack, query, content) in queries() {
        let it = format!("{pack}, {query}");
        assert!(name.is_match(&query), "{it}");
        assert_eq!(content.platform, "linux", "{it}");
        assert!((60..=86_400).contains(&content.interval), "{it}: every {} s", content.interval);
        assert!(content.text.ends_with(';') && !content.sql().contains(';'), "{it}: not one statement");
        for text in [&content.description, &content.value] {
            assert!(text.ends_with('.') && text.len() > 20, "{it}: {text}");
        }
        assert!(!content.tables().is_empty(), "{it} reads none of our tables");
        assert!(!content.snapshot || content.removed, "{it}: a snapshot has no removed rows");
        // One run may be late, and another fail.
        let seconds = back.captures(content.sql()).map(|found| found[1].parse::<u32>().unwrap());
        assert!(seconds.is_none_or(|seconds| seconds >= 3 * content.interval), "{it} looks back {seconds:?} s");
        if content.is_of_events() {
            assert!(!content.snapshot && !content.removed, "{it}: events are added, each once");
            assert!(!old.is_match(content.sql()), "{it}: a schedule is given each event once, whatever its time");
        }
    }
}

#[test]
fn fleets_files_have_the_documented_shape() {
    let schema = std::fs::read_to_string(osquery::tests().join("data/fleet-reports.schema.json")).unwrap();
    let schema = jsonschema::draft202012::new(&serde_json::from_str(&schema).unwrap()).unwrap();
    let of = |reports: &Json, name: &str| -> Json {
        let mut reports = reports.as_array().unwrap().iter();
        reports.find(|report| report["name"] == name).unwrap_or_else(|| panic!("no report {name}")).clone()
    };
    let mut names = BTreeSet::new();
    let mut all = 0;
    for (pack, content) in packs() {
        let file = root().join(format!("packs/fleet/{pack}.reports.yml"));
        let reports: Json = serde_saphyr::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let wrong: Vec<_> =
            schema.iter_errors(&reports).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(wrong.is_empty(), "{}: {wrong:?}", file.display());
        for (name, query) in &content.queries {
            let report = of(&reports, &format!("{pack}: {}", name.replace('_', " ")));
            assert_eq!(report["query"], query.sql());
            assert_eq!(report["interval"], query.interval);
            let logging = report["logging"].as_str().unwrap();
            assert_eq!(
                (logging == "snapshot", logging == "differential_ignore_removals"),
                (query.snapshot, !query.removed)
            );
        }
        all += content.queries.len();
        // Fleet knows a report by its name.
        names.extend(reports.as_array().unwrap().iter().map(|report| report["name"].to_string()));
    }
    assert_eq!(names.len(), all);
    for broken in
        [json!([]), json!([{"name": "x"}]), json!([{"name": "x", "query": "q", "team": 1}]), json!({"reports": []})]
    {
        assert!(!schema.is_valid(&broken), "{broken}");
    }
}

#[test]
fn osquerys_sql_calls_tables_as_a_real_core_does() {
    let contexts = osquery::tests().join("data/osquery-contexts.jsonl");
    let mut compare = osquery::script("osquery_sql.py", &["compare", contexts.to_str().unwrap()]);
    let compared: Json = serde_json::from_str(&osquery::text(compare.output().unwrap())).unwrap();
    assert_eq!(compared["other"], json!([]));
    assert!(compared["same"].as_u64() > Some(100), "{}", compared["same"]);
}

/// Takes a query's rows, as osquery writes them: all text, NULL as nothing.
#[derive(Default)]
struct Rows {
    columns: Vec<String>,
    rows: Vec<BTreeMap<String, String>>,
}

impl Sink for Rows {
    fn begin(&mut self, columns: &[String]) -> io::Result<()> {
        self.columns = columns.to_vec();
        Ok(())
    }

    fn row(&mut self, row: &[Value]) -> io::Result<()> {
        let text = |value: &Value| match value {
            Value::Null => String::new(),
            Value::Integer(integer) => integer.to_string(),
            Value::Double(double) => format!("{double:?}"),
            Value::Text(text) => text.to_string(),
        };
        self.rows.push(self.columns.iter().cloned().zip(row.iter().map(text)).collect());
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn embedded(store: &Arc<Store>, sql: &str) -> Rows {
    let mut engine = Engine::new(Arc::clone(store), Viewer::All, Limits::default()).unwrap();
    let mut rows = Rows::default();
    engine.run(sql, &mut rows).unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows
}

/// The extension, in this process, registered with a core that answers SQL.
struct Scene {
    core: Core,
    stop: Stop,
    serving: Option<std::thread::JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new(store: &Arc<Store>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("osquery.em");
        let mut core = Core::with_sql(&socket);
        let (source, stop) = (Source::of(Arc::clone(store)), Stop::default());
        let options = extension::Options { socket, timeout: Duration::from_secs(30), interval: Duration::from_secs(3) };
        let ended = stop.clone();
        let serving = std::thread::spawn(move || extension::run(&options, &source, &ended).unwrap());
        core.tell("back", &json!([20]));
        Self { core, stop, serving: Some(serving), _folder: folder }
    }

    fn ask(&mut self, sql: &str) -> Answer {
        let answer = self.core.try_tell("ask", &json!([sql])).unwrap_or_else(|error| panic!("{sql}: {error}"));
        serde_json::from_value(answer).unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop.request();
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}

/// What the core says to a query.
#[derive(serde::Deserialize)]
struct Answer {
    columns: Vec<String>,
    rows: Vec<BTreeMap<String, String>>,
    calls: Vec<Call>,
    seconds: f64,
}

#[derive(serde::Deserialize)]
struct Call {
    table: String,
    context: String,
}

fn sorted(mut rows: Vec<BTreeMap<String, String>>) -> Vec<BTreeMap<String, String>> {
    rows.sort();
    rows
}

/// Indexed columns that a query compares with something: their constraints must arrive, at one of its tables. A column
/// behind a `+` is kept from it, and IS NULL is none that osquery passes on.
fn compared(query: &Query) -> BTreeSet<&'static str> {
    indexed(query)
        .filter(|name| word(&format!(r"[^+a-z_]{name}\s*(=|<|>|!=|IN\b|LIKE\b|GLOB\b|BETWEEN\b)"), query))
        .collect()
}

/// Those that stand in a function where rows are chosen: nothing of it can arrive.
fn hidden(query: &Query) -> BTreeSet<&'static str> {
    indexed(query).filter(|name| word(&format!(r"WHERE.*[a-z_]\(\s*([a-z]+\.)?{name}\b"), query)).collect()
}

fn indexed(query: &Query) -> impl Iterator<Item = &'static str> {
    let columns = query.tables().into_iter().flat_map(|table| table.columns());
    columns.filter(|column| column.options() & options::INDEX != 0).map(|column| column.name)
}

fn word(expression: &str, query: &Query) -> bool {
    Regex::new(&format!("(?i){expression}")).unwrap().is_match(query.sql())
}

#[test]
fn what_should_arrive_is_told_by_the_sql() {
    let query = |condition: &str| Query {
        text: format!("SELECT pid, count(path) FROM agent_file_ops f WHERE {condition};"),
        interval: 60,
        platform: String::new(),
        version: None,
        description: String::new(),
        value: String::new(),
        snapshot: false,
        removed: false,
    };
    let told = |condition| (compared(&query(condition)), hidden(&query(condition)));
    let (none, both) = (BTreeSet::new(), BTreeSet::from(["operation", "path"]));
    assert_eq!(told("f.operation IN ('delete') AND path GLOB '*'"), (both.clone(), none.clone()));
    assert_eq!(told("lower(operation) = 'x' OR length(f.path) > 3"), (none.clone(), both));
    assert_eq!(told("+path GLOB '*' AND dest_path = 'x' AND name = 'y'"), (none.clone(), none));
}

/// The columns whose constraints the embedded engine hands to its tables.
fn planned(store: &Arc<Store>, query: &Query) -> BTreeSet<&'static str> {
    let plan = embedded(store, &format!("EXPLAIN QUERY PLAN {}", query.sql())).rows;
    let step = Regex::new(r"VIRTUAL TABLE INDEX 0:[0-9a-f]+;(\S*)").unwrap();
    let mut columns = BTreeSet::new();
    for table in query.tables() {
        let known = table.columns();
        let handed = plan.iter().filter_map(|row| Some(step.captures(&row["detail"])?[1].to_owned()));
        for part in handed.flat_map(|steps| steps.split_terminator(',').map(str::to_owned).collect::<Vec<_>>()) {
            columns
                .extend(known.get(part.split(':').next().unwrap().parse::<usize>().unwrap()).map(|column| column.name));
        }
    }
    columns
}

/// The shortest of some tries: others work on this machine too.
fn soon(what: &str, mut time: impl FnMut() -> Duration) -> Duration {
    let (mut least, until) = (Duration::MAX, Instant::now() + Duration::from_secs(30));
    while Instant::now() < until {
        least = least.min(time());
        if least < ANSWER {
            return least;
        }
    }
    panic!("{what}: {least:?} at best");
}

#[test]
fn every_query_answers_at_once_and_the_same_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history.duckdb");
    store::fill(&file);
    let (history, _) = History::open(&file).unwrap();
    let store = store::store(Some(&history));
    let count = |table: &str| {
        let rows = embedded(&store, &format!("SELECT count(*) AS n FROM {table} WHERE time > 0")).rows;
        rows[0]["n"].parse::<i64>().unwrap()
    };
    let all = ["agent_file_ops", "agent_processes", "agent_connections", "ai_agents"].map(count).iter().sum::<i64>();
    assert!(all >= store::ROWS, "{all}");
    let mut scene = Scene::new(&store);
    for (pack, content) in packs() {
        for discovery in &content.discovery {
            assert_eq!(scene.ask(discovery).rows.len(), 1, "{pack}: {discovery}");
        }
    }
    for (pack, name, query) in queries() {
        let it = format!("{pack}, {name}");
        let here = embedded(&store, query.sql());
        let there = scene.ask(query.sql());
        assert_eq!(here.columns, there.columns, "{it}");
        // Counters of the collector run with every look.
        if query.tables().iter().any(|table| table.info().name == "agent_collector") {
            assert_eq!(here.rows.len(), there.rows.len(), "{it}");
        } else {
            assert!(sorted(here.rows) == sorted(there.rows.clone()), "{it}");
        }
        let filled = |table: &str| !embedded(&store, &format!("SELECT 1 FROM {table} LIMIT 1")).rows.is_empty();
        let without: Vec<_> =
            query.tables().iter().map(|table| table.info().name).filter(|name| !filled(name)).collect();
        assert!(without.iter().all(|name| WITHOUT_ROWS.contains(name)), "{it}: the store has no {without:?}");
        assert!(!there.rows.is_empty() || !without.is_empty(), "{it}: a query without rows shows nothing");
        let arrived: BTreeSet<_> = there
            .calls
            .iter()
            .flat_map(|call| Context::parse(&call.context).constraints)
            .map(|constraint| constraint.column)
            .collect();
        let planned = planned(&store, &query);
        for column in compared(&query) {
            assert!(arrived.contains(column), "{it}: the constraint on {column} does not arrive");
            assert!(planned.contains(column), "{it}: the embedded engine keeps the constraint on {column}");
        }
        assert!(hidden(&query).is_empty(), "{it}: {:?} in a function cannot arrive", hidden(&query));
        for table in query.tables() {
            assert!(there.calls.iter().any(|call| call.table == table.info().name), "{it}");
        }
        let shell = soon(&it, || {
            let began = Instant::now();
            embedded(&store, query.sql());
            began.elapsed()
        });
        let core = soon(&it, || {
            // What was read is shared for a moment: it would answer again.
            std::thread::sleep(SHARED_FOR + Duration::from_millis(20));
            Duration::from_secs_f64(scene.ask(query.sql()).seconds)
        });
        println!("{it}: {} rows, shell {shell:?}, osquery {core:?}", there.rows.len());
    }
}

#[test]
fn what_runs_on_makes_no_rows_anew() {
    let store = store::store(None);
    let differential = || queries().into_iter().filter(|(_, _, query)| !query.snapshot && !query.is_of_events());
    let asked = |store: &Arc<Store>| {
        let rows = |(pack, name, query): (String, String, Query)| {
            let rows = embedded(store, query.sql()).rows;
            (format!("{pack}, {name}"), sorted(rows))
        };
        differential().map(rows).collect::<BTreeMap<_, _>>()
    };
    let before = asked(&store);
    let live = embedded(&store, "SELECT processes_total, connections_total FROM ai_agents").rows;
    for step in 1..4 {
        store::go_on(&store, step);
        for (it, rows) in asked(&store) {
            assert!(rows == before[&it], "{it}: rows that are the same are logged again");
        }
    }
    assert_ne!(live, embedded(&store, "SELECT processes_total, connections_total FROM ai_agents").rows, "nothing runs");
    let empty: Vec<_> = before.iter().filter(|(_, rows)| rows.is_empty()).map(|(it, _)| it).collect();
    assert_eq!(empty, ["agentquery-network, unnamed_connections"], "without rows nothing is shown");
}

#[derive(serde::Deserialize)]
struct Others {
    osquery: Tables,
    fleetd: Tables,
    macadmins: Tables,
    columns: BTreeMap<String, String>,
}

#[derive(serde::Deserialize)]
struct Tables {
    source: String,
    tables: String,
}

fn others() -> Others {
    let text = std::fs::read_to_string(osquery::tests().join("data/osquery-tables.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn no_name_is_that_of_anybody_else() {
    let others = others();
    for (who, known) in [("osquery", &others.osquery), ("fleetd", &others.fleetd), ("macadmins", &others.macadmins)] {
        let names: BTreeSet<_> = known.tables.split_whitespace().collect();
        assert!(names.len() > 15 && known.source.starts_with("https://"), "{who}");
        for table in agentquery::tables::all() {
            assert!(
                !names.contains(table.info().name),
                "{who} has a table {}, too ({})",
                table.info().name,
                known.source
            );
        }
    }
    assert!(others.fleetd.tables.contains("ai_tools") && others.osquery.tables.contains("process_open_sockets"));
    // A column must be writable without quotes, and mean one thing.
    let engine = Engine::new(store::store(None), Viewer::All, Limits::default()).unwrap();
    for table in agentquery::tables::all() {
        let (name, columns) = (table.info().name, table.columns());
        let names: BTreeSet<_> = columns.iter().map(|column| column.name).collect();
        assert_eq!(names.len(), columns.len(), "{name} has two columns of one name");
        for column in names {
            assert!(!["rowid", "oid", "_rowid_"].contains(&column), "{name}.{column}");
            engine.columns(&format!("SELECT {column} FROM {name} WHERE {column} = 1")).unwrap();
        }
    }
}

/// What an agent does that each query looks for, and much that is none of it. It waits before its end.
const DEEDS: &str = r#"
read line < ../home/.ssh/id_rsa
rm old.rs
echo x > ../notes.md
echo x >> ../home/.bashrc
echo x > hook
mv hook .git/hooks/pre-commit
echo x > CLAUDE.md
echo x > new.rs
read line < new.rs
mkdir -p target && echo x > target/out.o && rm target/out.o
python3 -c '
import socket
listening = socket.create_server(("0.0.0.0", 0))
local = socket.create_server(("127.0.0.1", 0))
away = socket.socket()
away.setblocking(False)
away.connect_ex(("203.0.113.7", 9))
open("ready", "w").close()
input()
'
"#;

#[test]
fn what_an_agent_does_is_found() {
    if !support::can_record("what_an_agent_does_is_found") {
        return;
    }
    let recorder = support::Recorder::start(&["--syscalls", "always"]);
    // Not where all is temporary.
    let places =
        std::env::var_os("HOME").map(std::path::PathBuf::from).into_iter().chain([root().canonicalize().unwrap()]);
    let lasting = |place: &std::path::PathBuf| {
        !["/tmp", "/var/tmp", "/dev/shm", "/run"].iter().any(|temporary| place.starts_with(temporary))
    };
    let Some(place) = places.into_iter().find(lasting) else {
        return support::skipped(
            "what_an_agent_does_is_found",
            "the home directory and the repository are in temporary ones",
        );
    };
    let home = tempfile::tempdir_in(place).unwrap();
    let project = home.path().join("project");
    for folder in ["project/.git/hooks", "home/.ssh"] {
        std::fs::create_dir_all(home.path().join(folder)).unwrap();
    }
    for file in ["home/.ssh/id_rsa", "project/old.rs"] {
        std::fs::write(home.path().join(file), "x\n").unwrap();
    }
    let agent = support::Agent::new();
    let mut command = std::process::Command::new(agent.shell());
    command.args(["-c", DEEDS, "agent", "--dangerously-skip-permissions"]).current_dir(&project);
    // Its end is that of its input, when this test fails as well.
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    support::wait_until("it has done all", 20, || project.join("ready").exists());
    recorder.wait_for(&format!("SELECT count(*) FROM agent_file_ops f JOIN ai_agents a USING (agent_id) WHERE a.pid = {pid} AND f.path LIKE '%/ready' AND f.operation = 'create'"), "1");
    let id = recorder.value(&format!("SELECT agent_id FROM ai_agents WHERE pid = {pid}")).unwrap();
    // Of other agents on the machine there may be more.
    let found = |name: &str, column: &str| -> BTreeSet<String> {
        let (_, _, query) = queries().into_iter().find(|(_, other, _)| other == name).unwrap();
        let rows = recorder.query(&format!("SELECT {column} AS it FROM ({}) WHERE agent_id = {id}", query.sql()));
        let name = |text: String| text.rsplit('/').next().unwrap().to_owned();
        rows.iter().map(|row| name(row["it"].clone().unwrap_or_default())).collect()
    };
    let files = |name| found(name, "operation || '/' || path");
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(files("secret_files"), set(&["id_rsa"]));
    assert_eq!(files("deleted_files"), set(&["old.rs"]));
    assert_eq!(files("changes_outside_project"), set(&["notes.md", ".bashrc"]));
    assert_eq!(files("persistence"), set(&[".bashrc", "hook"]));
    assert_eq!(files("agent_settings"), set(&["CLAUDE.md"]));
    for query in ["running_agents", "unattended_agents", "privileged_agents"] {
        assert_eq!(found(query, "agent"), set(&["claude-code"]), "{query}");
    }
    assert_eq!(found("unnamed_connections", "remote_address"), set(&["203.0.113.7"]));
    assert_eq!(found("listening", "local_address"), set(&["0.0.0.0"]));
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"\n").unwrap();
    assert!(child.wait().unwrap().success());
    recorder.wait_for(&format!("SELECT processes FROM ai_agents WHERE agent_id = {id}"), "0");
    assert_eq!(found("running_agents", "agent"), set(&[]));
    assert_eq!(found("agents", "event_type"), set(&["agent_start", "agent_end"]));
    assert_eq!(found("connections", "event_type"), set(&["connection_start"]));
    assert!(found("programs", "summary").iter().any(|program| program.contains("hook")), "mv of a hook");
}

/// The queries of docs/osquery.md, in its order.
fn documented() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("docs/osquery.md")).unwrap();
    let blocks = text.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.map(|block| block.trim().trim_end_matches(';').to_owned()).collect()
}

#[test]
fn joins_with_others_tables_are_as_documented() {
    let store = store::store(None);
    let mut scene = Scene::new(&store);
    let columns = others().columns;
    let rows = json!({
        "processes": [{"pid": 100, "name": "claude", "path": "/usr/bin/claude", "parent": 1, "resident_size": 9000, "threads": 3,
            "user_time": 5, "system_time": 2, "on_disk": 1, "uid": 1000},
            {"pid": 7, "name": "init"}],
        "users": [{"uid": 0, "username": "root", "directory": "/root", "shell": "/bin/sh"},
            {"uid": 1000, "username": "dev", "directory": "/home/dev", "shell": "/bin/sh"}],
        "process_open_sockets": [{"pid": 100, "fd": 5, "socket": 4711, "remote_address": "203.0.113.9", "remote_port": 443,
            "local_address": "192.0.2.1", "local_port": 40000, "state": "ESTABLISHED", "protocol": 6, "family": 2}],
        "ai_tools": [{"type": "agents", "name": "Claude Code", "identifier": "claude", "version": "2.1.0", "path": "/usr/bin/claude",
            "running": 1, "pid": 100, "risk_flags": "bypass_permissions", "uid": "1000"},
            {"type": "mcp_server", "name": "files", "source": "claude_code", "running": 1, "pid": 100, "risk_flags": "mcp_fs_write"}],
    });
    for (table, rows) in rows.as_object().unwrap() {
        let declared = columns[table].split(", ").map(|column| column.split_once(' ').unwrap());
        let declared: serde_json::Map<_, _> = declared.map(|(name, kind)| (name.to_owned(), kind.into())).collect();
        scene.core.tell("give", &json!([table, declared, rows]));
    }
    let documented = documented();
    for sql in &documented {
        assert!(!scene.ask(sql).rows.is_empty(), "no rows: {sql}");
    }
    for table in rows.as_object().unwrap().keys() {
        let with = documented
            .iter()
            .any(|sql| sql.contains(&format!("JOIN {table} ")) || sql.contains(&format!("FROM {table} ")));
        assert!(with, "there is no JOIN with {table}");
    }
}
