//! Events of systems that tell of every process of the machine: what is an agent's is picked out here.
//!
//! Linux's programs mark trees in the kernel. ETW and Endpoint Security can't: they tell of all processes, and the
//! collector that is the same for both follows who started whom. A [`Source`] gives what the system told; a
//! [`System`] is asked for what ran before, for what the system does not tell (connections, on macOS), and now and then
//! for processes whose start or end was lost.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::descent::{Descent, NO_MARK, Node};
use super::polling::system::{Program, System};
use super::polling::tree::Trees;
use super::{CollectError, Collector, Counts, Interest, boot_ns};
use crate::event::{Event, EventKind, Exec, Exit, Fork, Mark, ProcessKey};
use crate::record::Probe;

/// What a process did may be told after its end, for not all comes by one way.
const LINGER_NS: u64 = 5_000_000_000;
/// Between two looks for what was not told.
const CHECK: Duration = Duration::from_secs(5);
/// Two ways to ask for the start of a process differ by less.
const SAME_START_NS: u64 = 10_000_000;

/// Something that the system told of any process of the machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// When, in nanoseconds since boot.
    pub boot_ns: u64,
    /// Whom it is about.
    pub process: Who,
    /// What it was.
    pub what: What,
}

/// Whom something is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// This process.
    Key(ProcessKey),
    /// Whoever has that pid: its start was not told.
    Pid(u32),
}

impl Who {
    fn pid(self) -> u32 {
        match self {
            Self::Key(key) => key.pid,
            Self::Pid(pid) => pid,
        }
    }
}

/// What was told.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// It began: with the program of its parent, or with one of its own.
    Begin {
        /// Parent's pid.
        parent: u32,
        /// Its own program.
        program: Option<Box<Exec>>,
    },
    /// It replaced its program.
    Program(Box<Exec>),
    /// It ended; how, where that is known.
    End(Option<Exit>),
    /// Anything else.
    Act(EventKind),
}

/// A system that tells.
pub trait Source {
    /// Waits, at most `wait`, and appends what was told, a bounded batch, in order.
    ///
    /// # Errors
    /// When the system no longer tells.
    fn receive(&mut self, wait: Duration, told: &mut Vec<Told>) -> Result<(), CollectError>;

    /// Health: what was told, and what was lost.
    fn probe(&self) -> Arc<dyn Probe>;

    /// Of whom more than processes is wanted.
    fn tracked(&self) -> Arc<Tracked>;

    /// Between two looks at connections, where nothing tells of them.
    fn looks_at_connections(&self) -> Option<Duration> {
        None
    }

    /// See [`Collector::counts`].
    fn counts(&self) -> Counts {
        Counts::default()
    }

    /// Other signatures hold now: other variables are looked for in the environment of programs.
    fn set_interest(&mut self, interest: &Interest) {
        let _ = interest;
    }

    /// How many of all events so far led to no row.
    fn discarded(&mut self, events: u64) {
        let _ = events;
    }
}

/// Pids of whom more is wanted than that they begin and end: those of agents' trees, and each program that begins until
/// it is known whose it is. A source asks before it decodes what may be a file of anybody.
#[derive(Debug, Default)]
pub struct Tracked(RwLock<HashMap<u32, u32>>);

impl Tracked {
    /// A program begins there: to be called by the source as soon as it hears of it.
    pub fn begin(&self, pid: u32) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner).entry(pid).or_default() += 1;
    }

    /// Of one of the programs that began there no more is wanted.
    fn decide(&self, pid: u32) {
        let mut pids = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(undecided) = pids.get_mut(&pid) {
            *undecided -= 1;
            if *undecided == 0 {
                pids.remove(&pid);
            }
        }
    }

    fn end(&self, pid: u32) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&pid);
    }

    /// Whether nothing is wanted of anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Whether more is wanted.
    #[must_use]
    pub fn contains(&self, pid: u32) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains_key(&pid)
    }
}

/// Of a process that has ended: when that was told, nanoseconds since boot.
type Known = Node<Option<u64>>;

/// The collector of a source.
pub struct WatchedCollector<S, Y> {
    source: S,
    system: Y,
    known: Descent<Option<u64>>,
    trees: Trees,
    tracked: Arc<Tracked>,
    began_ns: u64,
    /// Those whose programs began in the last batch.
    undecided: Vec<u32>,
    /// Those that have ended, in that order.
    ended: Vec<ProcessKey>,
    told: Vec<Told>,
    /// Told by the next drain.
    ready: Vec<Event>,
    checked: Instant,
    /// Processes that were not there at the last check.
    absent: HashSet<ProcessKey>,
    looked: Instant,
    agents: usize,
}

impl<S: Source, Y: System> WatchedCollector<S, Y> {
    /// A collector of what this source tells, which asks the system for the rest.
    pub fn new(source: S, system: Y) -> Self {
        Self {
            tracked: source.tracked(),
            source,
            system,
            known: Descent::default(),
            trees: Trees::of_connections(),
            began_ns: boot_ns(),
            undecided: Vec::new(),
            ended: Vec::new(),
            told: Vec::new(),
            ready: Vec::new(),
            checked: Instant::now(),
            absent: HashSet::new(),
            looked: Instant::now(),
            agents: 0,
        }
    }

    /// Takes what was told, and tells what is of a tree or may become one.
    fn take(&mut self, Told { boot_ns, process, what }: Told, events: &mut Vec<Event>) {
        match (what, process) {
            (What::Begin { parent, program }, Who::Key(key)) => self.begin(boot_ns, key, parent, program, events),
            (What::Program(exec), Who::Key(key)) => {
                if !self.is_known(key) {
                    self.begin(boot_ns, key, exec.parent, None, events);
                }
                self.program(boot_ns, key, exec, events);
            }
            (What::End(exit), process) => self.end(boot_ns, process, exit, events),
            (What::Act(kind), process) => self.act(boot_ns, process, kind, events),
            (What::Begin { .. } | What::Program(_), Who::Pid(_)) => {}
        }
    }

    fn find(&self, who: Who) -> Option<Known> {
        let found = self.known.get(who.pid()).copied()?;
        match who {
            Who::Pid(_) => Some(found),
            Who::Key(key) => is_same(found.key, key).then_some(found),
        }
    }

    fn is_known(&self, key: ProcessKey) -> bool {
        self.find(Who::Key(key)).is_some()
    }

    fn begin(
        &mut self,
        boot_ns: u64,
        key: ProcessKey,
        parent: u32,
        program: Option<Box<Exec>>,
        events: &mut Vec<Event>,
    ) {
        if self.is_known(key) {
            self.undecided.push(key.pid);
            return; // we looked before we heard of it
        }
        if let Some(gone) = self.known.remove(key.pid) {
            // Whose end was not told.
            events.extend(self.known.exit_of(&gone, None, boot_ns));
        }
        let (node, above) = self.known.child(key, parent, None);
        let above = above.filter(|above| self.known.is_marked(above.mark));
        self.known.insert(Known { mark: above.map_or(NO_MARK, |above| above.mark), ..node });
        if let Some(above) = above.filter(|_| !node.muted) {
            let ns_pid = program.as_ref().map_or(key.pid, |exec| exec.ns_pid);
            let kind = EventKind::Fork(Fork { child: key, ns_pid });
            events.push(Event { boot_ns, process: above.key, mark: above.mark, kind });
        }
        match program {
            Some(exec) => self.program(boot_ns, key, exec, events),
            None => self.undecided.push(key.pid),
        }
    }

    fn program(&mut self, boot_ns: u64, key: ProcessKey, exec: Box<Exec>, events: &mut Vec<Event>) {
        self.undecided.push(key.pid);
        let Some(known) = self.known.get(key.pid).copied().filter(|known| !known.muted) else { return };
        let mark = self.known.mark_of_program(&known);
        self.known.insert(Known { mark, uid: exec.uid, ..known });
        events.push(Event { boot_ns, process: known.key, mark, kind: EventKind::Exec(exec) });
    }

    fn end(&mut self, boot_ns: u64, who: Who, exit: Option<Exit>, events: &mut Vec<Event>) {
        let Some(known) = self.find(who).filter(|known| !known.ended) else { return };
        events.extend(self.known.exit_of(&known, exit, boot_ns));
        self.known.insert(Known { ended: true, more: Some(super::boot_ns()), ..known });
        self.ended.push(known.key);
    }

    fn act(&mut self, boot_ns: u64, who: Who, kind: EventKind, events: &mut Vec<Event>) {
        let marked = self.find(who).filter(|known| !known.muted && self.known.is_marked(known.mark));
        if let Some(Known { key, mark, .. }) = marked {
            events.push(Event { boot_ns, process: key, mark, kind });
        }
    }

    /// All of the last batch is decided: of what is no agent's no more is wanted.
    fn decide(&mut self, now_ns: u64) {
        self.known.decided();
        for pid in std::mem::take(&mut self.undecided) {
            let kept = self.known.get(pid).is_some_and(|known| self.known.is_confirmed(known.mark));
            if !kept {
                self.tracked.decide(pid);
            }
        }
        let rested = |key: &ProcessKey| {
            let known = self.known.get(key.pid).filter(|known| known.key == *key);
            known.is_none_or(|known| known.more.is_none_or(|ended| ended + LINGER_NS < now_ns))
        };
        let (rested, ended): (Vec<_>, Vec<_>) = std::mem::take(&mut self.ended).into_iter().partition(rested);
        self.ended = ended;
        for key in rested {
            if self.is_known(key) {
                self.known.remove(key.pid);
                self.tracked.end(key.pid);
            }
        }
    }

    /// Looks for processes whose start or end was not told. What is on its way to us is not lost: an end counts when a
    /// process is away twice.
    fn check(&mut self, events: &mut Vec<Event>) -> Result<(), CollectError> {
        let failed = |source| CollectError { what: "the processes cannot be listed", source };
        let first = self.known.is_empty();
        let now = boot_ns();
        let here: HashSet<u32> = self.system.pids().map_err(failed)?.into_iter().collect();
        let mut new: Vec<_> = Vec::new();
        for pid in here.iter().copied() {
            let Some(glance) = self.system.glance(pid).filter(|glance| !glance.ended) else { continue };
            if !self.is_known(glance.process) {
                new.push(glance);
            }
        }
        super::polling::sort_by_descent(&mut new);
        for glance in new {
            // At the first look none is told: it is asked what runs.
            let program = if first {
                None
            } else {
                let Program::Is(exec) = self.system.program(glance.process, &[]) else { continue };
                self.tracked.begin(glance.process.pid);
                Some(exec)
            };
            self.begin(glance.process.start_ns, glance.process, glance.parent, program, events);
        }
        let away: HashSet<ProcessKey> = self
            .known
            .pids()
            .filter(|pid| !here.contains(pid))
            .filter_map(|pid| self.known.get(pid))
            .filter(|known| !known.ended)
            .map(|known| known.key)
            .collect();
        let absent = std::mem::replace(&mut self.absent, away);
        let gone: Vec<_> = self.absent.intersection(&absent).copied().collect();
        for key in gone {
            self.end(now, Who::Key(key), None, events);
        }
        self.checked = Instant::now();
        Ok(())
    }

    /// Looks at the connections of agents, where nothing tells of them.
    fn look_at_connections(&mut self, events: &mut Vec<Event>) {
        let members = self.known.members();
        self.trees.look(&mut self.system, &members, boot_ns(), events);
        self.looked = Instant::now();
    }

    fn track(&self, mark: Mark) {
        for pid in self.known.pids() {
            let is_of_it = self.known.get(pid).is_some_and(|known| known.mark == mark && !known.ended);
            if is_of_it && !self.tracked.contains(pid) {
                self.tracked.begin(pid);
            }
        }
    }
}

fn is_same(one: ProcessKey, other: ProcessKey) -> bool {
    one.pid == other.pid && one.start_ns.abs_diff(other.start_ns) < SAME_START_NS
}

impl<S: Source, Y: System> Collector for WatchedCollector<S, Y> {
    fn drain(&mut self, wait: Duration, events: &mut Vec<Event>) -> Result<(), CollectError> {
        self.decide(boot_ns());
        events.append(&mut self.ready);
        let wait = if events.is_empty() { wait } else { Duration::ZERO };
        let mut told = std::mem::take(&mut self.told);
        self.source.receive(wait, &mut told)?;
        for one in told.drain(..) {
            self.take(one, events);
        }
        self.told = told;
        if self.checked.elapsed() >= CHECK {
            self.check(events)?;
        }
        let due = self.source.looks_at_connections().filter(|_| self.agents > 0);
        if due.is_some_and(|interval| self.looked.elapsed() >= interval) {
            self.look_at_connections(events);
        }
        Ok(())
    }

    fn counts(&self) -> Counts {
        self.source.counts()
    }

    fn commit(&mut self, discarded: u64, _durable: Option<super::Place>) {
        self.source.discarded(discarded);
    }

    fn confirm(&mut self, mark: Mark) -> bool {
        self.known.confirm(mark)
    }

    fn release(&mut self, mark: Mark) {
        self.known.release(mark);
    }

    fn mark_tree(&mut self, root: u32) -> Option<Mark> {
        let mark = self.known.mark_below(root)?;
        self.track(mark);
        Some(mark)
    }

    fn running(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        if let Err(error) = self.check(&mut events) {
            tracing::error!(%error, "what runs already cannot be found");
        }
        self.ready.append(&mut events);
        let programs = self.known.programs(&mut self.system, |all, known| !all.is_confirmed(known.mark));
        programs.into_iter().map(|event| Event { mark: NO_MARK, ..event }).collect()
    }

    fn adopt(&mut self, root: u32) -> Option<(Mark, Vec<Event>)> {
        let mark = self.mark_tree(root)?;
        Some((mark, self.known.programs(&mut self.system, |_, known| known.mark == mark)))
    }

    /// Connections alone: what a descriptor found open leads to can't be told from what an event opens.
    fn open_already(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.look_at_connections(&mut events);
        let (open, ended): (Vec<_>, Vec<_>) = events.into_iter().partition(Event::is_open);
        self.ready.extend(ended);
        open
    }

    fn syscalls_since(&self) -> Option<u64> {
        Some(self.began_ns)
    }

    fn agents_live(&mut self, agents: usize) {
        self.agents = agents;
    }

    fn set_interest(&mut self, interest: &Interest) {
        self.source.set_interest(interest); // every program is told
    }

    fn sweep(&mut self) {}

    fn probe(&self) -> Arc<dyn Probe> {
        self.source.probe()
    }
}

#[cfg(test)]
mod tests;
