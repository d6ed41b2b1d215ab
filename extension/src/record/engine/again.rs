//! What an earlier recorder left running, gone on with or closed.
//!
//! A row goes on when what it is about lives on; all others get an end that is not known. What happened between the two
//! recorders is in no row.

use std::collections::{HashMap, HashSet};

use super::{Engine, Instance, Process};
use crate::event::{Event, Exec, Mark, ProcessKey};
use crate::record::clock::unix_ns;
use crate::record::files::end_unknown;
use crate::record::found::{Again, Found, Rows};
use crate::record::rows::{AgentRow, ConnectionRow, ProcessRow};

/// The state of what ended while nothing was recorded.
const UNKNOWN: &str = "unknown";

/// The mark of what had none.
const NOWHERE: Mark = Mark { slot: u32::MAX, generation: 0 };

/// A root process that has ended.
const NOBODY: ProcessKey = ProcessKey { pid: 0, start_ns: 0 };

impl Engine {
    /// Goes on where an earlier recorder ended, as if there had been no end: all that happened since is still to come,
    /// and what ended meanwhile too. Once, before the first event.
    pub fn go_on(&mut self, boot_ns: u64) {
        self.clock.set(unix_ns(), boot_ns);
        let Found { here, gone } = self.store.take_found().unwrap_or_default();
        let mut again = Again::new(Found { here: Rows { agents: here.agents, ..Rows::default() }, gone });
        for row in here.processes {
            match self.instance_again(row.agent_id, &mut again) {
                Some((index, instance)) => self.know_again(row, index, instance),
                None => again.gone.processes.push(row),
            }
        }
        for row in here.connections {
            let owner = self.owner_again(&row);
            self.connections.know_again(row, owner, &self.store);
        }
        for row in here.open_files {
            let instance =
                self.instances.values().map(|instance| &instance.row).find(|agent| agent.agent_id == row.agent_id);
            self.files.know_again(row, instance, &self.meaning, &self.store);
        }
        self.close_left(again, boot_ns);
        // Those without a process end with the next batch.
        for instance in self.instances.values_mut() {
            instance.changed = true;
        }
    }

    /// Marks in use.
    #[must_use]
    pub fn marks(&self) -> HashSet<Mark> {
        self.marks.keys().copied().collect()
    }

    fn know_again(&mut self, row: ProcessRow, index: usize, mut instance: Instance) {
        let mark = row.identity.mark.unwrap_or(NOWHERE);
        let key = ProcessKey { pid: u32::try_from(row.pid).unwrap_or(0), start_ns: row.identity.start_ns };
        if self.is_root(key, &instance.row) {
            instance.root = key;
        }
        instance.alive += 1;
        self.instances.insert(index, instance);
        let tree = self.marks.entry(mark).or_insert((0, Some(index)));
        tree.0 += 1;
        tree.1 = tree.1.filter(|only| *only == index);
        let process = Process {
            key,
            instance: index,
            eid: row.eid,
            name: row.name.clone(),
            uid: row.uid.and_then(|uid| u32::try_from(uid).ok()),
            main: row.identity.main,
            mark,
            read_ns: 0,
        };
        self.store.update(|state| state.live_processes.insert(row.eid, row));
        self.know(process);
    }

    /// The owner of a connection, who may have ended.
    fn owner_again(&self, row: &ConnectionRow) -> Process {
        let key = ProcessKey { pid: u32::try_from(row.pid).unwrap_or(0), start_ns: row.identity.start_ns };
        let known = self.processes.get(&key.pid).filter(|process| process.key == key);
        let instance = self.instances.iter().find(|(_, instance)| instance.row.agent_id == row.agent_id);
        known.cloned().unwrap_or_else(|| Process {
            key,
            // One that has ended is none.
            instance: instance.map_or(usize::MAX, |(index, _)| *index),
            eid: row.process_eid,
            name: row.name.clone(),
            uid: row.uid.and_then(|uid| u32::try_from(uid).ok()),
            main: false,
            mark: NOWHERE,
            read_ns: 0,
        })
    }

    /// Goes on with the row of a process that lives on. False when there is none, or it is another agent by now.
    pub(super) fn resume(&mut self, event: &Event, exec: &Exec, again: &mut Again) -> bool {
        let Some(before) = again.process(event.process) else { return false };
        let parent = self.processes.get(&exec.parent).map(|parent| parent.name.clone());
        let found = self.identify(event.process, exec, parent.as_deref());
        // A program may rename itself or be renamed, but not both.
        let same = exec.path.is_empty()
            || before.path.as_deref() == Some(&exec.path)
            || before.cmdline.as_deref() == Some(&self.cmdline(exec));
        let other_agent = found.as_ref().is_some_and(|found| found.signature.name != before.agent);
        let instance = if !same && other_agent { None } else { self.instance_again(before.agent_id, again) };
        let Some((index, mut instance)) = instance else {
            again.gone.processes.push(before);
            return false;
        };
        let is_root = self.is_root(event.process, &instance.row);
        if is_root {
            instance.root = event.process;
        }
        let first = before.how == "fork";
        let row = if same {
            before
        } else {
            let eid = if first { before.eid } else { self.clock.next_eid() };
            let program = self.program_row(event, exec, eid, &instance);
            let program = ProcessRow { exec_path: None, parent_eid: before.parent_eid, depth: before.depth, ..program };
            if first {
                ProcessRow { time_ns: before.time_ns, start_time: before.start_time, parent: before.parent, ..program }
            } else {
                // Since when it runs is not known: it was found now.
                instance.row.processes_total += 1;
                again.gone.processes.push(before);
                ProcessRow { how: "adopted", ..program }
            }
        };
        instance.alive += 1;
        instance.changed = true;
        self.instances.insert(index, instance);
        self.marks.entry(event.mark).or_insert((0, None)).0 += 1;
        let process = Process {
            key: event.process,
            instance: index,
            eid: row.eid,
            name: row.name.clone(),
            uid: Some(exec.uid),
            main: is_root || found.is_some() && !other_agent,
            mark: event.mark,
            read_ns: event.boot_ns,
        };
        let time_ns = self.clock.unix(event.boot_ns);
        self.store.update(|state| {
            if same {
                state.live_processes.insert(row.eid, row);
            } else if first {
                state.become_program(row, time_ns);
            } else {
                state.begin_process(row);
            }
        });
        self.know(process);
        true
    }

    /// An instance whose process lives on, taken out: as it is, or as it was left.
    fn instance_again(&mut self, id: i64, again: &mut Again) -> Option<(usize, Instance)> {
        let known = self.instances.iter().find(|(_, instance)| instance.row.agent_id == id).map(|(index, _)| *index);
        if let Some(index) = known {
            return self.instances.remove(&index).map(|instance| (index, instance));
        }
        let row = again.agents.remove(&id)?;
        let index = self.next_instance;
        self.next_instance += 1;
        let signature = self.catalogue.signatures().find(|signature| signature.name == row.agent);
        let instance = Instance {
            container_id: row.container_id.clone(),
            home: row.home().map(ToString::to_string).unwrap_or_default(),
            key: row.process_eid,
            root: NOBODY,
            tracks_children: signature.is_none_or(|signature| signature.child_process_tracking),
            sessions: Vec::new(),
            alive: 0,
            changed: true,
            ended_ns: None,
            row,
        };
        Some((index, instance))
    }

    /// Closes what a history has that was opened late: what of it lives on has rows of its own by now.
    pub(super) fn close_found(&mut self, found: Found, boot_ns: u64) {
        let mut again = Again::new(found);
        let mut twice: HashMap<i64, (i64, i64)> = HashMap::new();
        for (key, row) in &again.processes {
            if self.processes.get(&key.pid).is_some_and(|process| process.key == *key) {
                twice.entry(row.agent_id).or_default().0 += 1;
            }
        }
        for (socket, row) in &again.connections {
            if row.direction != "listen" && self.connections.has_socket(*socket) {
                twice.entry(row.agent_id).or_default().1 += 1;
            }
        }
        for instance in self.instances.values_mut() {
            if let Some(before) = again.agents.remove(&instance.row.agent_id) {
                let (processes, connections) = twice.get(&before.agent_id).copied().unwrap_or_default();
                instance.go_on_from(&before, processes, connections);
            }
        }
        self.close_left(again, boot_ns);
    }

    /// Closes all that was not gone on with.
    pub(super) fn close_left(&mut self, again: Again, boot_ns: u64) {
        let time_ns = self.clock.unix(boot_ns);
        let left = again.left();
        let mut agents: HashMap<i64, AgentRow> = left.agents.into_iter().map(|row| (row.agent_id, row)).collect();
        for file in left.open_files {
            let instance =
                self.instances.values().map(|instance| &instance.row).find(|row| row.agent_id == file.agent_id);
            let agent = agents.get(&file.agent_id).or(instance);
            let row = end_unknown(&file, agent, &self.meaning, time_ns, &mut self.clock);
            self.store.update(|state| state.file_ops.push(row));
        }
        self.store.update(|state| {
            for row in left.processes {
                state.end_process(ProcessRow { state: UNKNOWN, ..row }, time_ns);
            }
            for row in left.connections {
                // Of one that had ended everything is known.
                let end = if row.state == "time_wait" { "closed" } else { row.state };
                let end = if row.end_time.is_some() { end } else { UNKNOWN };
                state.end_connection(ConnectionRow { state: end, ..row });
            }
            // One that lived on and has ended since has its row.
            for row in state.agents.snapshot().iter().chain(state.live_agents.values()) {
                agents.remove(&row.agent_id);
            }
            for mut row in agents.into_values() {
                if row.end_time.is_none() {
                    row.state = Some(UNKNOWN.into());
                }
                state.end_agent(AgentRow { processes: 0, ..row });
            }
        });
    }
}

impl Instance {
    /// Adds what an earlier recorder knew of it; of what that counted, so much is counted here too.
    fn go_on_from(&mut self, before: &AgentRow, processes: i64, connections: i64) {
        let row = &mut self.row;
        row.processes_total += (before.processes_total - processes).max(0);
        row.connections_total += (before.connections_total - connections).max(0);
        row.bytes_sent = sum(row.bytes_sent, before.bytes_sent);
        row.bytes_received = sum(row.bytes_received, before.bytes_received);
        row.files_read = sum(row.files_read, before.files_read);
        row.files_written = sum(row.files_written, before.files_written);
        row.files_created = sum(row.files_created, before.files_created);
        row.files_deleted = sum(row.files_deleted, before.files_deleted);
        row.start_gap_ms = before.start_gap_ms;
        row.parent = before.parent;
        row.launched_by.clone_from(&before.launched_by);
        row.cwd.clone_from(&before.cwd);
        row.project.clone_from(&before.project);
        self.changed = true;
    }
}

/// Two counts; what either does not know, the sum does not.
fn sum(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    Some(one? + other?)
}
