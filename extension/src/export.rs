//! A part of the history as files that other engines read: Parquet, CSV or JSON.
//!
//! Rows are asked for as anybody asks for them, in small pieces (`pieces`), and each file is put together and written
//! by an engine of its own (`stage`). There is one file for each table, day (in UTC) and host:
//! `DIR/TABLE/day=YYYY-MM-DD/HOST.parquet`. A row is in the file of the day on which it began, and knows its host, so
//! that exports of many hosts in one folder are one table to an engine. A row that is exported again takes its former
//! place: what was exported twice is there once.

mod pieces;
pub mod span;
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::os;
use crate::osquery::Stop;
use crate::shell::{self, Backend};
use crate::tables::{self, Table};
use crate::value::Value;
use pieces::{Pieces, Shape};
use span::DAY;
use stage::Stage;

/// Cells, in the order of a table's columns.
type Row = Vec<Value>;

/// What the files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Apache Parquet, compressed by zstd.
    Parquet,
    /// Comma-separated values by RFC 4180, with a header.
    Csv,
    /// An object a line.
    Json,
}

impl Format {
    fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Json => "jsonl",
        }
    }
}

/// What is exported, and where to.
#[derive(Clone)]
pub struct Options {
    /// The tables.
    pub tables: Vec<&'static dyn Table>,
    /// What happened in these seconds.
    pub span: Range<i64>,
    /// As what.
    pub format: Format,
    /// Where to.
    pub directory: PathBuf,
    /// The name of this machine.
    pub host: String,
}

/// What was exported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// For each table its name, its rows and its files.
    pub tables: Vec<(&'static str, usize, usize)>,
}

/// Why an export ended before its end. Files that were written are whole and stay.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no such table, or none that is kept.
    #[error("no table {name} can be exported; there are {}", names().join(", "))]
    Table {
        /// What was asked for.
        name: String,
    },
    /// The place cannot be used.
    #[error("cannot write to {}: {source}; choose another directory", path.display())]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No space left.
    #[error("{}: the disk is full; make room, or export a shorter time. Files that were written are whole", path.display())]
    DiskFull {
        /// Where.
        path: PathBuf,
    },
    /// A file from before cannot be read.
    #[error("{}: rows from before cannot be kept, for the file cannot be read ({reason}); move it away", path.display())]
    Existing {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The engine that writes the files refused.
    #[error("the files cannot be written: {0}")]
    Engine(String),
    /// The rows could not be had.
    #[error(transparent)]
    Query(#[from] shell::Error),
    /// The answer is not one of this version.
    #[error("the recorder answered with {0}; it may be of another version than this program")]
    Answer(String),
    /// Somebody ended it.
    #[error("stopped; files that were written are whole")]
    Interrupted,
}

/// The tables that can be exported.
fn names() -> Vec<&'static str> {
    tables::all().into_iter().filter(|table| table.is_kept()).map(|table| table.info().name).collect()
}

/// The tables of these names, or all, each once.
///
/// # Errors
/// When one has no history or is none.
pub fn tables(wanted: &[String]) -> Result<Vec<&'static dyn Table>, ExportError> {
    let unknown = |name: &&String| !names().iter().any(|known| known.eq_ignore_ascii_case(name));
    if let Some(name) = wanted.iter().find(unknown) {
        return Err(ExportError::Table { name: name.clone() });
    }
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|other| other.eq_ignore_ascii_case(name));
    let all = tables::all().into_iter();
    Ok(all.filter(|table| table.is_kept() && is_wanted(table.info().name)).collect())
}

/// Exports. The progress is shown on a terminal.
///
/// # Errors
/// When rows cannot be had or files not be written.
pub fn run(backend: &mut dyn Backend, options: &Options, stop: &Stop) -> Result<Summary, ExportError> {
    let mut stage = Stage::new(&options.directory, options.format)?;
    let file = format!("{}.{}", file_name(&options.host, &stage)?, options.format.extension());
    let mut pieces = Pieces { backend, stop };
    let shapes: Vec<_> = options.tables.iter().filter_map(|table| Shape::of(*table)).collect();
    let seconds = options.span.end.saturating_sub(options.span.start);
    let bar = Bar::new(seconds.saturating_mul(i64::try_from(shapes.len()).unwrap_or(1)));
    let mut summary = Summary::default();
    for shape in shapes {
        let (rows, files) = table(&mut pieces, &mut stage, &shape, options, &file, &bar)?;
        summary.tables.push((shape.name(), rows, files));
        bar.next(seconds);
    }
    bar.0.finish_and_clear();
    Ok(summary)
}

/// Exports a table, a day after the other.
fn table(
    pieces: &mut Pieces<'_>,
    stage: &mut Stage,
    shape: &Shape,
    options: &Options,
    file: &str,
    bar: &Bar,
) -> Result<(usize, usize), ExportError> {
    let Range { start, end } = options.span;
    let day_of = |row: &Row| shape.begin_of(row).div_euclid(shape.second.saturating_mul(DAY));
    let mut before: BTreeMap<i64, Vec<Row>> = BTreeMap::new();
    if shape.lasts {
        for row in pieces.lasted(shape, start)? {
            before.entry(day_of(&row)).or_default().push(row);
        }
    }
    let days: BTreeSet<_> = before.keys().copied().chain(start.div_euclid(DAY)..=(end - 1).div_euclid(DAY)).collect();
    let (mut rows, mut files) = (0, 0);
    for day in days {
        let date = span::date(day);
        stage.begin(shape)?;
        stage.add(&before.remove(&day).unwrap_or_default())?;
        let inside = start.max(day.saturating_mul(DAY))..end.min((day + 1).saturating_mul(DAY));
        let time = inside.start.saturating_mul(shape.second)..inside.end.saturating_mul(shape.second);
        pieces.began(shape, time, |reached, piece| {
            stage.add(&piece)?;
            bar.show(shape.name(), &date, rows + stage.rows(), reached.div_euclid(shape.second) - start);
            Ok(())
        })?;
        if stage.rows() > 0 {
            rows += stage.rows();
            files += 1;
            let folder = stage.directory().join(shape.name()).join(format!("day={date}"));
            stage.write(shape, &options.host, &folder.join(file))?;
        }
    }
    Ok((rows, files))
}

/// A file's name for the machine. Two that are called the same, as `localhost` are, have different ones.
fn file_name(host: &str, stage: &Stage) -> Result<String, ExportError> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    // What begins with a dot or a line is hidden from engines.
    let name: String = host.chars().take(100).map(plain).collect();
    let name = name.trim_start_matches(['.', '_', '-']);
    let name = if name.is_empty() { "host" } else { name };
    // The id itself is nobody else's to know.
    let digest = stage.digest(&format!("agentquery {} {host}", os::machine_id()))?;
    Ok(format!("{name}-{digest}"))
}

/// The name of this machine.
#[must_use]
pub fn host() -> String {
    let name = os::host_name();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// Progress, in seconds of each table's time.
struct Bar(ProgressBar, std::cell::Cell<u64>);

impl Bar {
    fn new(seconds: i64) -> Self {
        let bar = ProgressBar::with_draw_target(u64::try_from(seconds).ok(), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {percent:>3}%  {msg}  {eta} left") {
            bar.set_style(style);
        }
        Self(bar, std::cell::Cell::new(0))
    }

    fn show(&self, table: &str, date: &str, rows: usize, seconds: i64) {
        self.0.set_message(format!("{table} {date}, {rows} rows"));
        self.0.set_position(self.1.get() + u64::try_from(seconds).unwrap_or(0));
    }

    /// A table is done.
    fn next(&self, seconds: i64) {
        self.1.set(self.1.get() + u64::try_from(seconds).unwrap_or(0));
        self.0.set_position(self.1.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_by_name() {
        let named = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            tables(&names).map(|tables| tables.iter().map(|table| table.info().name).collect::<Vec<_>>())
        };
        assert_eq!(named(&[]).unwrap(), names());
        assert_eq!(named(&["AGENT_FILE_OPS", "ai_agents", "ai_agents"]).unwrap(), ["ai_agents", "agent_file_ops"]);
        for wrong in ["agent_collector", "processes", ""] {
            let error = named(&["ai_agents", wrong]).unwrap_err().to_string();
            assert!(error.contains("ai_agents, agent_processes, agent_connections, agent_file_ops"), "{error}");
        }
    }

    #[test]
    fn hosts_have_names_for_files() {
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::new(folder.path(), Format::Csv).unwrap();
        let name = |host: &str| file_name(host, &stage).unwrap();
        assert!(name("web-01.example").starts_with("web-01.example-"));
        assert!(name("../../etc").starts_with("etc-"));
        assert!(!name("_a/b c").contains(['/', ' ']) && name("_a/b").starts_with("a_b-"));
        assert!(name("…").starts_with("host-") && name("") == name(""));
        assert_ne!(name("a b"), name("a_b"));
    }
}
