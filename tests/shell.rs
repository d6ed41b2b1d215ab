//! The shell as a person uses it: the program on a terminal, with keys and a screen.
//!
//! Its rows come from a server over a fixture, so that this needs neither root nor a kernel that records. What only the
//! embedded engine can show is asked of a recording shell.
#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test may end at once

mod fixture;
mod support;
#[path = "support/terminal.rs"]
mod terminal;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use agentquery::osquery::{Access, Server, manager};
use support::AGENTQUERY;
use terminal::Terminal;

const PROMPT: &str = "agentquery>";
const CTRL_C: &str = "\u{3}";
const CTRL_D: &str = "\u{4}";
const UP: &str = "\u{1b}[A";

/// A server with rows, and a home for the shell.
struct World {
    home: tempfile::TempDir,
    server: Server,
    socket: PathBuf,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.server.path());
    }
}

impl World {
    fn new(file_ops: i64) -> Self {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join("agentquery.em");
        let server = manager::serve(&socket, Access::Own, fixture::store(file_ops)).unwrap();
        Self { home, server, socket }
    }

    fn shell(&self) -> Terminal {
        self.shell_with(&[])
    }

    /// A shell at its first prompt.
    fn shell_with(&self, environment: &[(&str, &str)]) -> Terminal {
        let mut command = command(self.home.path(), environment);
        command.arg("--connect").arg(&self.socket);
        at_prompt(Terminal::start(command))
    }

    fn history(&self) -> PathBuf {
        self.home.path().join(".local/state/agentquery/history")
    }
}

fn command(home: &Path, environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(AGENTQUERY);
    command.arg("shell").env("HOME", home).env_remove("XDG_STATE_HOME").env_remove("PAGER").env_remove("LESS");
    command.env("AGENTQUERY_STATE_DIR", home.join("state")).envs(environment.iter().copied());
    command
}

fn at_prompt(shell: Terminal) -> Terminal {
    shell.wait_for_line(PROMPT);
    shell
}

/// Has a pager of its own been found on this machine?
fn has_less() -> bool {
    Command::new("less").arg("--version").output().is_ok_and(|output| output.status.success())
}

#[test]
fn a_statement_over_lines() {
    let world = World::new(10);
    let mut shell = world.shell();
    shell.press("SELECT pid,\r");
    shell.wait_for_line("       ...>");
    shell.press("  agent FROM ai_agents WHERE pid = 100;\r");
    let screen = shell.wait_for_line(PROMPT);
    assert!(screen.contains("| pid | agent "), "{screen}");
    assert!(screen.contains("| 100 | "), "{screen}");
    shell.press(CTRL_D);
    assert!(shell.ended().success());
}

#[test]
fn tab_completes() {
    let world = World::new(10);
    let mut shell = world.shell();
    shell.press("SELECT count(*) AS n FROM agent_fi\t");
    shell.wait_for_line("agentquery> SELECT count(*) AS n FROM agent_file_ops");
    shell.press(" WHERE opera\t");
    shell.wait_for_line("agentquery> SELECT count(*) AS n FROM agent_file_ops WHERE operation");
    shell.press(" is not nu\t");
    shell.wait_for_line("agentquery> SELECT count(*) AS n FROM agent_file_ops WHERE operation is not null");
    shell.press(";\r");
    shell.wait("the count", |screen| screen.contains("| 8 |"));
    shell.press(".sch\t");
    shell.wait_for_line("agentquery> .schema");
    shell.press(" agent_op\t\r");
    shell.wait("the schema", |screen| screen.contains("CREATE TABLE \"agent_open_files\" ("));
    // Of several, the list.
    shell.press("SELECT * FROM agent_\t\t");
    shell.wait("all tables", |screen| screen.contains("agent_signatures") && screen.contains("agent_processes"));
}

#[test]
fn history_by_the_arrow_keys_also_in_the_next_shell() {
    let world = World::new(10);
    let mut shell = world.shell();
    shell.press("SELECT 'a' ||\r");
    shell.wait_for_line("       ...>");
    shell.press("'b' AS text;\r");
    shell.wait("the result", |screen| screen.contains("| ab   |"));
    shell.wait_for_line(PROMPT);
    shell.press(UP);
    shell.wait("the whole statement", |screen| screen.ends_with("agentquery> SELECT 'a' ||\n'b' AS text;"));
    shell.press("\r");
    shell.wait("the result again", |screen| screen.matches("| ab   |").count() == 2);
    // A shell may end in any way.
    drop(shell);
    let mode = std::fs::metadata(world.history()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut shell = world.shell();
    shell.press(UP);
    shell.wait("the statement", |screen| screen.ends_with("agentquery> SELECT 'a' ||\n'b' AS text;"));
}

#[test]
fn without_a_home_there_is_no_history() {
    let world = World::new(10);
    for home in ["", "/nothing", "/proc"] {
        let mut shell = world.shell_with(&[("HOME", home)]);
        shell.press("SELECT 1 AS one;\r");
        shell.wait("the result", |screen| screen.contains("| 1   |"));
        shell.wait_for_line(PROMPT);
        shell.press(CTRL_D);
        assert!(shell.ended().success());
    }
    assert!(!world.history().exists());
}

#[test]
fn ctrl_c_clears_the_line_and_ctrl_d_ends() {
    let world = World::new(10);
    let mut shell = world.shell();
    shell.press("SELECT nothing\r");
    shell.wait_for_line("       ...>");
    shell.press("FROM");
    shell.wait_for_line("       ...> FROM");
    shell.press(CTRL_C);
    shell.wait_for_line(PROMPT);
    shell.press("SELECT 5 AS five;\r");
    let screen = shell.wait("the result", |screen| screen.contains("| 5    |"));
    assert!(!screen.contains("Error"), "{screen}");
    shell.wait_for_line(PROMPT);
    shell.press(CTRL_D);
    assert!(shell.ended().success());
}

const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT";

/// Ctrl-C while a query runs that would run forever: the shell lives, and the next query works.
fn ctrl_c_stops_the_query(mut shell: Terminal) {
    shell.press(&format!("{ENDLESS} count(*) FROM n;\r"));
    shell.wait("the line was taken", |screen| screen.ends_with("FROM n;"));
    // Pressed again should it have come before the query ran: then it was the line editor's.
    while !shell.is_soon(|screen| screen.contains("Error: stopped"), CTRL_C) {
        assert!(shell.runs(), "{}", shell.screen());
    }
    shell.wait_for_line(PROMPT);
    shell.press("SELECT 6 AS six;\r");
    shell.wait("the next query", |screen| screen.contains("| 6   |"));
    shell.wait_for_line(PROMPT);
    assert!(shell.runs());
}

#[test]
fn ctrl_c_stops_a_query_that_a_server_answers() {
    let world = World::new(10);
    ctrl_c_stops_the_query(world.shell());
}

/// A shell with an engine of its own.
fn recording_shell(home: &Path, environment: &[(&str, &str)]) -> Terminal {
    at_prompt(Terminal::start(command(home, environment)))
}

#[test]
fn ctrl_c_stops_a_query_of_the_shells_own() {
    if !support::can_record("ctrl_c_stops_a_query_of_the_shells_own") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    ctrl_c_stops_the_query(recording_shell(home.path(), &[]));
}

#[test]
fn settings() {
    let world = World::new(10);
    let mut shell = world.shell();
    shell.press(".mode line\r.timer on\rSELECT 'x' AS a;\r");
    let screen = shell.wait("a result with its time", |screen| screen.contains(" s, 1 row"));
    assert!(screen.contains("\na = x\nRun Time: real "), "{screen}");
    shell.press(".timer off\r.mode csv\rSELECT 'y' AS b;\r");
    let screen = shell.wait("csv", |screen| screen.contains("\nb\ny\n"));
    assert_eq!(screen.matches("Run Time").count(), 1, "{screen}");
    shell.press(".mode box\r.nothing\r");
    let screen = shell.wait("an error", |screen| screen.contains("no such command"));
    assert!(screen.contains("Error: no such mode; there are pretty, json, csv, line, markdown"), "{screen}");
    assert!(screen.contains("Error: no such command: .nothing; there are .all .exit .help"), "{screen}");
    shell.press(".exit\r");
    assert!(shell.ended().success());
}

#[test]
fn an_error_points_at_its_place() {
    let world = World::new(10);
    let mut shell = world.shell();
    shell.press("SELECT pid, agnt FROM ai_agents;\r");
    let screen = shell.wait("the error", |screen| screen.contains("Did you mean"));
    let wanted =
        "Error: no such column: agnt\n  SELECT pid, agnt FROM ai_agents;\n              ^\nDid you mean agent?";
    assert!(screen.contains(wanted), "{screen}");
}

#[test]
fn a_long_result_is_paged() {
    if !has_less() {
        support::skipped("a_long_result_is_paged", "there is no less");
        return;
    }
    let world = World::new(1000);
    let mut shell = world.shell();
    shell.press("SELECT eid, path FROM agent_file_ops WHERE time > 0 ORDER BY eid;\r");
    let screen =
        shell.wait("the first page", |screen| screen.lines().next_back().is_some_and(|line| line.trim() == ":"));
    assert!(screen.contains("/work/a0.rs") && !screen.contains("/work/a999.rs"), "{screen}");
    shell.press(" ");
    shell.wait("the second page", |screen| screen.contains("/work/a30.rs"));
    shell.press("q");
    shell.wait_for_line(PROMPT);
    shell.press("SELECT 7 AS seven;\r");
    let screen = shell.wait("the next query", |screen| screen.contains("| 7     |"));
    assert!(!screen.contains("Error"), "{screen}");
    // Without the pager all of it comes at once.
    shell.press(".pager off\rSELECT path FROM agent_file_ops WHERE time > 0 ORDER BY eid;\r");
    shell.wait("the last row", |screen| screen.contains("/work/a999.rs"));
    shell.wait_for_line(PROMPT);
}

#[test]
fn an_endless_result_is_shown_and_ends_with_its_pager() {
    if !support::can_record("an_endless_result_is_shown_and_ends_with_its_pager") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let mut shell = recording_shell(home.path(), &[("PAGER", "head -n 30")]);
    shell.press(&format!("{ENDLESS} i FROM n;\r"));
    // The query is stopped when nobody reads, without an error.
    let screen = shell.wait("the pager's last line", |screen| screen.contains("| 27"));
    assert!(!screen.contains("Error"), "{screen}");
    shell.wait_for_line(PROMPT);
    shell.press("SELECT 8 AS eight;\r");
    let screen = shell.wait("the next query", |screen| screen.contains("| 8     |"));
    assert!(!screen.contains("Error"), "{screen}");
}

#[test]
fn hostile_text_does_not_reach_the_terminal() {
    let world = World::new(10);
    let mut shell = world.shell();
    shell.press("SELECT DISTINCT path FROM agent_file_ops WHERE path LIKE '/tmp%';\r");
    let screen = shell.wait("the path", |screen| screen.contains("/tmp/\\x1b[2J\"a\",|b\\nc\\u{202e}"));
    assert!(screen.contains(PROMPT), "the screen was not cleared\n{screen}");
    let bytes = shell.bytes();
    assert!(!bytes.windows(4).any(|window| window == b"\x1b[2J"), "{:?}", String::from_utf8_lossy(&bytes));
}

#[test]
fn without_a_terminal_there_is_no_prompt() {
    let world = World::new(10);
    let mut command = command(world.home.path(), &[]);
    command.args(["--csv", "--connect"]).arg(&world.socket);
    let mut shell = command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut shell.stdin.take().unwrap(), b"SELECT 1 AS a;\nSELECT 2 AS b").unwrap();
    let output = shell.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "a\r\n1\r\nb\r\n2\r\n");
    assert!(!world.history().exists());
}
