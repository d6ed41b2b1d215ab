//! What `/proc` tells of processes. Of the arguments of a process and of who listens in its network namespace nothing else
//! does; all other things the kernel's iterators say better, exact and of one moment, where they can be had.
//!
//! Whatever is there may vanish while it is read, or be made up by a process; neither is an error.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::abi;
use crate::event::{ProcessKey, escape};

/// `/proc` counts time in hundredths of a second on every processor that we know (`USER_HZ`,
/// `include/asm-generic/param.h`).
pub const TICK_NS: u64 = 10_000_000;
/// Bytes of an environment that are looked at.
const ENVIRONMENT_BYTES: u64 = 1 << 20;
/// `TCP_LISTEN`, as `/proc/net/tcp` writes it.
const LISTEN: &str = "0A";

/// The arguments of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Arguments {
    /// The arguments, the first is the program's own name for itself.
    pub argv: Vec<String>,
    /// There were more.
    pub truncated: bool,
}

/// What `/proc/PID/stat` tells of a process (`proc_pid_stat(5)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Parent's pid.
    pub parent: u32,
    /// Start, in ticks of ten milliseconds since boot.
    pub start_ticks: u64,
    /// It has ended and only waits for its parent to ask.
    pub ended: bool,
    /// Number of the controlling terminal; 0 without one.
    pub tty: u32,
    /// Where code and stack begin: other addresses after each exec, the parent's after a fork. Zeros where we may not know.
    pub image: (u64, u64),
}

impl Stat {
    fn parse(line: &str) -> Option<Self> {
        // The name in parentheses may hold anything, also a parenthesis.
        let (_, behind) = line.rsplit_once(')')?;
        let fields: Vec<&str> = behind.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        // The first thread of a process that ended before the others is a zombie too.
        let ended = matches!(*fields.first()?, "Z" | "X") && number(20)? <= 1;
        Some(Self {
            parent: u32::try_from(number(4)?).ok()?,
            start_ticks: number(22)?,
            ended,
            tty: number(7).and_then(|tty| u32::try_from(tty).ok()).unwrap_or(0),
            image: number(26).zip(number(28)).unwrap_or_default(),
        })
    }
}

/// Whose a process is (`proc_pid_status(5)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Pid in the innermost pid namespace.
    pub ns_pid: u32,
}

/// A `/proc`.
#[derive(Debug)]
pub struct Proc {
    root: PathBuf,
}

impl Default for Proc {
    fn default() -> Self {
        Self { root: "/proc".into() }
    }
}

impl Proc {
    /// One that is somewhere else.
    #[cfg(test)]
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// The arguments of a process; `None` when it has ended, or its pid is another's by now.
    #[must_use]
    pub fn arguments(&self, process: ProcessKey) -> Option<Arguments> {
        let limit = u64::from(abi::AQ_ARGV_MAX);
        let mut bytes = Vec::new();
        File::open(self.of(process.pid).join("cmdline")).ok()?.take(limit + 1).read_to_end(&mut bytes).ok()?;
        if self.start_ticks(process.pid)? != process.start_ns / TICK_NS {
            return None;
        }
        let truncated = bytes.len() as u64 > limit;
        bytes.truncate(abi::AQ_ARGV_MAX as usize);
        let whole = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
        let argv = if bytes.is_empty() { Vec::new() } else { whole.split(|byte| *byte == 0).map(escape).collect() };
        Some(Arguments { argv, truncated })
    }

    /// The processes.
    ///
    /// # Errors
    /// When there is no `/proc`.
    pub fn pids(&self) -> std::io::Result<Vec<u32>> {
        let entries = std::fs::read_dir(&self.root)?;
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
    }

    /// What its `stat` tells; `None` when it has ended.
    #[must_use]
    pub fn stat(&self, pid: u32) -> Option<Stat> {
        Stat::parse(&String::from_utf8_lossy(&std::fs::read(self.of(pid).join("stat")).ok()?))
    }

    /// Whose it is.
    #[must_use]
    pub fn ids(&self, pid: u32) -> Option<Ids> {
        let status = String::from_utf8_lossy(&std::fs::read(self.of(pid).join("status")).ok()?).into_owned();
        let numbers = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.split_ascii_whitespace().filter_map(|number| number.parse::<u32>().ok()).collect::<Vec<_>>())
        };
        let first = |name: &str| numbers(name)?.first().copied();
        // A kernel without pid namespaces has no NSpid.
        let ns_pid = numbers("NSpid:").and_then(|pids| pids.last().copied()).unwrap_or(pid);
        Some(Ids { uid: first("Uid:")?, gid: first("Gid:")?, ns_pid })
    }

    /// Where one of its links leads, such as `exe` or `cwd`.
    #[must_use]
    pub fn link(&self, pid: u32, name: &str) -> Option<String> {
        Some(text_of(&std::fs::read_link(self.of(pid).join(name)).ok()?))
    }

    /// The inode of one of its namespaces (`namespaces(7)`).
    #[must_use]
    pub fn namespace(&self, pid: u32, kind: &str) -> Option<u32> {
        let link = self.link(pid, &format!("ns/{kind}"))?;
        link.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
    }

    /// What it has open: descriptors, and what they lead to. `None` when that cannot be known.
    #[must_use]
    pub fn descriptors(&self, pid: u32) -> Option<Vec<(i32, String)>> {
        let folder = self.of(pid).join("fd");
        let open = |entry: std::io::Result<std::fs::DirEntry>| {
            let name = entry.ok()?.file_name();
            let target = std::fs::read_link(folder.join(&name)).ok()?;
            Some((name.to_str()?.parse().ok()?, text_of(&target)))
        };
        Some(std::fs::read_dir(&folder).ok()?.filter_map(open).collect())
    }

    /// Its open sockets: descriptors and inodes.
    #[must_use]
    pub fn sockets(&self, pid: u32) -> Option<Vec<(i32, u64)>> {
        let sockets = |(fd, target): (i32, String)| Some((fd, socket_inode(&target)?));
        Some(self.descriptors(pid)?.into_iter().filter_map(sockets).collect())
    }

    /// The flags of an open (`open(2)`) as `fdinfo` tells them, in octal digits.
    #[must_use]
    pub fn flags(&self, pid: u32, fd: i32) -> Option<i32> {
        let text = std::fs::read_to_string(self.of(pid).join("fdinfo").join(fd.to_string())).ok()?;
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"))?;
        i32::from_str_radix(flags.trim(), 8).ok()
    }

    /// Its environment, as its program began; nothing when it cannot be read.
    #[must_use]
    pub fn environment(&self, pid: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let read = File::open(self.of(pid).join("environ"))
            .and_then(|file| file.take(ENVIRONMENT_BYTES).read_to_end(&mut bytes));
        if read.is_ok() { bytes } else { Vec::new() }
    }

    /// Those of these variables that its program began with, as `NAME=VALUE`.
    #[must_use]
    pub fn variables(&self, pid: u32, names: &[String]) -> Vec<String> {
        let environment = self.environment(pid);
        let all = environment.split(|byte| *byte == 0).map(escape);
        all.filter(|text| text.split_once('=').is_some_and(|(name, _)| names.iter().any(|known| known == name)))
            .collect()
    }

    /// A file of a process', whole; a table of a network namespace may be long.
    #[must_use]
    pub fn text(&self, pid: u32, name: &str) -> Option<String> {
        Some(escape(&std::fs::read(self.of(pid).join(name)).ok()?))
    }

    fn start_ticks(&self, pid: u32) -> Option<u64> {
        Some(self.stat(pid)?.start_ticks)
    }

    /// The TCP ports that are listened on in the network namespace of a process.
    #[must_use]
    pub fn listening_ports(&self, pid: u32) -> HashSet<u16> {
        let mut ports = HashSet::new();
        for table in ["net/tcp", "net/tcp6"] {
            let Ok(file) = File::open(self.of(pid).join(table)) else { continue };
            // Those that listen come first (tcp_seq_start, net/ipv4/tcp_ipv4.c), and there may be many others.
            let lines = BufReader::new(file).lines().skip(1).map_while(Result::ok);
            ports.extend(lines.map_while(|line| listening_port(&line)));
        }
        ports
    }

    /// The folder of a process.
    pub(super) fn of(&self, pid: u32) -> PathBuf {
        self.root.join(pid.to_string())
    }
}

fn text_of(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}

/// `0: 0100007F:1F90 00000000:0000 0A ...`
fn listening_port(line: &str) -> Option<u16> {
    let mut fields = line.split_ascii_whitespace();
    let (_, port) = fields.nth(1)?.rsplit_once(':')?;
    (fields.nth(1)? == LISTEN).then(|| u16::from_str_radix(port, 16).ok())?
}

/// Of what a descriptor leads to: `socket:[4711]`.
pub(super) fn socket_inode(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `/proc` with one process, pid 7, started in the tick 123.
    fn fake(cmdline: &[u8]) -> (tempfile::TempDir, Proc) {
        let root = tempfile::tempdir().unwrap();
        let process = root.path().join("7");
        std::fs::create_dir_all(process.join("net")).unwrap();
        std::fs::write(process.join("cmdline"), cmdline).unwrap();
        let stat = b"7 (a) S 1 \xff) 2) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 123 4096 1\n";
        std::fs::write(process.join("stat"), stat).unwrap();
        let proc = Proc::at(root.path());
        (root, proc)
    }

    fn started(start_ns: u64) -> ProcessKey {
        ProcessKey { pid: 7, start_ns }
    }

    #[test]
    fn arguments_are_those_of_the_process_that_was_meant() {
        let (_root, proc) = fake(b"node\0\xffx\0\0");
        let wanted = Arguments { argv: vec!["node".into(), "\\xffx".into(), String::new()], truncated: false };
        assert_eq!(proc.arguments(started(1_239_999_999)), Some(wanted));
        assert_eq!(proc.arguments(started(1_240_000_000)), None, "the pid is another's");
        assert_eq!(proc.arguments(ProcessKey { pid: 8, start_ns: 0 }), None, "it has ended");
    }

    #[test]
    fn a_process_is_told_from_its_remains() {
        let line = |state: &str, threads: u32| {
            format!("7 (a) b)) {state} 5 7 7 34819 -1 4194560 1 0 0 0 0 0 0 0 20 0 {threads} 0 123 0 0 9 1 2 3 0")
        };
        let alive = Stat::parse(&line("S", 1)).unwrap();
        assert_eq!(alive, Stat { parent: 5, start_ticks: 123, ended: false, tty: 34819, image: (1, 3) });
        assert!(Stat::parse(&line("Z", 1)).unwrap().ended);
        assert!(!Stat::parse(&line("Z", 2)).unwrap().ended, "its other threads run");
        assert_eq!(Stat::parse("7 (cut"), None);
    }

    #[test]
    fn whose_it_is_and_what_it_has_open() {
        let (root, proc) = fake(b"");
        let of = root.path().join("7");
        std::fs::write(of.join("status"), "Name:\tx\nUid:\t1000\t0\t0\t0\nGid:\t100\t0\t0\t0\nNSpid:\t7\t2\n").unwrap();
        assert_eq!(proc.ids(7), Some(Ids { uid: 1000, gid: 100, ns_pid: 2 }));
        std::fs::create_dir(of.join("fdinfo")).unwrap();
        std::fs::write(of.join("fdinfo/3"), "pos:\t0\nflags:\t0100002\nmnt_id:\t9\n").unwrap();
        assert_eq!(proc.flags(7, 3), Some(0o10_0002));
        assert_eq!((proc.flags(7, 4), proc.descriptors(7), proc.ids(8)), (None, None, None));
        assert_eq!(proc.pids().unwrap(), [7]);
        #[cfg(unix)]
        {
            std::fs::create_dir(of.join("fd")).unwrap();
            std::fs::create_dir(of.join("ns")).unwrap();
            std::os::unix::fs::symlink("socket:[12]", of.join("fd/3")).unwrap();
            std::os::unix::fs::symlink("net:[4026531840]", of.join("ns/net")).unwrap();
            assert_eq!(proc.descriptors(7), Some(vec![(3, "socket:[12]".to_owned())]));
            assert_eq!(proc.sockets(7), Some(vec![(3, 12)]));
            assert_eq!(proc.namespace(7, "net"), Some(4_026_531_840));
        }
    }

    #[test]
    fn a_process_may_have_no_arguments_or_too_many() {
        let (_root, proc) = fake(b"");
        assert_eq!(proc.arguments(started(1_230_000_000)), Some(Arguments::default()));
        let (_root, proc) = fake(&vec![b'x'; 1 << 20]);
        let long = proc.arguments(started(1_230_000_000)).unwrap();
        assert!(long.truncated && long.argv[0].len() == abi::AQ_ARGV_MAX as usize);
    }

    #[test]
    fn ports_of_both_families_that_are_listened_on() {
        let (root, proc) = fake(b"");
        let net = root.path().join("7/net");
        let tcp = "  sl  local_address rem_address   st\n   0: 0100007F:1F90 00000000:0000 0A 0\n   1: 0100007F:0050 0100007F:0051 01 0\n";
        std::fs::write(net.join("tcp"), tcp).unwrap();
        let tcp6 = "  sl  local\n 0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0\nnonsense\n";
        std::fs::write(net.join("tcp6"), tcp6).unwrap();
        assert_eq!(proc.listening_ports(7), HashSet::from([8080, 22]));
        assert!(proc.listening_ports(8).is_empty());
    }
}
