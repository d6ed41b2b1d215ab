//! A file's rows on their way: gathered in a small database of their own, and written at once.
//!
//! The database is in memory, of which it takes a bounded part; what is beyond goes to a folder beside the files. A file
//! gets its name when it is whole, so that nobody ever reads half of one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use duckdb::types::{ToSqlOutput, Value as Owned, ValueRef};
use duckdb::{Config, Connection, ToSql, appender_params_from_iter};

use super::pieces::Shape;
use super::{ExportError, Format, Row};
use crate::os;
use crate::tables::ColumnType;
use crate::tables::schema::quote;
use crate::value::Value;

/// Memory of the database. The writer of Parquet holds a group of rows besides, and the reader of JSON takes 40 MB.
const MEMORY: &str = "48MB";
const MEMORY_FOR_JSON: &str = "64MB";

/// Bytes of a row as text at most, and of the buffer of who reads it: what the engine takes by itself fills its memory.
const LINE: u32 = 1 << 20;
const BUFFER: u32 = 2 * LINE;

/// Rows of a group in Parquet: what a reader skips by the least and the greatest of each column.
const GROUP: u32 = 32_768;

/// What a folder with unfinished files is called, and goes on with a random part. Engines leave out what begins so.
const UNFINISHED: &str = ".agentquery-export-";

/// The database, and the folder for what is not finished.
pub struct Stage {
    connection: Connection,
    folder: tempfile::TempDir,
    /// Locked: one whose lock is free was left behind by a process that was killed.
    _lock: File,
    directory: PathBuf,
    format: Format,
    rows: usize,
}

impl Stage {
    /// Makes the directory, where there is none, and the database.
    pub fn new(directory: &Path, format: Format) -> Result<Self, ExportError> {
        let failed = |source| ExportError::Directory { path: directory.into(), source };
        let made = os::make_private(directory).and_then(|()| os::real_path(directory));
        let directory = made.map_err(failed)?;
        remove_unfinished(&directory);
        let folder = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(&directory).map_err(failed)?;
        let lock = os::hold(folder.path()).map_err(failed)?;
        let connection = connect(folder.path(), format).map_err(|error| engine(&directory, &error))?;
        Ok(Self { connection, folder, _lock: lock, directory, format, rows: 0 })
    }

    /// Where the files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A short text that is always the same on this machine and says nothing else about it.
    pub fn digest(&self, of: &str) -> Result<String, ExportError> {
        let read = self.connection.query_row("SELECT left(sha256(?), 8)", [of], |row| row.get(0));
        read.map_err(|error| engine(&self.directory, &error))
    }

    /// Begins a file.
    pub fn begin(&mut self, shape: &Shape) -> Result<(), ExportError> {
        let columns: Vec<_> =
            shape.columns.iter().map(|column| format!("{} {}", quote(column.name), type_of(column.kind))).collect();
        self.rows = 0;
        self.run(&format!("CREATE OR REPLACE TABLE staged ({})", columns.join(", ")))
    }

    /// Rows that were added to it.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Adds rows to it.
    pub fn add(&mut self, rows: &[Row]) -> Result<(), ExportError> {
        let append = || {
            let mut appender = self.connection.appender("staged")?;
            for row in rows {
                appender.append_row(appender_params_from_iter(row.iter().map(Cell)))?;
            }
            appender.flush()
        };
        append().map_err(|error| engine(&self.directory, &error))?;
        self.rows += rows.len();
        Ok(())
    }

    /// Writes it to `target`. Rows that are there already and were not added anew stay.
    pub fn write(&mut self, shape: &Shape, host: &str, target: &Path) -> Result<(), ExportError> {
        let failed = |source| ExportError::Directory { path: target.into(), source };
        let above = target.parent().unwrap_or(&self.directory);
        make_own(&self.directory, above).map_err(failed)?;
        if is_there(target).map_err(failed)? {
            self.keep(shape, target)?;
        }
        let unfinished = self.folder.path().join("file");
        let sql = format!(
            "COPY (SELECT {} AS host, * FROM staged) TO {} ({}, USE_TMP_FILE false)",
            text(host),
            text(&unfinished.to_string_lossy()),
            self.format.options()
        );
        self.run(&sql)?;
        let name = || {
            os::protect(&unfinished)?;
            // Windows wants a right to write for it.
            File::options().write(true).open(&unfinished)?.sync_all()?;
            fs::rename(&unfinished, target)
        };
        name().map_err(failed)
    }

    /// Adds the rows of a file that was exported before.
    fn keep(&self, shape: &Shape, file: &Path) -> Result<(), ExportError> {
        let unknown = |reason: String| ExportError::Existing { path: file.into(), reason };
        let source = self.format.source(shape, file);
        let described = || {
            let mut statement = self.connection.prepare(&format!("DESCRIBE SELECT * FROM {source}"))?;
            let names = statement.query_map([], |row| row.get(0))?;
            names.collect::<duckdb::Result<Vec<String>>>()
        };
        let there = described().map_err(|error| unknown(first_line(&error)))?;
        // A version with other columns may have written it.
        let names: Vec<_> =
            shape.columns.iter().map(|column| column.name).filter(|name| there.iter().any(|n| n == name)).collect();
        let key = shape.columns.get(shape.key).map_or("", |column| column.name);
        if !names.contains(&key) {
            return Err(unknown(format!("it has no column {key}")));
        }
        let there: Vec<_> = names.iter().map(|name| format!("there.{}", quote(name))).collect();
        let names: Vec<_> = names.into_iter().map(quote).collect();
        let sql = format!(
            "INSERT INTO staged ({}) SELECT {} FROM {source} there ANTI JOIN staged ON there.{key} = staged.{key}",
            names.join(", "),
            there.join(", "),
            key = quote(key)
        );
        self.connection.execute_batch(&sql).map_err(|error| match engine(&self.directory, &error) {
            ExportError::Engine(_) => unknown(first_line(&error)),
            other => other,
        })
    }

    fn run(&self, sql: &str) -> Result<(), ExportError> {
        self.connection.execute_batch(sql).map_err(|error| engine(&self.directory, &error))
    }
}

impl Format {
    /// How the engine writes it.
    fn options(self) -> String {
        match self {
            Self::Parquet => format!("FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {GROUP}"),
            Self::Csv => r"FORMAT csv, HEADER, NEW_LINE '\r\n'".to_owned(),
            Self::Json => "FORMAT json".to_owned(),
        }
    }

    /// And reads what it wrote.
    fn source(self, shape: &Shape, file: &Path) -> String {
        let file = pattern(file);
        let columns = shape.columns.iter().map(|column| (column.name, type_of(column.kind)));
        let columns: Vec<_> = [("host", "VARCHAR")].into_iter().chain(columns).collect();
        let columns: Vec<_> = columns.iter().map(|(name, kind)| format!("{}: '{kind}'", text(name))).collect();
        let columns = columns.join(", ");
        match self {
            Self::Parquet => format!("read_parquet({file}, hive_partitioning = false)"),
            Self::Csv => format!(
                r#"read_csv({file}, auto_detect = false, header = true, delim = ',', quote = '"', escape = '"',
                new_line = '\r\n', nullstr = '', allow_quoted_nulls = false, hive_partitioning = false,
                max_line_size = {LINE}, buffer_size = {BUFFER}, columns = {{{columns}}})"#
            ),
            Self::Json => format!(
                "read_json({file}, format = 'newline_delimited', hive_partitioning = false, maximum_object_size = {LINE},
                columns = {{{columns}}})"
            ),
        }
    }
}

fn connect(folder: &Path, format: Format) -> duckdb::Result<Connection> {
    let config = Config::default()
        .threads(1)?
        .max_memory(if format == Format::Json { MEMORY_FOR_JSON } else { MEMORY })?
        .enable_autoload_extension(false)?
        .with("temp_directory", folder.join("spill").to_string_lossy())?
        .with("preserve_insertion_order", "false")?;
    Connection::open_in_memory_with_flags(config)
}

/// The type of a column, as it is declared.
fn type_of(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Text => "VARCHAR",
        ColumnType::Integer => "INTEGER",
        ColumnType::BigInt => "BIGINT",
        ColumnType::Double => "DOUBLE",
    }
}

/// A text of SQL.
fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A pattern that matches this file alone, as a text of SQL.
fn pattern(path: &Path) -> String {
    let mut escaped = String::new();
    for c in path.to_string_lossy().chars() {
        match c {
            '*' | '?' | '[' => escaped.extend(['[', c, ']']),
            c => escaped.push(c),
        }
    }
    text(&escaped)
}

struct Cell<'a>(&'a Value);

impl ToSql for Cell<'_> {
    fn to_sql(&self) -> duckdb::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            Value::Null => ToSqlOutput::Owned(Owned::Null),
            Value::Integer(integer) => ToSqlOutput::Borrowed(ValueRef::BigInt(*integer)),
            Value::Double(double) => ToSqlOutput::Borrowed(ValueRef::Double(*double)),
            Value::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        })
    }
}

fn first_line(error: &duckdb::Error) -> String {
    let text = match error {
        duckdb::Error::DuckDBFailure(_, Some(text)) => text.clone(),
        other => other.to_string(),
    };
    text.lines().next().unwrap_or_default().to_owned()
}

fn engine(directory: &Path, error: &duckdb::Error) -> ExportError {
    let reason = first_line(error);
    // What memory does not hold goes to the same disk, of which the engine takes what was free at its start.
    if ["No space left", "Disk quota", "failed to offload"].iter().any(|part| reason.contains(part)) {
        return ExportError::DiskFull { path: directory.into() };
    }
    ExportError::Engine(reason)
}

/// Whether a file of ours is there.
fn is_there(file: &Path) -> std::io::Result<bool> {
    match file.symlink_metadata() {
        Ok(metadata) if metadata.is_file() && os::is_own(file)? => Ok(true),
        Ok(_) => Err(std::io::Error::other("it is there, and is no file of this user")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes the folders of a file; none of them may lead elsewhere.
fn make_own(directory: &Path, above: &Path) -> std::io::Result<()> {
    os::make_private(above)?;
    for folder in above.ancestors().take_while(|folder| *folder != directory) {
        let metadata = folder.symlink_metadata()?;
        if !metadata.is_dir() || !os::is_own(folder)? {
            return Err(std::io::Error::other(format!("{} is no directory of this user", folder.display())));
        }
    }
    Ok(())
}

/// Removes what exports left behind that were killed.
fn remove_unfinished(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(UNFINISHED)) {
        let is_folder = entry.metadata().is_ok_and(|metadata| metadata.is_dir());
        if is_folder && !os::is_held(&entry.path()) && os::is_own(&entry.path()).unwrap_or(false) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
