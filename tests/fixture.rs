//! A store with rows of every table, for tests that have no kernel to record from.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use agentquery::record::rows::{
    AgentRow, CollectorRow, ConnectionRow, FileOpRow, Identity, OpenFileRow, ProcessRow, SignatureRow,
};
use agentquery::record::{Probe, Store};

/// Ids like the real ones: beyond what a double can hold.
pub const EID: i64 = 1_795_000_000_000_000_000;

/// Ids of instances, to which the root's pid is added.
pub const AGENT_ID: i64 = 4_611_686_018_427_000_000;

/// What a hostile file name may hold: it clears a terminal, breaks lines, and breaks formats.
pub const HOSTILE: &str = "/tmp/\u{1b}[2J\"a\",|b\nc\u{202e}";

struct Health;

impl Probe for Health {
    fn collector(&self) -> Vec<CollectorRow> {
        let row = |event: &str, seen| CollectorRow {
            collector: "ebpf".into(),
            mode: "on_demand".into(),
            event: event.into(),
            seen,
            submitted: seen,
            received: seen,
            ..CollectorRow::default()
        };
        vec![row("exec", 10), row("open", 200)]
    }

    fn open_bytes(&self) -> HashMap<u64, (u64, u64)> {
        HashMap::from([(1, (0, 4096))])
    }
}

/// Now, in seconds.
pub fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

#[allow(clippy::too_many_lines)] // a list of rows
/// A store with `file_ops` file operations and a handful of the other rows.
pub fn store(file_ops: i64) -> Arc<Store> {
    let store = Arc::new(Store::default());
    store.set_probe(Arc::new(Health));
    let now = now();
    let ns = |seconds: i64| seconds * 1_000_000_000 + 123_456_789;
    store.update(|state| {
        let agent = |agent: &str, pid, start, end: Option<i64>| AgentRow {
            agent_id: AGENT_ID + pid,
            agent: agent.into(),
            display_name: agent.to_uppercase().into(),
            role: "main".into(),
            pid,
            parent: Some(1),
            process_eid: EID + pid,
            name: agent.into(),
            path: format!("/usr/bin/{agent}").into(),
            cmdline: agent.into(),
            confidence: 100,
            evidence: "path".into(),
            start_time: start,
            end_time: end,
            time_ns: ns(end.unwrap_or(start)),
            ..AgentRow::default()
        };
        state.agents.push(agent("aider", 50, now - 200_000, Some(now - 190_000)));
        state.agents.push(agent("codex", 200, now - 500, Some(now - 400)));
        state.live_agents.insert(EID + 100, agent("claude-code", 100, now - 300_000, None));
        for i in 0..10 {
            let ended = i % 3 != 0;
            let row = ProcessRow {
                eid: EID + 100 + i,
                time_ns: ns(now - 100 + i),
                agent: "claude-code".into(),
                agent_id: AGENT_ID + 100,
                pid: 100 + i % 4,
                parent: (i > 0).then_some(100),
                name: format!("p{i}").into(),
                path: Some(format!("/usr/bin/p{i}").into()),
                cmdline: (i != 5).then(|| format!("p{i} --flag=ü").into()),
                uid: Some(1000),
                start_time: now - 100 + i,
                end_time: ended.then_some(now - 50),
                exit_code: ended.then_some(i % 2),
                state: if ended { "exited" } else { "running" },
                how: "exec",
                ns_pid: Some(i),
                ..ProcessRow::default()
            };
            if ended {
                state.processes.push(row);
            } else {
                state.live_processes.insert(row.eid, row);
            }
            state.connections.push(ConnectionRow {
                eid: EID + 300 + i,
                time_ns: ns(now - 90 + i),
                agent: "claude-code".into(),
                agent_id: AGENT_ID + 100,
                pid: 100,
                process_eid: EID + 100,
                name: "node".into(),
                family: 2,
                protocol: 6,
                transport: "tcp",
                direction: "outbound",
                remote_address: Some(format!("192.0.2.{i}").into()),
                remote_port: Some(443),
                state: "closed",
                start_time: now - 90 + i,
                end_time: Some(now - 80 + i),
                ..ConnectionRow::default()
            });
        }
        for i in 0..file_ops {
            state.file_ops.push(FileOpRow {
                eid: EID + 1000 + i,
                // The first two are older than the window.
                time_ns: ns(if i < 2 { now - 100_000 } else { now - 60 }),
                agent: "claude-code".into(),
                agent_id: AGENT_ID + 100,
                pid: 100 + i % 4,
                process_eid: EID + 100 + i % 10,
                name: "node".into(),
                operation: ["create", "close", "delete"][usize::try_from(i % 3).unwrap()],
                path: if i == 7 { HOSTILE.into() } else { format!("/work/a{i}.rs").into() },
                path_source: "kernel",
                mode: (i % 3 == 0).then(|| "0644".into()),
                in_project: Some(i % 2 == 0),
                uid: Some(1000),
                bytes_written: (i % 3 == 1).then_some(i * 100),
                ..FileOpRow::default()
            });
        }
        let open = OpenFileRow {
            eid: EID + 1003,
            time_ns: ns(now - 60),
            agent: "claude-code".into(),
            agent_id: AGENT_ID + 100,
            pid: 100,
            process_eid: EID + 100,
            name: "node".into(),
            fd: 5,
            operation: "open_write",
            path: "/work/log".into(),
            identity: Identity { id: 1, ..Identity::default() },
            ..OpenFileRow::default()
        };
        state.open_files.insert(open.eid, open);
        state.signatures.push(SignatureRow {
            agent: "codex".into(),
            display_name: "Codex".into(),
            source: "builtin:codex".into(),
            status: "loaded",
            early: true,
            rules: 3,
            ..SignatureRow::default()
        });
    });
    store
}
