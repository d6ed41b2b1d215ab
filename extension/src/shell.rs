//! The embedded engine and the ways to ask it.
//!
//! [`Engine`] is SQLite over the tables; [`mod@format`] writes what a query gives; [`repl`] is the interactive shell. The
//! latter two also serve a query that somebody else answers: they know only [`Backend`] and [`Sink`].
//!
//! The shell is made of small parts: `editor` reads lines, `complete` knows what a word may become, `commands` are those
//! that begin with a dot, `pager` shows what is longer than the screen, `interrupt` stops a query, [`describe`] tells an
//! error, and `sql` is what these know of SQL.

mod commands;
mod complete;
mod editor;
mod engine;
pub(crate) mod escape;
pub mod format;
mod history;
mod interrupt;
mod module;
mod pager;
mod place;
mod pretty;
pub mod repl;
mod sql;

use std::io;
use std::sync::Arc;

pub use engine::{Engine, Limits};
pub use place::describe;

use crate::value::Value;

/// Why a query gave no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine refused the SQL, or it failed.
    #[error("{0}")]
    Sql(String),
    /// The engine refused the SQL, and knows the place.
    #[error("{message}")]
    Place {
        /// What is wrong.
        message: String,
        /// Where, in bytes of the SQL.
        offset: usize,
    },
    /// The SQL does more than read.
    #[error("only reading is allowed: SELECT, and the PRAGMAs table_info, table_xinfo and table_list")]
    ReadOnly,
    /// The query ran too long.
    #[error("the query took longer than {0} seconds and was stopped; narrow it, for example by time")]
    TooLong(u64),
    /// The query needs too much memory.
    #[error("the queries that run now need more than {0} MB of memory; sort or group fewer rows, or fewer columns")]
    TooLarge(u32),
    /// Somebody stopped the query, by [`Backend::interrupter`].
    #[error("stopped")]
    Interrupted,
    /// There is no statement in the SQL.
    #[error("there is no SQL to run")]
    Empty,
    /// The result could not be written.
    #[error("cannot write the result: {0}")]
    Write(#[from] io::Error),
    /// The server that was asked did not answer as it should.
    #[error("{0}")]
    Remote(String),
}

impl Error {
    /// Whether a query for fewer rows could go well.
    #[must_use]
    pub fn asks_to_narrow(&self) -> bool {
        match self {
            Self::TooLong(_) | Self::TooLarge(_) => true,
            // From a socket errors come as text.
            Self::Remote(message) => message.contains("narrow"),
            _ => false,
        }
    }

    /// Whether the same query could go well a little later.
    #[must_use]
    pub fn asks_to_wait(&self) -> bool {
        let waits = |message: &String| {
            ["ask again in a moment", "queries that run now"].iter().any(|part| message.contains(part))
        };
        matches!(self, Self::Remote(message) if waits(message))
    }
}

/// Takes a query's result, row by row.
pub trait Sink {
    /// A statement's result begins.
    ///
    /// # Errors
    /// When it cannot be taken.
    fn begin(&mut self, columns: &[String]) -> io::Result<()>;
    /// A row of it.
    ///
    /// # Errors
    /// When it cannot be taken.
    fn row(&mut self, cells: &[Value]) -> io::Result<()>;
    /// The result is complete.
    ///
    /// # Errors
    /// When it cannot be taken.
    fn end(&mut self) -> io::Result<()>;
}

/// Stops the query that runs, from another thread; without one it does nothing.
pub type Interrupter = Arc<dyn Fn() + Send + Sync>;

/// Answers SQL.
pub trait Backend {
    /// Runs the statements one after the other.
    ///
    /// # Errors
    /// At the first statement that fails; what was written before stays.
    fn run(&mut self, sql: &str, sink: &mut dyn Sink) -> Result<(), Error>;

    /// What stops the next query; good for that one alone.
    fn interrupter(&self) -> Interrupter;
}

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn what_can_be_done_about_an_error_is_known_from_its_text() {
        let remote = |error: Error| Error::Remote(error.to_string());
        assert!(remote(Error::TooLong(60)).asks_to_narrow() && remote(Error::TooLarge(64)).asks_to_wait());
        assert!(Error::TooLong(60).asks_to_narrow() && Error::TooLarge(64).asks_to_narrow());
        let other = remote(Error::Sql("no such column: x".into()));
        assert!(!other.asks_to_narrow() && !other.asks_to_wait());
    }
}
