//! File operations of agents.

use super::{
    Declaration, Example, Finished, Info, Source, bigint, consumer, integer, max_rows, seconds, text, unknown,
};
use crate::enrich::files::{Category, Sensitivity};
use crate::record::Store;
use crate::record::rows::FileOpRow;

pub(super) static TABLE: Declaration<FileOpRow> = Declaration {
    info: Info {
        name: "agent_file_ops",
        description: "One row for each operation on a file by an agent's process. Rows never change: the end of an open is a row of its own (close) with the bytes that were read and written.",
        platforms: &["linux"],
        event_based: true,
        examples: &[
            Example {
                question: "Which files did agents change in the last hour?",
                sql: "SELECT DISTINCT agent, path FROM agent_file_ops WHERE operation IN ('create', 'truncate', 'open_write', 'rename') AND time > strftime('%s', 'now') - 3600",
            },
            Example {
                question: "What was deleted, by which command?",
                sql: "SELECT f.time, f.path, p.cmdline FROM agent_file_ops f JOIN agent_processes p ON p.eid = f.process_eid WHERE f.operation = 'delete'",
            },
            Example {
                question: "How much was written to each file?",
                sql: "SELECT path, sum(bytes_written) AS bytes FROM agent_file_ops WHERE operation = 'close' GROUP BY path ORDER BY bytes DESC",
            },
        ],
    },
    rows: Source::Store(Store::file_ops),
    ended: |row| Some(seconds(row.time_ns)),
    owner: |row| row.uid.into(),
    finished: Some(Finished {
        log: |state| &state.file_ops,
        forget: |state, kept| state.file_ops.forget(kept),
        ends: Some(("open_eid", "agent_open_files")),
        with: None,
    }),
    running: None,
    fields: &[
        bigint(
            "eid",
            "Nanosecond-based number of the row, given when it was published: it only grows, over restarts too",
            |row| row.eid.into(),
        ),
        bigint("time", "The event's own time, UNIX seconds", |row| seconds(row.time_ns).into()),
        bigint("time_ns", "The event's own time, UNIX nanoseconds", |row| row.time_ns.into()),
        text("agent", "Agent, by the name of its signature", |row| (&row.agent).into()),
        bigint("agent_id", "The running instance of the agent; joins with ai_agents", |row| row.agent_id.into()),
        bigint("pid", "Process id, as the host sees it", |row| row.pid.into()),
        bigint("process_eid", "Row of agent_processes that did it", |row| row.process_eid.into()),
        text("name", "Name of the process: the file name of its image", |row| (&row.name).into()),
        text(
            "operation",
            "open_read, open_write, create, truncate, close, delete, rename (two rows, one each way, when names change places), link, symlink, mkdir, rmdir, chmod or chown. No close follows what is not open: a special file's create, a truncate by name, or an open whose completion was not asked of io_uring",
            |row| row.operation.into(),
        ),
        text(
            "path",
            "File, seen from the root of the process' mount namespace; where chmod, chown or truncate follow a symlink, its target. Of a file without a name /directory/#inode, of a memfd memfd:name",
            |row| (&row.path).into(),
        ),
        text("dest_path", "New name of a rename, link or symlink", |row| (&row.dest_path).into()),
        text(
            "path_source",
            "kernel, resolved while it could be, or lexical: by its text alone, for it could not be looked at any more",
            |row| row.path_source.into(),
        ),
        text("mode", "Permission bits, octal", |row| (&row.mode).into()),
        text(
            "category",
            "source, config, docs, build, dependency, vcs, lock, data, secret, agent, system, temp or other; by rules that can be added to",
            |row| row.category.map(Category::as_str).into(),
        ),
        text(
            "sensitivity",
            "high, medium or low: how much it would hurt to have it known or lost; of two names the more sensitive one tells",
            |row| row.sensitivity.map(Sensitivity::as_str).into(),
        ),
        integer("in_project", "1 when it is below the agent's project", |row| row.in_project.into()),
        bigint("uid", "User id", |row| row.uid.into()),
        bigint("open_eid", "Row of this table that opened what is closed", |row| row.open_eid.into()),
        bigint(
            "bytes_read",
            "Bytes read, in a close; of a file that was open when recording began, since then",
            |row| row.bytes_read.into(),
        ),
        bigint(
            "bytes_written",
            "Bytes written, in a close; of a file that was open when recording began, since then",
            |row| row.bytes_written.into(),
        ),
        integer(
            "mmap_write",
            "In a close: 1 when it was mapped for shared writing, for bytes written so are not counted; 0 when it was open for writing and not mapped; else NULL",
            |row| row.mmap_write.into(),
        ),
        text(
            "close_source",
            "seen at the close, inferred after it, or unknown: it was open when recording ended, and was not found when it began again, which is the time of the row",
            |row| row.close_source.into(),
        ),
        text("tool_call_id", "Tool call of the agent that led to it", unknown),
        text("container_id", "Container in which it runs", |row| (&row.container_id).into()),
        integer("truncated", "1 when a text of this row was cut off", |row| row.truncated.into()),
        consumer(),
        max_rows(),
    ],
};
