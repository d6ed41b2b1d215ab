//! Which processes are one running agent, which are another below it, and whose is what left the tree.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

mod support;

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use support::{Recorder, Row, can_record, recorder_with};

/// Agents that nobody else has: shells, by their paths `alpha` and so on.
struct Lab {
    folder: tempfile::TempDir,
}

/// No other lab's agents are this one's.
fn tag() -> String {
    format!("instances-{}", std::process::id())
}

fn lab() -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(Lab::new)
}

impl Lab {
    fn new() -> Self {
        let lab = Self { folder: tempfile::tempdir().unwrap() };
        let at = |path: &str| lab.at(path);
        for program in [
            "alpha/bin/alpha",
            "beta/bin/beta",
            "gamma/bin/gamma",
            "editor/bin/editor",
            "editor/bin/code",
            "extensions/acme.alpha-1.2.3-linux-x64/native/alpha",
        ] {
            std::fs::create_dir_all(at(program).parent().unwrap()).unwrap();
            // By another program: a copy open for writing here would be inherited by what another test starts.
            assert!(Command::new("cp").arg("/bin/bash").arg(at(program)).status().unwrap().success());
        }
        let native = at("alpha/bin/alpha").display().to_string();
        let wrapper = format!("import subprocess, sys\nsubprocess.run(['{native}', *sys.argv[1:]], check=True)\n");
        std::fs::write(at("alpha/wrapper.py"), wrapper).unwrap();
        let helper = at("extensions/acme.helper-0.3.1/dist/server.py");
        std::fs::create_dir_all(helper.parent().unwrap()).unwrap();
        std::fs::write(helper, "open('by-the-helper', 'w')\n").unwrap();
        let server = at("extensions/acme.server-0.3.1/dist/acme-server.js");
        std::fs::create_dir_all(server.parent().unwrap()).unwrap();
        std::fs::write(server, "read line; echo 1 >by-the-server; true\n").unwrap();
        std::fs::create_dir(at("signatures")).unwrap();
        let tag = tag();
        let signature = |name: &str, category: &str, rest: &str| {
            let text = format!("name: {name}-{tag}\ndisplay_name: {name}\ncategory: {category}\n{rest}");
            std::fs::write(at(&format!("signatures/{name}.yaml")), text.replace("TAG", &tag)).unwrap();
        };
        signature(
            "alpha",
            "cli",
            "child_env: [ALPHA_CHILD, ALPHA_SESSION]\nroles:\n  daemon: [' serve$']\ndetection:\n  exe_patterns:\n    - '*/TAG/alpha/bin/alpha'\n    - '*/extensions/acme.alpha-*/native/alpha'\n  \
             script_patterns: ['*/TAG/alpha/wrapper.py']\n  script_names: [wrapper.py]\n",
        );
        signature("beta", "cli", "detection:\n  exe_patterns: ['*/TAG/beta/bin/beta']\n");
        signature("gamma", "cli", "child_env: [GAMMA_CHILD]\ndetection:\n  exe_patterns: ['*/TAG/gamma/bin/gamma']\n");
        signature(
            "editor",
            "ide",
            "detection:\n  exe_patterns: ['*/TAG/editor/bin/editor']\n  not:\n    - argv: ' --type='\n",
        );
        signature(
            "helper",
            "editor_extension",
            "detection:\n  script_patterns: ['*/TAG/extensions/acme.helper-*/dist/*']\n  script_names: [server.py]\n",
        );
        signature(
            "server",
            "editor_extension",
            "detection:\n  script_patterns: ['*/TAG/extensions/acme.server-*/dist/*']\n  script_names: [acme-server.js]\n",
        );
        lab
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(tag()).join(path)
    }

    fn program(&self, name: &str) -> String {
        self.at(&format!("{name}/bin/{name}")).display().to_string()
    }
}

fn recorder() -> &'static Recorder {
    let folder = lab().at("signatures");
    recorder_with(move || Recorder::start(&["--syscalls", "always", "--signatures", folder.to_str().unwrap()]))
}

/// A folder to work in; rows of what is started there are told by it.
struct Work(tempfile::TempDir);

impl Work {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // For whoever works in it.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(folder.path(), open).unwrap();
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // Whoever runs the tests may be an agent's child.
        for name in ["ALPHA_CHILD", "ALPHA_SESSION", "GAMMA_CHILD", "CLAUDECODE", "CLAUDE_CODE_SESSION_ID"] {
            command.env_remove(name);
        }
        let lab = lab();
        command
            .env("ALPHA", lab.program("alpha"))
            .env("BETA", lab.program("beta"))
            .env("EDITOR", lab.program("editor"));
        command.env("LAB", lab.at("")).current_dir(self.path()).stdin(Stdio::null());
        command
    }

    /// A script, run by an agent to its end.
    fn run(&self, agent: &str, script: &str, arguments: &[&str]) -> u32 {
        let mut child =
            self.command(&lab().program(agent)).args(["-c", script, "agent"]).args(arguments).spawn().unwrap();
        let status = support::ended(&mut child, Duration::from_secs(20));
        assert!(status.success(), "{script}: {status}");
        child.id()
    }

    /// An agent that waits until `end` is there, after the script.
    fn live(&self, agent: &str, script: &str) -> Living {
        let script = format!("{script}\ntouch began; while ! [ -e end ]; do sleep 0.05; done");
        let child = self.command(&lab().program(agent)).args(["-c", &script, "agent"]).spawn().unwrap();
        let living = Living { child, work: self.path() };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.path().join("began").exists() {
            assert!(Instant::now() < deadline, "the agent does not begin");
            std::thread::sleep(Duration::from_millis(10));
        }
        living
    }

    /// The agents that were started here, when all have ended, in the order of their start.
    fn agents(&self, count: usize) -> Vec<Row> {
        let here = format!("FROM ai_agents WHERE cwd = '{}'", self.path().display());
        recorder()
            .wait_for(&format!("SELECT count(*) || ' ' || coalesce(sum(processes), 0) {here}"), &format!("{count} 0"));
        recorder().query(&format!("SELECT *, (SELECT agent_id FROM ai_agents p WHERE p.agent_id = ai_agents.parent_agent_id) IS NOT NULL AS below {here} ORDER BY process_eid"))
    }

    /// Whose process made a file.
    fn maker(&self, file: &str) -> Vec<Row> {
        let sql = format!(
            "SELECT f.agent_id, p.how, p.parent, p.parent_eid, p.depth, p.name FROM agent_file_ops f JOIN agent_processes p ON p.eid = \
             f.process_eid WHERE f.operation = 'create' AND f.path = '{}'",
            self.path().join(file).display()
        );
        recorder().query(&sql)
    }

    fn is_made(&self, file: &str) -> Row {
        let sql = format!(
            "SELECT count(*) FROM agent_file_ops WHERE operation = 'create' AND path = '{}'",
            self.path().join(file).display()
        );
        recorder().wait_for(&sql, "1");
        self.maker(file).remove(0)
    }
}

/// A test that fails leaves nobody waiting.
struct Living {
    child: Child,
    work: PathBuf,
}

impl Living {
    fn end(mut self) {
        std::fs::write(self.work.join("end"), "").unwrap();
        assert!(support::ended(&mut self.child, Duration::from_secs(20)).success());
    }

    fn id(&self) -> Option<String> {
        recorder().value(&format!("SELECT agent_id FROM ai_agents WHERE pid = {}", self.child.id()))
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        let _ = std::fs::write(self.work.join("end"), "");
        let _ = self.child.wait();
    }
}

fn cells<const N: usize>(rows: &[Row], columns: [&str; N]) -> Vec<[String; N]> {
    rows.iter().map(|row| columns.map(|column| row[column].clone().unwrap_or_default())).collect()
}

#[test]
fn a_wrapper_a_relaunch_and_the_native_program_are_one_instance() {
    if !can_record("a_wrapper_a_relaunch_and_the_native_program_are_one_instance") {
        return;
    }
    recorder();
    let work = Work::new();
    let wrapper = lab().at("alpha/wrapper.py");
    // The native program starts itself again, and from a child that never ran another program.
    let script = "\"$ALPHA\" -c 'echo 1 >again'; ( \"$ALPHA\" -c 'echo 2 >forked' ); true";
    let status = work.command("python3").arg(&wrapper).args(["-c", script]).status().unwrap();
    assert!(status.success());
    let agents = work.agents(1);
    assert_eq!(cells(&agents, ["role", "below"]), [["main", "0"]]);
    let total = agents[0]["processes_total"].as_deref().unwrap().parse::<u32>().unwrap();
    assert!(total >= 4, "{agents:?}");
    for file in ["again", "forked"] {
        assert_eq!(work.is_made(file)["agent_id"], agents[0]["agent_id"], "{file}");
    }
}

#[test]
fn below_a_shell_the_same_agent_is_another_instance() {
    if !can_record("below_a_shell_the_same_agent_is_another_instance") {
        return;
    }
    recorder();
    for shell in [
        // Below the shell, and in its place.
        "bash -c '\"$ALPHA\" -c \"echo 1 >nested; true\"; true'; true",
        "bash -c 'exec \"$ALPHA\" -c \"echo 1 >nested; true\"'; true",
        "timeout 20 \"$ALPHA\" -c 'echo 1 >nested; true'; true",
        "python3 -c 'import os, subprocess; subprocess.run([os.environ[\"ALPHA\"], \"-c\", \"echo 1 >nested; true\"])'; true",
    ] {
        let work = Work::new();
        work.run("alpha", shell, &[]);
        let agents = work.agents(2);
        assert_eq!(agents[1]["parent_agent_id"], agents[0]["agent_id"], "{shell}");
        assert_ne!(agents[1]["agent_id"], agents[0]["agent_id"], "{shell}");
        assert_eq!(work.is_made("nested")["agent_id"], agents[1]["agent_id"], "{shell}");
    }
}

#[test]
fn another_agent_and_a_daemon_below_are_instances_of_their_own() {
    if !can_record("another_agent_and_a_daemon_below_are_instances_of_their_own") {
        return;
    }
    recorder();
    let work = Work::new();
    work.run("alpha", "\"$BETA\" -c 'echo 1 >by-beta'; \"$ALPHA\" -c 'echo 1 >by-daemon; true' serve; true", &[]);
    let agents = work.agents(3);
    let tag = tag();
    let told = cells(&agents, ["agent", "role", "parent_agent_id"]);
    let id = agents[0]["agent_id"].clone().unwrap();
    let alpha = format!("alpha-{tag}");
    let wanted = [
        [alpha.clone(), "main".to_owned(), String::new()],
        [format!("beta-{tag}"), "main".to_owned(), id.clone()],
        [alpha, "daemon".to_owned(), id],
    ];
    assert_eq!(told, wanted);
    assert_eq!(work.is_made("by-beta")["agent_id"], agents[1]["agent_id"]);
    assert_eq!(work.is_made("by-daemon")["agent_id"], agents[2]["agent_id"]);
    // In place of the agent itself: the process is the same, the agent is not.
    let work = Work::new();
    work.run("alpha", "exec \"$BETA\" -c 'echo 1 >in-place; true'", &[]);
    let agents = work.agents(2);
    assert_ne!(agents[0]["agent_id"], agents[1]["agent_id"]);
    assert_eq!(agents[1]["parent_agent_id"], agents[0]["agent_id"]);
    assert_eq!(work.is_made("in-place")["agent_id"], agents[1]["agent_id"]);
}

#[test]
fn what_left_the_tree_for_init_keeps_its_mark() {
    if !can_record("what_left_the_tree_for_init_keeps_its_mark") {
        return;
    }
    recorder();
    let work = Work::new();
    // Each waits until the agent itself has ended, and is nobody's child by then.
    let wait = "while ! [ -e gone ]; do sleep 0.02; done";
    let script = format!(
        "setsid bash -c '{wait}; echo 1 >by-setsid' & \
         nohup bash -c '{wait}; echo 1 >by-nohup' >/dev/null 2>&1 & \
         python3 - <<'P' & \nimport os, time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n\
         while not os.path.exists('gone'): time.sleep(0.02)\nopen('by-two-forks', 'w')\nP\nwait %3"
    );
    let pid = work.run("alpha", &script, &[]);
    recorder().wait_for(&format!("SELECT state FROM ai_agents WHERE pid = {pid}"), "exited");
    std::fs::write(work.path().join("gone"), "").unwrap();
    let agents = work.agents(1);
    for file in ["by-setsid", "by-nohup", "by-two-forks"] {
        let made = work.is_made(file);
        assert_eq!(made["agent_id"], agents[0]["agent_id"], "{file}");
        assert_ne!(made["how"].as_deref(), Some("marker"), "{file}");
    }
}

#[test]
fn what_others_start_for_an_agent_is_told_by_its_session() {
    if !can_record("what_others_start_for_an_agent_is_told_by_its_session") {
        return;
    }
    recorder();
    let (first, second, outside) = (Work::new(), Work::new(), Work::new());
    let says = |id: &str| format!("ALPHA_CHILD=1 ALPHA_SESSION={id} /bin/true");
    let (one, two) = (first.live("alpha", &says("session-one")), second.live("alpha", &says("session-two")));
    let sessions = |work: &Work| {
        let sql = "SELECT count(*) FROM agent_processes WHERE name = 'true' AND cwd";
        recorder().wait_for(&format!("{sql} = '{}'", work.path().display()), "1");
    };
    sessions(&first);
    sessions(&second);
    // This test is the server: nobody's child.
    let start = |file: &str, variables: &[(&str, &str)]| {
        let script = format!("bash -c 'echo 1 >{file}'; true");
        let mut command = outside.command("bash");
        command.args(["-c", &script]).envs(variables.iter().copied());
        assert!(command.status().unwrap().success());
    };
    start("of-nobody", &[("ALPHA_CHILD", "1")]);
    start("of-a-third", &[("ALPHA_CHILD", "1"), ("ALPHA_SESSION", "session-three")]);
    start("of-two", &[("ALPHA_SESSION", "session-two"), ("ALPHA_CHILD", "1")]);
    let many: Vec<(String, String)> = (0..200).map(|n| (format!("VARIABLE_{n}"), "x".repeat(n * 30))).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    start("of-one", &[&*many, &[("ZALPHA_SESSION", "session-two"), ("ALPHA_SESSION", "session-one")]].concat());
    for (file, agent) in [("of-two", &two), ("of-one", &one)] {
        let made = outside.is_made(file);
        assert_eq!(made["agent_id"], agent.id(), "{file}");
        let first = format!(
            "SELECT how || ' ' || (parent_eid IS NULL) FROM agent_processes WHERE agent_id = {} AND depth = 1 AND cwd = '{}'",
            agent.id().unwrap(),
            outside.path().display()
        );
        assert_eq!(recorder().value(&first).as_deref(), Some("marker 1"), "{file}");
        assert_eq!(made["depth"].as_deref(), Some("2"), "its children are below it");
    }
    // Those came before, and have no rows.
    assert_eq!(outside.maker("of-nobody"), [], "two agents may be meant");
    assert_eq!(outside.maker("of-a-third"), [], "no agent that lives is meant");
    // An agent that was started so is below the one whose session it has.
    let mut command = outside.command(&lab().program("beta"));
    assert!(command.args(["-c", "true; true"]).env("ALPHA_SESSION", "session-one").status().unwrap().success());
    let beta = outside.agents(1).remove(0);
    assert_eq!(beta["parent_agent_id"], one.id());
    one.end();
    two.end();
    first.agents(1);
    start("too-late", &[("ALPHA_SESSION", "session-one")]);
    let third = Work::new();
    third.run("alpha", "true", &[]);
    third.agents(1);
    assert_eq!(outside.maker("too-late"), []);
}

#[test]
fn a_marker_without_a_session_tells_the_only_agent_of_the_user() {
    if !can_record("a_marker_without_a_session_tells_the_only_agent_of_the_user") {
        return;
    }
    recorder();
    let (inside, outside) = (Work::new(), Work::new());
    let agent = inside.live("gamma", "true");
    assert!(agent.id().is_some());
    let start = |file: &str, uid: u32| {
        let mut command = outside.command("bash");
        command.args(["-c", &format!("echo 1 >{file}; true")]).env("GAMMA_CHILD", "1").uid(uid);
        assert!(command.status().unwrap().success());
    };
    start("of-another-user", 65534);
    start("of-the-user", 0);
    assert_eq!(outside.is_made("of-the-user")["agent_id"], agent.id());
    assert_eq!(outside.maker("of-another-user"), []);
    tmux(&agent, &outside);
    agent.end();
}

/// A real server of terminals that was there before: what it starts for the agent is its own child.
fn tmux(agent: &Living, work: &Work) {
    let socket = work.path().join("tmux");
    let tmux = |arguments: &[&str]| {
        let mut command = work.command("tmux");
        command.args(["-f", "/dev/null", "-S"]).arg(&socket).args(arguments).env("TERM", "screen");
        command.stdout(Stdio::null()).stderr(Stdio::null()).status()
    };
    if !tmux(&["new-session", "-d", "sleep 60"]).is_ok_and(|status| status.success()) {
        return support::skipped("tmux", "there is no tmux, or it does not start");
    }
    let folder = work.path();
    let folder = folder.to_str().unwrap();
    let made = tmux(&["new-window", "-c", folder, "-e", "GAMMA_CHILD=1", "echo 1 >by-tmux; true"]);
    assert!(made.unwrap().success());
    let row = work.is_made("by-tmux");
    assert!(tmux(&["kill-server"]).unwrap().success());
    assert_eq!(row["agent_id"], agent.id());
}

#[test]
fn an_extensions_native_program_is_below_the_editor_and_the_editors_helpers_are_it() {
    if !can_record("an_extensions_native_program_is_below_the_editor_and_the_editors_helpers_are_it") {
        return;
    }
    recorder();
    let work = Work::new();
    // The host of extensions runs the editor's own program, starts it again for a language's server, an extension's
    // native program, and an extension's script.
    let host = r#""$EDITOR" -c 'echo 1 >by-the-editor; true' server;
        "$LAB"extensions/acme.alpha-1.2.3-linux-x64/native/alpha -c 'echo 1 >by-the-extension; true';
        python3 "$LAB"extensions/acme.helper-0.3.1/dist/server.py; true"#;
    work.run("editor", r#""$EDITOR" -c "$1" host --type=utility; true"#, &[host]);
    let agents = work.agents(3);
    let tag = tag();
    let id = agents[0]["agent_id"].clone().unwrap();
    let wanted = [
        [format!("editor-{tag}"), "ide".to_owned(), String::new()],
        [format!("alpha-{tag}"), "cli".to_owned(), id.clone()],
        [format!("helper-{tag}"), "editor_extension".to_owned(), id],
    ];
    assert_eq!(cells(&agents, ["agent", "category", "parent_agent_id"]), wanted);
    for (file, agent) in [("by-the-editor", 0), ("by-the-extension", 1), ("by-the-helper", 2)] {
        assert_eq!(work.is_made(file)["agent_id"], agents[agent]["agent_id"], "{file}");
    }
}

#[test]
fn an_editors_program_is_node_to_an_extension_and_an_editor_to_who_opens_a_file() {
    if !can_record("an_editors_program_is_node_to_an_extension_and_an_editor_to_who_opens_a_file") {
        return;
    }
    recorder();
    let code = lab().at("editor/bin/code");
    let script = lab().at("extensions/acme.server-0.3.1/dist/acme-server.js");
    let work = Work::new();
    let mut opened = work.command(code.to_str().unwrap());
    opened.arg(&script).env_remove("ELECTRON_RUN_AS_NODE").stdin(Stdio::null());
    assert!(opened.status().unwrap().success());
    std::fs::remove_file(work.path().join("by-the-server")).unwrap();
    let mut server = work.command(code.to_str().unwrap());
    server.arg(&script).arg("--stdio").env("ELECTRON_RUN_AS_NODE", "1").stdin(Stdio::piped());
    // It lives until it is known: a server does, and its environment is read from it.
    let mut server = server.spawn().unwrap();
    recorder().wait_for(&format!("SELECT count(*) FROM ai_agents WHERE cwd = '{}'", work.path().display()), "1");
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());
    let agents = work.agents(1);
    let wanted = [format!("server-{}", tag()), "editor_extension".to_owned()];
    assert_eq!(cells(&agents, ["agent", "category"]), [wanted]);
    assert_eq!(work.is_made("by-the-server")["agent_id"], agents[0]["agent_id"]);
}

#[test]
fn what_init_has_taken_before_recording_begins_is_known_by_its_session() {
    if !can_record("what_init_has_taken_before_recording_begins_is_known_by_its_session") {
        return;
    }
    let work = Work::new();
    // One child of the agent, and one whose parent has ended.
    let script = "export ALPHA_SESSION=session-of-before; wait='while ! [ -e end ]; do sleep 0.05; done'; \
        bash -c \"$wait; echo 1 >by-the-child\" & \
        bash -c \"(bash -c '$wait; echo 1 >by-the-orphan') & true\"";
    let agent = work.live("alpha", script);
    let folder = lab().at("signatures");
    let late = Recorder::start(&["--syscalls", "always", "--signatures", folder.to_str().unwrap()]);
    let how = format!(
        "SELECT group_concat(how, ' ') FROM (SELECT DISTINCT how FROM agent_processes WHERE name = 'bash' AND cwd = '{}' \
         AND agent_id = (SELECT agent_id FROM ai_agents WHERE pid = {}) ORDER BY how)",
        work.path().display(),
        agent.child.id()
    );
    late.wait_for(&how, "adopted marker");
    agent.end();
    let made = format!(
        "SELECT group_concat(p.how || ' ' || (p.agent_id = f.agent_id), ', ') FROM agent_file_ops f JOIN agent_processes p ON \
         p.eid = f.process_eid WHERE f.operation = 'create' AND f.path = '{}'",
        work.path().join("by-the-orphan").display()
    );
    late.wait_for(&made, "marker 1");
}
