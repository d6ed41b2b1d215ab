//! What the processes of agents have open, from look to look: files and sockets that are there and were not, or were and
//! are not.
//!
//! A file that is open counts as one open, whoever has it: descriptors are inherited and duplicated, and whether two are of
//! one open the system says. What a tree has from outside, such as its terminal or a log that its shell opened, is no act of
//! its own and not told.

use std::collections::{HashMap, HashSet};

use super::system::{Handle, OpenFile, Socket, System};
use crate::collect::descent::Member;
use crate::event::{Close, Connection, Event, EventKind, Mark, Open, OpenMode, ProcessKey, Step, Transport};

/// Looks that do not list a socket which a process still has, before it counts as ended: a list is not of one moment.
const MISSES: u8 = 2;

/// An open that is known.
#[derive(Debug, Clone)]
struct Opened {
    file: (u64, u64),
    mark: Mark,
    process: ProcessKey,
    /// No act of the tree's.
    outside: bool,
    /// Who had it at the last look.
    holders: Vec<(u32, i32)>,
}

/// A socket that is known.
#[derive(Debug)]
struct Spoken {
    socket: Socket,
    fd: i32,
    net_ns: u32,
    mark: Mark,
    owner: ProcessKey,
    misses: u8,
}

/// What all trees have open.
#[derive(Debug, Default)]
pub(in crate::collect) struct Trees {
    /// Of files something else tells.
    connections_alone: bool,
    opened: HashMap<u64, Opened>,
    /// The opens of each file.
    of_file: HashMap<(u64, u64), Vec<u64>>,
    next_open: u64,
    /// By their inode.
    spoken: HashMap<u64, Spoken>,
    /// Sockets that a tree has from outside.
    outside: HashSet<u64>,
    /// What each process had at the last look.
    held: HashMap<ProcessKey, HashMap<i32, Held>>,
}

#[derive(Debug, Clone)]
struct Held {
    handle: Handle,
    /// Of a file that counts.
    open_id: Option<u64>,
}

/// What is there at this look.
#[derive(Default)]
struct Now {
    held: HashMap<ProcessKey, HashMap<i32, Held>>,
    opens: HashSet<u64>,
    /// Sockets, with the first who has them.
    sockets: HashMap<u64, (Member, i32)>,
}

impl Trees {
    /// Those that look at connections, and not at files.
    pub(in crate::collect) fn of_connections() -> Self {
        Self { connections_alone: true, ..Self::default() }
    }

    /// Bytes (sent, received) of each connection of which they are known, as they were at the last look.
    pub(in crate::collect) fn bytes(&self) -> HashMap<u64, (u64, u64)> {
        self.spoken.iter().filter_map(|(inode, spoken)| Some((*inode, spoken.socket.bytes?))).collect()
    }

    /// Looks at the processes of trees (the eldest first), and tells what is new and what has ended.
    pub(in crate::collect) fn look(
        &mut self,
        system: &mut impl System,
        members: &[Member],
        now_ns: u64,
        events: &mut Vec<Event>,
    ) {
        if members.is_empty() && self.held.is_empty() && self.spoken.is_empty() && self.opened.is_empty() {
            return;
        }
        let mut now = Now::default();
        for member in members {
            self.look_at(system, member, now_ns, &mut now, events);
        }
        self.end_files(&now, now_ns, events);
        self.look_at_sockets(system, &now, now_ns, events);
        self.outside.retain(|inode| now.sockets.contains_key(inode));
        self.held = now.held;
    }

    fn look_at(
        &mut self,
        system: &mut impl System,
        known: &Member,
        now_ns: u64,
        now: &mut Now,
        events: &mut Vec<Event>,
    ) {
        let pid = known.key.pid;
        let before = self.held.remove(&known.key);
        let Some(handles) = system.handles(pid) else {
            // It ends, or has become another user's: nothing of it is known to have ended.
            for (fd, held) in before.iter().flatten() {
                now.opens.extend(held.open_id);
                if let Handle::Socket(inode) = held.handle {
                    now.sockets.entry(inode).or_insert((*known, *fd));
                }
            }
            now.held.insert(known.key, before.unwrap_or_default());
            return;
        };
        // What whoever started the tree has, too.
        let inherited: HashMap<i32, Handle> = if before.is_none() && !known.below {
            system.handles(known.parent).unwrap_or_default().into_iter().collect()
        } else {
            HashMap::new()
        };
        let mut held = HashMap::new();
        for (fd, handle) in handles {
            let from_outside = inherited.get(&fd) == Some(&handle);
            let was = before.as_ref().and_then(|before| before.get(&fd));
            let open_id = match &handle {
                Handle::Socket(inode) => {
                    if from_outside {
                        self.outside.insert(*inode);
                    }
                    now.sockets.entry(*inode).or_insert((*known, fd));
                    None
                }
                Handle::File(_) if self.connections_alone => None,
                Handle::File(_) => match was.filter(|was| was.handle == handle) {
                    Some(was) => was.open_id,
                    None => self.find_open(system, known, fd, was, from_outside, now_ns, events),
                },
            };
            if let Some(opened) = open_id.and_then(|open_id| self.opened.get_mut(&open_id)) {
                if !opened.holders.contains(&(pid, fd)) {
                    opened.holders.push((pid, fd));
                }
                now.opens.extend(open_id);
            }
            held.insert(fd, Held { handle, open_id });
        }
        now.held.insert(known.key, held);
    }

    /// The open behind a descriptor that is new, or leads elsewhere than before.
    #[allow(clippy::too_many_arguments)] // all of it is about one descriptor
    fn find_open(
        &mut self,
        system: &mut impl System,
        known: &Member,
        fd: i32,
        was: Option<&Held>,
        from_outside: bool,
        now_ns: u64,
        events: &mut Vec<Event>,
    ) -> Option<u64> {
        let pid = known.key.pid;
        let OpenFile { id: file, path, mode, writes } = system.file(pid, fd)?;
        // A file that was renamed or deleted while it is open has another name.
        let renamed = was
            .and_then(|was| was.open_id)
            .filter(|open_id| self.opened.get(open_id).is_some_and(|opened| opened.file == file));
        if renamed.is_some() {
            return renamed;
        }
        let has_it = |open_id: &&u64| {
            let opened = self.opened.get(*open_id);
            let mut holders = opened.into_iter().flat_map(|opened| &opened.holders);
            holders.any(|holder| *holder != (pid, fd) && system.is_same_open(*holder, (pid, fd)))
        };
        if let Some(open_id) = self.of_file.get(&file).into_iter().flatten().find(has_it) {
            return Some(*open_id);
        }
        let open_id = self.next_open;
        self.next_open += 1;
        // Whoever opens the same file by the same descriptor as its parent has not inherited it.
        let outside = from_outside && system.is_same_open((known.parent, fd), (pid, fd));
        if !outside {
            let open = Open {
                open_id,
                how: if writes { OpenMode::Write } else { OpenMode::Read },
                path,
                mode,
                fd,
                uid: known.uid,
                tracked: true,
                truncated: false,
            };
            events.push(event(known.key, known.mark, now_ns, EventKind::Open(open)));
        }
        let (mark, process) = (known.mark, known.key);
        self.of_file.entry(file).or_default().push(open_id);
        self.opened.insert(open_id, Opened { file, mark, process, outside, holders: Vec::new() });
        Some(open_id)
    }

    fn end_files(&mut self, now: &Now, now_ns: u64, events: &mut Vec<Event>) {
        for (open_id, opened) in self.opened.extract_if(|open_id, _| !now.opens.contains(open_id)) {
            if let Some(opens) = self.of_file.get_mut(&opened.file) {
                opens.retain(|other| *other != open_id);
                if opens.is_empty() {
                    self.of_file.remove(&opened.file);
                }
            }
            if opened.outside {
                continue;
            }
            let close = Close { open_id, bytes: None, seen: false, mapped: None };
            events.push(event(opened.process, opened.mark, now_ns, EventKind::Close(close)));
        }
        let of: HashMap<u32, _> = now.held.iter().map(|(key, held)| (key.pid, held)).collect();
        for (open_id, opened) in &mut self.opened {
            opened.holders.retain(|(pid, fd)| {
                let held = of.get(pid).and_then(|held| held.get(fd));
                held.is_some_and(|held| held.open_id == Some(*open_id))
            });
        }
    }

    fn look_at_sockets(&mut self, system: &mut impl System, now: &Now, now_ns: u64, events: &mut Vec<Event>) {
        // Each network namespace once, by a process that is in it.
        let mut spaces: HashMap<u32, Option<HashMap<u64, Socket>>> = HashMap::new();
        let mut of_process: HashMap<u32, Option<u32>> = HashMap::new();
        let mut lists = |pid: u32| -> Option<u32> {
            let net_ns = (*of_process.entry(pid).or_insert_with(|| system.net_ns(pid)))?;
            let list = spaces.entry(net_ns).or_insert_with(|| {
                let sockets = system.sockets(pid)?;
                Some(sockets.into_iter().map(|socket| (socket.inode, socket)).collect())
            });
            list.is_some().then_some(net_ns)
        };
        let mut wanted: Vec<_> = now.sockets.iter().filter(|(inode, _)| !self.outside.contains(inode)).collect();
        wanted.sort_unstable_by_key(|(inode, _)| **inode);
        let with_space: Vec<_> =
            wanted.into_iter().map(|(inode, (known, fd))| (*inode, *known, *fd, lists(known.key.pid))).collect();
        for (inode, known, fd, net_ns) in with_space {
            // A socket may be of another namespace than its process is.
            let there =
                net_ns.and_then(|net_ns| spaces.get(&net_ns)?.as_ref()?.get(&inode).map(|found| (net_ns, found)));
            let there =
                there.or_else(|| spaces.iter().find_map(|(net_ns, list)| Some((*net_ns, list.as_ref()?.get(&inode)?))));
            match (self.spoken.get_mut(&inode), there) {
                (Some(spoken), Some((_, found))) => {
                    spoken.misses = 0;
                    let bytes = found.bytes.or(spoken.socket.bytes);
                    spoken.socket.bytes = bytes;
                    if found.remote == spoken.socket.remote && found.state == spoken.socket.state {
                        continue;
                    }
                    if found.transport == Transport::Tcp && found.remote == spoken.socket.remote {
                        spoken.socket = Socket { bytes, ..found.clone() };
                        events.push(spoken.tell(Step::State(found.state), now_ns));
                    } else {
                        // It has another peer now.
                        events.push(spoken.tell(Step::End, now_ns));
                        spoken.socket = found.clone();
                        events.push(spoken.tell(Step::Found(found.state), now_ns));
                    }
                }
                (Some(spoken), None) => spoken.misses = spoken.misses.saturating_add(u8::from(net_ns.is_some())),
                (None, Some((net_ns, found))) => {
                    let spoken =
                        Spoken { socket: found.clone(), fd, net_ns, mark: known.mark, owner: known.key, misses: 0 };
                    events.push(spoken.tell(Step::Found(found.state), now_ns));
                    self.spoken.insert(inode, spoken);
                }
                (None, None) => {}
            }
        }
        let has_ended = |inode: &u64, spoken: &Spoken| !now.sockets.contains_key(inode) || spoken.misses >= MISSES;
        let ended = self.spoken.extract_if(|inode, spoken| has_ended(inode, spoken));
        events.extend(ended.map(|(_, spoken)| spoken.tell(Step::End, now_ns)));
    }
}

impl Spoken {
    fn tell(&self, step: Step, now_ns: u64) -> Event {
        let Socket { inode, transport, v6, local, remote, path, connected, bytes, .. } = self.socket.clone();
        let connection = Connection {
            socket_id: inode,
            inode,
            fd: self.fd,
            transport,
            v6,
            local,
            remote,
            path,
            connected,
            remote_pid: 0,
            step,
            error: 0,
            bytes,
            net_ns: self.net_ns,
        };
        event(self.owner, self.mark, now_ns, EventKind::Connection(connection))
    }
}

fn event(process: ProcessKey, mark: Mark, boot_ns: u64, kind: EventKind) -> Event {
    Event { boot_ns, process, mark, kind }
}
