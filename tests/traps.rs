//! What only looks like an agent, by recording: real processes whose paths, names, arguments and scripts are those that
//! programs have on real machines, below a folder. A small program that ends at once stands in for each.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use serde::Deserialize;
use support::{Recorder, Row, can_record, recorder};

/// A command of `data/ordinary.yaml` or a case of `data/agents`.
#[derive(Debug, Deserialize)]
struct Process {
    exe: String,
    argv: Vec<String>,
    script: Option<String>,
    role: Option<String>,
    is: Option<String>,
}

#[derive(Deserialize)]
struct Cases {
    agent: Vec<Process>,
    other: Vec<Process>,
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(name)
}

fn read<T: serde::de::DeserializeOwned>(file: &Path) -> T {
    serde_saphyr::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

const AGENT: &str = "/node_modules/@anthropic-ai/claude-code/bin/claude.exe";

/// The folder that stands for `/`.
struct Root {
    root: PathBuf,
    /// Where the program is that stands in for others.
    programs: Rc<tempfile::TempDir>,
}

impl Root {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/programs/stand_in.c");
        assert!(Command::new("cc").arg(source).arg("-o").arg(root.join("stand_in")).status().unwrap().success());
        fs::create_dir(root.join("work")).unwrap();
        Self { root, programs: Rc::new(folder) }
    }

    /// One more, in which nothing is yet.
    fn below(&self, name: &str) -> Self {
        let root = self.root.join(name);
        fs::create_dir_all(root.join("work")).unwrap();
        Self { root, programs: self.programs.clone() }
    }

    /// Where an absolute path is.
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn parent_of(&self, path: &str) -> PathBuf {
        let at = self.at(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        at
    }

    /// Puts the program there that stands in for all.
    fn place(&self, path: &str) -> PathBuf {
        let at = self.parent_of(path);
        if !at.exists() {
            fs::hard_link(self.programs.path().join("stand_in"), &at).unwrap();
        }
        at
    }

    /// An absolute argument means something below the root.
    fn argument(&self, argument: &str) -> String {
        if argument.starts_with('/') { self.at(argument).display().to_string() } else { argument.to_owned() }
    }

    /// The command for a process. It works in `work`, unless its script says where that is.
    fn command(&self, process: &Process) -> Command {
        let mut cwd = self.root.join("work");
        if let Some(script) = &process.script {
            // What is in it does not matter: what stands in for the interpreter does not read it.
            let real = self.place(script);
            let relative = |argument: &&String| script.ends_with(&format!("/{argument}"));
            if let Some(link) = process.argv.iter().take(4).skip(1).find(|argument| argument.starts_with('/')) {
                let at = self.parent_of(link);
                // npm and pip make such links.
                if !at.exists() {
                    symlink(&real, &at).unwrap();
                }
            } else if let Some(argument) = process.argv.iter().take(4).skip(1).find(relative) {
                cwd = self.at(script.strip_suffix(argument.as_str()).unwrap());
            }
        }
        let mut command = Command::new(self.place(&process.exe));
        let argv: Vec<String> = process.argv.iter().map(|argument| self.argument(argument)).collect();
        command.arg0(&argv[0]).args(&argv[1..]).current_dir(cwd).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// The agents among its processes, once all that was started before is recorded.
    fn agents(&self, recorder: &Recorder) -> Vec<Row> {
        let fence = self.root.join("fence");
        fs::create_dir_all(&fence).unwrap();
        assert!(Command::new(self.place(AGENT)).current_dir(&fence).status().unwrap().success());
        let after = format!("SELECT count(*) FROM ai_agents WHERE cwd = '{}'", fence.display());
        recorder.wait_for(&after, "1");
        let root = self.root.display();
        recorder.query(&format!(
            "SELECT agent, role, path, cmdline, cwd, evidence, processes_total FROM ai_agents WHERE cwd <> '{}' AND \
             (path LIKE '{root}/%' OR cwd LIKE '{root}/%')",
            fence.display()
        ))
    }
}

fn ended(mut child: Child) {
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn ordinary_commands_are_no_agents() {
    if !can_record("ordinary_commands_are_no_agents") {
        return;
    }
    let root = Root::new();
    let recorder = recorder();
    let commands: Vec<Process> = read(&data("ordinary.yaml"));
    assert!(commands.len() >= 200, "{}", commands.len());
    for process in &commands {
        ended(root.command(process).spawn().unwrap_or_else(|error| panic!("{process:?}: {error}")));
    }
    // What this machine has, with a few of the same arguments.
    for line in
        ["ls -la .codex", "git log --author=claude", "sh -c : codex", "find . -name .claude", "grep -rs codex ."]
    {
        let words: Vec<&str> = line.split(' ').collect();
        let mut command = Command::new(words[0]);
        let _ = command.args(&words[1..]).current_dir(root.root.join("work")).output();
    }
    let agents = root.agents(recorder);
    assert!(agents.is_empty(), "{agents:#?}");
}

#[test]
fn every_case_is_recorded_as_what_it_is() {
    if !can_record("every_case_is_recorded_as_what_it_is") {
        return;
    }
    let root = Root::new();
    let recorder = recorder();
    let mut wanted = Vec::new();
    let files = fs::read_dir(data("agents")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<(PathBuf, Cases)> = files.map(|file| (file.clone(), read(&file))).collect();
    for (file, cases) in &files {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let all = cases.agent.iter().map(|case| (Some(name), case));
        for (agent, case) in all.chain(cases.other.iter().map(|case| (case.is.as_deref(), case))) {
            // A rule for a path that begins at the root does not hold below a folder; and env runs only what begins with `#!`.
            if case.exe.starts_with("/opt/") || case.exe == "/usr/bin/env" {
                continue;
            }
            let place = root.below(&wanted.len().to_string());
            ended(place.command(case).spawn().unwrap_or_else(|error| panic!("{case:?}: {error}")));
            wanted.push((agent, case, place.root));
        }
    }
    let agents = root.agents(recorder);
    let mut wrong = Vec::new();
    for (agent, case, root) in &wanted {
        let is_it = |row: &&Row| Path::new(row["cwd"].as_ref().unwrap()).starts_with(root);
        let found: Vec<(&str, &str)> = agents
            .iter()
            .filter(is_it)
            .map(|row| (row["agent"].as_deref().unwrap(), row["role"].as_deref().unwrap()))
            .collect();
        let is: Vec<_> = agent.map(|agent| (agent, case.role.as_deref().unwrap_or("main"))).into_iter().collect();
        if found != is {
            wrong.push(format!("{is:?}: {case:?}: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_prompt_makes_no_second_agent() {
    if !can_record("a_prompt_makes_no_second_agent") {
        return;
    }
    let root = Root::new();
    let recorder = recorder();
    let work = root.root.join("work");
    for prompt in ["use gemini", "/usr/bin/gemini", "codex exec"] {
        let mut claude = Command::new(root.place(AGENT));
        ended(claude.arg0("claude").args(["-p", prompt]).current_dir(&work).spawn().unwrap());
    }
    let agents: Vec<_> =
        root.agents(recorder).into_iter().map(|mut row| row.remove("agent").flatten().unwrap()).collect();
    assert_eq!(agents, ["claude-code"; 3]);
}

#[test]
fn what_only_looks_like_an_agent_is_none() {
    if !can_record("what_only_looks_like_an_agent_is_none") {
        return;
    }
    let root = Root::new();
    let recorder = recorder();
    let work = root.root.join("work");
    let run = |program: &Path, argv: &[&str]| {
        let mut command = Command::new(program);
        command.arg0(argv[0]).args(&argv[1..]).current_dir(&work).stdin(Stdio::null());
        ended(command.spawn().unwrap_or_else(|error| panic!("{argv:?}: {error}")));
    };
    let file = root.at("/home/u/.claude/x");
    run(&root.place("/usr/bin/vim"), &["vim", file.to_str().unwrap()]);
    run(&root.place("/home/claude/bin/x"), &["x"]);
    run(&root.place("/home/claude/bin/claude"), &["claude"]);
    fs::write(work.join("codex"), "codex\n").unwrap();
    run(Path::new("/bin/grep"), &["grep", "-rq", "codex", "."]);
    run(&root.place("/usr/local/bin/goose"), &["goose", "postgres", "up"]);
    run(&root.place("/usr/local/bin/goose"), &["goose", "status"]);

    // The name that an agent's process gives itself is anybody's.
    let named = "import os; open('/proc/self/comm', 'w').write('MainThread'); os.system('true')";
    run(Path::new("/usr/bin/python3"), &["python3", "-c", named]);
    run(&root.place("/usr/bin/MainThread"), &["MainThread"]);

    root.place("/work/cursor/server.js");
    let mut server = Command::new(root.place("/usr/bin/node"));
    ended(server.arg0("node").arg("server.js").current_dir(root.at("/work/cursor")).spawn().unwrap());

    for name in ["q", "pi", "amp", "crush", "claude"] {
        let script = root.parent_of(&format!("/home/u/bin/{name}"));
        // By another program: a file open for writing here would be inherited by what another test starts at that
        // moment, and could not be run (ETXTBSY).
        let text = "#!/bin/sh\nexit 0\n";
        let write = Command::new("sh").args(["-c", "printf %s \"$1\" > \"$0\""]).arg(&script).arg(text).status();
        assert!(write.unwrap().success());
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        run(&script, &[name]);
        run(&root.place("/usr/bin/python3"), &["python3", script.to_str().unwrap()]);
    }

    // No arguments at all, not even a name; Command always passes one.
    let without = "import ctypes, sys\nnone = (ctypes.c_char_p * 1)(None)\n\
                   ctypes.CDLL(None).execve(sys.argv[1].encode(), none, none)\nsys.exit(1)";
    for path in ["/usr/bin/x", "/home/u/bin/codex"] {
        let program = root.place(path);
        run(Path::new("/usr/bin/python3"), &["python3", "-c", without, program.to_str().unwrap()]);
    }

    // The kernel takes no string longer than 128 KiB: 1 MB is refused before anything runs.
    let x = root.place("/usr/bin/x");
    let long = |length: usize| Command::new(&x).arg0("/codex".repeat(length / 6)).current_dir(&work).spawn();
    assert_eq!(long(1 << 20).unwrap_err().raw_os_error(), Some(libc::E2BIG));
    ended(long((128 << 10) - 6).unwrap());

    // A program whose file is gone, also when it is started again through what still runs.
    let gone = root.place("/home/u/bin/codex-gone");
    let mut sleeps = Command::new(&gone).env("STAND_IN_SECONDS", "60").current_dir(&work).spawn().unwrap();
    fs::remove_file(&gone).unwrap();
    let again = format!("/proc/{}/exe", sleeps.id());
    run(Path::new(&again), &["codex"]);

    let agents = root.agents(recorder);
    sleeps.kill().unwrap();
    sleeps.wait().unwrap();
    assert!(agents.is_empty(), "{agents:#?}");
}

#[test]
fn an_agent_is_one_though_its_arguments_or_its_file_are_missing() {
    if !can_record("an_agent_is_one_though_its_arguments_or_its_file_are_missing") {
        return;
    }
    let root = Root::new();
    let recorder = recorder();
    let work = root.root.join("work");
    let long = "x".repeat((128 << 10) - 1);
    ended(Command::new(root.place(AGENT)).arg0(long).current_dir(&work).spawn().unwrap());
    let native = "/home/u/.local/share/claude/versions/1.2.3";
    let program = root.place(native);
    let mut sleeps = Command::new(&program).env("STAND_IN_SECONDS", "60").current_dir(&work).spawn().unwrap();
    fs::remove_file(&program).unwrap();
    let running = format!("SELECT version FROM ai_agents WHERE cwd = '{}' AND processes = 1", work.display());
    recorder.wait_for(&running, "1.2.3");
    sleeps.kill().unwrap();
    sleeps.wait().unwrap();
    let agents = root.agents(recorder);
    assert_eq!(agents.len(), 2, "{agents:#?}");
}
