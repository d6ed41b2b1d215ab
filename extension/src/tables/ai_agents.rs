//! Instances of agents.

use super::{
    Declaration, Example, Finished, Info, Owner, Running, Source, bigint, double, integer, max_rows, seconds, text,
    unknown,
};
use crate::record::rows::{AgentRow, Identity};
use crate::record::{State, Store};

pub(super) static TABLE: Declaration<AgentRow> = Declaration {
    info: Info {
        name: "ai_agents",
        description: "One row for each instance of an AI coding agent that ran on this machine, live or ended: who runs it, where, what it started and what it touched.",
        platforms: &["linux"],
        event_based: false,
        examples: &[
            Example {
                question: "Which agents run now, and where?",
                sql: "SELECT agent, version, username, project, processes FROM ai_agents WHERE processes > 0",
            },
            Example {
                question: "Which agents ran in the last seven days?",
                sql: "SELECT agent, username, project, start_time, end_time FROM ai_agents WHERE start_time > strftime('%s', 'now') - 7 * 86400",
            },
            Example {
                question: "Which agents were started by another agent?",
                sql: "SELECT c.agent, p.agent AS started_by, c.cmdline FROM ai_agents c JOIN ai_agents p ON c.parent_agent_id = p.agent_id",
            },
        ],
    },
    rows: Source::Store(Store::agents),
    ended: |row| row.end_time.or_else(|| (row.state.as_deref() == Some("unknown")).then(|| seconds(row.time_ns))),
    owner: |row| Owner::User(row.uid),
    finished: Some(Finished {
        log: |state| &state.agents,
        forget: State::forget_agents,
        ends: Some(("agent_id", "ai_agents")),
        with: None,
    }),
    running: Some(Running { live: |state| &mut state.live_agents, identity: |_| Identity::default() }),
    fields: &[
        bigint(
            "agent_id",
            "Identifies the running instance; made from the boot, the root process and its start",
            |row| row.agent_id.into(),
        ),
        text("agent", "Agent, by the name of its signature", |row| (&row.agent).into()),
        text("display_name", "Name for people", |row| (&row.display_name).into()),
        text("vendor", "Who makes the agent", |row| (&row.vendor).into()),
        text("category", "cli, ide, desktop, editor_extension, daemon or local_llm", |row| (&row.category).into()),
        text("version", "Version of the agent", |row| (&row.version).into()),
        text("role", "main, daemon or helper", |row| (&row.role).into()),
        bigint("pid", "Process id of the root process, as the host sees it", |row| row.pid.into()),
        bigint("parent", "Process that started it", |row| row.parent.into()),
        bigint("parent_agent_id", "Agent below which it runs", |row| row.parent_agent_id.into()),
        bigint("process_eid", "Row of agent_processes of its root process", |row| row.process_eid.into()),
        text("name", "Name of the root process", |row| (&row.name).into()),
        text("path", "Program that the root process runs", |row| (&row.path).into()),
        text("cmdline", "Command line of the root process, secrets masked", |row| (&row.cmdline).into()),
        text("cwd", "Working directory at the start", |row| (&row.cwd).into()),
        text("project", "Root of the repository around the working directory", |row| (&row.project).into()),
        bigint("uid", "User id", |row| row.uid.into()),
        bigint("gid", "Group id", |row| row.gid.into()),
        text("username", "User name", |row| (&row.username).into()),
        text("tty", "Controlling terminal", |row| (&row.tty).into()),
        text("launched_by", "What started it: a terminal, an editor, a service", |row| (&row.launched_by).into()),
        text("container_id", "Container in which it runs", |row| (&row.container_id).into()),
        text("session_id", "Session as the agent itself names it", unknown),
        text("model", "Model that the agent says it uses", unknown),
        text(
            "permission_mode",
            "unattended: it was started with a flag that means that it asks for no approval; NULL when no flag tells",
            |row| (&row.permission_mode).into(),
        ),
        text(
            "state",
            "working, waiting, idle, exited, or unknown: it ran when recording ended, and no more when it began again",
            |row| (&row.state).into(),
        ),
        text("state_reason", "Why it is in that state", unknown),
        text("state_source", "What told the state", unknown),
        bigint("state_since", "When it came into that state, UNIX seconds", unknown),
        bigint("confidence", "How sure the recognition is, in percent", |row| row.confidence.into()),
        text("evidence", "What in the process matched the signature", |row| (&row.evidence).into()),
        bigint("start_time", "Start, UNIX seconds", |row| row.start_time.into()),
        bigint("end_time", "End, UNIX seconds; NULL while it runs, and with state = unknown", |row| {
            row.end_time.into()
        }),
        bigint(
            "start_gap_ms",
            "Milliseconds at the start in which file and network calls were not yet recorded",
            |row| row.start_gap_ms.into(),
        ),
        integer("exit_code", "Exit code of the root process", |row| row.exit_code.into()),
        bigint("time", "Last change of this row, UNIX seconds", |row| seconds(row.time_ns).into()),
        bigint("time_ns", "Last change of this row, UNIX nanoseconds", |row| row.time_ns.into()),
        bigint("processes", "Processes that run now", |row| row.processes.into()),
        bigint("processes_total", "Programs run so far", |row| row.processes_total.into()),
        bigint(
            "connections_total",
            "Connections made and accepted so far, failed ones too; a UDP socket that was connected and sent and received nothing is none",
            |row| row.connections_total.into(),
        ),
        bigint("unexpected_connections", "Connections to hosts that the signature does not expect", |row| {
            row.unexpected_connections.into()
        }),
        bigint("bytes_sent", "Bytes sent over connections, those that are open too", |row| row.bytes_sent.into()),
        bigint("bytes_received", "Bytes received over connections, those that are open too", |row| {
            row.bytes_received.into()
        }),
        bigint("files_read", "Files opened for reading", |row| row.files_read.into()),
        bigint("files_written", "Files opened for writing", |row| row.files_written.into()),
        bigint("files_created", "Files created", |row| row.files_created.into()),
        bigint("files_deleted", "Files deleted", |row| row.files_deleted.into()),
        bigint("input_tokens", "Tokens sent to the model", unknown),
        bigint("output_tokens", "Tokens received from the model", unknown),
        double("cost_usd", "What the tokens cost, in US dollars", unknown),
        bigint("ns_pid", "Process id inside the innermost pid namespace", |row| row.ns_pid.into()),
        max_rows(),
    ],
};
