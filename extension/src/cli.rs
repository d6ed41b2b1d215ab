//! The command line.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use agentquery::osquery::client::Client;
use agentquery::osquery::{self, Source, Stop};
use agentquery::record::Store;
use agentquery::recorder::{Recorder, Settings};
use agentquery::shell::format::{Mode, Writer};
use agentquery::shell::{Backend, Engine, Error, Limits, describe, repl};
use agentquery::{demo, doctor, log};
use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing::level_filters::LevelFilter;

/// Time that the recorder gets to end when the program is told to.
const GOODBYE: Duration = Duration::from_secs(2);

/// SQL for what AI coding agents do on this machine.
///
/// Shows which agents run, what they start, what they connect to and which files they touch. Recording needs root.
#[derive(Debug, Parser)]
#[command(name = "agentquery", version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    recording: Recording,
    #[command(subcommand)]
    command: Command,
}

/// How to record.
#[derive(Debug, Args)]
struct Recording {
    /// Directory with further signatures of agents; may be given several times
    #[arg(long, global = true, value_name = "DIR")]
    signatures: Vec<PathBuf>,
    /// When to hear system calls: from the first program that may be an agent on, or always
    #[arg(long, global = true, value_name = "WHEN", default_value = "on_demand")]
    syscalls: Syscalls,
    /// How much to log to stderr: off, error, warn, info, debug or trace [default: `$AGENTQUERY_LOG`, else warn]
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<LevelFilter>,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Syscalls {
    OnDemand,
    Always,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one query and end
    #[command(after_help = "Example: agentquery query \"SELECT agent, username, project FROM ai_agents\"")]
    Query {
        /// One or more statements
        sql: String,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        connect: Connect,
    },
    /// Ask interactively, recording meanwhile; .help lists the shell's commands
    Shell {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        connect: Connect,
    },
    /// Record, and answer queries on a socket as osqueryd does
    Run {
        /// Socket to serve [default: /run/agentquery/agentquery.em as root, else in the user's runtime directory]
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
    },
    /// Say what works on this machine, what does not, and how to mend it
    Doctor {
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Run a harmless make-believe agent and show its rows in every table
    Demo {
        #[command(flatten)]
        connect: Connect,
    },
    /// The agent of the demonstration
    #[command(name = demo::AGENT, hide = true)]
    MakeBelieve,
    /// Serve the tables to osquery; what a program named *.ext does
    Extension(Extension),
}

/// What osquery passes to an extension.
#[derive(Debug, Args)]
struct Extension {
    /// Socket of osquery's extension manager
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Seconds to wait for the manager
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    timeout: u64,
    /// Seconds between two looks at the manager
    #[arg(long, value_name = "SECONDS", default_value_t = 3)]
    interval: u64,
    /// Log more
    #[arg(long)]
    verbose: bool,
}

/// The command line of `agentquery.ext`.
#[derive(Debug, Parser)]
#[command(name = "agentquery.ext", version)]
struct ExtensionCli {
    #[command(flatten)]
    recording: Recording,
    #[command(flatten)]
    extension: Extension,
}

/// How to write the result; a table when nothing is said.
#[derive(Debug, Args)]
#[group(multiple = false)]
#[allow(clippy::struct_excessive_bools)] // exclusive flags
struct Output {
    /// Write JSON; all values are text
    #[arg(long)]
    json: bool,
    /// Write comma-separated values
    #[arg(long)]
    csv: bool,
    /// Write a line a value
    #[arg(long)]
    line: bool,
    /// Write a Markdown table
    #[arg(long)]
    markdown: bool,
}

impl Output {
    fn mode(&self) -> Mode {
        match self {
            Self { json: true, .. } => Mode::Json,
            Self { csv: true, .. } => Mode::Csv,
            Self { line: true, .. } => Mode::Line,
            Self { markdown: true, .. } => Mode::Markdown,
            _ => Mode::Pretty,
        }
    }
}

#[derive(Debug, Args)]
struct Connect {
    /// Ask the server on this socket (agentquery run, or osqueryd) in place of recording
    #[arg(long, value_name = "SOCKET")]
    connect: Option<PathBuf>,
}

impl Recording {
    fn start(&self) -> anyhow::Result<Recorder> {
        Ok(Recorder::start(&self.settings())?)
    }

    #[allow(clippy::needless_update)] // what has no option here stays as it is
    fn settings(&self) -> Settings {
        Settings {
            syscalls_always: self.syscalls == Syscalls::Always,
            signature_dirs: self.signatures.clone(),
            ..Settings::default()
        }
    }
}

/// The program.
pub fn main() -> ExitCode {
    match run(std::env::args_os().collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agentquery: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether osquery started the program: it takes for extensions only what is named so.
fn is_extension(arguments: &[OsString]) -> bool {
    arguments.first().is_some_and(|name| Path::new(name).extension().is_some_and(|extension| extension == "ext"))
}

fn run(arguments: Vec<OsString>) -> anyhow::Result<()> {
    let (recording, command) = if is_extension(&arguments) {
        let ExtensionCli { recording, extension } = ExtensionCli::parse_from(arguments);
        (recording, Command::Extension(extension))
    } else {
        let Cli { recording, command } = Cli::parse_from(arguments);
        (recording, command)
    };
    let verbose = matches!(&command, Command::Extension(extension) if extension.verbose);
    let _log = log::start(recording.log_level, if verbose { LevelFilter::INFO } else { LevelFilter::WARN });
    match command {
        Command::Query { sql, output, connect } => with_backend(&recording, &connect, |backend| {
            let result = backend.run(&sql, &mut Writer::new(io::stdout().lock(), output.mode()));
            unless_reader_left(result).map_err(|error| anyhow::Error::msg(describe(&error, &sql)))
        }),
        Command::Shell { output, connect } => with_backend(&recording, &connect, |backend| {
            let result = repl::start(backend, output.mode());
            Ok(unless_reader_left(result.map_err(Error::Write))?)
        }),
        Command::Run { socket } => serve(&recording, socket),
        Command::Doctor { json } => Ok(doctor::run(&recording.signatures, json)?),
        Command::Demo { connect } => Ok(demo::run(connect.connect)?),
        Command::MakeBelieve => Ok(demo::act()?),
        Command::Extension(extension) => extend(recording.settings(), &extension),
    }
}

/// A reader that has seen enough, such as `head`, is no error.
fn unless_reader_left(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

fn with_backend(
    recording: &Recording,
    connect: &Connect,
    ask: impl FnOnce(&mut dyn Backend) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if let Some(socket) = &connect.connect {
        return ask(&mut Client::new(socket));
    }
    let recorder = recording.start()?;
    ask(&mut Engine::new(recorder.store(), Limits::default())?)
}

fn serve(recording: &Recording, socket: Option<PathBuf>) -> anyhow::Result<()> {
    let socket = socket.map_or_else(default_socket, Ok)?;
    let stop = Stop::default();
    stop.on_signals()?;
    let recorder = recording.start()?;
    let server = osquery::manager::serve(&socket, Source::of(recorder.store()))?;
    eprintln!("agentquery records and answers; ask with: agentquery query --connect {} SQL", server.path().display());
    stop.wait_for_it();
    Ok(())
}

fn default_socket() -> anyhow::Result<PathBuf> {
    // SAFETY: geteuid has no preconditions.
    let directory = if unsafe { libc::geteuid() } == 0 {
        PathBuf::from("/run/agentquery")
    } else {
        let directory =
            std::env::var_os("XDG_RUNTIME_DIR").context("$XDG_RUNTIME_DIR is not set; give --socket PATH")?;
        PathBuf::from(directory).join("agentquery")
    };
    std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
        .create(&directory)
        .with_context(|| format!("cannot make {}; give --socket PATH", directory.display()))?;
    Ok(directory.join("agentquery.em"))
}

fn extend(settings: Settings, extension: &Extension) -> anyhow::Result<()> {
    let stop = Stop::default();
    stop.on_signals()?;
    let source = Source::default();
    let ended = record_aside(settings, source.clone(), stop.clone())?;
    let options = osquery::extension::Options {
        socket: extension.socket.clone(),
        timeout: Duration::from_secs(extension.timeout),
        interval: Duration::from_secs(extension.interval.max(1)),
    };
    let result = osquery::extension::run(&options, &source, &stop);
    stop.request();
    // A recorder that hangs in the kernel must not keep osquery waiting.
    let _ = ended.recv_timeout(GOODBYE);
    Ok(result?)
}

/// Records on a thread of its own, for osquery gives an extension three seconds to register.
fn record_aside(settings: Settings, source: Source, stop: Stop) -> io::Result<std::sync::mpsc::Receiver<()>> {
    let (end, ended) = std::sync::mpsc::channel();
    std::thread::Builder::new().name("recorder".into()).spawn(move || {
        // Dropped, and so heard of, when this thread ends in whatever way.
        let _end: std::sync::mpsc::Sender<()> = end;
        match Recorder::start(&settings) {
            Ok(recorder) => {
                let store: Arc<Store> = recorder.store();
                source.set(Ok(store));
                stop.wait_for_it();
            }
            Err(error) => {
                tracing::error!(%error, "nothing is recorded");
                source.set(Err(format!("agentquery records nothing: {error}")));
            }
        }
    })?;
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
        ExtensionCli::command().debug_assert();
    }

    #[test]
    fn osquerys_command_line() {
        let line = ["/opt/agentquery.ext", "--verbose", "--socket", "/var/osquery/osquery.em", "--timeout", "5"];
        let arguments: Vec<OsString> = line.iter().map(Into::into).collect();
        assert!(is_extension(&arguments));
        let cli = ExtensionCli::try_parse_from(arguments).unwrap();
        assert_eq!((cli.extension.timeout, cli.extension.interval, cli.extension.verbose), (5, 3, true));
        assert!(!is_extension(&["/opt/agentquery".into()]));
    }

    #[test]
    fn one_output_at_most() {
        assert!(Cli::try_parse_from(["agentquery", "query", "SELECT 1", "--json", "--csv"]).is_err());
        let cli = Cli::try_parse_from(["agentquery", "query", "SELECT 1", "--csv", "--syscalls", "always"]).unwrap();
        assert_eq!(cli.recording.syscalls, Syscalls::Always);
        assert!(matches!(cli.command, Command::Query { output, .. } if output.mode() == Mode::Csv));
    }
}
