//! The hook on system calls while no agent lives, and what is said of the moment that it misses.
//!
//! A binary of its own: any other agent on the machine would have it attached already.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

mod support;

use support::{Agent, Recorder, can_record, skipped};

#[test]
fn on_demand_the_gap_is_told() {
    if !can_record("on_demand_the_gap_is_told") {
        return;
    }
    let recorder = Recorder::start(&["--syscalls", "on_demand"]);
    if recorder.value("SELECT count(*) FROM ai_agents").as_deref() != Some("0") {
        skipped("on_demand_the_gap_is_told", "an agent runs on this machine: the hook is attached already");
        return;
    }
    let agent = Agent::new();
    // The shell's own start falls into the gap; what it does a moment later does not.
    let run = agent.run("sleep 0.5; echo x > after").recorded(&recorder);
    let gap: i64 = recorder
        .value(&format!("SELECT start_gap_ms FROM ai_agents WHERE pid = {}", run.pid))
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..500).contains(&gap), "{gap}");
    let told = recorder.value("SELECT count(*) FROM agent_collector WHERE event = 'gap'");
    assert_ne!(told.as_deref(), Some("0"));
    let made = format!(
        "SELECT count(*) FROM agent_file_ops WHERE operation = 'create' AND path = '{}/after'",
        agent.work().display()
    );
    assert_eq!(recorder.value(&made).as_deref(), Some("1"));
    // The hook stays for a while: the next one has no gap.
    let next = agent.run("true").recorded(&recorder);
    assert_eq!(
        recorder.value(&format!("SELECT start_gap_ms FROM ai_agents WHERE pid = {}", next.pid)).as_deref(),
        Some("0")
    );
}
