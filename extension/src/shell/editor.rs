//! Reading lines from a terminal: editing, history, completion.

use std::io;
use std::path::PathBuf;

use rustyline::completion::Completer;
use rustyline::config::Configurer as _;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Helper};

use super::{complete, history};

/// Entries that are remembered.
const ENTRIES: usize = 1000;

/// What the user did.
pub(super) enum Input {
    /// Entered a line; several when they were pasted.
    Line(String),
    /// Ctrl-C: wants none of what is there.
    Clear,
    /// Ctrl-D.
    End,
}

/// The line editor.
pub(super) struct Editor {
    lines: rustyline::Editor<Words, FileHistory>,
    history: Option<PathBuf>,
}

impl Editor {
    pub(super) fn new() -> io::Result<Self> {
        // A candidate that is the only one is put in; of several, the common start, and at the second TAB the list.
        let config = Config::builder().completion_type(CompletionType::List).history_ignore_space(true).build();
        let mut lines = rustyline::Editor::with_config(config).map_err(failed)?;
        lines.set_max_history_size(ENTRIES).map_err(failed)?;
        lines.set_helper(Some(Words::default()));
        let history = history::file();
        if let Some(file) = &history {
            // A history that cannot be read is an empty one.
            let _ = lines.load_history(file);
        }
        Ok(Self { lines, history })
    }

    /// Reads a line; `before` are those that belong to the same statement.
    pub(super) fn read(&mut self, prompt: &str, before: &str) -> io::Result<Input> {
        if let Some(words) = self.lines.helper_mut() {
            before.clone_into(&mut words.before);
        }
        match self.lines.readline(prompt) {
            Ok(line) => Ok(Input::Line(line)),
            Err(ReadlineError::Interrupted) => Ok(Input::Clear),
            Err(ReadlineError::Eof) => Ok(Input::End),
            Err(error) => Err(failed(error)),
        }
    }

    /// A whole statement, or a command: at once on disk, for a shell may end in any way.
    pub(super) fn remember(&mut self, entry: &str) {
        let entry = entry.trim_end();
        if self.lines.add_history_entry(entry).unwrap_or(false)
            && let Some(file) = &self.history
        {
            let _ = self.lines.append_history(file);
        }
    }
}

fn failed(error: ReadlineError) -> io::Error {
    match error {
        ReadlineError::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// Completion, for the editor.
#[derive(Default)]
struct Words {
    before: String,
}

impl Completer for Words {
    type Candidate = String;

    fn complete(&self, line: &str, cursor: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(complete::complete(&self.before, line, cursor))
    }
}

impl Hinter for Words {
    type Hint = String;
}

impl Highlighter for Words {}
impl Validator for Words {}
impl Helper for Words {}
