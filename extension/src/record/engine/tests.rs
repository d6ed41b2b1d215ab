//! The state machine, fed by hand: which rows a life leaves, and what the collector is told.

mod again;
mod belong;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::collect::{CollectError, Place};
use crate::event::{
    CallPath, Change, ChangeKind, Close, Connection, FlowStart, Open, OpenMode, Step, TcpState, Transport,
};
use crate::record::Probe;
use crate::record::inspect::{Program, Standing};
use crate::record::rows::{CollectorRow, ConnectionRow, FileOpRow};

const CLAUDE: &str = "/opt/node_modules/@anthropic-ai/claude-code/bin/claude.exe";
const CODEX: &str = "/opt/node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex";

/// Remembers what it was told.
#[derive(Default)]
struct Told {
    confirmed: Vec<Mark>,
    released: Vec<Mark>,
    live: usize,
    running: Vec<Event>,
    open: Vec<Event>,
    blind: bool,
    /// Records.
    lost: i64,
}

struct Lost(i64);

impl Probe for Lost {
    fn collector(&self) -> Vec<CollectorRow> {
        vec![CollectorRow { ring_full: self.0, ..CollectorRow::default() }]
    }

    fn open_bytes(&self) -> HashMap<u64, (u64, u64)> {
        HashMap::new()
    }
}

impl Collector for Told {
    fn drain(&mut self, _: Duration, _: &mut Vec<Event>) -> Result<(), CollectError> {
        Ok(())
    }
    fn commit(&mut self, _: u64, _: Option<Place>) {}
    fn confirm(&mut self, mark: Mark) -> bool {
        let used = !self.released.contains(&mark);
        if used {
            self.confirmed.push(mark);
        }
        used
    }
    fn release(&mut self, mark: Mark) {
        self.released.push(mark);
    }
    fn mark_tree(&mut self, _: u32) -> Option<Mark> {
        Some(Mark { slot: 99, generation: 1 })
    }
    fn running(&mut self) -> Vec<Event> {
        self.running.clone()
    }
    fn adopt(&mut self, _: u32) -> Option<(Mark, Vec<Event>)> {
        Some((MARK, self.running.clone()))
    }
    fn open_already(&mut self) -> Vec<Event> {
        self.open.clone()
    }
    fn syscalls_since(&self) -> Option<u64> {
        Some(5_000_000)
    }
    fn agents_live(&mut self, agents: usize) {
        self.live = agents;
    }
    fn sees_requests(&self) -> bool {
        !self.blind
    }
    fn sweep(&mut self) {}
    fn probe(&self) -> Arc<dyn Probe> {
        Arc::new(Lost(self.lost))
    }
}

/// The processes of a machine, by pid, with their parents, what is in their environment, and all sockets.
#[derive(Clone, Default)]
struct Fake(Rc<RefCell<HashMap<u32, u32>>>, Rc<RefCell<HashMap<u32, Vec<String>>>>, Rc<RefCell<HashSet<u64>>>);

impl Machine for Fake {
    fn standing(&self, pid: u32) -> Option<Standing> {
        let parent = *self.0.borrow().get(&pid)?;
        Some(Standing { parent, start_ticks: 0, ended: false })
    }
    fn variables(&self, process: ProcessKey, _: &[String]) -> Vec<String> {
        self.1.borrow().get(&process.pid).cloned().unwrap_or_default()
    }
    fn sockets(&self) -> Option<HashSet<u64>> {
        Some(self.2.borrow().clone())
    }
    fn program(&self, _: u32) -> Program {
        Program { path: Some("/usr/bin/make".into()), argv: vec!["make".into(), "all".into()], cwd: None }
    }
}

/// An engine, what it told, its machine, and a clock that goes on by a millisecond an event.
struct Bench {
    engine: Engine,
    told: Told,
    machine: Fake,
    now: u64,
}

const MARK: Mark = Mark { slot: 5, generation: 2 };

fn key(pid: u32) -> ProcessKey {
    ProcessKey { pid, start_ns: u64::from(pid) }
}

fn exec_of(parent: u32, path: &str, argv: &[&str]) -> EventKind {
    EventKind::Exec(Box::new(Exec {
        parent,
        path: path.into(),
        exec_path: path.into(),
        cwd: "/nowhere".into(),
        argv: argv.iter().map(|argument| (*argument).to_owned()).collect(),
        candidate: true,
        ..Exec::default()
    }))
}

fn fork_of(child: u32) -> EventKind {
    EventKind::Fork(Fork { child: key(child), ns_pid: child })
}

fn exit_with(code: i32) -> EventKind {
    EventKind::Exit(Some(Exit { code, signal: 0 }))
}

impl Bench {
    fn new() -> Self {
        let mut engine =
            Engine::new(Arc::default(), Arc::new(Catalogue::builtin()), Arc::new(Meaning::builtin()), Boot::default());
        let machine = Fake::default();
        engine.machine = Box::new(machine.clone());
        Self { engine, told: Told::default(), machine, now: 0 }
    }

    fn feed(&mut self, pid: u32, kind: EventKind) {
        self.feed_marked(pid, MARK, kind);
    }

    fn feed_marked(&mut self, pid: u32, mark: Mark, kind: EventKind) {
        self.now += 1_000_000;
        let mut events = vec![Event { boot_ns: self.now, process: key(pid), mark, kind }];
        self.engine.take(&mut events, self.now, &mut self.told);
        assert!(events.is_empty());
    }

    fn agents(&self) -> Vec<AgentRow> {
        self.engine.store.agents().iter().cloned().collect()
    }

    fn processes(&self) -> Vec<ProcessRow> {
        let mut rows: Vec<_> = self.engine.store.processes().iter().cloned().collect();
        rows.sort_by_key(|row| row.eid);
        rows
    }

    fn files(&self) -> Vec<FileOpRow> {
        self.engine.store.file_ops().iter().cloned().collect()
    }

    fn connections(&self) -> Vec<ConnectionRow> {
        self.engine.store.connections().iter().cloned().collect()
    }
}

#[test]
fn a_mark_is_not_given_back_while_its_program_becomes_an_agent() {
    let mut bench = Bench::new();
    let event = |boot_ns, kind| Event { boot_ns, process: key(10), mark: MARK, kind };
    let mut events = vec![
        event(1_000_000, exec_of(1, "/usr/bin/env", &["env", "claude-code"])),
        event(2_000_000, exec_of(1, CLAUDE, &["claude"])),
    ];
    bench.engine.take(&mut events, 2_000_000, &mut bench.told);
    assert_eq!((&*bench.told.confirmed, &*bench.told.released), (&[MARK][..], &[][..]));
    assert_eq!(bench.agents().len(), 1);
}

#[test]
fn an_agent_under_a_mark_that_was_given_back_gets_one_of_its_own() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, "/usr/bin/env", &["env", "claude-code"]));
    assert_eq!(bench.told.released, [MARK]);
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    assert_eq!(bench.told.confirmed, []);
    assert_eq!(bench.agents().len(), 1);
    let own = Mark { slot: 99, generation: 1 };
    bench.feed_marked(10, own, exit_with(0));
    assert_eq!(bench.told.released, [MARK, own]);
}

#[test]
fn what_happens_while_an_agent_is_adopted_is_told_once() {
    let mut bench = Bench::new();
    let read = |pid, kind| Event { boot_ns: 50_000_000, process: key(pid), mark: MARK, kind };
    bench.told.running = vec![
        read(12, exec_of(11, "/usr/bin/git", &["git"])),
        read(11, exec_of(10, "/usr/bin/sh", &["sh"])),
        read(10, exec_of(1, CLAUDE, &["claude"])),
        read(20, exec_of(1, "/usr/bin/vim", &["vim"])),
    ];
    bench.engine.adopt(50_000_000, &mut bench.told);
    bench.now = 40_000_000;
    bench.feed(11, fork_of(12)); // of one that is adopted
    bench.feed(12, exec_of(11, "/usr/bin/git", &["git"])); // of the program that was read
    bench.feed(12, exec_of(11, "/usr/bin/ls", &["ls"])); // and a further one
    let told: Vec<_> = bench.processes().iter().map(|row| (row.pid, row.how, row.state, row.depth)).collect();
    let wanted = [
        (10, "adopted", "running", 0),
        (11, "adopted", "running", 1),
        (12, "exec", "replaced", 2),
        (12, "exec", "running", 2),
    ];
    assert_eq!(told, wanted);
    assert_eq!((bench.agents().len(), bench.agents()[0].processes), (1, 3));
    for pid in [12, 11, 10] {
        bench.feed(pid, exit_with(0));
    }
    assert_eq!((&*bench.told.released, bench.told.live), (&[MARK][..], 0));
}

#[test]
fn a_life_from_exec_to_exit() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude", "-p", "x"]));
    assert_eq!(bench.told.confirmed, [MARK]);
    assert_eq!(bench.agents()[0].start_gap_ms, Some(4), "attached at 5 ms, started at 1 ms");
    bench.feed(10, fork_of(11));
    bench.feed(11, exec_of(10, "/usr/bin/sh", &["sh", "-c", "git"]));
    bench.feed(11, exec_of(10, "/usr/bin/git", &["git"]));
    assert_eq!(bench.agents()[0].processes, 2);
    bench.feed(11, exit_with(3));
    bench.feed(10, exit_with(0));
    let rows = bench.processes();
    let told: Vec<_> = rows.iter().map(|row| (&*row.name, row.how, row.state, row.exit_code, row.depth)).collect();
    assert_eq!(
        told,
        [
            ("claude.exe", "exec", "exited", Some(0), 0),
            ("sh", "exec", "replaced", None, 1),
            ("git", "exec", "exited", Some(3), 1)
        ]
    );
    assert_eq!(rows[1].parent_eid, Some(rows[0].eid));
    assert_eq!(bench.told.released, [MARK]);
    assert_eq!(bench.told.live, 0);
    let agent = &bench.agents()[0];
    assert_eq!((agent.state.as_deref(), agent.exit_code, agent.processes_total), (Some("exited"), Some(0), 3));
}

#[test]
fn what_is_no_agent_leaves_nothing_and_its_mark_is_given_back() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, "/usr/bin/vim", &["vim", "/home/u/.claude/x"]));
    bench.feed(10, fork_of(11));
    bench.feed(11, exit_with(0));
    assert_eq!(bench.told.released, [MARK]);
    assert!(bench.agents().is_empty() && bench.processes().is_empty());
    assert_eq!(bench.engine.discarded(), 3);
}

#[test]
fn a_wrapper_and_its_native_program_are_one_instance() {
    let mut bench = Bench::new();
    let script = "/opt/node_modules/@openai/codex/bin/codex.js";
    bench.feed(10, exec_of(1, "/usr/bin/node", &["node", script, "exec"]));
    bench.feed(10, fork_of(11));
    bench.feed(11, exec_of(10, CODEX, &["codex", "exec"]));
    let agents = bench.agents();
    assert_eq!(agents.len(), 1, "{agents:?}");
    assert_eq!((agents[0].pid, &*agents[0].agent), (10, "codex"));
}

#[test]
fn an_agent_below_a_shell_of_another_is_an_instance_of_its_own() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    bench.feed(10, fork_of(11));
    bench.feed(11, exec_of(10, "/usr/bin/bash", &["bash", "-c", "codex exec x"]));
    bench.feed(11, fork_of(12));
    bench.feed(12, exec_of(11, CODEX, &["codex", "exec", "x"]));
    let mut agents = bench.agents();
    agents.sort_by_key(|agent| agent.pid);
    assert_eq!(agents.len(), 2);
    assert_eq!(agents[1].parent_agent_id, Some(agents[0].agent_id));
    assert_eq!((agents[0].processes, agents[1].processes), (2, 1));
    for pid in [12, 11, 10] {
        bench.feed(pid, exit_with(0));
    }
    assert_eq!(bench.told.released, [MARK], "only when the last process under it has ended");
    assert!(bench.agents().iter().all(|agent| agent.processes == 0 && agent.end_time.is_some()));
}

#[test]
fn the_agents_own_rg_is_a_process_and_no_second_agent() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    bench.feed(10, fork_of(11));
    bench.feed(11, exec_of(10, CLAUDE, &["rg", "--files"]));
    assert_eq!(bench.agents().len(), 1);
    assert_eq!(bench.processes()[1].cmdline.as_deref(), Some("rg --files"));
}

#[test]
fn a_pid_that_is_used_again_is_another_process() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    bench.now += 1_000_000;
    let stranger = ProcessKey { pid: 10, start_ns: 777 };
    let mut events = vec![Event { boot_ns: bench.now, process: stranger, mark: MARK, kind: exit_with(0) }];
    bench.engine.take(&mut events, bench.now, &mut bench.told);
    let row = &bench.processes()[0];
    assert_eq!((row.state, row.exit_code, row.signal), ("exited", None, None), "its own exit was lost");
    assert_eq!(bench.engine.discarded(), 1);
}

#[test]
fn a_process_whose_exit_was_lost_ends_by_its_absence() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    bench.feed(10, fork_of(11));
    bench.feed(10, fork_of(12));
    bench.machine.0.borrow_mut().insert(10, 1);
    let idle = |bench: &mut Bench, seconds: u64| {
        bench.now += seconds * 1_000_000_000;
        bench.engine.take(&mut Vec::new(), bench.now, &mut bench.told);
    };
    idle(&mut bench, 6);
    assert_eq!(bench.agents()[0].processes, 3, "their exits may be on their way");
    bench.feed(12, exit_with(4));
    assert_eq!(bench.agents()[0].processes, 2);
    idle(&mut bench, 2);
    let rows = bench.processes();
    let told: Vec<_> = rows.iter().map(|row| (row.pid, row.state, row.exit_code, row.signal)).collect();
    assert_eq!(told, [(10, "running", None, None), (11, "exited", None, None), (12, "exited", Some(4), Some(0))]);
    assert_eq!(bench.agents()[0].processes, 1);
    bench.machine.0.borrow_mut().clear();
    idle(&mut bench, 6);
    idle(&mut bench, 2);
    assert_eq!((bench.agents()[0].state.as_deref(), bench.agents()[0].exit_code), (Some("exited"), None));
    assert_eq!(bench.told.released, [MARK]);
}

#[test]
fn after_a_loss_a_connection_whose_end_was_lost_ends_by_its_absence() {
    let mut bench = Bench::new();
    bench.machine.0.borrow_mut().insert(10, 1);
    bench.machine.2.borrow_mut().insert(2);
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    bench.feed(10, EventKind::Connection(connection(Step::Accept(TcpState::Established), 0)));
    let flow =
        Connection { socket_id: 7, inode: 8, transport: Transport::Udp, ..connection(Step::Flow(FlowStart::Sent), 0) };
    bench.feed(10, EventKind::Connection(flow));
    let idle = |bench: &mut Bench, seconds: u64| {
        bench.now += seconds * 1_000_000_000;
        bench.engine.take(&mut Vec::new(), bench.now, &mut bench.told);
        bench.connections().iter().map(|row| row.state).collect::<Vec<_>>()
    };
    idle(&mut bench, 6);
    assert_eq!(idle(&mut bench, 2), ["established", "established"], "nothing was lost: their ends will come");
    bench.told.lost = 1;
    idle(&mut bench, 6);
    assert_eq!(idle(&mut bench, 2), ["closed", "established"], "nobody has socket 8");
    bench.machine.2.borrow_mut().clear();
    idle(&mut bench, 6);
    assert_eq!(idle(&mut bench, 2), ["closed", "established"], "nothing was lost since");
    bench.told.lost = 2;
    idle(&mut bench, 6);
    assert_eq!(idle(&mut bench, 2), ["closed", "closed"]);
}

#[test]
fn a_process_whose_fork_was_lost_is_taken_in_when_it_acts() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    bench.feed(10, fork_of(11));
    // 13 below 12 below 11, of which 12 is not known either.
    bench.machine.0.borrow_mut().extend([(10, 1), (11, 10), (12, 11), (13, 12)]);
    bench.feed(13, open_of(1, OpenMode::Create, "/nowhere/a"));
    let rows = bench.processes();
    let taken = (rows[2].pid, rows[2].how, &*rows[2].name, rows[2].cmdline.as_deref(), rows[2].parent);
    assert_eq!(taken, (13, "adopted", "make", Some("make all"), Some(12)));
    assert_eq!((rows[2].parent_eid, rows[2].depth), (Some(rows[1].eid), 2));
    assert_eq!((bench.files()[0].process_eid, bench.files()[0].agent_id), (rows[2].eid, rows[0].agent_id));
    // One that has gone by now, and one that tells of itself by an exec.
    bench.feed(14, exit_with(3));
    bench.feed(15, exec_of(11, "/usr/bin/git", &["git"]));
    let rows = bench.processes();
    assert_eq!((rows[3].pid, rows[3].how, rows[3].exit_code), (14, "adopted", Some(3)));
    assert_eq!((rows[4].pid, rows[4].how, &*rows[4].name, rows.len()), (15, "exec", "git", 5));
    assert_eq!((bench.agents()[0].processes, bench.engine.discarded()), (4, 0));
    for pid in [15, 13, 11, 10] {
        bench.feed(pid, exit_with(0));
    }
    assert_eq!(bench.told.released, [MARK]);
}

#[test]
fn a_process_that_may_be_anothers_is_not_taken_in() {
    // A wrapper under the same mark is no agent, and its children are none of the agent's.
    let mut bench = Bench::new();
    let event = |boot_ns, pid, kind| Event { boot_ns, process: key(pid), mark: MARK, kind };
    let mut events = vec![
        event(1, 9, exec_of(1, "/usr/bin/bash", &["bash", "/opt/claude-code/start"])),
        event(2, 10, exec_of(9, CLAUDE, &["claude"])),
        event(3, 12, open_of(1, OpenMode::Create, "/nowhere/a")),
    ];
    bench.engine.take(&mut events, 3, &mut bench.told);
    assert_eq!((bench.agents().len(), bench.processes().len(), bench.files().len()), (1, 1, 0));
    // Two agents under one mark: whose it is cannot be told without an ancestor.
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    bench.feed(10, fork_of(11));
    bench.feed(11, exec_of(10, CODEX, &["codex"]));
    bench.feed(12, open_of(1, OpenMode::Create, "/nowhere/a"));
    assert!(bench.files().is_empty());
    bench.machine.0.borrow_mut().extend([(13, 11)]);
    bench.feed(13, open_of(2, OpenMode::Create, "/nowhere/b"));
    assert_eq!(&*bench.files()[0].agent, "codex");
}

fn open_of(open_id: u64, how: OpenMode, path: &str) -> EventKind {
    let (path, mode, fd, uid) = (path.to_owned(), 0o100_644, 3, 0);
    EventKind::Open(Open { open_id, how, path, mode, fd, uid, tracked: true, truncated: false })
}

#[test]
fn an_open_and_its_close_are_two_rows_and_noise_is_none() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    let before = bench.engine.discarded();
    bench.feed(10, open_of(1, OpenMode::Create, "/nowhere/a"));
    assert_eq!(bench.engine.store.open_files().iter().count(), 1);
    bench.feed(10, open_of(2, OpenMode::Read, "/proc/self/maps"));
    for (open_id, written) in [(2, 0), (1, 7)] {
        bench.feed(10, EventKind::Close(Close { open_id, bytes: Some((0, written)), seen: true, mapped: Some(false) }));
    }
    let rows = bench.files();
    assert_eq!(rows.iter().map(|row| row.operation).collect::<Vec<_>>(), ["create", "close"]);
    assert_eq!((rows[1].open_eid, rows[1].bytes_written), (Some(rows[0].eid), Some(7)));
    assert_eq!(rows[0].in_project, Some(true));
    assert_eq!(bench.engine.discarded() - before, 2);
    assert_eq!(bench.engine.store.open_files().iter().count(), 0);
    assert_eq!(bench.agents()[0].files_created, Some(1));
}

fn change_of(kind: ChangeKind, path: CallPath, dest: Option<CallPath>) -> EventKind {
    let (followed, exchanged, mode, mount_ns, rooted) = (false, false, None, 0, false);
    EventKind::Change(Change {
        kind,
        path,
        dest,
        followed,
        exchanged,
        mode,
        mount_ns,
        rooted,
        uid: 0,
        truncated: false,
        request_id: None,
    })
}

#[test]
fn a_change_that_was_asked_for_is_a_row_when_it_was_done() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    let ask = |request_id, name: &str| {
        let path = CallPath { base: "/nowhere".into(), name: name.into() };
        let EventKind::Change(change) = change_of(ChangeKind::Delete, path, None) else { panic!() };
        EventKind::Change(Change { request_id: Some(request_id), ..change })
    };
    bench.feed(10, ask(1, "fails"));
    bench.feed(10, ask(2, "done"));
    assert!(bench.files().is_empty());
    let before = bench.engine.discarded();
    for (request_id, done) in [(1, false), (2, true), (3, true)] {
        bench.feed(10, EventKind::Request(Request::Result { request_id, done }));
    }
    let rows = bench.files();
    assert_eq!(rows.iter().map(|row| &*row.path).collect::<Vec<_>>(), ["/nowhere/done"]);
    let noise = CallPath { base: "/dev".into(), name: "null".into() };
    let before_noise = bench.engine.discarded();
    bench.feed(10, change_of(ChangeKind::Open(OpenMode::Read), noise, None));
    assert_eq!((bench.files().len(), bench.engine.discarded() - before_noise), (1, 1));
    assert_eq!((bench.agents()[0].files_deleted, before_noise - before), (Some(1), 2));
}

#[test]
fn an_agent_with_a_ring_is_a_blind_spot_where_requests_are_not_seen() {
    let spots = |blind| {
        let mut bench = Bench::new();
        bench.told.blind = blind;
        bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
        bench.feed(10, EventKind::Request(Request::Ring));
        bench.feed(10, EventKind::Request(Request::Ring));
        bench.engine.store.read(|state| state.blind_spots.iter().map(|agent| agent.pid).collect::<Vec<_>>())
    };
    assert_eq!((spots(true), spots(false)), (vec![10], vec![]));
}

#[test]
fn a_close_says_whether_the_file_was_mapped_where_that_is_known() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    for (open_id, how, mapped) in [(1, OpenMode::Create, true), (2, OpenMode::Write, false), (3, OpenMode::Read, false)]
    {
        bench.feed(10, open_of(open_id, how, "/nowhere/a"));
        bench.feed(10, EventKind::Close(Close { open_id, bytes: Some((0, 0)), seen: true, mapped: Some(mapped) }));
    }
    let rows = bench.files();
    let mapped: Vec<_> = rows.iter().filter(|row| row.operation == "close").map(|row| row.mmap_write).collect();
    assert_eq!(mapped, [Some(true), Some(false), None]);
}

#[test]
fn a_symlinks_name_is_what_was_made() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    let path = CallPath { base: String::new(), name: "../target".into() };
    let dest = Some(CallPath { base: "/nowhere".into(), name: "link".into() });
    let kind = ChangeKind::Symlink;
    bench.feed(10, change_of(kind, path, dest));
    let row = &bench.files()[0];
    assert_eq!((&*row.path, row.dest_path.as_deref()), ("../target", Some("/nowhere/link")));
}

fn connection(step: Step, error: i32) -> Connection {
    Connection {
        socket_id: 1,
        inode: 2,
        fd: if matches!(step, Step::State(_)) { -1 } else { 4 },
        transport: Transport::Tcp,
        v6: false,
        local: "127.0.0.1:5000".parse().unwrap(),
        remote: "192.0.2.1:443".parse().unwrap(),
        path: None,
        connected: false,
        remote_pid: 0,
        step,
        error,
        bytes: Some((0, 0)),
        net_ns: 1,
    }
}

/// A state, or the return of connect.
fn step(state: Option<TcpState>, error: i32) -> EventKind {
    EventKind::Connection(connection(state.map_or(Step::Connect, Step::State), error))
}

#[test]
fn a_connections_states_and_its_end_after_its_owner() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    bench.feed(10, step(Some(TcpState::SynSent), 0));
    bench.feed(10, step(None, 0));
    assert_eq!(bench.connections()[0].state, "connecting");
    bench.feed(10, step(Some(TcpState::Established), 0));
    assert_eq!(bench.connections()[0].state, "established");
    bench.feed(10, exit_with(0));
    bench.feed(10, step(Some(TcpState::FinWait1), 0));
    bench.feed(10, step(Some(TcpState::Close), 0));
    let rows = bench.connections();
    assert_eq!((rows.len(), rows[0].state, rows[0].fd, rows[0].end_time.is_some()), (1, "closed", Some(4), true));
    assert!(bench.engine.store.update(|state| state.live_connections.is_empty()));
}

#[test]
fn a_refused_connection_waits_for_its_call_to_return() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    bench.feed(10, step(Some(TcpState::SynSent), 0));
    bench.feed(10, step(Some(TcpState::Close), 111));
    bench.feed(10, step(None, 111));
    let rows = bench.connections();
    assert_eq!((rows.len(), rows[0].state, rows[0].error.as_deref()), (1, "failed", Some("ECONNREFUSED")));
    assert_eq!(rows[0].fd, Some(4));
    // The next attempt on the same socket is another connection.
    bench.feed(10, step(Some(TcpState::SynSent), 0));
    assert_eq!(bench.connections().len(), 2);
    assert_eq!(bench.agents()[0].connections_total, 2);
}

#[test]
fn the_error_that_a_second_connect_fetches_is_the_first_ones() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    // Refused after the call returned, and, by this machine itself, before.
    let (returned, refused) = (step(None, 0), step(Some(TcpState::Close), 111));
    for (n, order) in [[&returned, &refused], [&refused, &returned]].into_iter().enumerate() {
        bench.feed(10, step(Some(TcpState::SynSent), 0));
        for event in order {
            bench.feed(10, event.clone());
        }
        bench.feed(10, step(None, 111));
        let rows = bench.connections();
        assert_eq!((rows.len(), rows[n].state, rows[n].error.as_deref()), (n + 1, "failed", Some("ECONNREFUSED")));
    }
    // It was fetched: the next one that fails without a state is a connection of its own.
    bench.feed(10, step(None, 101));
    assert_eq!(bench.connections().len(), 3);
}

#[test]
fn without_a_route_there_is_a_row_all_the_same() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    bench.feed(10, step(None, 101));
    assert_eq!(
        (bench.connections()[0].state, bench.connections()[0].error.as_deref()),
        ("failed", Some("ENETUNREACH"))
    );
}

#[test]
fn the_side_that_closes_first_rests_for_a_minute() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    bench.feed(10, step(Some(TcpState::SynSent), 0));
    bench.feed(10, step(None, 0));
    for state in [TcpState::Established, TcpState::FinWait1, TcpState::FinWait2] {
        bench.feed(10, step(Some(state), 0));
    }
    assert_eq!(bench.connections()[0].state, "closing");
    bench.feed(10, step(Some(TcpState::Close), 0));
    let row = bench.connections().remove(0);
    assert_eq!((row.state, row.end_time.is_some()), ("time_wait", true));
    // The kernel's socket is used anew meanwhile.
    bench.feed(10, step(Some(TcpState::SynSent), 0));
    assert_eq!(bench.connections().len(), 2);
    bench.now += 61_000_000_000;
    bench.feed(10, step(Some(TcpState::Established), 0));
    let rows = bench.connections();
    assert_eq!((rows.len(), rows[0].state, rows[0].end_time), (2, "closed", row.end_time));
    assert!(bench.engine.store.update(|state| state.live_connections.get(row.eid).is_none()));
}

#[test]
fn an_accepted_connection_is_inbound_and_may_be_half_closed_by_then() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    bench.feed(10, EventKind::Connection(connection(Step::Accept(TcpState::CloseWait), 0)));
    let row = bench.connections().remove(0);
    assert_eq!((row.direction, row.state, row.fd), ("inbound", "close_wait", Some(4)));
    bench.feed(10, step(Some(TcpState::LastAck), 0));
    let sent = Connection { bytes: Some((5, 7)), ..connection(Step::State(TcpState::Close), 0) };
    bench.feed(10, EventKind::Connection(sent));
    let row = bench.connections().remove(0);
    assert_eq!((row.state, row.bytes_sent, row.bytes_received), ("closed", Some(5), Some(7)));
    let agent = bench.agents().remove(0);
    assert_eq!((agent.connections_total, agent.bytes_sent, agent.bytes_received), (1, Some(5), Some(7)));
    // One that was reset before it was accepted.
    bench.feed(10, EventKind::Connection(connection(Step::Accept(TcpState::Close), 104)));
    let row = bench.connections().remove(1);
    assert_eq!((row.state, row.error.as_deref(), row.end_time.is_some()), ("closed", Some("ECONNRESET"), true));
}

#[test]
fn what_is_listened_on_is_no_connection() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    bench.feed(10, step(Some(TcpState::Listen), 0));
    bench.feed(10, EventKind::Connection(connection(Step::Listen, 0)));
    let row = bench.connections().remove(0);
    assert_eq!((row.direction, row.state, row.fd, row.bytes_sent), ("listen", "listening", Some(4), None));
    assert_eq!((row.local_port, row.remote_port), (Some(5000), None));
    bench.feed(10, step(Some(TcpState::Close), 0));
    assert_eq!(bench.connections()[0].state, "closed");
    // The port was taken after all: the call says so when the state has gone back.
    bench.feed(10, step(Some(TcpState::Listen), 0));
    bench.feed(10, step(Some(TcpState::Close), 0));
    bench.feed(10, EventKind::Connection(connection(Step::Listen, 98)));
    let row = bench.connections().remove(1);
    assert_eq!((row.state, row.error.as_deref()), ("failed", Some("EADDRINUSE")));
    assert_eq!(bench.agents()[0].connections_total, 0);
}

#[test]
fn a_flow_is_a_connection_with_its_first_datagram() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    let flow = |step: Step, port: u16, sent: u64| {
        let remote = ([192, 0, 2, 1], port).into();
        EventKind::Connection(Connection {
            transport: Transport::Udp,
            remote,
            bytes: Some((sent, 0)),
            ..connection(step, 0)
        })
    };
    bench.feed(10, flow(Step::Flow(FlowStart::Connected), 53, 0));
    bench.feed(10, flow(Step::Flow(FlowStart::Connected), 54, 0));
    assert_eq!(bench.agents()[0].connections_total, 0);
    bench.feed(10, flow(Step::Flow(FlowStart::Sent), 53, 9));
    bench.feed(10, flow(Step::Flow(FlowStart::Sent), 55, 1));
    assert_eq!((bench.connections().len(), bench.agents()[0].connections_total), (3, 2));
    bench.feed(10, flow(Step::FlowEnd, 53, 20));
    bench.feed(10, flow(Step::End, 0, 0));
    let mut rows = bench.connections();
    rows.sort_by_key(|row| row.remote_port);
    let rows: Vec<_> = rows.iter().map(|row| (row.remote_port, row.state, row.bytes_sent)).collect();
    assert_eq!(rows, [(Some(53), "closed", Some(20)), (Some(54), "closed", Some(0)), (Some(55), "closed", Some(1))]);
    assert_eq!(bench.agents()[0].bytes_sent, Some(21));
}

#[test]
fn what_came_before_the_end_may_be_read_after_it() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    let read = |step: Step, read| EventKind::Connection(Connection { bytes: Some((0, read)), ..connection(step, 0) });
    bench.feed(10, step(Some(TcpState::SynSent), 0));
    bench.feed(10, step(None, 0));
    for state in [TcpState::Established, TcpState::FinWait1, TcpState::FinWait2] {
        bench.feed(10, step(Some(state), 0));
    }
    bench.feed(10, read(Step::Held, 1));
    let row = bench.connections().remove(0);
    assert_eq!((row.state, row.end_time.is_some(), row.bytes_received), ("time_wait", true, Some(1)));
    // Its bytes come after the last process: the agent's row waits.
    bench.feed(10, exit_with(0));
    assert!(bench.engine.store.update(|state| !state.live_agents.is_empty()));
    bench.feed(10, read(Step::State(TcpState::Close), 778));
    let row = bench.connections().remove(0);
    assert_eq!((row.state, row.bytes_received), ("time_wait", Some(778)));
    bench.feed(10, read(Step::State(TcpState::Close), 778));
    assert_eq!(bench.agents()[0].bytes_received, Some(778));
    assert!(bench.engine.store.update(|state| state.live_agents.is_empty()));
}
