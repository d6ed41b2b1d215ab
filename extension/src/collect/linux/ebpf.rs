//! Loading the programs, attaching them, and telling them what the recorder decided.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, OpenObject, ProgramInput};

use super::decode::{address, bytes_of, decode, kind_of, read};
use super::pins::Pins;
use super::ring::{Ring, RingMap};
use super::uprobes::{self, Lookups};
use super::{abi, adopt, uring};
use crate::collect::latency::Latency;
use crate::collect::{CollectError, Collector, DegradationReason, Interest, Kept, Place, Syscalls};
use crate::event::{Event, EventKind, Mark};
use crate::record::Probe;
use crate::record::rows::CollectorRow;
use crate::value::{Text, whole};

/// The programs, built from `bpf/agentquery.bpf.c` by `./dev bpf`.
#[cfg(target_arch = "x86_64")]
pub(super) static OBJECT: &[u8] = include_bytes!("../../../../bpf/agentquery.x86_64.bpf.o");
#[cfg(target_arch = "aarch64")]
pub(super) static OBJECT: &[u8] = include_bytes!("../../../../bpf/agentquery.aarch64.bpf.o");

/// Records in a batch: what waits for its publication stays small.
const BATCH: usize = 2048;
/// How long system calls are still seen after the last agent.
const LINGER: Duration = Duration::from_secs(180);
/// Sweeps take at most a twentieth of the time.
const SWEEP_SHARE: u32 = 20;
const SWEEP_AT_LEAST: Duration = Duration::from_millis(10);
/// And one in a while also without a reason: mappings end without an event.
const SWEEP_AT_MOST: Duration = Duration::from_secs(1);

/// The programs hear of us so often.
const SAY_AT_LEAST: Duration = Duration::from_secs(1);

/// Always attached, the exits first: a fork that is seen must not be left without its exit.
/// The states of sockets with them: they cost nothing but where a connection begins or ends, and an agent's first moments
/// must not wait for one more attachment.
pub(super) const PROCESS_PROGRAMS: [&str; 5] = ["on_exit", "on_newtask", "on_exec", "on_socket_state", "on_socket_end"];
pub(super) const CALL_PROGRAM: &str = "on_call";
/// With it, and behind it, where the kernel has what they hook.
pub(super) const BYTE_PROGRAMS: [&str; 2] = ["on_send", "on_receive"];
/// What they hook.
const BYTE_HOOKS: [&str; 2] = ["sock_send_length", "sock_recv_length"];
/// Find what ended unseen.
const SWEEPS: [&str; 2] = ["sweep", "sweep_sockets"];

const KINDS: [&str; abi::AQ_KINDS as usize] =
    ["fork", "exec", "exit", "open", "close", "change", "connection", "name", "request"];

/// The numbers that more than one thread looks at.
#[derive(Debug, Default)]
struct Shared {
    received: [AtomicU64; abi::AQ_KINDS as usize],
    undecodable: AtomicU64,
    discarded: AtomicU64,
    /// Bytes of records that the kernel has back though they are not durable.
    at_risk: AtomicU64,
    latency: Latency,
    attached: AtomicBool,
    /// Why look-ups of names are not seen.
    no_lookups: Mutex<Option<String>>,
}

/// eBPF on Linux.
pub struct EbpfCollector {
    // Links first: programs are detached before their maps go.
    calls: Vec<Link>,
    lookups: Lookups,
    /// The programs that hear of `io_uring`; attached with the hook on system calls.
    requests: Vec<&'static str>,
    processes: Vec<Link>, // held: they detach on drop
    ring: Ring,
    maps: Arc<Maps>,
    shared: Arc<Shared>,
    object: Arc<Guarded>,
    pins: Option<Pins>,
    /// When the ring was made, if it outlives us; else 0.
    series: u64,
    heard: Instant,
    /// Marks that a recorder before us left in use.
    left: Vec<Mark>,
    syscalls: Syscalls,
    attached_ns: Option<u64>,
    idle_since: Option<Instant>,
    agents: usize,
    looks_for_markers: bool,
    sweep_wanted: bool,
    swept: Instant,
    sweep_rest: Duration,
    /// When the events of the last drain happened, for the latency.
    drained: Vec<u64>,
}

/// The loaded object. libbpf's object may be used from one thread at a time, and is: only the recording thread calls
/// into it, others hold descriptors of its maps.
struct Guarded(Object);

// SAFETY: see the type's comment; the pointers inside have no thread affinity.
unsafe impl Send for Guarded {}
// SAFETY: as above.
unsafe impl Sync for Guarded {}

struct Maps {
    slots: MapHandle,
    free_slots: MapHandle,
    literals: MapHandle,
    counters: MapHandle,
    files: MapHandle,
    sockets: MapHandle,
    flows: MapHandle,
    control: MapHandle,
    recorder: MapHandle,
    counts_at_sockets: bool,
    programs: Vec<MapProgram>,
}

/// A program's descriptor, to ask the kernel about it.
struct MapProgram(std::os::fd::OwnedFd);

fn refused(what: &str, error: &dyn std::fmt::Display) -> DegradationReason {
    DegradationReason::Refused(format!("{what}: {error:#}"))
}

/// Nanoseconds since boot, the clock of the kernel's records.
#[must_use]
pub fn boot_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid timespec; the clock exists since Linux 2.6.39.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// libbpf's own lines would go to stderr around our log; errors come back with the reason in them.
pub(super) fn log_libbpf() {
    libbpf_rs::set_print(Some((
        libbpf_rs::PrintLevel::Info,
        |_, line| tracing::debug!(target: "libbpf", "{}", line.trim_end()),
    )));
}

fn check_machine() -> Result<(), DegradationReason> {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return Err(DegradationReason::NotPrivileged);
    }
    if !has_btf() {
        return Err(DegradationReason::NoBtf);
    }
    if !in_initial_pid_namespace() {
        return Err(DegradationReason::PidNamespace);
    }
    Ok(())
}

/// Whether the kernel tells its types.
#[must_use]
pub fn has_btf() -> bool {
    std::path::Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// Whether pids here are the host's.
#[must_use]
pub fn in_initial_pid_namespace() -> bool {
    // The initial pid namespace has a fixed inode: PROC_PID_INIT_INO, include/linux/proc_ns.h.
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    namespace.as_os_str() == "pid:[4026531836]"
}

fn map_named(object: &Object, name: &str) -> Result<MapHandle, DegradationReason> {
    let map = object.maps().find(|map| map.name() == name);
    let map = map.ok_or_else(|| DegradationReason::Refused(format!("the object has no map {name}")))?;
    MapHandle::try_from(&map).map_err(|error| refused(name, &error))
}

pub(super) fn attach(object: &Object, name: &str) -> Result<Link, DegradationReason> {
    let program = object.progs_mut().find(|program| program.name() == name);
    let program = program.ok_or_else(|| DegradationReason::Refused(format!("the object has no program {name}")))?;
    program.attach().map_err(|error| refused(name, &error))
}

/// Whether the kernel tells what goes through each socket.
fn can_count_at_sockets() -> bool {
    BYTE_HOOKS.iter().all(|hook| {
        let Ok(name) = CString::new(*hook) else { return false };
        // SAFETY: a string that ends; libbpf prefixes it with btf_trace_ and looks it up in the kernel's types.
        let id = unsafe {
            libbpf_rs::libbpf_sys::libbpf_find_vmlinux_btf_id(name.as_ptr(), libbpf_rs::libbpf_sys::BPF_TRACE_RAW_TP)
        };
        id > 0
    })
}

/// Leaves out the programs whose hooks an older kernel has not.
pub(super) fn leave_out(open: &mut OpenObject, counts_at_sockets: bool) {
    for mut program in open.progs_mut().filter(|program| BYTE_PROGRAMS.iter().any(|name| program.name() == *name)) {
        program.set_autoload(counts_at_sockets);
    }
}

/// The programs, without those for requests that are not named.
fn load(requests: &[&str], counts_at_sockets: bool, pins: Option<&Pins>) -> Result<Object, DegradationReason> {
    let mut open = ObjectBuilder::default().open_memory(OBJECT).map_err(|error| refused("open", &error))?;
    uring::choose(&mut open, requests);
    leave_out(&mut open, counts_at_sockets);
    if let Some(pins) = pins {
        pins.take_maps(&mut open).map_err(|error| refused("pinned maps", &error))?;
    }
    open.load().map_err(|error| refused("load", &error))
}

impl EbpfCollector {
    /// Loads and attaches.
    ///
    /// # Errors
    /// The reason why it cannot be done here.
    pub fn start(interest: &Interest, syscalls: Syscalls, kept: Option<Kept<'_>>) -> Result<Self, DegradationReason> {
        check_machine()?;
        log_libbpf();
        let pins = kept.and_then(|kept| match Pins::open(kept.folder, kept.durable) {
            Ok(pins) => Some(pins),
            Err(error) => {
                tracing::error!(%error, folder = %kept.folder.display(), "nothing will outlive the recorder");
                None
            }
        });
        let counts_at_sockets = can_count_at_sockets();
        let mut requests = uring::programs();
        let object = match load(&requests, counts_at_sockets, pins.as_ref()) {
            Err(reason) if !requests.is_empty() => {
                // Of the kernels that have what these programs need, one may still refuse them.
                requests.clear();
                let object = load(&requests, counts_at_sockets, pins.as_ref())?;
                tracing::error!(%reason, "what agents ask of io_uring is not seen");
                object
            }
            loaded => loaded?,
        };
        let programs = object
            .progs()
            .filter(|program| uring::is_loaded(program.name(), &requests))
            .map(|program| program.as_fd().try_clone_to_owned().map(MapProgram))
            .collect::<io::Result<Vec<_>>>()
            .map_err(|error| refused("programs", &error))?;
        let maps = Maps {
            slots: map_named(&object, "slots")?,
            free_slots: map_named(&object, "free_slots")?,
            literals: map_named(&object, "literals")?,
            counters: map_named(&object, "counters")?,
            files: map_named(&object, "files")?,
            sockets: map_named(&object, "sockets")?,
            flows: map_named(&object, "flows")?,
            control: map_named(&object, "control")?,
            counts_at_sockets,
            recorder: map_named(&object, "recorder")?,
            programs,
        };
        let events = object.maps().find(|map| map.name() == "events");
        let events = events.ok_or_else(|| DegradationReason::Refused("the object has no ring".into()))?;
        let ring = Ring::new(events.as_fd(), events.max_entries()).map_err(|error| refused("ring", &error))?;
        let mut collector = Self {
            calls: Vec::new(),
            lookups: Lookups::new(),
            requests,
            processes: Vec::new(),
            ring,
            maps: Arc::new(maps),
            shared: Arc::default(),
            object: Arc::new(Guarded(object)),
            series: if pins.is_some() { boot_ns() } else { 0 },
            pins,
            heard: Instant::now(),
            left: Vec::new(),
            syscalls,
            attached_ns: None,
            idle_since: None,
            agents: 0,
            looks_for_markers: false,
            sweep_wanted: false,
            swept: Instant::now(),
            sweep_rest: SWEEP_AT_LEAST,
            drained: Vec::new(),
        };
        collector.fill(interest).map_err(|error| refused("settings", &error))?;
        if collector.resumes() {
            let said = collector.said();
            collector.series = said.ring_ns;
            collector.ring.go_to(kept.map_or(0, |kept| kept.durable.position));
            collector.left = collector.marks_in_use();
            if collector.pins.as_ref().is_some_and(|pins| pins.is_attached(CALL_PROGRAM)) {
                collector.attach_calls_since(said.calls_ns);
            }
            collector.count_received();
        }
        collector.say();
        for name in PROCESS_PROGRAMS {
            let link = collector.attach(name)?;
            collector.processes.push(link);
        }
        if syscalls == Syscalls::Always && collector.calls.is_empty() {
            collector.attach_calls();
            if collector.calls.is_empty() {
                return Err(DegradationReason::Refused("the hook on system calls does not attach".into()));
            }
        }
        Ok(collector)
    }

    /// Literals, free slots, and the recorder's own mark.
    fn fill(&mut self, interest: &Interest) -> libbpf_rs::Result<()> {
        self.fill_words(interest)?;
        if !self.resumes() {
            for slot in (abi::AQ_MUTED_SLOT + 1)..abi::AQ_SLOTS {
                self.maps.free_slots.update(&[], &slot.to_ne_bytes(), MapFlags::ANY)?;
            }
        }
        let muted = abi::aq_slot { state: abi::AQ_SLOT_MUTED, generation: 0, refilled_ns: 0, tokens: 0 };
        self.maps.slots.update(&abi::AQ_MUTED_SLOT.to_ne_bytes(), bytes_of(&muted), MapFlags::ANY)?;
        let muted = Mark { slot: abi::AQ_MUTED_SLOT, generation: 0 };
        adopt::mark(&self.object.0, &self.maps.control, std::process::id(), muted)?;
        Ok(())
    }

    /// What is to be looked for. What is new comes before what is no more goes: nothing is missed meanwhile.
    fn fill_words(&self, interest: &Interest) -> libbpf_rs::Result<()> {
        let literals = &self.maps.literals;
        let mut wanted: HashMap<[u8; key_room()], u32> = HashMap::new();
        for (words, flag) in [
            (&interest.literals, abi::AQ_LITERAL),
            (&interest.names, abi::AQ_LAST),
            (&interest.interpreters, abi::AQ_INTERPRETER),
            (&interest.markers, abi::AQ_MARKER),
        ] {
            for word in words {
                let mut key = [0_u8; key_room()];
                let Some(place) = key.get_mut(..word.len()).filter(|_| word.len() < key_room()) else {
                    tracing::warn!(%word, "too long for the kernel's table of literals");
                    continue;
                };
                place.copy_from_slice(word.as_bytes());
                *wanted.entry(key).or_insert(0) |= flag;
            }
        }
        for (key, flags) in &wanted {
            literals.update(key, &flags.to_ne_bytes(), MapFlags::ANY)?;
        }
        let control = abi::aq_control {
            show_every_exec: interest.every_exec.into(),
            look_for_markers: self.looks_for_markers.into(),
            marker_bits: marker_bits(&interest.markers),
            ..adopt::NOTHING_ASKED
        };
        self.maps.control.update(&0_u32.to_ne_bytes(), bytes_of(&control), MapFlags::ANY)?;
        // All are read before one goes: the kernel begins again behind a key that is gone.
        let known: Vec<Vec<u8>> = literals.keys().collect();
        for key in known.iter().filter(|key| !wanted.contains_key(key.as_slice())) {
            literals.delete(key)?;
        }
        Ok(())
    }

    /// A slot for a tree that the kernel did not mark.
    fn take_slot(&self) -> Option<Mark> {
        let taken = self.maps.free_slots.lookup_and_delete(&[]).ok()??;
        let slot = u32::from_ne_bytes(taken.try_into().ok()?);
        let generation = self.slot_now(slot)?.generation.wrapping_add(1);
        let used = abi::aq_slot {
            state: abi::AQ_SLOT_CONFIRMED,
            generation,
            refilled_ns: boot_ns(),
            tokens: u64::from(u32::MAX),
        };
        self.maps.slots.update(&slot.to_ne_bytes(), bytes_of(&used), MapFlags::ANY).ok()?;
        Some(Mark { slot, generation })
    }

    fn attach(&self, name: &str) -> Result<Link, DegradationReason> {
        match &self.pins {
            Some(pins) => pins.attach(&self.object.0, name),
            None => attach(&self.object.0, name),
        }
    }

    fn attach_calls(&mut self) {
        self.attach_calls_since(0);
    }

    /// The hook was attached then, or (0) is now.
    fn attach_calls_since(&mut self, since: u64) {
        match self.attach(CALL_PROGRAM) {
            Ok(link) => {
                self.calls = vec![link];
                self.attach_requests();
                self.attached_ns = Some(if since == 0 { boot_ns() } else { since });
                self.shared.attached.store(true, Ordering::Relaxed);
                self.attach_bytes();
                self.follow_lookups(std::process::id());
            }
            Err(error) => {
                tracing::error!(%error, "the hook on system calls does not attach: files and connections are not seen");
            }
        }
    }

    fn attach_bytes(&mut self) {
        for name in BYTE_PROGRAMS.into_iter().filter(|_| self.maps.counts_at_sockets) {
            match self.attach(name) {
                Ok(link) => self.calls.push(link),
                Err(error) => tracing::error!(%error, "bytes of connections are not counted"),
            }
        }
    }

    fn attach_requests(&mut self) {
        let attached: Result<Vec<_>, _> = self.requests.iter().map(|name| self.attach(name)).collect();
        match attached {
            Ok(links) => self.calls.extend(links),
            Err(error) => {
                tracing::error!(%error, "what agents ask of io_uring is not seen");
                self.requests.clear();
            }
        }
    }

    fn detach_calls(&mut self) {
        self.calls.clear();
        self.lookups = Lookups::new();
        self.attached_ns = None;
        self.shared.attached.store(false, Ordering::Relaxed);
        let Some(pins) = &self.pins else { return };
        let bytes = BYTE_PROGRAMS.iter().filter(|_| self.maps.counts_at_sockets);
        for name in [CALL_PROGRAM].iter().chain(&self.requests).chain(bytes) {
            if let Err(error) = pins.detach(name) {
                tracing::error!(%error, program = name, "a hook on what agents do stays attached");
            }
        }
    }

    /// Has the look-ups of names told that go through the C library of this process.
    fn follow_lookups(&mut self, pid: u32) {
        if !self.calls.is_empty() {
            let done = self.lookups.follow(&self.object.0, pid);
            self.tell_lookups(done);
        }
    }

    /// The same, of a program that begins.
    fn follow_program(&mut self, event: &Event) {
        if let EventKind::Exec(exec) = &event.kind
            && !self.calls.is_empty()
        {
            let done = self.lookups.program(&self.object.0, event.process.pid, exec);
            self.tell_lookups(done);
        }
    }

    fn tell_lookups(&self, done: Result<(), uprobes::Error>) {
        if let Err(error) = done {
            tracing::warn!("look-ups of names by the C library are not seen: {error}");
            let why = format!("look-ups of names by a C library are not seen: {error}");
            *self.shared.no_lookups.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        }
    }

    fn marks_in_use(&self) -> Vec<Mark> {
        let used = |slot: u32| {
            let found = self.slot_now(slot)?;
            (found.state != abi::AQ_SLOT_FREE).then_some(Mark { slot, generation: found.generation })
        };
        ((abi::AQ_MUTED_SLOT + 1)..abi::AQ_SLOTS).filter_map(used).collect()
    }

    /// What was submitted and is not in the ring any more was received, by a recorder before us.
    ///
    /// The programs go on meanwhile, and count a record after they have put it into the ring: both are taken at a moment
    /// of quiet, which is two looks that see the same.
    fn count_received(&self) {
        const LOOKS: u32 = 1000;
        let probe = self.health();
        let counters = || (0..abi::AQ_KINDS).map(|kind| probe.counters(kind)).collect::<Vec<_>>();
        let look = || (probe.ring.produced(), counters());
        let mut seen = look();
        for _ in 0..LOOKS {
            std::thread::sleep(Duration::from_micros(50));
            let again = look();
            if again == seen {
                break;
            }
            seen = again;
        }
        let (produced, counters) = seen;
        let waiting = probe.waiting(produced);
        for ((received, [_, submitted, ..]), waiting) in self.shared.received.iter().zip(counters).zip(waiting) {
            received.store(submitted.saturating_sub(waiting), Ordering::Relaxed);
        }
    }

    fn health(&self) -> EbpfProbe {
        EbpfProbe { maps: Arc::clone(&self.maps), shared: Arc::clone(&self.shared), ring: self.ring.map() }
    }

    /// What the recorder before us said of itself, or we.
    fn said(&self) -> abi::aq_recorder {
        let bytes = self.maps.recorder.lookup(&0_u32.to_ne_bytes(), MapFlags::ANY).ok().flatten();
        let said = bytes.and_then(|bytes| read(&bytes).ok());
        said.unwrap_or(abi::aq_recorder { read_position: 0, heard_ns: 0, calls_ns: 0, ring_ns: 0 })
    }

    /// Says how far we have read, and that we are there.
    fn say(&mut self) {
        let heard_ns = if self.pins.is_some() { boot_ns() } else { 0 };
        let calls_ns = self.attached_ns.unwrap_or(0);
        let read_position = self.ring.position();
        let said = abi::aq_recorder { read_position, heard_ns, calls_ns, ring_ns: self.series };
        if let Err(error) = self.maps.recorder.update(&0_u32.to_ne_bytes(), bytes_of(&said), MapFlags::ANY) {
            tracing::error!(%error, "the programs do not learn how far the ring was read");
        }
        self.heard = Instant::now();
    }

    /// A slot, whatever it is used for.
    fn slot_now(&self, slot: u32) -> Option<abi::aq_slot> {
        let bytes = self.maps.slots.lookup(&slot.to_ne_bytes(), MapFlags::ANY).ok()??;
        read(&bytes).ok()
    }

    /// The slot of a mark, while it is in that use.
    fn slot(&self, mark: Mark) -> Option<abi::aq_slot> {
        self.slot_now(mark.slot).filter(|slot| slot.generation == mark.generation)
    }

    fn set_state(&self, mark: Mark, state: u32) -> bool {
        let Some(slot) = self.slot(mark) else { return false };
        let changed = abi::aq_slot { state, ..slot };
        let written = self.maps.slots.update(&mark.slot.to_ne_bytes(), bytes_of(&changed), MapFlags::ANY);
        if let Err(error) = &written {
            tracing::error!(%error, slot = mark.slot, "a slot's state cannot be written");
        }
        written.is_ok()
    }
}

/// By these the kernel leaves most variables behind (`bpf/environment.h`).
fn marker_bits(names: &[String]) -> [u64; 4] {
    let mut bits = [0; 4];
    for first in names.iter().filter_map(|name| name.as_bytes().first_chunk().copied()) {
        let hash = u32::from_ne_bytes(first).wrapping_mul(abi::AQ_MARKER_HASH) >> 24;
        if let Some(word) = bits.get_mut((hash >> 6) as usize) {
            *word |= 1_u64 << (hash & 63);
        }
    }
    bits
}

const fn key_room() -> usize {
    abi::AQ_LITERAL_MAX as usize
}

impl Collector for EbpfCollector {
    fn drain(&mut self, wait: Duration, events: &mut Vec<Event>) -> Result<(), CollectError> {
        if self.swept.elapsed() >= SWEEP_AT_MOST && self.attached_ns.is_some() {
            self.sweep_wanted = true;
        }
        self.lookups.release();
        if self.sweep_wanted && self.swept.elapsed() >= self.sweep_rest {
            self.run_sweep();
        }
        let wait = if self.sweep_wanted { wait.min(self.sweep_rest) } else { wait };
        self.ring.wait(wait);
        let shared = Arc::clone(&self.shared);
        let drained = &mut self.drained;
        drained.clear();
        let mut candidate = false;
        let mut programs = Vec::new();
        self.ring.read(BATCH, |record| {
            if let Some(count) = kind_of(record).and_then(|kind| shared.received.get(kind as usize)) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            match decode(record) {
                Ok(event) => {
                    if let EventKind::Exec(exec) = &event.kind {
                        candidate |= exec.candidate;
                        programs.push(events.len());
                    }
                    drained.push(event.boot_ns);
                    events.push(event);
                }
                Err(error) => {
                    shared.undecodable.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(%error, "a record of the kernel cannot be read");
                }
            }
        });
        if candidate {
            // Anew for each: else the hook may go while the recorder makes up its mind about this one.
            self.idle_since = Some(Instant::now());
            if self.attached_ns.is_none() {
                self.attach_calls();
            }
        }
        for event in programs.into_iter().filter_map(|place| events.get(place)) {
            self.follow_program(event);
        }
        let idle = self.agents == 0 && self.idle_since.is_some_and(|since| since.elapsed() > LINGER);
        if idle && self.syscalls == Syscalls::OnDemand && !self.calls.is_empty() {
            self.detach_calls();
        }
        Ok(())
    }

    fn place(&self) -> Place {
        Place { series: self.series, position: self.ring.position() }
    }

    fn resumes(&self) -> bool {
        self.pins.as_ref().is_some_and(Pins::resumes)
    }

    fn commit(&mut self, discarded: u64, durable: Option<Place>) {
        self.shared.discarded.store(discarded, Ordering::Relaxed);
        let now = boot_ns();
        if !self.drained.is_empty() || self.heard.elapsed() >= SAY_AT_LEAST {
            self.say();
        }
        for then in self.drained.drain(..) {
            self.shared.latency.add(now.saturating_sub(then));
        }
        let durable = match durable.filter(|_| self.series != 0) {
            Some(durable) if durable.series == self.series => durable.position,
            Some(_) => 0,
            None => u64::MAX,
        };
        let back = self.ring.commit(durable);
        self.shared.at_risk.store(back.saturating_sub(durable), Ordering::Relaxed);
    }

    fn keep_marks(&mut self, used: &HashSet<Mark>) {
        for mark in std::mem::take(&mut self.left) {
            if !used.contains(&mark) {
                self.release(mark);
            }
        }
    }

    fn confirm(&mut self, mark: Mark) -> bool {
        let used = self.slot(mark).is_some_and(|slot| slot.state != abi::AQ_SLOT_FREE);
        used && self.set_state(mark, abi::AQ_SLOT_CONFIRMED)
    }

    fn release(&mut self, mark: Mark) {
        // A free slot of the same generation shows nothing; the next use of it has another generation.
        // Given back once: a slot that is free twice would be given to two trees, and one of them not be seen.
        let used = self.slot(mark).is_some_and(|slot| slot.state != abi::AQ_SLOT_FREE);
        if mark.slot == abi::AQ_MUTED_SLOT || !used || !self.set_state(mark, abi::AQ_SLOT_FREE) {
            return;
        }
        if let Err(error) = self.maps.free_slots.update(&[], &mark.slot.to_ne_bytes(), MapFlags::ANY) {
            tracing::error!(%error, slot = mark.slot, "a slot cannot be given back");
        }
    }

    fn mark_tree(&mut self, root: u32) -> Option<Mark> {
        let mark = self.take_slot()?;
        if let Err(error) = adopt::mark(&self.object.0, &self.maps.control, root, mark) {
            tracing::error!(%error, pid = root, "a running tree cannot be marked");
        }
        if self.attached_ns.is_none() {
            self.attach_calls();
        }
        self.follow_lookups(root);
        Some(mark)
    }

    fn running(&mut self) -> Vec<Event> {
        adopt::with_arguments(self.listed("list_programs"))
    }

    fn adopt(&mut self, root: u32) -> Option<(Mark, Vec<Event>)> {
        let mark = self.take_slot()?;
        // The hook first: what the tree does is seen from the moment of its mark.
        self.idle_since = Some(Instant::now());
        if self.attached_ns.is_none() {
            self.attach_calls();
        }
        match adopt::mark_all(&self.object.0, &self.maps.control, root, mark) {
            Ok(programs) => {
                for event in &programs {
                    self.follow_program(event);
                }
                Some((mark, programs))
            }
            Err(error) => {
                tracing::error!(%error, pid = root, "a running tree cannot be marked");
                self.release(mark);
                None
            }
        }
    }

    fn open_already(&mut self) -> Vec<Event> {
        self.listed("list_files")
    }

    fn syscalls_since(&self) -> Option<u64> {
        self.attached_ns
    }

    fn sees_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    fn agents_live(&mut self, agents: usize) {
        if agents == 0 && self.agents > 0 {
            self.idle_since = Some(Instant::now());
        }
        self.agents = agents;
    }

    fn set_interest(&mut self, interest: &Interest) {
        if let Err(error) = self.fill_words(interest) {
            tracing::error!(%error, "the kernel does not learn of all signatures: some agents are missed");
        }
    }

    fn look_for_markers(&mut self, wanted: bool) {
        if self.looks_for_markers == wanted {
            return;
        }
        self.looks_for_markers = wanted;
        let key = 0_u32.to_ne_bytes();
        let control = self.maps.control.lookup(&key, MapFlags::ANY).ok().flatten();
        let Some(control) = control.and_then(|bytes| read::<abi::aq_control>(&bytes).ok()) else { return };
        let control = abi::aq_control { look_for_markers: wanted.into(), ..control };
        if let Err(error) = self.maps.control.update(&key, bytes_of(&control), MapFlags::ANY) {
            tracing::error!(%error, "what left an agent's tree is not found by its environment");
        }
    }

    fn sweep(&mut self) {
        self.sweep_wanted = true;
    }

    fn probe(&self) -> Arc<dyn Probe> {
        Arc::new(self.health())
    }
}

impl EbpfCollector {
    fn listed(&self, program: &'static str) -> Vec<Event> {
        match adopt::iterate(&self.object.0, program) {
            Ok(written) => adopt::events(&written).collect(),
            Err(error) => {
                tracing::error!(%error, program, "what runs already cannot be found");
                Vec::new()
            }
        }
    }

    fn run_sweep(&mut self) {
        let started = Instant::now();
        for program in self.object.0.progs_mut().filter(|program| SWEEPS.iter().any(|name| program.name() == *name)) {
            if let Err(error) = program.test_run(ProgramInput::default()) {
                tracing::error!(%error, "what ended without a close cannot be found");
            }
        }
        self.sweep_wanted = false;
        self.swept = Instant::now();
        self.sweep_rest = (started.elapsed() * SWEEP_SHARE).max(SWEEP_AT_LEAST);
    }
}

struct EbpfProbe {
    maps: Arc<Maps>,
    shared: Arc<Shared>,
    ring: Arc<RingMap>,
}

impl EbpfProbe {
    /// The sum over the CPUs.
    fn counters(&self, kind: u32) -> [u64; 7] {
        let per_cpu = self.maps.counters.lookup_percpu(&kind.to_ne_bytes(), MapFlags::ANY).ok().flatten();
        let mut sums = [0; 7];
        for cpu in per_cpu.unwrap_or_default() {
            if let Ok(one) = read::<abi::aq_counters>(&cpu) {
                let fields = [
                    one.seen,
                    one.submitted,
                    one.filtered,
                    one.ring_full,
                    one.oversized,
                    one.throttled,
                    one.unsupported_abi,
                ];
                for (sum, field) in sums.iter_mut().zip(fields) {
                    *sum += field;
                }
            }
        }
        sums
    }

    /// Records of each kind before that position of the kernel's that were not read yet.
    fn waiting(&self, produced: u64) -> [u64; abi::AQ_KINDS as usize] {
        let mut waiting = [0; abi::AQ_KINDS as usize];
        self.ring.look(produced, |record| {
            if let Some(count) = kind_of(record).and_then(|kind| waiting.get_mut(kind as usize)) {
                *count += 1;
            }
        });
        waiting
    }

    /// Runs that the kernel skipped because the same program was running on that CPU.
    fn recursion_misses(&self) -> u64 {
        let misses = |program: &MapProgram| {
            let mut info = libbpf_rs::libbpf_sys::bpf_prog_info::default();
            let mut length = u32::try_from(size_of_val(&info)).unwrap_or(0);
            let fd = program.0.as_raw_fd();
            // SAFETY: the descriptor is open, info is a zeroed bpf_prog_info and length is its size.
            let result = unsafe { libbpf_rs::libbpf_sys::bpf_prog_get_info_by_fd(fd, &raw mut info, &raw mut length) };
            if result == 0 { info.recursion_misses } else { 0 }
        };
        self.maps.programs.iter().map(misses).sum()
    }
}

impl EbpfProbe {
    /// How bytes of connections are counted.
    fn bytes_row(&self, mode: &Text) -> CollectorRow {
        let how = if self.maps.counts_at_sockets {
            "bytes of connections are counted at the sockets, whatever call was used"
        } else {
            "bytes of connections are counted by the results of system calls, for this kernel has no sock_send_length \
             (Linux 6.3): those of io_uring are missing"
        };
        CollectorRow {
            collector: "linux".into(),
            mode: mode.clone(),
            event: "bytes".into(),
            message: Some(how.into()),
            ..CollectorRow::default()
        }
    }
}

impl Probe for EbpfProbe {
    fn collector(&self) -> Vec<CollectorRow> {
        let waiting = self.waiting(self.ring.produced());
        let mode: Text =
            if self.shared.attached.load(Ordering::Relaxed) { "ebpf" } else { "ebpf, system calls on demand" }.into();
        let discarded = whole(self.shared.discarded.load(Ordering::Relaxed));
        let misses = whole(self.recursion_misses());
        let microseconds = |share| self.shared.latency.percentile(share).map(|ns| whole(ns / 1000));
        let undecodable = self.shared.undecodable.load(Ordering::Relaxed);
        let at_risk = self.shared.at_risk.load(Ordering::Relaxed);
        let message = [
            (undecodable > 0).then(|| format!("{undecodable} records could not be read")),
            (at_risk > 0).then(|| {
                format!("{at_risk} bytes of records are not stored yet, and would be lost if the recorder crashed now")
            }),
        ];
        let no_lookups = self.shared.no_lookups.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let message = message.into_iter().flatten().reduce(|all, one| format!("{all}; {one}")).map(Text::from);
        (0..abi::AQ_KINDS)
            .zip(KINDS)
            .zip(waiting)
            .zip(&self.shared.received)
            .map(|(((kind, name), in_flight), received)| {
                let [seen, submitted, filtered, ring_full, oversized, throttled, unsupported] =
                    self.counters(kind).map(whole);
                CollectorRow {
                    collector: "linux".into(),
                    mode: mode.clone(),
                    degradation_reason: no_lookups.as_deref().filter(|_| kind == abi::AQ_NAME).map(Text::from),
                    event: name.into(),
                    seen,
                    submitted,
                    filtered,
                    ring_full,
                    oversized,
                    throttled,
                    unsupported_abi: unsupported,
                    recursion_misses: misses,
                    received: whole(received.load(Ordering::Relaxed)),
                    in_flight: whole(in_flight),
                    discarded,
                    latency_p50_us: microseconds(0.5),
                    latency_p95_us: microseconds(0.95),
                    latency_p99_us: microseconds(0.99),
                    message: message.clone(),
                    ..CollectorRow::default()
                }
            })
            .chain([self.bytes_row(&mode)])
            .collect()
    }

    fn socket_bytes(&self) -> HashMap<(u64, Option<SocketAddr>), (u64, u64)> {
        let socket = |key: Vec<u8>| {
            let bytes = self.maps.sockets.lookup(&key, MapFlags::ANY).ok()??;
            let socket: abi::aq_socket = read(&bytes).ok()?;
            Some(((socket.socket_id, None), (socket.bytes_sent, socket.bytes_received)))
        };
        let flow = |key: Vec<u8>| {
            let bytes = self.maps.flows.lookup(&key, MapFlags::ANY).ok()??;
            let (key, flow) = (read::<abi::aq_flow_key>(&key).ok()?, read::<abi::aq_flow>(&bytes).ok()?);
            let peer = address(u8::try_from(key.family).ok()?, key.remote, key.remote_port);
            Some(((key.socket_id, Some(peer)), (flow.bytes_sent, flow.bytes_received)))
        };
        // Bounded, as below.
        let of = |map: &MapHandle| 2 * map.max_entries() as usize;
        let sockets = self.maps.sockets.keys().take(of(&self.maps.sockets)).filter_map(socket);
        sockets.chain(self.maps.flows.keys().take(of(&self.maps.flows)).filter_map(flow)).collect()
    }

    fn open_bytes(&self) -> HashMap<u64, (u64, u64)> {
        let entry = |key: Vec<u8>| {
            let bytes = self.maps.files.lookup(&key, MapFlags::ANY).ok()??;
            let file: abi::aq_file = read(&bytes).ok()?;
            Some((file.open_id, (file.bytes_read, file.bytes_written)))
        };
        // A key that goes while we are at it makes the kernel begin again: bounded, whatever goes on meanwhile.
        self.maps.files.keys().take(2 * self.maps.files.max_entries() as usize).filter_map(entry).collect()
    }
}
