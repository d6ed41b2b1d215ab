//! Which instance a process belongs to.
//!
//! An agent that starts its own program again, with nothing of another program between, is one instance: a wrapper and its
//! native program, a relaunch, helpers. Below a shell, or whatever else it has started, it is an instance of its own. What
//! left the tree by setsid, by two forks, or to init, has kept its mark. What was started by somebody else in the agent's
//! name, as by systemd, a server of terminals or one of containers, has not: of it the environment tells, where it was
//! passed on, and only where it leaves no doubt.

use super::{Engine, Instance, Process, gap_ms};
use crate::collect::{self, Collector};
use crate::event::{Event, Exec, ProcessKey};
use crate::hash::fnv1a;
use crate::identify::{Match, Role, is_interpreter};
use crate::record::inspect::TICK_NS;
use crate::record::rows::AgentRow;

/// A variable whose value is so long holds the id of a session. Others only say that there is an agent (`CLAUDECODE=1`).
const ID_LENGTH: usize = 8;

/// Sessions of an instance that are remembered.
const SESSIONS: usize = 16;

impl Engine {
    /// Whether the program of this process is the same run of the agent. What an agent starts as its helper will be, too.
    pub(super) fn is_own(&self, process: &Process, found: &Match) -> bool {
        let Some(instance) = self.instances.get(&process.instance) else { return false };
        let is_other_role = found.role == Role::Daemon && *instance.row.role != *Role::Daemon.as_str();
        instance.row.agent == found.signature.name && (process.key == instance.root || (process.main && !is_other_role))
    }

    /// Whether it is the agent's own program for another purpose, such as an editor's for its windows.
    pub(super) fn runs_own_program(&self, instance: usize, path: &str) -> bool {
        !is_interpreter(path) && self.instances.get(&instance).is_some_and(|instance| *instance.row.path == *path)
    }

    /// An agent begins in a process that was none of ours.
    pub(super) fn begin(&mut self, event: &Event, exec: &Exec, found: &Match, collector: &mut dyn Collector) {
        // Below an agent whose children are not followed.
        let above = self.known_ancestor(exec.parent, event);
        if let Some(above) = above.as_ref().filter(|above| above.key.pid == exec.parent && self.is_own(above, found)) {
            self.add_below(event, exec, above, true);
            return self.learn(event, exec, above.instance, found);
        }
        let by_marker = || self.marked(exec, event.process.start_ns);
        let parent = above.map(|above| above.instance).or_else(by_marker).and_then(|index| self.instances.get(&index));
        let parent_id = parent.map(|instance| instance.row.agent_id);
        if event.mark.slot != u32::MAX && collector.confirm(event.mark) {
            let gap = gap_ms(event, collector.syscalls_since());
            self.start_instance(event, exec, event.mark, found, parent_id, gap);
        } else if let Some(mark) = collector.mark_tree(event.process.pid) {
            // Recognised late: what it did until it was marked was not seen.
            let since = collector.syscalls_since().map(|since| since.max(collect::boot_ns()));
            self.start_instance(event, exec, mark, found, parent_id, gap_ms(event, since));
        } else {
            tracing::error!(pid = event.process.pid, "an agent was found but could not be marked");
        }
    }

    /// Takes in a process that is outside the agent's tree, when its environment says whose it is. False when it does not.
    pub(super) fn join_by_marker(&mut self, event: &Event, exec: &Exec, collector: &mut dyn Collector) -> bool {
        let Some(index) = self.marked(exec, event.process.start_ns) else { return false };
        // The mark is of this process alone so far.
        if self.marks.contains_key(&event.mark) || !collector.confirm(event.mark) {
            return false;
        }
        self.marks.insert(event.mark, (0, Some(index)));
        self.add_outside(event, exec, index);
        true
    }

    /// The living instance that gave a program its environment; none where more than one may have.
    pub(super) fn marked(&self, exec: &Exec, start_ns: u64) -> Option<usize> {
        let markers: Vec<(&str, &str)> = exec.markers.iter().filter_map(|marker| marker.split_once('=')).collect();
        let older =
            |instance: &Instance| instance.alive > 0 && instance.tracks_children && instance.root.start_ns <= start_ns;
        let living = || self.instances.iter().filter(|(_, instance)| older(instance));
        let ids = || markers.iter().filter(|(_, value)| is_id(value));
        // Whoever runs a container is root there; another user may say what it likes.
        let may_be = |instance: &Instance| exec.uid == 0 || instance.row.uid == i64::from(exec.uid);
        // An agent below another one has the other's variables as well: the younger one is the nearer.
        let by_id = living()
            .filter(|(_, instance)| may_be(instance))
            .filter(|(_, instance)| ids().any(|(_, id)| instance.sessions.iter().any(|session| session == id)))
            .max_by_key(|(_, instance)| instance.root.start_ns);
        if let Some((index, _)) = by_id {
            return Some(*index);
        }
        let only = |name: &str| {
            let mut of_agent =
                living().filter(|(_, instance)| instance.row.uid == i64::from(exec.uid) && self.sets(instance, name));
            let (index, instance) = of_agent.next()?;
            // With an id, it would have been found by that.
            let has_id = ids().any(|(of, _)| self.sets(instance, of));
            let sure = of_agent.next().is_none() && !has_id && !self.had_before(exec.parent, name, instance);
            sure.then_some((index, instance))
        };
        let found = markers.iter().filter_map(|(name, _)| only(name));
        found.max_by_key(|(_, instance)| instance.root.start_ns).map(|(index, _)| *index)
    }

    /// Whether the parent had the variable before this instance began: then it is another one's, such as that of an agent
    /// that started the server and ended.
    fn had_before(&self, parent: u32, variable: &str, instance: &Instance) -> bool {
        let Some(standing) = self.machine.standing(parent) else { return false };
        let parent = ProcessKey { pid: parent, start_ns: standing.start_ticks * TICK_NS };
        parent.start_ns < instance.root.start_ns && !self.machine.variables(parent, &[variable.to_owned()]).is_empty()
    }

    fn sets(&self, instance: &Instance, variable: &str) -> bool {
        let signature = self.catalogue.named(&instance.row.agent);
        signature.is_some_and(|signature| signature.child_env.iter().any(|name| name == variable))
    }

    /// Whether somebody lives whose children can be known by their environment.
    pub(super) fn has_markers(&self) -> bool {
        let has = |instance: &Instance| {
            let signature = self.catalogue.named(&instance.row.agent);
            instance.alive > 0 && signature.is_some_and(|signature| !signature.child_env.is_empty())
        };
        self.instances.values().any(has)
    }

    /// What an agent has started tells the session.
    pub(super) fn learn_session(&mut self, index: usize, exec: &Exec) {
        if exec.markers.is_empty() {
            return;
        }
        let Some(instance) = self.instances.get(&index) else { return };
        let variables = exec.markers.iter().filter_map(|marker| marker.split_once('='));
        let own: Vec<String> = variables
            .filter(|(name, value)| is_id(value) && self.sets(instance, name))
            .map(|(_, value)| value.to_owned())
            // An agent that was started below another one may have the other's still.
            .filter(|id| !self.instances.values().any(|other| other.sessions.contains(id)))
            .collect();
        if let Some(instance) = self.instances.get_mut(&index) {
            instance.sessions.extend(own);
            let old = instance.sessions.len().saturating_sub(SESSIONS);
            instance.sessions.drain(..old);
        }
    }

    /// An id for a new run of an agent: of the process, or, where that process was another agent before, of both.
    pub(super) fn new_agent_id(&self, root: ProcessKey, agent: &str) -> i64 {
        let id = agent_id(&self.boot.id, root, "");
        let is_taken = self.instances.values().any(|instance| instance.row.agent_id == id);
        if is_taken { agent_id(&self.boot.id, root, agent) } else { id }
    }

    /// Whether the instance of this row began in that process.
    pub(super) fn is_root(&self, process: ProcessKey, row: &AgentRow) -> bool {
        [agent_id(&self.boot.id, process, ""), agent_id(&self.boot.id, process, &row.agent)].contains(&row.agent_id)
    }
}

fn is_id(value: &str) -> bool {
    value.len() >= ID_LENGTH
}

/// An id for one run of an agent: the same for whoever asks, at any time, on this machine and boot.
fn agent_id(boot_id: &str, root: ProcessKey, agent: &str) -> i64 {
    // The sign bit is left out, so that the id reads well everywhere.
    let bytes = boot_id.bytes().chain(root.pid.to_le_bytes()).chain(root.start_ns.to_le_bytes()).chain(agent.bytes());
    (fnv1a(bytes) >> 1).cast_signed()
}
