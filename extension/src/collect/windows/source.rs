//! ETW as a [`Source`]: its sessions' events, put together, in order, of those processes about which more is wanted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::decode::{About, Endpoints, Header, Provider, Record, about, decode, since_1970};
use super::files::Files;
use super::iphelper::{self, Tables};
use super::live;
use super::merge::Merge;
use super::paths::Drives;
use super::processes::{Live, Processes};
use super::session::{Losses, Plan, Session};
use super::sockets::{Sockets, name};
use super::tables::{Owned, connections};
use crate::collect::polling::system::{Glance, Handle, Program, Socket, System};
use crate::collect::sysinfo::{Look, boot_ns_at};
use crate::collect::watched::{Source, Told, Tracked, What, Who};
use crate::collect::{CollectError, DegradationReason, Interest, boot_ns};
use crate::event::{EventKind, ProcessKey};
use crate::record::Probe;
use crate::record::rows::CollectorRow;
use crate::value::{Text, whole};

/// Processes alone: their starts are never crowded out by files.
static PROCESSES: Plan = Plan {
    name: "agentquery-process",
    guid: 0x5b1d_8a36_2f0c_4e0b_9c55_6a3f_1d07_52e1,
    buffers: (64, 512),
    flush: 5,
    ordered: true,
    launches: true,
    providers: &[Provider::Process],
};
/// The same where the system does not give its own events to one session more.
static PROCESSES_ALONE: Plan = Plan { launches: false, ..PROCESSES };
/// The rest, of which there is much.
static ACTIVITY: Plan = Plan {
    name: "agentquery-activity",
    guid: 0x9e6c_44f1_7a52_4b0d_8d1e_0b84_c2d9_6f77,
    buffers: (64, 512),
    flush: 20,
    ordered: false,
    launches: false,
    providers: &[Provider::Network, Provider::File, Provider::Dns],
};

/// To try whether there can be one. A recorder's own would end that of one that runs.
static TRIAL: Plan = Plan {
    name: "agentquery-trial",
    guid: 0x2d0a_7b93_61c8_4f7e_a4d5_0e91_37fb_c8a2,
    buffers: (0, 0),
    flush: 1000,
    ordered: true,
    launches: false,
    providers: &[Provider::Process, Provider::Network, Provider::File, Provider::Dns],
};

/// Whether ETW tells this program what happens.
///
/// # Errors
/// Why it does not.
pub fn trial() -> Result<(), DegradationReason> {
    Session::start(&TRIAL, Box::new(|_, _| {})).map(drop)
}

/// Told at once, at most.
const BATCH: usize = 4096;
/// Between two looks at what waits.
const PAUSE: Duration = Duration::from_millis(10);
/// And while nothing does.
const LONG_PAUSE: Duration = Duration::from_millis(250);
/// Between two questions what was lost, and what is listened on.
const ASK: Duration = Duration::from_secs(2);
/// Between two looks which letters the drives have, when one is missing.
const DRIVES: Duration = Duration::from_secs(5);
/// Between two looks at what ends by time alone.
const TICK_NS: u64 = 100_000_000;
/// What a process did is heard for so long after its end.
const LAST_WORDS_NS: u64 = 1_000_000_000;

/// Kinds of events, as `agent_collector` has them.
const KINDS: [&str; 4] = ["process", "file", "connection", "name"];
const PROCESS: usize = 0;
const FILE: usize = 1;

fn kind_of(provider: Provider) -> usize {
    match provider {
        Provider::Process | Provider::Launch => PROCESS,
        Provider::File => FILE,
        Provider::Network => 2,
        Provider::Dns => 3,
    }
}

/// What both sessions' threads, the recording thread and queries share.
struct Shared {
    tracked: Arc<Tracked>,
    /// Variables that are looked for in the environment of what begins.
    markers: Mutex<Vec<String>>,
    state: Mutex<State>,
    merge: Mutex<Merge>,
    arrived: Condvar,
    counts: [Counts; KINDS.len()],
    discarded: AtomicU64,
    /// Why command lines are not heard, but read from each process.
    no_launches: Option<String>,
    /// By session, the same order as [`EtwSource::sessions`].
    losses: [Mutex<Losses>; 2],
}

#[derive(Default)]
struct Counts {
    seen: AtomicU64,
    filtered: AtomicU64,
    /// Cut off, or of a layout that is not known.
    unread: AtomicU64,
}

struct State {
    processes: Processes,
    files: Files,
    sockets: Sockets,
    drives: Drives,
    drives_read: Instant,
    /// Processes that ended, and when.
    ended: Vec<(u32, u64)>,
    ticked_ns: u64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// An event, on the thread of its session.
    fn hear(&self, header: &Header, bytes: &[u8]) {
        let Some(counts) = self.counts.get(kind_of(header.provider)) else { return };
        let count = |which: &AtomicU64| which.fetch_add(1, Ordering::Relaxed);
        count(&counts.seen);
        let wanted = match about(header, bytes) {
            Some(About::Anyone) => true,
            Some(About::Process(pid)) => self.tracked.contains(pid),
            Some(About::Request(irp)) => locked(&self.state).files.awaits(irp),
            None => {
                count(&counts.unread);
                return;
            }
        };
        if !wanted {
            count(&counts.filtered);
            return;
        }
        match decode(header, bytes) {
            Ok(Record::Nothing) => drop(count(&counts.filtered)),
            Ok(record) => self.take(header, record),
            Err(_) => drop(count(&counts.unread)),
        }
    }

    fn take(&self, header: &Header, record: Record) {
        let happened_ns = boot_ns_at(since_1970(header.time));
        let mut told = Vec::new();
        // Before all else: it may be over in a moment.
        let live = match &record {
            Record::Start(start) => {
                self.tracked.begin(start.pid);
                let markers = locked(&self.markers).clone();
                live::ask(start.pid, start.created, &markers)
            }
            _ => Live::default(),
        };
        let mut state = locked(&self.state);
        let State { processes, files, sockets, drives, ended, .. } = &mut *state;
        match record {
            Record::Start(start) => processes.start(start, live, happened_ns, drives, &mut told),
            Record::Launch(launch) => processes.launch(launch, happened_ns, drives, &mut told),
            Record::Stop(stop) => {
                ended.push((stop.pid, happened_ns));
                processes.stop(&stop, happened_ns, drives, &mut told);
            }
            Record::File(file) => files.take(file, header.pid, happened_ns, drives, &mut told),
            Record::Network(packet) => sockets.take(packet, happened_ns, &mut told),
            Record::Lookup { host, addresses } => {
                let what = What::Act(name(host, addresses));
                told.push(Told { boot_ns: happened_ns, process: Who::Pid(header.pid), what });
            }
            Record::Nothing => {}
        }
        self.tell(state, told);
    }

    /// Puts what was told to what waits for its turn.
    fn tell(&self, mut state: MutexGuard<'_, State>, mut told: Vec<Told>) {
        for one in &mut told {
            let (Who::Pid(pid) | Who::Key(ProcessKey { pid, .. })) = one.process;
            let uid = match &mut one.what {
                What::Act(EventKind::Open(open)) => &mut open.uid,
                What::Act(EventKind::Change(change)) => &mut change.uid,
                _ => continue,
            };
            let known = state.processes.user(pid).or_else(|| {
                let uid = live::user(pid)?;
                state.processes.know_user(pid, uid);
                Some(uid)
            });
            *uid = known.unwrap_or(0);
        }
        drop(state);
        if !told.is_empty() {
            locked(&self.merge).add(boot_ns(), told);
            self.arrived.notify_one();
        }
    }

    /// What time alone brings about.
    fn tick(&self) {
        let now = boot_ns();
        let mut told = Vec::new();
        let mut state = locked(&self.state);
        let State { processes, files, sockets, drives, ended, ticked_ns, .. } = &mut *state;
        processes.tick(now, drives, &mut told);
        if now.abs_diff(*ticked_ns) >= TICK_NS {
            *ticked_ns = now;
            files.tick(now, drives, &mut told);
            sockets.tick(now, &mut told);
            for (pid, then) in ended.extract_if(.., |(_, then)| then.saturating_add(LAST_WORDS_NS) <= now) {
                files.process_ended(pid, then, &mut told);
                sockets.process_ended(pid, then, &mut told);
            }
        }
        self.tell(state, told);
    }

    /// Looks for what no event tells: listening sockets, drives that got a letter, and of whom no more is wanted.
    fn look(&self) {
        let listening: Vec<Owned> = if self.tracked.is_empty() {
            Vec::new()
        } else {
            let all = iphelper::owned().into_iter();
            all.filter(|owned| owned.listens() && self.tracked.contains(owned.pid)).collect()
        };
        let mut told = Vec::new();
        let mut state = locked(&self.state);
        state.sockets.listen(&listening, boot_ns(), &mut told);
        // What began as a program that may have been an agent's.
        state.files.keep(|pid| self.tracked.contains(pid));
        state.sockets.keep(|pid| self.tracked.contains(pid));
        if state.drives_read.elapsed() > DRIVES {
            state.drives = iphelper::drives();
            state.drives_read = Instant::now();
        }
        self.tell(state, told);
    }
}

/// ETW.
pub struct EtwSource {
    shared: Arc<Shared>,
    sessions: [Session; 2],
    asked: Instant,
}

impl EtwSource {
    /// Starts both sessions.
    ///
    /// # Errors
    /// Why the system does not start them.
    pub fn start(interest: &Interest) -> Result<Self, DegradationReason> {
        match Self::start_with(interest, &PROCESSES, None) {
            Ok(source) => Ok(source),
            Err(DegradationReason::NotAdministrator) => Err(DegradationReason::NotAdministrator),
            Err(why) => Self::start_with(interest, &PROCESSES_ALONE, Some(why.to_string())),
        }
    }

    fn start_with(
        interest: &Interest,
        processes: &'static Plan,
        no_launches: Option<String>,
    ) -> Result<Self, DegradationReason> {
        let state = State {
            processes: Processes::new(processes.launches, boot_ns_at),
            files: Files::default(),
            sockets: Sockets::default(),
            drives: iphelper::drives(),
            drives_read: Instant::now(),
            ended: Vec::new(),
            ticked_ns: 0,
        };
        let shared = Arc::new(Shared {
            tracked: Arc::default(),
            markers: Mutex::new(interest.markers.clone()),
            state: Mutex::new(state),
            merge: Mutex::default(),
            arrived: Condvar::new(),
            counts: Default::default(),
            discarded: AtomicU64::new(0),
            no_launches,
            losses: Default::default(),
        });
        let start = |plan| {
            let heard = Arc::clone(&shared);
            Session::start(plan, Box::new(move |header, bytes| heard.hear(header, bytes)))
        };
        let sessions = [start(processes)?, start(&ACTIVITY)?];
        Ok(Self { shared, sessions, asked: Instant::now() })
    }

    /// What the collector asks for what runs already.
    #[must_use]
    pub fn system(&self) -> impl System + use<> {
        Known { look: Look::default(), tables: Tables::default(), shared: Arc::clone(&self.shared) }
    }

    fn ask(&mut self) {
        for (session, losses) in self.sessions.iter().zip(&self.shared.losses) {
            if let Some(now) = session.losses() {
                *locked(losses) = now;
            }
        }
        self.shared.look();
        self.asked = Instant::now();
    }
}

impl Drop for EtwSource {
    fn drop(&mut self) {
        for (session, losses) in self.sessions.iter_mut().zip(&self.shared.losses) {
            // What was lost until the end is told in the log: nobody asks the table any more.
            let Some(now) = session.stop() else { continue };
            if now != *locked(losses) {
                tracing::warn!(events = now.events, buffers = now.buffers, "ETW lost events");
            }
        }
    }
}

impl Source for EtwSource {
    fn receive(&mut self, wait: Duration, told: &mut Vec<Told>) -> Result<(), CollectError> {
        let until = Instant::now() + wait;
        loop {
            if let Some(status) = self.sessions.iter().find_map(Session::ended) {
                let source = std::io::Error::from_raw_os_error(status.cast_signed());
                return Err(CollectError { what: "the ETW session was stopped", source });
            }
            self.shared.tick();
            if self.asked.elapsed() >= ASK {
                self.ask();
            }
            let before = told.len();
            let mut merge = locked(&self.shared.merge);
            merge.due(boot_ns(), BATCH, told);
            let rest = until.saturating_duration_since(Instant::now());
            if told.len() > before || rest.is_zero() {
                return Ok(());
            }
            let pause = if merge.len() == 0 { LONG_PAUSE } else { PAUSE };
            drop(self.shared.arrived.wait_timeout(merge, rest.min(pause)));
        }
    }

    fn probe(&self) -> Arc<dyn Probe> {
        Arc::new(EtwProbe { shared: Arc::clone(&self.shared) })
    }

    fn tracked(&self) -> Arc<Tracked> {
        Arc::clone(&self.shared.tracked)
    }

    fn set_interest(&mut self, interest: &Interest) {
        locked(&self.shared.markers).clone_from(&interest.markers);
    }

    fn discarded(&mut self, events: u64) {
        self.shared.discarded.store(events, Ordering::Relaxed);
    }
}

/// What the collector asks beside the events: what the system lists, without what they have told.
struct Known {
    look: Look,
    tables: Tables,
    shared: Arc<Shared>,
}

impl System for Known {
    fn pids(&mut self) -> std::io::Result<Vec<u32>> {
        self.look.pids()
    }

    fn glance(&mut self, pid: u32) -> Option<Glance> {
        self.look.glance(pid)
    }

    fn program(&mut self, process: ProcessKey, markers: &[String]) -> Program {
        self.look.program(process, markers)
    }

    fn handles(&mut self, pid: u32) -> Option<Vec<(i32, Handle)>> {
        self.look.handles(pid)
    }

    fn net_ns(&mut self, pid: u32) -> Option<u32> {
        self.look.net_ns(pid)
    }

    fn sockets(&mut self, _pid: u32) -> Option<Vec<Socket>> {
        let owned = self.tables.now().to_vec();
        let state = locked(&self.shared.state);
        Some(connections(&owned, |ends: Endpoints| state.sockets.has_told(ends)))
    }

    fn cpu_time(&self) -> Duration {
        self.look.cpu_time()
    }
}

struct EtwProbe {
    shared: Arc<Shared>,
}

impl EtwProbe {
    /// What went wrong with a kind, in words.
    fn message(&self, kind: usize, losses: Losses) -> Option<Text> {
        let some = |number: u64, words: &str| (number > 0).then(|| format!("{number} {words}"));
        let (state, merge) = (locked(&self.shared.state), locked(&self.shared.merge));
        let unread = self.shared.counts.get(kind).map_or(0, |counts| counts.unread.load(Ordering::Relaxed));
        let mut words = vec![
            some(losses.buffers.into(), "buffers of events were not taken in time"),
            some(unread, "events are cut off, or of a layout that is not known"),
        ];
        match kind {
            PROCESS => {
                let missing = self.shared.no_launches.as_ref();
                words.push(missing.map(|why| {
                    format!("command lines are read from each process, which may have ended by then, for of the system's own events there are none: {why}")
                }));
                words.push(some(state.processes.bare, "programs began and ended before their command line was read"));
                words.push(some(merge.lost, "things that were told had no room to wait for their turn"));
                words.push(some(state.processes.evicted(), "starts were forgotten to make room"));
            }
            FILE => {
                words.push(some(state.files.evicted(), "files and requests were forgotten to make room"));
                words.push(some(state.files.nameless, "files were renamed or linked whose former name is not known"));
            }
            2 => {
                words.push(some(state.sockets.failed, "connections of whichever process on this machine failed"));
                words.push(some(state.sockets.crowded, "datagrams went to a 257th peer of one port"));
                words.push(some(state.sockets.evicted(), "connections were forgotten to make room"));
            }
            _ => {}
        }
        words.into_iter().flatten().reduce(|all, one| format!("{all}; {one}")).map(Text::from)
    }
}

impl Probe for EtwProbe {
    fn collector(&self) -> Vec<CollectorRow> {
        let [of_processes, of_activity] =
            [0, 1].map(|session| self.shared.losses.get(session).map(|losses| *locked(losses)));
        let discarded = whole(self.shared.discarded.load(Ordering::Relaxed));
        let row = |(kind, (event, counts)): (usize, (&&str, &Counts))| {
            // What the second session lost is of files, connections or names: it does not say. Most are of files.
            let losses = match kind {
                PROCESS => of_processes,
                FILE => of_activity,
                _ => None,
            };
            let losses = losses.unwrap_or_default();
            let [heard, filtered, unread] =
                [&counts.seen, &counts.filtered, &counts.unread].map(|count| count.load(Ordering::Relaxed));
            let submitted = whole(heard.saturating_sub(filtered).saturating_sub(unread));
            CollectorRow {
                collector: "windows".into(),
                mode: "etw".into(),
                event: (*event).into(),
                seen: whole(heard.saturating_add(losses.events.into())),
                submitted,
                filtered: whole(filtered),
                ring_full: losses.events.into(),
                oversized: whole(unread),
                received: submitted,
                discarded,
                message: self.message(kind, losses),
                ..CollectorRow::default()
            }
        };
        KINDS.iter().zip(&self.shared.counts).enumerate().map(row).collect()
    }

    fn open_bytes(&self) -> HashMap<u64, (u64, u64)> {
        locked(&self.shared.state).files.bytes()
    }

    fn socket_bytes(&self) -> HashMap<(u64, Option<SocketAddr>), (u64, u64)> {
        locked(&self.shared.state).sockets.bytes()
    }
}
