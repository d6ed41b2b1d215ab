//! macOS for the collector that polls, and for the connections of which no event tells: libproc, of which any user may ask
//! for its own processes.
//!
//! Sockets are found by who has them, for there is no list of them that says so. What is written is read by [`records`].

use std::collections::{HashMap, HashSet};
use std::ffi::c_void;
use std::io;
use std::time::Duration;

use super::records::{
    Descriptor, FD_SIZE, FILE_SIZE, FileRecord, SOCKET_SIZE, descriptors, file, mark_inbound, socket, socket_id,
    terminal,
};
use crate::collect::polling::system::{Glance, Handle, OpenFile, Program, Socket, System, thread_cpu_time};
use crate::collect::sysinfo;
use crate::event::{ProcessKey, TcpState, Transport};
use crate::hash::fnv1a;

/// `PROC_PIDFDVNODEPATHINFO` and `PROC_PIDFDSOCKETINFO` (`sys/proc_info.h`).
const FILE_INFO: libc::c_int = 2;
const SOCKET_INFO: libc::c_int = 3;
/// `SZOMB` (`sys/proc.h`).
const ZOMBIE: u32 = 5;
/// More descriptors than that are not listed.
const DESCRIPTORS_MOST: usize = 1 << 16;

fn int(number: impl TryInto<libc::c_int>) -> libc::c_int {
    number.try_into().unwrap_or(libc::c_int::MAX)
}

/// What `proc_pidinfo` says of a process.
fn info(pid: u32) -> Option<libc::proc_bsdinfo> {
    let size = size_of::<libc::proc_bsdinfo>();
    let mut info = std::mem::MaybeUninit::<libc::proc_bsdinfo>::zeroed();
    let place = info.as_mut_ptr().cast::<c_void>();
    // SAFETY: there is room for as many bytes as are said, and the call writes no more.
    let written = unsafe { libc::proc_pidinfo(int(pid), libc::PROC_PIDTBSDINFO, 0, place, int(size)) };
    // SAFETY: a structure of integers and bytes, which were zeroes before they were written.
    (usize::try_from(written) == Ok(size)).then(|| unsafe { info.assume_init() })
}

fn start_of(info: &libc::proc_bsdinfo) -> Duration {
    Duration::from_secs(info.pbi_start_tvsec) + Duration::from_micros(info.pbi_start_tvusec)
}

/// When a process began, since 1970, to the microsecond.
#[must_use]
pub fn start(pid: u32) -> Option<Duration> {
    info(pid).as_ref().map(start_of)
}

/// Tells this start of the machine from others: `kern.bootsessionuuid`, which does not change when the clock is set.
#[must_use]
pub fn boot_session() -> Option<String> {
    let mut uuid = [0_u8; 37];
    let mut size = uuid.len();
    let place = uuid.as_mut_ptr().cast::<c_void>();
    // SAFETY: a name that ends in a zero, and room for as many bytes as are said.
    let error =
        unsafe { libc::sysctlbyname(c"kern.bootsessionuuid".as_ptr(), place, &raw mut size, std::ptr::null_mut(), 0) };
    let text = uuid.get(..size).filter(|_| error == 0)?;
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    String::from_utf8(text.to_vec()).ok().filter(|text| !text.is_empty())
}

/// Bytes of the path of the program that runs; none when it is not told.
fn path_of(pid: u32) -> Vec<u8> {
    let mut path = vec![0_u8; usize::try_from(libc::PROC_PIDPATHINFO_MAXSIZE).unwrap_or(4096)];
    let room = u32::try_from(path.len()).unwrap_or(0);
    // SAFETY: there is room for as many bytes as are said, and the call writes no more.
    let written = unsafe { libc::proc_pidpath(int(pid), path.as_mut_ptr().cast::<c_void>(), room) };
    path.truncate(usize::try_from(written).unwrap_or(0));
    path
}

fn fds(pid: u32) -> Option<Vec<Descriptor>> {
    let mut wanted = 64;
    loop {
        let mut bytes = vec![0_u8; wanted * FD_SIZE];
        let place = bytes.as_mut_ptr().cast::<c_void>();
        // SAFETY: there is room for as many bytes as are said, and the call writes no more.
        let written = unsafe { libc::proc_pidinfo(int(pid), libc::PROC_PIDLISTFDS, 0, place, int(bytes.len())) };
        let written = usize::try_from(written).ok().filter(|written| *written > 0)?;
        if written < bytes.len() || wanted >= DESCRIPTORS_MOST {
            bytes.truncate(written);
            return Some(descriptors(&bytes));
        }
        wanted *= 4;
    }
}

/// A record of a descriptor, of a structure of that size.
fn fd_info(pid: u32, fd: i32, what: libc::c_int, size: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0_u8; size];
    let place = bytes.as_mut_ptr().cast::<c_void>();
    // SAFETY: there is room for as many bytes as are said, and the call writes no more.
    let written = unsafe { libc::proc_pidfdinfo(int(pid), fd, what, place, int(size)) };
    (usize::try_from(written) == Ok(size)).then_some(bytes)
}

fn file_at(pid: u32, fd: i32) -> Option<FileRecord> {
    file(&fd_info(pid, fd, FILE_INFO, FILE_SIZE)?)
}

fn sockets_of(pid: u32) -> Option<Vec<Socket>> {
    let record = |descriptor| match descriptor {
        Descriptor::Socket(fd) => socket(&fd_info(pid, fd, SOCKET_INFO, SOCKET_SIZE)?),
        Descriptor::File(_) => None,
    };
    Some(fds(pid)?.into_iter().filter_map(record).collect())
}

/// The TCP ports that a process listens on.
#[must_use]
pub fn listening_ports(pid: u32) -> HashSet<u16> {
    let listens = |socket: &Socket| socket.transport == Transport::Tcp && socket.state == TcpState::Listen;
    let sockets = sockets_of(pid).unwrap_or_default();
    sockets.iter().filter(|socket| listens(socket)).map(|socket| socket.local.port()).collect()
}

/// The paths of UNIX sockets that a process has connected to.
#[must_use]
pub fn unix_peers(pid: u32) -> Option<Vec<String>> {
    let is_peer = |socket: &Socket| socket.transport == Transport::Unix && socket.connected;
    Some(sockets_of(pid)?.into_iter().filter(is_peer).filter_map(|socket| socket.path).collect())
}

/// One process.
#[must_use]
pub fn glance(pid: u32) -> Option<Glance> {
    let info = info(pid)?;
    let path = path_of(pid);
    Some(Glance {
        process: ProcessKey { pid, start_ns: sysinfo::boot_ns_at(start_of(&info)) },
        parent: info.pbi_ppid,
        ended: info.pbi_status == ZOMBIE,
        image: if path.is_empty() { 0 } else { fnv1a(path) },
    })
}

/// libproc of this machine.
#[derive(Default)]
pub struct Look {
    /// Events tell of connections to UNIX sockets.
    hears_peers: bool,
    /// The sockets of the processes that were asked for what they have open since sockets were asked for.
    sockets: HashMap<u32, Vec<Socket>>,
}

impl Look {
    /// For a collector to which events tell of connections to UNIX sockets.
    #[must_use]
    pub fn beside_events() -> Self {
        Self { hears_peers: true, ..Self::default() }
    }
}

impl System for Look {
    fn pids(&mut self) -> io::Result<Vec<u32>> {
        // SAFETY: without a buffer it says how many there are.
        let there = unsafe { libc::proc_listallpids(std::ptr::null_mut(), 0) };
        let there = usize::try_from(there).ok().filter(|there| *there > 0).ok_or_else(io::Error::last_os_error)?;
        let mut pids: Vec<libc::pid_t> = vec![0; there + 256]; // some more may have begun
        let bytes = int(std::mem::size_of_val(pids.as_slice()));
        // SAFETY: there is room for as many bytes as are said, and the call writes no more.
        let written = unsafe { libc::proc_listallpids(pids.as_mut_ptr().cast::<c_void>(), bytes) };
        let written = usize::try_from(written).ok().filter(|there| *there > 0).ok_or_else(io::Error::last_os_error)?;
        pids.truncate(written);
        // The kernel itself is 0.
        Ok(pids.into_iter().filter(|pid| *pid > 0).filter_map(|pid| u32::try_from(pid).ok()).collect())
    }

    fn glance(&mut self, pid: u32) -> Option<Glance> {
        glance(pid)
    }

    fn program(&mut self, process: ProcessKey, markers: &[String]) -> Program {
        let Some(mut exec) = sysinfo::exec(process, markers) else { return Program::None };
        exec.tty = info(process.pid).map(|info| terminal(info.e_tdev)).unwrap_or_default();
        Program::Is(Box::new(exec))
    }

    fn handles(&mut self, pid: u32) -> Option<Vec<(i32, Handle)>> {
        let mut sockets = Vec::new();
        let handles = fds(pid)?.into_iter().filter_map(|descriptor| match descriptor {
            Descriptor::File(fd) => Some((fd, Handle::File(file_at(pid, fd)?.file.path))),
            Descriptor::Socket(fd) => {
                let bytes = fd_info(pid, fd, SOCKET_INFO, SOCKET_SIZE)?;
                sockets.extend(socket(&bytes));
                Some((fd, Handle::Socket(socket_id(&bytes)?)))
            }
        });
        let handles = handles.collect();
        if self.hears_peers {
            sockets.retain(|socket| socket.transport != Transport::Unix || !socket.connected);
        }
        self.sockets.insert(pid, sockets);
        Some(handles)
    }

    fn file(&mut self, pid: u32, fd: i32) -> Option<OpenFile> {
        Some(file_at(pid, fd)?.file)
    }

    /// Not told: what a child has inherited has the number, the flags and the place that it has in its parent.
    fn is_same_open(&self, (one, fd): (u32, i32), (other, other_fd): (u32, i32)) -> bool {
        fd == other_fd && file_at(one, fd).is_some_and(|record| Some(record) == file_at(other, other_fd))
    }

    /// All are in one.
    fn net_ns(&mut self, _pid: u32) -> Option<u32> {
        Some(0)
    }

    /// Those that were found with what processes have open.
    fn sockets(&mut self, _pid: u32) -> Option<Vec<Socket>> {
        let mut sockets: Vec<Socket> = std::mem::take(&mut self.sockets).into_values().flatten().collect();
        mark_inbound(&mut sockets);
        Some(sockets)
    }

    fn cpu_time(&self) -> Duration {
        thread_cpu_time()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn this_process_and_what_it_has_open() {
        let mut look = Look::default();
        let pid = std::process::id();
        assert!(look.pids().unwrap().contains(&pid));
        let seen = look.glance(pid).unwrap();
        assert!(!seen.ended && seen.image != 0 && seen.process.start_ns <= sysinfo::boot_ns());
        assert_eq!(sysinfo::glance(pid), Some(seen));
        let Program::Is(program) = look.program(seen.process, &["PATH".to_owned()]) else { panic!("nothing") };
        assert_eq!(program.argv, std::env::args().collect::<Vec<_>>());
        assert_eq!(program.parent, std::os::unix::process::parent_id());

        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let path = folder.join("a");
        let file = std::fs::File::create(&path).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let unix = UnixListener::bind(folder.join("s")).unwrap();
        let connected = UnixStream::connect(folder.join("s")).unwrap();

        let handles: HashMap<_, _> = look.handles(pid).unwrap().into_iter().collect();
        assert_eq!(handles[&file.as_raw_fd()], Handle::File(path.to_str().unwrap().to_owned()));
        let opened = look.file(pid, file.as_raw_fd()).unwrap();
        assert!(opened.writes && opened.mode & 0o17_0000 == 0o10_0000);
        let sockets = look.sockets(pid).unwrap();
        let of = |fd: i32| sockets.iter().find(|socket| handles[&fd] == Handle::Socket(socket.inode)).unwrap();
        assert_eq!(of(listener.as_raw_fd()).state, TcpState::Listen);
        assert!(of(stream.as_raw_fd()).connected && !of(accepted.as_raw_fd()).connected);
        assert_eq!(of(stream.as_raw_fd()).remote, listener.local_addr().unwrap());
        assert_eq!(of(unix.as_raw_fd()).state, TcpState::Listen);
        assert!(of(connected.as_raw_fd()).connected);
        assert!(listening_ports(pid).contains(&listener.local_addr().unwrap().port()));
        assert!(unix_peers(pid).unwrap().iter().any(|path| path.ends_with("/s")));
        assert_eq!(look.sockets(pid), Some(Vec::new()), "they were taken");
    }
}
