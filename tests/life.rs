//! osquery's worst days: the core is killed, hangs, forgets, refuses and talks nonsense, while an agent goes on working.
//! The tables are back within five seconds of the core's return, and nothing of the meantime is missing.
//!
//! The core is played by osquery's own Python classes, in a process of its own; the extension is the program as
//! osquery starts it, and records.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

#[path = "support/osquery.rs"]
mod osquery;
mod support;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use osquery::{Core, extension as command};
use serde_json::json;
use support::{Agent, can_record, wait_until};

/// How soon after the core's return the tables are back.
const BACK: f64 = 5.0;

/// Longer than all that the extension ever waits for in a row: a look (2 s), a wait (1 s), a registration (2 s) and
/// twice a deregistration (2 s each). From there on it does the same over and over.
const HANG: Duration = Duration::from_secs(12);

/// As long as a core hangs that swaps, or whose machine slept.
const LONG_HANG: Duration = Duration::from_secs(60);

fn signal(pid: u32, signal: i32) {
    // SAFETY: a signal to a child that was not waited for.
    assert_eq!(unsafe { libc::kill(i32::try_from(pid).unwrap(), signal) }, 0);
}

/// A core, the extension, and an agent that makes a file and a process every 50 ms.
struct Scene {
    core: Option<Core>,
    extension: Child,
    agent: Agent,
    working: Child,
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut core = Core::start(&folder.path().join("osquery.em"));
        let extension = command(folder.path()).spawn().unwrap();
        core.tell("registered", &json!([10]));
        wait_until("it records", 60, || {
            let rows = core.try_tell("generate", &json!(["agent_collector", {}, null]));
            rows.is_ok_and(|rows| !rows.as_array().unwrap().is_empty())
        });
        let agent = Agent::new();
        let working = agent.start("for ((i = 0; ; i++)); do : > f$i; [ -e stop ] && exit; /bin/sleep 0.05; done");
        Self { core: Some(core), extension, agent, working, folder }
    }

    fn core(&mut self) -> &mut Core {
        self.core.as_mut().unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("osquery.em")
    }

    /// Some time goes by, in which the agent works.
    fn go_on(&self, time: Duration) {
        let made = || std::fs::read_dir(self.agent.work()).unwrap().count();
        let (began, before) = (Instant::now(), made());
        wait_until("time goes by", 60, || began.elapsed() >= time && made() > before + 3);
    }

    /// The core is back to normal from now on.
    fn tables_are_back(&mut self, returned: Instant) {
        let left = BACK - returned.elapsed().as_secs_f64();
        self.core().tell("back", &json!([left]));
        println!("{}: back after {:?}", std::thread::current().name().unwrap_or_default(), returned.elapsed());
    }

    /// The agent ends; all that it made is there, and nothing else.
    fn nothing_is_missing(mut self) {
        self.go_on(Duration::from_secs(1));
        std::fs::write(self.agent.work().join("stop"), "").unwrap();
        assert!(self.working.wait().unwrap().success());
        let pid = self.working.id().to_string();
        let core = self.core.as_mut().unwrap();
        wait_until("the end of the agent is recorded", 20, || {
            let agents = core.rows("ai_agents", "pid", &pid);
            agents.iter().any(|agent| agent["state"] == "exited")
        });
        // A recorder that is kept from running counts what it loses; that is another matter than rows that are missing.
        let health = core.tell("generate", &json!(["agent_collector", {}, null]));
        for row in health.as_array().unwrap() {
            let lost = ["ring_full", "oversized", "throttled", "evicted"].map(|term| row[term].as_str().unwrap_or("0"));
            assert_eq!(lost, ["0"; 4], "{row}");
        }
        let agent_id = core.rows("ai_agents", "pid", &pid)[0]["agent_id"].as_str().unwrap().to_owned();
        let made: BTreeSet<String> = std::fs::read_dir(self.agent.work())
            .unwrap()
            .map(|entry| entry.unwrap().path().to_str().unwrap().to_owned())
            .filter(|path| !path.ends_with("/stop"))
            .collect();
        let rows = core.rows("agent_file_ops", "agent_id", &agent_id);
        let created: Vec<_> = rows.iter().filter(|row| row["operation"] == "create").collect();
        let paths: BTreeSet<_> = created.iter().map(|row| row["path"].as_str().unwrap().to_owned()).collect();
        assert!(made.len() > 4, "the agent made {} files", made.len());
        assert_eq!(paths, made);
        assert_eq!(created.len(), made.len(), "a file twice");
        let processes = core.rows("agent_processes", "agent_id", &agent_id);
        let slept = processes.iter().filter(|row| row["name"] == "sleep" && row["state"] == "exited").count();
        assert_eq!((slept, processes.len()), (made.len() - 1, made.len()), "{processes:?}");
    }

    /// SIGTERM; how it ended, within the four seconds that osquery gives it.
    fn ends(&mut self) -> ExitStatus {
        signal(self.extension.id(), libc::SIGTERM);
        let asked = Instant::now();
        loop {
            if let Some(status) = self.extension.try_wait().unwrap() {
                println!("{}: gone after {:?}", std::thread::current().name().unwrap_or_default(), asked.elapsed());
                return status;
            }
            assert!(asked.elapsed() < Duration::from_secs(4), "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for child in [&mut self.extension, &mut self.working] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn core_killed() {
    let mut scene = Scene::new();
    scene.core = None;
    scene.go_on(Duration::from_secs(6));
    scene.core = Some(Core::start(&scene.socket()));
    scene.tables_are_back(Instant::now());
    scene.nothing_is_missing();
}

fn core_restarted() {
    let mut scene = Scene::new();
    for _ in 0..2 {
        scene.core = None;
        scene.core = Some(Core::start(&scene.socket()));
        scene.tables_are_back(Instant::now());
        scene.go_on(Duration::from_secs(1));
    }
    scene.nothing_is_missing();
}

fn forgotten() {
    let mut scene = Scene::new();
    let before = scene.core().uuid().unwrap();
    scene.core().tell("forget", &json!([]));
    scene.tables_are_back(Instant::now());
    assert_ne!(scene.core().uuid(), Some(before));
    let old = scene.socket().with_file_name(format!("osquery.em.{before}"));
    assert!(!old.exists());
    scene.nothing_is_missing();
}

fn refused_for_seconds() {
    let mut scene = Scene::new();
    scene.core().tell("refuse", &json!([true]));
    scene.core().tell("forget", &json!([]));
    scene.go_on(Duration::from_secs(9));
    assert_eq!(scene.core().uuid(), None);
    scene.core().tell("refuse", &json!([false]));
    scene.tables_are_back(Instant::now());
    scene.nothing_is_missing();
}

fn core_stopped() {
    let mut scene = Scene::new();
    let before = scene.core().uuid();
    scene.core().signal(libc::SIGSTOP);
    scene.go_on(LONG_HANG);
    scene.core().signal(libc::SIGCONT);
    scene.tables_are_back(Instant::now());
    // It never left, so nothing that asks meanwhile finds the table gone.
    assert_eq!(scene.core().uuid(), before);
    scene.nothing_is_missing();
}

/// A core that takes calls and never answers one of them, and comes back without memory.
fn core_mute(time: Duration) {
    let mut scene = Scene::new();
    scene.core().tell("mood", &json!(["mute"]));
    scene.core().tell("forget", &json!([]));
    scene.go_on(time);
    scene.core().tell("mood", &json!(["well"]));
    scene.tables_are_back(Instant::now());
    scene.nothing_is_missing();
}

/// Replies of which a part comes, or none that makes sense; and the core has carried out what it was asked to.
fn bad_replies(mood: &str) {
    let mut scene = Scene::new();
    scene.core().tell("mood", &json!([mood]));
    scene.go_on(Duration::from_secs(5));
    scene.core().tell("mood", &json!(["well"]));
    scene.tables_are_back(Instant::now());
    // And when even the answer to the registration is lost.
    scene.core().tell("lose_the_registration", &json!([mood]));
    scene.core().tell("forget", &json!([]));
    wait_until("a registration is lost", 10, || scene.core().tell("lost", &json!([])) == true);
    scene.core().tell("mood", &json!(["well"]));
    scene.tables_are_back(Instant::now());
    scene.nothing_is_missing();
}

fn garbage_to_the_extension() {
    let mut scene = Scene::new();
    let uuid = scene.core().uuid().unwrap();
    let socket = scene.socket().with_file_name(format!("osquery.em.{uuid}"));
    let garbage: [&[u8]; 5] = [&[0xff; 10_000], &[0; 10_000], b"GET / HTTP/1.1\r\n\r\n", &[0x80, 1, 0, 1, 0x7f], &[]];
    let mut held = Vec::new();
    for round in 0..40 {
        for bytes in garbage {
            let mut stream = UnixStream::connect(&socket).unwrap();
            let _ = stream.write_all(bytes);
            if round % 2 == 0 {
                held.push(stream);
            } else {
                let _ = stream.shutdown(std::net::Shutdown::Write);
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let ended = stream.read_to_end(&mut Vec::new());
                assert!(!ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "{bytes:?}");
            }
        }
    }
    let longest = scene.core().tell("pings", &json!([50])).as_f64().unwrap();
    assert!(longest < 1.0, "a ping took {longest} s");
    scene.tables_are_back(Instant::now());
    assert_eq!(scene.core().uuid(), Some(uuid));
    drop(held);
    scene.nothing_is_missing();
}

/// One that was killed is still in the core's list, under its name.
fn killed_and_started_again() {
    let mut scene = Scene::new();
    let before = scene.core().uuid().unwrap();
    scene.extension.kill().unwrap();
    scene.extension.wait().unwrap();
    scene.extension = command(scene.folder.path()).spawn().unwrap();
    let began = Instant::now();
    wait_until("it is registered in place of the dead one", 5, || {
        scene.core().uuid().is_some_and(|uuid| uuid != before)
    });
    println!("the dead one is replaced after {:?}", began.elapsed());
    scene.working.kill().unwrap();
}

fn told_to_end() {
    let mut scene = Scene::new();
    let uuid = scene.core().uuid().unwrap();
    assert!(scene.ends().success());
    assert_eq!(scene.core().uuid(), None);
    assert!(!scene.socket().with_file_name(format!("osquery.em.{uuid}")).exists());
}

fn told_to_end_while_the_core_hangs() {
    let mut scene = Scene::new();
    scene.core().signal(libc::SIGSTOP);
    // In the middle of a look that nobody answers.
    scene.go_on(Duration::from_secs(4));
    assert!(scene.ends().success());
}

fn told_to_end_in_a_generate() {
    let mut scene = Scene::new();
    // Not all at once: every recorder of these scenes sees it.
    scene.agent.run("for ((i = 1000; i < 2500; i++)); do : > many$i; ((i % 50)) || /bin/sleep 0.05; done");
    let path = scene.agent.work().join("many2499");
    wait_until("the files are recorded", 20, || {
        scene.core().rows("agent_file_ops", "path", path.to_str().unwrap()).len() > 1
    });
    scene.core().begin("slow", &json!([path]));
    scene.go_on(Duration::from_millis(300));
    assert!(scene.ends().success());
    let error = scene.core().end().unwrap_err();
    assert!(!error.contains("stopped"), "{error}");
}

fn left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut core = Core::start(&folder.path().join("osquery.em"));
    let extension = command(folder.path());
    let mut watcher = Command::new("/bin/sh");
    watcher.args(["-c", "\"$0\" \"$@\" & echo $!; wait"]).arg(extension.get_program()).args(extension.get_args());
    watcher.envs(extension.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut watcher = watcher.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut pid = String::new();
    BufReader::new(watcher.stdout.take().unwrap()).read_line(&mut pid).unwrap();
    let stat = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
    assert!(stat.exists(), "{pid}");
    core.tell("registered", &json!([5]));
    watcher.kill().unwrap();
    watcher.wait().unwrap();
    // Who takes on orphans may never ask for their end: such a one is dead, too.
    let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
    wait_until("it goes with who started it", 10, gone);
}

type Scenario = Box<dyn Fn() + Send>;

#[test]
fn the_tables_come_back_and_nothing_is_missing() {
    if !can_record("the_tables_come_back_and_nothing_is_missing") {
        return;
    }
    let scenarios: [(&str, Scenario); 15] = [
        ("killed", Box::new(core_killed)),
        ("restarted", Box::new(core_restarted)),
        ("forgotten", Box::new(forgotten)),
        ("refused", Box::new(refused_for_seconds)),
        ("stopped", Box::new(core_stopped)),
        ("mute", Box::new(|| core_mute(HANG))),
        ("half", Box::new(|| bad_replies("half"))),
        ("stalled", Box::new(|| bad_replies("half, and waits"))),
        ("nonsense", Box::new(|| bad_replies("garbage"))),
        ("garbage", Box::new(garbage_to_the_extension)),
        ("namesake", Box::new(killed_and_started_again)),
        ("end", Box::new(told_to_end)),
        ("end in a hang", Box::new(told_to_end_while_the_core_hangs)),
        ("end in a generate", Box::new(told_to_end_in_a_generate)),
        ("alone", Box::new(left_alone)),
    ];
    let run = |(name, scenario): (&str, Scenario)| {
        (name.to_owned(), std::thread::Builder::new().name(name.to_owned()).spawn(scenario).unwrap())
    };
    let running: Vec<_> = scenarios.into_iter().map(run).collect();
    let failed: Vec<_> =
        running.into_iter().filter_map(|(name, thread)| thread.join().is_err().then_some(name)).collect();
    assert!(failed.is_empty(), "{failed:?}");
}
