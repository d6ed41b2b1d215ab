//! What the queries are asked: two million rows of ten days, as two busy agents leave them, and what runs now.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use agentquery::history::History;
use agentquery::record::rows::{AgentRow, CollectorRow, ConnectionRow, ProcessRow, SignatureRow};
use agentquery::record::{Probe, Store};

/// Rows of file operations, processes and connections, of which there are about as many to one another in a recorded day.
const FILE_OPS: i64 = 1_900_000;
const PROCESSES: i64 = 60_000;
const CONNECTIONS: i64 = 40_000;
const AGENTS: i64 = 400;
const SPAN: i64 = 10 * 24 * 3600 * SECOND;
const SECOND: i64 = 1_000_000_000;

/// All of them.
pub const ROWS: i64 = FILE_OPS + PROCESSES + CONNECTIONS + AGENTS;

/// Number of the live agent.
const LIVE: i64 = 42;

fn now_ns() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// Makes the file: by the history itself, so that it is as it always is, and filled by the engine, which takes seconds
/// where rows one by one take a minute.
pub fn fill(path: &Path) {
    drop(History::open(path).unwrap());
    let config = duckdb::Config::default().with("storage_compatibility_version", "v1.5.0").unwrap();
    let db = duckdb::Connection::open_with_flags(path, config).unwrap();
    let end = now_ns() - 5 * SECOND;
    // `i` counts rows, `moment` is when it was: the last one five seconds ago.
    let rows = |count: i64| {
        format!(
            "(SELECT i, {end} - ({count} - 1 - i) * {step} AS moment, ['claude-code', 'codex'][i % 2 + 1] AS agent FROM range({count}) t(i))",
            step = SPAN / count
        )
    };
    let sql = format!(
        "INSERT INTO agent_file_ops BY NAME SELECT moment AS eid, 1000 AS eid_minus_time_ns, 1000 AS owner, agent, 1 + i // 5000 AS agent_id,
            4000 + i % 20000 AS pid, moment - 7 AS process_eid, ['node', 'git', 'rg', 'bash', 'rustc'][i % 5 + 1] AS name,
            CASE WHEN i % 200 < 90 THEN 'open_read' WHEN i % 200 < 170 THEN 'close' WHEN i % 200 < 180 THEN 'create'
                 WHEN i % 200 < 190 THEN 'truncate' WHEN i % 200 < 195 THEN 'rename' WHEN i % 200 < 196 THEN 'delete'
                 WHEN i % 200 < 199 THEN 'open_write' ELSE 'chmod' END AS operation,
            '/home/dev/work/shop/src/' || (i // 7 % 3000) || CASE WHEN i % 9000 = 175 THEN '/.git/hooks/pre-commit'
                 WHEN i % 7000 = 185 THEN '/CLAUDE.md' ELSE '/index.ts' END AS path,
            CASE WHEN i % 200 BETWEEN 190 AND 194 THEN '/home/dev/work/shop/new' || i END AS dest_path, 'kernel' AS path_source,
            CASE WHEN i % 7000 = 185 THEN 'agent' WHEN i % 5003 = 0 THEN 'secret'
                 ELSE ['source', 'source', 'source', 'dependency', 'build', 'vcs', 'config', 'temp'][i // 11 % 8 + 1] END AS category,
            CASE WHEN i % 5003 = 0 THEN 'high' WHEN i % 9000 = 175 THEN 'medium' ELSE 'low' END AS sensitivity,
            (i // 13 % 20 <> 0)::BIGINT AS in_project, 1000 AS uid, 0 AS truncated FROM {};
         INSERT INTO agent_processes BY NAME SELECT moment AS eid, 1000 AS eid_minus_time_ns, 1000 AS owner, agent, 1 + i // 160 AS agent_id,
            4000 + i % 20000 AS pid, 'git' AS name, '/usr/bin/git' AS path, 'git status' AS cmdline, 1000 AS uid,
            moment // {SECOND} AS start_time, moment // {SECOND} + 1 AS end_time, 1000 AS duration_ms, 0 AS exit_code, 'exited' AS state,
            'exec' AS how FROM {};
         INSERT INTO agent_connections BY NAME SELECT moment AS eid, 1000 AS eid_minus_time_ns, 1000 AS owner, agent, 1 + i // 100 AS agent_id,
            4000 + i % 20000 AS pid, moment - 7 AS process_eid, 'node' AS name, 2 AS family, 6 AS protocol, 'tcp' AS transport,
            'outbound' AS direction, '198.51.100.' || (i % 50) AS remote_address, 443 AS remote_port,
            CASE WHEN i % 50 >= 5 THEN 'host' || (i % 50) || '.example.com' END AS remote_host,
            CASE WHEN i % 50 >= 5 THEN 'sni' END AS host_source,
            CASE WHEN i % 50 < 5 THEN 'unknown' WHEN i % 50 = 7 THEN 'telemetry' ELSE 'llm_api' END AS endpoint_type,
            CASE WHEN i % 50 >= 5 THEN (i % 50 <> 9)::BIGINT END AS expected, 'closed' AS state, moment // {SECOND} AS start_time,
            moment // {SECOND} + 1 AS end_time, 2000 AS bytes_sent, 9000 AS bytes_received FROM {};
         INSERT INTO ai_agents BY NAME SELECT i + 1000 AS agent_id, 1000 AS owner, agent, upper(agent) AS display_name, 'cli' AS category,
            '1.' || (i % 5) AS version, 'main' AS role, 4000 + i AS pid, CASE WHEN i % 4 = 3 THEN i + 999 END AS parent_agent_id,
            moment - 7 AS process_eid, agent AS name, '/usr/bin/' || agent AS path, agent AS cmdline, '/home/dev/work/shop' AS cwd,
            CASE WHEN i % 10 = 5 THEN 0 ELSE 1000 END AS uid, 1000 AS gid, 'dev' AS username, CASE WHEN i % 3 = 0 THEN 'unattended' END AS permission_mode,
            'exited' AS state, 100 AS confidence, moment // {SECOND} - 60 AS start_time, moment // {SECOND} AS end_time, moment AS time_ns,
            0 AS processes, 12 AS processes_total, 40 AS files_written, 3 AS files_created, 1 AS files_deleted FROM {};
         INSERT INTO agent_events BY NAME SELECT moment + part AS eid, 1000 AS eid_minus_time_ns, 1000 AS owner, event_type, agent,
            1 + i // 160 AS agent_id, 4000 + i AS pid, moment - 7 AS process_eid, part AS eid_minus_subject_eid,
            'git status' AS summary, '{{}}' AS details
            FROM {}, (VALUES (1, 'process_start'), (2, 'process_exec'), (3, 'process_end'), (4, 'connection_start'),
            (5, 'connection_end'), (6, 'agent_start'), (7, 'agent_end'), (8, 'gap')) v(part, event_type)
            WHERE i % 10 = 0 AND (part < 6 OR i % 600 = 0) ORDER BY eid;
         CHECKPOINT",
        rows(FILE_OPS),
        rows(PROCESSES),
        rows(CONNECTIONS),
        rows(AGENTS),
        rows(PROCESSES),
    );
    db.execute_batch(&sql).unwrap();
}

/// The collector's health, in which every look counts more.
#[derive(Default)]
struct Health(AtomicI64);

impl Probe for Health {
    fn collector(&self) -> Vec<CollectorRow> {
        let looks = self.0.fetch_add(1, Ordering::SeqCst);
        let row = |event: &str, lost| CollectorRow {
            collector: "ebpf".into(),
            mode: "ebpf".into(),
            degradation_reason: Some("this kernel is too old for names".into()),
            event: event.into(),
            seen: 1000 + looks,
            submitted: 900 + looks,
            received: 900 + looks,
            ring_full: lost,
            latency_p99_us: Some(900 + looks),
            ..CollectorRow::default()
        };
        vec![row("exec", 0), row("open", 100 + looks)]
    }

    fn open_bytes(&self) -> HashMap<u64, (u64, u64)> {
        HashMap::new()
    }
}

/// A store over that history, in which something runs.
pub fn store(history: Option<&History>) -> Arc<Store> {
    let store = Arc::new(Store::default());
    store.set_probe(Arc::new(Health::default()));
    store.set_history(history.map(History::readers));
    store.update(|state| {
        let signature = |status, message: Option<&str>| SignatureRow {
            agent: "codex".into(),
            source: "builtin:codex".into(),
            status,
            message: message.map(Into::into),
            ..SignatureRow::default()
        };
        state.signatures.push(signature("loaded", None));
        state.signatures.push(signature("refused", Some("others may write to it")));
    });
    go_on(&store, 0);
    store
}

/// What runs has done so much more: its counters run, and what it is stays as it is.
pub fn go_on(store: &Store, steps: i64) {
    let started = now_ns() / SECOND - 100;
    store.update(|state| {
        let before = state.live_agents.values().next().map(|agent| agent.start_time);
        let agent = AgentRow {
            agent_id: LIVE,
            agent: "claude-code".into(),
            display_name: "Claude Code".into(),
            role: "main".into(),
            pid: 100,
            path: "/usr/bin/claude".into(),
            uid: 1000,
            parent_agent_id: Some(LIVE - 1),
            start_time: before.unwrap_or(started),
            start_gap_ms: Some(3),
            time_ns: now_ns(),
            permission_mode: Some("unattended".into()),
            processes: 1 + steps,
            processes_total: 5 + steps,
            connections_total: 7 + steps,
            bytes_sent: Some(1000 + steps),
            files_read: Some(steps),
            ..AgentRow::default()
        };
        let parent = AgentRow { agent_id: LIVE - 1, pid: 90, parent_agent_id: None, uid: 0, ..agent.clone() };
        let start = agent.start_time;
        for (key, row) in [(1, agent), (2, parent)] {
            state.live_agents.insert(key, row);
        }
        let connection = |eid, direction, host: Option<&str>, expected| ConnectionRow {
            eid: LIVE + eid,
            time_ns: start * SECOND,
            agent: "claude-code".into(),
            agent_id: LIVE,
            pid: 100,
            name: "node".into(),
            socket: Some(4711),
            transport: "tcp",
            direction,
            local_address: Some("0.0.0.0".into()),
            local_port: Some(3000),
            remote_address: (direction == "outbound").then(|| "203.0.113.9".into()),
            remote_host: host.map(Into::into),
            host_source: host.map(|_| "sni"),
            expected,
            state: if direction == "listen" { "listening" } else { "established" },
            start_time: start,
            bytes_sent: (direction == "outbound").then_some(100 + steps),
            ..ConnectionRow::default()
        };
        for row in [connection(1, "outbound", Some("evil.example"), Some(false)), connection(2, "listen", None, None)] {
            state.live_connections.insert(row.eid, row);
        }
        let process = ProcessRow {
            eid: LIVE,
            time_ns: start * SECOND,
            agent: "claude-code".into(),
            agent_id: LIVE,
            pid: 100,
            cmdline: Some("claude".into()),
            state: "running",
            how: "exec",
            start_time: start,
            ..ProcessRow::default()
        };
        state.live_processes.insert(process.eid, process);
    });
}
