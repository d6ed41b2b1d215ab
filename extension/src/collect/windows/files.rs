//! Files: from what is asked of the kernel to opens, their ends, and changes of names.
//!
//! An operation is told when it begins, and whether it was done by the end of its request (IRP), which says too whether an open
//! made, emptied or just opened the file. How a file was meant to be used is in no event: so one that was there already is told as
//! what is done with it, read or written, and not at all when it is neither, as it is with most opens on Windows: for
//! attributes, to list a directory, to map a program. A file that is read first and written later is told as written when that comes
//! within a second.

use std::collections::HashMap;

use super::bounded::Bounded;
use super::decode::{FileAct, FileRecord, InfoClass};
use super::paths::Drives;
use crate::collect::watched::{Told, What, Who};
use crate::event::{CallPath, Change, ChangeKind, Close, EventKind, Open, OpenMode};

/// Files that are known to be open; the oldest goes.
const OPEN: usize = 65_536;
/// Requests that have not ended; the oldest goes.
const ASKED: usize = 16_384;
/// What is told of a file that is read waits so long for its being written.
const UNDECIDED_NS: u64 = 1_000_000_000;
/// The end of a change of names comes sooner than that; one whose end was lost is told then, for the event says that it is done.
const LOST_END_NS: u64 = 2_000_000_000;

/// Options and what was asked for (`NtCreateFile`,
/// <https://learn.microsoft.com/en-us/windows/win32/api/winternl/nf-winternl-ntcreatefile>).
const FILE_DIRECTORY_FILE: u32 = 0x1;
const FILE_DELETE_ON_CLOSE: u32 = 0x1000;
const FILE_OPEN_BY_FILE_ID: u32 = 0x2000;
const FILE_SUPERSEDE: u32 = 0;
const FILE_CREATE: u32 = 2;
const FILE_OVERWRITE: u32 = 4;
const FILE_OVERWRITE_IF: u32 = 5;
/// What an open did (`IO_STATUS_BLOCK.Information`).
const FILE_CREATED: u64 = 2;
const FILE_OVERWRITTEN: u64 = 3;
/// `STATUS_REPARSE`: a link; what it leads to is opened by a request of its own.
const STATUS_REPARSE: u32 = 0x104;

/// An open file.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // they have nothing to do with each other
struct File {
    pid: u32,
    /// As a person writes it; none of what has no name that we know, and of what is none.
    path: Option<String>,
    directory: bool,
    delete_on_close: bool,
    /// That it was made, as a directory, was told.
    made: bool,
    /// That it is deleted was told.
    deleted: bool,
    opened_ns: u64,
    /// First read, and not told yet.
    read_ns: Option<u64>,
    told: Option<Opened>,
    bytes_read: u64,
    bytes_written: u64,
    ended: bool,
}

#[derive(Debug, Clone, Copy)]
struct Opened {
    open_id: u64,
    how: OpenMode,
    /// Bytes that an open of the same file told before this one.
    read_before: u64,
}

/// What was asked for.
#[derive(Debug)]
struct Asked {
    pid: u32,
    object: u64,
    boot_ns: u64,
    what: Ask,
}

#[derive(Debug)]
enum Ask {
    Create { options: u32, path: String, new: bool },
    Read,
    Write,
    Change(ChangeKind, Option<String>),
}

/// All that is open, and all that was asked for.
#[derive(Debug)]
pub struct Files {
    open: Bounded<u64, File>,
    asked: Bounded<u64, Asked>,
    next_open: u64,
    /// Renames and links of files whose name is not known, for they were open before.
    pub nameless: u64,
}

impl Default for Files {
    fn default() -> Self {
        Self { open: Bounded::new(OPEN), asked: Bounded::new(ASKED), next_open: 1, nameless: 0 }
    }
}

impl Files {
    /// An event of a process about which more is wanted, or the end of a request of anybody.
    pub fn take(&mut self, record: FileRecord, pid: u32, boot_ns: u64, drives: &Drives, told: &mut Vec<Told>) {
        let FileRecord { irp, object, act } = record;
        let what = match act {
            FileAct::Create { options, path } => Ask::Create { options, path, new: false },
            FileAct::CreateNew => {
                if let Some(Asked { what: Ask::Create { new, .. }, .. }) = self.asked.get_mut(irp) {
                    *new = true;
                } else {
                    // The request had ended already.
                    self.tell_made(object, OpenMode::Create, told);
                }
                return;
            }
            FileAct::Cleanup => return self.cleanup(object, boot_ns, told),
            FileAct::Close => {
                self.cleanup(object, boot_ns, told);
                self.open.remove(object);
                return;
            }
            FileAct::Read { paging } | FileAct::Write { paging } if paging => return,
            FileAct::Read { .. } => Ask::Read,
            FileAct::Write { .. } => Ask::Write,
            FileAct::Set(InfoClass::EndOfFile) => Ask::Change(ChangeKind::Truncate, None),
            FileAct::Set(InfoClass::Other) => return,
            FileAct::SetSecurity => Ask::Change(ChangeKind::Chmod, None),
            FileAct::Delete(path) => Ask::Change(ChangeKind::Delete, Some(path)),
            FileAct::Rename(path) => Ask::Change(ChangeKind::Rename, Some(path)),
            FileAct::Link(path) => Ask::Change(ChangeKind::Link, Some(path)),
            FileAct::End { information, status } => {
                if let Some(asked) = self.asked.remove(irp) {
                    self.end(asked, information, status, boot_ns, drives, told);
                }
                return;
            }
        };
        let of_known = matches!(what, Ask::Create { .. } | Ask::Change(..)) || self.open.get(object).is_some();
        if of_known {
            self.asked.insert(irp, Asked { pid, object, boot_ns, what });
        }
    }

    /// Whether the end of that request is awaited.
    #[must_use]
    pub fn awaits(&self, irp: u64) -> bool {
        self.asked.get(irp).is_some()
    }

    /// Tells what has waited for long enough.
    pub fn tick(&mut self, now_ns: u64, drives: &Drives, told: &mut Vec<Told>) {
        let undecided = |file: &File| file.read_ns.is_some_and(|read| read.saturating_add(UNDECIDED_NS) <= now_ns);
        let due: Vec<u64> = self.open.iter().filter(|(_, file)| undecided(file)).map(|(object, _)| *object).collect();
        for object in due {
            self.tell_open(object, OpenMode::Read, told);
        }
        let is_late = |_: &u64, asked: &Asked| {
            matches!(asked.what, Ask::Change(ChangeKind::Delete | ChangeKind::Rename | ChangeKind::Link, _))
                && asked.boot_ns.saturating_add(LOST_END_NS) <= now_ns
        };
        for (_, asked) in self.asked.take_if(is_late) {
            let boot_ns = asked.boot_ns;
            self.end(asked, 0, 0, boot_ns, drives, told);
        }
    }

    /// A process ended at that time: what it has open still, a child has, or its end was lost. Its pid may be another's by now.
    pub fn process_ended(&mut self, pid: u32, boot_ns: u64, told: &mut Vec<Told>) {
        let is_its = |file: &File| file.pid == pid && file.opened_ns <= boot_ns;
        let its: Vec<u64> = self.open.iter().filter(|(_, file)| is_its(file)).map(|(object, _)| *object).collect();
        for object in its {
            self.end_unseen(object, boot_ns, told);
        }
    }

    /// Of the others no more is wanted, nor will their ends be heard.
    pub fn keep(&mut self, wanted: impl Fn(u32) -> bool) {
        self.open.take_if(|_, file| !wanted(file.pid));
        self.asked.take_if(|_, asked| !wanted(asked.pid));
    }

    /// Bytes (read, written) so far of each open that was told.
    #[must_use]
    pub fn bytes(&self) -> HashMap<u64, (u64, u64)> {
        let bytes = |file: &File| {
            let opened = file.told.filter(|_| !file.ended)?;
            Some((opened.open_id, (file.bytes_read.saturating_sub(opened.read_before), file.bytes_written)))
        };
        self.open.iter().filter_map(|(_, file)| bytes(file)).collect()
    }

    /// How much was forgotten to make room.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.open.evicted + self.asked.evicted
    }

    /// A request ended.
    fn end(
        &mut self,
        asked: Asked,
        information: u64,
        status: u32,
        boot_ns: u64,
        drives: &Drives,
        told: &mut Vec<Told>,
    ) {
        let Asked { pid, object, boot_ns: began_ns, what } = asked;
        let failed = status & 0x8000_0000 != 0;
        match what {
            Ask::Create { options, path, new } => {
                if !failed && status != STATUS_REPARSE {
                    self.opened(pid, object, began_ns, options, &path, new, information, drives, told);
                }
            }
            // What was read at the end of a file was nothing, and is a failure; it was read.
            Ask::Read => {
                let Some(file) = self.open.get_mut(object).filter(|file| !file.ended) else { return };
                file.bytes_read += if failed { 0 } else { information };
                if file.told.is_none() {
                    file.read_ns.get_or_insert(boot_ns);
                }
            }
            Ask::Write => {
                let Some(file) = self.open.get_mut(object).filter(|file| !failed && !file.ended) else { return };
                file.bytes_written += information;
                self.written(object, boot_ns, told);
            }
            Ask::Change(..) if failed => {}
            Ask::Change(kind, path) => self.change(kind, path, pid, object, boot_ns, drives, told),
        }
    }

    #[allow(clippy::too_many_arguments)] // all of it is what one request said
    fn opened(
        &mut self,
        pid: u32,
        object: u64,
        boot_ns: u64,
        options: u32,
        path: &str,
        new: bool,
        information: u64,
        drives: &Drives,
        told: &mut Vec<Told>,
    ) {
        // The kernel uses the place of one that has gone, whose end we did not hear.
        self.end_unseen(object, boot_ns, told);
        let named = options & FILE_OPEN_BY_FILE_ID == 0;
        let file = File {
            pid,
            path: drives.file(path).filter(|_| named),
            directory: options & FILE_DIRECTORY_FILE != 0,
            delete_on_close: options & FILE_DELETE_ON_CLOSE != 0,
            made: false,
            deleted: false,
            opened_ns: boot_ns,
            read_ns: None,
            told: None,
            bytes_read: 0,
            bytes_written: 0,
            ended: false,
        };
        self.open.insert(object, file);
        if let Some(how) = made(options >> 24, information, new) {
            self.tell_made(object, how, told);
        }
    }

    /// The open made or emptied it.
    fn tell_made(&mut self, object: u64, how: OpenMode, told: &mut Vec<Told>) {
        match self.open.get_mut(object) {
            Some(file) if file.directory => {
                // Once: that it is new may be said twice.
                let new = how == OpenMode::Create && !std::mem::replace(&mut file.made, true);
                let made = |path| change(ChangeKind::Mkdir, path, None, file.pid, file.opened_ns);
                told.extend(file.path.clone().filter(|_| new).map(made));
            }
            Some(_) => self.tell_open(object, how, told),
            None => {}
        }
    }

    /// It was written.
    fn written(&mut self, object: u64, boot_ns: u64, told: &mut Vec<Told>) {
        let Some(file) = self.open.get_mut(object) else { return };
        match file.told {
            None => self.tell_open(object, OpenMode::Write, told),
            // What was told as read is written now: one open ends for the tables, and another one begins.
            Some(Opened { open_id, how: OpenMode::Read, read_before }) => {
                let bytes_read = file.bytes_read.saturating_sub(read_before);
                told.push(close(file.pid, boot_ns, open_id, bytes_read, 0, true));
                (file.opened_ns, file.told) = (boot_ns, None);
                self.tell_open(object, OpenMode::Write, told);
                let read_before = self.open.get(object).map_or(0, |file| file.bytes_read);
                if let Some(Opened { read_before: before, .. }) =
                    self.open.get_mut(object).and_then(|file| file.told.as_mut())
                {
                    *before = read_before;
                }
            }
            Some(_) => {}
        }
    }

    /// Tells that it was opened, if it is a file that has a name.
    fn tell_open(&mut self, object: u64, how: OpenMode, told: &mut Vec<Told>) {
        let Some(file) = self.open.get_mut(object) else { return };
        file.read_ns = None;
        let Some(path) = file.path.clone().filter(|_| !file.directory && file.told.is_none()) else { return };
        let open_id = self.next_open;
        self.next_open += 1;
        file.told = Some(Opened { open_id, how, read_before: 0 });
        let open = Open { open_id, how, path, mode: 0, fd: -1, uid: 0, tracked: true, truncated: false };
        told.push(act(file.pid, file.opened_ns, EventKind::Open(open)));
    }

    /// The last handle was closed.
    fn cleanup(&mut self, object: u64, boot_ns: u64, told: &mut Vec<Told>) {
        self.finish(object, boot_ns, true, told);
    }

    fn end_unseen(&mut self, object: u64, boot_ns: u64, told: &mut Vec<Told>) {
        self.finish(object, boot_ns, false, told);
        self.open.remove(object);
    }

    fn finish(&mut self, object: u64, boot_ns: u64, seen: bool, told: &mut Vec<Told>) {
        let Some(file) = self.open.get(object).filter(|file| !file.ended) else { return };
        if file.read_ns.is_some() {
            self.tell_open(object, OpenMode::Read, told);
        }
        let Some(file) = self.open.get_mut(object) else { return };
        file.ended = true;
        if let Some(Opened { open_id, read_before, .. }) = file.told {
            let bytes_read = file.bytes_read.saturating_sub(read_before);
            told.push(close(file.pid, boot_ns, open_id, bytes_read, file.bytes_written, seen));
        }
        if file.delete_on_close && !file.deleted && seen {
            file.deleted = true;
            let kind = if file.directory { ChangeKind::Rmdir } else { ChangeKind::Delete };
            told.extend(file.path.clone().map(|path| change(kind, path, None, file.pid, boot_ns)));
        }
    }

    #[allow(clippy::too_many_arguments)] // all of it is what one request said
    fn change(
        &mut self,
        kind: ChangeKind,
        path: Option<String>,
        pid: u32,
        object: u64,
        boot_ns: u64,
        drives: &Drives,
        told: &mut Vec<Told>,
    ) {
        let path = path.map(|path| drives.file(&path));
        if self.open.get(object).is_some_and(|file| file.read_ns.is_some()) {
            self.tell_open(object, OpenMode::Read, told); // by the name that it had
        }
        let mut file = self.open.get_mut(object);
        match (kind, path) {
            (ChangeKind::Delete, Some(Some(path))) => {
                let directory = file.as_ref().is_some_and(|file| file.directory);
                if file.is_some_and(|file| std::mem::replace(&mut file.deleted, true)) {
                    return; // told already
                }
                let kind = if directory { ChangeKind::Rmdir } else { ChangeKind::Delete };
                told.push(change(kind, path, None, pid, boot_ns));
            }
            (ChangeKind::Rename | ChangeKind::Link, Some(Some(to))) => {
                let Some(name) = file.as_mut().and_then(|file| file.path.as_mut()) else {
                    self.nameless += 1;
                    return;
                };
                let from = if kind == ChangeKind::Rename { std::mem::replace(name, to.clone()) } else { name.clone() };
                told.push(change(kind, from, Some(to), pid, boot_ns));
            }
            (ChangeKind::Truncate | ChangeKind::Chmod, None) => {
                let path = file.and_then(|file| file.path.clone());
                told.extend(path.map(|path| change(kind, path, None, pid, boot_ns)));
            }
            _ => {} // of no file
        }
    }
}

/// What an open did to the file, as far as it is more than to open it.
fn made(asked: u32, information: u64, new: bool) -> Option<OpenMode> {
    match (asked, information) {
        _ if new => Some(OpenMode::Create),
        (FILE_CREATE, _) | (_, FILE_CREATED) => Some(OpenMode::Create),
        (FILE_SUPERSEDE | FILE_OVERWRITE | FILE_OVERWRITE_IF, _) | (_, FILE_OVERWRITTEN) => Some(OpenMode::Truncate),
        _ => None,
    }
}

fn act(pid: u32, boot_ns: u64, kind: EventKind) -> Told {
    Told { boot_ns, process: Who::Pid(pid), what: What::Act(kind) }
}

fn close(pid: u32, boot_ns: u64, open_id: u64, bytes_read: u64, bytes_written: u64, seen: bool) -> Told {
    act(pid, boot_ns, EventKind::Close(Close { open_id, bytes: Some((bytes_read, bytes_written)), seen, mapped: None }))
}

fn change(kind: ChangeKind, path: String, dest: Option<String>, pid: u32, boot_ns: u64) -> Told {
    // The kernel's own name: nothing is to be resolved.
    let whole = |base: String| CallPath { base, name: String::new() };
    let change = Change {
        kind,
        path: whole(path),
        dest: dest.map(whole),
        followed: false,
        exchanged: false,
        mode: None,
        mount_ns: 0,
        rooted: false,
        uid: 0,
        truncated: false,
        request_id: None,
    };
    act(pid, boot_ns, EventKind::Change(change))
}

#[cfg(test)]
mod tests;
