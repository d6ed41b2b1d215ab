//! Whose a process is.

use super::*;

const ID: &str = "CLAUDE_CODE_SESSION_ID=11111111-aaaa";
const OTHER: &str = "CLAUDE_CODE_SESSION_ID=22222222-bbbb";

fn with(markers: &[&str], kind: EventKind) -> EventKind {
    let EventKind::Exec(mut exec) = kind else { panic!("no exec") };
    exec.markers = markers.iter().map(|marker| (*marker).to_owned()).collect();
    exec.candidate = false;
    EventKind::Exec(exec)
}

fn sh(parent: u32, markers: &[&str]) -> EventKind {
    with(markers, exec_of(parent, "/usr/bin/sh", &["sh"]))
}

/// An agent with a child that has its variables.
fn agent(bench: &mut Bench, pid: u32, mark: Mark, id: &str) {
    bench.feed_marked(pid, mark, exec_of(1, CLAUDE, &["claude"]));
    bench.feed_marked(pid, mark, fork_of(pid + 1));
    bench.feed_marked(pid + 1, mark, sh(pid, &["CLAUDECODE=1", id]));
}

fn mark(slot: u32) -> Mark {
    Mark { slot, generation: 1 }
}

fn of(bench: &Bench, pid: i64) -> Vec<(i64, &'static str)> {
    let rows = bench.processes();
    let agents = bench.agents();
    let root = |id| agents.iter().find(|agent| agent.agent_id == id).map_or(0, |agent| agent.pid);
    rows.iter().filter(|row| row.pid == pid).map(|row| (root(row.agent_id), row.how)).collect()
}

#[test]
fn only_the_session_tells_one_agent_from_another() {
    let mut bench = Bench::new();
    agent(&mut bench, 10, mark(1), ID);
    // One alone: a flag is enough, another session is not.
    bench.feed_marked(40, mark(4), sh(1, &["CLAUDECODE=1"]));
    bench.feed_marked(41, mark(5), sh(1, &["CLAUDECODE=1", OTHER]));
    bench.feed_marked(42, mark(6), sh(1, &["UNRELATED=1"]));
    assert_eq!(of(&bench, 40), [(10, "marker")]);
    assert_eq!((of(&bench, 41), of(&bench, 42)), (Vec::new(), Vec::new()));
    assert_eq!(bench.told.released, [mark(5), mark(6)]);
    agent(&mut bench, 20, mark(2), OTHER);
    bench.feed_marked(50, mark(7), sh(1, &["CLAUDECODE=1"]));
    bench.feed_marked(51, mark(8), sh(1, &["CLAUDECODE=1", OTHER]));
    bench.feed_marked(51, mark(8), fork_of(52));
    assert_eq!(of(&bench, 50), [], "either may be meant");
    assert_eq!((of(&bench, 51), of(&bench, 52)), (vec![(20, "marker")], vec![(20, "fork")]));
    // Its mark goes when its own processes have ended, and not the agent's.
    bench.feed_marked(51, mark(8), exit_with(0));
    assert!(!bench.told.released.contains(&mark(8)));
    bench.feed_marked(52, mark(8), exit_with(0));
    assert!(bench.told.released.contains(&mark(8)));
    assert!(!bench.told.released.contains(&mark(2)));
}

#[test]
fn another_user_belongs_to_nobody_whatever_it_says() {
    let mut bench = Bench::new();
    agent(&mut bench, 10, mark(1), ID);
    for (pid, marker) in [(40, "CLAUDECODE=1"), (41, ID)] {
        let EventKind::Exec(mut exec) = sh(1, &[marker]) else { panic!("no exec") };
        exec.uid = 1000;
        bench.feed_marked(pid, mark(pid), EventKind::Exec(exec));
        assert_eq!(of(&bench, pid.into()), []);
    }
}

#[test]
fn a_flag_that_the_parent_had_before_is_another_agents() {
    let mut bench = Bench::new();
    *bench.machine.0.borrow_mut() = [(8, 1), (9, 1)].into();
    bench.machine.1.borrow_mut().insert(8, vec!["CLAUDECODE=1".to_owned()]);
    agent(&mut bench, 10, mark(1), ID);
    bench.feed_marked(40, mark(4), sh(8, &["CLAUDECODE=1"]));
    assert_eq!(of(&bench, 40), []);
    bench.feed_marked(41, mark(5), sh(9, &["CLAUDECODE=1"]));
    assert_eq!(of(&bench, 41), [(10, "marker")]);
}

#[test]
fn a_session_belongs_to_the_agent_that_had_it_first() {
    let mut bench = Bench::new();
    agent(&mut bench, 10, MARK, ID);
    // One below it, whose own children have the outer one's variable still.
    bench.feed(11, fork_of(12));
    bench.feed(12, exec_of(11, CLAUDE, &["claude", "-p", "x"]));
    bench.feed(12, fork_of(13));
    bench.feed(13, sh(12, &[ID]));
    bench.feed_marked(40, mark(4), sh(1, &[ID]));
    assert_eq!(of(&bench, 40), [(10, "marker")]);
    // And with both, whose own it is.
    bench.feed(12, fork_of(14));
    bench.feed(14, with(&[OTHER], exec_of(12, "/usr/bin/git", &["git"])));
    bench.feed_marked(41, mark(5), sh(1, &[ID, OTHER]));
    assert_eq!(of(&bench, 41), [(12, "marker")], "the inner one");
}

#[test]
fn what_init_has_taken_before_is_known_by_its_environment() {
    let mut bench = Bench::new();
    let read = |pid, kind| Event { boot_ns: 50_000_000, process: key(pid), mark: MARK, kind };
    bench.told.running = vec![
        read(10, exec_of(1, CLAUDE, &["claude"])),
        read(11, exec_of(10, "/usr/bin/sh", &["sh"])),
        read(12, exec_of(1, "/usr/bin/make", &["make"])),
        read(13, exec_of(12, "/usr/bin/cc", &["cc"])),
        read(14, exec_of(1, "/usr/bin/vim", &["vim"])),
    ];
    let variables = [(11, ID), (12, ID), (13, ID), (14, OTHER)];
    *bench.machine.1.borrow_mut() = variables.map(|(pid, variable)| (pid, vec![variable.to_owned()])).into();
    bench.engine.adopt(50_000_000, &mut bench.told);
    let told: Vec<_> = bench.processes().iter().map(|row| (row.pid, row.how, row.depth)).collect();
    assert_eq!(told, [(10, "adopted", 0), (11, "adopted", 1), (12, "marker", 1), (13, "adopted", 2)]);
}

#[test]
fn an_agent_whose_children_are_not_followed_is_one_instance_and_has_others_below_it() {
    let folder = tempfile::tempdir().unwrap();
    let text = "name: own\ndisplay_name: Own\ncategory: ide\nchild_process_tracking: false\ndetection:\n  exe_patterns: ['*/.own/*']\n";
    std::fs::write(folder.path().join("own.yaml"), text).unwrap();
    let mut bench = Bench::new();
    bench.engine.catalogue = Arc::new(Catalogue::load(&[folder.path().into()]));
    *bench.machine.0.borrow_mut() = [(11, 10), (12, 10), (13, 12)].into();
    bench.feed(10, exec_of(1, "/h/.own/launcher", &["own"]));
    bench.feed(10, fork_of(11));
    bench.feed(11, exec_of(10, "/h/.own/native", &["own"]));
    bench.feed(10, fork_of(12));
    bench.feed(12, exec_of(10, "/usr/bin/sh", &["sh"]));
    bench.feed(13, exec_of(12, CLAUDE, &["claude"]));
    let agents: Vec<_> = bench.agents().into_iter().map(|row| (row.pid, row.parent_agent_id.is_some())).collect();
    assert_eq!(agents, [(10, false), (13, true)]);
    assert_eq!(of(&bench, 11), [(10, "exec")]);
    assert_eq!(of(&bench, 12), []);
}

#[test]
fn an_agent_in_the_place_of_another_has_an_id_of_its_own() {
    let mut bench = Bench::new();
    bench.feed(10, exec_of(1, CLAUDE, &["claude"]));
    bench.feed(10, exec_of(1, CODEX, &["codex"]));
    bench.feed(10, exit_with(0));
    let mut agents = bench.agents();
    agents.sort_by_key(|row| row.process_eid);
    assert_eq!(agents.len(), 2);
    assert_ne!(agents[0].agent_id, agents[1].agent_id);
    assert_eq!(agents[1].parent_agent_id, Some(agents[0].agent_id));
    assert!(agents.iter().all(|row| row.end_time.is_some()));
}
