//! Asking again and again what runs, where no events can be had: without rights, without BTF, on other systems.
//!
//! What is seen is told as events, so that all behind the collector is the same. What began and ended between two looks is
//! not seen; an end is told at the look that misses it; and of what a look cannot know (how a process ended, bytes, what
//! was done to a file) nothing is told. [`System`] is what differs from system to system.
//!
//! A look costs little for each process, and the more so the fewer need it: those of agents and those that are new are
//! looked at each time, the rest in turns. It is slower while no agent lives, and when a look is dear.

pub mod system;
pub(super) mod tree;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::descent::{Descent, Member, NO_MARK, Node};
use crate::collect::{CollectError, Collector, Counts, Interest, Place, boot_ns};
use crate::event::{Event, EventKind, Exec, Fork, Mark};
use crate::record::Probe;
use crate::record::rows::CollectorRow;
use crate::value::{Text, whole};
use system::{Glance, Program, System};
use tree::Trees;

/// Between two looks while an agent lives, unless something else is said.
pub const INTERVAL: Duration = Duration::from_millis(500);
/// And while none does, at least.
const IDLE: Duration = Duration::from_secs(1);
/// A look may take this part of the time between two, and what is read of new processes that one.
const SHARE: u32 = 160;
const SHARE_OF_NEW: u32 = 4;
/// However dear it is.
const AT_MOST: Duration = Duration::from_secs(10);
/// A process is looked at each time at first, for a shell becomes the program that it starts.
const YOUNG: u8 = 4;
/// And then once in that time, for it may still do so.
const TURN: Duration = Duration::from_secs(4);

/// Kinds of events that are told.
const KINDS: [&str; 6] = ["fork", "exec", "exit", "open", "close", "connection"];

/// What more than one thread looks at.
#[derive(Default)]
struct Shared {
    told: [AtomicU64; KINDS.len()],
    discarded: AtomicU64,
    /// Bytes (sent, received) of each connection of agents.
    bytes: Mutex<HashMap<u64, (u64, u64)>>,
    /// Nanoseconds between the last two looks, and of CPU that they take of late.
    interval: AtomicU64,
    cost: AtomicU64,
    /// The longest such time while an agent lived.
    longest: AtomicU64,
    /// New processes that were seen, and how many processes and threads had begun before the first look, and at the last.
    new: AtomicU64,
    began: Mutex<Option<(u64, u64)>>,
}

/// Of a process: how it was at the last look.
#[derive(Debug, Clone, Copy)]
struct Seen {
    image: u64,
    looks: u8,
    looked: Instant,
}

type Known = Node<Seen>;

/// Looks again and again.
pub struct PollingCollector<S> {
    system: S,
    interval: Duration,
    known: Descent<Seen>,
    trees: Trees,
    /// Told by the next drain.
    ready: Vec<Event>,
    markers: Vec<String>,
    looks_for_markers: bool,
    agents: usize,
    last: Option<Instant>,
    /// What looks cost of late.
    cost: Duration,
    pause: Duration,
    shared: Arc<Shared>,
    why: Option<String>,
}

impl<S: System> PollingCollector<S> {
    /// A collector for this system; `why` says why there is no better one.
    pub fn new(system: S, interest: &Interest, interval: Option<Duration>, why: Option<String>) -> Self {
        Self {
            system,
            interval: interval.unwrap_or(INTERVAL),
            known: Descent::default(),
            trees: Trees::default(),
            ready: Vec::new(),
            markers: interest.markers.clone(),
            looks_for_markers: false,
            agents: 0,
            last: None,
            cost: Duration::ZERO,
            pause: Duration::ZERO,
            shared: Arc::default(),
            why,
        }
    }

    fn due(&self) -> Option<Instant> {
        let wanted = if self.agents > 0 { self.interval } else { self.interval.max(IDLE) };
        self.last.map(|last| last + wanted.max(self.pause))
    }

    /// Looks, and keeps what is to be told.
    fn look(&mut self) -> Result<(), CollectError> {
        let (started, cpu) = (Instant::now(), self.system.cpu_time());
        let failed = |source| CollectError { what: "the processes cannot be listed", source };
        let pids = self.system.pids().map_err(failed)?;
        let first = self.known.is_empty();
        let now = boot_ns();
        let mut events = Vec::new();
        let mut exits = Vec::new();
        let here: HashSet<u32> = pids.iter().copied().collect();
        let gone: Vec<u32> = self.known.pids().filter(|pid| !here.contains(pid)).collect();
        for pid in gone {
            exits.extend(self.known.remove(pid).and_then(|gone| self.known.exit_of(&gone, None, now)));
        }
        let mut new = Vec::new();
        for pid in pids {
            if self.known.get(pid).is_some_and(|known| !self.is_due(known, started)) {
                continue;
            }
            let Some(glance) = self.system.glance(pid) else {
                exits.extend(self.known.remove(pid).and_then(|gone| self.known.exit_of(&gone, None, now)));
                continue;
            };
            match self.known.get(pid).copied() {
                Some(known) if known.key == glance.process => {
                    if glance.ended && !known.ended {
                        exits.extend(self.known.exit_of(&known, None, now));
                    }
                    let replaced = glance.image != known.more.image && !glance.ended;
                    if replaced && let Program::Is(exec) = self.program(&glance) {
                        let mark = self.known.mark_of_program(&known);
                        let Glance { parent, image, .. } = glance;
                        let uid = exec.uid;
                        let more = Seen { image, looked: started, ..known.more };
                        self.known.insert(Known { parent, mark, uid, more, ..known });
                        if !known.muted {
                            events.push(exec_event(&glance, mark, now, exec));
                        }
                    } else if let Some(known) = self.known.get_mut(pid) {
                        known.more.looks = known.more.looks.saturating_add(1);
                        known.more.looked = started;
                        known.ended = glance.ended;
                        known.parent = glance.parent;
                    }
                }
                known => {
                    exits.extend(known.and_then(|gone| self.known.exit_of(&gone, None, now)));
                    new.push(glance);
                }
            }
        }
        sort_by_descent(&mut new);
        let before_new = self.system.cpu_time();
        for glance in &new {
            self.take_new(glance, first, started, &mut events);
        }
        let of_new = self.system.cpu_time().saturating_sub(before_new);
        if !first {
            self.shared.new.fetch_add(new.len() as u64, Ordering::Relaxed);
        }
        // Of those whose exit is told next, too: the ends of what they had open come before.
        let members = self.known.members();
        self.look_at_trees(&members, now, &mut events);
        events.append(&mut exits);
        self.count(&events);
        self.ready.append(&mut events);
        let cost = self.system.cpu_time().saturating_sub(cpu);
        self.note_cost(started, cost, of_new);
        if first {
            (self.cost, self.pause) = (Duration::ZERO, Duration::ZERO); // it was a look at all of the machine, and says nothing of the next
        }
        Ok(())
    }

    fn look_at_trees(&mut self, members: &[Member], now: u64, events: &mut Vec<Event>) {
        self.trees.look(&mut self.system, members, now, events);
        *self.shared.bytes.lock().unwrap_or_else(PoisonError::into_inner) = self.trees.bytes();
    }

    fn is_due(&self, known: &Known, now: Instant) -> bool {
        let is_watched = !known.ended && (self.known.is_marked(known.mark) || known.more.looks < YOUNG);
        is_watched || now.duration_since(known.more.looked) >= TURN
    }

    /// The program of the process whose image was seen.
    fn program(&mut self, glance: &Glance) -> Program {
        // Of one in a tree its session may be learned.
        let markers: &[String] = if self.looks_for_markers { &self.markers } else { &[] };
        match self.system.program(glance.process, markers) {
            // It may have become another one since.
            Program::Is(_) if self.system.glance(glance.process.pid).is_none_or(|now| now.image != glance.image) => {
                Program::Later
            }
            program => program,
        }
    }

    /// A process that was not there at the last look. At the first look none is told: it is asked what runs.
    fn take_new(&mut self, glance: &Glance, first: bool, now: Instant, events: &mut Vec<Event>) {
        let pid = glance.process.pid;
        let more = Seen { image: glance.image, looks: 0, looked: now };
        let (known, parent) = self.known.child(glance.process, glance.parent, more);
        let known = Known { ended: glance.ended, ..known };
        self.known.insert(known);
        if first || known.muted || known.ended {
            return;
        }
        let above = parent.filter(|parent| self.known.is_marked(parent.mark));
        let forked = glance.image != 0 && parent.is_some_and(|parent| parent.more.image == glance.image);
        if forked && above.is_none() {
            return; // the program of one that is no agent's
        }
        let exec = match self.program(glance) {
            Program::Is(exec) => exec,
            Program::Later => {
                self.known.remove(pid);
                return;
            }
            Program::None => return,
        };
        let mark = above.map_or_else(|| self.known.provisional_mark(), |above| above.mark);
        self.known.insert(Known { mark, uid: exec.uid, ..known });
        let began = glance.process.start_ns;
        if let Some(above) = above {
            let child = Fork { child: glance.process, ns_pid: exec.ns_pid };
            events.push(Event { boot_ns: began, process: above.key, mark, kind: EventKind::Fork(child) });
        }
        if !forked {
            events.push(exec_event(glance, mark, began, exec));
        }
    }

    fn count(&self, events: &[Event]) {
        for event in events {
            let kind = match event.kind {
                EventKind::Fork(_) => 0,
                EventKind::Exec(_) => 1,
                EventKind::Exit(_) => 2,
                EventKind::Open(_) => 3,
                EventKind::Close(_) => 4,
                _ => 5,
            };
            if let Some(told) = self.shared.told.get(kind) {
                told.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn note_cost(&mut self, started: Instant, cost: Duration, of_new: Duration) {
        // One look may be dear for what went on just then.
        self.cost = (self.cost * 3 + cost.saturating_sub(of_new)) / 4;
        self.pause = (self.cost * SHARE + of_new * SHARE_OF_NEW).min(AT_MOST);
        let since = self.last.map_or(Duration::ZERO, |last| started.duration_since(last));
        let nanoseconds = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.shared.interval.store(nanoseconds(since), Ordering::Relaxed);
        if self.agents > 0 {
            self.shared.longest.fetch_max(nanoseconds(since), Ordering::Relaxed);
        }
        self.shared.cost.store(nanoseconds(self.cost), Ordering::Relaxed);
        let began = self.system.began();
        let mut known = self.shared.began.lock().unwrap_or_else(PoisonError::into_inner);
        *known = began.map(|began| (known.map_or(began, |(first, _)| first), began));
        drop(known);
        self.last = Some(started);
    }
}

fn exec_event(glance: &Glance, mark: Mark, boot_ns: u64, exec: Box<Exec>) -> Event {
    Event { boot_ns, process: glance.process, mark, kind: EventKind::Exec(exec) }
}

/// Parents before their children; their starts may be told as the same.
pub(super) fn sort_by_descent(new: &mut [Glance]) {
    let parents: HashMap<u32, u32> = new.iter().map(|glance| (glance.process.pid, glance.parent)).collect();
    let depth = |pid: u32| {
        let above = |pid: &u32| parents.get(pid).copied();
        std::iter::successors(Some(pid), above).take(parents.len() + 1).count()
    };
    new.sort_by_cached_key(|glance| (depth(glance.process.pid), glance.process.start_ns));
}

impl<S: System> Collector for PollingCollector<S> {
    fn drain(&mut self, wait: Duration, events: &mut Vec<Event>) -> Result<(), CollectError> {
        if self.ready.is_empty() {
            if let Some(rest) = self.due().map(|due| due.saturating_duration_since(Instant::now()))
                && !rest.is_zero()
            {
                std::thread::sleep(rest.min(wait));
                if rest > wait {
                    return Ok(());
                }
            }
            // All of the last batch is decided.
            self.known.decided();
            self.look()?;
        }
        events.append(&mut self.ready);
        Ok(())
    }

    fn place(&self) -> Place {
        Place::default()
    }

    fn commit(&mut self, discarded: u64, _durable: Option<Place>) {
        self.shared.discarded.store(discarded, Ordering::Relaxed);
    }

    fn confirm(&mut self, mark: Mark) -> bool {
        self.known.confirm(mark)
    }

    fn release(&mut self, mark: Mark) {
        self.known.release(mark);
    }

    fn mark_tree(&mut self, root: u32) -> Option<Mark> {
        self.known.mark_below(root)
    }

    fn running(&mut self) -> Vec<Event> {
        if let Err(error) = self.look() {
            tracing::error!(%error, "what runs already cannot be found");
        }
        let programs = self.known.programs(&mut self.system, |all, known| !all.is_confirmed(known.mark));
        programs.into_iter().map(|event| Event { mark: NO_MARK, ..event }).collect()
    }

    fn adopt(&mut self, root: u32) -> Option<(Mark, Vec<Event>)> {
        let mark = self.known.mark_below(root)?;
        Some((mark, self.known.programs(&mut self.system, |_, known| known.mark == mark)))
    }

    fn open_already(&mut self) -> Vec<Event> {
        let members = self.known.members();
        let mut events = Vec::new();
        self.look_at_trees(&members, boot_ns(), &mut events);
        self.count(&events);
        // What ended meanwhile is told as an event.
        let (open, ended) = events.into_iter().partition(Event::is_open);
        self.ready.extend::<Vec<Event>>(ended);
        open
    }

    fn syscalls_since(&self) -> Option<u64> {
        None
    }

    fn is_fed(&self) -> bool {
        false
    }

    fn counts(&self) -> Counts {
        Counts { files: false, bytes: false }
    }

    fn agents_live(&mut self, agents: usize) {
        self.agents = agents;
    }

    fn set_interest(&mut self, interest: &Interest) {
        self.markers.clone_from(&interest.markers);
    }

    fn look_for_markers(&mut self, wanted: bool) {
        self.looks_for_markers = wanted;
    }

    fn sweep(&mut self) {}

    fn probe(&self) -> Arc<dyn Probe> {
        Arc::new(PollingProbe {
            shared: Arc::clone(&self.shared),
            why: self.why.as_deref().map(Text::from),
            interval: self.interval,
        })
    }
}

struct PollingProbe {
    shared: Arc<Shared>,
    why: Option<Text>,
    interval: Duration,
}

impl PollingProbe {
    fn row(&self, event: &str) -> CollectorRow {
        CollectorRow {
            collector: std::env::consts::OS.into(),
            mode: "polling".into(),
            degradation_reason: self.why.clone(),
            event: event.into(),
            ..CollectorRow::default()
        }
    }

    /// What is missed, as far as that can be estimated.
    fn blind_spot(&self) -> CollectorRow {
        let milliseconds =
            |number: &AtomicU64| Duration::from_nanos(number.load(Ordering::Relaxed)).as_secs_f64() * 1e3;
        let began = *self.shared.began.lock().unwrap_or_else(PoisonError::into_inner);
        let new = self.shared.new.load(Ordering::Relaxed);
        let estimate = began.map(|(first, last)| last.saturating_sub(first)).map_or_else(String::new, |all| {
            format!(
                "; of {all} processes and threads that have begun on this machine since, {new} were seen as processes: at \
                 most {} were missed",
                all.saturating_sub(new)
            )
        });
        let message = format!(
            "looks every {} ms while an agent lives (the last pause was {:.0} ms, the longest {:.0} ms, and a look takes {:.1} ms of CPU): processes, \
             connections and open files that live shorter than that are missed{estimate}",
            self.interval.as_millis(),
            milliseconds(&self.shared.interval),
            milliseconds(&self.shared.longest),
            milliseconds(&self.shared.cost),
        );
        CollectorRow { blind_spot: Some("polling".into()), message: Some(message.into()), ..self.row("blind_spot") }
    }
}

impl Probe for PollingProbe {
    fn collector(&self) -> Vec<CollectorRow> {
        let discarded = whole(self.shared.discarded.load(Ordering::Relaxed));
        let kind = |(name, told): (&&str, &AtomicU64)| {
            let told = whole(told.load(Ordering::Relaxed));
            CollectorRow { seen: told, submitted: told, received: told, discarded, ..self.row(name) }
        };
        KINDS.iter().zip(&self.shared.told).map(kind).chain([self.blind_spot()]).collect()
    }

    fn open_bytes(&self) -> HashMap<u64, (u64, u64)> {
        HashMap::new()
    }

    fn socket_bytes(&self) -> HashMap<(u64, Option<SocketAddr>), (u64, u64)> {
        let bytes = self.shared.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.iter().map(|(socket_id, bytes)| ((*socket_id, None), *bytes)).collect()
    }
}

#[cfg(test)]
pub(super) mod tests;
