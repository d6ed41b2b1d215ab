//! A machine of which every look is made up.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use super::system::{Handle, OpenFile, Program, Socket};
use super::*;
use crate::event::{Connection, ProcessKey, Step, TcpState, Transport};

/// What the machine shows at the next look.
#[derive(Default)]
pub(in crate::collect) struct Shown {
    processes: RefCell<HashMap<u32, (Glance, Exec)>>,
    handles: RefCell<HashMap<u32, Vec<(i32, Handle)>>>,
    sockets: RefCell<Vec<Socket>>,
    /// CPU time that each look at a process takes.
    cost: Cell<Duration>,
    spent: Cell<Duration>,
}

#[derive(Clone, Default)]
pub(in crate::collect) struct Machine(Rc<Shown>);

impl System for Machine {
    fn pids(&mut self) -> io::Result<Vec<u32>> {
        Ok(self.0.processes.borrow().keys().copied().collect())
    }

    fn glance(&mut self, pid: u32) -> Option<Glance> {
        self.0.spent.set(self.0.spent.get() + self.0.cost.get());
        self.0.processes.borrow().get(&pid).map(|(glance, _)| *glance)
    }

    fn program(&mut self, process: ProcessKey, _markers: &[String]) -> Program {
        let processes = self.0.processes.borrow();
        match processes.get(&process.pid).filter(|(glance, _)| glance.process == process) {
            Some((_, exec)) if exec.path.is_empty() => Program::Later,
            Some((_, exec)) => Program::Is(Box::new(exec.clone())),
            None => Program::None,
        }
    }

    fn handles(&mut self, pid: u32) -> Option<Vec<(i32, Handle)>> {
        Some(self.0.handles.borrow().get(&pid).cloned().unwrap_or_default())
    }

    /// The first letter is the file, whatever it is called; one for writing ends with w.
    fn file(&mut self, pid: u32, fd: i32) -> Option<OpenFile> {
        let handles = self.0.handles.borrow();
        let (_, handle) = handles.get(&pid)?.iter().find(|(known, _)| *known == fd)?;
        let Handle::File(path) = handle else { return None };
        let id = (1, u64::from(path.as_bytes()[1]));
        Some(OpenFile { id, path: path.clone(), mode: 0o10_0644, writes: path.ends_with('w') })
    }

    /// Descriptors of one open have the same last digit.
    fn is_same_open(&self, (_, one): (u32, i32), (_, other): (u32, i32)) -> bool {
        one % 10 == other % 10
    }

    fn net_ns(&mut self, _pid: u32) -> Option<u32> {
        Some(4)
    }

    fn sockets(&mut self, _pid: u32) -> Option<Vec<Socket>> {
        Some(self.0.sockets.borrow().clone())
    }

    fn cpu_time(&self) -> Duration {
        self.0.spent.get()
    }
}

impl Machine {
    pub(in crate::collect) fn run(&self, pid: u32, parent: u32, start_ns: u64, image: u64) {
        let process = ProcessKey { pid, start_ns };
        let glance = Glance { process, parent, ended: false, image };
        let exec = Exec { parent, path: format!("/bin/{image}"), candidate: true, ..Exec::default() };
        self.0.processes.borrow_mut().insert(pid, (glance, exec));
    }

    pub(in crate::collect) fn open(&self, pid: u32, handles: &[(i32, Handle)]) {
        self.0.handles.borrow_mut().insert(pid, handles.to_vec());
    }

    pub(in crate::collect) fn listens(&self, sockets: Vec<Socket>) {
        *self.0.sockets.borrow_mut() = sockets;
    }

    pub(in crate::collect) fn end(&self, pid: u32) {
        self.0.processes.borrow_mut().remove(&pid);
        self.0.handles.borrow_mut().remove(&pid);
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A connection over TCP that this end has made.
pub(in crate::collect) fn socket(inode: u64, state: TcpState) -> Socket {
    Socket {
        inode,
        transport: Transport::Tcp,
        v6: false,
        local: address(5),
        remote: address(6),
        path: None,
        state,
        connected: true,
        bytes: None,
    }
}

fn file(path: &str) -> Handle {
    Handle::File(path.to_owned())
}

/// What the next look tells.
fn look(collector: &mut PollingCollector<Machine>) -> Vec<Event> {
    collector.last = None;
    let mut events = Vec::new();
    collector.drain(Duration::ZERO, &mut events).unwrap();
    events
}

/// Kinds of events and pids; those of one kind in the order of pids.
pub(in crate::collect) fn told(events: &[Event]) -> Vec<(&'static str, u32)> {
    let name = |event: &Event| match &event.kind {
        EventKind::Fork(fork) => ("fork", fork.child.pid),
        EventKind::Exec(_) => ("exec", event.process.pid),
        EventKind::Exit(None) => ("exit", event.process.pid),
        EventKind::Open(_) => ("open", event.process.pid),
        EventKind::Close(_) => ("close", event.process.pid),
        EventKind::Connection(Connection { step: Step::Found(_), .. }) => ("found", event.process.pid),
        EventKind::Connection(Connection { step: Step::State(_), .. }) => ("state", event.process.pid),
        EventKind::Connection(Connection { step: Step::End, .. }) => ("end", event.process.pid),
        other => panic!("{other:?}"),
    };
    let mut told: Vec<_> = events.iter().map(name).collect();
    told.chunk_by_mut(|one, other| one.0 == other.0).for_each(<[_]>::sort_unstable);
    told
}

/// A machine with a shell 10 and an agent 20 below it, whose mark is confirmed.
fn with_agent() -> (Machine, PollingCollector<Machine>) {
    let machine = Machine::default();
    machine.run(10, 1, 100, 1);
    let mut collector = PollingCollector::new(machine.clone(), &Interest::default(), None, None);
    assert_eq!(told(&collector.running()), [("exec", 10)]);
    machine.run(20, 10, 200, 2);
    let events = look(&mut collector);
    assert_eq!(told(&events), [("exec", 20)]);
    assert_eq!(events[0].boot_ns, 200, "it began when it began");
    assert!(collector.confirm(events[0].mark));
    (machine, collector)
}

#[test]
fn a_process_belongs_to_the_tree_of_its_parent() {
    let (machine, mut collector) = with_agent();
    machine.run(21, 20, 300, 2); // forked
    machine.run(22, 21, 300, 3); // and that one has started a program
    let events = look(&mut collector);
    assert_eq!(told(&events), [("fork", 21), ("fork", 22), ("exec", 22)]);
    assert_eq!(events[1].process, ProcessKey { pid: 21, start_ns: 300 });
    machine.run(21, 20, 300, 5);
    machine.end(22);
    machine.run(12, 10, 400, 1);
    let events = look(&mut collector);
    assert_eq!(told(&events), [("exec", 21), ("exit", 22)], "12 is a fork of one that is no agent");
    assert!(events[0].boot_ns > 300, "seen to be another program now");
    // Whoever is left to init stays in the tree.
    machine.end(20);
    machine.run(21, 1, 300, 5);
    assert_eq!(told(&look(&mut collector)), [("exit", 20)]);
    machine.end(21);
    assert_eq!(told(&look(&mut collector)), [("exit", 21)]);
    assert!(look(&mut collector).is_empty());
}

#[test]
fn one_that_is_about_to_become_another_program_is_asked_again() {
    let (machine, mut collector) = with_agent();
    let set_path = |pid: u32, path: &str| {
        path.clone_into(&mut machine.0.processes.borrow_mut().get_mut(&pid).unwrap().1.path);
    };
    machine.run(21, 20, 300, 3);
    machine.run(20, 10, 200, 4);
    set_path(21, "");
    set_path(20, "");
    assert!(look(&mut collector).is_empty());
    set_path(21, "/bin/3");
    set_path(20, "/bin/4");
    let events = look(&mut collector);
    assert_eq!(told(&events), [("exec", 20), ("fork", 21), ("exec", 21)]);
    assert_eq!(events[1].boot_ns, 300, "it began when it began");
}

#[test]
fn what_is_no_agent_is_told_once() {
    let (machine, mut collector) = with_agent();
    machine.run(11, 10, 300, 4);
    let events = look(&mut collector);
    assert_eq!(told(&events), [("exec", 11)]);
    collector.release(events[0].mark);
    machine.run(12, 11, 300, 4);
    assert!(look(&mut collector).is_empty());
    machine.end(11);
    assert!(look(&mut collector).is_empty());
    assert!(!collector.confirm(events[0].mark), "it is too late");
}

#[test]
fn a_pid_that_is_used_again_is_another_process() {
    let (machine, mut collector) = with_agent();
    machine.run(20, 10, 900, 7);
    let events = look(&mut collector);
    assert_eq!(told(&events), [("exec", 20), ("exit", 20)]);
    let starts: Vec<_> = events.iter().map(|event| event.process.start_ns).collect();
    assert_eq!(starts, [900, 200]);
    // And whoever has the pid of a parent but is younger is no parent.
    assert!(collector.confirm(events[0].mark));
    machine.run(30, 20, 800, 7);
    assert_eq!(told(&look(&mut collector)), [("exec", 30)]);
}

#[test]
fn one_that_nobody_asked_for_has_ended_all_the_same() {
    let (machine, mut collector) = with_agent();
    machine.0.processes.borrow_mut().get_mut(&20).unwrap().0.ended = true;
    assert_eq!(told(&look(&mut collector)), [("exit", 20)]);
    machine.end(20);
    assert!(look(&mut collector).is_empty());
}

#[test]
fn nothing_of_this_program_is_told() {
    let (machine, mut collector) = with_agent();
    machine.run(std::process::id(), 20, 300, 8);
    machine.run(50, std::process::id(), 400, 9);
    assert!(look(&mut collector).is_empty());
    let (_, tree) = collector.adopt(20).unwrap();
    assert_eq!(told(&tree), [("exec", 20)]);
    assert!(collector.adopt(std::process::id()).is_none());
}

#[test]
fn an_open_is_one_whoever_has_it() {
    let (machine, mut collector) = with_agent();
    // From outside; by itself; by two descriptors.
    machine.open(10, &[(1, file("/log w"))]);
    machine.open(20, &[(1, file("/log w")), (3, file("/ar")), (4, file("/b w")), (14, file("/b w"))]);
    assert_eq!(told(&look(&mut collector)), [("open", 20), ("open", 20)]);
    machine.run(21, 20, 300, 2);
    machine.open(21, &[(1, file("/log w")), (3, file("/ar")), (5, file("/ar"))]);
    machine.open(20, &[(1, file("/log w")), (14, file("/b other name w"))]);
    let events = look(&mut collector);
    assert_eq!(told(&events), [("fork", 21), ("open", 21)], "3 is held by the child, and b was renamed");
    machine.end(21);
    assert_eq!(told(&look(&mut collector)), [("close", 20), ("close", 21), ("exit", 21)]);
    machine.end(20);
    assert_eq!(told(&look(&mut collector)), [("close", 20), ("exit", 20)]);
}

#[test]
fn a_connection_from_look_to_look() {
    let (machine, mut collector) = with_agent();
    let shows = |sockets: &[Socket]| machine.listens(sockets.to_vec());
    shows(&[socket(7, TcpState::SynSent), socket(8, TcpState::Established), socket(9, TcpState::Established)]);
    machine.open(10, &[(0, Handle::Socket(9))]);
    machine.open(20, &[(0, Handle::Socket(9)), (3, Handle::Socket(7))]);
    assert_eq!(told(&look(&mut collector)), [("found", 20)], "9 is of whoever started it, 8 of others");
    shows(&[socket(7, TcpState::Established)]);
    machine.run(21, 20, 300, 2);
    machine.open(21, &[(3, Handle::Socket(7))]);
    assert_eq!(told(&look(&mut collector)), [("fork", 21), ("state", 20)]);
    // Its child has it still.
    machine.open(20, &[]);
    assert!(look(&mut collector).is_empty());
    // A list is not of one moment.
    shows(&[]);
    assert!(look(&mut collector).is_empty());
    shows(&[socket(7, TcpState::Established)]);
    assert!(look(&mut collector).is_empty());
    machine.open(21, &[]);
    assert_eq!(told(&look(&mut collector)), [("end", 20)], "in the name of who made it");
}

#[test]
fn a_look_that_is_dear_is_followed_by_a_long_pause() {
    let (machine, mut collector) = with_agent();
    let pause = |collector: &PollingCollector<Machine>| collector.due().unwrap() - collector.last.unwrap();
    assert_eq!(pause(&collector), IDLE);
    collector.agents_live(1);
    assert_eq!(pause(&collector), INTERVAL);
    machine.0.cost.set(Duration::from_millis(10));
    look(&mut collector);
    assert_eq!(pause(&collector), 2 * Duration::from_millis(10) / 4 * SHARE, "once it may happen");
    (0..40).for_each(|_| drop(look(&mut collector)));
    // The shell is not looked at each time any more.
    let always = Duration::from_millis(10) * SHARE;
    assert!(pause(&collector) < always * 11 / 10 && pause(&collector) > always * 9 / 10);
    machine.0.cost.set(Duration::from_secs(1));
    look(&mut collector);
    assert_eq!(pause(&collector), AT_MOST);
}

#[test]
fn bytes_of_a_connection_are_those_of_the_last_look() {
    let (machine, mut collector) = with_agent();
    let speak = |bytes| machine.listens(vec![Socket { bytes, ..socket(7, TcpState::Established) }]);
    let bytes_of = |events: &[Event]| match &events[0].kind {
        EventKind::Connection(connection) => connection.bytes,
        other => panic!("{other:?}"),
    };
    machine.open(20, &[(3, Handle::Socket(7))]);
    speak(Some((1, 2)));
    assert_eq!(bytes_of(&look(&mut collector)), Some((1, 2)));
    speak(Some((10, 20)));
    assert_eq!(told(&look(&mut collector)), []);
    let now = |collector: &PollingCollector<Machine>| collector.probe().socket_bytes();
    assert_eq!(now(&collector), HashMap::from([((7, None), (10, 20))]));
    speak(None);
    look(&mut collector);
    machine.open(20, &[]);
    let events = look(&mut collector);
    assert_eq!((told(&events), bytes_of(&events)), (vec![("end", 20)], Some((10, 20))));
    assert_eq!(now(&collector), HashMap::new());
}
