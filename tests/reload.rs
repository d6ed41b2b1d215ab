//! Signatures and rules that change while recording goes on.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::{Recorder, can_record};

/// A directory of signatures, and a program that is an agent when one of them says so.
struct Lab {
    folder: tempfile::TempDir,
    recorder: Recorder,
    name: String,
}

impl Lab {
    fn new(test: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("{test}-{}", std::process::id());
        let program = folder.path().join(&name).join("agent");
        std::fs::create_dir(program.parent().unwrap()).unwrap();
        // By another program: a copy open for writing here would be inherited by what another test starts.
        assert!(Command::new("cp").arg("/bin/bash").arg(&program).status().unwrap().success());
        let signatures = folder.path().join("signatures");
        let recorder = Recorder::start(&["--syscalls", "always", "--signatures", signatures.to_str().unwrap()]);
        Self { folder, recorder, name }
    }

    fn signatures(&self) -> PathBuf {
        self.folder.path().join("signatures")
    }

    fn start(&self, script: &str) -> Child {
        let mut command = Command::new(self.folder.path().join(&self.name).join("agent"));
        command.args(["-c", script]).current_dir(self.folder.path()).stdin(Stdio::null()).spawn().unwrap()
    }

    fn signature(&self, display_name: &str) -> String {
        let name = &self.name;
        format!(
            "name: {name}\ndisplay_name: {display_name}\ncategory: cli\ndetection:\n  exe_patterns: ['*/{name}/agent']\n"
        )
    }

    /// As an editor saves it: beside it, and renamed.
    fn save(&self, file: &str, text: &str) {
        let (new, path) = (self.signatures().join(format!("{file}~")), self.signatures().join(file));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    fn wait_for_signature(&self, columns: &str, wanted: &str) {
        let row = format!("SELECT {columns} FROM agent_signatures WHERE agent = '{}'", self.name);
        self.recorder.wait_for(&format!("SELECT coalesce(({row}), 'none')"), wanted);
    }
}

fn end(mut child: Child, file: &Path) {
    std::fs::write(file, "").unwrap();
    let _ = child.wait();
}

#[test]
fn a_new_signature_holds_for_what_runs_already_and_for_what_comes() {
    if !can_record("a_new_signature_holds_for_what_runs_already_and_for_what_comes") {
        return;
    }
    let lab = Lab::new("new");
    let wait = "while ! [ -e end ]; do sleep 0.05; done";
    let running = lab.start(&format!("bash -c '{wait}; echo 1 >by-a-child'; true"));
    // The directory was not there, either.
    std::fs::create_dir(lab.signatures()).unwrap();
    lab.save("own.yaml", &lab.signature("First"));
    lab.wait_for_signature("display_name || ' ' || status", "First loaded");
    let of = |pid: u32| format!("SELECT display_name || ' ' || processes FROM ai_agents WHERE pid = {pid}");
    let (pid, folder) = (running.id(), lab.folder.path().canonicalize().unwrap());
    lab.recorder.wait_for(&format!("SELECT how FROM agent_processes WHERE pid = {pid}"), "adopted");
    end(running, &folder.join("end"));
    lab.recorder.wait_for(&of(pid), "First 0");
    let made = format!(
        "SELECT count(*) FROM agent_file_ops WHERE operation = 'create' AND path = '{}'",
        folder.join("by-a-child").display()
    );
    lab.recorder.wait_for(&made, "1");
    // And one that begins.
    let mut next = lab.start("true; true");
    assert!(next.wait().unwrap().success());
    lab.recorder.wait_for(&of(next.id()), "First 0");
    // A broken file keeps its last good version, and says so; one that is mended holds again.
    lab.save("own.yaml", &lab.signature("Second").replace("category: cli", "category: toaster"));
    lab.wait_for_signature("display_name || ' ' || status", "First kept");
    let message = format!("SELECT message FROM agent_signatures WHERE agent = '{}'", lab.name);
    let message = lab.recorder.value(&message).unwrap();
    assert!(message.contains("own.yaml:3:11: ") && message.contains("last good version"), "{message}");
    let mut kept = lab.start("true; true");
    assert!(kept.wait().unwrap().success());
    lab.recorder.wait_for(&of(kept.id()), "First 0");
    lab.save("own.yaml", &lab.signature("Third"));
    lab.wait_for_signature("display_name || ' ' || status", "Third loaded");
    // One that goes, ends.
    std::fs::remove_file(lab.signatures().join("own.yaml")).unwrap();
    lab.wait_for_signature("status", "none");
    let mut stranger = lab.start("true; true");
    assert!(stranger.wait().unwrap().success());
    lab.save("again.yaml", &lab.signature("Fourth"));
    lab.wait_for_signature("display_name", "Fourth");
    assert_eq!(lab.recorder.query(&of(stranger.id())), []);
    let mut last = lab.start("true; true");
    assert!(last.wait().unwrap().success());
    lab.recorder.wait_for(&of(last.id()), "Fourth 0");
}

#[test]
fn rules_and_an_override_are_taken_in_and_a_broken_rule_keeps_the_last() {
    if !can_record("rules_and_an_override_are_taken_in_and_a_broken_rule_keeps_the_last") {
        return;
    }
    let lab = Lab::new("rules");
    std::fs::create_dir(lab.signatures()).unwrap();
    lab.save("own.yaml", &lab.signature("Own"));
    lab.wait_for_signature("status", "loaded");
    let folder = lab.folder.path().canonicalize().unwrap();
    let agent = lab.start("n=0; while ! [ -e end ]; do n=$((n + 1)); echo 1 >customers.$n; sleep 0.1; done");
    let newest = format!(
        "SELECT category || ' ' || sensitivity FROM agent_file_ops WHERE operation = 'create' AND path LIKE '{}/customers.%' ORDER BY \
         eid DESC LIMIT 1",
        folder.display()
    );
    lab.recorder.wait_for(&format!("SELECT ({newest}) IS NOT NULL"), "1");
    assert_ne!(lab.recorder.value(&newest).as_deref(), Some("secret high"));
    let rule = "rules: [{category: secret, sensitivity: high, paths: ['customers.*']}]\n";
    lab.save("files.yaml", rule);
    lab.recorder.wait_for(&newest, "secret high");
    lab.save("files.yaml", "rulse: []\n");
    let status = format!(
        "SELECT coalesce((SELECT status FROM agent_signatures WHERE source = '{}'), 'none')",
        lab.signatures().join("files.yaml").display()
    );
    lab.recorder.wait_for(&status, "kept");
    let now = lab.recorder.value("SELECT max(eid) FROM agent_file_ops").unwrap();
    let later = newest.replace("ORDER BY", &format!("AND eid > {now} ORDER BY"));
    lab.recorder.wait_for(&later, "secret high");
    std::fs::remove_file(lab.signatures().join("files.yaml")).unwrap();
    lab.recorder.wait_for(&status, "none");
    lab.recorder.wait_for(&format!("SELECT ({newest}) <> 'secret high'"), "1");
    end(agent, &folder.join("end"));
    // One's own goes before the builtin of its name, and gives it back.
    let codex = |wanted| {
        lab.recorder.wait_for("SELECT display_name FROM agent_signatures WHERE agent = 'codex'", wanted);
    };
    codex("Codex CLI");
    lab.save("codex.yaml", &lab.signature("Ours").replace(&format!("name: {}\n", lab.name), "name: codex\n"));
    codex("Ours");
    // Nobody else may write what is believed; the last good version stays.
    let mode = |mode| std::fs::set_permissions(lab.signatures(), std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o777);
    lab.recorder.wait_for("SELECT status FROM agent_signatures WHERE agent = 'codex'", "kept");
    mode(0o755);
    lab.recorder.wait_for("SELECT status FROM agent_signatures WHERE agent = 'codex'", "loaded");
    // A hang-up ends nothing.
    lab.recorder.signal(libc::SIGHUP);
    std::fs::remove_file(lab.signatures().join("codex.yaml")).unwrap();
    codex("Codex CLI");
}

#[test]
fn a_pack_that_is_installed_holds_until_ones_own_file_does() {
    if !can_record("a_pack_that_is_installed_holds_until_ones_own_file_does") {
        return;
    }
    let lab = Lab::new("pack");
    let at = |name: &str| lab.folder.path().join(name);
    let text = lab.signature("Packed");
    std::fs::write(at("own.yaml"), &text).unwrap();
    let hash = Command::new("sha256sum").arg(at("own.yaml")).output().unwrap().stdout;
    let hash = String::from_utf8(hash).unwrap().split(' ').next().unwrap().to_owned();
    let manifest = serde_json::json!({"name": "fleet", "version": "1.0", "files": {"own.yaml": hash}});
    std::fs::write(at("manifest.json"), manifest.to_string()).unwrap();
    let tar = |file: &str| {
        let mut command = Command::new("tar");
        command.arg("czf").arg(at(file)).args(["manifest.json", "own.yaml"]).current_dir(lab.folder.path());
        assert!(command.status().unwrap().success());
        std::fs::read(at(file)).unwrap()
    };
    let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let bytes = tar("fleet.tar.gz");
    let signature = minisign::sign(None, &pair.sk, bytes.as_slice(), None, None).unwrap();
    std::fs::write(at("fleet.tar.gz.minisig"), signature.into_string()).unwrap();
    let install = || {
        let mut command = Command::new(support::AGENTQUERY);
        command.args(["signatures", "install"]).arg(at("fleet.tar.gz"));
        command.arg("--config").arg(at("config.yaml")).arg("--state-dir").arg(lab.recorder.state_dir());
        command.output().unwrap()
    };
    // Without a key that is known, nothing.
    std::fs::write(at("config.yaml"), "pack_keys:\n").unwrap();
    let refused = install();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("pack_keys"), "{said}");
    std::fs::write(at("config.yaml"), format!("pack_keys: [{}]\n", pair.pk.to_base64())).unwrap();
    let done = install();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success() && said.starts_with("installed fleet 1.0, files: 1"), "{done:?}");
    lab.wait_for_signature("display_name", "Packed");
    let mut agent = lab.start("true; true");
    assert!(agent.wait().unwrap().success());
    lab.recorder.wait_for(&format!("SELECT display_name FROM ai_agents WHERE pid = {}", agent.id()), "Packed");
    std::fs::create_dir(lab.signatures()).unwrap();
    lab.save("mine.yaml", &lab.signature("Mine"));
    lab.wait_for_signature("display_name", "Mine");
    std::fs::remove_file(lab.signatures().join("mine.yaml")).unwrap();
    lab.wait_for_signature("display_name", "Packed");
}
