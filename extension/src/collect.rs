//! Hearing what processes do.
//!
//! One trait, one module a system. What a machine lacks is a [`DegradationReason`], which a table shows, not an error
//! that ends the program. Turning a system's raw records into [`Event`]s is pure code and compiled everywhere.

mod descent;
pub mod latency;
pub mod linux;
pub mod macos;
pub mod polling;
#[cfg(any(test, not(target_os = "linux")))]
pub mod sysinfo;
pub mod watched;
pub mod windows;

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::event::{Event, Mark};
use crate::record::Probe;

/// Why the best collector of the system does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DegradationReason {
    /// Not root, or without the capabilities that eBPF needs.
    NotPrivileged,
    /// The settings ask for another one.
    Chosen,
    /// The kernel carries no BTF (`/sys/kernel/btf/vmlinux`).
    NoBtf,
    /// No collector for this system or processor.
    UnsupportedSystem,
    /// Not in the initial pid namespace: pids here are not the host's.
    PidNamespace,
    /// The kernel refused the programs; its own words.
    Refused(String),
    /// Not an administrator, without whom Windows starts no ETW session.
    NotAdministrator,
    /// Windows did not start an ETW session; which, and its own words.
    RefusedTrace(String),
    /// Endpoint Security does not take us for a client.
    EndpointSecurity(macos::refusal::Refusal),
}

impl fmt::Display for DegradationReason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPrivileged if cfg!(target_os = "macos") => macos::refusal::Refusal::NotPrivileged.fmt(out),
            Self::NotPrivileged if cfg!(windows) => Self::NotAdministrator.fmt(out),
            Self::NotPrivileged => {
                out.write_str("eBPF needs root: start it with sudo, or ask a running recorder with --connect")
            }
            Self::Chosen => out.write_str("the settings say collector: polling"),
            Self::NoBtf => out
                .write_str("the kernel has no BTF (/sys/kernel/btf/vmlinux): use one built with CONFIG_DEBUG_INFO_BTF"),
            Self::UnsupportedSystem => out.write_str("there is no collector of events for this system and processor"),
            Self::PidNamespace => {
                out.write_str("not in the initial pid namespace: run the recorder on the host, not in a container")
            }
            Self::Refused(why) => write!(out, "the kernel refused the eBPF programs: {why}"),
            Self::NotAdministrator => out.write_str(
                "ETW needs an administrator: start it from an elevated prompt or as a service, or ask a running recorder with --connect",
            ),
            Self::RefusedTrace(why) => write!(out, "Windows did not start an ETW session: {why}"),
            Self::EndpointSecurity(why) => why.fmt(out),
        }
    }
}

impl std::error::Error for DegradationReason {}

/// A failure of a collector that runs.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct CollectError {
    /// What was being done.
    pub what: &'static str,
    /// Why it failed.
    pub source: std::io::Error,
}

/// Which collector is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// The best that there is.
    #[default]
    Auto,
    /// The system's events (on Linux eBPF) or none.
    #[serde(alias = "events")]
    Ebpf,
    /// The one that asks again and again, which needs no rights.
    Polling,
}

/// What a collector is told when it is started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// Which one.
    pub choice: Choice,
    /// When eBPF hears system calls.
    pub syscalls: Syscalls,
    /// Between two looks of the one that polls, while an agent lives.
    pub interval: Option<Duration>,
}

/// When the hook on system calls is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Syscalls {
    /// From the first process that may be an agent until some minutes after the last.
    #[default]
    OnDemand,
    /// Always.
    Always,
}

/// What a collector sees all of, and what can therefore be counted for an agent; else its counts are unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Operations on files.
    pub files: bool,
    /// What goes over connections.
    pub bytes: bool,
}

impl Default for Counts {
    fn default() -> Self {
        Self { files: true, bytes: true }
    }
}

/// A place in what the system tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Tells one series of events from another; 0 for one that ends with its recorder.
    pub series: u64,
    /// Grows with each event.
    pub position: u64,
}

/// What a collector has to know of the signatures.
#[derive(Debug, Clone, Default)]
pub struct Interest {
    /// Path components one of which every agent's path or script has.
    pub literals: Vec<String>,
    /// Names that count only as the last component, for they are those of users and directories as well.
    pub names: Vec<String>,
    /// Names of interpreters, whose arguments are looked at.
    pub interpreters: Vec<String>,
    /// Names of the variables that agents set in the environment of what they start.
    pub markers: Vec<String>,
    /// Some signature has no literal: show every exec.
    pub every_exec: bool,
}

/// A source of events. Used by one thread; its [`Probe`] by many.
pub trait Collector {
    /// Waits for records, at most `wait`, and appends what there is, a bounded batch, in the order in which it happened.
    ///
    /// # Errors
    /// When the system no longer gives records.
    fn drain(&mut self, wait: Duration, events: &mut Vec<Event>) -> Result<(), CollectError>;

    /// How far it has read.
    fn place(&self) -> Place {
        Place::default()
    }

    /// Whether events come to it by themselves, and have to be fetched while there is room for them.
    fn is_fed(&self) -> bool {
        true
    }

    /// What it sees all of, so that it can be counted.
    fn counts(&self) -> Counts {
        Counts::default()
    }

    /// The events of all drains so far are recorded. Up to the place `durable` the system may forget them; without one,
    /// all. `discarded` says how many of them, of all so far, led to no row.
    fn commit(&mut self, discarded: u64, durable: Option<Place>);

    /// The tree of this mark is an agent's. False when the mark was released meanwhile.
    fn confirm(&mut self, mark: Mark) -> bool;

    /// The tree of this mark is none of ours, or has ended: its slot can be used again.
    fn release(&mut self, mark: Mark);

    /// Whether it goes on behind the place up to which a recorder before this one made all durable: its marks hold, and
    /// all events since then are to come.
    fn resumes(&self) -> bool {
        false
    }

    /// All that a recorder before this one left has been read: of its marks these are in use, others can be used again.
    fn keep_marks(&mut self, used: &HashSet<Mark>) {
        let _ = used;
    }

    /// Marks a running tree, which the system had not marked by itself.
    fn mark_tree(&mut self, root: u32) -> Option<Mark>;

    /// The programs that run and that the system has not marked, each as if it had just begun; [`Event::boot_ns`] is when
    /// it was looked at.
    fn running(&mut self) -> Vec<Event> {
        Vec::new()
    }

    /// Marks a running tree, and says what runs in it, as [`Collector::running`] does. Each process is here, or its fork
    /// is an event to come, or both. `None` when nothing could be marked.
    fn adopt(&mut self, root: u32) -> Option<(Mark, Vec<Event>)> {
        let _ = root;
        None
    }

    /// The files, connections and listening sockets that the processes under all marks have open: as opens, and as the
    /// state that each connection is in. Their ends are events to come.
    fn open_already(&mut self) -> Vec<Event> {
        Vec::new()
    }

    /// System calls are seen since then (nanoseconds since boot); `None` while they are not.
    fn syscalls_since(&self) -> Option<u64>;

    /// Whether what processes ask of `io_uring` is seen.
    fn sees_requests(&self) -> bool {
        true
    }

    /// How many agents live: decides about the hook on system calls.
    fn agents_live(&mut self, agents: usize);

    /// Other signatures hold now. There is no moment at which neither what was looked for is told nor what is looked for.
    fn set_interest(&mut self, interest: &Interest) {
        let _ = interest;
    }

    /// Whether some agent lives that sets variables in the environment of what it starts: whoever begins a program with
    /// such a variable is told then, under a mark of its own.
    fn look_for_markers(&mut self, wanted: bool) {
        let _ = wanted;
    }

    /// Looks for files that ended without a close; to be called when a process ended or replaced its program.
    fn sweep(&mut self);

    /// Health, for tables.
    fn probe(&self) -> Arc<dyn Probe>;
}

/// The clock of [`Event::boot_ns`]: nanoseconds since boot, or since 1970 where the system tells what happened by the wall
/// clock.
#[must_use]
pub fn boot_ns() -> u64 {
    #[cfg(target_os = "linux")]
    return linux::ebpf::boot_ns();
    #[cfg(not(target_os = "linux"))]
    sysinfo::boot_ns()
}

/// Tells this start of the machine from others.
#[must_use]
pub fn boot_id() -> String {
    #[cfg(target_os = "linux")]
    return std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    #[cfg(not(target_os = "linux"))]
    sysinfo::boot_id()
}

/// The TCP ports that are listened on where this process is, in its network namespace.
#[must_use]
pub fn listening_ports(pid: u32) -> HashSet<u16> {
    #[cfg(target_os = "macos")]
    return macos::look::listening_ports(pid);
    #[cfg(not(target_os = "macos"))]
    linux::procfs::Proc::default().listening_ports(pid)
}

/// Whether a collector can be kept in that folder.
#[must_use]
pub fn can_pin(folder: &Path) -> bool {
    #[cfg(target_os = "linux")]
    return linux::pins::can_hold(folder);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = folder;
        false
    }
}

/// What a collector keeps for the next one.
#[derive(Debug, Clone, Copy)]
pub struct Kept<'a> {
    /// The folder where it is.
    pub folder: &'a Path,
    /// How far a recorder before this one made all durable.
    pub durable: Place,
}

/// The best collector that loads here, or the one that is asked for. It ends with this recorder when nothing is to be kept.
///
/// # Errors
/// The reason why there is none.
pub fn start(
    interest: &Interest,
    wanted: Wanted,
    kept: Option<Kept<'_>>,
) -> Result<Box<dyn Collector>, DegradationReason> {
    let why = match wanted.choice {
        Choice::Polling => DegradationReason::Chosen,
        Choice::Ebpf => return events(interest, wanted.syscalls, kept),
        Choice::Auto => match events(interest, wanted.syscalls, kept) {
            Ok(collector) => return Ok(collector),
            Err(reason) => {
                tracing::warn!("recording by polling, which sees less (docs/platforms.md): {reason}");
                reason
            }
        },
    };
    #[cfg(target_os = "linux")]
    let system = linux::look::Look::default();
    #[cfg(target_os = "macos")]
    let system = macos::look::Look::default();
    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    let system = sysinfo::Look::default();
    Ok(Box::new(polling::PollingCollector::new(system, interest, wanted.interval, Some(why.to_string()))))
}

/// The collector to which the system tells what happens.
fn events(
    interest: &Interest,
    syscalls: Syscalls,
    kept: Option<Kept<'_>>,
) -> Result<Box<dyn Collector>, DegradationReason> {
    #[cfg(target_os = "linux")]
    return Ok(Box::new(linux::ebpf::EbpfCollector::start(interest, syscalls, kept)?));
    #[cfg(windows)]
    {
        let _ = (syscalls, kept);
        let source = windows::source::EtwSource::start(interest)?;
        let system = source.system();
        Ok(Box::new(watched::WatchedCollector::new(source, system)))
    }
    #[cfg(target_os = "macos")]
    {
        let _ = (syscalls, kept);
        let source = macos::client::listen(interest).map_err(DegradationReason::EndpointSecurity)?;
        Ok(Box::new(watched::WatchedCollector::new(source, macos::look::Look::beside_events())))
    }
    #[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
    {
        let _ = (interest, syscalls, kept);
        Err(DegradationReason::UnsupportedSystem)
    }
}
