//! Programs run by agents.

use super::{Declaration, Example, Finished, Info, Running, Source, bigint, integer, max_rows, seconds, text, unknown};
use crate::record::Store;
use crate::record::rows::ProcessRow;

pub(super) static TABLE: Declaration<ProcessRow> = Declaration {
    info: Info {
        name: "agent_processes",
        description: "One row for each program that an agent ran, running or ended. A fork is a row; its first exec turns it into how = exec, each further exec closes the row (replaced) and opens a new one.",
        platforms: &["linux"],
        event_based: false,
        examples: &[
            Example {
                question: "What did agents run in the last hour?",
                sql: "SELECT time, agent, cwd, cmdline FROM agent_processes WHERE how = 'exec' AND time > strftime('%s', 'now') - 3600",
            },
            Example {
                question: "Which of their commands failed?",
                sql: "SELECT agent, cmdline, exit_code FROM agent_processes WHERE exit_code != 0",
            },
            Example {
                question: "Which program started which?",
                sql: "SELECT p.name AS parent, c.name, c.cmdline FROM agent_processes c JOIN agent_processes p ON p.eid = c.parent_eid",
            },
        ],
    },
    rows: Source::Store(Store::processes),
    ended: |row| row.end_time.or_else(|| (row.state == "unknown").then(|| seconds(row.time_ns))),
    owner: |row| row.uid.into(),
    finished: Some(Finished {
        log: |state| &state.processes,
        forget: |state, kept| state.processes.forget(kept),
        ends: Some(("eid", "agent_processes")),
        with: None,
    }),
    running: Some(Running { live: |state| &mut state.live_processes, identity: |row| row.identity }),
    fields: &[
        bigint(
            "eid",
            "Nanosecond-based number of the row, given when it was published: it only grows, over restarts too",
            |row| row.eid.into(),
        ),
        bigint("time", "Start, UNIX seconds", |row| seconds(row.time_ns).into()),
        bigint("time_ns", "Start, UNIX nanoseconds", |row| row.time_ns.into()),
        text("agent", "Agent, by the name of its signature", |row| (&row.agent).into()),
        bigint("agent_id", "The running instance of the agent; joins with ai_agents", |row| row.agent_id.into()),
        bigint("pid", "Process id, as the host sees it", |row| row.pid.into()),
        bigint("parent", "Process that started it", |row| row.parent.into()),
        bigint("parent_eid", "Row of this table that started it", |row| row.parent_eid.into()),
        bigint("depth", "Steps below the agent's root process, which is 0", |row| row.depth.into()),
        text("name", "Name of the process: the file name of its image", |row| (&row.name).into()),
        text("path", "Image that runs", |row| (&row.path).into()),
        text("exec_path", "Name as passed to exec", |row| (&row.exec_path).into()),
        text("cmdline", "Command line, secrets masked", |row| (&row.cmdline).into()),
        text("cwd", "Working directory at the exec", |row| (&row.cwd).into()),
        bigint("uid", "User id", |row| row.uid.into()),
        bigint("gid", "Group id", |row| row.gid.into()),
        text("username", "User name", |row| (&row.username).into()),
        text("tty", "Controlling terminal", |row| (&row.tty).into()),
        bigint("start_time", "Start, UNIX seconds", |row| row.start_time.into()),
        bigint("end_time", "End, UNIX seconds; NULL while it runs, and with state = unknown", |row| {
            row.end_time.into()
        }),
        bigint("duration_ms", "Milliseconds from start to end", |row| row.duration_ms.into()),
        integer(
            "exit_code",
            "Exit code; NULL when it runs, was killed or was replaced, and when its end was found by its absence",
            |row| row.exit_code.into(),
        ),
        integer("signal", "Signal that killed it", |row| row.signal.into()),
        text(
            "state",
            "running, exited, replaced, or unknown: it ran when recording ended, and no more when it began again",
            |row| row.state.into(),
        ),
        text(
            "how",
            "exec, fork, adopted: its beginning was not seen, or marker: it is not below the agent, but has the agent's variables in its environment",
            |row| row.how.into(),
        ),
        text("tool_call_id", "Tool call of the agent that led to it", unknown),
        text("container_id", "Container in which it runs", |row| (&row.container_id).into()),
        bigint("ns_pid", "Process id inside the innermost pid namespace", |row| row.ns_pid.into()),
        integer("truncated", "1 when a text of this row was cut off", |row| row.truncated.into()),
        max_rows(),
    ],
};
