//! The unit for systemd: what it may is little, and with that it records like any other recorder.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

mod support;

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use support::{AGENTQUERY, Agent, Row, can_record, ended, skipped};

/// A directory with everything that is installed on a machine.
fn installed() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let etc = root.path().join("etc");
    std::fs::create_dir_all(&etc).unwrap();
    for (file, text) in [("group", "root:x:0:\n"), ("gshadow", "root:*::\n"), ("login.defs", "SYS_GID_MAX 999\n")] {
        std::fs::write(etc.join(file), text).unwrap();
    }
    let output = Command::new(AGENTQUERY).args(["install", "--root"]).arg(root.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    root
}

/// What systemd makes of the unit.
struct Service {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    run: PathBuf,
    pid: u32,
}

impl Service {
    /// `None` where there is no systemd to try.
    fn start(root: &Path, run: &Path) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/service.sh");
        let mut child = Command::new(script)
            .args([root, run])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, mut stdout) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let Ok(pid) = line.trim().parse() else {
            let status = child.wait().unwrap();
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            assert_eq!(status.code(), Some(77), "{line}{said}");
            skipped("the_unit_records_what_a_recorder_does", &said);
            return None;
        };
        Some(Self { child, stdin, stdout, run: run.to_owned(), pid })
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.run.join("log")).unwrap_or_default()
    }

    fn query(&self, sql: &str) -> Result<Vec<Row>, String> {
        let socket = self.run.join("agentquery/agentquery.em");
        let output =
            Command::new(AGENTQUERY).args(["query", "--json", "--connect"]).arg(socket).arg(sql).output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    }

    /// The only row, as soon as there is one.
    fn row(&self, sql: &str) -> Row {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let rows = self.query(sql);
            if let Ok([row]) = rows.as_deref() {
                return row.clone();
            }
            assert!(Instant::now() < deadline, "{sql}: {rows:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A line of its `/proc/PID/status`.
    fn status(&self, key: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned()
    }

    /// Stops it; what systemd says of its end.
    fn stop(mut self) -> String {
        drop(self.stdin.take());
        let mut result = String::new();
        self.stdout.read_line(&mut result).unwrap();
        assert!(ended(&mut self.child, Duration::from_secs(10)).success());
        result.trim().to_owned()
    }
}

/// A process that does not outlive a test that fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

/// What a program that runs may at most.
fn capabilities(unit: &str) -> u64 {
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let bit = |name: &str| match name {
        "CAP_DAC_READ_SEARCH" => 2,
        "CAP_SETGID" => 6,
        "CAP_SETUID" => 7,
        "CAP_SYS_PTRACE" => 19,
        "CAP_SYS_ADMIN" => 21,
        "CAP_SYS_NICE" => 23,
        "CAP_PERFMON" => 38,
        "CAP_BPF" => 39,
        other => panic!("{other} is not needed"),
    };
    line.split(' ').map(|name| 1 << bit(name)).sum()
}

#[test]
fn the_unit_records_what_a_recorder_does() {
    if !can_record("the_unit_records_what_a_recorder_does") {
        return;
    }
    let (root, run) = (installed(), tempfile::tempdir().unwrap());
    let Some(service) = Service::start(root.path(), run.path()) else { return };
    service.row("SELECT 1");

    // It is confined as the unit says.
    let unit = std::fs::read_to_string(root.path().join("etc/systemd/system/agentquery.service")).unwrap();
    let own = u64::from_str_radix(&service.status("CapBnd:"), 16).unwrap();
    assert_eq!(own & !capabilities(&unit), 0, "{own:x}");
    assert_eq!((service.status("NoNewPrivs:").as_str(), service.status("Seccomp:").as_str()), ("1", "2"));
    let inside = |path: &str| format!("/proc/{}/root/{path}", service.pid);
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/mnt")).unwrap();
    assert_ne!(namespace(&service.pid.to_string()), namespace("self"));
    assert_eq!(std::fs::read_dir(inside("root")).map_or(0, Iterator::count), 0, "homes are hidden");
    // What is to outlive it does.
    assert!(Path::new(&inside("sys/fs/bpf/agentquery")).read_dir().unwrap().next().is_some(), "{}", service.log());

    // An agent below /tmp, of which the unit has one of its own.
    let agent = Agent::new();
    let work = agent.work();
    std::fs::create_dir_all(work.join(".git")).unwrap();
    std::fs::create_dir(work.join("real")).unwrap();
    std::os::unix::fs::symlink("real", work.join("link")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Until then system calls are not heard.
    let script = format!(
        "until [ -e go ]; do sleep 0.02; done; mkdir link/made; echo text > link/file; exec 3<>/dev/tcp/127.0.0.1/{port}; \
         getent hosts localhost; until [ -e stop ]; do sleep 0.02; done"
    );
    let mut child = Killed(agent.start(&script));
    let pid = child.0.id();
    let row = service.row(&format!("SELECT agent, version, project, agent_id FROM ai_agents WHERE pid = {pid}"));
    let cell = |row: &Row, name: &str| row[name].clone().unwrap_or_default();
    assert_eq!((cell(&row, "agent"), cell(&row, "version")), ("claude-code".into(), "1.2.3".into()));
    assert_eq!(cell(&row, "project"), work.to_string_lossy());
    let id = cell(&row, "agent_id");
    std::fs::write(work.join("go"), "").unwrap();
    let (made, file) = (work.join("real/made"), work.join("real/file"));
    let operation = |what: &str, path: &Path| {
        service.row(&format!(
            "SELECT path_source, in_project, category FROM agent_file_ops WHERE agent_id = {id} AND operation = '{what}' \
             AND path = '{}'",
            path.display()
        ))
    };
    let row = operation("mkdir", &made);
    assert_eq!((cell(&row, "path_source"), cell(&row, "in_project")), ("resolved".into(), "1".into()));
    assert_eq!(cell(&operation("create", &file), "path_source"), "kernel");
    service.row(&format!("SELECT 1 FROM agent_connections WHERE agent_id = {id} AND remote_port = {port}"));
    let getent = format!("SELECT path FROM agent_processes WHERE agent_id = {id} AND name = 'getent'");
    assert!(cell(&service.row(&getent), "path").ends_with("/bin/getent"));
    // The C library is watched as well as it can be on this kernel.
    let told = service.row("SELECT degradation_reason FROM agent_collector WHERE event = 'name'");
    let told = cell(&told, "degradation_reason");
    assert!(!told.contains("ermitted") && !told.contains("ermission"), "{told}");
    std::fs::write(work.join("stop"), "").unwrap();
    assert!(ended(&mut child.0, Duration::from_secs(20)).success());
    service.row(&format!("SELECT 1 FROM ai_agents WHERE agent_id = {id} AND state = 'exited' AND exit_code = 0"));

    let log = service.log();
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
    assert_eq!(service.stop(), "success");
    // The history is where the next one finds it.
    assert!(root.path().join("var/lib/agentquery/history.duckdb").exists());
}

#[test]
fn systemd_finds_nothing_wrong_and_little_exposed() {
    const TEST: &str = "systemd_finds_nothing_wrong_and_little_exposed";
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return skipped(TEST, "systemd is not installed");
    }
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/agentquery.service");
    // A tenth of the threshold is a point of the scale.
    let arguments = ["security", "--offline=true", "--threshold=30", "--no-pager"];
    let output = Command::new("systemd-analyze").args(arguments).arg(&unit).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    if !can_record(TEST) {
        return;
    }
    let root = installed();
    let script = "mount --make-rprivate / && mount --bind \"$0/usr/local\" /usr/local && \
                  exec systemd-analyze verify \"$0/etc/systemd/system/agentquery.service\"";
    let output = Command::new("unshare").args(["--mount", "sh", "-c", script]).arg(root.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
