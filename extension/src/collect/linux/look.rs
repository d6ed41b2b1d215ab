//! Linux for the collector that polls: `/proc`, which any user may read of its own processes.

use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use super::diag;
use super::procfs::{Proc, TICK_NS, socket_inode};
use super::sockets::{chosen_ports, sockets};
use crate::collect::polling::system::{Glance, Handle, OpenFile, Program, Socket, System, thread_cpu_time};
use crate::event::{Exec, ProcessKey, TcpState, Transport};
use crate::hash::fnv1a;

/// `KCMP_FILE` (`linux/kcmp.h`).
const KCMP_FILE: libc::c_int = 0;
/// Behind the path of a file without a name.
const DELETED: &str = " (deleted)";

/// `/proc` of this machine.
pub struct Look {
    proc: Proc,
    /// None for root, who may look at everybody's.
    only: Option<u32>,
    chosen: RangeInclusive<u16>,
}

impl Default for Look {
    fn default() -> Self {
        // SAFETY: geteuid has no preconditions.
        let uid = unsafe { libc::geteuid() };
        Self { proc: Proc::default(), only: (uid != 0).then_some(uid), chosen: chosen_ports() }
    }
}

impl Look {
    fn exec(&self, process: ProcessKey, markers: &[String]) -> Option<Exec> {
        let pid = process.pid;
        let ids = self.proc.ids(pid)?;
        if self.only.is_some_and(|uid| uid != ids.uid) {
            return None;
        }
        // Kernel threads have none.
        let path = self.proc.link(pid, "exe")?;
        let path = path.strip_suffix(DELETED).map(str::to_owned).unwrap_or(path);
        let markers = if markers.is_empty() { Vec::new() } else { self.proc.variables(pid, markers) };
        let exec = Exec {
            ns_pid: ids.ns_pid,
            uid: ids.uid,
            gid: ids.gid,
            cgroup_id: fnv1a(self.proc.text(pid, "cgroup").unwrap_or_default().bytes()),
            mount_ns: self.proc.namespace(pid, "mnt").unwrap_or(0),
            path,
            cwd: self.proc.link(pid, "cwd").unwrap_or_default(),
            markers,
            candidate: true,
            ..Exec::default()
        };
        // After all else was read: it was this process and no other one of its pid.
        let arguments = self.proc.arguments(process)?;
        let stat = self.proc.stat(pid)?;
        Some(Exec {
            parent: stat.parent,
            tty: terminal(stat.tty),
            argv: arguments.argv,
            truncated: arguments.truncated,
            ..exec
        })
    }
}

impl System for Look {
    fn pids(&mut self) -> io::Result<Vec<u32>> {
        self.proc.pids()
    }

    fn glance(&mut self, pid: u32) -> Option<Glance> {
        let stat = self.proc.stat(pid)?;
        let (code, stack) = stat.image;
        // 1 is what those get who may not know (do_task_stat, fs/proc/array.c).
        let image = if stack > 1 { fnv1a([code.to_le_bytes(), stack.to_le_bytes()].concat()) } else { 0 };
        let process = ProcessKey { pid, start_ns: stat.start_ticks * TICK_NS };
        Some(Glance { process, parent: stat.parent, ended: stat.ended, image })
    }

    fn program(&mut self, process: ProcessKey, markers: &[String]) -> Program {
        match self.exec(process, markers) {
            // Its arguments are not there before its program is (begin_new_exec, fs/exec.c), and always from then on.
            Some(exec) if exec.argv.is_empty() => Program::Later,
            Some(exec) => Program::Is(Box::new(exec)),
            None => Program::None,
        }
    }

    fn handles(&mut self, pid: u32) -> Option<Vec<(i32, Handle)>> {
        let handle = |target: String| {
            if target.starts_with('/') {
                return Some(Handle::File(target));
            }
            Some(Handle::Socket(socket_inode(&target)?))
        };
        let open = self.proc.descriptors(pid)?;
        Some(open.into_iter().filter_map(|(fd, target)| Some((fd, handle(target)?))).collect())
    }

    fn file(&mut self, pid: u32, fd: i32) -> Option<OpenFile> {
        let flags = self.proc.flags(pid, fd)?;
        if flags & libc::O_PATH != 0 {
            return None;
        }
        let link = format!("fd/{fd}");
        let path = self.proc.link(pid, &link)?;
        // Of the file and not of the link.
        let file = std::fs::metadata(self.proc.of(pid).join(&link)).ok()?;
        let path = match path.strip_suffix(DELETED) {
            Some(name) if file.nlink() == 0 => match name.strip_prefix("/memfd:") {
                Some(memfd) => format!("memfd:{memfd}"),
                None => name.to_owned(),
            },
            _ => path,
        };
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
        Some(OpenFile { id: (file.dev(), file.ino()), path, mode: file.mode(), writes })
    }

    fn is_same_open(&self, (one, fd): (u32, i32), (other, other_fd): (u32, i32)) -> bool {
        // SAFETY: only numbers; 0 says that both are of one struct file (kcmp(2)).
        unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_FILE, fd, other_fd) == 0 }
    }

    fn net_ns(&mut self, pid: u32) -> Option<u32> {
        self.proc.namespace(pid, "net")
    }

    fn sockets(&mut self, pid: u32) -> Option<Vec<Socket>> {
        let mut found = sockets(&self.proc, pid, &self.chosen)?;
        let speaks = found.iter().any(|socket| socket.transport == Transport::Tcp && socket.state != TcpState::Listen);
        // The kernel answers for the namespace that we are in.
        if speaks && self.net_ns(pid) == self.net_ns(std::process::id()) {
            // Without an answer they stay unknown.
            let bytes = diag::bytes().unwrap_or_default();
            for socket in &mut found {
                socket.bytes = bytes.get(&socket.inode).copied();
            }
        }
        Some(found)
    }

    fn began(&self) -> Option<u64> {
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        stat.lines().find_map(|line| line.strip_prefix("processes "))?.trim().parse().ok()
    }

    fn cpu_time(&self) -> Duration {
        thread_cpu_time()
    }
}

/// The name below `/dev` of a terminal, of its number (`proc_pid_stat(5)`; majors: Documentation/admin-guide/devices.txt).
fn terminal(number: u32) -> String {
    let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xf_ff00));
    match (major, minor) {
        (136..=143, _) => format!("pts/{}", (major - 136) * 256 + minor),
        (4, 0..64) => format!("tty{minor}"),
        (4, _) => format!("ttyS{}", minor - 64),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn terminals_by_their_number() {
        for (number, name) in [(0, ""), (34819, "pts/3"), (0x0010_882c, "pts/300"), (1025, "tty1"), (1088, "ttyS0")] {
            assert_eq!(terminal(number), name, "{number:x}");
        }
    }

    #[test]
    fn this_process_and_a_file_of_its() {
        let mut look = Look::default();
        let pid = std::process::id();
        assert!(look.pids().unwrap().contains(&pid));
        let glance = look.glance(pid).unwrap();
        assert!(!glance.ended && glance.image != 0);
        let Program::Is(program) = look.program(glance.process, &["PATH".to_owned()]) else { panic!("nothing") };
        assert_eq!(program.argv, std::env::args().collect::<Vec<_>>());
        assert_eq!(program.parent, std::os::unix::process::parent_id());
        assert!(program.markers.len() == 1 && program.markers[0].starts_with("PATH="));
        let other = ProcessKey { start_ns: glance.process.start_ns + 10 * TICK_NS, ..glance.process };
        assert_eq!(look.program(other, &[]), Program::None, "the pid is another's");

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("a");
        let file = std::fs::File::create(&path).unwrap();
        let (copy, again) = (file.try_clone().unwrap(), std::fs::File::open(&path).unwrap());
        let fd = file.as_raw_fd();
        let told = look.handles(pid).unwrap();
        assert!(told.contains(&(fd, Handle::File(path.to_str().unwrap().to_owned()))));
        let opened = look.file(pid, fd).unwrap();
        assert!(opened.writes && !look.file(pid, again.as_raw_fd()).unwrap().writes);
        assert!(look.is_same_open((pid, fd), (pid, copy.as_raw_fd())));
        assert!(!look.is_same_open((pid, fd), (pid, again.as_raw_fd())));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(look.file(pid, fd).unwrap(), opened, "its name has gone");
        assert!(look.began().unwrap() > 0);
    }
}
