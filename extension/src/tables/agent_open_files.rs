//! Files that agents have open.

use super::{Declaration, Example, Info, Running, Source, bigint, max_rows, seconds, text};
use crate::record::Store;
use crate::record::rows::OpenFileRow;

pub(super) static TABLE: Declaration<OpenFileRow> = Declaration {
    info: Info {
        name: "agent_open_files",
        description: "One row for each file that an agent's process has open now, with the bytes that went through it so far.",
        platforms: &["linux"],
        event_based: false,
        examples: &[Example {
            question: "What do agents have open for writing?",
            sql: "SELECT agent, pid, path, bytes_written FROM agent_open_files WHERE operation != 'open_read'",
        }],
    },
    rows: Source::Store(Store::open_files),
    ended: |_| None,
    owner: |row| row.uid.into(),
    finished: None,
    running: Some(Running { live: |state| &mut state.open_files, identity: |row| row.identity }),
    fields: &[
        bigint(
            "eid",
            "Row of agent_file_ops that opened it; there is none for a file that was open before recording began",
            |row| row.eid.into(),
        ),
        bigint("time", "When it was opened, or found open, UNIX seconds", |row| seconds(row.time_ns).into()),
        bigint("time_ns", "When it was opened, or found open, UNIX nanoseconds", |row| row.time_ns.into()),
        text("agent", "Agent, by the name of its signature", |row| (&row.agent).into()),
        bigint("agent_id", "The running instance of the agent; joins with ai_agents", |row| row.agent_id.into()),
        bigint("pid", "Process id, as the host sees it", |row| row.pid.into()),
        bigint("process_eid", "Row of agent_processes that did it", |row| row.process_eid.into()),
        text("name", "Name of the process: the file name of its image", |row| (&row.name).into()),
        bigint("fd", "Descriptor; -1 for a file that is registered with an io_uring alone", |row| row.fd.into()),
        text("operation", "How it was opened: open_read, open_write, create or truncate", |row| row.operation.into()),
        text("path", "File, seen from the root of the process' mount namespace", |row| (&row.path).into()),
        bigint("bytes_read", "Bytes read so far, since recording began", |row| row.bytes_read.into()),
        bigint("bytes_written", "Bytes written so far, since recording began", |row| row.bytes_written.into()),
        max_rows(),
    ],
};
