//! The settings of a machine: one small YAML file, for what starts without a command line of its own.
//!
//! osquery passes an extension its socket and nothing else, and a service's command line is seldom looked at. What the
//! command line says goes before what the file says.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

use crate::collect::{Choice, Syscalls};
use crate::trust::{self, TrustError};
use crate::yaml;
use crate::{packs, places};

/// In place of a path.
pub const NONE: &str = "none";

/// The keys of the file, in the order in which they are shown.
pub const KEYS: [&str; 11] = [
    "collector",
    "poll_interval_ms",
    "syscalls",
    "signatures",
    "state_dir",
    "socket",
    "database",
    "pin",
    "retention_days",
    "retention_bytes",
    "pack_keys",
];

/// Bytes of it.
const MAX_FILE: u64 = 64 << 10;

/// A history of less would be empty most of the time.
const LEAST_BYTES: u64 = 16 << 20;

/// What the file says; all of it may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What records: `auto`, `ebpf` or `polling`.
    pub collector: Option<Choice>,
    /// Milliseconds between two looks of the collector that polls.
    #[serde(deserialize_with = "interval")]
    pub poll_interval_ms: Option<u32>,
    /// When the hook on system calls is attached: `on_demand` or `always`.
    pub syscalls: Option<Syscalls>,
    /// Directories with signatures of one's own.
    #[serde(deserialize_with = "paths")]
    pub signatures: Vec<PathBuf>,
    /// Directory of the recorder's lock and state.
    #[serde(deserialize_with = "path")]
    pub state_dir: Option<PathBuf>,
    /// Socket on which the recorder answers.
    #[serde(deserialize_with = "path")]
    pub socket: Option<PathBuf>,
    /// File of the history; `none` for rows in memory alone.
    #[serde(deserialize_with = "path_or_none")]
    pub database: Option<PathBuf>,
    /// Folder in which programs are pinned; `none` for none.
    #[serde(deserialize_with = "path_or_none")]
    pub pin: Option<PathBuf>,
    /// Days for which finished rows are kept.
    #[serde(deserialize_with = "days")]
    pub retention_days: Option<u32>,
    /// Bytes of the history's file that may be in use.
    #[serde(deserialize_with = "bytes")]
    pub retention_bytes: Option<u64>,
    /// Public keys of those whose packs of signatures may be installed.
    #[serde(deserialize_with = "keys")]
    pub pack_keys: Vec<String>,
}

/// A file's settings, and where each stands.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The file; none when there is none.
    pub file: Option<PathBuf>,
    /// What it says.
    pub config: Config,
    /// The lines of its keys.
    pub lines: BTreeMap<String, u64>,
}

impl Source {
    /// Where a key is set; none where it is not.
    #[must_use]
    pub fn place(&self, key: &str) -> Option<String> {
        Some(format!("{}:{}", self.file.as_ref()?.display(), self.lines.get(key)?))
    }
}

/// The keys of a file, whatever their values are, and their lines.
#[derive(Default)]
struct Lines(BTreeMap<String, u64>);

impl<'de> Deserialize<'de> for Lines {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(LinesVisitor)
    }
}

struct LinesVisitor;

impl<'de> Visitor<'de> for LinesVisitor {
    type Value = Lines;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("settings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Lines, A::Error> {
        let mut lines = Lines::default();
        while let Some((key, IgnoredAny)) = map.next_entry::<Spanned<String>, _>()? {
            lines.0.insert(key.value, key.referenced.line());
        }
        Ok(lines)
    }
}

/// A path that means the same wherever the program is started.
fn absolute(path: PathBuf) -> Result<PathBuf, String> {
    if path.is_absolute() { Ok(path) } else { Err(format!("{} is not an absolute path", path.display())) }
}

fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    Option::<PathBuf>::deserialize(deserializer)?.map(absolute).transpose().map_err(D::Error::custom)
}

fn path_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = Option::<PathBuf>::deserialize(deserializer)?;
    let is_none = path.as_deref() == Some(Path::new(NONE));
    if is_none { Ok(path) } else { path.map(absolute).transpose().map_err(D::Error::custom) }
}

fn paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    let paths = Option::<Vec<PathBuf>>::deserialize(deserializer)?.unwrap_or_default();
    paths.into_iter().map(absolute).collect::<Result<_, _>>().map_err(D::Error::custom)
}

fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let keys = Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default();
    match keys.iter().find(|key| !packs::is_key(key)) {
        Some(key) => Err(D::Error::custom(format!("{key:?} is no public key of minisign, which begins with RW"))),
        None => Ok(keys),
    }
}

fn interval<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    match Option::<u32>::deserialize(deserializer)? {
        Some(interval) if !(100..=60_000).contains(&interval) => {
            Err(D::Error::custom(format!("{interval} milliseconds: from 100 to 60000")))
        }
        interval => Ok(interval),
    }
}

fn days<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    match Option::<u32>::deserialize(deserializer)? {
        Some(days) if !(1..=36_500).contains(&days) => {
            Err(D::Error::custom(format!("{days} days: from 1 to 36500; to keep nothing: database: none")))
        }
        days => Ok(days),
    }
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(Size(bytes)) = Option::<Size>::deserialize(deserializer)? else { return Ok(None) };
    if bytes < LEAST_BYTES {
        return Err(D::Error::custom(format!("{bytes} bytes: at least 16 MiB; to keep nothing: database: none")));
    }
    Ok(Some(bytes))
}

/// A number of bytes, or one with a unit: `500MiB`.
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = Size;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("bytes, such as 1GiB, 500MiB or 1000000000")
    }

    fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<Size, E> {
        Ok(Size(bytes))
    }

    fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<Size, E> {
        let size = u64::try_from(bytes).map(Size);
        size.map_err(|_| E::custom(format!("{bytes} is not a number of bytes")))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Size, E> {
        let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1_u64 << 40)];
        let number = |(unit, factor): &(&str, u64)| {
            text.strip_suffix(unit)?.trim_end().parse::<u64>().ok()?.checked_mul(*factor)
        };
        let bytes = units.iter().find_map(number);
        bytes.map(Size).ok_or_else(|| {
            E::custom(format!("{text:?} is not a number of bytes: write it as 1GiB, 500MiB or 1000000000"))
        })
    }
}

/// Why the file does not count.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It could not be read, or is not to be trusted.
    #[error(transparent)]
    File(#[from] TrustError),
    /// It does not say what a configuration says.
    #[error("{}:{line}:{column}: {message}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: u64,
        /// Column, from 1.
        column: u64,
        /// What is wrong.
        message: String,
    },
}

impl Config {
    /// Reads a file; without one the default file, when there is one.
    ///
    /// # Errors
    /// When the file cannot be read, could be changed by others, or says something unknown.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Source::load(file).map(|source| source.config)
    }
}

impl Source {
    /// The same, and where each key stands.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let usual = places::config();
        match file {
            None if !usual.exists() => Ok(Self::default()),
            file => Self::read(file.unwrap_or(&usual)),
        }
    }

    fn read(file: &Path) -> Result<Self, ConfigError> {
        let bytes = trust::read(file, MAX_FILE)?;
        let text = String::from_utf8_lossy(&bytes);
        let invalid = |mistake: yaml::Mistake| ConfigError::Invalid {
            file: file.into(),
            line: mistake.at.line(),
            column: mistake.at.column(),
            message: mistake.message,
        };
        // A file of comments alone says nothing.
        let config = yaml::parse::<Option<Config>>(&text).map_err(invalid)?.unwrap_or_default();
        let lines = yaml::parse::<Option<Lines>>(&text).map_err(invalid)?.unwrap_or_default().0;
        Ok(Self { file: Some(file.into()), config, lines })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An absolute path of this system has it before the first `/`.
    const DRIVE: &str = if cfg!(windows) { "C:" } else { "" };

    /// A text that is written with paths of UNIX.
    fn with_drives(text: &str) -> String {
        text.replace(" /", &format!(" {DRIVE}/")).replace("[/", &format!("[{DRIVE}/"))
    }

    fn read(text: &str) -> Result<Config, String> {
        let text = with_drives(text);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, text).unwrap();
        let name = format!("{}:", file.display());
        Config::load(Some(&file)).map_err(|error| error.to_string().replace(&name, ""))
    }

    #[test]
    fn what_it_says() {
        let config = read(
            "collector: polling\npoll_interval_ms: 250\nsyscalls: always\nsignatures:\n  - /etc/x\nstate_dir: /s\nsocket: /r/a.em\n\
                           database: /d/h.duckdb\nretention_days: 7\nretention_bytes: 100000000\n",
        )
        .unwrap();
        let path = |path: &str| PathBuf::from(format!("{DRIVE}{path}"));
        let expected = Config {
            collector: Some(Choice::Polling),
            poll_interval_ms: Some(250),
            syscalls: Some(Syscalls::Always),
            signatures: vec![path("/etc/x")],
            state_dir: Some(path("/s")),
            socket: Some(path("/r/a.em")),
            database: Some(path("/d/h.duckdb")),
            pin: None,
            retention_days: Some(7),
            retention_bytes: Some(100_000_000),
            pack_keys: Vec::new(),
        };
        assert_eq!(config, expected);
        assert_eq!(read("").unwrap(), Config::default());
        assert_eq!(read("# nothing\n").unwrap(), Config::default());
    }

    #[test]
    fn a_mistake_is_named_with_its_place() {
        let unknown = read("syscalls: always\nsyscall: always\n").unwrap_err();
        assert!(unknown.starts_with("2:1: ") && unknown.contains("syscall"), "{unknown}");
        let value = read("syscalls: sometimes\n").unwrap_err();
        assert!(value.starts_with("1:11: ") && value.contains("sometimes"), "{value}");
        assert!(read("syscalls: [\n").is_err());
    }

    #[test]
    fn wrong_values_are_refused_with_their_place() {
        for (text, place, part) in [
            ("socket: a.em", "1:9: ", "a.em is not an absolute path"),
            ("\nstate_dir: ''", "2:12: ", "absolute"),
            ("signatures: [/a, b]", "1:", "b is not an absolute path"),
            ("database: history.duckdb", "1:11: ", "absolute"),
            ("pack_keys: [RWkey]", "1:", "is no public key of minisign"),
            ("collector: etw", "1:12: ", "etw"),
            ("poll_interval_ms: 20", "1:19: ", "from 100 to 60000"),
            ("retention_days: 0", "1:17: ", "from 1 to 36500"),
            ("retention_days: -1", "1:17: ", ""),
            ("retention_days: a week", "1:17: ", ""),
            ("retention_bytes: 1000", "1:18: ", "at least 16 MiB"),
            ("retention_bytes: -5", "1:18: ", "not a number of bytes"),
            ("retention_bytes: 1 GB", "1:18: ", "write it as 1GiB"),
            ("retention_bytes: 99999999999999TiB", "1:18: ", "write it as 1GiB"),
            ("socket: /a\nsocket: /b", "2:1: ", "socket"),
            ("- socket", "1:", ""),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(place) && error.contains(part), "{text}: {error}");
        }
        for (text, bytes) in [("1GiB", 1 << 30), ("64 MiB", 64 << 20), ("20000000", 20_000_000)] {
            assert_eq!(read(&format!("retention_bytes: {text}")).unwrap().retention_bytes, Some(bytes));
        }
        let nothing = KEYS.map(|key| format!("{key}:\n")).concat();
        assert_eq!(read(&nothing).unwrap(), Config::default());
        assert_eq!(read("database: none").unwrap().database, Some("none".into()));
    }

    #[test]
    fn every_key_is_documented_and_known_by_its_line() {
        let debug = format!("{:?}", Config::default());
        let fields = debug.trim_start_matches("Config { ").trim_end_matches(" }").split(", ");
        let fields: Vec<_> = fields.map(|field| field.split_once(':').unwrap().0).collect();
        assert_eq!(fields, KEYS);
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let page = std::fs::read_to_string(page).unwrap();
        for key in KEYS {
            assert!(page.contains(&format!("\n| `{key}` |")), "docs/configuration.md does not tell of {key}");
        }
        // What it shows is right.
        let example = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, with_drives(example)).unwrap();
        let source = Source::load(Some(&file)).unwrap();
        for (line, text) in example.lines().enumerate() {
            let key = text.split(':').next().unwrap();
            if KEYS.contains(&key) {
                assert_eq!(source.place(key).unwrap(), format!("{}:{}", file.display(), line + 1));
            }
        }
        assert_eq!(source.lines.len(), KEYS.len());
    }

    #[test]
    fn a_file_that_is_named_must_be_there() {
        assert!(matches!(Config::load(Some(Path::new("/nowhere/a.yaml"))), Err(ConfigError::File(_))));
    }
}
