//! Messages of Endpoint Security, turned into what the recorder takes from any system.
//!
//! Pure, but for what it remembers: which open a close ends ([`Opens`]), and what was just made, for an open that makes its
//! file is told as two messages. Times are those of the wall clock, which messages and the starts of processes share; what
//! turns them into nanoseconds since boot is passed in.

use std::collections::HashMap;
use std::time::Duration;

use super::message::{Destination, Event, Exec, File, Message, Name, Process};
use super::opens::{FileId, Opens};
use super::peers::Peers;
use crate::collect::watched::{Told, What, Who};
use crate::event::{
    self, CallPath, Change, ChangeKind, Close, Connection, EventKind, Exit, Open, OpenMode, ProcessKey, Step,
    Transport, escape,
};

/// Of the kernel (`sys/fcntl.h`): the flags of an open file, which are those of `open(2)` plus one.
const FREAD: i32 = 0x1;
const FWRITE: i32 = 0x2;
/// The kernel takes it from the flags where the file was there (`vn_open_auth`, `bsd/vfs/vfs_vnops.c`).
const O_CREAT: i32 = 0x200;
const O_TRUNC: i32 = 0x400;
/// Of an open that only waits for changes.
const O_EVTONLY: i32 = 0x8000;

/// Of `sys/stat.h`.
const S_IFMT: u32 = 0o17_0000;
const S_IFDIR: u32 = 0o04_0000;
const S_IFREG: u32 = 0o10_0000;
const S_IFLNK: u32 = 0o12_0000;

/// `PF_LOCAL` (`sys/socket.h`).
const PF_LOCAL: i32 = 1;

/// What was made is known to be opened by the same process after this time at most.
const OPENED_AFTER_NS: u64 = 1_000_000_000;
/// Files that were made and are not open yet.
const MADE_MOST: usize = 1_024;

/// A regular file that was made, before it is known by what.
#[derive(Debug)]
struct Made {
    boot_ns: u64,
    uid: u32,
    path: String,
    mode: u32,
    truncated: bool,
}

/// Turns messages into what was told.
pub struct Decoder {
    boot_ns_at: fn(Duration) -> u64,
    /// What a symlink holds, for its message does not tell.
    link: fn(&str) -> Option<String>,
    opens: Opens,
    peers: Peers,
    made: HashMap<(ProcessKey, FileId), Made>,
}

fn id_of(file: &File) -> FileId {
    (file.device, file.inode)
}

/// The path of a name in a directory, which is the kernel's path of it.
fn path_in(Name { directory, name }: &Name) -> Vec<u8> {
    let slash: &[u8] = if directory.path.ends_with(b"/") { b"" } else { b"/" };
    [&directory.path, slash, name].concat()
}

/// Where something goes, and whether that was cut off.
fn path_of(destination: &Destination) -> (String, bool) {
    match destination {
        Destination::Existing(file) => (escape(&file.path), file.truncated),
        Destination::New(name) => (escape(&path_in(name)), name.directory.truncated),
    }
}

fn is(file: &File, file_type: u32) -> bool {
    file.mode & S_IFMT == file_type
}

/// A path that the kernel gave, whole.
fn whole(path: String) -> CallPath {
    CallPath { base: path, name: String::new() }
}

fn change(kind: ChangeKind, path: String, uid: u32, truncated: bool) -> Change {
    Change {
        kind,
        path: whole(path),
        dest: None,
        followed: false,
        exchanged: false,
        mode: None,
        mount_ns: 0,
        rooted: false,
        uid,
        truncated,
        request_id: None,
    }
}

/// How a process ended, by the status of `wait(2)` ([`es_event_exit_t.stat`](
/// https://developer.apple.com/documentation/endpointsecurity/es_event_exit_t/stat); `sys/wait.h`).
fn exit(status: i32) -> Exit {
    match status & 0x7f {
        0 => Exit { code: (status >> 8) & 0xff, signal: 0 },
        signal => Exit { code: 0, signal },
    }
}

/// The path by which a script was executed: the kernel has put it behind the interpreter and its options, and the message
/// has the file alone, which is what a link leads to.
fn script_as_passed(script: &File, argv: &[String]) -> String {
    let real = escape(&script.path);
    let name = |path: &str| path.rsplit('/').next().map(str::to_owned);
    let behind = || argv.iter().take(4).skip(1);
    let same = behind().find(|argument| **argument == real);
    let named = || behind().find(|argument| name(argument) == name(&real));
    let path = || behind().find(|argument| !argument.starts_with('-') && argument.contains('/'));
    same.or_else(named).or_else(path).cloned().unwrap_or(real)
}

/// A program: [`es_event_exec_t`](https://developer.apple.com/documentation/endpointsecurity/es_event_exec_t).
fn exec(exec: &Exec) -> event::Exec {
    let argv: Vec<String> = exec.arguments.iter().map(|argument| escape(argument)).collect();
    let tty = exec.tty.as_deref().unwrap_or_default();
    let cwd = exec.cwd.as_ref();
    let exec_path = match (&exec.script, &exec.passed) {
        (Some(script), _) => script_as_passed(script, &argv),
        (None, Some(passed)) => escape(passed),
        (None, None) => String::new(),
    };
    event::Exec {
        parent: exec.target.parent,
        ns_pid: exec.target.pid,
        uid: exec.target.uid,
        gid: exec.target.gid,
        tty: escape(tty.strip_prefix(b"/dev/").unwrap_or(tty)),
        path: escape(&exec.program.path),
        exec_path,
        cwd: cwd.map(|cwd| escape(&cwd.path)).unwrap_or_default(),
        argv,
        markers: exec.markers.iter().map(|variable| escape(variable)).collect(),
        candidate: true,
        truncated: exec.truncated || exec.program.truncated || cwd.is_some_and(|cwd| cwd.truncated),
        ..event::Exec::default()
    }
}

/// How a file was opened ([`es_event_open_t.fflag`](
/// https://developer.apple.com/documentation/endpointsecurity/es_event_open_t/fflag)); `None` when it was not to read or write.
fn open_mode(flags: i32, made: bool) -> Option<OpenMode> {
    if flags & O_EVTONLY != 0 || flags & (FREAD | FWRITE) == 0 {
        return None;
    }
    Some(match () {
        () if made || flags & O_CREAT != 0 => OpenMode::Create,
        () if flags & O_TRUNC != 0 => OpenMode::Truncate,
        () if flags & FWRITE != 0 => OpenMode::Write,
        () => OpenMode::Read,
    })
}

impl Decoder {
    /// A decoder; `boot_ns_at` turns a time of the wall clock into nanoseconds since boot, `link` says what a symlink holds.
    #[must_use]
    pub fn new(boot_ns_at: fn(Duration) -> u64, link: fn(&str) -> Option<String>) -> Self {
        Self { boot_ns_at, link, opens: Opens::default(), peers: Peers::default(), made: HashMap::new() }
    }

    fn key(&self, process: &Process) -> Option<ProcessKey> {
        Some(ProcessKey { pid: process.pid, start_ns: (self.boot_ns_at)(process.start?) })
    }

    /// One message. False when it cannot be used: it is of a version that does not tell when the process began.
    pub fn decode(&mut self, message: &Message, told: &mut Vec<Told>) -> bool {
        let Some(key) = self.key(&message.process) else { return false };
        let boot_ns = (self.boot_ns_at)(message.time);
        let mut tell = |process, what| told.push(Told { boot_ns, process: Who::Key(process), what });
        let uid = message.process.uid;
        let changed = |kind, path: &File| change(kind, escape(&path.path), uid, path.truncated);
        match &message.event {
            Event::Fork(child) => {
                let Some(child) = self.key(child) else { return false };
                tell(child, What::Begin { parent: key.pid, program: None });
            }
            Event::Exec(program) => {
                let Some(key) = self.key(&program.target) else { return false };
                tell(key, What::Program(Box::new(exec(program))));
            }
            Event::Exit(status) => {
                self.end(key, boot_ns, told);
                told.push(Told { boot_ns, process: Who::Key(key), what: What::End(Some(exit(*status))) });
            }
            Event::Open { flags, file } => self.open(key, boot_ns, uid, *flags, file, told),
            Event::Close { modified, file } => {
                if let Some(open_id) = self.opens.close(key, id_of(file), *modified) {
                    tell(key, What::Act(EventKind::Close(close(open_id, true))));
                }
            }
            Event::Dup(file) => self.opens.dup(key, id_of(file)),
            Event::Create(destination) => self.create(key, boot_ns, uid, destination, told),
            Event::Unlink(target) => {
                let kind = if is(target, S_IFDIR) { ChangeKind::Rmdir } else { ChangeKind::Delete };
                tell(key, What::Act(EventKind::Change(changed(kind, target))));
            }
            Event::Rename { source, destination } => {
                let (path, cut) = path_of(destination);
                let rename = changed(ChangeKind::Rename, source);
                let truncated = rename.truncated || cut;
                tell(key, What::Act(EventKind::Change(Change { dest: Some(whole(path)), truncated, ..rename })));
            }
            Event::Link { source, target } => {
                let link = changed(ChangeKind::Link, source);
                let truncated = link.truncated || target.directory.truncated;
                let dest = Some(whole(escape(&path_in(target))));
                tell(key, What::Act(EventKind::Change(Change { dest, truncated, ..link })));
            }
            Event::Clone { source, target } => {
                // It was read, and the copy was made: there is no operation that is both.
                let copy = escape(&path_in(target));
                self.made.retain(|(process, _), made| *process != key || made.path != copy);
                tell(key, What::Act(EventKind::Change(changed(ChangeKind::Open(OpenMode::Read), source))));
                let made = change(ChangeKind::Mknod, copy, uid, target.directory.truncated);
                tell(key, What::Act(EventKind::Change(made)));
            }
            Event::SetMode { mode, target } => {
                let chmod = changed(ChangeKind::Chmod, target);
                tell(key, What::Act(EventKind::Change(Change { mode: Some(mode & 0o7777), ..chmod })));
            }
            Event::SetOwner(target) => {
                tell(key, What::Act(EventKind::Change(changed(ChangeKind::Chown, target))));
            }
            Event::Truncate(target) => {
                tell(key, What::Act(EventKind::Change(changed(ChangeKind::Truncate, target))));
            }
            Event::UipcConnect { file, domain, .. } => self.connect(key, boot_ns, *domain, file, told),
        }
        true
    }

    /// [`es_event_open_t`](https://developer.apple.com/documentation/endpointsecurity/es_event_open_t). Directories are no rows.
    fn open(&mut self, key: ProcessKey, boot_ns: u64, uid: u32, flags: i32, file: &File, told: &mut Vec<Told>) {
        let made = self.made.remove(&(key, id_of(file))).is_some();
        let Some(how) = open_mode(flags, made).filter(|_| !is(file, S_IFDIR)) else { return };
        let (open_id, tracked) = self.opens.open(key, id_of(file), flags & FWRITE != 0);
        let open = Open {
            open_id,
            how,
            path: escape(&file.path),
            mode: file.mode,
            fd: -1,
            uid,
            tracked,
            truncated: file.truncated,
        };
        told.push(Told { boot_ns, process: Who::Key(key), what: What::Act(EventKind::Open(open)) });
    }

    /// [`es_event_create_t`](https://developer.apple.com/documentation/endpointsecurity/es_event_create_t): told when it is
    /// done, with the new file. A name alone says that another client has refused it.
    fn create(&mut self, key: ProcessKey, boot_ns: u64, uid: u32, destination: &Destination, told: &mut Vec<Told>) {
        let Destination::Existing(file) = destination else { return };
        let path = escape(&file.path);
        let made = Made { boot_ns, uid, path, mode: file.mode, truncated: file.truncated };
        if is(file, S_IFREG) && self.made.len() < MADE_MOST {
            // An open by the same process makes of it one row.
            let before = self.made.insert((key, id_of(file)), made);
            told.extend(before.map(|before| self.made(key, before)));
        } else {
            told.push(self.made(key, made));
        }
    }

    /// Something that was made and not opened.
    fn made(&self, key: ProcessKey, made: Made) -> Told {
        let Made { boot_ns, uid, path, mode, truncated } = made;
        let change = match mode & S_IFMT {
            S_IFDIR => Change { mode: Some(mode & 0o7777), ..change(ChangeKind::Mkdir, path, uid, truncated) },
            S_IFLNK => {
                let content = (self.link)(&path).unwrap_or_default();
                let symlink = change(ChangeKind::Symlink, String::new(), uid, truncated);
                let held = CallPath { base: String::new(), name: content };
                Change { path: held, dest: Some(whole(path)), ..symlink }
            }
            _ => change(ChangeKind::Mknod, path, uid, truncated),
        };
        Told { boot_ns, process: Who::Key(key), what: What::Act(EventKind::Change(change)) }
    }

    /// What was made long enough ago, and no open followed.
    pub fn settle(&mut self, now_ns: u64, told: &mut Vec<Told>) {
        let is_due = |made: &Made| made.boot_ns.saturating_add(OPENED_AFTER_NS) <= now_ns;
        let mut due: Vec<_> = self.made.extract_if(|_, made| is_due(made)).collect();
        due.sort_by_key(|(_, made)| made.boot_ns);
        told.extend(due.into_iter().map(|((key, _), made)| self.made(key, made)));
    }

    /// All that ends with a process, told before its end is.
    fn end(&mut self, key: ProcessKey, boot_ns: u64, told: &mut Vec<Told>) {
        let left: Vec<_> = self.made.extract_if(|(process, _), _| *process == key).collect();
        told.extend(left.into_iter().map(|((key, _), made)| self.made(key, made)));
        let mut tell = |kind| told.push(Told { boot_ns, process: Who::Key(key), what: What::Act(kind) });
        for open_id in self.opens.end(key) {
            tell(EventKind::Close(close(open_id, false)));
        }
        for socket_id in self.peers.end(key) {
            tell(EventKind::Connection(connection(socket_id, None, Step::End)));
        }
    }

    /// [`es_event_uipc_connect_t`](https://developer.apple.com/documentation/endpointsecurity/es_event_uipc_connect_t).
    fn connect(&mut self, key: ProcessKey, boot_ns: u64, domain: i32, file: &File, told: &mut Vec<Told>) {
        if domain != PF_LOCAL {
            return;
        }
        let path = escape(&file.path);
        let Some(socket_id) = self.peers.connect(key, &path, boot_ns) else { return };
        let kind = EventKind::Connection(connection(socket_id, Some(path), Step::Connect));
        told.push(Told { boot_ns, process: Who::Key(key), what: What::Act(kind) });
    }

    /// Who has connections by UNIX sockets whose end is to be looked for.
    #[must_use]
    pub fn connected(&self) -> Vec<ProcessKey> {
        self.peers.processes().collect()
    }

    /// A process was looked at, and has connections to these paths.
    pub fn looked(&mut self, key: ProcessKey, paths: &[String], looked_ns: u64, told: &mut Vec<Told>) {
        for socket_id in self.peers.look(key, paths, looked_ns) {
            let kind = EventKind::Connection(connection(socket_id, None, Step::End));
            told.push(Told { boot_ns: looked_ns, process: Who::Key(key), what: What::Act(kind) });
        }
    }
}

/// Endpoint Security counts no bytes: [`Source::counts`](crate::collect::watched::Source::counts) says so.
fn close(open_id: u64, seen: bool) -> Close {
    Close { open_id, bytes: None, seen, mapped: None }
}

/// Numbers of libproc's sockets are addresses in the kernel; these are below.
fn connection(socket_id: u64, path: Option<String>, step: Step) -> Connection {
    Connection { path, ..Connection::bare(socket_id, Transport::Unix, step) }
}

#[cfg(test)]
mod tests;
