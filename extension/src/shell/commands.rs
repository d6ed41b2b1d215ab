//! The shell's own commands, which begin with a dot. Their names are osqueryi's.

use std::io::{self, Write};

use super::escape::visible;
use super::format::Mode;
use super::pretty::width;
use crate::tables::{all, find, schema};

/// A command as `.help` tells it.
pub(super) struct Command {
    pub(super) name: &'static str,
    arguments: &'static str,
    help: &'static str,
}

const fn command(name: &'static str, arguments: &'static str, help: &'static str) -> Command {
    Command { name, arguments, help }
}

/// All of them.
pub(super) const COMMANDS: [Command; 10] = [
    command(".all", "TABLE", "all rows of a table"),
    command(".exit", "", "end; so do .quit and Ctrl-D"),
    command(".help", "", "this"),
    command(".mode", "[MODE]", "how results are written: pretty, json, csv, line or markdown"),
    command(".pager", "[on|off]", "show what is longer than the screen through $PAGER or less"),
    command(".quit", "", "end"),
    command(".schema", "[TABLE]", "tables with their columns; those whose name begins so"),
    command(".show", "", "version and settings"),
    command(".tables", "[TABLE]", "tables; those whose name begins so"),
    command(".timer", "[on|off]", "tell the time that each statement took"),
];

/// The values of a switch.
pub(super) const ON_OFF: [&str; 2] = ["on", "off"];

/// What can be set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) mode: Mode,
    pub(super) timer: bool,
    pub(super) pager: bool,
    /// Somebody reads it on a terminal; programs get names alone.
    pub(super) terminal: bool,
}

/// What is to be done after a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum After {
    Continue,
    /// Run this statement.
    Run(String),
    End,
}

/// Runs a command.
pub(super) fn run(line: &str, settings: &mut Settings, out: &mut dyn Write) -> io::Result<After> {
    let mut words = line.split_whitespace();
    let (name, argument) = (words.next().unwrap_or_default(), words.next());
    if words.next().is_some() {
        writeln!(out, "Error: {} takes one argument at most", visible(name))?;
        return Ok(After::Continue);
    }
    match (name, argument) {
        (".exit" | ".quit", None) => return Ok(After::End),
        (".all", Some(table)) => match find(table) {
            Some(table) => return Ok(After::Run(format!("SELECT * FROM {};", schema::quote(table.info().name)))),
            None => no_such_table(out)?,
        },
        (".all", None) => writeln!(out, "Error: .all needs the name of a table; .tables lists them")?,
        (".tables", start) => {
            let widest = if settings.terminal { widest_name() } else { 0 };
            for table in beginning(start) {
                let table = table.info();
                let (description, _) = table.description.split_once('.').unwrap_or((table.description, ""));
                let description = if settings.terminal { format!("  {description}") } else { String::new() };
                writeln!(out, "{:widest$}{description}", table.name)?;
            }
            if beginning(start).next().is_none() {
                no_such_table(out)?;
            }
        }
        (".schema", start) => {
            for table in beginning(start) {
                writeln!(out, "{};", schema::create_table(table))?;
            }
            if beginning(start).next().is_none() {
                no_such_table(out)?;
            }
        }
        (".mode", None) => writeln!(out, "{}", mode_name(settings.mode))?,
        (".mode", Some(name)) => match Mode::named(name) {
            Some(mode) => settings.mode = mode,
            None => writeln!(out, "Error: no such mode; there are {}", modes())?,
        },
        (".timer", argument) => switch(argument, &mut settings.timer, name, out)?,
        (".pager", argument) => switch(argument, &mut settings.pager, name, out)?,
        (".help", _) => help(out)?,
        (".show", None) => {
            writeln!(out, "version {}", env!("CARGO_PKG_VERSION"))?;
            writeln!(out, "mode    {}", mode_name(settings.mode))?;
            writeln!(out, "timer   {}", on_off(settings.timer))?;
            writeln!(out, "pager   {}", on_off(settings.pager))?;
        }
        _ => {
            let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
            writeln!(out, "Error: no such command: {}; there are {}", visible(line), names.join(" "))?;
        }
    }
    Ok(After::Continue)
}

/// The tables whose name begins so, or is that of an osquery pattern such as `agent_%`.
fn beginning(start: Option<&str>) -> impl Iterator<Item = &'static dyn crate::tables::Table> {
    let start = start.unwrap_or_default().trim_end_matches(['%', '*', ';']).to_ascii_lowercase();
    all().into_iter().filter(move |table| table.info().name.starts_with(&start))
}

fn widest_name() -> usize {
    all().iter().map(|table| width(table.info().name)).max().unwrap_or(0)
}

fn no_such_table(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "Error: no such table; .tables lists them")
}

fn switch(argument: Option<&str>, setting: &mut bool, name: &str, out: &mut dyn Write) -> io::Result<()> {
    match argument {
        None => return writeln!(out, "{}", on_off(*setting)),
        Some(word) if word.eq_ignore_ascii_case("on") => *setting = true,
        Some(word) if word.eq_ignore_ascii_case("off") => *setting = false,
        Some(_) => return writeln!(out, "Error: {name} is on or off"),
    }
    Ok(())
}

fn on_off(setting: bool) -> &'static str {
    if setting { "on" } else { "off" }
}

fn mode_name(mode: Mode) -> &'static str {
    Mode::NAMES.iter().find(|(_, known)| *known == mode).map_or("", |(name, _)| name)
}

fn modes() -> String {
    Mode::NAMES.map(|(name, _)| name).join(", ")
}

fn help(out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "Write SQL and end it with a semicolon. TAB completes, Ctrl-C stops a query.")?;
    for Command { name, arguments, help } in &COMMANDS {
        let usage = format!("{name} {arguments}");
        writeln!(out, "  {usage:<16} {help}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> String {
        let mut out = Vec::new();
        let mut settings = Settings { mode: Mode::Pretty, timer: false, pager: true, terminal: true };
        run(line, &mut settings, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_command_is_one() {
        for command in &COMMANDS {
            assert!(!told(command.name).contains("no such command"), "{}", command.name);
            assert!(told(".help").contains(command.help), "{}", command.name);
        }
    }

    #[test]
    fn an_unknown_one_says_what_there_is() {
        let text = told(".tabels\u{1b}[2J x");
        assert!(text.starts_with("Error: no such command: .tabels\\x1b[2J x; there are .all .exit"), "{text}");
        assert_eq!(told(".mode column"), "Error: no such mode; there are pretty, json, csv, line, markdown\n");
        assert_eq!(told(".timer maybe"), "Error: .timer is on or off\n");
    }

    #[test]
    fn tables_by_the_beginning_of_their_names() {
        assert_eq!(told(".tables").lines().count(), all().len());
        assert!(told(".tables agent_f").starts_with("agent_file_ops "));
        assert_eq!(told(".tables agent_f%").lines().count(), 1);
        assert!(told(".schema agent_file_ops").starts_with("CREATE TABLE \"agent_file_ops\" (\n  \"eid\" BIGINT,"));
        assert_eq!(told(".schema nothing"), "Error: no such table; .tables lists them\n");
    }

    #[test]
    fn what_a_command_leads_to() {
        let mut settings = Settings { mode: Mode::Pretty, timer: false, pager: true, terminal: true };
        let mut after = |line: &str| run(line, &mut settings, &mut Vec::new()).unwrap();
        assert_eq!(after(".quit"), After::End);
        assert_eq!(after(".all AI_AGENTS"), After::Run("SELECT * FROM \"ai_agents\";".to_owned()));
        assert_eq!(after(".timer on"), After::Continue);
        after(".mode csv");
        assert!(settings.timer && settings.mode == Mode::Csv);
    }
}
