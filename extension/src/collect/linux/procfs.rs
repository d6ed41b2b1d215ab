//! What only `/proc` tells of a process: its arguments, and who listens in its network namespace. All else the kernel's
//! iterators say, and better: exact, and of one moment.
//!
//! Whatever is there may vanish while it is read, or be made up by a process; neither is an error.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;

use super::abi;
use crate::event::{ProcessKey, escape};

/// `/proc` counts time in hundredths of a second (`USER_HZ`, `include/asm-generic/param.h`).
const TICK_NS: u64 = 10_000_000;
/// Position of `starttime` in `/proc/PID/stat`, behind the name in parentheses, which may hold anything (`proc(5)`).
const START_TIME: usize = 19;
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

    fn start_ticks(&self, pid: u32) -> Option<u64> {
        let stat = std::fs::read(self.of(pid).join("stat")).ok()?;
        let name_ends = stat.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(stat.get(name_ends + 1..)?).ok()?;
        rest.split_ascii_whitespace().nth(START_TIME)?.parse().ok()
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

    fn of(&self, pid: u32) -> PathBuf {
        self.root.join(pid.to_string())
    }
}

/// `0: 0100007F:1F90 00000000:0000 0A ...`
fn listening_port(line: &str) -> Option<u16> {
    let mut fields = line.split_ascii_whitespace();
    let (_, port) = fields.nth(1)?.rsplit_once(':')?;
    (fields.nth(1)? == LISTEN).then(|| u16::from_str_radix(port, 16).ok())?
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
        let proc = Proc { root: root.path().into() };
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
