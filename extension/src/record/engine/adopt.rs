//! Agents that ran before recording began.
//!
//! The collector tells of new things before it is asked what is there, so that nothing falls between the two. What it
//! tells twice is known by its key: the fork of a process that is adopted already adds none, and an exec from before the
//! moment when the process was read turns its row in place of a second one. A process that ended meanwhile has its end
//! in the events to come. What an earlier recorder knew of a process is gone on with (`again`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{Engine, Exec, Process, gap_ms, name_of};
use crate::collect::{self, Collector};
use crate::enrich::Meaning;
use crate::event::{Event, EventKind, Mark, TcpState, Transport};
use crate::identify::Catalogue;
use crate::record::clock::unix_ns;
use crate::record::found::{Again, Found};
use crate::record::rows::ProcessRow;
use crate::record::store::State;

impl Engine {
    /// Takes in the agents that run, with all below them and all that they have open. Once, before the first event.
    pub fn adopt(&mut self, boot_ns: u64, collector: &mut dyn Collector) {
        self.clock.set(unix_ns(), boot_ns);
        let mut again = Again::new(self.store.take_found().unwrap_or_default());
        self.adopt_running(&mut again, collector);
        self.publish_instances(boot_ns, collector);
        self.close_left(again, boot_ns);
        self.store.set_recording_since(unix_ns());
    }

    /// Other signatures and rules hold from now on, also for what runs already. The collector looks for the new ones
    /// already. Agents that are known go on as what they are.
    pub fn reload(
        &mut self,
        catalogue: Arc<Catalogue>,
        meaning: Arc<Meaning>,
        boot_ns: u64,
        collector: &mut dyn Collector,
    ) {
        self.clock.set(unix_ns(), boot_ns);
        self.store.update(|state| state.signatures = catalogue.rows().into_iter().chain(meaning.rows()).collect());
        (self.catalogue, self.meaning) = (catalogue, meaning);
        self.adopt_running(&mut Again::new(Found::default()), collector);
        self.publish_instances(boot_ns, collector);
    }

    /// What runs under no mark yet.
    fn adopt_running(&mut self, again: &mut Again, collector: &mut dyn Collector) {
        let before = self.next_instance;
        let running = collector.running();
        let parents: HashMap<u32, u32> =
            running.iter().filter_map(|event| Some((event.process.pid, program(event)?.parent))).collect();
        // One that was an agent's may be nobody's child by now.
        let was = |event: &Event| again.processes.contains_key(&event.process);
        let is_agent = |event: &&Event| was(event) || program(event).is_some_and(|exec| self.is_agent(event, exec));
        let agents: HashSet<u32> = running.iter().filter(is_agent).map(|event| event.process.pid).collect();
        for root in agents.iter().filter(|agent| is_topmost(**agent, &agents, &parents)) {
            if let Some((mark, tree)) = collector.adopt(*root) {
                self.adopt_tree(mark, tree, again, collector);
            }
        }
        let mut marked = false;
        if self.has_markers() {
            for event in &running {
                let known = self.processes.get(&event.process.pid).is_some_and(|known| known.key == event.process);
                let exec = program(event).filter(|_| !known).map(|exec| self.with_markers(event, exec));
                if exec.is_some_and(|exec| self.marked(&exec, event.process.start_ns).is_some())
                    && let Some((mark, tree)) = collector.adopt(event.process.pid)
                {
                    self.adopt_tree(mark, tree, again, collector);
                    marked = true;
                }
            }
        }
        if marked || self.next_instance > before {
            self.adopt_open(&collector.open_already(), again);
        }
    }

    /// With what its environment says, which the collector does not tell of what runs already.
    fn with_markers(&self, event: &Event, exec: &Exec) -> Exec {
        let markers = self.machine.variables(event.process, &self.catalogue.markers());
        Exec { markers, ..exec.clone() }
    }

    fn is_agent(&self, event: &Event, exec: &Exec) -> bool {
        self.identify(event.process, exec, None).is_some()
    }

    fn adopt_tree(&mut self, mark: Mark, mut tree: Vec<Event>, again: &mut Again, collector: &mut dyn Collector) {
        // A parent is older than its child.
        tree.sort_by_key(|event| (event.process.start_ns, event.process.pid));
        for event in &tree {
            let known = self.processes.get(&event.process.pid).is_some_and(|process| process.key == event.process);
            if let Some(exec) = program(event).filter(|_| !known)
                && !self.resume(event, exec, again)
            {
                self.adopt_process(event, exec, collector.syscalls_since());
            }
        }
        if !self.marks.contains_key(&mark) {
            collector.release(mark); // the agent ended meanwhile
        }
    }

    fn adopt_process(&mut self, event: &Event, exec: &Exec, since: Option<u64>) {
        let parent = self.processes.get(&exec.parent).cloned();
        let found = self.identify(event.process, exec, parent.as_ref().map(|parent| &*parent.name));
        let above = parent.as_ref().and_then(|parent| self.instances.get(&parent.instance));
        let above_id = above.map(|instance| instance.row.agent_id);
        let tracked = above.is_some_and(|instance| instance.tracks_children);
        let with_markers = self.has_markers().then(|| self.with_markers(event, exec));
        let exec = with_markers.as_ref().unwrap_or(exec);
        let started = Event { boot_ns: event.process.start_ns, ..event.clone() };
        match (parent, found) {
            // A wrapper's native program, as at an exec.
            (Some(parent), Some(found)) if self.is_own(&parent, &found) => {
                self.add_below(&started, exec, &parent, true);
                self.learn(&started, exec, parent.instance, &found);
            }
            (_, Some(found)) => {
                // What it did until it was marked was not seen.
                let gap = gap_ms(&started, since.map(|since| since.max(event.boot_ns)));
                self.start_instance(&started, exec, event.mark, &found, above_id, gap);
            }
            (Some(parent), None) if tracked => {
                let own = parent.main && self.runs_own_program(parent.instance, &exec.path);
                self.add_below(&started, exec, &parent, own);
                if !own {
                    self.learn_session(parent.instance, exec);
                }
            }
            (None, None) => match self.marked(exec, event.process.start_ns) {
                Some(index) => self.add_outside(&started, exec, index),
                None => return,
            },
            _ => return,
        }
        let Some(process) = self.processes.get_mut(&event.process.pid) else { return };
        process.read_ns = event.boot_ns;
        let (eid, index) = (process.eid, process.instance);
        self.store.update(|state| {
            if let Some(row) = state.live_processes.get_mut(eid) {
                if row.how != "marker" {
                    row.how = "adopted";
                }
                row.exec_path = None;
                row.path = row.path.take().filter(|path| !path.is_empty());
            }
        });
        let time_ns = self.clock.unix(event.boot_ns);
        if let Some(instance) = self.instances.get_mut(&index) {
            instance.changed(time_ns);
        }
    }

    /// A process of an instance, below one of its processes.
    pub(super) fn add_below(&mut self, started: &Event, exec: &Exec, parent: &Process, main: bool) {
        self.add(started, exec, parent.instance, main, |state, row| {
            let depth = state.live_processes.get(parent.eid).map_or(0, |above| above.depth) + 1;
            ProcessRow { parent_eid: Some(parent.eid), depth, ..row }
        });
    }

    /// A process of an instance that is below none of its processes, as its environment said.
    pub(super) fn add_outside(&mut self, event: &Event, exec: &Exec, instance: usize) {
        self.add(event, exec, instance, false, |_, row| ProcessRow { how: "marker", depth: 1, ..row });
    }

    fn add(
        &mut self,
        started: &Event,
        exec: &Exec,
        index: usize,
        main: bool,
        place: impl FnOnce(&State, ProcessRow) -> ProcessRow,
    ) {
        let Some(mut instance) = self.instances.remove(&index) else { return };
        let eid = self.clock.next_eid();
        let row = self.program_row(started, exec, eid, &instance);
        self.store.update(|state| {
            let row = place(state, row);
            state.begin_process(row);
        });
        instance.alive += 1;
        instance.row.processes_total += 1;
        instance.changed(self.clock.unix(started.boot_ns));
        self.instances.insert(index, instance);
        self.marks.entry(started.mark).or_insert((0, None)).0 += 1;
        let process = Process {
            key: started.process,
            instance: index,
            eid,
            name: name_of(&exec.path),
            uid: Some(exec.uid),
            main,
            mark: started.mark,
            read_ns: 0,
        };
        self.know(process);
    }

    fn adopt_open(&mut self, open: &[Event], again: &mut Again) {
        let mut ports = Ports::default();
        for event in open {
            if let EventKind::Connection(socket) = &event.kind
                && socket.transport == Transport::Tcp
                && socket.state() == Some(TcpState::Listen)
            {
                ports.of(socket.net_ns, event.process.pid).insert(socket.local.port());
            }
        }
        again.know_open(open);
        let discarded = self.discarded;
        for event in open {
            self.with(event, |files, connections, context| match &event.kind {
                EventKind::Open(open) => files.adopt(open, again.open_file(open), context),
                EventKind::Connection(socket) => {
                    let ports = ports.of(socket.net_ns, event.process.pid);
                    let before = again.connection(socket);
                    connections.adopt(socket, before, ports.contains(&socket.local.port()), context)
                }
                _ => false,
            });
        }
        self.discarded = discarded; // it counts what came through the ring
    }
}

/// The ports that are listened on in each network namespace, read once each.
#[derive(Default)]
struct Ports(HashMap<u32, HashSet<u16>>);

impl Ports {
    fn of(&mut self, net_ns: u32, pid: u32) -> &mut HashSet<u16> {
        self.0.entry(net_ns).or_insert_with(|| collect::listening_ports(pid))
    }
}

fn program(event: &Event) -> Option<&Exec> {
    match &event.kind {
        EventKind::Exec(exec) => Some(exec),
        _ => None,
    }
}

/// Whether no agent is above. The snapshot is not of one moment: a loop in it must not hold us.
fn is_topmost(agent: u32, agents: &HashSet<u32>, parents: &HashMap<u32, u32>) -> bool {
    let above = |pid: &u32| parents.get(pid).copied().filter(|parent| parent != pid);
    !std::iter::successors(above(&agent), above).take(parents.len()).any(|pid| agents.contains(&pid))
}
