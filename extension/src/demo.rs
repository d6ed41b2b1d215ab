//! A harmless make-believe agent, and a tour through the tables that it fills.
//!
//! The agent is a copy of this program below a directory of its own, so that the signature `agentquery-demo` recognises
//! it: its rows carry that name and are nobody's else. It writes files in a temporary directory, starts a shell or two and
//! connects to itself; nothing leaves the machine, and the directory goes at the end. Whoever already records is asked;
//! root without a recorder gets one for as long as the tour takes. That one is another process: a recorder does not see
//! what itself starts.

use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::doctor;
use crate::lock::Place;
use crate::osquery::Stop;
use crate::osquery::client::Client;
use crate::shell::format::{Mode, Writer};
use crate::shell::{self, Backend as _};
use crate::{os, places};

/// The hidden command that makes this program the agent.
pub const AGENT: &str = "make-believe";

/// Its path below the temporary directory, by which the signature knows it.
const PROGRAM: &str = if cfg!(windows) {
    "agentquery-make-believe/bin/agentquery-demo.exe"
} else {
    "agentquery-make-believe/bin/agentquery-demo"
};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(50);

/// Why there is no demonstration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody records, and this user may not.
    #[error(
        "nobody records here, and what the demo shows needs root: start a recorder with `sudo agentquery run`, or try `sudo agentquery demo` (on Windows as administrator, without sudo)"
    )]
    NobodyRecords,
    /// The recorder ended.
    #[error("the recorder does not start: {0}")]
    Recorder(String),
    /// The recorder gives no answer.
    #[error("the recorder does not answer: {0}")]
    Ask(#[from] shell::Error),
    /// The agent ran and has no row.
    #[error("the recorder does not see the make-believe agent; agentquery doctor says what works here")]
    Unseen,
    /// The agent cannot be run.
    #[error("{what}: {source}; set TMPDIR to a directory where programs can run")]
    Agent {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A signal came.
    #[error("stopped")]
    Stopped,
    /// Other input or output.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Runs the agent and asks for its rows: of the recorder on that socket, or on the machine's own.
///
/// # Errors
/// When nothing records, or the agent cannot be run.
pub fn run(connect: Option<PathBuf>, place: &Place) -> Result<(), Error> {
    let stop = Stop::default();
    stop.on_signals()?;
    let folder = tempfile::Builder::new().prefix("agentquery-demo-").tempdir()?;
    let result = show(&stop, folder.path(), connect, place);
    folder.close()?;
    match result {
        // Whoever reads the tour has seen enough.
        Err(Error::Ask(shell::Error::Write(error)) | Error::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(())
        }
        result => result,
    }
}

fn show(stop: &Stop, folder: &Path, connect: Option<PathBuf>, place: &Place) -> Result<(), Error> {
    let mut own = None;
    let socket = match connect.or_else(|| doctor::recorder(place)) {
        Some(socket) => socket,
        None if !os::is_administrator() => return Err(Error::NobodyRecords),
        None => own.insert(Recorder::start(stop, folder)?).socket.clone(),
    };
    let mut asked = Asked { client: Client::new(&socket), stop };
    let project = make_project(folder).map_err(|source| Error::Agent { what: "the project cannot be made", source })?;
    let mut agent = Agent::start(folder, &project)?;
    let pid = agent.child.id();
    let mut out = io::stdout();
    writeln!(
        out,
        "A make-believe agent runs (pid {pid}, agent = 'agentquery-demo'). It works in {}.",
        project.display()
    )?;

    // It waits until it is seen: then nothing that it does is missed.
    let id = asked.wait_for(&format!("SELECT agent_id FROM ai_agents WHERE pid = {pid} AND processes > 0"))?;
    let id: i64 = id.parse().map_err(|_| Error::Unseen)?;
    agent.work()?;
    for (table, condition) in [("agent_connections", "1"), ("agent_file_ops", "operation = 'delete'")] {
        asked.wait_for(&format!("SELECT agent_id FROM {table} WHERE agent_id = {id} AND {condition} LIMIT 1"))?;
    }
    for (says, sql) in tour(id, &project) {
        writeln!(out, "\n{says}\n\nagentquery> {sql}")?;
        asked.client.run(&sql, &mut Writer::new(&mut out, Mode::Pretty))?;
    }
    drop(agent);
    let rows = if own.is_some() { "its rows go with this tour's recorder" } else { "its rows stay: agentquery shell" };
    writeln!(out, "\nThe agent has ended. Its files are deleted, and {rows}.")?;
    Ok(())
}

/// What to look at, and the query for it. Every table is in it.
fn tour(id: i64, project: &Path) -> Vec<(&'static str, String)> {
    let project = project.display().to_string().replace('\'', "''");
    let path = format!("replace(path, '{project}/', '') AS path");
    vec![
        (
            "Which agents run? This one, in that directory, for that user:",
            format!(
                "SELECT agent, pid, username, cwd, processes_total AS processes, files_created AS created, \
                 connections_total AS connections FROM ai_agents WHERE agent_id = {id};"
            ),
        ),
        (
            "What did it start, and how did that end?",
            format!(
                "SELECT pid, parent, name, cmdline, state, exit_code FROM agent_processes WHERE agent_id = {id} ORDER BY eid;"
            ),
        ),
        (
            "What did it connect to? Only to itself:",
            format!("SELECT name, remote_address, remote_port, state FROM agent_connections WHERE agent_id = {id};"),
        ),
        (
            "And in total, over all that this machine knows?",
            "SELECT coalesce(remote_host, remote_address) AS peer, endpoint_type, connections, failures FROM agent_endpoints \
             WHERE agent = 'agentquery-demo';"
                .to_owned(),
        ),
        (
            "Which files did it touch?",
            format!(
                "SELECT operation, name, {path}, bytes_written FROM agent_file_ops WHERE agent_id = {id} AND in_project = 1 \
                 ORDER BY eid;"
            ),
        ),
        (
            "All of that in the order in which it happened, but for the files?",
            format!(
                "SELECT event_type, pid, summary FROM agent_events WHERE agent_id = {id} AND event_type NOT LIKE 'file%' \
                 ORDER BY eid;"
            ),
        ),
        (
            "Which of those that it made are open right now?",
            format!(
                "SELECT pid, operation, {path}, bytes_written FROM agent_open_files WHERE agent_id = {id} \
                 AND operation = 'create';"
            ),
        ),
        (
            "By what is it recognised?",
            "SELECT agent, display_name, source, status FROM agent_signatures WHERE agent = 'agentquery-demo';"
                .to_owned(),
        ),
        (
            "Was anything lost on the way?",
            "SELECT event, seen, submitted, ring_full + oversized + throttled AS lost, received FROM agent_collector \
             WHERE event <> 'gap';"
                .to_owned(),
        ),
    ]
}

/// A recorder that is asked until it says what is waited for.
struct Asked<'a> {
    client: Client,
    stop: &'a Stop,
}

impl Asked<'_> {
    fn wait_for(&mut self, sql: &str) -> Result<String, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rows = self.client.query(sql).map_err(|error| shell::Error::Remote(error.to_string()))?;
            if let Some(value) = rows.into_iter().next().and_then(|row| row.into_values().next()) {
                return Ok(value);
            }
            if Instant::now() >= deadline {
                return Err(Error::Unseen);
            }
            if self.stop.wait(STEP) {
                return Err(Error::Stopped);
            }
        }
    }
}

/// `agentquery run`, for the time of the tour.
struct Recorder {
    child: Child,
    socket: PathBuf,
}

impl Recorder {
    fn start(stop: &Stop, folder: &Path) -> Result<Self, Error> {
        let state = folder.join("state");
        let socket = places::socket_of(&state);
        let mut command = Command::new(std::env::current_exe()?);
        // A state directory of its own, too: nothing of the tour is left.
        command.arg("run").arg("--socket").arg(&socket).arg("--state-dir").arg(&state);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        #[cfg(target_os = "linux")]
        let end_with_us = || {
            // SAFETY: changes this process only.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) };
            Ok(())
        };
        // SAFETY: between fork and exec there is only this system call.
        #[cfg(target_os = "linux")]
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut command, end_with_us)
        };
        let mut recorder = Self { child: command.spawn()?, socket };
        let deadline = Instant::now() + PATIENCE;
        while !Client::new(&recorder.socket).with_timeout(PATIENCE).answers() {
            if recorder.child.try_wait()?.is_some() || Instant::now() >= deadline {
                let _ = recorder.child.kill();
                let mut said = String::new();
                recorder.child.stderr.take().map(|mut errors| errors.read_to_string(&mut said)).transpose()?;
                let said = said.trim().trim_start_matches("agentquery: ").to_owned();
                return Err(Error::Recorder(said));
            }
            if stop.wait(STEP) {
                return Err(Error::Stopped);
            }
        }
        Ok(recorder)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = os::ask_to_end(&mut self.child);
        let _ = self.child.wait();
    }
}

/// The running make-believe agent.
struct Agent {
    child: Child,
}

impl Agent {
    fn start(folder: &Path, project: &Path) -> Result<Self, Error> {
        let failed = |what| move |source| Error::Agent { what, source };
        let program = folder.join(PROGRAM);
        let copy = || -> io::Result<()> {
            std::fs::create_dir_all(program.parent().unwrap_or(folder))?;
            std::fs::copy(std::env::current_exe()?, &program).map(drop)
        };
        copy().map_err(failed("the make-believe agent cannot be copied"))?;
        let mut command = Command::new(&program);
        command.arg(AGENT).current_dir(project);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // A name without the directory, which is of no interest.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::arg0(&mut command, "agentquery-demo");
        Ok(Self { child: command.spawn().map_err(failed("the make-believe agent cannot be run"))? })
    }

    /// Tells it to do its work, and waits until that is done.
    fn work(&mut self) -> Result<(), Error> {
        let failed = || Error::Io(io::Error::other("the make-believe agent ended too early"));
        self.child.stdin.as_mut().ok_or_else(failed)?.write_all(b"go\n")?;
        let mut said = String::new();
        BufReader::new(self.child.stdout.as_mut().ok_or_else(failed)?).read_line(&mut said)?;
        if said.trim() == "done" { Ok(()) } else { Err(failed()) }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Its input ends, and with it the agent.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// A directory that looks like a repository.
fn make_project(folder: &Path) -> io::Result<PathBuf> {
    let project = os::real_path(folder)?.join("project");
    std::fs::create_dir_all(project.join(".git"))?;
    std::fs::write(project.join("README.md"), "# A project that is none\n")?;
    Ok(project)
}

/// What the agent does in its working directory: waits for a line, works, says so, and waits for the end of its input.
///
/// # Errors
/// When the directory cannot be written to.
pub fn act() -> io::Result<()> {
    let mut line = String::new();
    if io::stdin().read_line(&mut line)? == 0 {
        return Ok(());
    }
    std::fs::read("README.md")?;
    std::fs::create_dir("src")?;
    std::fs::write("src/draft.txt", "Nothing here is real.\n")?;
    std::fs::rename("src/draft.txt", "src/text.txt")?;
    let mut notes = std::fs::File::create("notes.txt")?;
    notes.write_all(b"This file stays open while you look.\n")?;
    let (shell, option, scripts) = if cfg!(windows) {
        ("cmd", "/C", ["dir src", "type nothing.txt"])
    } else {
        ("sh", "-c", ["ls src", "test -e nothing.txt"])
    };
    for script in scripts {
        // A machine without a shell has fewer rows.
        let _ = Command::new(shell).args([option, script]).stdin(Stdio::null()).stdout(Stdio::null()).status();
    }
    let talk = talk_to_oneself();
    std::fs::write("scratch.txt", "for a moment")?;
    std::fs::remove_file("scratch.txt")?;
    writeln!(io::stdout(), "done")?;
    line.clear();
    io::stdin().read_line(&mut line)?;
    drop((talk, notes));
    Ok(())
}

/// Both ends of a connection over loopback.
fn talk_to_oneself() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut asking = TcpStream::connect(listener.local_addr()?)?;
    let (mut answering, _) = listener.accept()?;
    let mut heard = [0; 5];
    asking.write_all(b"hello")?;
    answering.read_exact(&mut heard)?;
    answering.write_all(&heard)?;
    asking.read_exact(&mut heard)?;
    Ok((asking, answering))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::identify::{Catalogue, ProcessFacts};
    use crate::shell::{Engine, Limits};
    use crate::tables::all;

    #[test]
    fn the_tour_shows_every_table_and_each_query_runs() {
        let tour = tour(1, Path::new("/tmp/it's/project"));
        for table in all() {
            let name = table.info().name;
            assert!(tour.iter().any(|(_, sql)| sql.contains(&format!("FROM {name} "))), "{name}");
        }
        let mut engine = Engine::new(fixture::store(10), crate::tables::Viewer::All, Limits::default()).unwrap();
        for (_, sql) in tour {
            engine
                .run(&sql, &mut Writer::new(Vec::new(), Mode::Pretty))
                .unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }

    #[test]
    fn the_agent_is_known_as_what_it_is() {
        let folder = if cfg!(windows) { r"C:\Temp\agentquery-demo-x\" } else { "/tmp/agentquery-demo-x/" };
        let path = format!("{folder}{PROGRAM}");
        let argv = ["agentquery-demo".to_owned(), AGENT.to_owned()];
        let facts = ProcessFacts { path: &path, exec_path: &path, argv: &argv, script: None, parent_name: None };
        assert_eq!(&*Catalogue::builtin().identify(&facts).unwrap().signature.name, "agentquery-demo");
    }
}
