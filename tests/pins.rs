//! What outlives a recorder: the programs go on, and the next one reads what the last one had not made durable.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use agentquery::collect::{self, Collector, Interest, Kept, Place, Syscalls, Wanted};
use agentquery::event::EventKind;
use libbpf_rs::{MapCore as _, MapFlags, MapHandle};
use support::{Agent, BpfFs, Recorder, can_record, skipped};

/// A program that is looked at because of where it is.
fn program() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agentquery-pinned-test");
    std::fs::copy("/bin/true", &path).unwrap();
    (folder, path)
}

fn start(folder: &Path, durable: Place) -> Box<dyn Collector> {
    let interest = Interest { literals: vec!["agentquery-pinned-test".into()], ..Interest::default() };
    collect::start(
        &interest,
        Wanted { syscalls: Syscalls::Always, ..Wanted::default() },
        Some(Kept { folder, durable }),
    )
    .unwrap()
}

/// Runs programs, and is no descendant of ours: what a recorder starts is muted.
struct Runner {
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Runner {
    fn new() -> Self {
        let script = r"while read program; do $program & wait; echo $!; done";
        let mut command = Command::new("setsid");
        command.args(["--fork", "sh", "-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (ask, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        child.wait().unwrap();
        Self { ask, answers: BufReader::new(answers) }
    }

    fn run(&mut self, program: &Path) -> u32 {
        self.run_with(program, "")
    }

    fn run_with(&mut self, program: &Path, argument: &str) -> u32 {
        writeln!(self.ask, "{} {argument}", program.display()).unwrap();
        let mut pid = String::new();
        self.answers.read_line(&mut pid).unwrap();
        pid.trim().parse().unwrap()
    }
}

/// The processes that ran this program, as they are read until there are so many. Other tests have one of that name.
fn read(collector: &mut dyn Collector, program: &Path, many: usize) -> Vec<u32> {
    let (mut pids, mut events) = (Vec::new(), Vec::new());
    let until = Instant::now() + Duration::from_secs(10);
    while pids.len() < many && Instant::now() < until {
        collector.drain(Duration::from_millis(10), &mut events).unwrap();
        for event in events.drain(..) {
            if let EventKind::Exec(exec) = &event.kind
                && Path::new(&exec.path) == program
            {
                pids.push(event.process.pid);
            }
        }
    }
    pids
}

#[test]
fn the_next_one_reads_what_was_not_durable_and_what_came_meanwhile() {
    if !can_record("the_next_one_reads_what_was_not_durable_and_what_came_meanwhile") {
        return;
    }
    let (system, (_folder, program), mut runner) = (BpfFs::new(), program(), Runner::new());
    let mut first = start(&system.pins(), Place::default());
    assert!(!first.resumes(), "there was none before it");
    let durable = runner.run(&program);
    assert_eq!(read(&mut *first, &program, 1), [durable]);
    let place = first.place();
    let lost = runner.run(&program);
    assert_eq!(read(&mut *first, &program, 1), [lost]);
    first.commit(0, Some(place));
    drop(first);
    let meanwhile = runner.run(&program);

    let mut second = start(&system.pins(), place);
    assert!(second.resumes());
    let submitted = |collector: &dyn Collector| {
        collector.probe().collector().iter().map(|row| row.submitted - row.received - row.in_flight).collect::<Vec<_>>()
    };
    assert!(submitted(&*second).iter().all(|difference| *difference == 0), "{:?}", submitted(&*second));
    let now = runner.run(&program);
    assert_eq!(read(&mut *second, &program, 3), [lost, meanwhile, now]);
    assert!(second.syscalls_since().is_some_and(|since| since < collect::boot_ns()));

    // What was stored is not read again, though the ring still has it.
    let place = second.place();
    drop(second);
    let mut third = start(&system.pins(), place);
    assert!(third.resumes());
    let newest = runner.run(&program);
    assert_eq!(read(&mut *third, &program, 1), [newest]);
    // A place in another ring says nothing of this one.
    drop(third);
    let fourth = start(&system.pins(), Place { series: place.series + 1, ..place });
    assert!(!fourth.resumes());
}

/// Changes when a recorder was last heard of, to so many seconds ago.
fn heard(system: &BpfFs, seconds_ago: u64) {
    let version = std::fs::read_dir(system.pins()).unwrap().next().unwrap().unwrap().path();
    let map = MapHandle::from_pinned_path(version.join("map_recorder")).unwrap();
    let key = 0_u32.to_ne_bytes();
    let mut said = map.lookup(&key, MapFlags::ANY).unwrap().unwrap();
    let heard_ns = collect::boot_ns() - seconds_ago * 1_000_000_000;
    said[8..16].copy_from_slice(&heard_ns.to_ne_bytes());
    map.update(&key, &said, MapFlags::ANY).unwrap();
}

#[test]
fn without_a_recorder_for_ten_minutes_the_programs_fall_silent() {
    if !can_record("without_a_recorder_for_ten_minutes_the_programs_fall_silent") {
        return;
    }
    if collect::boot_ns() < 700_000_000_000 {
        skipped("without_a_recorder_for_ten_minutes_the_programs_fall_silent", "the machine runs for less than that");
        return;
    }
    let (system, (_folder, program), mut runner) = (BpfFs::new(), program(), Runner::new());
    let first = start(&system.pins(), Place::default());
    let place = first.place();
    drop(first);
    heard(&system, 601);
    runner.run(&program);
    heard(&system, 590);
    let told = runner.run(&program);
    heard(&system, 530);
    let mut second = start(&system.pins(), place);
    assert!(second.resumes());
    assert_eq!(read(&mut *second, &program, 1), [told]);
    let place = second.place();
    drop(second);
    // They are about to fall silent, or have done so.
    heard(&system, 550);
    let third = start(&system.pins(), place);
    assert!(!third.resumes());
}

#[test]
fn the_kernel_gets_its_room_back_and_what_is_at_risk_is_told() {
    if !can_record("the_kernel_gets_its_room_back_and_what_is_at_risk_is_told") {
        return;
    }
    let (system, (_folder, program), mut runner) = (BpfFs::new(), program(), Runner::new());
    let mut collector = start(&system.pins(), Place::default());
    let message = |collector: &dyn Collector| collector.probe().collector()[0].message.clone();
    let place = collector.place();
    let argument = "x".repeat(8000);
    // Nothing is durable: a quarter of the ring is held, and not more.
    for n in 0..400 {
        let pid = runner.run_with(&program, &argument);
        assert_eq!(read(&mut *collector, &program, 1), [pid], "{n}: the ring is full");
        collector.commit(0, Some(place));
        let at_risk = collector.place().position - place.position > 1 << 20;
        assert_eq!(message(&*collector).is_some_and(|text| text.contains("not stored yet")), at_risk, "{n}");
    }
    assert!(collector.place().position - place.position > 3 << 20, "it is too little: nothing was tested");
    collector.commit(0, Some(collector.place()));
    assert_eq!(message(&*collector), None);
}

/// What is kept from one recorder to the next: a file system for pins, and a history.
struct Lasting {
    system: BpfFs,
    state: tempfile::TempDir,
}

impl Lasting {
    fn new() -> Self {
        Self { system: BpfFs::new(), state: tempfile::tempdir().unwrap() }
    }

    fn database(&self) -> PathBuf {
        self.state.path().join("history.duckdb")
    }

    fn recorder(&self) -> Recorder {
        let (database, pins) = (self.database(), self.system.pins());
        Recorder::start(&[
            "--syscalls",
            "always",
            "--database",
            database.to_str().unwrap(),
            "--pin",
            pins.to_str().unwrap(),
        ])
    }
}

#[test]
fn a_recorder_that_is_killed_misses_nothing() {
    if !can_record("a_recorder_that_is_killed_misses_nothing") {
        return;
    }
    let lasting = Lasting::new();
    let mut recorder = lasting.recorder();
    let agent = Agent::new();
    // Each a process and a file; one stays open all the time.
    let mut work = agent.start(
        "exec 5>held; for n in $(seq 1 600); do (echo $n >f$n); sleep 0.005; done; echo end >&5; exec 5>&-; touch done",
    );
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(1200));
        assert!(!agent.work().join("done").exists(), "it was too fast: nothing was tested");
        // Another agent of the machine may do so much that not all of it can be held back.
        recorder.wait_for("SELECT count(*) FROM agent_collector WHERE message LIKE '%not stored yet%'", "0");
        recorder.kill();
        std::thread::sleep(Duration::from_millis(300));
        recorder = lasting.recorder();
    }
    work.wait().unwrap();
    let id = recorder.value(&format!("SELECT agent_id FROM ai_agents WHERE pid = {}", work.id())).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let ended = format!("SELECT state FROM ai_agents WHERE agent_id = {id}");
    while recorder.value(&ended).as_deref() != Some("exited") {
        assert!(
            Instant::now() < until,
            "{:?}",
            recorder.query(&format!("SELECT * FROM ai_agents WHERE agent_id = {id}"))
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let number = |sql: &str| -> i64 { recorder.value(&sql.replace("ID", &id)).unwrap().parse().unwrap() };
    // Another agent of the machine may have filled the ring.
    let lost = "SELECT max(ring_full + oversized + throttled) FROM agent_collector WHERE event IN ('fork', 'exec', 'exit', 'open', 'close')";
    assert_eq!(recorder.value(lost).as_deref(), Some("0"));
    let files = "FROM agent_file_ops WHERE agent_id = ID AND operation =";
    assert_eq!(number(&format!("SELECT count(*) {files} 'create' AND path GLOB '*/f[0-9]*'")), 600);
    assert_eq!(number(&format!("SELECT count(DISTINCT path) {files} 'create' AND path GLOB '*/f[0-9]*'")), 600);
    assert_eq!(
        number(&format!("SELECT count(*) {files} 'close' AND path GLOB '*/f[0-9]*' AND bytes_written > 0")),
        600
    );
    assert_eq!(number(&format!("SELECT bytes_written {files} 'close' AND path GLOB '*/held'")), 4);
    let forks = "FROM agent_processes WHERE agent_id = ID AND how = 'fork'";
    let of_files = format!("SELECT count(DISTINCT process_eid) {files} 'create' AND path GLOB '*/f[0-9]*'");
    assert_eq!(number(&of_files), 600);
    assert!(number(&format!("SELECT count(*) {forks}")) >= 600);
    assert_eq!(
        number("SELECT count(*) FROM agent_processes WHERE agent_id = ID AND state NOT IN ('exited', 'replaced')"),
        0
    );
    assert_eq!(number("SELECT count(*) FROM agent_processes WHERE agent_id = ID AND end_time IS NULL"), 0);
    assert_eq!(number("SELECT files_created FROM ai_agents WHERE agent_id = ID"), 602);
    assert_eq!(number("SELECT count(*) FROM ai_agents WHERE agent_id = ID"), 1);
    assert_eq!(number("SELECT count(*) FROM agent_collector WHERE message LIKE 'recording ended%'"), 0);
    let apart = "SELECT max(abs(submitted - received - in_flight)) FROM agent_collector WHERE event IN ('fork', 'exec', 'exit')";
    recorder.wait_for(apart, "0");
}

/// Waits until what is shown now is in the file: two commits from now, for one may be on its way.
fn wait_until_stored(database: &Path) {
    let log = database.with_extension("duckdb.wal");
    let length = || std::fs::metadata(&log).map_or(0, |of| of.len());
    let until = Instant::now() + Duration::from_secs(30);
    for _ in 0..2 {
        let before = length();
        while length() == before {
            assert!(Instant::now() < until, "nothing is stored");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn sockets_and_their_bytes_go_on_over_a_kill() {
    if !can_record("sockets_and_their_bytes_go_on_over_a_kill") {
        return;
    }
    let lasting = Lasting::new();
    let mut recorder = lasting.recorder();
    let agent = Agent::new();
    // Each sends before the kill, while nobody records, and after it; one more of each kind begins meanwhile.
    let script = r#"unshare -n sh -c 'ip link set lo up; exec python3 -' <<'P'
import os, socket, time
def reach(name, then):
    open(name, "w").close()
    while not os.path.exists(then): time.sleep(0.01)
def pairs():
    tcp = socket.create_connection(listener.getsockname()); inbound, _ = listener.accept()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.connect(("127.0.0.1", 9))
    unix = socket.socket(socket.AF_UNIX); unix.connect("a.sock"); other, _ = local.accept()
    return [tcp, inbound, udp, unix, other]
def send(pairs, bytes):
    for s in pairs:
        try: s.send(bytes)
        except ConnectionRefusedError: s.send(bytes)
listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen()
local = socket.socket(socket.AF_UNIX); local.bind("a.sock"); local.listen()
first = pairs(); send(first, b"1"); reach("before", "killed")
second = pairs(); send(first + second, b"22"); reach("meanwhile", "again")
send(first + second, b"333"); reach("after", "end")
P
true"#;
    let mut work = agent.start(script);
    let reached = |name: &str| {
        let until = Instant::now() + Duration::from_secs(20);
        while !agent.work().join(name).exists() {
            assert!(Instant::now() < until, "the agent does not come to {name}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let tell = |name: &str| std::fs::write(agent.work().join(name), "").unwrap();
    let pid = work.id();
    let shown = |state: &str| {
        format!(
            "SELECT group_concat(line, ', ') FROM (SELECT transport || ' ' || direction || ' ' || ifnull(bytes_sent, '-') \
             AS line FROM agent_connections WHERE {state} AND agent_id IN (SELECT agent_id FROM ai_agents WHERE pid = \
             {pid}) ORDER BY transport, direction, bytes_sent)"
        )
    };
    reached("before");
    let first =
        "tcp inbound 1, tcp listen -, tcp outbound 1, udp outbound 1, unix inbound 1, unix listen -, unix outbound 1";
    recorder.wait_for(&shown("end_time IS NULL"), first);
    wait_until_stored(&lasting.database());
    recorder.kill();
    tell("killed");
    reached("meanwhile");
    recorder = lasting.recorder();
    tell("again");
    reached("after");
    let all = "tcp inbound 5, tcp inbound 6, tcp listen -, tcp outbound 5, tcp outbound 6, udp outbound 5, udp outbound 6, \
               unix inbound 5, unix inbound 6, unix listen -, unix outbound 5, unix outbound 6";
    recorder.wait_for(&shown("end_time IS NULL"), all);
    tell("end");
    assert!(work.wait().unwrap().success());
    recorder.wait_for(&shown("end_time IS NOT NULL AND state IN ('closed', 'time_wait')"), all);
    let sums = format!("SELECT connections_total || ' ' || bytes_sent FROM ai_agents WHERE pid = {pid}");
    recorder.wait_for(&sums, "10 55");
}
