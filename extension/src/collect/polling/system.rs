//! What a system must tell a collector that asks again and again.
//!
//! Processes are told by all systems. What has an answer of nothing here is told where the system's module has more.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::event::{Exec, ProcessKey, TcpState, Transport};

/// What can be seen of a process for little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// Which it is.
    pub process: ProcessKey,
    /// Parent's pid.
    pub parent: u32,
    /// It has ended and only waits for its parent to ask.
    pub ended: bool,
    /// Changes with each new program in the process, and is the parent's after a fork; 0 where that is not known.
    pub image: u64,
}

/// What a process runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Program {
    /// This.
    Is(Box<Exec>),
    /// It is just about to become another one: to be asked again.
    Later,
    /// It has ended, has none, or is not for us to look at.
    None,
}

/// What a descriptor leads to, by a text that is another one for another file or socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handle {
    /// A file, by its path as it is now.
    File(String),
    /// A socket, by its inode.
    Socket(u64),
}

/// A file behind a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFile {
    /// Device and inode.
    pub id: (u64, u64),
    /// Its path.
    pub path: String,
    /// `st_mode`.
    pub mode: u32,
    /// It was opened for writing, and perhaps for reading too.
    pub writes: bool,
}

/// A socket of a network namespace, as far as it is one that agents' tables tell of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Its inode.
    pub inode: u64,
    /// What it speaks.
    pub transport: Transport,
    /// True for IPv6.
    pub v6: bool,
    /// Own address.
    pub local: SocketAddr,
    /// The peer.
    pub remote: SocketAddr,
    /// Path of a UNIX socket, or `@` and its abstract name.
    pub path: Option<String>,
    /// In TCP's words, for others too.
    pub state: TcpState,
    /// This end connected.
    pub connected: bool,
    /// Bytes (sent, received) since it began, where that is known.
    pub bytes: Option<(u64, u64)>,
}

/// CPU time of this thread so far.
#[cfg(unix)]
#[must_use]
pub fn thread_cpu_time() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid timespec, and a clock that each thread has.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    Duration::new(now.tv_sec.cast_unsigned(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// A system.
pub trait System {
    /// The processes that there are.
    ///
    /// # Errors
    /// When the system does not tell.
    fn pids(&mut self) -> io::Result<Vec<u32>>;

    /// One of them; `None` when it has ended.
    fn glance(&mut self, pid: u32) -> Option<Glance>;

    /// The program that it runs, with those of these variables that it began with.
    fn program(&mut self, process: ProcessKey, markers: &[String]) -> Program;

    /// What it has open; `None` when that is not known.
    fn handles(&mut self, pid: u32) -> Option<Vec<(i32, Handle)>> {
        let _ = pid;
        None
    }

    /// A file behind a descriptor; `None` when it was closed, or is no file that was opened for reading or writing.
    fn file(&mut self, pid: u32, fd: i32) -> Option<OpenFile> {
        let _ = (pid, fd);
        None
    }

    /// Whether two descriptors are of the same open, as after a fork.
    fn is_same_open(&self, one: (u32, i32), other: (u32, i32)) -> bool {
        let _ = (one, other);
        false
    }

    /// The network namespace that a process is in.
    fn net_ns(&mut self, pid: u32) -> Option<u32> {
        let _ = pid;
        None
    }

    /// The sockets of the network namespace of a process; `None` when they are not told.
    fn sockets(&mut self, pid: u32) -> Option<Vec<Socket>> {
        let _ = pid;
        None
    }

    /// How many processes and threads began since the machine was started.
    fn began(&self) -> Option<u64> {
        None
    }

    /// CPU time of this thread so far.
    fn cpu_time(&self) -> Duration;
}
