//! File operations, and the files that are open.

use std::collections::HashMap;

use super::Store;
use super::clock::Clock;
use super::engine::Context;
use super::rows::{FileOpRow, OpenFileRow};
use crate::enrich::noise::is_noise;
use crate::enrich::project;
use crate::enrich::resolve::resolve;
use crate::event::{CallPath, Change, ChangeKind, Close, Open, OpenMode};

/// Opens whose end is awaited.
#[derive(Debug, Default)]
pub(super) struct Files {
    open: HashMap<u64, FileOpRow>,
}

fn octal(mode: u32) -> String {
    format!("{:04o}", mode & 0o7777)
}

impl Files {
    /// A file was opened. False when that is noise.
    pub(super) fn open(&mut self, open: &Open, mut context: Context<'_>) -> bool {
        if open.how == OpenMode::Read && is_noise(&open.path) {
            return false;
        }
        if let Some(instance) = context.instance.as_deref_mut() {
            let row = &mut instance.row;
            match open.how {
                OpenMode::Read => row.files_read += 1,
                OpenMode::Write | OpenMode::Truncate => row.files_written += 1,
                OpenMode::Create => row.files_created += 1,
            }
        }
        let mut row = begin(operation(open.how), &mut context);
        describe(&mut row, open, &context);
        context.store.update(|state| {
            if open.tracked {
                state.open_files.insert(row.eid, (open.open_id, live(&row, open.fd)));
            }
            state.file_ops.push(row.clone());
        });
        if open.tracked {
            self.open.insert(open.open_id, row);
        }
        true
    }

    /// A file that was open before recording began: its opening is no row, its end will be. False when it is noise.
    pub(super) fn adopt(&mut self, open: &Open, mut context: Context<'_>) -> bool {
        if !open.tracked || (open.how == OpenMode::Read && is_noise(&open.path)) {
            return false;
        }
        let mut row = begin(operation(open.how), &mut context);
        describe(&mut row, open, &context);
        context.store.update(|state| state.open_files.insert(row.eid, (open.open_id, live(&row, open.fd))));
        self.open.insert(open.open_id, row);
        true
    }

    /// An open ended. False when the open was noise.
    pub(super) fn close(&mut self, close: &Close, time_ns: i64, clock: &mut Clock, store: &Store) -> bool {
        let Some(opened) = self.open.remove(&close.open_id) else { return false };
        let open_eid = opened.eid;
        let row = FileOpRow {
            eid: clock.next_eid(),
            time_ns,
            operation: "close",
            open_eid: Some(open_eid),
            bytes_read: i64::try_from(close.bytes_read).ok(),
            bytes_written: i64::try_from(close.bytes_written).ok(),
            close_source: Some(if close.seen { "seen" } else { "inferred" }),
            mode: None,
            ..opened
        };
        store.update(|state| {
            state.open_files.remove(&open_eid);
            state.file_ops.push(row);
        });
        true
    }

    /// A name or an open file was changed.
    #[allow(clippy::unused_self)]
    pub(super) fn change(&mut self, change: &Change, mut context: Context<'_>) -> bool {
        let operation = match change.kind {
            ChangeKind::Delete => "delete",
            ChangeKind::Rename => "rename",
            ChangeKind::Link => "link",
            ChangeKind::Symlink => "symlink",
            ChangeKind::Mkdir => "mkdir",
            ChangeKind::Rmdir => "rmdir",
            ChangeKind::Chmod => "chmod",
            ChangeKind::Chown => "chown",
            ChangeKind::Truncate => "truncate",
        };
        if let Some(instance) = context.instance.as_deref_mut() {
            match change.kind {
                ChangeKind::Delete => instance.row.files_deleted += 1,
                ChangeKind::Truncate => instance.row.files_written += 1,
                _ => {}
            }
        }
        let here = change.mount_ns == context.boot.mount_ns;
        let real = |directory: &str| {
            // Below /proc a name means one thing to its process and another to us.
            let here = here && !directory.starts_with("/proc/");
            let real = here.then(|| std::fs::canonicalize(directory).ok()).flatten()?;
            Some(crate::event::escape(real.as_os_str().as_encoded_bytes()))
        };
        let path_of = |path: &CallPath| resolve(path, real);
        let (path, dest_path, source) = match (&change.dest, change.kind) {
            // What a symlink holds is text; its name is what was made.
            (Some(dest), ChangeKind::Symlink) => {
                let (made, source) = path_of(dest);
                (change.path.name.clone(), Some(made), source)
            }
            (dest, _) => {
                let (path, source) = path_of(&change.path);
                (path, dest.as_ref().map(|dest| path_of(dest).0), source)
            }
        };
        let mut row = begin(operation, &mut context);
        let changed = if change.kind == ChangeKind::Symlink { dest_path.as_deref() } else { Some(path.as_str()) };
        row.in_project = changed.and_then(|changed| in_project(changed, &context));
        row.path = path.into();
        row.dest_path = dest_path.map(Into::into);
        row.path_source = source.as_str();
        row.mode = change.mode.map(|mode| octal(mode).into());
        row.uid = Some(change.uid.into());
        row.truncated = change.truncated;
        context.store.update(|state| state.file_ops.push(row));
        true
    }
}

fn operation(how: OpenMode) -> &'static str {
    match how {
        OpenMode::Read => "open_read",
        OpenMode::Write => "open_write",
        OpenMode::Truncate => "truncate",
        OpenMode::Create => "create",
    }
}

fn describe(row: &mut FileOpRow, open: &Open, context: &Context<'_>) {
    row.path = open.path.as_str().into();
    row.path_source = "kernel";
    row.mode = Some(octal(open.mode).into());
    row.uid = Some(open.uid.into());
    row.truncated = open.truncated;
    row.in_project = in_project(&row.path, context);
}

/// The open file that an open leaves.
fn live(row: &FileOpRow, fd: i32) -> OpenFileRow {
    OpenFileRow {
        eid: row.eid,
        time_ns: row.time_ns,
        agent: row.agent.clone(),
        agent_id: row.agent_id,
        pid: row.pid,
        process_eid: row.process_eid,
        name: row.name.clone(),
        fd: fd.into(),
        operation: row.operation,
        path: row.path.clone(),
        bytes_read: None,
        bytes_written: None,
    }
}

/// A row with all that does not depend on the operation.
fn begin(operation: &'static str, context: &mut Context<'_>) -> FileOpRow {
    let mut row = FileOpRow {
        eid: context.clock.next_eid(),
        time_ns: context.time_ns,
        pid: context.process.key.pid.into(),
        process_eid: context.process.eid,
        name: context.process.name.clone(),
        operation,
        ..FileOpRow::default()
    };
    if let Some(instance) = context.instance.as_deref_mut() {
        row.agent = instance.row.agent.clone();
        row.agent_id = instance.row.agent_id;
        row.container_id.clone_from(&instance.container_id);
        instance.changed(context.time_ns);
    }
    row
}

fn in_project(path: &str, context: &Context<'_>) -> Option<bool> {
    context.instance.as_deref().map(|instance| project::contains(&instance.home, path))
}
