//! `signatures list`, `check`, `test` and so on: what is recognised, whether files are right, and why a process is an agent.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use agentquery::config::Config;
use agentquery::identify::{Ask, Catalogue, Match, ProcessFacts, Rule, Trial, VersionSource, files_in};
use agentquery::packs;
use agentquery::record::rows::SignatureRow;
use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};

use super::{Recording, pack};

/// Bytes of a file that is looked at to tell a version.
const SMALL: u64 = 1 << 20;

#[derive(Debug, Subcommand)]
pub(super) enum SignaturesCommand {
    /// List the signatures that hold, and the files that were refused
    List,
    /// Say of each file whether it is right, and what is wrong and where
    Check {
        /// Signature files, or directories of them
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Say which agent a process would be, and by which rules
    #[command(after_help = "\
Example: agentquery signatures test --exe /usr/bin/node --argv node /usr/local/bin/codex exec")]
    Test(Process),
    /// Write the JSON Schema of signature files, for editors
    Schema,
    Install(pack::Install),
}

/// A process that need not exist.
#[derive(Debug, Args)]
pub(super) struct Process {
    /// Real path of its executable
    #[arg(long, value_name = "PATH")]
    exe: String,
    /// Real path of the script, when the executable is an interpreter; without it the script is taken as it stands in
    /// the arguments
    #[arg(long, value_name = "PATH")]
    script: Option<String>,
    /// Name of a variable in its environment; may be given several times
    #[arg(long, value_name = "NAME")]
    env: Vec<String>,
    /// Name of its parent process
    #[arg(long, value_name = "NAME")]
    parent: Option<String>,
    /// Explain this signature, also when the process is nothing like it
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Its arguments, its own name first; all that follows is one
    #[arg(long, value_name = "ARGUMENT", num_args = 0.., allow_hyphen_values = true)]
    argv: Vec<String>,
}

/// The schema that docs/signatures.md tells of.
const SCHEMA: &str = include_str!("../../../schemas/signature.schema.json");

/// Does what is asked.
pub(super) fn run(recording: &Recording, command: &SignaturesCommand) -> anyhow::Result<()> {
    let loaded = || -> anyhow::Result<Catalogue> {
        let (settings, _) = recording.settings(Config::load(recording.config.as_deref())?, None);
        Ok(Catalogue::load(&packs::with_own(settings.packs.as_deref(), &settings.signature_dirs)))
    };
    let out = &mut io::stdout().lock();
    let result = match command {
        SignaturesCommand::List => list(&loaded()?.rows(), out),
        SignaturesCommand::Check { files } => return check(files, out),
        SignaturesCommand::Test(process) => return test(process, &loaded()?, out),
        SignaturesCommand::Install(what) => return pack::run(recording, what),
        SignaturesCommand::Schema => out.write_all(SCHEMA.as_bytes()),
    };
    Ok(super::settings::unless_closed(result)?)
}

fn list(rows: &[SignatureRow], out: &mut dyn Write) -> io::Result<()> {
    let shown: Vec<[&str; 4]> = rows
        .iter()
        .map(|row| {
            let category = row.category.as_deref().unwrap_or_default();
            let when = match (row.status, row.early) {
                ("loaded", true) => "early",
                ("loaded", false) => "late",
                _ => row.status,
            };
            [&*row.agent, category, when, &*row.source]
        })
        .collect();
    let widths = [0, 1, 2].map(|column: usize| {
        shown.iter().filter_map(|cells| cells.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    });
    let [agent_width, category_width, when_width] = widths;
    for (row, [agent, category, when, source]) in rows.iter().zip(shown) {
        writeln!(out, "{agent:agent_width$}  {category:category_width$}  {when:when_width$}  {source}")?;
        if let Some(message) = &row.message {
            writeln!(out, "    {message}")?;
        }
    }
    Ok(())
}

fn check(files: &[PathBuf], out: &mut dyn Write) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for checked in Catalogue::check(&in_directories(files)?) {
        match checked.result {
            Ok(row) => {
                let remarks = row.message.map(|message| format!("; {message}")).unwrap_or_default();
                let line = format!("ok: {}: {}, rules: {}{remarks}", checked.file, row.agent, row.rules);
                super::settings::unless_closed(writeln!(out, "{line}"))?;
            }
            Err(error) => wrong.push(error.to_string()),
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(anyhow!(wrong.join("\nagentquery: "))) }
}

/// The files, and those of directories as a directory of signatures would be read.
fn in_directories(files: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for file in files {
        if !file.is_dir() {
            // Named twice it is still one.
            if !all.contains(file) {
                all.push(file.clone());
            }
            continue;
        }
        let mut below = files_in(file).with_context(|| format!("{}: cannot be read", file.display()))?;
        all.append(&mut below);
    }
    Ok(all)
}

/// What the command line says, and this machine's files.
struct Told<'a> {
    env: &'a [String],
}

impl Ask for Told<'_> {
    fn has_variable(&self, name: &str) -> bool {
        self.env.iter().any(|given| given.split('=').next() == Some(name))
    }

    fn names_in(&self, directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).into_iter().flatten();
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
    }

    fn text(&self, file: &Path) -> Option<String> {
        let bytes = agentquery::trust::read_any(file, SMALL).ok()?;
        String::from_utf8(bytes).ok()
    }
}

fn test(process: &Process, catalogue: &Catalogue, out: &mut dyn Write) -> anyhow::Result<()> {
    if let Some(name) = &process.agent
        && catalogue.named(name).is_none()
    {
        return Err(anyhow!("there is no signature {name}; `agentquery signatures list` shows all"));
    }
    let facts = ProcessFacts {
        path: &process.exe,
        exec_path: &process.exe,
        argv: &process.argv,
        script: process.script.as_deref(),
        parent_name: process.parent.as_deref(),
    };
    let ask = Told { env: &process.env };
    let trials = catalogue.explain(&facts, &ask, process.agent.as_deref());
    Ok(super::settings::unless_closed(tell(&facts, &ask, &trials, out))?)
}

fn tell(facts: &ProcessFacts, ask: &dyn Ask, trials: &[Trial], out: &mut dyn Write) -> io::Result<()> {
    match trials.first().map(|trial| (&trial.signature, &trial.verdict)) {
        Some((signature, Ok(found))) => {
            writeln!(out, "{} ({}): {}", signature.name, signature.display_name, summary(found, ask))?;
        }
        _ => writeln!(out, "no agent")?,
    }
    if trials.is_empty() {
        let components = Catalogue::components(facts);
        let looked_up = if components.is_empty() { "nothing".to_owned() } else { components.join(", ") };
        writeln!(out, "  no signature is looked up by any of: {looked_up}")?;
        writeln!(out, "  --agent NAME explains one all the same")?;
    }
    for trial in trials {
        let verdict = match &trial.verdict {
            Ok(found) => format!("yes, {}", found.confidence),
            Err(why) => format!("no: {why}"),
        };
        writeln!(out, "\n{}: {verdict}", trial.signature.name)?;
        let widest = trial.rules.iter().map(|rule| rule.key.len()).max().unwrap_or(0);
        for rule in &trial.rules {
            writeln!(
                out,
                "  {}  {:widest$}  {}{}",
                if rule.held { "+" } else { "-" },
                rule.key,
                rule.text,
                worth(rule)
            )?;
        }
    }
    Ok(())
}

fn worth(rule: &Rule) -> String {
    match rule.weight {
        Some(weight) if rule.held => format!("  ({}{weight})", if rule.second { "+" } else { "" }),
        _ => String::new(),
    }
}

fn summary(found: &Match, ask: &dyn Ask) -> String {
    let version = found.version.read(ask).or_else(|| match &found.version {
        VersionSource::PackageJson(file) => Some(format!("in {}", file.display())),
        _ => None,
    });
    let version = version.map(|version| format!(", version {version}")).unwrap_or_default();
    let unattended = if found.unattended { ", unattended" } else { "" };
    format!("confidence {}, role {}{version}{unattended}\n  {}", found.confidence, found.role.as_str(), found.evidence)
}
