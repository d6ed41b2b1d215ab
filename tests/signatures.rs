//! Signatures of one's own: the commands that list, check and explain them, and what a recorder makes of them.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::{AGENTQUERY, Recorder, can_record};

/// Exit code, output and errors of a command; the folder is `DIR` in them.
fn signatures(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(AGENTQUERY).arg("signatures").args(arguments).current_dir(folder).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(folder.to_str().unwrap(), "DIR");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

const OWN: &str = "\
name: own-agent
display_name: Own
detection:
  packages: ['npm:own-agent']
  names: [own]
  argv_patterns: [' chat( |$)']
  env: [OWN_AGENT]
";

#[test]
fn files_are_checked_with_an_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // Whoever may write it: it is only looked at.
    std::fs::write(folder.join("a.yaml"), OWN).unwrap();
    std::fs::set_permissions(folder.join("a.yaml"), std::fs::Permissions::from_mode(0o666)).unwrap();
    let ok = "ok: a.yaml: own-agent, rules: 4\n".to_owned();
    assert_eq!(signatures(folder, &["check", "a.yaml"]), (Some(0), ok.clone(), String::new()));
    std::fs::write(folder.join("b.yaml"), "name: b\ndetection:\n  exe_paterns: ['/opt/own/x']\n").unwrap();
    std::fs::write(folder.join("c.yaml"), OWN).unwrap();
    std::fs::write(folder.join("files.yaml"), "rules: no signature\n").unwrap();
    let errors = "agentquery: ./b.yaml:3:3: detection: unknown field `exe_paterns`; did you mean exe_patterns?\n\
                  agentquery: ./c.yaml:1:7: name: own-agent is the name in ./a.yaml too; give one of them another name\n";
    let (code, out, error) = signatures(folder, &["check", "."]);
    assert_eq!((code, out, error.as_str()), (Some(1), ok.replace("a.yaml", "./a.yaml"), errors));
    let (code, out, error) = signatures(folder, &["check", "a.yaml", "nowhere.yaml"]);
    assert_eq!((code, out), (Some(1), ok));
    assert!(error.starts_with("agentquery: nowhere.yaml: cannot be read: "), "{error}");
    assert_eq!(signatures(folder, &["check"]).0, Some(2));
}

#[test]
fn what_holds_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("a.yaml"), OWN).unwrap();
    std::fs::write(folder.join("b.yaml"), "name: [b]\n").unwrap();
    let (code, out, error) = signatures(folder, &["list", "--signatures", folder.to_str().unwrap()]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(lines.contains(&vec!["own-agent", "cli", "early", "DIR/a.yaml"]), "{out}");
    assert!(lines.contains(&vec!["codex", "cli", "early", "builtin:codex"]), "{out}");
    assert!(lines.contains(&vec!["b", "refused", "DIR/b.yaml"]), "{out}");
    assert!(out.contains("\n    DIR/b.yaml:1:7: name: "), "{out}");
    let schema = signatures(folder, &["schema"]).1;
    assert!(serde_json::from_str::<serde_json::Value>(&schema).unwrap()["properties"]["detection"].is_object());
}

#[test]
fn a_process_is_explained_rule_by_rule() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let own = folder.join("signatures");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("a.yaml"), OWN).unwrap();
    let test = |arguments: &[&str]| {
        let (code, out, error) =
            signatures(folder, &[&["test", "--signatures", own.to_str().unwrap()], arguments].concat());
        assert_eq!((code, error.as_str()), (Some(0), ""), "{arguments:?}");
        out
    };
    let expected = "own-agent (Own): confidence 70, role main\n  \
                    executable is named own; arguments match  chat( |$); environment has OWN_AGENT\n\n\
                    own-agent: yes, 70\n  \
                    -  packages       npm:own-agent\n  \
                    +  names          own  (30)\n  \
                    +  argv_patterns   chat( |$)  (+20)\n  \
                    +  env            OWN_AGENT  (+20)\n";
    assert_eq!(test(&["--exe", "/usr/bin/own", "--env", "OWN_AGENT", "--argv", "own", "chat", "--env", "X"]), expected);
    let alone = test(&["--exe", "/usr/bin/own", "--argv", "own"]);
    assert!(alone.starts_with("no agent\n\nown-agent: no: what holds counts for 30, and 50 are needed"), "{alone}");
    let none = test(&["--exe", "/usr/bin/vim", "--argv", "vim", "-R", "own"]);
    assert_eq!(
        none,
        "no agent\n  no signature is looked up by any of: vim, bin, usr\n  --agent NAME explains one all the same\n"
    );
    let named = test(&["--exe", "/usr/bin/vim", "--agent", "own-agent", "--argv", "vim", "chat"]);
    assert!(named.contains("second facts alone are nothing") && named.contains("+  argv_patterns   chat"), "{named}");
    // What a package says is on this machine's disk.
    let package = folder.join("node_modules/own-agent");
    std::fs::create_dir_all(&package).unwrap();
    std::fs::write(package.join("package.json"), r#"{"version": "4.5.6"}"#).unwrap();
    let script = package.join("cli.js");
    let found = test(&["--exe", "/usr/bin/node", "--script", script.to_str().unwrap(), "--argv", "node", "own-agent"]);
    assert!(found.starts_with("own-agent (Own): confidence 90, role main, version 4.5.6\n"), "{found}");
    let (code, _, error) = signatures(folder, &["test", "--exe", "/x", "--agent", "nobody"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("there is no signature nobody"), "{error}");
}

/// A recorder's signatures and programs that they are about.
struct World(tempfile::TempDir);

impl World {
    fn new() -> Self {
        let world = Self(tempfile::tempdir().unwrap());
        for (name, rest) in [
            ("env", "  names: [aq-own-env]\n  env: [AQ_OWN_ENV]\n"),
            (
                "npm",
                "  packages: ['npm:@aq-own/agent']\n  versions: '>=3'\nunattended: [' --yes( |$)']\n\
                 roles: {helper: [' helper( |$)']}\n",
            ),
            ("pypi", "  packages: ['pypi:aq.own-py']\n  script_names: [aq-own]\n"),
            ("vsix", "  packages: ['vsix:aq-own.helper']\n"),
        ] {
            let text = format!("name: own-{name}\ndetection:\n{rest}");
            world.write(&format!("signatures/{name}.yaml"), &text);
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A shell at that path.
    fn shell(&self, name: &str) -> PathBuf {
        let path = self.write(name, "");
        std::fs::copy("/bin/sh", &path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

/// A process that lives until it is dropped: what is asked of it is read when its start is recorded, whenever that is.
struct Living(Child);

impl Living {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::piped()).spawn().unwrap())
    }

    /// Waits until the recorder has it as this.
    fn is(&self, recorder: &Recorder, what: &str, wanted: &str) {
        recorder.wait_for(&format!("SELECT {what} FROM ai_agents WHERE pid = {}", self.0.id()), wanted);
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn packages_environments_versions_and_flags_are_recorded() {
    if !can_record("packages_environments_versions_and_flags_are_recorded") {
        return;
    }
    let world = World::new();
    let recorder = Recorder::start(&["--signatures", world.path("signatures").to_str().unwrap()]);
    let wait = ["-c", "read line; :"];
    let tool = world.shell("bin/aq-own-env");
    let without = Living::start(Command::new(&tool).args(wait));
    let with = Living::start(Command::new(&tool).args(wait).env("AQ_OWN_ENV", "a secret"));
    let what = "agent || ' ' || confidence || ' ' || evidence";
    with.is(&recorder, what, "own-env 50 executable is named aq-own-env; environment has AQ_OWN_ENV");

    let old = world.shell("old/node_modules/@aq-own/agent/bin/agent");
    world.write("old/node_modules/@aq-own/agent/package.json", r#"{"version": "2.9.9"}"#);
    let new = world.shell("new/node_modules/@aq-own/agent/bin/agent");
    world.write("new/node_modules/@aq-own/agent/package.json", r#"{"version": "3.1.4"}"#);
    let old = Living::start(Command::new(&old).args(wait));
    let of_new = |arguments: &[&str], wanted: &str| {
        let process = Living::start(Command::new(&new).args(wait).args(arguments));
        let what = "agent || ' ' || version || ' ' || role || ' ' || coalesce(permission_mode, 'asks')";
        process.is(&recorder, what, wanted);
    };
    of_new(&[], "own-npm 3.1.4 main asks");
    of_new(&["do it", "with", "care", "--yes"], "own-npm 3.1.4 main unattended");
    of_new(&["helper"], "own-npm 3.1.4 helper asks");

    let script = "import sys\nsys.stdin.read()\n";
    world.write("venv/lib/python3.99/site-packages/aq_own_py-0.7.dist-info/RECORD", "../../../bin/aq-own,sha256=x,9\n");
    let pypi = Living::start(Command::new("python3").arg(world.write("venv/bin/aq-own", script)));
    pypi.is(&recorder, "agent || ' ' || version || ' ' || evidence", "own-pypi 0.7 script is in pypi:aq.own-py");
    let other = Living::start(Command::new("python3").arg(world.write("other/bin/aq-own", script)));

    let server = world.shell(".vscode/extensions/aq-own.helper-1.2.3-linux-x64/bin/server");
    let vsix = Living::start(Command::new(&server).args(wait));
    vsix.is(&recorder, "agent || ' ' || version", "own-vsix 1.2.3");
    // Of all that was started before the last one, its verdict has been given.
    for not in [without, old, other] {
        let sql = format!("SELECT agent FROM ai_agents WHERE pid = {}", not.0.id());
        assert_eq!(recorder.value(&sql), None);
    }
    let kept = "SELECT count(*) FROM ai_agents WHERE cmdline LIKE '%a secret%' OR evidence LIKE '%a secret%'";
    assert_eq!(recorder.value(kept).as_deref(), Some("0"), "values of variables are kept nowhere");
}
