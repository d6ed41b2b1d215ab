//! Which process is an agent.
//!
//! An agent is told by facts that are hard to have by accident: the real path of its executable, the real path of the
//! script that an interpreter runs, the directory of its package. A name by itself never decides, for names are short
//! and shared (`q`, `goose`, `codex`), and neither does a word on the command line, for prompts stand there too. What
//! to look for is data: one YAML file an agent in `signatures/agents`, whose format is told in `docs/signatures.md`.
//!
//! The kernel side knows only path components. [`Catalogue::literals`] gives it those of which every match has one, and
//! [`Catalogue::identify`] looks at a signature only when one of its literals is there, so that both sides agree by
//! construction and a miss costs a few hash lookups.

mod builtin;
mod catalogue;
mod compile;
mod explain;
mod format;
mod glob;
mod interpreter;
mod package;
mod pattern;
#[cfg(test)]
mod schema;
mod signature;
mod version;
pub(crate) mod windows;

use std::path::Path;
use std::sync::Arc;

pub(crate) use catalogue::is_signature_file;
pub use catalogue::{Catalogue, Checked, RULES, files_in};
pub use explain::{Rule, Trial};
pub use format::{Category, SignatureError};
pub(crate) use glob::Glob;
pub use interpreter::{INTERPRETERS, is_interpreter, script_candidates};
pub use signature::{Signature, is_at_or_below};
pub use version::VersionSource;

/// The last components of a path that count, here and in the kernel.
pub const WINDOW: usize = 8;

/// The arguments that count: the program's own name and three more.
const ARGUMENTS: usize = 4;

/// What is known of a process when it has started a program.
#[derive(Debug, Clone, Copy)]
pub struct ProcessFacts<'a> {
    /// Real path of the image that runs.
    pub path: &'a str,
    /// The name as passed to `execve`.
    pub exec_path: &'a str,
    /// The arguments; only the first four are looked at.
    pub argv: &'a [String],
    /// Real path of the script, when an interpreter runs one and it could be resolved.
    pub script: Option<&'a str>,
    /// Name of the parent process.
    pub parent_name: Option<&'a str>,
}

/// What is looked up about a process only when a signature that may fit wants to know it.
pub trait Ask {
    /// Whether its environment has a variable of that name.
    fn has_variable(&self, name: &str) -> bool;
    /// The names in a directory; none when it cannot be read.
    fn names_in(&self, directory: &Path) -> Vec<String>;
    /// A small file.
    fn text(&self, file: &Path) -> Option<String>;
}

/// Nothing more is known than the facts.
#[derive(Debug, Clone, Copy)]
pub struct NothingToAsk;

impl Ask for NothingToAsk {
    fn has_variable(&self, _name: &str) -> bool {
        false
    }

    fn names_in(&self, _directory: &Path) -> Vec<String> {
        Vec::new()
    }

    fn text(&self, _file: &Path) -> Option<String> {
        None
    }
}

/// What an agent's process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The agent itself.
    Main,
    /// A server that sessions connect to.
    Daemon,
    /// A process that the agent has for itself, and no session.
    Helper,
}

impl Role {
    /// As it stands in a row.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Daemon => "daemon",
            Self::Helper => "helper",
        }
    }
}

/// A process was recognised.
#[derive(Debug, Clone)]
pub struct Match {
    /// As what.
    pub signature: Arc<Signature>,
    /// How sure it is, 0 to 100.
    pub confidence: u8,
    /// The rules that held.
    pub evidence: String,
    /// What the process is for.
    pub role: Role,
    /// Where the agent's version can be read.
    pub version: VersionSource,
    /// It was started with a flag that means that it asks for no approval.
    pub unattended: bool,
}

/// The components of a path that count, the last one first.
fn window(path: &str) -> impl Iterator<Item = &str> {
    path.rsplit('/').filter(|component| !component.is_empty()).take(WINDOW)
}

/// The last component of a path.
pub(crate) fn file_name(path: &str) -> &str {
    let name = if windows::is(path) { path.rsplit(['/', '\\']).next() } else { path.rsplit('/').next() };
    name.unwrap_or(path)
}

// A thousand files are read: under wine that would measure wine.
#[cfg(all(test, unix))]
mod cost;
#[cfg(test)]
mod facts;
#[cfg(test)]
mod macos;
#[cfg(test)]
mod malformed;
#[cfg(test)]
mod tests;
