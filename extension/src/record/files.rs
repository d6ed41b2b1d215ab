//! File operations, and the files that are open.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::Store;
use super::clock::Clock;
use super::engine::{Context, Instance};
use super::inspect;
use super::rows::{AgentRow, FileOpRow, Identity, OpenFileRow, add};
use crate::enrich::resolve::{Source, resolve};
use crate::enrich::{Meaning, project};
use crate::event::{CallPath, Change, ChangeKind, Close, Open, OpenMode};

/// Opens whose end is awaited.
#[derive(Debug, Default)]
pub(super) struct Files {
    open: HashMap<u64, FileOpRow>,
    /// Those among them that were open before recording began: others may hold them when the agent has ended.
    adopted: HashSet<u64>,
    /// Instances that ended, and since when.
    ended: Vec<(i64, u64)>,
    /// Changes of which it is not known yet whether they were done, by their request.
    asked: HashMap<u64, Asked>,
}

/// A change that was asked for.
#[derive(Debug)]
struct Asked {
    kind: ChangeKind,
    instance: usize,
    rows: Vec<FileOpRow>,
}

/// More than the kernel's side has on the way at once: beyond it are some whose result was lost.
const ASKED: usize = 16_384;

/// Time for the ends of an instance's files to be found after its own.
const LEFT_AFTER_NS: u64 = 3_000_000_000;

fn octal(mode: u32) -> String {
    format!("{:04o}", mode & 0o7777)
}

impl Files {
    /// A file was opened. False when that is noise.
    pub(super) fn open(&mut self, open: &Open, mut context: Context<'_>) -> bool {
        if open.how == OpenMode::Read && context.meaning.files.is_noise(&open.path) {
            return false;
        }
        if let Some(instance) = context.instance.as_deref_mut() {
            count(ChangeKind::Open(open.how), instance);
        }
        let mut row = begin(operation(open.how), &mut context);
        describe(&mut row, open, &context);
        context.store.update(|state| {
            if open.tracked {
                state.open_files.insert(row.eid, live(&row, open));
            }
            state.file_ops.push(row.clone());
        });
        if open.tracked {
            self.open.insert(open.open_id, row);
        }
        true
    }

    /// A file that was open before recording began: its opening is no row, but perhaps one of an earlier recorder; its end
    /// will be. False when it is noise.
    pub(super) fn adopt(&mut self, open: &Open, before: Option<OpenFileRow>, mut context: Context<'_>) -> bool {
        if !open.tracked || (open.how == OpenMode::Read && context.meaning.files.is_noise(&open.path)) {
            return false;
        }
        let mut row = begin(operation(open.how), &mut context);
        describe(&mut row, open, &context);
        if let Some(before) = before {
            let OpenFileRow { eid, time_ns, process_eid, name, operation, .. } = before;
            row = FileOpRow { eid, time_ns, process_eid, name, operation, ..row };
        }
        context.store.update(|state| state.open_files.insert(row.eid, live(&row, open)));
        self.open.insert(open.open_id, row);
        self.adopted.insert(open.open_id);
        true
    }

    /// The row that an earlier recorder had of a file that is open still.
    pub(super) fn know_again(&mut self, row: OpenFileRow, agent: Option<&AgentRow>, meaning: &Meaning, store: &Store) {
        self.open.insert(row.identity.id, opened_before(&row, agent, meaning));
        store.update(|state| state.open_files.insert(row.eid, row));
    }

    /// The last process of an instance ended.
    pub(super) fn instance_ended(&mut self, agent_id: i64, boot_ns: u64) {
        if !self.adopted.is_empty() {
            self.ended.push((agent_id, boot_ns));
        }
    }

    /// Ends what ended instances no longer have open but whoever started them has, such as their output. The bytes that
    /// went through it are not known.
    pub(super) fn end_left(&mut self, boot_ns: u64, clock: &mut Clock, store: &Store) {
        let is_due = |since: &u64| since.saturating_add(LEFT_AFTER_NS) <= boot_ns;
        let due: Vec<i64> = self.ended.extract_if(.., |(_, since)| is_due(since)).map(|(agent, _)| agent).collect();
        if due.is_empty() {
            return;
        }
        let of_due = |open_id: &u64| self.open.get(open_id).is_some_and(|row| due.contains(&row.agent_id));
        let left: Vec<u64> = self.adopted.iter().copied().filter(of_due).collect();
        for open_id in left {
            self.adopted.remove(&open_id);
            if let Some(opened) = self.open.remove(&open_id) {
                end(opened, None, "inferred", clock.unix(boot_ns), clock, store);
            }
        }
    }

    /// An open ended; what went through it was counted, or not. False when the open was noise.
    pub(super) fn close(&mut self, close: &Close, time_ns: i64, clock: &mut Clock, store: &Store) -> bool {
        let Some(opened) = self.open.remove(&close.open_id) else { return false };
        // What was mapped before recording began is not known.
        let adopted = self.adopted.remove(&close.open_id);
        let writable = opened.operation != operation(OpenMode::Read);
        let mmap_write = close.mapped.filter(|mapped| *mapped || (writable && !adopted));
        let source = if close.seen { "seen" } else { "inferred" };
        let opened = FileOpRow { mmap_write, ..opened };
        end(opened, close.bytes, source, time_ns, clock, store);
        true
    }

    /// A name or an open file was changed.
    pub(super) fn change(&mut self, change: &Change, mut context: Context<'_>) -> bool {
        let done = match change.kind {
            ChangeKind::Delete => "delete",
            ChangeKind::Rename => "rename",
            ChangeKind::Link => "link",
            ChangeKind::Symlink => "symlink",
            ChangeKind::Mkdir => "mkdir",
            ChangeKind::Rmdir => "rmdir",
            ChangeKind::Chmod => "chmod",
            ChangeKind::Chown => "chown",
            ChangeKind::Truncate => "truncate",
            ChangeKind::Mknod => "create",
            ChangeKind::Open(how) => operation(how),
        };
        if let Some(instance) = context.instance.as_deref_mut().filter(|_| change.request_id.is_none()) {
            count(change.kind, instance);
        }
        let (process, mounts) = (context.process.key, context.boot.mounts);
        let way = mounts.way(change.mount_ns, process.pid);
        let here = mounts.has(change.mount_ns) && !change.rooted;
        let real = |directory: &str| {
            // Below /proc a name means one thing to its process and another to us.
            let real = match directory {
                _ if directory.starts_with("/proc/") => None,
                _ if here => inspect::real_path(Path::new(directory), way),
                _ => inspect::real_inside(process, change.mount_ns, directory),
            };
            Some(crate::event::escape(real?.as_os_str().as_encoded_bytes()))
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
                let follow = change.followed && !change.path.name.is_empty();
                let (path, source) = match follow.then(|| real(&path)) {
                    Some(Some(target)) if target != path => (target, Source::Resolved),
                    // It may have been a symlink, and is gone.
                    Some(None) => (path, Source::Lexical),
                    _ => (path, source),
                };
                (path, dest.as_ref().map(|dest| path_of(dest).0), source)
            }
        };
        if change.kind == ChangeKind::Open(OpenMode::Read) && context.meaning.files.is_noise(&path) {
            return false;
        }
        let mut row = begin(done, &mut context);
        let changed = if change.kind == ChangeKind::Symlink { dest_path.as_deref() } else { Some(path.as_str()) };
        row.in_project = changed.and_then(|changed| in_project(changed, &context));
        row.path = path.into();
        row.dest_path = dest_path.map(Into::into);
        row.path_source = source.as_str();
        row.mode = change.mode.map(|mode| octal(mode).into());
        row.uid = Some(change.uid.into());
        row.truncated = change.truncated;
        judge(&mut row, context.meaning);
        // The names changed places: each file got a new one.
        let back = row.dest_path.clone().filter(|_| change.exchanged).map(|dest| FileOpRow {
            eid: context.clock.next_eid(),
            in_project: in_project(&dest, &context),
            path: dest,
            dest_path: Some(row.path.clone()),
            ..row.clone()
        });
        let rows: Vec<_> = [row].into_iter().chain(back).collect();
        match change.request_id {
            Some(request_id) => {
                self.make_room();
                self.asked.insert(request_id, Asked { kind: change.kind, instance: context.process.instance, rows });
            }
            None => context.store.update(|state| rows.into_iter().for_each(|row| state.file_ops.push(row))),
        }
        true
    }

    /// A change that was asked for has its result. What was done and by which instance; none when it was not done.
    pub(super) fn result(
        &mut self,
        request_id: u64,
        done: bool,
        time_ns: i64,
        clock: &mut Clock,
        store: &Store,
    ) -> Option<(ChangeKind, usize)> {
        let asked = self.asked.remove(&request_id).filter(|_| done)?;
        store.update(|state| {
            for row in asked.rows {
                state.file_ops.push(FileOpRow { eid: clock.next_eid(), time_ns, ..row });
            }
        });
        Some((asked.kind, asked.instance))
    }

    /// Forgets what waits for a result that was lost.
    fn make_room(&mut self) {
        if self.asked.len() < ASKED {
            return;
        }
        let time_of = |asked: &Asked| asked.rows.first().map_or(0, |row| row.time_ns);
        let oldest = self.asked.iter().min_by_key(|(_, asked)| time_of(asked)).map(|(id, _)| *id);
        oldest.map(|id| self.asked.remove(&id));
    }
}

/// What a change adds to the counts of its instance.
pub(super) fn count(kind: ChangeKind, instance: &mut Instance) {
    match kind {
        ChangeKind::Delete => add(&mut instance.row.files_deleted, 1),
        ChangeKind::Open(OpenMode::Read) => add(&mut instance.row.files_read, 1),
        ChangeKind::Open(OpenMode::Write | OpenMode::Truncate) | ChangeKind::Truncate => {
            add(&mut instance.row.files_written, 1);
        }
        ChangeKind::Open(OpenMode::Create) | ChangeKind::Mknod => add(&mut instance.row.files_created, 1),
        _ => {}
    }
}

/// The row of an open's end.
fn end(
    opened: FileOpRow,
    bytes: Option<(u64, u64)>,
    source: &'static str,
    time_ns: i64,
    clock: &mut Clock,
    store: &Store,
) {
    let open_eid = opened.eid;
    let row = FileOpRow {
        eid: clock.next_eid(),
        time_ns,
        operation: "close",
        open_eid: Some(open_eid),
        bytes_read: bytes.and_then(|(read, _)| i64::try_from(read).ok()),
        bytes_written: bytes.and_then(|(_, written)| i64::try_from(written).ok()),
        close_source: Some(source),
        mode: None,
        ..opened
    };
    store.update(|state| {
        state.open_files.remove(open_eid);
        state.file_ops.push(row);
    });
}

/// The row of an open that an earlier recorder knew, as far as its end has to tell it.
fn opened_before(opened: &OpenFileRow, agent: Option<&AgentRow>, meaning: &Meaning) -> FileOpRow {
    let home = agent.and_then(AgentRow::home);
    let mut row = FileOpRow {
        eid: opened.eid,
        time_ns: opened.time_ns,
        agent: opened.agent.clone(),
        agent_id: opened.agent_id,
        pid: opened.pid,
        process_eid: opened.process_eid,
        name: opened.name.clone(),
        operation: opened.operation,
        path: opened.path.clone(),
        path_source: "kernel",
        in_project: home.map(|home| project::contains(home, &opened.path)),
        uid: opened.uid,
        container_id: agent.and_then(|agent| agent.container_id.clone()),
        ..FileOpRow::default()
    };
    judge(&mut row, meaning);
    row
}

/// The row of the end of an open that an earlier recorder knew and that is not there any more. Whose end and when is not
/// known: `time_ns` is when it was missed.
pub(super) fn end_unknown(
    opened: &OpenFileRow,
    agent: Option<&AgentRow>,
    meaning: &Meaning,
    time_ns: i64,
    clock: &mut Clock,
) -> FileOpRow {
    FileOpRow {
        eid: clock.next_eid(),
        time_ns,
        operation: "close",
        open_eid: Some(opened.eid),
        close_source: Some("unknown"),
        ..opened_before(opened, agent, meaning)
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
    // It has the file's type, where it is known.
    row.mode = (open.mode != 0).then(|| octal(open.mode).into());
    row.uid = Some(open.uid.into());
    row.truncated = open.truncated;
    row.in_project = in_project(&row.path, context);
    judge(row, context.meaning);
}

/// What the file is: of two names the more sensitive one tells.
fn judge(row: &mut FileOpRow, meaning: &Meaning) {
    let is_content = row.operation == "symlink";
    let names = [Some(&row.path).filter(|_| !is_content), row.dest_path.as_ref()];
    let judged = names.into_iter().flatten().map(|name| meaning.files.judge(name, row.in_project == Some(true)));
    let judged = judged.reduce(|first, other| if other.1 > first.1 { other } else { first });
    (row.category, row.sensitivity) = judged.unzip();
}

/// The open file that an open leaves.
fn live(row: &FileOpRow, open: &Open) -> OpenFileRow {
    OpenFileRow {
        eid: row.eid,
        time_ns: row.time_ns,
        agent: row.agent.clone(),
        agent_id: row.agent_id,
        pid: row.pid,
        process_eid: row.process_eid,
        name: row.name.clone(),
        fd: open.fd.into(),
        operation: row.operation,
        path: row.path.clone(),
        bytes_read: None,
        bytes_written: None,
        uid: row.uid,
        identity: Identity { id: open.open_id, ..Identity::default() },
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
