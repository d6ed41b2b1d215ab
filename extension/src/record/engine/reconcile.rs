//! What lost records leave behind, set right.
//!
//! A process whose exit was lost would run for ever in the tables, and one whose fork was lost would never be in them.
//! The first is found by its absence from the machine; the second when it does something, for its mark says to which
//! tree it belongs. After a loss the sockets of connections are looked for, too: one that no process has any more has ended.

use super::{Engine, Process};
use crate::collect::Collector;
use crate::event::{Event, EventKind, ProcessKey, Request, Step, TcpState};
use crate::record::inspect::{Program, Standing};
use crate::record::rows::ProcessRow;
use crate::value::Text;

/// Between two looks at the machine: a few microseconds a process.
const EVERY_NS: u64 = 5_000_000_000;
/// An exit is in the ring before its process is gone. Events may be out of order between processors by less than this.
const MARGIN_NS: u64 = 1_000_000_000;
/// Most ancestors to ask for: more are a mistake.
const ANCESTORS: usize = 64;

/// Processes that were not there when we looked, and when that was.
#[derive(Debug, Default)]
pub(super) struct Absences {
    looked_ns: u64,
    gone: Vec<ProcessKey>,
    /// Inodes of sockets.
    sockets: Vec<u64>,
    /// Records that had been lost by then.
    lost: i64,
}

impl Engine {
    /// Ends the processes that have ended without a record. `read_until`: the time of the last event that was taken, or
    /// the present when there was none.
    pub(super) fn end_absent(&mut self, read_until: u64, boot_ns: u64, collector: &mut dyn Collector) {
        // Their exits may have been on their way when we looked, but would have been read by now.
        if read_until > self.absences.looked_ns + MARGIN_NS {
            let looked_ns = self.absences.looked_ns;
            for key in std::mem::take(&mut self.absences.gone) {
                self.end_unseen(key, looked_ns, collector);
            }
            for inode in std::mem::take(&mut self.absences.sockets) {
                tracing::debug!(inode, "a socket ended without a record of it");
                self.connections.end_unseen(inode, self.clock.unix(looked_ns), &self.store);
            }
        }
        let decided = self.absences.gone.is_empty() && self.absences.sockets.is_empty();
        if decided && boot_ns > self.absences.looked_ns + EVERY_NS {
            let lives = |key: ProcessKey| self.standing(key).is_some_and(|standing| !standing.ended);
            let gone = self.processes.values().map(|process| process.key).filter(|key| !lives(*key)).collect();
            let mut sockets = self.connections.inodes();
            let lost = if sockets.is_empty() { self.absences.lost } else { lost(collector) };
            if lost > self.absences.lost {
                let here = self.machine.sockets();
                sockets.retain(|inode| here.as_ref().is_some_and(|here| !here.contains(inode)));
            } else {
                sockets.clear();
            }
            self.absences = Absences { looked_ns: boot_ns, gone, sockets, lost };
        }
    }

    fn standing(&self, key: ProcessKey) -> Option<Standing> {
        self.machine.standing(key.pid).filter(|standing| standing.is(key))
    }

    fn end_unseen(&mut self, key: ProcessKey, boot_ns: u64, collector: &mut dyn Collector) {
        if self.processes.get(&key.pid).is_some_and(|process| process.key == key) {
            let Some(process) = self.processes.remove(&key.pid) else { return };
            tracing::debug!(pid = key.pid, "a process ended without a record of it");
            let time_ns = self.clock.unix(boot_ns);
            self.end(&process, time_ns, None, collector);
        }
    }

    /// Makes room for the process that an event begins, and a row for the one that acts without a beginning.
    pub(super) fn find_place(&mut self, event: &Event, collector: &mut dyn Collector) {
        let acts = match &event.kind {
            EventKind::Close(_) | EventKind::Request(Request::Result { .. }) => false,
            // Later states come in the name of the owner, who may have ended.
            EventKind::Connection(step) => match step.step {
                Step::State(state) => matches!(state, TcpState::SynSent | TcpState::Listen),
                Step::Connect | Step::Accept(_) | Step::Listen | Step::Flow(_) => true,
                Step::FlowEnd | Step::End | Step::Found(_) | Step::Held => false,
            },
            _ => true,
        };
        if !acts {
            return;
        }
        if self.processes.get(&event.process.pid).is_none_or(|known| known.key.start_ns < event.process.start_ns) {
            self.take_in(event, collector);
        }
        if let EventKind::Fork(fork) = &event.kind {
            self.end_namesake(fork.child, event.boot_ns, collector);
        }
    }

    /// The pid is used again: whoever had it has ended.
    fn end_namesake(&mut self, new: ProcessKey, boot_ns: u64, collector: &mut dyn Collector) {
        let before = self.processes.get(&new.pid).map(|process| process.key);
        if let Some(before) = before.filter(|before| before.start_ns < new.start_ns) {
            self.end_unseen(before, boot_ns, collector);
        }
    }

    /// A process under a mark that we know acts, and we have no row of it: its fork was lost.
    fn take_in(&mut self, event: &Event, collector: &mut dyn Collector) {
        let key = event.process;
        self.end_namesake(key, event.boot_ns, collector);
        let Some((_, whole)) = self.marks.get(&event.mark).copied() else { return };
        let standing = self.standing(key);
        let parent_pid = match &event.kind {
            EventKind::Exec(exec) => Some(exec.parent),
            _ => standing.map(|standing| standing.parent),
        };
        let above = parent_pid.and_then(|pid| self.known_ancestor(pid, event));
        let Some(index) = above.as_ref().map(|above| above.instance).or(whole) else { return };
        let Some(instance) = self.instances.get_mut(&index).filter(|instance| instance.tracks_children) else { return };
        tracing::debug!(pid = key.pid, agent = &*instance.row.agent, "a process began without a record of it");
        let eid = self.clock.next_eid();
        let time_ns = self.clock.unix(key.start_ns);
        let parent_row =
            above.as_ref().and_then(|above| self.store.update(|state| state.live_processes.get(above.eid).cloned()));
        // An exec tells all of it, as that of a fork that was seen.
        let exec = matches!(event.kind, EventKind::Exec(_));
        let program = if exec || standing.is_none() { Program::default() } else { self.machine.program(key.pid) };
        let uid = match &event.kind {
            EventKind::Open(open) => Some(open.uid),
            EventKind::Change(change) => Some(change.uid),
            _ => None,
        };
        let name = program.path.as_deref().map_or_else(Text::default, super::name_of);
        let row = ProcessRow {
            eid,
            time_ns,
            agent: instance.row.agent.clone(),
            agent_id: instance.row.agent_id,
            pid: key.pid.into(),
            parent: parent_pid.map(i64::from),
            parent_eid: above.as_ref().map(|above| above.eid),
            depth: parent_row.map_or(1, |above| above.depth + 1),
            name: name.clone(),
            path: program.path.map(Text::from),
            cmdline: (!program.argv.is_empty()).then(|| self.masker.mask_argv(&program.argv).join(" ").into()),
            cwd: program.cwd.map(Text::from),
            uid: uid.map(i64::from),
            username: uid.and_then(|uid| self.users.name(uid)),
            start_time: time_ns / 1_000_000_000,
            state: "running",
            how: if exec { "fork" } else { "adopted" },
            container_id: instance.container_id.clone(),
            ..ProcessRow::default()
        };
        instance.alive += 1;
        instance.row.processes_total += 1;
        instance.changed(time_ns);
        self.store.update(|state| state.begin_process(row));
        if let Some(tree) = self.marks.get_mut(&event.mark) {
            tree.0 += 1;
        }
        // Of one that has not begun a program yet it is the parent's.
        let main = exec && above.is_some_and(|above| above.main && Some(above.key.pid) == parent_pid);
        self.know(Process { key, instance: index, eid, name, uid, main, mark: event.mark, read_ns: 0 });
    }

    /// The nearest process at or above `pid` that is of the event's tree.
    pub(super) fn known_ancestor(&self, mut pid: u32, event: &Event) -> Option<Process> {
        for _ in 0..ANCESTORS {
            let known = self.processes.get(&pid).filter(|known| known.key.start_ns <= event.process.start_ns);
            if let Some(known) = known {
                return (known.mark == event.mark).then(|| known.clone());
            }
            pid = self.machine.standing(pid).filter(|_| pid > 1)?.parent;
        }
        None
    }
}

/// Records that did not come to us.
fn lost(collector: &dyn Collector) -> i64 {
    collector.probe().collector().iter().map(|row| row.ring_full + row.oversized + row.throttled).sum()
}
