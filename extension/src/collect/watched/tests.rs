//! A machine that tells what it is told to.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::*;
use crate::collect::polling::system::Handle;
use crate::collect::polling::tests::{Machine, socket, told};
use crate::enrich::Meaning;
use crate::event::{Open, OpenMode, TcpState};
use crate::identify::Catalogue;
use crate::record::rows::CollectorRow;
use crate::record::{Boot, Engine, Store};

#[derive(Clone, Default)]
struct Tells {
    waiting: Rc<RefCell<Vec<Told>>>,
    tracked: Arc<Tracked>,
    looks_at_connections: bool,
}

struct Nothing;

impl Probe for Nothing {
    fn collector(&self) -> Vec<CollectorRow> {
        Vec::new()
    }

    fn open_bytes(&self) -> HashMap<u64, (u64, u64)> {
        HashMap::new()
    }
}

impl Source for Tells {
    fn receive(&mut self, _wait: Duration, told: &mut Vec<Told>) -> Result<(), CollectError> {
        told.append(&mut self.waiting.borrow_mut());
        Ok(())
    }

    fn probe(&self) -> Arc<dyn Probe> {
        Arc::new(Nothing)
    }

    fn tracked(&self) -> Arc<Tracked> {
        Arc::clone(&self.tracked)
    }

    fn looks_at_connections(&self) -> Option<Duration> {
        self.looks_at_connections.then_some(Duration::ZERO)
    }
}

impl Tells {
    fn say(&self, pid: u32, start_ns: u64, what: What) {
        if matches!(what, What::Begin { .. } | What::Program(_)) {
            self.tracked.begin(pid);
        }
        let process = Who::Key(ProcessKey { pid, start_ns });
        self.waiting.borrow_mut().push(Told { boot_ns: start_ns, process, what });
    }

    fn act(&self, pid: u32) {
        let what = What::Act(EventKind::Open(open()));
        self.waiting.borrow_mut().push(Told { boot_ns: 0, process: Who::Pid(pid), what });
    }
}

fn open() -> Open {
    Open {
        open_id: 1,
        how: OpenMode::Read,
        path: "/f".to_owned(),
        mode: 0o10_0644,
        fd: 3,
        uid: 0,
        tracked: true,
        truncated: false,
    }
}

fn exec(parent: u32) -> Box<Exec> {
    Box::new(Exec { parent, path: "/bin/x".to_owned(), candidate: true, ..Exec::default() })
}

fn fork(parent: u32) -> What {
    What::Begin { parent, program: None }
}

fn spawn(parent: u32) -> What {
    What::Begin { parent, program: Some(exec(parent)) }
}

type Watched = WatchedCollector<Tells, Machine>;

fn drain(collector: &mut Watched) -> Vec<Event> {
    let mut events = Vec::new();
    collector.drain(Duration::ZERO, &mut events).unwrap();
    events
}

/// A shell 10, and an agent 20 that it started, whose mark is confirmed.
fn with_agent() -> (Tells, Machine, Watched) {
    let (tells, machine) = (Tells::default(), Machine::default());
    machine.run(10, 1, 100, 1);
    let mut collector = WatchedCollector::new(tells.clone(), machine.clone());
    assert_eq!(told_of(&collector.running()), [("exec", 10)]);
    machine.run(20, 10, 20_000_000_000, 2);
    tells.say(20, 20_000_000_000, spawn(10));
    let events = drain(&mut collector);
    assert_eq!(told_of(&events), [("exec", 20)]);
    assert!(collector.confirm(events[0].mark));
    (tells, machine, collector)
}

/// As [`told`], with exits of which it is known how.
fn told_of(events: &[Event]) -> Vec<(&'static str, u32)> {
    let plain = |event: &Event| match event.kind {
        EventKind::Exit(_) => Event { kind: EventKind::Exit(None), ..event.clone() },
        _ => event.clone(),
    };
    told(&events.iter().map(plain).collect::<Vec<_>>())
}

const LATER: u64 = 30_000_000_000;

#[test]
fn what_descends_from_an_agent_is_told_and_nothing_else() {
    let (tells, _, mut collector) = with_agent();
    tells.say(21, LATER, fork(20));
    tells.say(22, LATER + 1, fork(21));
    tells.say(22, LATER + 1, What::Program(exec(21)));
    tells.say(12, LATER, fork(10));
    tells.act(22);
    tells.act(12);
    tells.act(99);
    let exit = Exit { code: 3, signal: 0 };
    tells.say(22, LATER + 1, What::End(Some(exit)));
    tells.say(22, LATER + 1, What::End(Some(exit)));
    let events = drain(&mut collector);
    assert_eq!(told_of(&events), [("fork", 21), ("fork", 22), ("exec", 22), ("open", 22), ("exit", 22)]);
    assert_eq!(events[4].kind, EventKind::Exit(Some(exit)));
    assert_eq!(events[1].process, ProcessKey { pid: 21, start_ns: LATER });
    let tracked = |pid| tells.tracked.contains(pid);
    assert!(tracked(21) && tracked(12), "not decided");
    tells.act(22);
    assert_eq!(told_of(&drain(&mut collector)), [("open", 22)], "it had ended just now");
    assert!(tracked(20) && tracked(21) && tracked(22) && !tracked(12));
    collector.decide(boot_ns() + LINGER_NS + 2);
    assert!(tracked(21) && !tracked(22));
    tells.act(22);
    assert_eq!(told_of(&drain(&mut collector)), []);
}

#[test]
fn all_of_an_agent_that_is_shorter_than_a_batch_is_told() {
    let (tells, _, mut collector) = with_agent();
    tells.say(30, LATER, fork(10));
    tells.act(30);
    tells.say(30, LATER, What::Program(exec(10)));
    tells.act(30);
    tells.say(31, LATER, spawn(30));
    tells.say(31, LATER, What::End(None));
    tells.say(30, LATER, What::End(None));
    let events = drain(&mut collector);
    let all = [("exec", 30), ("open", 30), ("fork", 31), ("exec", 31), ("exit", 30), ("exit", 31)];
    assert_eq!(told_of(&events), all);
    assert!(events.iter().all(|event| event.mark == events[0].mark));
    // Nobody confirmed it.
    drain(&mut collector);
    assert!(!collector.confirm(events[0].mark));
    tells.act(30);
    assert_eq!(told_of(&drain(&mut collector)), []);
}

#[test]
fn what_was_not_told_is_found() {
    let (tells, machine, mut collector) = with_agent();
    let check = |collector: &mut Watched| {
        let mut events = Vec::new();
        collector.check(&mut events).unwrap();
        told_of(&events)
    };
    machine.run(21, 20, LATER, 3);
    assert_eq!(check(&mut collector), [("fork", 21), ("exec", 21)]);
    // It was on its way; another way to ask for its start is a little off.
    tells.say(21, LATER + 3_000_000, spawn(20));
    assert_eq!(told_of(&drain(&mut collector)), []);
    tells.act(21);
    assert_eq!(told_of(&drain(&mut collector)), [("open", 21)]);
    assert!(tells.tracked.contains(21));
    machine.end(21);
    assert_eq!(check(&mut collector), []);
    assert_eq!(check(&mut collector), [("exit", 21)]);
    assert_eq!(check(&mut collector), []);
    // The pid is another one's, of which nothing was told.
    machine.run(20, 10, LATER * 2, 4);
    assert_eq!(check(&mut collector), [("exit", 20), ("exec", 20)]);
    // A program of which only that was told, below one of a tree.
    let (tells, _, mut collector) = with_agent();
    tells.say(22, LATER, What::Program(exec(20)));
    assert_eq!(told_of(&drain(&mut collector)), [("fork", 22), ("exec", 22)]);
}

#[test]
fn what_we_do_ourselves_is_not_told() {
    let (tells, _, mut collector) = with_agent();
    let own = std::process::id();
    tells.say(own, LATER, spawn(20));
    tells.say(44, LATER + 1, spawn(own));
    tells.act(own);
    tells.act(44);
    assert_eq!(told_of(&drain(&mut collector)), []);
}

#[test]
fn an_agent_that_runs_is_adopted_with_what_runs_below_it() {
    let (tells, machine) = (Tells::default(), Machine::default());
    for (pid, parent) in [(10, 1), (20, 10), (21, 20), (22, 21)] {
        machine.run(pid, parent, u64::from(pid), 1);
    }
    let mut collector = WatchedCollector::new(tells.clone(), machine);
    let mut running = told_of(&collector.running());
    running.sort_unstable();
    assert_eq!(running, [("exec", 10), ("exec", 20), ("exec", 21), ("exec", 22)]);
    // One of them is heard of only now.
    tells.say(21, 21, spawn(20));
    let (mark, events) = collector.adopt(20).unwrap();
    assert_eq!(told_of(&events), [("exec", 20), ("exec", 21), ("exec", 22)]);
    assert!(events.iter().all(|event| event.mark == mark));
    tells.act(22);
    tells.act(10);
    assert_eq!(told_of(&drain(&mut collector)), [("open", 22)]);
    drain(&mut collector);
    assert!([20, 21, 22].iter().all(|pid| tells.tracked.contains(*pid)) && !tells.tracked.contains(10));
    assert_eq!(collector.adopt(99), None);
}

#[test]
fn connections_are_looked_at_where_nothing_tells_of_them() {
    let (tells, machine, _) = with_agent();
    let tells = Tells { looks_at_connections: true, ..tells };
    let mut collector = WatchedCollector::new(tells, machine.clone());
    collector.running();
    collector.adopt(20).unwrap();
    machine.open(20, &[(4, Handle::Socket(7)), (5, Handle::File("/file".to_owned()))]);
    machine.listens(vec![socket(7, TcpState::Established)]);
    assert_eq!(told_of(&collector.open_already()), [("found", 20)], "of files events tell");
    assert_eq!(told_of(&drain(&mut collector)), [], "there is no agent");
    machine.open(20, &[]);
    collector.agents_live(1);
    assert_eq!(told_of(&drain(&mut collector)), [("end", 20)]);
}

/// What the engine makes of it.
#[test]
fn an_agent_is_in_the_tables_with_all_that_it_did_and_nobody_else_is() {
    let (tells, machine) = (Tells::default(), Machine::default());
    machine.run(10, 1, 100, 1);
    let mut collector = WatchedCollector::new(tells.clone(), machine);
    let store = Arc::new(Store::default());
    let (catalogue, meaning) = (Arc::new(Catalogue::builtin()), Arc::new(Meaning::builtin()));
    let mut engine = Engine::new(Arc::clone(&store), catalogue, meaning, Boot::default());
    engine.adopt(boot_ns(), &mut collector);
    let mut turn = || {
        let mut events = drain(&mut collector);
        engine.take(&mut events, boot_ns(), &mut collector);
    };
    let now = boot_ns();
    let program = |parent: u32, path: &str| {
        let argv = vec![path.to_owned()];
        let exec = Exec { parent, path: path.to_owned(), argv, candidate: true, ..Exec::default() };
        What::Begin { parent, program: Some(Box::new(exec)) }
    };
    tells.say(20, now, program(10, "/opt/node_modules/@anthropic-ai/claude-code/bin/claude.exe"));
    tells.say(21, now + 1, program(20, "/usr/bin/git"));
    tells.say(21, now + 1, What::End(Some(Exit { code: 3, signal: 0 })));
    tells.say(30, now + 2, program(10, "/usr/bin/make"));
    turn();
    tells.say(22, now + 3, program(20, "/usr/bin/cc"));
    tells.say(31, now + 4, program(30, "/usr/bin/cc"));
    turn();
    tells.say(22, now + 3, What::End(None));
    tells.say(31, now + 4, What::End(None));
    tells.say(20, now, What::End(Some(Exit { code: 0, signal: 9 })));
    turn();
    let agents: Vec<_> =
        store.agents().iter().map(|row| (row.agent.to_string(), row.pid, row.processes_total)).collect();
    assert_eq!(agents, [("claude-code".to_owned(), 20, 3)]);
    let rows = store.processes();
    let mut rows: Vec<_> = rows.iter().map(|row| (row.pid, &*row.name, row.state, row.exit_code, row.signal)).collect();
    rows.sort_unstable();
    let ended = [
        (20, "claude.exe", "exited", None, Some(9)),
        (21, "git", "exited", Some(3), Some(0)),
        (22, "cc", "exited", None, None),
    ];
    assert_eq!(rows, ended);
}
