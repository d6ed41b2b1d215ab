//! The settings of a machine: one small YAML file, for what starts without a command line of its own.
//!
//! osquery passes an extension its socket and nothing else, and a service's command line is seldom looked at. What the
//! command line says goes before what the file says.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::collect::Syscalls;
use crate::trust::{self, TrustError};
use crate::yaml;

/// Where the file is when nothing else is said.
pub const DEFAULT: &str = "/etc/agentquery/config.yaml";

/// Where signatures of one's own are, besides those that the file or the command line names.
pub const SIGNATURES: &str = "/etc/agentquery/signatures";

/// Bytes of it.
const MAX_FILE: u64 = 64 << 10;

/// What the file says; all of it may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// When the hook on system calls is attached: `on_demand` or `always`.
    pub syscalls: Option<Syscalls>,
    /// Directories with signatures of one's own.
    pub signatures: Vec<PathBuf>,
    /// Directory of the recorder's lock and state.
    pub state_dir: Option<PathBuf>,
    /// Socket on which the recorder answers.
    pub socket: Option<PathBuf>,
    /// File of the history; `none` for rows in memory alone.
    pub database: Option<PathBuf>,
    /// Folder in which programs are pinned; `none` for none.
    pub pin: Option<PathBuf>,
    /// Days for which finished rows are kept.
    pub retention_days: Option<u32>,
    /// Bytes of the history's file that may be in use.
    pub retention_bytes: Option<u64>,
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
        let default = Path::new(DEFAULT);
        match file {
            None if !default.exists() => Ok(Self::default()),
            file => Self::read(file.unwrap_or(default)),
        }
    }

    fn read(file: &Path) -> Result<Self, ConfigError> {
        let bytes = trust::read(file, MAX_FILE)?;
        let text = String::from_utf8_lossy(&bytes);
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        yaml::parse(&text).map_err(|mistake| ConfigError::Invalid {
            file: file.into(),
            line: mistake.at.line(),
            column: mistake.at.column(),
            message: mistake.message,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, text).unwrap();
        let name = format!("{}:", file.display());
        Config::load(Some(&file)).map_err(|error| error.to_string().replace(&name, ""))
    }

    #[test]
    fn what_it_says() {
        let config = read(
            "syscalls: always\nsignatures:\n  - /etc/x\nstate_dir: /s\nsocket: /r/a.em\n\
                           database: /d/h.duckdb\nretention_days: 7\nretention_bytes: 1000000\n",
        )
        .unwrap();
        let expected = Config {
            syscalls: Some(Syscalls::Always),
            signatures: vec!["/etc/x".into()],
            state_dir: Some("/s".into()),
            socket: Some("/r/a.em".into()),
            database: Some("/d/h.duckdb".into()),
            pin: None,
            retention_days: Some(7),
            retention_bytes: Some(1_000_000),
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
    fn a_file_that_is_named_must_be_there() {
        assert!(matches!(Config::load(Some(Path::new("/nowhere/a.yaml"))), Err(ConfigError::File(_))));
    }
}
