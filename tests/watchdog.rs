//! The extension under osquery's watchdog for extensions (`--enable_extensions_watchdog`): it looks every three seconds, and
//! ends one that has grown by 200 MB since its first look, or that used more than a tenth of the processors in four looks in
//! a row. Both is held against idling, an agent at work, and a day of agents in a few seconds.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

#[path = "query_packs/format.rs"]
#[allow(dead_code)]
mod format;
#[path = "support/osquery.rs"]
mod osquery;
#[path = "query_packs/store.rs"]
#[allow(dead_code)]
mod store;
mod support;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use osquery::{Core, extension};
use serde_json::json;
use support::{Agent, can_record, wait_until};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(3);
/// Looks in a row over the limit that end it.
const LOOKS: usize = 4;
const GROWTH: u64 = 200 << 20;

/// What a busy developer's agents do: some commands a second, each with some dozens of files.
const WORK: &str = "for ((i = 0; ; i++)); do
    for ((n = 0; n < 10; n++)); do echo $i > f$n; read line < f$n; done
    [ -e stop ] && exit; /bin/sleep 0.1; done";

/// The changes of a day, in some seconds.
const DAY: &str = "exec python3 -c '
import os, time
for n in range(12_000):
    name = f\"d{n % 50}\"
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
    os.unlink(name)
    if n % 25 == 0:
        time.sleep(0.002)
'";

struct Scene {
    core: Core,
    extension: Child,
    first: u64,
    _folder: tempfile::TempDir,
}

impl Scene {
    /// An extension with a large history that answers, and how large it is.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        std::fs::DirBuilder::new().mode(0o700).create(&state).unwrap();
        store::fill(&state.join("history.duckdb"));
        let mut core = Core::with_sql(&folder.path().join("osquery.em"));
        let extension = extension(folder.path()).spawn().unwrap();
        core.tell("registered", &json!([20]));
        let first = resident(extension.id());
        wait_until("it records", 60, || {
            let rows = core.try_tell("ask", &json!(["SELECT * FROM agent_collector"]));
            rows.is_ok_and(|answer| !answer["rows"].as_array().unwrap().is_empty())
        });
        Self { core, extension, first, _folder: folder }
    }

    fn grown(&self) -> u64 {
        resident(self.extension.id()).saturating_sub(self.first)
    }

    /// What a scheduler asks in some minutes.
    fn schedule(&mut self) {
        for (pack, name, query) in format::queries() {
            let asked = self.core.try_tell("ask", &json!([query.sql()]));
            // A day of others' agents may be more rows than a query may have; it says so, and that costs the same.
            assert!(
                asked.is_ok() || asked.as_ref().unwrap_err().contains("more than 10000 rows"),
                "{pack}, {name}: {asked:?}"
            );
        }
    }

    /// Looks as the watchdog does until so many looks in a row are well, each of which ends its count; it ends the
    /// extension when there are four that are not.
    fn is_let_live(&mut self, what: &str, looks: usize) {
        let (mut well, mut over) = (0, Vec::new());
        while well < looks {
            let (began, before) = (Instant::now(), used(self.extension.id()));
            std::thread::sleep(INTERVAL);
            let used = used(self.extension.id()).saturating_sub(before).as_secs_f64();
            let share = used / began.elapsed().as_secs_f64() / processors();
            println!("{what}: {:.1} % of the processors, grown by {} kB", share * 100.0, self.grown() >> 10);
            assert!(self.grown() < GROWTH, "{what}: grown by {} bytes", self.grown());
            if share < 0.1 {
                well += 1;
                over.clear();
            } else {
                well = 0;
                over.push(share);
            }
            assert!(over.len() < LOOKS, "{what}: {over:?} of the processors");
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.extension.kill();
        let _ = self.extension.wait();
    }
}

fn processors() -> f64 {
    f64::from(u32::try_from(std::thread::available_parallelism().unwrap().get()).unwrap())
}

/// Resident memory in bytes, in which the pages of files are.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// The processors' time that a process used.
fn used(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap();
    // After the name, which may hold anything.
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[test]
fn the_watchdog_lets_it_live() {
    if !can_record("the_watchdog_lets_it_live") {
        return;
    }
    let mut scene = Scene::new();
    scene.is_let_live("idle", 1);
    let agent = Agent::new();
    let mut working = agent.start(WORK);
    scene.is_let_live("at work", 2);
    std::fs::write(agent.work().join("stop"), "").unwrap();
    assert!(working.wait().unwrap().success());
    let mut day = agent.start(DAY);
    let mut most = 0;
    while day.try_wait().unwrap().is_none() {
        scene.schedule();
        most = most.max(scene.grown());
    }
    assert!(day.wait().unwrap().success());
    println!("a day: grown by {} kB at most", most >> 10);
    assert!(most < GROWTH, "grown by {most} bytes in a day");
}
