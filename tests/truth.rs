//! Real agents, offline, against strace: what they truly did is in the tables, all of it and nothing else.
//!
//! Each script of `lab/scripts` is run by a real Claude Code and a real Codex while a recorder runs, once with the hook
//! on system calls always attached and once on demand. `lab/compare.py` holds the rows against strace's truth.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use support::{Recorder, can_record};

const SCRIPTS: [(&str, &[&str]); 2] = [
    ("claude", &["edits", "git", "network", "outlive", "storm", "tools"]),
    ("codex", &["edits", "git", "network", "outlive", "storm", "patch"]),
];

/// Names of the signatures.
fn signature(agent: &str) -> &'static str {
    if agent == "claude" { "claude-code" } else { "codex" }
}

fn lab() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/lab").canonicalize().unwrap()
}

/// Runs an agent through a script. A run whose truth strace leaves unclear (two threads that change one file at the same
/// moment) says so and is run again; one that is clear is compared, once.
fn run(agent: &str, script: &str, out: &Path) -> PathBuf {
    for attempt in 0..3 {
        let folder = out.join(format!("{agent}-{script}-{attempt}"));
        let script = lab().join("scripts").join(format!("{script}.json"));
        let output = Command::new(lab().join("lab")).args(["run", agent]).arg(script).arg(&folder).output().unwrap();
        if output.status.success() {
            return folder;
        }
        eprintln!("{}: run again: {}", folder.display(), String::from_utf8_lossy(&output.stderr));
    }
    panic!("{agent} {script}: no run succeeded");
}

fn compare(recorder: &Recorder, agent: &str, folder: &Path, since: u64) -> Result<String, String> {
    // Files that ended without a close and the last states of connections come a moment after the last process.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let table = |name: &str| {
        let file = folder.join(format!("{name}.json"));
        // Whatever else is an agent on this machine is left to itself.
        let ours = format!("SELECT agent_id FROM ai_agents WHERE cwd LIKE '{}/%'", folder.display());
        std::fs::write(
            &file,
            serde_json::to_string(
                &recorder.query(&format!("SELECT * FROM {name} WHERE time >= {since} AND agent_id IN ({ours})")),
            )
            .unwrap(),
        )
        .unwrap();
        file
    };
    let output = Command::new("python3")
        .arg(lab().join("compare.py"))
        .arg(folder.join("truth.jsonl"))
        .args(["agent_processes", "agent_connections", "agent_file_ops", "ai_agents"].map(table))
        .args(["--agent", signature(agent)])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(text) } else { Err(text) }
}

/// How many reads a run had, and how many of them were noise.
fn noise(compared: &str) -> (u64, u64) {
    let (_, noise) = compared.rsplit_once("noise: ").unwrap();
    let mut numbers = noise.split_whitespace().filter_map(|word| word.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn truth(mode: &str) {
    if !can_record("truth") {
        return;
    }
    if std::env::var_os("AGENTQUERY_NO_AGENTS").is_some() {
        support::skipped("truth", "real agents are left out (--no-agents)");
        return;
    }
    let installed = Command::new(lab().join("lab")).arg("install").output().unwrap();
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    let out = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(&["--syscalls", mode]);
    let waiting: Mutex<Vec<(&str, &str)>> = Mutex::new(
        SCRIPTS.iter().flat_map(|(agent, scripts)| scripts.iter().map(move |script| (*agent, *script))).collect(),
    );
    let failures = Mutex::new(Vec::new());
    let noise_and_reads = Mutex::new((0, 0));
    let work = || {
        loop {
            let Some((agent, script)) = waiting.lock().unwrap().pop() else { return };
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 1;
            let folder = run(agent, script, out.path());
            match compare(&recorder, agent, &folder, since) {
                Ok(text) => {
                    eprintln!("{mode} {agent} {script}: {}", text.trim());
                    // A storm reads one file thousands of times.
                    if script != "storm" {
                        let (left_out, reads) = noise(&text);
                        let mut all = noise_and_reads.lock().unwrap();
                        *all = (all.0 + left_out, all.1 + reads);
                    }
                }
                Err(text) => failures.lock().unwrap().push(format!("{mode} {agent} {script}:\n{text}")),
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let evicted = recorder.value("SELECT max(evicted) FROM agent_collector");
    assert_eq!(evicted.as_deref(), Some("0"), "other agents of this machine have pushed rows out of memory");
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // All else was compared: not one write is left out.
    let (left_out, reads) = noise_and_reads.into_inner().unwrap();
    assert!(left_out * 10 >= reads * 8, "the list of noise leaves out {left_out} of {reads} reads");
    for row in recorder.query("SELECT * FROM agent_collector WHERE event <> 'gap'") {
        let number = |column: &str| -> i64 { row[column].as_ref().unwrap().parse().unwrap() };
        let out = ["submitted", "filtered", "ring_full", "oversized", "throttled"].map(number);
        assert_eq!(number("seen"), out.iter().sum::<i64>(), "{row:?}");
        assert_eq!(number("submitted"), number("received") + number("in_flight"), "{row:?}");
        for lost in ["ring_full", "oversized", "throttled", "recursion_misses", "unsupported_abi"] {
            assert_eq!(number(lost), 0, "{row:?}");
        }
    }
}

#[test]
fn with_system_calls_always() {
    truth("always");
}

#[test]
fn with_system_calls_on_demand() {
    truth("on_demand");
}
