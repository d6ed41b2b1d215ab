//! What somebody who tries the program for the first time runs: `demo`, `doctor`, and anything without root.

#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // a test fails by panicking

mod fixture;
mod support;

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use agentquery::osquery::{Access, manager};
use support::{AGENTQUERY, Recorder, can_record, skipped};

/// The user who may nothing.
const NOBODY: u32 = 65534;

/// The program on a machine where nothing of ours runs: with a /run and a /var/lib of its own.
fn alone(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    let script = r#"mount -t tmpfs none /run && mount -t tmpfs none /var/lib && exec "$0" "$@""#;
    command.args(["--mount", "sh", "-c", script, program]).args(arguments);
    command.stdin(Stdio::null());
    command
}

fn text(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

/// The tour has a row of each table.
fn is_whole(tour: &str) {
    for row in [
        "| agentquery-demo | ",
        "| sh -c ls src ",
        "| agentquery-demo | 127.0.0.1      | ",
        "| rename    | agentquery-demo | src/draft.txt |",
        "| create    | notes.txt | 37 ",
        "| builtin:agentquery-demo | loaded |",
        "| connection | ",
    ] {
        assert!(tour.contains(row), "{row}\n{tour}");
    }
}

/// A program that everybody may run, and a temporary directory for that user.
struct Everybodys {
    folder: tempfile::TempDir,
    program: PathBuf,
}

impl Everybodys {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let program = folder.path().join("agentquery");
        // By another program: else another test's child may hold it open for writing.
        assert!(Command::new("cp").arg(AGENTQUERY).arg(&program).status().unwrap().success());
        let own = folder.path().join("tmp");
        std::fs::create_dir(&own).unwrap();
        std::os::unix::fs::chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
        Self { folder, program }
    }

    fn tmp(&self) -> PathBuf {
        self.folder.path().join("tmp")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let nobody = NOBODY.to_string();
        let mut command = alone("setpriv", &["--reuid", &nobody, "--regid", &nobody, "--clear-groups"]);
        support::for_users(command.arg(&self.program).args(arguments));
        command.env("TMPDIR", self.tmp()).env("HOME", self.tmp()).current_dir("/").output().unwrap()
    }
}

#[test]
fn the_demo_of_root_brings_its_recorder() {
    if !can_record("the_demo_of_root_brings_its_recorder") {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let output = alone(AGENTQUERY, &["demo"]).env("TMPDIR", tmp.path()).output().unwrap();
    let (tour, errors) = text(&output);
    assert!(output.status.success(), "{errors}{tour}");
    is_whole(&tour);
    assert!(is_empty(tmp.path()));
}

#[test]
fn the_demo_of_an_ordinary_user_asks_the_recorder() {
    if !can_record("the_demo_of_an_ordinary_user_asks_the_recorder") {
        return;
    }
    let recorder = Recorder::start(&[]);

    std::fs::set_permissions(recorder.socket.parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let world = Everybodys::new();
    let output = world.run(&["demo", "--connect", recorder.socket.to_str().unwrap()]);
    let (tour, errors) = text(&output);
    assert!(output.status.success(), "{errors}{tour}");
    is_whole(&tour);
    assert!(is_empty(&world.tmp()));
    // Somebody else's demonstration may run at the same time.
    let pid = tour.split("(pid ").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
    let ended = "agent = 'agentquery-demo' AND uid = 65534 AND processes = 0";
    recorder.wait_for(&format!("SELECT count(*) FROM ai_agents WHERE pid = {pid} AND {ended}"), "1");
}

#[test]
fn a_stopped_demo_leaves_nothing_behind() {
    if !can_record("a_stopped_demo_leaves_nothing_behind") {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let mut command = alone(AGENTQUERY, &["demo"]);
    let mut demo = command.env("TMPDIR", tmp.path()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(demo.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("A make-believe agent runs") && !is_empty(tmp.path()), "{line}");
    // SAFETY: our own child, which is not waited for yet.
    unsafe { libc::kill(i32::try_from(demo.id()).unwrap(), libc::SIGTERM) };
    demo.wait().unwrap();
    assert!(is_empty(tmp.path()));
}

#[test]
fn the_doctor_tries_the_programs_and_finds_the_recorder() {
    if !can_record("the_doctor_tries_the_programs_and_finds_the_recorder") {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let socket = state.path().join("agentquery.em");
    let server = manager::serve(&socket, Access::Own, fixture::store(10)).unwrap();
    let doctor = |arguments: &[&str]| {
        let mut command = Command::new(AGENTQUERY);
        command.arg("doctor").args(arguments).arg("--state-dir").arg(state.path());
        let output = command.output().unwrap();
        let (told, errors) = text(&output);
        (output.status.success(), told, errors)
    };
    let (sound, told, errors) = doctor(&[]);
    assert!(sound, "{told}{errors}");
    for program in ["on_exit", "on_newtask", "on_exec", "on_socket_state", "on_call", "mark_tree", "sweep"] {
        assert!(told.contains(&format!("ok       program     {program} loads and attaches\n")), "{program}\n{told}");
    }
    let answers = format!("answers on {}: 210 events seen, 0 lost\n", socket.display());
    assert!(told.contains(&answers) && told.contains(&socket.display().to_string()), "{told}");
    drop(server);

    let bad = tempfile::tempdir().unwrap();
    std::fs::write(bad.path().join("bad.yaml"), "name: [").unwrap();
    let (sound, told, errors) = doctor(&["--json", "--signatures", bad.path().to_str().unwrap()]);
    assert!(!sound && errors == "agentquery: 1 of the checks failed\n", "{errors}{told}");
    let checks: Vec<serde_json::Value> = serde_json::from_str(&told).unwrap();
    let failed: Vec<_> = checks.iter().filter(|check| check["state"] == "FAILED").collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0]["what"].as_str().unwrap().contains("bad.yaml"), "{failed:?}");
}

#[test]
fn without_root_and_recorder_one_line_says_how_it_is_recorded() {
    let test = "without_root_and_recorder_one_line_says_how_it_is_recorded";
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return skipped(test, "only root can become an ordinary user");
    }
    let world = Everybodys::new();
    let (told, errors) = text(&world.run(&["demo"]));
    assert!(told.is_empty() && errors.lines().count() == 1 && errors.contains("needs root"), "{told}{errors}");
    let (told, _) = text(&world.run(&["doctor"]));
    for line in [
        "warning  collector   polling this user's processes, which sees less than eBPF (docs/platforms.md): eBPF needs root",
        "warning  recorder    none runs: what needs one records by itself meanwhile, this user's processes alone; start one",
        "unseen   programs    not tried: loading needs root",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
    assert!(is_empty(&world.tmp()));
    for arguments in
        [&["query", "SELECT DISTINCT mode FROM agent_collector WHERE event = 'exec'", "--csv"][..], &["shell"]]
    {
        let output = world.run(arguments);
        let (told, errors) = text(&output);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        assert!(arguments == ["shell"] || told.lines().eq(["mode", "polling"]), "{told}");
        assert!(errors.lines().count() == 1 && errors.contains("recording by polling"), "{arguments:?}: {errors}");
    }
    assert!(world.tmp().join(".local/state/agentquery/lock").exists());
}

#[test]
fn a_configuration_is_checked_with_an_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    let config = |what: &str| {
        let output = Command::new(AGENTQUERY).args(["config", what, "--config"]).arg(&file).output().unwrap();
        let (out, error) = text(&output);
        let name = file.display().to_string();
        (output.status.code(), out.replace(&name, "FILE"), error.replace(&name, "FILE"))
    };
    std::fs::write(&file, "syscalls: always\nretention_days: 7\n").unwrap();
    assert_eq!(config("check"), (Some(0), "ok: FILE\n".to_owned(), String::new()));
    assert!(config("show").1.contains("retention_days: 7 "));
    std::fs::write(&file, "syscalls: always\nretention_dais: 7\n").unwrap();
    for what in ["check", "show"] {
        let (code, out, error) = config(what);
        assert_eq!((code, out.as_str()), (Some(1), ""));
        assert!(error.starts_with("agentquery: FILE:2:1: ") && error.contains("retention_dais"), "{error}");
    }
    std::fs::write(&file, "signatures:\n  - /nowhere\n").unwrap();
    let (code, out, error) = config("check");
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(error.starts_with("agentquery: FILE:1: /nowhere: cannot be read"), "{error}");
}
