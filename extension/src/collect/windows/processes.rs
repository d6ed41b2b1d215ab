//! Processes that begin and end.
//!
//! Two events tell of a start, each half of it: one the exact time and the image, the other arguments and user. Both are
//! written by whoever starts the process, so the one follows the other at once; where the second does not come, what the process
//! itself has in its memory must do, unless it has ended by then.

use std::time::Duration;

use super::arguments;
use super::bounded::Bounded;
use super::decode::{Launch, Start, Stop, since_1970};
use super::paths::Drives;
use crate::collect::watched::{Told, What, Who};
use crate::event::{Exec, Exit, ProcessKey};

/// The other half of a start is waited for so long.
const TOGETHER_NS: u64 = 20_000_000;
/// Halves that wait.
const WAITING: usize = 4096;
/// Processes whose user is kept.
const USERS: usize = 16_384;

/// What a process was asked as soon as it began.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Live {
    /// All that it was called with.
    pub command_line: Option<String>,
    /// The working directory.
    pub directory: Option<String>,
    /// The variables that are wanted of its environment.
    pub markers: Vec<String>,
    /// The user that it runs as.
    pub uid: Option<u32>,
}

#[derive(Debug)]
enum Half {
    Start { start: Start, live: Live, boot_ns: u64 },
    Launch { launch: Launch, boot_ns: u64 },
}

/// The time since boot of a time since 1970.
pub type Clock = fn(Duration) -> u64;

/// Starts of which one half is known, and the users of processes.
#[derive(Debug)]
pub struct Processes {
    clock: Clock,
    /// The second half comes too.
    launches: bool,
    waiting: Bounded<u32, Half>,
    users: Bounded<u32, u32>,
    /// Starts without their arguments.
    pub bare: u64,
}

impl Processes {
    /// Of a session that hears both halves of a start, or the first alone.
    #[must_use]
    pub fn new(launches: bool, clock: Clock) -> Self {
        Self { clock, launches, waiting: Bounded::new(WAITING), users: Bounded::new(USERS), bare: 0 }
    }

    /// A process began; what it said of itself.
    pub fn start(&mut self, start: Start, live: Live, boot_ns: u64, drives: &Drives, told: &mut Vec<Told>) {
        let pid = start.pid;
        let launch = match self.waiting.remove(pid) {
            Some(Half::Launch { launch, boot_ns: then }) if then.abs_diff(boot_ns) <= TOGETHER_NS => Some(launch),
            Some(Half::Start { start, live, boot_ns }) => {
                self.begin(start, live, None, boot_ns, drives, told);
                None
            }
            _ => None,
        };
        if launch.is_none() && self.launches {
            self.waiting.insert(pid, Half::Start { start, live, boot_ns });
        } else {
            self.begin(start, live, launch, boot_ns, drives, told);
        }
    }

    /// The other half of a start.
    pub fn launch(&mut self, launch: Launch, boot_ns: u64, drives: &Drives, told: &mut Vec<Told>) {
        match self.waiting.remove(launch.pid) {
            Some(Half::Start { start, live, boot_ns: then }) => {
                // A pid that is used again is told by a start of its own.
                let launch = Some(launch).filter(|_| then.abs_diff(boot_ns) <= TOGETHER_NS);
                self.begin(start, live, launch, then, drives, told);
            }
            _ => drop(self.waiting.insert(launch.pid, Half::Launch { launch, boot_ns })),
        }
    }

    /// A process ended.
    pub fn stop(&mut self, stop: &Stop, boot_ns: u64, drives: &Drives, told: &mut Vec<Told>) {
        if let Some(Half::Start { start, live, boot_ns }) = self.waiting.remove(stop.pid) {
            self.begin(start, live, None, boot_ns, drives, told);
        }
        let exit = Exit { code: stop.code.cast_signed(), signal: 0 };
        told.push(Told { boot_ns, process: Who::Key(self.key(stop.pid, stop.created)), what: What::End(Some(exit)) });
    }

    /// Tells of starts whose other half does not come.
    pub fn tick(&mut self, now_ns: u64, drives: &Drives, told: &mut Vec<Told>) {
        let is_due = |_: &u32, half: &Half| {
            let (Half::Start { boot_ns, .. } | Half::Launch { boot_ns, .. }) = half;
            boot_ns.saturating_add(TOGETHER_NS) < now_ns
        };
        for (_, half) in self.waiting.take_if(is_due) {
            if let Half::Start { start, live, boot_ns } = half {
                self.begin(start, live, None, boot_ns, drives, told);
            }
        }
    }

    /// The user that a process runs as, where its start told it.
    #[must_use]
    pub fn user(&self, pid: u32) -> Option<u32> {
        self.users.get(pid).copied()
    }

    /// The user of a process that was asked elsewhere.
    pub fn know_user(&mut self, pid: u32, uid: u32) {
        self.users.insert(pid, uid);
    }

    /// How much was forgotten to make room.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.waiting.evicted
    }

    fn key(&self, pid: u32, created: u64) -> ProcessKey {
        ProcessKey { pid, start_ns: (self.clock)(since_1970(created)) }
    }

    fn begin(
        &mut self,
        start: Start,
        live: Live,
        launch: Option<Launch>,
        boot_ns: u64,
        drives: &Drives,
        told: &mut Vec<Told>,
    ) {
        let Start { pid, created, parent, image } = start;
        let (called, uid) = launch.map_or((None, None), |launch| (Some(launch.command_line), launch.uid));
        let called = called.filter(|line| !line.is_empty()).or(live.command_line);
        self.bare += u64::from(called.is_none());
        let uid = uid.or(live.uid);
        self.users.remove(pid);
        if let Some(uid) = uid {
            self.users.insert(pid, uid);
        }
        let exec = Exec {
            parent,
            ns_pid: pid,
            uid: uid.unwrap_or(0),
            path: drives.name(&image),
            cwd: live.directory.unwrap_or_default(),
            argv: arguments::split(&called.unwrap_or_default()),
            markers: live.markers,
            candidate: true,
            ..Exec::default()
        };
        let what = What::Begin { parent, program: Some(Box::new(exec)) };
        told.push(Told { boot_ns, process: Who::Key(self.key(pid, created)), what });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second after 1970, and 100 nanoseconds.
    const CREATED: u64 = 116_444_736_010_000_001;
    const BEGAN: u64 = 1_000_000_100;

    fn hearing(launches: bool) -> Processes {
        Processes::new(launches, |unix| u64::try_from(unix.as_nanos()).unwrap())
    }

    fn start(pid: u32) -> Start {
        Start { pid, created: CREATED, parent: 4, image: r"\Device\HarddiskVolume1\a.exe".into() }
    }

    fn launch(pid: u32, line: &str) -> Launch {
        Launch { pid, uid: Some(1001), command_line: line.into() }
    }

    fn live(line: &str) -> Live {
        Live {
            command_line: Some(line.into()),
            directory: Some(r"C:\w".into()),
            markers: vec!["A=1".into()],
            uid: Some(7),
        }
    }

    fn drives() -> Drives {
        Drives::new([("C:".to_owned(), r"\Device\HarddiskVolume1".to_owned())])
    }

    /// Pid, time, path, arguments and user of each start; pid, time and code of each end.
    fn shown(told: &[Told]) -> Vec<String> {
        let show = |told: &Told| match (&told.process, &told.what) {
            (Who::Key(key), What::Begin { parent, program: Some(exec) }) => {
                assert_eq!((key.start_ns, *parent), (BEGAN, 4));
                assert!(exec.candidate && exec.ns_pid == key.pid && exec.parent == 4);
                format!("{} {} {} {:?} {} {}", key.pid, told.boot_ns, exec.path, exec.argv, exec.uid, exec.cwd)
            }
            (Who::Key(key), What::End(Some(exit))) => format!("{} {} end {}", key.pid, told.boot_ns, exit.code),
            other => panic!("{other:?}"),
        };
        told.iter().map(show).collect()
    }

    #[test]
    fn the_halves_of_a_start_come_in_any_order() {
        let mut processes = hearing(true);
        let mut told = Vec::new();
        processes.start(start(8), live("of memory"), 100, &drives(), &mut told);
        assert!(told.is_empty());
        processes.launch(launch(8, "a.exe \"b c\""), 110, &drives(), &mut told);
        processes.launch(launch(12, "x"), 200, &drives(), &mut told);
        processes.start(start(12), Live::default(), 210, &drives(), &mut told);
        assert_eq!(shown(&told), [r#"8 100 C:\a.exe ["a.exe", "b c"] 1001 C:\w"#, r#"12 210 C:\a.exe ["x"] 1001 "#,]);
        assert_eq!((processes.user(8), processes.user(9), processes.bare), (Some(1001), None, 0));
    }

    #[test]
    fn without_the_other_half_the_process_itself_is_asked() {
        let mut processes = hearing(true);
        let mut told = Vec::new();
        processes.start(start(8), live("a.exe 1"), 100, &drives(), &mut told);
        processes.tick(100 + TOGETHER_NS, &drives(), &mut told);
        assert!(told.is_empty());
        processes.tick(101 + TOGETHER_NS, &drives(), &mut told);
        processes.start(start(12), Live::default(), 200, &drives(), &mut told);
        processes.stop(&Stop { pid: 12, created: CREATED, code: 0xc000_0005 }, 300, &drives(), &mut told);
        assert_eq!(
            shown(&told),
            [r#"8 100 C:\a.exe ["a.exe", "1"] 7 C:\w"#, r"12 200 C:\a.exe [] 0 ", "12 300 end -1073741819",]
        );
        assert_eq!((processes.bare, processes.user(12)), (1, None));
        let mut told = Vec::new();
        hearing(false).start(start(8), live("a"), 100, &drives(), &mut told);
        assert_eq!(told.len(), 1, "nothing else comes");
    }

    #[test]
    fn halves_of_different_processes_are_kept_apart() {
        let mut processes = hearing(true);
        let mut told = Vec::new();
        let later = 100 + 2 * TOGETHER_NS;
        processes.launch(launch(8, "old"), 100, &drives(), &mut told);
        processes.start(start(8), live("new"), later, &drives(), &mut told);
        processes.start(start(8), live("newer"), later + 5, &drives(), &mut told);
        assert_eq!(shown(&told), [format!(r#"8 {later} C:\a.exe ["new"] 7 C:\w"#)]);
        processes.launch(launch(8, "much later"), 3 * later, &drives(), &mut told);
        assert_eq!(shown(&told[1..]), [format!(r#"8 {} C:\a.exe ["newer"] 7 C:\w"#, later + 5)]);
    }

    #[test]
    fn a_flood_is_bounded() {
        let mut processes = hearing(true);
        let mut told = Vec::new();
        for pid in 0..2 * u32::try_from(USERS).unwrap() {
            processes.launch(launch(pid, "x"), 1, &drives(), &mut told);
            processes.know_user(pid, 1);
        }
        assert_eq!((processes.waiting.len(), processes.users.len()), (WAITING, USERS));
        assert_eq!(processes.evicted(), 2 * USERS as u64 - WAITING as u64);
    }
}
