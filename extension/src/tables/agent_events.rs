//! All that agents did, as one stream.

use super::{Declaration, Example, Finished, Info, Source, With, bigint, consumer, max_rows, seconds, text};
use crate::record::Store;
use crate::record::rows::Happened;

pub(super) static TABLE: Declaration<Happened> = Declaration {
    info: Info {
        name: "agent_events",
        description: "One row for each thing that happened, in the order in which it became known: the start and the end of each agent, program and connection, each operation on a file, and gaps, in which nothing was seen. Rows never change.",
        platforms: &["linux"],
        event_based: true,
        examples: &[
            Example {
                question: "What did each agent do in the last ten minutes?",
                sql: "SELECT time, agent, event_type, summary FROM agent_events WHERE time > strftime('%s', 'now') - 600 ORDER BY eid",
            },
            Example {
                question: "Everything that is new since the last time that this was asked, for a SIEM",
                sql: "SELECT * FROM agent_events WHERE consumer = 'siem'",
            },
            Example {
                question: "Which programs failed, and what were they?",
                sql: "SELECT e.time, p.cmdline, e.summary FROM agent_events e JOIN agent_processes p ON p.eid = e.subject_eid WHERE e.event_type = 'process_end' AND p.exit_code > 0",
            },
        ],
    },
    rows: Source::Store(Store::events),
    ended: |row| Some(seconds(row.time_ns())),
    owner: |row| row.uid().into(),
    finished: Some(Finished {
        log: |state| &state.events,
        forget: |state, kept| state.events.forget(kept),
        ends: None,
        with: Some(With { table: "agent_file_ops", sql: FILE_OPS }),
    }),
    running: None,
    fields: &[
        bigint(
            "eid",
            "Nanosecond-based number of the row, given when it was published: it only grows, over restarts too. Of an operation on a file that of its row in agent_file_ops",
            |row| row.eid().into(),
        ),
        bigint("time", "The event's own time, UNIX seconds", |row| seconds(row.time_ns()).into()),
        bigint("time_ns", "The event's own time, UNIX nanoseconds", |row| row.time_ns().into()),
        text(
            "event_type",
            "agent_start, agent_end, process_start, process_exec (a fork runs a program), process_end, connection_start, connection_end, gap (something was not seen), or file_ and an operation of agent_file_ops, such as file_create",
            |row| row.event_type().into(),
        ),
        text("agent", "Agent, by the name of its signature", |row| row.agent().into()),
        bigint("agent_id", "The running instance of the agent; joins with ai_agents", |row| row.agent_id().into()),
        bigint("pid", "Process id, as the host sees it", |row| row.pid().into()),
        bigint("process_eid", "Row of agent_processes that did it", |row| row.process_eid().into()),
        bigint(
            "subject_eid",
            "Row that it is about, the same at its start and its end: of agent_processes (for an agent, that of its first process), agent_connections or agent_file_ops",
            |row| row.subject_eid().into(),
        ),
        text("summary", "What happened, for people", |row| row.summary().into()),
        text(
            "details",
            "What is known of it, as a JSON object whose keys are columns of the subject's table; row numbers are texts in it",
            |row| row.details().into(),
        ),
        consumer(),
        max_rows(),
    ],
};

/// Operations on files as events, in the history's SQL: what `record/events.rs` says of rows in memory.
const FILE_OPS: &str = "SELECT eid, owner, eid_minus_time_ns, 'file_' || operation AS event_type, agent, agent_id, pid, \
    process_eid, 0::BIGINT AS eid_minus_subject_eid, \
    operation || ' ' || path || coalesce(' -> ' || dest_path, '') AS summary, \
    CAST(json_merge_patch('{}', json_object('bytes_read', bytes_read, 'bytes_written', bytes_written, 'category', category, \
    'close_source', close_source, 'container_id', container_id, 'dest_path', dest_path, 'in_project', in_project, \
    'mmap_write', mmap_write, 'mode', mode, 'name', name, 'open_eid', CAST(eid - eid_minus_open_eid AS VARCHAR), 'path', path, \
    'path_source', path_source, 'sensitivity', sensitivity, 'truncated', truncated)) AS VARCHAR) AS details \
    FROM agent_file_ops";
