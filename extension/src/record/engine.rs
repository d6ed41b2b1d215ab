//! From events to rows: who is an agent, what belongs to it, what has ended.
//!
//! One thread runs this, in the order in which things happened. It holds what can still change and writes rows into the
//! [`Store`]; it asks the collector to confirm or to release a mark as soon as it knows. Files and connections have
//! modules of their own.

mod reconcile;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use reconcile::Absences;

use super::Store;
use super::clock::{Clock, unix_ns};
use super::connections::Connections;
use super::files::{self, Files};
use super::inspect::Machine;
use super::names::Names;
use super::rows::{AgentRow, Identity, ProcessRow};
use crate::collect::{Collector, Counts};
use crate::enrich::container::Containers;
use crate::enrich::project;
use crate::enrich::users::Users;
use crate::enrich::{Masker, Meaning};
use crate::event::{Event, EventKind, Exec, Exit, Fork, Mark, Name, ProcessKey, Request, Step, TcpState};
use crate::identify::{Catalogue, Match, ProcessFacts, Signature, file_name, is_interpreter};
use crate::inside::{Mounts, seen_from_here};
use crate::record::inspect;
use crate::value::Text;

mod adopt;
mod again;
mod belong;

/// What an agent's sockets sent and received is known with their ends, which come after that of its last process: for so
/// long its row waits for them.
const SETTLE_NS: u64 = 2_000_000_000;

/// A process of an instance.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub key: ProcessKey,
    pub instance: usize,
    /// The row of the program that it runs.
    pub eid: i64,
    pub name: Text,
    /// Real user id; none when only its acts were seen.
    pub uid: Option<u32>,
    /// This process runs the agent's own program, not something that the agent started.
    main: bool,
    mark: Mark,
    /// Of an adopted one: when its program was read. An exec until then is that of the program that was read.
    read_ns: u64,
}

/// One running agent.
#[derive(Debug)]
pub(super) struct Instance {
    pub row: AgentRow,
    pub container_id: Option<Text>,
    /// Where its own files lie: the repository, or else the directory that it was started in.
    pub home: String,
    key: i64,
    root: ProcessKey,
    tracks_children: bool,
    /// Its sessions, as what it started has them in its environment.
    sessions: Vec<String>,
    alive: i64,
    changed: bool,
    /// Its last process ended then, nanoseconds since boot.
    ended_ns: Option<u64>,
}

/// The identity of this boot.
#[derive(Debug, Clone, Default)]
pub struct Boot {
    /// `/proc/sys/kernel/random/boot_id`.
    pub id: String,
    /// Where names can be resolved from here.
    pub mounts: Mounts,
}

/// The state machine between collector and store.
pub struct Engine {
    pub(super) store: Arc<Store>,
    pub(super) clock: Clock,
    pub(super) boot: Boot,
    catalogue: Arc<Catalogue>,
    meaning: Arc<Meaning>,
    masker: Masker,
    users: Users,
    containers: Containers,
    processes: HashMap<u32, Process>,
    instances: HashMap<usize, Instance>,
    next_instance: usize,
    /// Living processes under a mark, and the one instance that every process under it belongs to, if there is one.
    marks: HashMap<Mark, (usize, Option<usize>)>,
    /// Marks of programs that are no agents.
    unclaimed: HashSet<Mark>,
    files: Files,
    connections: Connections,
    names: Names,
    machine: Box<dyn Machine>,
    absences: Absences,
    discarded: u64,
    /// What the collector sees all of.
    counts: Counts,
}

impl Engine {
    /// An engine that writes into this store.
    #[must_use]
    pub fn new(store: Arc<Store>, catalogue: Arc<Catalogue>, meaning: Arc<Meaning>, boot: Boot) -> Self {
        let clock = Clock::new(0);
        store.update(|state| {
            state.eids = clock.eids();
            state.signatures = catalogue.rows().into_iter().chain(meaning.rows()).collect();
        });
        Self {
            store,
            clock,
            boot,
            catalogue,
            meaning,
            masker: Masker::new(),
            users: Users::default(),
            containers: Containers::default(),
            processes: HashMap::new(),
            instances: HashMap::new(),
            next_instance: 0,
            marks: HashMap::new(),
            unclaimed: HashSet::new(),
            files: Files::default(),
            connections: Connections::default(),
            names: Names::default(),
            machine: inspect::machine(),
            absences: Absences::default(),
            discarded: 0,
            counts: Counts::default(),
        }
    }

    /// The same, with eids above one that was given before.
    #[must_use]
    pub fn above(self, eid: i64) -> Self {
        let clock = Clock::new(eid);
        self.store.update(|state| state.eids = clock.eids());
        Self { clock, ..self }
    }

    /// The same, for a collector that sees only some of what is counted ([`Collector::counts`]).
    #[must_use]
    pub fn counting(self, counts: Counts) -> Self {
        Self { counts, ..self }
    }

    /// How many instances have a living process.
    #[must_use]
    pub fn agents_live(&self) -> usize {
        self.instances.len()
    }

    /// Records that led to no row: noise, and what came before a mark was given back.
    #[must_use]
    pub fn discarded(&self) -> u64 {
        self.discarded
    }

    /// Takes a batch, in order. `boot_ns` is the present.
    pub fn take(&mut self, events: &mut Vec<Event>, boot_ns: u64, collector: &mut dyn Collector) {
        self.clock.set(unix_ns(), boot_ns);
        if let Some(found) = self.store.take_found() {
            self.close_found(found, boot_ns);
        }
        let read_until = events.last().map_or(boot_ns, |event| event.boot_ns);
        for event in events.drain(..) {
            self.take_one(&event, collector);
        }
        self.clock.at(boot_ns);
        // After the batch: `env` that is no agent may already have become one.
        for mark in std::mem::take(&mut self.unclaimed) {
            if !self.marks.contains_key(&mark) {
                collector.release(mark);
            }
        }
        self.end_absent(read_until, boot_ns, collector);
        self.connections.end_rested(boot_ns, &self.store);
        self.publish_instances(boot_ns, collector);
        self.files.end_left(boot_ns, &mut self.clock, &self.store);
    }

    fn take_one(&mut self, event: &Event, collector: &mut dyn Collector) {
        self.clock.at(event.boot_ns);
        self.find_place(event, collector);
        match &event.kind {
            EventKind::Exec(exec) => self.exec(event, exec, collector),
            EventKind::Fork(fork) => self.fork(event, fork),
            EventKind::Exit(exit) => self.exit(event, *exit, collector),
            EventKind::Open(open) => self.with(event, |files, _, context| files.open(open, context)),
            EventKind::Change(change) => self.with(event, |files, _, context| files.change(change, context)),
            EventKind::Connection(connection) => {
                if matches!(connection.step, Step::State(TcpState::SynSent | TcpState::Close)) {
                    self.names.forget_connection(connection.socket_id);
                }
                self.with(event, |_, connections, context| connections.step(connection, context));
            }
            EventKind::Name(name) => self.name(event, name),
            EventKind::Close(close) => {
                let time_ns = self.clock.unix(event.boot_ns);
                let known = self.files.close(close, time_ns, &mut self.clock, &self.store);
                self.discarded += u64::from(!known);
            }
            EventKind::Request(Request::Result { request_id, done }) => {
                let time_ns = self.clock.unix(event.boot_ns);
                let asked = self.files.result(*request_id, *done, time_ns, &mut self.clock, &self.store);
                match asked {
                    Some((kind, index)) => {
                        if let Some(instance) = self.instances.get_mut(&index) {
                            files::count(kind, instance);
                            instance.changed(time_ns);
                        }
                    }
                    None => self.discarded += 1,
                }
            }
            EventKind::Request(Request::Ring) => {
                let blind = !collector.sees_requests();
                self.with(event, |_, _, context| {
                    let instance = context.instance.filter(|_| blind);
                    instance.is_some_and(|instance| {
                        context.store.update(|state| state.add_blind_spot(&instance.row));
                        true
                    })
                });
            }
        }
    }

    /// Hands an event of a known process on, with all that a row of it needs.
    fn with(&mut self, event: &Event, take: impl FnOnce(&mut Files, &mut Connections, Context<'_>) -> bool) {
        let known = self.processes.get(&event.process.pid).filter(|process| process.key == event.process).cloned();
        // An owner that has ended: the end of its connection still comes.
        let Some(process) = known.or_else(|| self.connections.owner(event)) else {
            self.discarded += 1;
            return;
        };
        let instance = self.instances.get_mut(&process.instance);
        let context = Context {
            time_ns: self.clock.unix(event.boot_ns),
            process: &process,
            instance,
            clock: &mut self.clock,
            store: &self.store,
            boot: &self.boot,
            catalogue: &self.catalogue,
            meaning: &self.meaning,
            names: &self.names,
        };
        let published = take(&mut self.files, &mut self.connections, context);
        self.discarded += u64::from(!published);
    }

    /// Something that may tell the name of a peer: of a connection that there is, or of those to come.
    fn name(&mut self, event: &Event, name: &Name) {
        if let Some((socket_id, named)) = self.names.of_connection(name) {
            return self.with(event, |_, connections, context| connections.name(socket_id, &named, context));
        }
        let process = self.processes.get(&event.process.pid).filter(|process| process.key == event.process);
        let told = process.is_some_and(|process| {
            let hosts = || {
                // It may have ended: another of the agent then, which sees the same file.
                let others = self.processes.values().filter(|other| other.instance == process.instance);
                let ask = std::iter::once(process).chain(others).map(|process| (process.key.pid, process.uid));
                inspect::hosts(ask, name.mount_ns, self.boot.mounts)
            };
            self.names.learn(process.instance, name, hosts)
        });
        self.discarded += u64::from(!told);
    }

    fn fork(&mut self, event: &Event, fork: &Fork) {
        let Some(parent) = self.processes.get(&event.process.pid).filter(|parent| parent.key == event.process).cloned()
        else {
            self.discarded += 1;
            return;
        };
        let adopted = self.processes.get(&fork.child.pid).is_some_and(|child| child.key == fork.child);
        let instance = self.instances.get_mut(&parent.instance).filter(|instance| instance.tracks_children);
        let Some(instance) = instance.filter(|_| !adopted) else {
            self.discarded += 1;
            return;
        };
        let eid = self.clock.next_eid();
        let time_ns = self.clock.unix(event.boot_ns);
        let (pid, ns_pid) = (i64::from(fork.child.pid), i64::from(fork.ns_pid));
        let parent_pid = i64::from(event.process.pid);
        self.store.update(|state| {
            let above = state.live_processes.get(parent.eid).cloned().unwrap_or_default();
            let row = ProcessRow {
                eid,
                time_ns,
                pid,
                parent: Some(parent_pid),
                parent_eid: Some(parent.eid),
                depth: above.depth + 1,
                start_time: time_ns / 1_000_000_000,
                state: "running",
                how: "fork",
                ns_pid: Some(ns_pid),
                ..above
            };
            state.begin_process(row);
        });
        instance.alive += 1;
        instance.row.processes_total += 1;
        instance.changed(time_ns);
        self.marks.entry(event.mark).or_insert((0, None)).0 += 1;
        self.know(Process { key: fork.child, eid, mark: event.mark, read_ns: 0, ..parent });
    }

    /// Remembers a process. Its row has by what.
    fn know(&mut self, process: Process) {
        let identity = process.identity();
        self.store.update(|state| {
            if let Some(row) = state.live_processes.get_mut(process.eid) {
                row.identity = identity;
            }
        });
        self.processes.insert(process.key.pid, process);
    }

    fn exec(&mut self, event: &Event, exec: &Exec, collector: &mut dyn Collector) {
        let known = self.processes.get(&event.process.pid).filter(|process| process.key == event.process).cloned();
        let parent = self.processes.get(&exec.parent);
        let found = if exec.candidate || self.catalogue.needs_every_exec() {
            self.identify(event.process, exec, parent.map(|parent| &*parent.name))
        } else {
            None
        };
        match (known, found) {
            (Some(process), Some(found)) if self.is_own(&process, &found) => {
                self.program(event, exec, &process, true);
                self.learn(event, exec, process.instance, &found);
            }
            (Some(process), Some(found)) => self.leave_for_new_instance(event, exec, &process, &found, collector),
            (Some(process), None) => {
                let own = self.runs_own_program(process.instance, &exec.path);
                self.program(event, exec, &process, own);
                if !own {
                    self.learn_session(process.instance, exec);
                }
            }
            (None, Some(found)) => self.begin(event, exec, &found, collector),
            (None, None) if self.join_by_marker(event, exec, collector) => {}
            (None, None) => {
                self.discarded += 1;
                if event.mark.slot != u32::MAX {
                    self.unclaimed.insert(event.mark);
                }
            }
        }
        collector.sweep();
    }

    fn identify(&self, process: ProcessKey, exec: &Exec, parent_name: Option<&str>) -> Option<Match> {
        let ask = inspect::Asked::of(process.pid, exec, self.boot.mounts);
        let identify = |path: &str, script: Option<String>| {
            let facts = ProcessFacts {
                path,
                exec_path: &exec.exec_path,
                argv: &exec.argv,
                script: script.as_deref(),
                parent_name,
            };
            self.catalogue.identify_asking(&facts, &ask)
        };
        let script = || inspect::script(process.pid, exec, self.boot.mounts);
        // An editor's program is node to its extensions: what it runs is theirs, when it is anybody's.
        if inspect::is_editor(&exec.path)
            && !self.machine.variables(process, &[inspect::AS_NODE.to_owned()]).is_empty()
            && let Some(found) = identify("node", script())
        {
            return Some(found);
        }
        identify(&exec.path, is_interpreter(&exec.path).then(script).flatten())
    }

    /// A process of an instance becomes an agent of its own: below it.
    fn leave_for_new_instance(
        &mut self,
        event: &Event,
        exec: &Exec,
        process: &Process,
        found: &Match,
        collector: &dyn Collector,
    ) {
        let time_ns = self.clock.unix(event.boot_ns);
        let above = self.instances.get_mut(&process.instance).map(|instance| {
            instance.alive -= 1;
            instance.changed(time_ns);
            instance.row.agent_id
        });
        self.store.update(|state| {
            if let Some(mut row) = state.live_processes.remove(process.eid) {
                end_program(&mut row, time_ns, "replaced");
                state.end_process(row, time_ns);
            }
        });
        let gap = gap_ms(event, collector.syscalls_since());
        self.start_instance(event, exec, process.mark, found, above, gap);
        // The mark counts processes; this one was counted at its fork.
        if let Some((alive, _)) = self.marks.get_mut(&process.mark) {
            *alive -= 1;
        }
    }

    fn start_instance(
        &mut self,
        event: &Event,
        exec: &Exec,
        mark: Mark,
        found: &Match,
        parent_agent_id: Option<i64>,
        start_gap_ms: Option<i64>,
    ) {
        let time_ns = self.clock.unix(event.boot_ns);
        let eid = self.clock.next_eid();
        let index = self.next_instance;
        self.next_instance += 1;
        let signature: &Signature = &found.signature;
        let mounts = self.boot.mounts;
        let way = mounts.way(exec.mount_ns, event.process.pid);
        let project = mounts.has(exec.mount_ns).then(|| project::root(&exec.cwd, |path| seen_from_here(path, way)));
        let project = project.flatten();
        let container_id = self.containers.of(exec.cgroup_id, event.process.pid);
        let row = AgentRow {
            agent_id: self.new_agent_id(event.process, &signature.name),
            agent: signature.name.clone(),
            display_name: signature.display_name.clone(),
            vendor: signature.vendor.clone(),
            category: Some(signature.category.as_str().into()),
            version: inspect::version(&found.version, event.process.pid, exec, self.boot.mounts),
            role: found.role.as_str().into(),
            pid: event.process.pid.into(),
            parent: Some(exec.parent.into()),
            parent_agent_id,
            process_eid: eid,
            name: name_of(&exec.path),
            path: exec.path.as_str().into(),
            cmdline: self.cmdline(exec),
            cwd: Some(exec.cwd.as_str().into()),
            project: project.as_deref().map(Text::from),
            uid: exec.uid.into(),
            gid: exec.gid.into(),
            username: self.users.name(exec.uid),
            tty: tty(exec),
            launched_by: inspect::program_of(exec.parent),
            container_id: container_id.clone(),
            permission_mode: permission_mode(found),
            state: None,
            confidence: found.confidence.into(),
            evidence: found.evidence.as_str().into(),
            start_time: time_ns / 1_000_000_000,
            start_gap_ms,
            time_ns,
            processes_total: 1,
            unexpected_connections: signature.judges_endpoints().then_some(0),
            ns_pid: Some(exec.ns_pid.into()),
            ..AgentRow::counting(self.counts)
        };
        let home = project.unwrap_or_else(|| exec.cwd.clone());
        let instance = Instance {
            row,
            container_id,
            home,
            key: eid,
            root: event.process,
            tracks_children: signature.child_process_tracking,
            sessions: Vec::new(),
            alive: 1,
            changed: true,
            ended_ns: None,
        };
        let process = Process {
            key: event.process,
            instance: index,
            eid,
            name: name_of(&exec.path),
            uid: Some(exec.uid),
            main: true,
            mark,
            read_ns: 0,
        };
        let above = self.processes.get(&exec.parent).map(|parent| parent.eid);
        let depth =
            above.and_then(|above| self.store.update(|state| state.live_processes.get(above).map(|row| row.depth + 1)));
        let row = ProcessRow {
            parent_eid: above,
            depth: depth.unwrap_or(0),
            ..self.program_row(event, exec, eid, &instance)
        };
        self.store.update(|state| {
            state.begin_agent(&instance.row);
            state.begin_process(row);
        });
        self.instances.insert(index, instance);
        self.know(process);
        // Another program under the mark, an agent or none, leaves open whose a process is that is not known.
        let whole = !self.unclaimed.contains(&mark);
        let tree = self.marks.entry(mark).and_modify(|tree| tree.1 = None).or_insert((0, whole.then_some(index)));
        tree.0 += 1;
    }

    fn cmdline(&self, exec: &Exec) -> Text {
        Text::from(self.masker.mask_argv(&exec.argv).join(" "))
    }

    /// The row of a program that begins.
    fn program_row(&mut self, event: &Event, exec: &Exec, eid: i64, instance: &Instance) -> ProcessRow {
        let time_ns = self.clock.unix(event.boot_ns);
        ProcessRow {
            eid,
            time_ns,
            agent: instance.row.agent.clone(),
            agent_id: instance.row.agent_id,
            pid: event.process.pid.into(),
            parent: Some(exec.parent.into()),
            name: name_of(&exec.path),
            path: Some(exec.path.as_str().into()),
            exec_path: (!exec.exec_path.is_empty()).then(|| exec.exec_path.as_str().into()),
            cmdline: Some(self.cmdline(exec)),
            cwd: Some(exec.cwd.as_str().into()),
            uid: Some(exec.uid.into()),
            gid: Some(exec.gid.into()),
            username: self.users.name(exec.uid),
            tty: tty(exec),
            start_time: time_ns / 1_000_000_000,
            state: "running",
            how: "exec",
            container_id: self.containers.of(exec.cgroup_id, event.process.pid),
            ns_pid: Some(exec.ns_pid.into()),
            truncated: exec.truncated,
            ..ProcessRow::default()
        }
    }

    /// A process of an instance runs another program: its first exec turns the fork's row, a further one replaces it. One
    /// that was adopted meanwhile has the program's row already.
    fn program(&mut self, event: &Event, exec: &Exec, process: &Process, main: bool) {
        let Some(mut instance) = self.instances.remove(&process.instance) else { return };
        let time_ns = self.clock.unix(event.boot_ns);
        let before = self.store.update(|state| state.live_processes.remove(process.eid)).unwrap_or_default();
        let first = before.how == "fork" || event.boot_ns <= process.read_ns;
        let eid = if first { process.eid } else { self.clock.next_eid() };
        let mut row = self.program_row(event, exec, eid, &instance);
        row.depth = before.depth;
        row.parent_eid = before.parent_eid;
        if first {
            row.time_ns = before.time_ns;
            row.start_time = before.start_time;
        }
        self.store.update(|state| {
            if first {
                state.become_program(row, time_ns);
            } else {
                let mut ended = before;
                end_program(&mut ended, time_ns, "replaced");
                state.end_process(ended, time_ns);
                state.begin_process(row);
            }
        });
        if !first {
            instance.row.processes_total += 1;
        }
        instance.changed(time_ns);
        self.instances.insert(process.instance, instance);
        if let Some(process) = self.processes.remove(&event.process.pid) {
            let name = name_of(&exec.path);
            self.know(Process { eid, name, uid: Some(exec.uid), main, read_ns: 0, ..process });
        }
    }

    /// The agent itself runs on as another program: a wrapper's first image is not what a person calls the agent.
    fn learn(&mut self, event: &Event, exec: &Exec, index: usize, found: &Match) {
        let cmdline = self.cmdline(exec);
        let Some(instance) = self.instances.get_mut(&index) else { return };
        let row = &mut instance.row;
        if instance.root == event.process {
            row.name = name_of(&exec.path);
            row.path = exec.path.as_str().into();
            row.cmdline = cmdline;
            row.role = found.role.as_str().into();
        }
        let version = || inspect::version(&found.version, event.process.pid, exec, self.boot.mounts);
        row.version = row.version.take().or_else(version);
        row.permission_mode = row.permission_mode.take().or_else(|| permission_mode(found));
        if i64::from(found.confidence) > row.confidence {
            row.confidence = found.confidence.into();
            row.evidence = found.evidence.as_str().into();
        }
        instance.changed = true;
    }

    fn exit(&mut self, event: &Event, exit: Option<Exit>, collector: &mut dyn Collector) {
        let known = self.processes.get(&event.process.pid).is_some_and(|process| process.key == event.process);
        let Some(process) = known.then(|| self.processes.remove(&event.process.pid)).flatten() else {
            self.discarded += 1;
            return;
        };
        let time_ns = self.clock.unix(event.boot_ns);
        self.end(&process, time_ns, exit, collector);
    }

    /// A process ended; without an exit that is known from its absence.
    fn end(&mut self, process: &Process, time_ns: i64, exit: Option<Exit>, collector: &mut dyn Collector) {
        let exit_code = exit.filter(|exit| exit.signal == 0).map(|exit| exit.code.into());
        self.store.update(|state| {
            if let Some(mut row) = state.live_processes.remove(process.eid) {
                end_program(&mut row, time_ns, "exited");
                row.exit_code = exit_code;
                row.signal = exit.map(|exit| exit.signal.into());
                state.end_process(row, time_ns);
            }
        });
        self.connections.owner_ended(process, &self.store);
        if let Some(instance) = self.instances.get_mut(&process.instance) {
            instance.alive -= 1;
            instance.changed(time_ns);
            if instance.root == process.key {
                instance.row.end_time = Some(time_ns / 1_000_000_000);
                instance.row.exit_code = exit_code;
                instance.row.state = Some("exited".into());
            }
        }
        if let Some((alive, _)) = self.marks.get_mut(&process.mark) {
            *alive = alive.saturating_sub(1);
            if *alive == 0 {
                self.marks.remove(&process.mark);
                collector.release(process.mark);
            }
        }
        collector.sweep();
    }

    /// Writes the rows of the instances that changed, and finishes those without a process.
    fn publish_instances(&mut self, boot_ns: u64, collector: &mut dyn Collector) {
        let store = Arc::clone(&self.store);
        let connections = &self.connections;
        self.instances.retain(|index, instance| {
            instance.row.processes = instance.alive;
            let waits = instance.alive == 0 && {
                let ended_ns = *instance.ended_ns.get_or_insert(boot_ns);
                instance.row.state = Some("exited".into());
                instance.row.end_time.get_or_insert(instance.row.time_ns / 1_000_000_000);
                boot_ns < ended_ns + SETTLE_NS && connections.is_open(*index)
            };
            if instance.alive > 0 || waits {
                if std::mem::take(&mut instance.changed) {
                    store.update(|state| state.live_agents.insert(instance.key, instance.row.clone()));
                }
                return true;
            }
            self.files.instance_ended(instance.row.agent_id, boot_ns);
            self.names.forget_instance(*index);
            store.update(|state| {
                state.live_agents.remove(instance.key);
                state.end_agent(instance.row.clone());
            });
            false
        });
        collector.agents_live(self.instances.values().filter(|instance| instance.alive > 0).count());
        collector.look_for_markers(self.has_markers());
    }
}

impl Process {
    fn identity(&self) -> Identity {
        Identity { start_ns: self.key.start_ns, mark: Some(self.mark), main: self.main, ..Identity::default() }
    }
}

impl Instance {
    pub(super) fn changed(&mut self, time_ns: i64) {
        self.row.time_ns = self.row.time_ns.max(time_ns);
        self.changed = true;
    }
}

/// What the row of an event needs besides the event.
pub(super) struct Context<'a> {
    pub time_ns: i64,
    pub process: &'a Process,
    /// `None` when all its processes have ended.
    pub instance: Option<&'a mut Instance>,
    pub clock: &'a mut Clock,
    pub store: &'a Store,
    pub boot: &'a Boot,
    pub catalogue: &'a Catalogue,
    pub meaning: &'a Meaning,
    pub names: &'a Names,
}

/// From an instance's first exec to the moment since which all of it is seen; `None` while it is not.
fn gap_ms(event: &Event, since: Option<u64>) -> Option<i64> {
    since.and_then(|since| i64::try_from(since.saturating_sub(event.boot_ns).div_ceil(1_000_000)).ok())
}

fn end_program(row: &mut ProcessRow, time_ns: i64, state: &'static str) {
    row.state = state;
    row.end_time = Some(time_ns / 1_000_000_000);
    row.duration_ms = Some((time_ns - row.time_ns).max(0) / 1_000_000);
}

/// What an agent may do without asking, as far as its arguments tell.
fn permission_mode(found: &Match) -> Option<Text> {
    found.unattended.then(|| "unattended".into())
}

fn name_of(path: &str) -> Text {
    file_name(path).into()
}

fn tty(exec: &Exec) -> Option<Text> {
    (!exec.tty.is_empty()).then(|| exec.tty.as_str().into())
}

#[cfg(test)]
mod tests;
