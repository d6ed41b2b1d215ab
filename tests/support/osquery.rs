//! osquery's core, played by its own Python classes (tests/manager.py).

#![allow(dead_code)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

/// The folder of the tests.
pub fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests")
}

/// What a program printed that went well.
pub fn text(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// tests/manager.py, with these arguments.
pub fn python(arguments: &[&str]) -> Command {
    script("manager.py", arguments)
}

/// A Python script of the tests, with these arguments.
pub fn script(name: &str, arguments: &[&str]) -> Command {
    static PYTHON: OnceLock<String> = OnceLock::new();
    let python = PYTHON.get_or_init(|| text(Command::new(tests().join("python-venv.sh")).output().unwrap()));
    let mut command = Command::new(python.trim());
    command.arg(tests().join(name)).args(arguments);
    command
}

/// The extension as osquery starts it, with a folder of its own, in which the core's socket is.
#[cfg(target_os = "linux")]
pub fn extension(folder: &Path) -> Command {
    use std::os::unix::process::CommandExt as _;

    let program = folder.join("agentquery.ext");
    if !program.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_agentquery"), &program).unwrap();
    }
    let mut command = Command::new(program);
    command.arg("--socket").arg(folder.join("osquery.em")).env("AGENTQUERY_STATE_DIR", folder.join("state"));
    command.args(["--timeout", "20", "--interval", "3", "--syscalls", "always"]).stdin(Stdio::null());
    let end_with_us = || {
        // SAFETY: changes this process only.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        Ok(())
    };
    // SAFETY: between fork and exec there is only this system call.
    unsafe { command.pre_exec(end_with_us) };
    command
}

/// A core on a socket, in a process of its own that can be killed.
pub struct Core {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Core {
    pub fn start(socket: &Path) -> Self {
        Self::serve("manager.py", &[socket])
    }

    /// One that keeps what osqueryd keeps, and runs scheduled queries.
    pub fn with_database(socket: &Path, database: &Path) -> Self {
        Self::serve("manager.py", &[socket, database])
    }

    /// One that also answers SQL (`tests/osquery_sql.py`).
    pub fn with_sql(socket: &Path) -> Self {
        Self::serve("osquery_sql.py", &[socket])
    }

    fn serve(name: &str, arguments: &[&Path]) -> Self {
        let arguments: Vec<_> = arguments.iter().map(|argument| argument.to_str().unwrap()).collect();
        let mut command = script(name, &[&["serve"], &arguments[..]].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (commands, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut core = Self { child, commands, answers };
        core.answer().unwrap();
        core
    }

    fn answer(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        answer.get("error").map_or_else(|| Ok(answer["ok"].clone()), |error| Err(error.to_string()))
    }

    /// Tells it something without waiting for what it says.
    pub fn begin(&mut self, command: &str, arguments: &Value) {
        writeln!(self.commands, "{}", json!([command, arguments])).unwrap();
    }

    /// What it says to that, or its error.
    pub fn try_tell(&mut self, command: &str, arguments: &Value) -> Result<Value, String> {
        self.begin(command, arguments);
        self.answer()
    }

    /// What it says to that.
    pub fn tell(&mut self, command: &str, arguments: &Value) -> Value {
        self.try_tell(command, arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    /// What it says to what was begun.
    pub fn end(&mut self) -> Result<Value, String> {
        self.answer()
    }

    /// Rows of a table with this in a column, as the core gets them.
    pub fn rows(&mut self, table: &str, column: &str, value: &str) -> Vec<Value> {
        self.tell("generate", &json!([table, {column: [[2, value]]}, null])).as_array().unwrap().clone()
    }

    pub fn uuid(&mut self) -> Option<i64> {
        self.tell("uuid", &json!([])).as_i64()
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child that was not waited for.
        unsafe { libc::kill(i32::try_from(self.child.id()).unwrap(), signal) };
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
