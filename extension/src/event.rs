//! What happened, in one vocabulary for every system.
//!
//! Each collector turns its raw records into these types and nothing behind the collector knows which system they
//! came from. Text is UTF-8 here already: bytes that are not are escaped as `\xNN` by [`escape`], so that a hostile
//! file name can be shown, stored and compared like any other.

use std::fmt::Write as _;

/// One process for the whole life of the machine: pids are reused, a pid with its start time is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessKey {
    /// Thread-group id as the host sees it.
    pub pid: u32,
    /// Start of the process, nanoseconds since boot.
    pub start_ns: u64,
}

/// The collector's mark of a process tree: which slot, and in which use of that slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Mark {
    /// Index of the slot.
    pub slot: u32,
    /// How often the slot had been given out when it was given to this tree.
    pub generation: u32,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When, in nanoseconds since boot (`CLOCK_BOOTTIME`).
    pub boot_ns: u64,
    /// Who did it.
    pub process: ProcessKey,
    /// The tree it belongs to.
    pub mark: Mark,
    /// What it was.
    pub kind: EventKind,
}

impl Event {
    /// It tells of what is open, as what was looked at, and of no end.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match &self.kind {
            EventKind::Open(_) => true,
            EventKind::Connection(connection) => matches!(connection.step, Step::Found(_)),
            _ => false,
        }
    }
}

/// What a process did.
#[derive(Debug, Clone, PartialEq)]
pub enum EventKind {
    /// The process started a child by fork, vfork or clone.
    Fork(Fork),
    /// The process replaced its program.
    Exec(Box<Exec>),
    /// The last thread of the process ended; how, where that is known.
    Exit(Option<Exit>),
    /// A file was opened.
    Open(Open),
    /// An opened file came to its end.
    Close(Close),
    /// A file was changed by its name or by its descriptor.
    Change(Change),
    /// Of `io_uring`.
    Request(Request),
    /// Something happened to a socket that the process owns.
    Connection(Connection),
    /// Something that may tell the name of a peer.
    Name(Box<Name>),
}

/// A new process.
#[derive(Debug, Clone, PartialEq)]
pub struct Fork {
    /// The new process.
    pub child: ProcessKey,
    /// Its pid in its own innermost pid namespace.
    pub ns_pid: u32,
}

/// A new program in a process.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Exec {
    /// Parent's pid, as it was at the exec.
    pub parent: u32,
    /// Pid in the innermost pid namespace.
    pub ns_pid: u32,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Controlling terminal, such as `pts/0`; empty when there is none.
    pub tty: String,
    /// Tells one control group from another: its id in the unified hierarchy, where the collector has that.
    pub cgroup_id: u64,
    /// Inode of the mount namespace.
    pub mount_ns: u32,
    /// Path of the image that runs.
    pub path: String,
    /// The name as passed to `execve`; empty where it is not known.
    pub exec_path: String,
    /// Working directory.
    pub cwd: String,
    /// The arguments, the first is the program's own name for itself.
    pub argv: Vec<String>,
    /// Variables of the environment, as `NAME=VALUE`, that agents set for what they start.
    pub markers: Vec<String>,
    /// The kernel saw a literal of a signature in path or arguments.
    pub candidate: bool,
    /// Part of path, arguments or directory was cut off.
    pub truncated: bool,
}

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exit {
    /// Argument of `exit`, when it was not killed.
    pub code: i32,
    /// The signal that killed it, or 0.
    pub signal: i32,
}

/// How a file was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpenMode {
    /// For reading only.
    Read,
    /// An existing file, for writing (and perhaps reading).
    Write,
    /// An existing file, emptied and for writing.
    Truncate,
    /// The file was made by this open.
    Create,
}

/// A file that was opened.
#[derive(Debug, Clone, PartialEq)]
pub struct Open {
    /// Identifies this open until its close.
    pub open_id: u64,
    /// How.
    pub how: OpenMode,
    /// The kernel's path of what was opened.
    pub path: String,
    /// Permission bits and type (`st_mode`).
    pub mode: u32,
    /// Descriptor.
    pub fd: i32,
    /// User who opened.
    pub uid: u32,
    /// A close will come; false when the collector's table of open files is full.
    pub tracked: bool,
    /// The path was cut off.
    pub truncated: bool,
}

/// An open that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Close {
    /// The open that ended.
    pub open_id: u64,
    /// Bytes (from the file to processes, from processes into the file); `None` where they are not known.
    pub bytes: Option<(u64, u64)>,
    /// Seen at `close`; otherwise inferred after the fact.
    pub seen: bool,
    /// It was mapped, shared and for writing: what was written so is in no count. `None` where that is not known.
    pub mapped: Option<bool>,
}

/// What was done to a name or an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum ChangeKind {
    Delete,
    Rename,
    Link,
    Symlink,
    Mkdir,
    Rmdir,
    Chmod,
    Chown,
    Truncate,
    Mknod,
    /// An open of which no more is known than its name: no end of it will be.
    Open(OpenMode),
}

/// A name as a system call was given it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallPath {
    /// The kernel's path of the directory that the name starts from, or, with an empty `name`, of the file itself.
    pub base: String,
    /// The name as passed; absolute names start from the root.
    pub name: String,
}

/// A change by name or by descriptor.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::struct_excessive_bools)] // they have nothing to do with each other
pub struct Change {
    /// What was done.
    pub kind: ChangeKind,
    /// To what.
    pub path: CallPath,
    /// The new name (rename, link, symlink; for a symlink `path` is its content).
    pub dest: Option<CallPath>,
    /// Where `path` is a symlink, it was done to what that points to.
    pub followed: bool,
    /// A rename in which `dest` got the name of `path` as well.
    pub exchanged: bool,
    /// New permission bits of a chmod or mkdir.
    pub mode: Option<u32>,
    /// Mount namespace in which the names hold.
    pub mount_ns: u32,
    /// The root directory of the process is not that of its mount namespace: what links mean differs.
    pub rooted: bool,
    /// User who did it.
    pub uid: u32,
    /// A path was cut off.
    pub truncated: bool,
    /// It was asked of `io_uring`: whether it was done, the [`Request::Result`] of this number will tell.
    pub request_id: Option<u64>,
}

/// What a process does by requests, instead of by system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// It made a ring: requests may follow.
    Ring,
    /// A change that was asked for was done, or was not.
    Result {
        /// Of the change.
        request_id: u64,
        /// Whether it was done.
        done: bool,
    },
}

/// State of a TCP connection, as the kernel numbers them (`include/net/tcp_states.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TcpState {
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Transport {
    Tcp,
    Udp,
    Unix,
}

/// How a UDP flow began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowStart {
    /// By `connect`, and nothing was sent or received yet.
    Connected,
    /// Its first datagram was sent.
    Sent,
    /// Its first datagram was received.
    Received,
}

/// What happened to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `connect` returned.
    Connect,
    /// A TCP socket came into a state.
    State(TcpState),
    /// `accept` returned a socket, which is in that state by now.
    Accept(TcpState),
    /// `listen` returned, or a UDP socket was bound to a port.
    Listen,
    /// A UDP flow began, or had its first datagram.
    Flow(FlowStart),
    /// A UDP flow came to its end.
    FlowEnd,
    /// The last reference to a UDP or UNIX socket went.
    End,
    /// It was there when the collector looked, before recording began or since.
    Found(TcpState),
    /// A TCP connection has ended, but its process still has the socket, and may read what came before. `Close` follows.
    Held,
}

/// A step in the life of a connection, a flow or a listening socket.
#[derive(Debug, Clone, PartialEq)]
pub struct Connection {
    /// Identifies the socket while it lives.
    pub socket_id: u64,
    /// Inode of the socket; 0 when not known at this step.
    pub inode: u64,
    /// Descriptor; -1 when not known at this step.
    pub fd: i32,
    /// What it speaks.
    pub transport: Transport,
    /// True for IPv6.
    pub v6: bool,
    /// Own address; of a UNIX socket nothing.
    pub local: std::net::SocketAddr,
    /// The peer; of a UNIX socket nothing.
    pub remote: std::net::SocketAddr,
    /// Path of a UNIX socket, or `@` and its abstract name.
    pub path: Option<String>,
    /// Of a socket that was found: this end connected.
    pub connected: bool,
    /// Process at the other end of a UNIX socket; 0 when not known.
    pub remote_pid: u32,
    /// What happened.
    pub step: Step,
    /// errno: of the call, or of the socket when the state became `Close`; 0 for none.
    pub error: i32,
    /// Bytes (sent, received) so far, of the time that the collector knows of: of what was found, all of its life. `None`
    /// where they are not known.
    pub bytes: Option<(u64, u64)>,
    /// Inode of the network namespace.
    pub net_ns: u32,
}

/// Nothing, as an address.
pub const NOWHERE: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

impl Connection {
    /// A step of a socket, of an end that connected, of which no more is known than that.
    #[must_use]
    pub fn bare(socket_id: u64, transport: Transport, step: Step) -> Self {
        Self {
            socket_id,
            inode: 0,
            fd: -1,
            transport,
            v6: false,
            local: NOWHERE,
            remote: NOWHERE,
            path: None,
            connected: true,
            remote_pid: 0,
            step,
            error: 0,
            bytes: None,
            net_ns: 0,
        }
    }

    /// The state that it came into, was accepted in or found in.
    #[must_use]
    pub fn state(&self) -> Option<TcpState> {
        match self.step {
            Step::State(state) | Step::Accept(state) | Step::Found(state) => Some(state),
            _ => None,
        }
    }
}

/// What may tell the name of a peer, as it was on the wire or in a program's memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Name {
    /// Inode of the network namespace.
    pub net_ns: u32,
    /// Inode of the process' mount namespace.
    pub mount_ns: u32,
    /// What was heard.
    pub heard: Heard,
}

/// Where a name may be.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// Bytes that a client wrote at the beginning of a connection, which begins a TLS handshake.
    Hello(Piece),
    /// An answer of the DNS.
    Answer(Vec<u8>),
    /// Bytes that came back by a connection to the DNS.
    Answers(Piece),
    /// The C library's `getaddrinfo` returned.
    Lookup {
        /// The name asked for.
        host: String,
        /// The addresses that came back.
        addresses: Vec<std::net::IpAddr>,
    },
}

/// Bytes of a connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// The socket, as in [`Connection`].
    pub socket_id: u64,
    /// Where in the connection they are.
    pub offset: u32,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Text from bytes that may be anything: valid UTF-8 stays, other bytes become `\xNN`.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}
