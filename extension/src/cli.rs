//! The command line.

mod pack;
#[cfg(windows)]
mod service;
mod settings;
mod signatures;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use agentquery::collect::{self, Choice, Syscalls, Wanted};
use agentquery::config::{Config, NONE};
use agentquery::front::{self, Front};
use agentquery::history::{self, Retention};
use agentquery::lock::Place;
use agentquery::osquery::client::Client;
use agentquery::osquery::{self, Stop};
use agentquery::recorder::Settings;
use agentquery::sensor::{Sensor, Standby};
use agentquery::shell::format::{Mode, Writer};
use agentquery::shell::{Backend, Error, describe, repl};
use agentquery::{demo, doctor, export, install, log, packs, places};
use anyhow::{Context as _, anyhow};
use clap::{ArgMatches, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use signatures::SignaturesCommand;
use tracing::level_filters::LevelFilter;

/// The history's name below it.
const HISTORY: &str = "history.duckdb";

/// Where programs are pinned.
const PINS: &str = "/sys/fs/bpf/agentquery";

/// SQL for what AI coding agents do on this machine.
///
/// Shows which agents run, what they start, what they connect to and which files they touch. Root records all of it; others
/// what can be seen of their own processes.
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
    /// File with settings [default: /etc/agentquery/config.yaml, when there is one]
    #[arg(long, global = true, value_name = "FILE", env = "AGENTQUERY_CONFIG")]
    config: Option<PathBuf>,
    /// Directory of the recorder's lock and state [default: /var/lib/agentquery; of other users than root
    /// `$XDG_STATE_HOME/agentquery`]
    #[arg(long, global = true, value_name = "DIR", env = "AGENTQUERY_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// File of the history, or none to hold finished rows in memory alone [default: history.duckdb in the directory of
    /// --state-dir]. query, shell and export answer from that file, and record nothing
    #[arg(long, global = true, value_name = "PATH", env = "AGENTQUERY_DATABASE")]
    database: Option<PathBuf>,
    /// Folder in a BPF file system in which the programs of a service stay while none runs, so that the next one misses
    /// nothing; or none [default: /sys/fs/bpf/agentquery, when there is such a file system and no other --state-dir]
    #[arg(long, global = true, value_name = "DIR", env = "AGENTQUERY_PIN")]
    pin: Option<PathBuf>,
    /// Directory with further signatures of agents; may be given several times
    #[arg(long, global = true, value_name = "DIR")]
    signatures: Vec<PathBuf>,
    /// What to record with: the best that there is (the default), the system's events (on Linux eBPF), or polling, which needs
    /// no rights and sees less
    #[arg(long, global = true, value_name = "WHAT")]
    collector: Option<Collector>,
    /// When to hear system calls: from the first program that may be an agent on (the default), or always
    #[arg(long, global = true, value_name = "WHEN")]
    syscalls: Option<When>,
    /// How much to log to stderr: off, error, warn, info, debug or trace [default: `$AGENTQUERY_LOG`, else warn]
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<LevelFilter>,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum When {
    OnDemand,
    Always,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Collector {
    Auto,
    #[value(alias = "events")]
    Ebpf,
    Polling,
}

impl From<Collector> for Choice {
    fn from(collector: Collector) -> Self {
        match collector {
            Collector::Auto => Self::Auto,
            Collector::Ebpf => Self::Ebpf,
            Collector::Polling => Self::Polling,
        }
    }
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say "ok", or what is wrong and where
    Check,
    /// Show every setting, and where it comes from
    Show,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    Parquet,
    Csv,
    /// An object a line
    Json,
}

impl From<Format> for export::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Parquet => Self::Parquet,
            Format::Csv => Self::Csv,
            Format::Json => Self::Json,
        }
    }
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
    /// Ask interactively; .help lists the shell's commands
    Shell {
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        connect: Connect,
    },
    /// Write what was recorded to files that other engines read: Parquet, CSV or JSON
    #[command(after_help = "\
A TIME is how long ago (90m, 24h, 7d), a date (2026-11-20, from midnight UTC on), a time (2026-11-20T10:00:00Z) or UNIX \
seconds. The files are DIR/TABLE/day=YYYY-MM-DD/HOST.parquet; docs/export.md says what to do with them.

Example: agentquery export --since 7d --tables agent_file_ops --format csv files")]
    Export {
        /// Where to; files of an earlier export are added to
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// What happened from then on
        #[arg(long, value_name = "TIME", default_value = "24h")]
        since: String,
        /// And before then [default: now]
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// Which tables, separated by commas [default: all that have a history]
        #[arg(long, value_name = "TABLES", value_delimiter = ',')]
        tables: Vec<String>,
        /// What to write
        #[arg(long, value_name = "FORMAT", default_value = "parquet")]
        format: Format,
        /// Name of this machine in the rows [default: its host name]
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
        #[command(flatten)]
        connect: Connect,
    },
    /// Record, and answer on a socket; while another process records, be ready to take over
    Run {
        /// Socket to serve [default: /run/agentquery/agentquery.em, or in the directory of --state-dir; on Windows a pipe,
        /// \\.\pipe\agentquery.em]
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// The service manager has started it
        #[cfg(windows)]
        #[arg(long)]
        service: bool,
    },
    /// Check the configuration, or show the settings that hold
    #[command(subcommand)]
    Config(ConfigCommand),
    /// List the signatures of agents, check files of them, explain what a process would be taken for, or install a pack
    #[command(subcommand)]
    Signatures(SignaturesCommand),
    /// Say what works on this machine, what does not, and how to mend it
    Doctor {
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Put the program where osquery and systemd find it
    Install(Installing),
    /// Take away what install has put there; the history and changed settings stay
    Uninstall {
        #[command(flatten)]
        installing: Installing,
        /// Remove the history and the settings too
        #[arg(long)]
        purge: bool,
    },
    /// Run a harmless make-believe agent and show its rows in every table
    Demo {
        #[command(flatten)]
        connect: Connect,
    },
    /// The agent of the demonstration
    #[command(name = demo::AGENT, hide = true)]
    MakeBelieve,
    /// Write manual pages and completions of shells into a directory; what a package is made of
    #[command(hide = true)]
    Generate {
        /// Where to
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Serve the tables to osquery; what a program named *.ext does
    Extension(Extension),
}

/// Where an installation is made.
#[derive(Debug, Args)]
struct Installing {
    /// Directory to take for /
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Say each step, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// The files are a package's: what its scripts say
    #[arg(long, hide = true)]
    packaged: bool,
}

impl From<Installing> for install::Options {
    fn from(Installing { root, dry_run, packaged }: Installing) -> Self {
        Self { root, dry_run, packaged }
    }
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
    /// Ask the server on this socket (a recorder's, or osqueryd's) and no other
    #[arg(long, value_name = "SOCKET")]
    connect: Option<PathBuf>,
}

impl Recording {
    /// What is to be recorded and where. The command line goes before the file.
    fn settings(&self, config: Config, socket: Option<PathBuf>) -> (Settings, Place) {
        let retention = retention(&config);
        let own = places::state_of_user();
        // The file's settings are of the machine's recorder: another user keeps nothing there.
        let config =
            if own.is_none() { config } else { Config { state_dir: None, database: None, pin: None, ..config } };
        let given = self.state_dir.clone().or(config.state_dir);
        let beside = given.as_deref().map_or_else(places::socket, places::socket_of);
        let machine = config.socket.unwrap_or(beside);
        let state_dir = given.or_else(|| own.clone()).unwrap_or_else(places::state);
        let place = match own {
            None => Place { socket: socket.unwrap_or(machine), state_dir, machine: None },
            Some(_) => Place {
                socket: socket.unwrap_or_else(|| places::socket_of(&state_dir)),
                state_dir,
                machine: Some(machine),
            },
        };
        let syscalls = match self.syscalls {
            Some(When::OnDemand) => Syscalls::OnDemand,
            Some(When::Always) => Syscalls::Always,
            None => config.syscalls.unwrap_or_default(),
        };
        let collector = Wanted {
            choice: self.collector.map(Choice::from).or(config.collector).unwrap_or_default(),
            syscalls,
            interval: config.poll_interval_ms.map(|interval| Duration::from_millis(interval.into())),
        };
        let signature_dirs = [places::signatures()].into_iter().chain(config.signatures);
        let signature_dirs = signature_dirs.chain(self.signatures.iter().cloned()).collect();
        let database = self.database.clone().or(config.database);
        let database = database.unwrap_or_else(|| place.state_dir.join(HISTORY));
        let history = (database != Path::new(NONE)).then_some(history::Settings { path: database, retention });
        let usual = || place.state_dir == places::state() && collect::can_pin(Path::new(PINS));
        let pin = self.pin.clone().or(config.pin).or_else(|| usual().then(|| PINS.into()));
        // Without a history it is not known how far the last recorder came.
        let pins = pin.filter(|folder| folder != Path::new(NONE) && history.is_some());
        let packs = Some(place.state_dir.join(packs::DIRECTORY));
        (Settings { collector, signature_dirs, packs, history, pins, ..Settings::default() }, place)
    }

    /// The configuration, or the one without a file and what is wrong with the file.
    fn config_or_fault(&self) -> (Config, Option<String>) {
        match Config::load(self.config.as_deref()) {
            Ok(config) => (config, None),
            Err(error) => (Config::default(), Some(error.to_string())),
        }
    }

    /// The history that the command line names, for what only reads.
    fn named_file(&self) -> anyhow::Result<Option<Front>> {
        let Some(file) = self.database.as_deref().filter(|file| *file != Path::new(NONE)) else {
            return Ok(None);
        };
        let (_, place) = self.settings(Config::load(self.config.as_deref())?, None);
        Ok(Some(Front::of_file(file, &place)?))
    }

    fn sensor(&self, socket: Option<PathBuf>, standby: Standby) -> anyhow::Result<Sensor> {
        let config = Config::load(self.config.as_deref())?;
        let (mut settings, place) = self.settings(config, socket);
        if standby == Standby::Reluctant {
            settings.pins = None; // a shell leaves nothing behind
        }
        if standby == Standby::Ready {
            reload_on_hangup(&settings)?;
        }
        make_socket_dir(&place)?;
        Ok(Sensor::start(settings, place, standby)?)
    }
}

/// How much of the history is kept.
fn retention(config: &Config) -> Retention {
    let usual = Retention::default();
    Retention {
        seconds: config.retention_days.map_or(usual.seconds, |days| i64::from(days) * 24 * 3600),
        bytes: config.retention_bytes.unwrap_or(usual.bytes),
    }
}

/// SIGHUP has a service read its signatures and rules anew.
#[cfg(unix)]
fn reload_on_hangup(settings: &Settings) -> anyhow::Result<()> {
    signal_hook::flag::register(signal_hook::consts::SIGHUP, std::sync::Arc::clone(&settings.reload))?;
    Ok(())
}

/// A change of its parameters (`sc control agentquery paramchange`) has a service read its signatures and rules anew.
#[cfg(windows)]
#[allow(clippy::unnecessary_wraps)] // a signal's handler can fail
fn reload_on_hangup(settings: &Settings) -> anyhow::Result<()> {
    service::reload_by(&settings.reload);
    Ok(())
}

/// Pipes have no directory.
#[cfg(windows)]
#[allow(clippy::unnecessary_wraps)] // a directory can be refused
fn make_socket_dir(_: &Place) -> anyhow::Result<()> {
    Ok(())
}

/// The directory of the default socket. Others are made by whoever chooses them.
#[cfg(unix)]
fn make_socket_dir(place: &Place) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let socket = places::socket();
    let Some(directory) = socket.parent() else { return Ok(()) };
    if place.socket.parent() != Some(directory) || !agentquery::os::is_administrator() || directory.exists() {
        return Ok(());
    }
    std::fs::create_dir(directory)
        .and_then(|()| std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot make {}", directory.display()))
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

/// Whether osquery started the program: it takes for extensions only what is named so, `.ext.exe` on Windows.
fn is_extension(arguments: &[OsString]) -> bool {
    let Some(name) = arguments.first().map(Path::new) else { return false };
    let is = |name: &Path, what: &str| name.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(what));
    is(name, "ext")
        || (cfg!(windows) && is(name, "exe") && name.file_stem().is_some_and(|stem| is(stem.as_ref(), "ext")))
}

fn run(arguments: Vec<OsString>) -> anyhow::Result<()> {
    let mut matches = ArgMatches::default();
    let (recording, command) = if is_extension(&arguments) {
        let ExtensionCli { recording, extension } = ExtensionCli::parse_from(arguments);
        (recording, Command::Extension(extension))
    } else {
        matches = Cli::command().get_matches_from(arguments);
        let Cli { recording, command } = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        (recording, command)
    };
    let verbose = match &command {
        Command::Extension(extension) => extension.verbose,
        Command::Run { .. } => true,
        _ => false,
    };
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
        Command::Export { directory, since, until, tables, format, host, connect } => {
            let options = export::Options {
                tables: export::tables(&tables)?,
                span: export::span::parse(&since, until.as_deref())?,
                format: format.into(),
                directory,
                host: host.unwrap_or_else(export::host),
            };
            run_export(&recording, &connect, &options)
        }
        #[cfg(windows)]
        Command::Run { socket, service: true } => service::run(move |stop| serve(&recording, socket, stop)),
        Command::Run { socket, .. } => {
            let stop = Stop::default();
            stop.on_signals()?;
            serve(&recording, socket, &stop)
        }
        Command::Config(ConfigCommand::Check) => settings::check(&recording),
        Command::Config(ConfigCommand::Show) => settings::show(&recording, &matches, &mut io::stdout().lock()),
        Command::Signatures(command) => signatures::run(&recording, &command),
        Command::Doctor { json } => {
            let (config, fault) = recording.config_or_fault();
            let (settings, place) = recording.settings(config, None);
            let signature_dirs = packs::with_own(settings.packs.as_deref(), &settings.signature_dirs);
            let subject = doctor::Subject {
                place: &place,
                signature_dirs: &signature_dirs,
                choice: settings.collector.choice,
                fault,
            };
            Ok(doctor::run(&subject, json)?)
        }
        Command::Install(installing) => Ok(install::install(&installing.into(), &mut |step| println!("{step}"))?),
        Command::Uninstall { installing, purge } => {
            Ok(install::uninstall(&installing.into(), purge, &mut |step| println!("{step}"))?)
        }
        Command::Demo { connect } => {
            let (_, place) = recording.settings(Config::load(recording.config.as_deref())?, None);
            Ok(demo::run(connect.connect, &place)?)
        }
        Command::MakeBelieve => Ok(demo::act()?),
        Command::Generate { directory } => generate(&directory),
        Command::Extension(extension) => extend(&recording, &extension),
    }
}

fn generate(directory: &Path) -> anyhow::Result<()> {
    use clap_complete::Shell;
    let made = || {
        std::fs::create_dir_all(directory)?;
        clap_mangen::generate_to(Cli::command(), directory)?;
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            clap_complete::generate_to(shell, &mut Cli::command(), "agentquery", directory)?;
        }
        io::Result::Ok(())
    };
    made().with_context(|| format!("cannot write into {}", directory.display()))
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
    if let Some(front) = recording.named_file()? {
        return ask(&mut { front });
    }
    let sensor = recording.sensor(None, Standby::Reluctant)?;
    sensor.source().wait_until_answered(front::PATIENCE).map_err(|why| anyhow!(why))?;
    ask(&mut Front::new(sensor.source().clone()))
}

/// Without recording: whoever records goes on, and nobody begins for it.
fn run_export(recording: &Recording, connect: &Connect, options: &export::Options) -> anyhow::Result<()> {
    let stop = Stop::default();
    stop.on_signals()?;
    let mut backend: Box<dyn Backend> = if let Some(socket) = &connect.connect {
        Box::new(Client::new(socket))
    } else if let Some(front) = recording.named_file()? {
        Box::new(front)
    } else {
        let (settings, place) = recording.settings(Config::load(recording.config.as_deref())?, None);
        let file = settings.history.as_ref().map(|history| history.path.as_path());
        Box::new(Front::reading(file, &place).map_err(|why| anyhow!(why))?)
    };
    let summary = export::run(&mut *backend, options, &stop)?;
    for (table, rows, files) in summary.tables {
        println!("{table}: rows {rows}, files {files}");
    }
    Ok(())
}

fn serve(recording: &Recording, socket: Option<PathBuf>, stop: &Stop) -> anyhow::Result<()> {
    let sensor = recording.sensor(socket, Standby::Ready)?;
    sensor.source().wait_until_known().map_err(|why| anyhow!(why))?;
    stop.wait_for_it();
    Ok(())
}

fn extend(recording: &Recording, extension: &Extension) -> anyhow::Result<()> {
    let stop = Stop::default();
    stop.on_signals()?;
    // osquery would start it again for ever, and nobody would see what it wrote: it goes on, and a table tells.
    let (config, fault) = recording.config_or_fault();
    let (mut settings, place) = recording.settings(config, None);
    if let Some(fault) = fault {
        tracing::error!(fault, "the configuration does not count");
        settings.faults.push(fault);
    }
    make_socket_dir(&place)?;
    reload_on_hangup(&settings)?;
    let sensor = Sensor::start(settings, place, Standby::Ready)?;
    let options = osquery::extension::Options {
        socket: extension.socket.clone(),
        timeout: Duration::from_secs(extension.timeout),
        interval: Duration::from_secs(extension.interval.max(1)),
    };
    Ok(osquery::extension::run(&options, sensor.source(), &stop)?)
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
    fn the_command_line_goes_before_the_file() {
        if !agentquery::os::is_administrator() {
            return; // the places of others are their own
        }
        let line = |rest: &[&str]| {
            let cli = Cli::try_parse_from([&["agentquery", "run"], rest].concat()).unwrap();
            let config = Config {
                syscalls: Some(Syscalls::Always),
                signatures: vec!["/file".into()],
                state_dir: Some("/state".into()),
                socket: None,
                retention_days: Some(2),
                ..Config::default()
            };
            let Command::Run { socket, .. } = cli.command else { panic!("another command") };
            cli.recording.settings(config, socket)
        };
        let (settings, place) = line(&[]);
        assert_eq!(settings.collector.syscalls, Syscalls::Always);
        assert_eq!(settings.signature_dirs, [places::signatures().as_path(), Path::new("/file")]);
        let socket = places::socket_of(Path::new("/state"));
        assert_eq!(place, Place { state_dir: "/state".into(), socket, machine: None });
        let kept = settings.history.unwrap();
        assert_eq!((kept.path.as_path(), kept.retention.seconds), (Path::new("/state/history.duckdb"), 2 * 86400));
        assert_eq!(line(&["--database", "none"]).0.history, None);
        let (settings, place) = line(&["--syscalls", "on_demand", "--state-dir", "/s", "--socket", "/x"]);
        assert_eq!(settings.collector.syscalls, Syscalls::OnDemand);
        assert_eq!(place, Place { state_dir: "/s".into(), socket: "/x".into(), machine: None });
    }

    #[test]
    fn one_output_at_most() {
        assert!(Cli::try_parse_from(["agentquery", "query", "SELECT 1", "--json", "--csv"]).is_err());
        let cli = Cli::try_parse_from(["agentquery", "query", "SELECT 1", "--csv", "--syscalls", "always"]).unwrap();
        assert_eq!(cli.recording.syscalls, Some(When::Always));
        assert!(matches!(cli.command, Command::Query { output, .. } if output.mode() == Mode::Csv));
    }
}
