//! Processes of systems that have no module with more, by the crate sysinfo.
//!
//! Compiled on Linux for its tests alone: there `/proc` tells more, and the exact start.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sysinfo::{Pid, Process, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System as Sysinfo, UpdateKind};

use super::polling::system::{Glance, Program, System};
use crate::event::{Exec, ProcessKey, escape};
use crate::hash::fnv1a;

/// What is asked of each process every time, and of one that is to be told.
fn little() -> ProcessRefreshKind {
    ProcessRefreshKind::nothing().with_exe(UpdateKind::OnlyIfNotSet)
}

fn all() -> ProcessRefreshKind {
    ProcessRefreshKind::nothing()
        .with_exe(UpdateKind::Always)
        .with_cmd(UpdateKind::Always)
        .with_cwd(UpdateKind::Always)
        .with_environ(UpdateKind::Always)
        .with_user(UpdateKind::Always)
}

/// The clock of events: nanoseconds, here since 1970 and not since boot. These systems tell the start of a process, and when
/// something happened, by the wall clock, and when they booted only to a second or so, not the same each time: what a
/// process is known by must not depend on that.
#[must_use]
pub fn boot_ns() -> u64 {
    boot_ns_at(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The same of a time of the wall clock, since 1970.
#[must_use]
pub fn boot_ns_at(unix: Duration) -> u64 {
    nanoseconds(unix)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Tells this start of the machine from others.
#[must_use]
pub fn boot_id() -> String {
    #[cfg(target_os = "macos")]
    if let Some(id) = super::macos::look::boot_session() {
        return id;
    }
    Sysinfo::boot_time().to_string()
}

/// When a process began, since 1970, as exactly as the system tells.
fn start_of(process: &Process) -> Duration {
    #[cfg(target_os = "macos")]
    if let Some(start) = super::macos::look::start(process.pid().as_u32()) {
        return start;
    }
    #[cfg(windows)]
    if let Some(created) = super::windows::live::created(process.pid().as_u32()) {
        return super::windows::decode::since_1970(created);
    }
    Duration::from_secs(process.start_time())
}

fn glance_of(process: &Process) -> Glance {
    let start_ns = boot_ns_at(start_of(process));
    let path = process.exe().map(|path| path.as_os_str().as_encoded_bytes()).unwrap_or_default();
    Glance {
        process: ProcessKey { pid: process.pid().as_u32(), start_ns },
        parent: process.parent().map_or(0, Pid::as_u32),
        ended: matches!(process.status(), ProcessStatus::Zombie | ProcessStatus::Dead),
        image: if path.is_empty() { 0 } else { fnv1a(path.iter().copied()) },
    }
}

fn exec_of(process: &Process, markers: &[String]) -> Exec {
    let text = |text: &std::ffi::OsStr| escape(text.as_encoded_bytes());
    let path = process.exe().map(|path| text(path.as_os_str()));
    // Of a SID of Windows the last number, as osquery has it.
    let uid = process.user_id().and_then(|uid| uid.to_string().rsplit('-').next()?.parse().ok());
    let gid = process.group_id().and_then(|gid| gid.to_string().parse().ok());
    Exec {
        parent: process.parent().map_or(0, Pid::as_u32),
        ns_pid: process.pid().as_u32(),
        uid: uid.unwrap_or(0),
        gid: gid.unwrap_or(0),
        // Its name at least.
        path: path.filter(|path| !path.is_empty()).unwrap_or_else(|| text(process.name())),
        cwd: process.cwd().map(|path| directory(text(path.as_os_str()))).unwrap_or_default(),
        argv: process.cmd().iter().map(|argument| text(argument)).collect(),
        markers: variables_of(process, markers),
        candidate: true,
        ..Exec::default()
    }
}

/// Windows ends a working directory in `\`; only that of a drive has to.
fn directory(path: String) -> String {
    match path.strip_suffix('\\') {
        Some(rest) if cfg!(windows) && !rest.ends_with(':') => rest.to_owned(),
        _ => path,
    }
}

fn variables_of(process: &Process, names: &[String]) -> Vec<String> {
    let all = process.environ().iter().map(|variable| escape(variable.as_encoded_bytes()));
    all.filter(|text| text.split_once('=').is_some_and(|(name, _)| names.iter().any(|known| known == name))).collect()
}

/// The names of the variables that a process began with.
#[must_use]
pub fn names_of_variables(pid: u32) -> Vec<String> {
    let what = ProcessRefreshKind::nothing().with_environ(UpdateKind::Always);
    let name = |variable: &std::ffi::OsString| {
        let text = escape(variable.as_encoded_bytes());
        text.split_once('=').map(|(name, _)| name.to_owned())
    };
    one(pid, what, |process| process.environ().iter().filter_map(name).collect()).unwrap_or_default()
}

fn one<T>(pid: u32, what: ProcessRefreshKind, take: impl FnOnce(&Process) -> T) -> Option<T> {
    let mut system = Sysinfo::new();
    let pid = Pid::from_u32(pid);
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
    system.process(pid).map(take)
}

/// One process.
#[must_use]
pub fn glance(pid: u32) -> Option<Glance> {
    #[cfg(target_os = "macos")]
    return super::macos::look::glance(pid);
    #[cfg(not(target_os = "macos"))]
    one(pid, little(), glance_of)
}

/// What it runs.
#[must_use]
pub fn program(pid: u32) -> Option<Exec> {
    one(pid, all(), |process| exec_of(process, &[]))
}

/// What this process runs, with those of these variables that it began with.
#[must_use]
pub fn exec(process: ProcessKey, markers: &[String]) -> Option<Exec> {
    let of = |found: &Process| (glance_of(found).process == process).then(|| exec_of(found, markers));
    one(process.pid, all(), of).flatten()
}

/// Those of these variables that it began with.
#[must_use]
pub fn variables(process: ProcessKey, names: &[String]) -> Vec<String> {
    let of = |found: &Process| (glance_of(found).process == process).then(|| variables_of(found, names));
    one(process.pid, all(), of).flatten().unwrap_or_default()
}

/// The processes as they were at the last look.
pub struct Look {
    system: Sysinfo,
    began: Instant,
    #[cfg(windows)]
    tables: super::windows::iphelper::Tables,
}

impl Default for Look {
    fn default() -> Self {
        Self {
            system: Sysinfo::new(),
            began: Instant::now(),
            #[cfg(windows)]
            tables: super::windows::iphelper::Tables::default(),
        }
    }
}

impl System for Look {
    fn pids(&mut self) -> io::Result<Vec<u32>> {
        self.system.refresh_processes_specifics(ProcessesToUpdate::All, true, little());
        // Linux lists threads too.
        let processes = self.system.processes().values().filter(|process| process.thread_kind().is_none());
        Ok(processes.map(|process| process.pid().as_u32()).collect())
    }

    fn glance(&mut self, pid: u32) -> Option<Glance> {
        self.system.process(Pid::from_u32(pid)).map(glance_of)
    }

    fn program(&mut self, process: ProcessKey, markers: &[String]) -> Program {
        exec(process, markers).map_or(Program::None, |exec| Program::Is(Box::new(exec)))
    }

    #[cfg(windows)]
    fn handles(&mut self, pid: u32) -> Option<Vec<(i32, super::polling::system::Handle)>> {
        Some(super::windows::tables::handles(self.tables.now(), pid))
    }

    #[cfg(windows)]
    fn net_ns(&mut self, _pid: u32) -> Option<u32> {
        Some(0) // there is one
    }

    #[cfg(windows)]
    fn sockets(&mut self, _pid: u32) -> Option<Vec<super::polling::system::Socket>> {
        Some(super::windows::tables::sockets(self.tables.now()))
    }

    fn cpu_time(&self) -> Duration {
        // Not asked for: time that has passed, which is more.
        self.began.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process() {
        let mut look = Look::default();
        let pid = std::process::id();
        assert!(look.pids().unwrap().contains(&pid));
        let seen = look.glance(pid).unwrap();
        assert_eq!(Some(seen), glance(pid));
        assert!(!seen.ended && seen.image != 0 && seen.process.start_ns <= boot_ns());
        let Program::Is(program) = look.program(seen.process, &["PATH".to_owned()]) else { panic!("nothing") };
        assert_eq!(program.argv, std::env::args().collect::<Vec<_>>());
        assert_eq!(program.path, std::env::current_exe().unwrap().to_str().unwrap());
        assert_eq!(program.cwd, std::env::current_dir().unwrap().to_str().unwrap());
        assert!(program.markers.len() == 1 && program.markers[0].starts_with("PATH="));
        assert_eq!(variables(seen.process, &["PATH".to_owned()]), program.markers);
        assert!(names_of_variables(pid).contains(&"PATH".to_owned()) && names_of_variables(u32::MAX).is_empty());
        let other = ProcessKey { start_ns: seen.process.start_ns + 5_000_000_000, ..seen.process };
        assert_eq!(look.program(other, &[]), Program::None, "the pid is another's");
        assert_eq!(glance(u32::MAX), None);
    }
}
