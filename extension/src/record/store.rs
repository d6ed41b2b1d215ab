//! What a query may read.
//!
//! One writer, the recording thread; any number of readers. Locks are held to copy references, never while a row is
//! matched or sent.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use super::clock::Eids;
use super::found::Found;
use super::live::Live;
use super::log::{Log, Snapshot};
use super::rows::{
    AgentRow, CollectorRow, ConnectionRow, FileOpRow, Happened, OpenFileRow, ProcessRow, SignatureRow, add,
};
use crate::collect::Place;
use crate::history::Readers;
use crate::value::Text;

/// Memory for the finished rows of each table, in bytes: together with all else less than 100 MB.
const AGENTS: usize = 2 << 20;
const PROCESSES: usize = 18 << 20;
const CONNECTIONS: usize = 16 << 20;
const FILE_OPS: usize = 40 << 20;
const EVENTS: usize = 8 << 20;

/// Instances with a gap that are remembered after they have left memory.
const GAPS: usize = 100;

/// Instances with a blind spot that are remembered.
const BLIND_SPOTS: usize = 100;

/// What only the collector knows at the moment of asking.
pub trait Probe: Send + Sync {
    /// Health of the collector, a row a kind of event.
    fn collector(&self) -> Vec<CollectorRow>;
    /// Bytes (read, written) so far of every open file, by the collector's id of the open.
    fn open_bytes(&self) -> HashMap<u64, (u64, u64)>;
    /// Bytes (sent, received) so far over every socket, by the collector's id of it, and of every UDP flow, by its peer
    /// too.
    fn socket_bytes(&self) -> HashMap<(u64, Option<SocketAddr>), (u64, u64)> {
        HashMap::new()
    }
}

/// The rows that grow and the rows that live. Live rows are keyed by their eid (agents: by their process eid).
#[derive(Debug)]
pub struct State {
    /// Instances that ended.
    pub agents: Log<AgentRow>,
    /// Instances that live.
    pub live_agents: Live<AgentRow>,
    /// Programs that ended.
    pub processes: Log<ProcessRow>,
    /// Programs that run.
    pub live_processes: Live<ProcessRow>,
    /// Connections that ended.
    pub connections: Log<ConnectionRow>,
    /// Connections that live.
    pub live_connections: Live<ConnectionRow>,
    /// File operations.
    pub file_ops: Log<FileOpRow>,
    /// Files that are open.
    pub open_files: Live<OpenFileRow>,
    /// What happened besides.
    pub events: Log<Happened>,
    /// Where the numbers of rows come from.
    pub eids: Eids,
    /// The signatures that were read.
    pub signatures: Vec<SignatureRow>,
    /// What is wrong with the recorder's settings.
    pub faults: Vec<String>,
    /// Ended instances whose first moments were not seen whole, the last ones that are in memory no more.
    pub gaps: VecDeque<AgentRow>,
    /// Instances that used `io_uring` where it cannot be seen, the last ones, as they were then.
    pub blind_spots: VecDeque<AgentRow>,
    /// What an earlier recorder left running, until the recording thread has gone on with it or closed it. Nothing is
    /// stored before that.
    pub found: Option<Found>,
    /// How far the collector had read when the rows were as they are.
    pub place: Place,
}

impl Default for State {
    fn default() -> Self {
        Self {
            agents: Log::new(AGENTS),
            live_agents: Live::default(),
            processes: Log::new(PROCESSES),
            live_processes: Live::default(),
            connections: Log::new(CONNECTIONS),
            live_connections: Live::default(),
            file_ops: Log::new(FILE_OPS),
            open_files: Live::default(),
            events: Log::new(EVENTS),
            eids: Eids::default(),
            signatures: Vec::new(),
            faults: Vec::new(),
            gaps: VecDeque::new(),
            blind_spots: VecDeque::new(),
            found: None,
            place: Place::default(),
        }
    }
}

impl State {
    /// The highest eid of a row that can still change; 0 without one.
    #[must_use]
    pub fn highest_live_eid(&self) -> i64 {
        self.live_processes.highest().max(self.live_connections.highest()).max(self.open_files.highest())
    }

    /// Finished rows.
    #[must_use]
    pub fn finished(&self) -> usize {
        self.agents.len() + self.processes.len() + self.connections.len() + self.file_ops.len() + self.events.len()
    }

    /// How many rows began, and how many only changed, since they were taken for the history.
    #[must_use]
    pub fn running(&self) -> (usize, usize) {
        let each = [
            self.live_agents.waiting(),
            self.live_processes.waiting(),
            self.live_connections.waiting(),
            self.open_files.waiting(),
        ];
        each.into_iter().fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }

    /// Which running rows the history has is not known, or it has other ones.
    pub fn all_new(&mut self) {
        self.live_agents.all_new();
        self.live_processes.all_new();
        self.live_connections.all_new();
        self.open_files.all_new();
    }

    /// Remembers an instance that does something that cannot be seen.
    pub fn add_blind_spot(&mut self, agent: &AgentRow) {
        if self.blind_spots.iter().any(|known| known.agent_id == agent.agent_id) {
            return;
        }
        self.blind_spots.push_back(agent.clone());
        self.blind_spots.drain(..self.blind_spots.len().saturating_sub(BLIND_SPOTS));
    }

    /// Forgets instances that are kept elsewhere now.
    pub fn forget_agents(&mut self, kept: &Range<u64>) {
        let before = self.agents.snapshot();
        self.agents.forget(kept);
        let left = self.agents.len();
        let gone = before.iter().rev().skip(left).filter(|agent| agent.start_gap_ms.is_some_and(|gap| gap > 0));
        let gone: Vec<_> = gone.cloned().collect();
        self.gaps.extend(gone.into_iter().rev());
        self.gaps.drain(..self.gaps.len().saturating_sub(GAPS));
    }
}

fn open_connections(state: &State) -> Vec<ConnectionRow> {
    state.live_connections.values().cloned().collect()
}

/// The recorder's rows, shared by the one that writes and all that ask.
#[derive(Default)]
pub struct Store {
    state: RwLock<State>,
    probe: OnceLock<Arc<dyn Probe>>,
    reads: AtomicU64,
    ended: OnceLock<Text>,
    past: RwLock<Past>,
    whole: Mutex<()>,
    durable: Mutex<Option<Place>>,
    /// Apart, for it is told while a history is replaced.
    gaps: RwLock<Gaps>,
}

/// What the store knows of the history.
#[derive(Default)]
struct Past {
    readers: Option<Readers>,
    /// What is wrong with it now.
    fault: Option<String>,
    /// What happened to it.
    notes: Vec<String>,
}

/// When nothing was recorded.
#[derive(Default)]
struct Gaps {
    /// From and to, as the history tells.
    known: Vec<(i64, i64)>,
    /// When an earlier recorder was last heard of, and since when this one records.
    ended: Option<i64>,
    since: Option<i64>,
}

impl Store {
    /// Changes the rows. For the recording thread.
    pub fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says whom to ask for health and running bytes. The first one stays.
    pub fn set_probe(&self, probe: Arc<dyn Probe>) {
        let _ = self.probe.set(probe);
    }

    /// How often a table was read.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Counts a read of a table.
    pub fn count_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// Says that nothing is recorded any more, and why.
    pub fn set_ended(&self, why: &str) {
        let _ = self.ended.set(why.into());
    }

    /// Where the rows are read that are not in memory any more.
    #[must_use]
    pub fn history(&self) -> Option<Readers> {
        self.past.read().unwrap_or_else(PoisonError::into_inner).readers.clone()
    }

    /// Says where; or that the history cannot be read.
    pub fn set_history(&self, readers: Option<Readers>) {
        self.past.write().unwrap_or_else(PoisonError::into_inner).readers = readers;
    }

    /// The same, by something that takes its time; who asks meanwhile waits.
    pub fn replace_history(&self, open: impl FnOnce() -> Option<Readers>) {
        let mut past = self.past.write().unwrap_or_else(PoisonError::into_inner);
        past.readers = None;
        past.readers = open();
    }

    /// Says what is wrong with the history, for `agent_collector` to tell until it is right again.
    pub fn set_history_fault(&self, fault: Option<String>) {
        self.past.write().unwrap_or_else(PoisonError::into_inner).fault = fault;
    }

    /// Says what happened to the history, for `agent_collector` to tell.
    pub fn note_history(&self, note: String) {
        self.past.write().unwrap_or_else(PoisonError::into_inner).notes.push(note);
    }

    /// Says when nothing was recorded, as the history tells, and when an earlier recorder was last heard of. All in UNIX
    /// nanoseconds.
    pub fn set_gaps(&self, gaps: Vec<(i64, i64)>, ended: Option<i64>) {
        let mut here = self.gaps.write().unwrap_or_else(PoisonError::into_inner);
        (here.known, here.ended) = (gaps, ended);
    }

    /// Says that from now on, in UNIX nanoseconds, what agents do is recorded.
    pub fn set_recording_since(&self, since: i64) {
        self.gaps.write().unwrap_or_else(PoisonError::into_inner).since = Some(since);
        if let Some(gap) = self.gap() {
            self.update(|state| state.tell_gap(gap));
        }
    }

    /// From when to when nothing was recorded before this recorder, which the history does not tell yet.
    #[must_use]
    pub fn gap(&self) -> Option<(i64, i64)> {
        let gaps = self.gaps.read().unwrap_or_else(PoisonError::into_inner);
        gaps.ended.zip(gaps.since).filter(|(ended, since)| ended < since)
    }

    /// While this is held the rows are those of whole batches of events: [`State::place`] says exactly how far they go.
    pub fn whole(&self) -> MutexGuard<'_, ()> {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the history goes; none where nothing waits for it.
    #[must_use]
    pub fn durable(&self) -> Option<Place> {
        *self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how far it goes.
    pub fn set_durable(&self, place: Place) {
        *self.durable.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
    }

    /// Takes what an earlier recorder left running, to go on with it or to close it.
    pub fn take_found(&self) -> Option<Found> {
        let found = self.read(|state| state.found.is_some());
        found.then(|| self.update(|state| state.found.take())).flatten()
    }

    /// Finished rows in memory.
    #[must_use]
    pub fn finished(&self) -> usize {
        self.read(State::finished)
    }

    /// Looks at the rows, for a moment.
    pub fn read<T>(&self, take: impl FnOnce(&State) -> T) -> T {
        take(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Instances of agents, ended ones first.
    #[must_use]
    pub fn agents(&self) -> Snapshot<AgentRow> {
        let (ended, mut live, open) = self.read(|state| {
            let live: Vec<_> = state.live_agents.values().cloned().collect();
            let open = if live.is_empty() { Vec::new() } else { open_connections(state) };
            (state.agents.snapshot(), live, open)
        });
        if !open.is_empty() {
            let mut more: HashMap<i64, (i64, i64)> = HashMap::new();
            for (row, (sent, received)) in self.with_bytes(open) {
                let more = more.entry(row.agent_id).or_default();
                more.0 += sent;
                more.1 += received;
            }
            for row in &mut live {
                let (sent, received) = more.get(&row.agent_id).copied().unwrap_or_default();
                add(&mut row.bytes_sent, sent);
                add(&mut row.bytes_received, received);
            }
        }
        ended.and(live)
    }

    /// Programs run by agents, ended ones first.
    #[must_use]
    pub fn processes(&self) -> Snapshot<ProcessRow> {
        self.read(|state| state.processes.snapshot().and(state.live_processes.values().cloned().collect()))
    }

    /// Connections, ended ones first.
    #[must_use]
    pub fn connections(&self) -> Snapshot<ConnectionRow> {
        // The ended ones last: what ends meanwhile is there twice rather than not at all, and then the ended one counts.
        let open = self.read(open_connections);
        let mut live = self.with_bytes(open);
        let (ended, gone) = self.read(|state| {
            let gone: HashSet<i64> = live.iter().map(|(row, _)| row.eid).collect();
            let here: HashSet<i64> = state.live_connections.values().map(|row| row.eid).collect();
            (state.connections.snapshot(), gone.difference(&here).copied().collect::<HashSet<_>>())
        });
        live.retain(|(row, _)| !gone.contains(&row.eid));
        let added = |(mut row, (sent, received)): (ConnectionRow, (i64, i64))| {
            row.bytes_sent = row.bytes_sent.map(|bytes| bytes + sent);
            row.bytes_received = row.bytes_received.map(|bytes| bytes + received);
            row
        };
        ended.and(live.into_iter().map(added).collect())
    }

    /// The same connections, each with the bytes (sent, received) that went since its row was written.
    fn with_bytes(&self, rows: Vec<ConnectionRow>) -> Vec<(ConnectionRow, (i64, i64))> {
        if rows.is_empty() {
            return Vec::new();
        }
        let bytes = self.probe.get().map(|probe| probe.socket_bytes()).unwrap_or_default();
        let more = |row: ConnectionRow| {
            let peer = (row.transport == "udp").then(|| row.peer()).flatten();
            let known = bytes.get(&(row.identity.id, peer)).filter(|_| row.end_time.is_none());
            let more = |before: u64, counted: u64, shown: Option<i64>| {
                let now = i64::try_from(before.saturating_add(counted)).unwrap_or(i64::MAX);
                shown.map_or(0, |shown| (now - shown).max(0))
            };
            let identity = row.identity;
            let more = known.map_or((0, 0), |(sent, received)| {
                (more(identity.sent, *sent, row.bytes_sent), more(identity.received, *received, row.bytes_received))
            });
            (row, more)
        };
        rows.into_iter().map(more).collect()
    }

    /// All that happened, operations on files too.
    #[must_use]
    pub fn events(&self) -> Snapshot<Happened> {
        let (file_ops, events) = self.read(|state| (state.file_ops.snapshot(), state.events.snapshot()));
        Happened::all(file_ops, &events)
    }

    /// File operations.
    #[must_use]
    pub fn file_ops(&self) -> Snapshot<FileOpRow> {
        self.read(|state| state.file_ops.snapshot())
    }

    /// Files that are open, with their running bytes.
    #[must_use]
    pub fn open_files(&self) -> Snapshot<OpenFileRow> {
        let rows: Vec<_> = self.read(|state| state.open_files.values().cloned().collect());
        let bytes = self.probe.get().map(|probe| probe.open_bytes()).unwrap_or_default();
        let with_bytes = |mut row: OpenFileRow| {
            if let Some((read, written)) = bytes.get(&row.identity.id) {
                row.bytes_read = i64::try_from(*read).ok();
                row.bytes_written = i64::try_from(*written).ok();
            }
            row
        };
        Snapshot::of(rows.into_iter().map(with_bytes).collect())
    }

    /// Signatures, the refused ones too.
    #[must_use]
    pub fn signatures(&self) -> Snapshot<SignatureRow> {
        Snapshot::of(self.read(|state| state.signatures.clone()))
    }

    /// The collector's health; no rows while there is no collector. Behind it a row for each instance whose first
    /// moments were not seen whole.
    #[must_use]
    pub fn collector(&self) -> Snapshot<CollectorRow> {
        let mut rows = self.probe.get().map(|probe| probe.collector()).unwrap_or_default();
        let evicted = self.read(|state| {
            state.agents.evicted() + state.processes.evicted() + state.connections.evicted() + state.file_ops.evicted()
        });
        for row in &mut rows {
            row.evicted = i64::try_from(evicted).unwrap_or(i64::MAX);
            row.degradation_reason = self.ended.get().cloned().or_else(|| row.degradation_reason.take());
        }
        let remark = |event: &str, message: String, uid: Option<i64>| {
            let first = rows.first()?;
            Some(CollectorRow {
                collector: first.collector.clone(),
                mode: first.mode.clone(),
                event: event.into(),
                message: Some(message.into()),
                uid,
                ..CollectorRow::default()
            })
        };
        let gap = |agent: &AgentRow| {
            let gap = agent.start_gap_ms.filter(|gap| *gap > 0)?;
            let message = format!(
                "{} (pid {}, agent_id {}): files and connections of its first {gap} ms were not seen",
                agent.agent, agent.pid, agent.agent_id
            );
            remark("gap", message, Some(agent.uid))
        };
        let blind = self.read(|state| state.blind_spots.clone());
        let blind = blind.iter().filter_map(|agent| {
            let message = format!(
                "{} (pid {}, agent_id {}) used io_uring, whose requests this kernel does not tell: files that it changed \
                 and bytes that it moved that way are in no row",
                agent.agent, agent.pid, agent.agent_id
            );
            let row = remark("blind_spot", message, Some(agent.uid))?;
            Some(CollectorRow { blind_spot: Some("io_uring".into()), ..row })
        });
        let faults = self.read(|state| state.faults.clone());
        let faults = faults.into_iter().filter_map(|fault| remark("config", fault, None));
        let past: Vec<_> = {
            let past = self.past.read().unwrap_or_else(PoisonError::into_inner);
            past.notes.iter().chain(&past.fault).cloned().collect()
        };
        let known = self.gaps.read().unwrap_or_else(PoisonError::into_inner).known.clone();
        let gaps = known.into_iter().chain(self.gap()).filter_map(|(ended, began)| {
            let [ended, began] = [ended, began].map(|time_ns| time_ns.div_euclid(1_000_000_000));
            let message = format!(
                "recording ended after {ended} and began again at {began} (UNIX seconds): what agents did between, but for \
                 what still ran then, was not seen"
            );
            remark("gap", message, None)
        });
        let past = past.into_iter().filter_map(|message| remark("history", message, None));
        let (gone, here) = self.read(|state| {
            (state.gaps.clone(), state.agents.snapshot().and(state.live_agents.values().cloned().collect()))
        });
        let remarks =
            gone.iter().chain(here.iter()).filter_map(gap).chain(gaps).chain(blind).chain(faults).chain(past).collect();
        Snapshot::of(rows).and(remarks)
    }
}
