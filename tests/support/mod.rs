//! What the tests of the running program share: a recorder to ask, and a process that looks like an agent.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The program under test.
pub const AGENTQUERY: &str = env!("CARGO_BIN_EXE_agentquery");

/// Rows as the program prints them: text or null.
pub type Row = BTreeMap<String, Option<String>>;

/// Says out loud when this machine cannot record, and that a test was left out for it.
pub fn can_record(test: &str) -> bool {
    // SAFETY: geteuid has no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    let btf = Path::new("/sys/kernel/btf/vmlinux").exists();
    if !(root && btf) {
        skipped(test, "recording needs root and a kernel with BTF");
    }
    root && btf
}

/// Lets another user run the program, who may not come as far as the folder of its library: it is inherited, open.
pub fn for_users(command: &mut Command) -> &mut Command {
    static LIBRARY: OnceLock<Option<File>> = OnceLock::new();
    let library =
        LIBRARY.get_or_init(|| File::open(Path::new(option_env!("DUCKDB_LIB_DIR")?).join("libduckdb.so")).ok());
    if let Some(library) = library {
        // SAFETY: an open descriptor, which stays open.
        unsafe { libc::fcntl(library.as_raw_fd(), libc::F_SETFD, 0) };
        command.env("LD_PRELOAD", format!("/proc/self/fd/{}", library.as_raw_fd()));
    }
    command
}

/// Written past the test harness, which keeps what a passing test prints to itself.
pub fn skipped(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

/// `agentquery run` on a socket and a state directory of its own: it records beside whatever records already.
pub struct Recorder {
    child: Child,
    pub socket: PathBuf,
    folder: tempfile::TempDir,
}

impl Recorder {
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_by(Command::new(AGENTQUERY), arguments)
    }

    /// Started by another program, which is to exec what follows its own arguments.
    pub fn start_by(mut command: Command, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agentquery.sock");
        command.arg("run").arg("--socket").arg(&socket).arg("--state-dir").arg(folder.path().join("state"));
        command.args(arguments).stdin(Stdio::null());
        // It ends with the thread that started it, at the latest.
        let end_with_us = || {
            // SAFETY: changes this process only.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            Ok(())
        };
        // SAFETY: between fork and exec there is only this system call.
        unsafe { command.pre_exec(end_with_us) };
        let mut recorder = Self { child: command.spawn().unwrap(), socket, folder };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !recorder.socket.exists() {
            assert!(recorder.child.try_wait().unwrap().is_none(), "the recorder ended at once");
            assert!(Instant::now() < deadline, "the recorder does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        recorder
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its lock is.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// How many probes of programs' own code it holds.
    pub fn probes(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().flatten();
        let is_probe = |path: PathBuf| path.to_string_lossy().contains("perf_event");
        open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).filter(|path| is_probe(path.clone())).count()
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends it as a service is ended, and waits until it is gone.
    pub fn end(mut self) {
        self.signal(libc::SIGTERM);
        ended(&mut self.child, Duration::from_secs(20));
    }

    /// Anonymous memory that it holds now, in bytes.
    pub fn anonymous(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: a child of ours that was not waited for, so its pid is its own.
        let sent = unsafe { libc::kill(self.child.id().cast_signed(), signal) };
        assert_eq!(sent, 0);
    }

    /// The rows of a query.
    pub fn query(&self, sql: &str) -> Vec<Row> {
        let output = Command::new(AGENTQUERY)
            .args(["query", "--json", "--connect"])
            .arg(&self.socket)
            .arg(sql)
            .output()
            .unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// One value.
    pub fn value(&self, sql: &str) -> Option<String> {
        self.query(sql).first().and_then(|row| row.values().next().cloned()).flatten()
    }

    /// Asks until the first value is the one that is wanted, for a while; then says what it was instead.
    pub fn wait_for(&self, sql: &str, wanted: &str) {
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            let got = self.value(sql);
            if got.as_deref() == Some(wanted) {
                return;
            }
            if Instant::now() >= deadline {
                let agents = self.query("SELECT * FROM ai_agents");
                let running = self.query("SELECT * FROM agent_processes WHERE state = 'running'");
                let health = self.query("SELECT * FROM agent_collector");
                let connections = self.query("SELECT * FROM agent_connections");
                panic!("{agents:?}\n{running:?}\n{connections:?}\n{health:?}\n{sql}: {got:?}, not {wanted:?}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The end of a process, which is killed when it does not come in time: a test fails, and is not waited for.
pub fn ended(child: &mut Child, within: Duration) -> ExitStatus {
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            panic!("process {} did not end within {within:?}", child.id());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One recorder for all tests: they tell their rows by the instance.
pub fn recorder() -> &'static Recorder {
    recorder_with(|| Recorder::start(&["--syscalls", "always"]))
}

/// The same, started in a way of the file's own.
pub fn recorder_with(start: impl FnOnce() -> Recorder + Send + 'static) -> &'static Recorder {
    static RECORDER: OnceLock<Recorder> = OnceLock::new();
    RECORDER.get_or_init(|| {
        // It dies with the thread that started it, which therefore must not be a test's.
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            sender.send(start()).unwrap();
            loop {
                std::thread::park();
            }
        });
        receiver.recv().unwrap()
    })
}

/// A shell that is, by its path, Claude Code: what runs below it is an agent's doing, and the test's choice.
pub struct Agent {
    folder: tempfile::TempDir,
    shell: PathBuf,
}

/// One run of an [`Agent`].
pub struct Run {
    pub pid: u32,
}

impl Agent {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("node_modules/@anthropic-ai/claude-code");
        std::fs::create_dir_all(package.join("bin")).unwrap();
        std::fs::create_dir_all(folder.path().join("work")).unwrap();
        std::fs::write(package.join("package.json"), r#"{"version": "1.2.3"}"#).unwrap();
        let shell = package.join("bin/claude.exe");
        // By another program: a copy open for writing here would be inherited by what another test starts at that
        // moment, and could not be run (ETXTBSY).
        assert!(Command::new("cp").arg("/bin/bash").arg(&shell).status().unwrap().success());
        Self { folder, shell }
    }

    /// Where it works.
    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work").canonicalize().unwrap()
    }

    /// Starts a shell script as the agent.
    pub fn start(&self, script: &str) -> Child {
        Command::new(&self.shell).args(["-c", script]).current_dir(self.work()).stdin(Stdio::null()).spawn().unwrap()
    }

    /// Its program.
    pub fn shell(&self) -> &Path {
        &self.shell
    }

    /// Runs a shell script as the agent, to its end.
    pub fn run(&self, script: &str) -> Run {
        self.run_with(script, &[])
    }

    /// What it is, by its path.
    pub fn program(&self) -> &Path {
        &self.shell
    }

    pub fn run_with(&self, script: &str, arguments: &[&str]) -> Run {
        self.run_by(Command::new(&self.shell), script, arguments)
    }

    /// Runs it as another user.
    pub fn run_as(&self, uid: u32, script: &str) -> Run {
        let id = uid.to_string();
        for path in [self.folder.path(), &self.work()] {
            assert!(Command::new("chown").arg(&id).arg(path).status().unwrap().success());
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(&self.shell);
        self.run_by(command, script, &[])
    }

    fn run_by(&self, mut command: Command, script: &str, arguments: &[&str]) -> Run {
        let mut child = command
            .args(["-c", script, "agent"])
            .args(arguments)
            .current_dir(self.work())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        let status = ended(&mut child, Duration::from_secs(180));
        assert!(status.success(), "{script}: {status}");
        Run { pid }
    }
}

impl Run {
    /// Waits until the recorder has the end of it.
    pub fn recorded(self, recorder: &Recorder) -> Self {
        recorder.wait_for(&format!("SELECT count(*) FROM ai_agents WHERE pid = {} AND processes = 0", self.pid), "1");
        // Files that ended without a close are found a moment after their process.
        recorder.wait_for(&format!("SELECT count(*) FROM agent_open_files WHERE agent_id = {}", self.id()), "0");
        self
    }

    /// SQL for this instance's `agent_id`.
    pub fn id(&self) -> String {
        format!("(SELECT agent_id FROM ai_agents WHERE pid = {} ORDER BY time_ns DESC LIMIT 1)", self.pid)
    }
}

/// A BPF file system of one's own.
pub struct BpfFs(tempfile::TempDir);

impl BpfFs {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        assert!(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(folder.path()).status().unwrap().success());
        Self(folder)
    }

    pub fn pins(&self) -> PathBuf {
        self.0.path().join("agentquery")
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        // The last of what is pinned in it ends with it.
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// Waits until it is so, for a while.
pub fn wait_until(what: &str, seconds: u64, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !holds() {
        assert!(Instant::now() < deadline, "not within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
