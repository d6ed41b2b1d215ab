//! What an earlier recorder left running.

use super::*;
use crate::record::found::{Found, Rows};
use crate::record::rows::OpenFileRow;

/// What the rows of a store that can still change would be found as.
fn left(bench: &Bench) -> Found {
    let here = bench.engine.store.read(|state| Rows {
        agents: state.live_agents.values().cloned().collect(),
        processes: state.live_processes.values().cloned().collect(),
        connections: state.live_connections.values().cloned().collect(),
        open_files: state.open_files.values().cloned().collect(),
    });
    Found { here, gone: Rows::default() }
}

/// The next recorder, which finds this and these processes, and what they have open.
fn next(found: Found, running: Vec<Event>, open: Vec<Event>) -> Bench {
    let mut bench = Bench::new();
    bench.engine.store.update(|state| state.found = Some(found));
    (bench.told.running, bench.told.open) = (running, open);
    bench.now = 1_000_000_000;
    bench.engine.adopt(bench.now, &mut bench.told);
    bench
}

fn read(pid: u32, kind: EventKind) -> Event {
    Event { boot_ns: 900_000_000, process: key(pid), mark: MARK, kind }
}

/// An agent (10) with a shell (11) below it, which runs make (12).
fn first() -> Bench {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude", "-p", "x"]));
    bench.feed(10, fork_of(11));
    bench.feed(11, exec_of(10, "/usr/bin/sh", &["sh", "-c", "make"]));
    bench.feed(11, fork_of(12));
    bench.feed(12, exec_of(11, "/usr/bin/make", &["make"]));
    bench
}

fn told(bench: &Bench) -> Vec<(i64, &'static str, &'static str, i64)> {
    bench.processes().iter().map(|row| (row.pid, row.how, row.state, row.depth)).collect()
}

#[test]
fn what_lives_on_keeps_its_rows_and_the_rest_ends_at_no_known_time() {
    let before = first();
    let agent = before.agents()[0].clone();
    let rows = before.processes();
    // make has ended, and a process was started below the shell.
    let running = vec![
        read(13, exec_of(11, "/usr/bin/cc", &["cc"])),
        read(11, exec_of(10, "/usr/bin/sh", &["sh", "-c", "make"])),
        read(10, exec_of(1, CLAUDE, &["claude", "-p", "x"])),
    ];
    let mut bench = next(left(&before), running, Vec::new());
    let after = bench.processes();
    assert_eq!(
        told(&bench),
        [
            (10, "exec", "running", 0),
            (11, "exec", "running", 1),
            (12, "exec", "unknown", 2),
            (13, "adopted", "running", 2)
        ]
    );
    let cells = |row: &ProcessRow| (row.eid, row.time_ns, row.parent_eid, row.agent_id, row.exec_path.clone());
    assert_eq!(after[..3].iter().map(cells).collect::<Vec<_>>(), rows.iter().map(cells).collect::<Vec<_>>());
    assert_eq!((after[2].end_time, after[2].duration_ms, after[3].parent_eid), (None, None, Some(rows[1].eid)));
    let agents = bench.agents();
    assert_eq!((agents.len(), agents[0].agent_id, agents[0].start_gap_ms), (1, agent.agent_id, agent.start_gap_ms));
    assert_eq!((agents[0].processes, agents[0].processes_total), (3, agent.processes_total + 1));
    // It is an agent as any other from here on.
    for pid in [13, 11, 10] {
        bench.feed(pid, exit_with(0));
    }
    let agent = &bench.agents()[0];
    assert_eq!((agent.state.as_deref(), agent.exit_code, agent.processes), (Some("exited"), Some(0), 0));
    assert_eq!((&*bench.told.released, bench.told.live), (&[MARK][..], 0));
    assert_eq!(bench.processes().iter().filter(|row| row.state == "exited").count(), 3);
}

#[test]
fn an_agent_that_ended_meanwhile_is_neither_running_nor_ended_at_a_time() {
    let bench = next(left(&first()), Vec::new(), Vec::new());
    assert!(bench.processes().iter().all(|row| row.state == "unknown" && row.end_time.is_none()));
    let agent = &bench.agents()[0];
    assert_eq!((agent.state.as_deref(), agent.end_time, agent.processes), (Some("unknown"), None, 0));
    assert_eq!((bench.processes().len(), bench.agents().len()), (3, 1));
    assert!(bench.engine.store.read(|state| state.live_agents.is_empty() && state.live_processes.is_empty()));
}

#[test]
fn the_same_pid_is_not_the_same_process() {
    let before = first();
    let claude = exec_of(1, CLAUDE, &["claude", "-p", "x"]);
    let later = Event { process: ProcessKey { pid: 10, start_ns: 777 }, ..read(10, claude.clone()) };
    let bench = next(left(&before), vec![later], Vec::new());
    let told: Vec<_> = bench.agents().iter().map(|row| row.state.clone()).collect();
    assert_eq!(told, [Some("unknown".into()), None]);
    assert_ne!(bench.agents()[0].agent_id, bench.agents()[1].agent_id);
    // Nor is it after another boot, though all numbers are the same.
    let found = left(&before);
    let gone = Found { here: Rows::default(), gone: found.here };
    let mut bench = Bench::new();
    bench.engine.boot.id = "another".into();
    bench.engine.store.update(|state| state.found = Some(gone));
    bench.told.running = vec![read(10, claude)];
    bench.engine.adopt(1_000_000_000, &mut bench.told);
    assert_eq!(bench.processes().iter().filter(|row| row.state == "running").count(), 1);
    assert_eq!(bench.processes().iter().filter(|row| row.state == "unknown").count(), 3);
    assert_eq!(bench.agents().len(), 2);
}

#[test]
fn another_program_is_another_row_but_a_forks_first_is_not() {
    let mut before = first();
    before.feed(10, fork_of(14));
    let rows = before.processes();
    let running = vec![
        read(10, exec_of(1, CLAUDE, &["claude", "-p", "x"])),
        read(11, exec_of(10, "/usr/bin/git", &["git", "log"])),
        // It calls itself another name, and its file was renamed.
        read(12, exec_of(11, "/usr/bin/make.old", &["make"])),
        read(14, exec_of(10, "/usr/bin/ls", &["ls"])),
        read(15, exec_of(10, "/usr/bin/id", &["id"])),
    ];
    let bench = next(left(&before), running, Vec::new());
    let after = bench.processes();
    let told: Vec<_> = after.iter().map(|row| (row.pid, row.how, row.state, row.depth, &*row.name)).collect();
    assert_eq!(
        told,
        [
            (10, "exec", "running", 0, "claude.exe"),
            (11, "exec", "unknown", 1, "sh"),
            (12, "exec", "running", 2, "make"),
            (14, "exec", "running", 1, "ls"),
            (11, "adopted", "running", 1, "git"),
            (15, "adopted", "running", 1, "id"),
        ]
    );
    assert_eq!(after[3].eid, rows[3].eid);
    assert_eq!(after[4].parent_eid, rows[1].parent_eid);
    assert_eq!(after[4].time_ns - after[5].time_ns, 900_000_000 - 15, "when it was found, not its process' start");
    assert_eq!(bench.agents()[0].processes, 5);
}

#[test]
fn who_was_left_by_its_parents_is_still_the_agents() {
    let before = first();
    let running = vec![read(12, exec_of(1, "/usr/bin/make", &["make"]))];
    let mut bench = next(left(&before), running, Vec::new());
    let states: Vec<_> = bench.processes().iter().map(|row| (row.pid, row.state)).collect();
    assert_eq!(states, [(10, "unknown"), (11, "unknown"), (12, "running")]);
    assert_eq!((bench.agents().len(), bench.agents()[0].processes, bench.agents()[0].end_time), (1, 1, None));
    bench.feed(12, exit_with(0));
    assert_eq!((bench.agents().len(), bench.agents()[0].state.as_deref()), (1, Some("exited")));
}

fn socket(pid: u32, inode: u64, local: &str) -> Event {
    let EventKind::Connection(step) = step(Some(TcpState::Established), 0) else { panic!() };
    let local = local.parse().unwrap();
    read(pid, EventKind::Connection(Connection { socket_id: inode + 100, inode, fd: 4, local, ..step }))
}

#[test]
fn connections_and_open_files_are_known_again() {
    let mut before = first();
    before.feed(10, step(Some(TcpState::SynSent), 0));
    before.feed(10, step(None, 0));
    before.feed(10, step(Some(TcpState::Established), 0));
    before.feed(10, open_of(1, OpenMode::Create, "/nowhere/log"));
    before.feed(12, open_of(2, OpenMode::Read, "/nowhere/a.c"));
    before.feed(11, open_of(3, OpenMode::Create, "/nowhere/moved"));
    let (connection, files) = (before.connections()[0].clone(), before.files());
    let running = vec![
        read(10, exec_of(1, CLAUDE, &["claude", "-p", "x"])),
        read(11, exec_of(10, "/usr/bin/sh", &["sh", "-c", "make"])),
    ];
    let open = vec![
        socket(10, 2, "127.0.0.1:5000"),
        socket(11, 3, "127.0.0.1:5001"),
        read(10, open_of(7, OpenMode::Write, "/nowhere/log")),
        read(11, open_of(8, OpenMode::Write, "/nowhere/log")),
        read(11, fd(9, open_of(9, OpenMode::Write, "/nowhere/moved"))),
    ];
    let mut bench = next(left(&before), running, open);
    let rows = bench.connections();
    assert_eq!((rows.len(), rows[0].eid, rows[0].time_ns), (2, connection.eid, connection.time_ns));
    assert_eq!((rows[0].state, rows[0].process_eid), ("established", connection.process_eid));
    assert_eq!(bench.agents()[0].connections_total, 2, "one of them is new");
    let open: Vec<OpenFileRow> = bench.engine.store.open_files().iter().cloned().collect();
    let told: Vec<_> = open.iter().map(|row| (row.eid == files[0].eid, row.operation, row.pid)).collect();
    assert_eq!(told, [(true, "create", 10), (false, "create", 11), (false, "open_write", 11)]);
    assert_eq!(open[1].eid, files[2].eid);
    // The one whose process is gone has a close of which little is known.
    let closes = bench.files();
    let close = (closes.len(), closes[0].open_eid, closes[0].close_source, closes[0].bytes_read, closes[0].in_project);
    assert_eq!(close, (1, Some(files[1].eid), Some("unknown"), None, Some(true)));
    // And the one that was found ends as the open of before.
    bench.feed(10, EventKind::Close(Close { open_id: 7, bytes: Some((0, 3)), seen: true, mapped: Some(false) }));
    assert_eq!((bench.files()[1].open_eid, bench.files()[1].pid), (Some(files[0].eid), 10));
    bench.feed(10, EventKind::Connection(Connection { socket_id: 102, ..closed() }));
    let ended = bench.connections();
    assert_eq!((ended[0].eid, ended[0].state, ended.len()), (connection.eid, "closed", 2));
}

fn fd(fd: i32, open: EventKind) -> EventKind {
    let EventKind::Open(open) = open else { panic!() };
    EventKind::Open(Open { fd, ..open })
}

fn closed() -> Connection {
    let EventKind::Connection(step) = step(Some(TcpState::Close), 0) else { panic!() };
    step
}

#[test]
fn a_socket_of_the_same_number_but_another_address_is_another_connection() {
    let mut before = first();
    before.feed(10, step(Some(TcpState::SynSent), 0));
    before.feed(10, step(None, 0));
    let running = vec![read(10, exec_of(1, CLAUDE, &["claude", "-p", "x"]))];
    let bench = next(left(&before), running, vec![socket(10, 2, "127.0.0.1:5001")]);
    let states: Vec<_> = bench.connections().iter().map(|row| (row.state, row.end_time)).collect();
    assert_eq!(states, [("unknown", None), ("established", None)]);
}

#[test]
fn what_a_late_history_has_is_closed_once() {
    let mut before = first();
    before.feed(10, step(Some(TcpState::SynSent), 0));
    before.feed(10, step(None, 0));
    before.feed(10, open_of(1, OpenMode::Create, "/nowhere/log"));
    let mut bench = Bench::new();
    bench.told.running = vec![
        read(10, exec_of(1, CLAUDE, &["claude", "-p", "x"])),
        read(11, exec_of(10, "/usr/bin/sh", &["sh", "-c", "make"])),
    ];
    bench.told.open = vec![socket(10, 2, "127.0.0.1:5000")];
    bench.now = 1_000_000_000;
    bench.engine.adopt(bench.now, &mut bench.told);
    bench.feed(10, open_of(9, OpenMode::Create, "/nowhere/b"));
    bench.engine.store.update(|state| state.found = Some(left(&before)));
    bench.feed(10, open_of(10, OpenMode::Create, "/nowhere/c"));
    let mut states: Vec<_> = bench.processes().iter().map(|row| (row.pid, row.state, row.how)).collect();
    states.sort_unstable();
    let wanted = [
        (10, "running", "adopted"),
        (10, "unknown", "exec"),
        (11, "running", "adopted"),
        (11, "unknown", "exec"),
        (12, "unknown", "exec"),
    ];
    assert_eq!(states, wanted);
    let agents = bench.agents();
    assert_eq!((agents.len(), agents[0].processes, agents[0].processes_total), (1, 2, 3));
    assert_eq!((agents[0].connections_total, agents[0].files_created), (1, Some(3)));
    assert_eq!(agents[0].start_gap_ms, before.agents()[0].start_gap_ms);
    assert!(bench.engine.store.read(|state| state.found.is_none()));
    // One that lived on and has ended by now is not closed a second time.
    let mut bench = Bench::new();
    bench.told.running = vec![read(10, exec_of(1, CLAUDE, &["claude", "-p", "x"]))];
    bench.engine.adopt(1_000_000_000, &mut bench.told);
    bench.feed(10, exit_with(0));
    bench.engine.store.update(|state| state.found = Some(left(&before)));
    bench.engine.take(&mut Vec::new(), 2_000_000_000, &mut bench.told);
    let states: Vec<_> = bench.agents().iter().map(|row| row.state.clone()).collect();
    assert_eq!(states, [Some("exited".into())]);
}
