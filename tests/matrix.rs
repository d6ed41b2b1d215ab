//! Every operation on files by every way into the kernel: the programs say what they did, and the rows are that, one by
//! one, and nothing else.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

#[path = "programs/files.rs"]
mod in_rust;
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use support::{Agent, Recorder, Run, can_record, recorder, skipped};

const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/programs");

/// The program in C, built beside the agent's folder of work.
fn in_c(agent: &Agent) -> PathBuf {
    let program = agent.work().parent().unwrap().join("files");
    let source = format!("{PROGRAMS}/files.c");
    // In assembly the stack below its pointer is not the compiler's to use.
    let arguments = ["-Wall", "-Werror", "-mno-red-zone", &source, "-o"];
    assert!(Command::new("cc").args(arguments).arg(&program).status().unwrap().success());
    program
}

/// The rows of a run in its folder of work, as the programs write them, and how often each.
fn rows(run: &Run, work: &Path) -> BTreeMap<String, usize> {
    let below = work.display();
    let sql = format!(
        "SELECT operation, path, dest_path, bytes_read, bytes_written, mmap_write FROM agent_file_ops WHERE agent_id = {} \
         AND (path LIKE '{below}/%' OR dest_path LIKE '{below}/%' OR path LIKE 'memfd:%') ORDER BY eid",
        run.id()
    );
    let place = |cell: &Option<String>| {
        let path = cell.as_deref().unwrap_or_default();
        match path.strip_prefix(&format!("{below}/")) {
            Some(inside) => inside.to_owned(),
            None if path.is_empty() => String::new(),
            None => format!("={path}"),
        }
    };
    let mut rows = BTreeMap::new();
    for row in recorder().query(&sql) {
        let cell = |name: &str| row[name].clone().unwrap_or_default();
        let (path, dest) = (place(&row["path"]), place(&row["dest_path"]));
        let bytes = [cell("bytes_read"), cell("bytes_written"), cell("mmap_write")].join("|");
        *rows.entry(format!("{}|{path}|{dest}|{bytes}", cell("operation"))).or_insert(0) += 1;
    }
    rows
}

/// Runs a program as the agent, and compares what it says that it did with the rows.
fn compare(agent: &Agent, script: &str) {
    let recorder = recorder();
    let run = agent.run(&saying(agent, script)).recorded(recorder);
    compare_rows(agent, &run);
}

/// The same for a program that waits until its rows are there.
fn compare_alive(agent: &Agent, script: &str) {
    let recorder = recorder();
    let mut child = agent.start(&saying(agent, script));
    let run = Run { pid: child.id() };
    recorder.wait_for(&format!("SELECT count(*) FROM ai_agents WHERE pid = {}", run.pid), "1");
    // The last thing that it does before.
    let last = format!(
        "SELECT count(*) FROM agent_file_ops WHERE agent_id = {} AND operation = 'delete' AND path LIKE '{}/root/%/moved'",
        run.id(),
        agent.work().display()
    );
    recorder.wait_for(&last, "1");
    std::fs::write(agent.work().parent().unwrap().join("go"), "").unwrap();
    assert!(support::ended(&mut child, Duration::from_secs(20)).success());
    compare_rows(agent, &run.recorded(recorder));
}

fn said(agent: &Agent) -> PathBuf {
    agent.work().parent().unwrap().join("said")
}

fn saying(agent: &Agent, script: &str) -> String {
    format!("set -e\nSAID={}\nexec >$SAID\n{script}", said(agent).display())
}

fn compare_rows(agent: &Agent, run: &Run) {
    let mut wanted = BTreeMap::new();
    for line in std::fs::read_to_string(said(agent)).unwrap().lines() {
        *wanted.entry(line.to_owned()).or_insert(0) += 1;
    }
    assert!(!wanted.is_empty());
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = rows(run, &agent.work());
        if found == wanted {
            return;
        }
        if Instant::now() > deadline {
            let only = |here: &BTreeMap<String, usize>, there: &BTreeMap<String, usize>| -> Vec<String> {
                let differ = here.iter().filter(|(line, times)| there.get(*line) != Some(times));
                differ.map(|(line, times)| format!("{times} times {line}")).collect()
            };
            panic!("missing: {:#?}\ntoo much: {:#?}", only(&wanted, &found), only(&found, &wanted));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn by_system_calls() {
    if can_record("by_system_calls") {
        let agent = Agent::new();
        compare(&agent, &format!("{} calls", in_c(&agent).display()));
    }
}

#[test]
fn by_int80() {
    if can_record("by_int80") {
        let agent = Agent::new();
        compare(&agent, &format!("{} int80", in_c(&agent).display()));
    }
}

/// Not a test but the program: this binary, started as the agent's.
#[test]
#[ignore = "run by other tests"]
fn program_in_rust() {
    let [way, said] = ["FILES_WAY", "FILES_SAID"].map(|name| std::env::var(name).unwrap());
    let lines = in_rust::run(&way);
    std::fs::write(said, lines).unwrap();
}

fn in_rust(way: &str) -> String {
    format!(
        "exec >&2\nFILES_WAY={way} FILES_SAID=$SAID {} --quiet --ignored --exact program_in_rust",
        std::env::current_exe().unwrap().display()
    )
}

fn in_python(way: &str) -> String {
    format!("python3 -ISB {PROGRAMS}/files.py {way}")
}

#[test]
fn by_system_calls_in_python() {
    if can_record("by_system_calls_in_python") {
        compare(&Agent::new(), &in_python("calls"));
    }
}

#[test]
fn by_io_uring_in_python() {
    if has_io_uring("by_io_uring_in_python") {
        compare(&Agent::new(), &in_python("uring"));
    }
}

#[test]
fn by_system_calls_in_rust() {
    if can_record("by_system_calls_in_rust") {
        compare(&Agent::new(), &in_rust("calls"));
    }
}

#[test]
fn by_io_uring_in_rust() {
    if has_io_uring("by_io_uring_in_rust") {
        compare(&Agent::new(), &in_rust("uring"));
    }
}

#[test]
fn below_mounts_and_another_root() {
    if can_record("below_mounts_and_another_root") {
        compare_alive(&Agent::new(), &format!("unshare -m {}", in_python("mounts")));
    }
}

#[test]
fn below_another_root() {
    if can_record("below_another_root") {
        compare_alive(&Agent::new(), &in_python("root"));
    }
}

#[test]
fn a_path_that_is_too_long_says_that_it_was_cut() {
    if !can_record("a_path_that_is_too_long_says_that_it_was_cut") {
        return;
    }
    let script = "python3 -ISB -c '
import os
for depth in range(25):
    os.mkdir(\"d\" * 200); os.chdir(\"d\" * 200)
os.close(os.open(\"deepest\", os.O_CREAT | os.O_WRONLY)); os.unlink(\"deepest\")'";
    let recorder = recorder();
    let run = Agent::new().run(script).recorded(recorder);
    let cut = format!(
        "SELECT group_concat(operation || truncated) FROM (SELECT operation, truncated FROM agent_file_ops WHERE \
         agent_id = {} AND path LIKE '%/deepest' ORDER BY eid)",
        run.id()
    );
    assert_eq!(recorder.value(&cut).as_deref(), Some("create1,close1,delete1"));
}

#[test]
fn a_program_that_is_in_no_directory_has_its_name() {
    if !can_record("a_program_that_is_in_no_directory_has_its_name") {
        return;
    }
    let script = "python3 -ISB -c '
import os
fd = os.memfd_create(\"program\")
os.write(fd, open(\"/bin/true\", \"rb\").read())
os.execve(fd, [\"true\"], {})'";
    let recorder = recorder();
    let run = Agent::new().run(script).recorded(recorder);
    let path = format!("SELECT count(*) FROM agent_processes WHERE agent_id = {} AND path = 'memfd:program'", run.id());
    assert_eq!(recorder.value(&path).as_deref(), Some("1"));
}

/// Whether this kernel has `io_uring`, and lets it be used.
fn has_io_uring(test: &str) -> bool {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").is_ok_and(|value| value.trim() != "0");
    if disabled {
        skipped(test, "io_uring is switched off");
    }
    !disabled && can_record(test)
}

#[test]
fn by_io_uring() {
    if has_io_uring("by_io_uring") {
        let agent = Agent::new();
        compare(&agent, &format!("{} uring", in_c(&agent).display()));
    }
}

#[test]
fn by_workers_of_io_uring() {
    if has_io_uring("by_workers_of_io_uring") {
        let agent = Agent::new();
        compare(&agent, &format!("{} async", in_c(&agent).display()));
    }
}

#[test]
fn by_many_requests_at_once() {
    if has_io_uring("by_many_requests_at_once") {
        let agent = Agent::new();
        compare(&agent, &format!("{} storm", in_c(&agent).display()));
        let lost = "SELECT sum(ring_full + throttled + recursion_misses) FROM agent_collector";
        assert_eq!(recorder().value(lost).as_deref(), Some("0"));
    }
}

#[test]
fn by_requests_that_end_when_they_are_waited_for() {
    if has_io_uring("by_requests_that_end_when_they_are_waited_for") {
        let agent = Agent::new();
        compare(&agent, &format!("{} deferred", in_c(&agent).display()));
    }
}

#[test]
fn by_a_thread_of_the_kernel_that_polls() {
    if has_io_uring("by_a_thread_of_the_kernel_that_polls") {
        let agent = Agent::new();
        compare(&agent, &format!("{} sqpoll", in_c(&agent).display()));
    }
}

#[test]
fn a_kernel_without_it_leaves_a_blind_spot() {
    const TEST: &str = "a_kernel_without_it_leaves_a_blind_spot";
    if !has_io_uring(TEST) {
        return;
    }
    let mut command = Command::new(support::AGENTQUERY);
    command.env("AGENTQUERY_WITHOUT", "io_uring");
    let recorder = Recorder::start_by(command, &["--syscalls", "always"]);
    let agent = Agent::new();
    let run = agent.run(&format!("{} uring >/dev/null", in_c(&agent).display())).recorded(&recorder);
    let told = format!(
        "SELECT count(*) FROM agent_collector WHERE event = 'blind_spot' AND blind_spot = 'io_uring' AND message LIKE \
         '%agent_id ' || {} || ')%'",
        run.id()
    );
    assert_eq!(recorder.value(&told).as_deref(), Some("1"));
}
