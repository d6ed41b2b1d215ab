//! The shell's loop: statements up to their `;`, and commands that begin with a dot.
//!
//! On a terminal lines are edited, long results are paged and Ctrl-C stops a query. Anywhere else the same statements and
//! commands are read to the end of the input, without a prompt.

use std::io::{self, BufRead, IsTerminal as _, Write};
use std::time::Instant;

use super::commands::{self, After, Settings};
use super::editor::{Editor, Input};
use super::format::{Mode, Writer};
use super::interrupt::Interrupts;
use super::pager::Paged;
use super::sql::is_complete;
use super::{Backend, Error, describe};

const PROMPT: &str = "agentquery> ";
const CONTINUED: &str = "       ...> ";

/// The shell on the process's own input and output. Errors in SQL are told and do not end it.
///
/// # Errors
/// When the input cannot be read or the output not be written.
pub fn start(backend: &mut dyn Backend, mode: Mode) -> io::Result<()> {
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        interactive(backend, mode)
    } else {
        run(backend, io::stdin().lock(), io::stdout().lock(), mode)
    }
}

/// Reads statements and commands to the end of the input. Errors in SQL are told and do not end it.
///
/// # Errors
/// When the input cannot be read or the output not be written.
pub fn run(backend: &mut dyn Backend, mut input: impl BufRead, out: impl Write, mode: Mode) -> io::Result<()> {
    let mut session = Session::new(backend, Plain(out), mode, false);
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            // What a file ends with needs no semicolon.
            return session.answer_pending();
        }
        if session.line(&String::from_utf8_lossy(&line))?.ends {
            return Ok(());
        }
    }
}

fn interactive(backend: &mut dyn Backend, mode: Mode) -> io::Result<()> {
    let mut editor = Editor::new()?;
    let screen = Screen(Interrupts::listen()?);
    let mut session = Session::new(backend, screen, mode, true);
    writeln!(io::stdout(), "agentquery {}; .help lists the shell's commands", env!("CARGO_PKG_VERSION"))?;
    loop {
        let prompt = if session.pending.is_empty() { PROMPT } else { CONTINUED };
        match editor.read(prompt, &session.pending)? {
            Input::Clear => session.pending.clear(),
            Input::End => return Ok(()),
            Input::Line(lines) => {
                for line in lines.split_inclusive('\n') {
                    let read = session.read(line);
                    if let Some(entry) = &read {
                        editor.remember(entry.text());
                    }
                    if session.take(read)?.ends {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// Asks the backend and writes what it says.
type Answer<'a> = dyn FnMut(&mut dyn Backend, &mut dyn Write) -> Result<(), Error> + 'a;

/// Where results go.
trait Output {
    /// Gives an answer. A reader who leaves before its end is no error.
    fn show(&mut self, settings: Settings, backend: &mut dyn Backend, answer: &mut Answer<'_>) -> Result<(), Error>;
}

/// A file or a pipe.
struct Plain<W>(W);

impl<W: Write> Output for Plain<W> {
    fn show(&mut self, _: Settings, backend: &mut dyn Backend, answer: &mut Answer<'_>) -> Result<(), Error> {
        answer(backend, &mut self.0)
    }
}

/// A terminal.
struct Screen(Interrupts);

impl Output for Screen {
    fn show(&mut self, settings: Settings, backend: &mut dyn Backend, answer: &mut Answer<'_>) -> Result<(), Error> {
        let stop = backend.interrupter();
        let mut paged = Paged::new(io::stdout(), settings.pager, stop.clone());
        let result = self.0.during(stop, || answer(backend, &mut paged));
        match (paged.finish()?, result) {
            // Whoever leaves the pager has seen enough.
            (true, Err(Error::Write(_) | Error::Interrupted)) => Ok(()),
            (_, result) => result,
        }
    }
}

/// What the lines so far make.
enum Entry {
    Statement(String),
    Command(String),
}

impl Entry {
    fn text(&self) -> &str {
        let (Self::Statement(text) | Self::Command(text)) = self;
        text
    }
}

/// Whether the shell ends.
struct Done {
    ends: bool,
}

struct Session<'a, O> {
    backend: &'a mut dyn Backend,
    out: O,
    settings: Settings,
    /// Lines of a statement that has not ended.
    pending: String,
}

impl<'a, O: Output> Session<'a, O> {
    fn new(backend: &'a mut dyn Backend, out: O, mode: Mode, terminal: bool) -> Self {
        let settings = Settings { mode, timer: false, pager: true, terminal };
        Self { backend, out, settings, pending: String::new() }
    }

    fn line(&mut self, line: &str) -> io::Result<Done> {
        let entry = self.read(line);
        self.take(entry)
    }

    /// What ends with this line.
    fn read(&mut self, line: &str) -> Option<Entry> {
        let trimmed = line.trim();
        if self.pending.is_empty() {
            if trimmed.starts_with('.') {
                return Some(Entry::Command(trimmed.to_owned()));
            }
            if trimmed.is_empty() {
                return None;
            }
        }
        self.pending.push_str(line);
        if !line.ends_with('\n') {
            self.pending.push('\n');
        }
        is_complete(&self.pending).then(|| Entry::Statement(std::mem::take(&mut self.pending)))
    }

    fn take(&mut self, entry: Option<Entry>) -> io::Result<Done> {
        match entry {
            None => {}
            Some(Entry::Statement(sql)) => self.answer(&sql)?,
            Some(Entry::Command(line)) => {
                let mut settings = self.settings;
                let mut after = After::Continue;
                self.out
                    .show(self.settings, self.backend, &mut |_, out| {
                        after = commands::run(&line, &mut settings, out)?;
                        Ok(())
                    })
                    .or_else(written)?;
                self.settings = settings;
                match after {
                    After::Continue => {}
                    After::Run(sql) => self.answer(&sql)?,
                    After::End => return Ok(Done { ends: true }),
                }
            }
        }
        Ok(Done { ends: false })
    }

    fn answer_pending(&mut self) -> io::Result<()> {
        let sql = std::mem::take(&mut self.pending);
        if sql.trim().is_empty() { Ok(()) } else { self.answer(&sql) }
    }

    fn answer(&mut self, sql: &str) -> io::Result<()> {
        let settings = self.settings;
        let began = Instant::now();
        let mut took = None;
        let result = self.out.show(settings, self.backend, &mut |backend, out| {
            let mut writer = Writer::new(out, settings.mode);
            let result = backend.run(sql, &mut writer);
            // Before the pager is left: reading is not the query's time.
            took = Some((began.elapsed(), writer.rows()));
            result
        });
        let told = match result {
            Ok(()) | Err(Error::Empty) => None,
            Err(Error::Write(error)) => return Err(error),
            Err(error) => Some(format!("Error: {}\n", describe(&error, sql))),
        };
        let timer = took.filter(|_| settings.timer).map(|(time, rows)| {
            format!("Run Time: real {:.3} s, {rows} row{}\n", time.as_secs_f64(), if rows == 1 { "" } else { "s" })
        });
        for text in [told, timer].into_iter().flatten() {
            self.out
                .show(settings, self.backend, &mut |_, out| Ok(out.write_all(text.as_bytes())?))
                .or_else(written)?;
        }
        Ok(())
    }
}

/// Nothing else fails where nothing is asked.
fn written(error: Error) -> io::Result<()> {
    match error {
        Error::Write(error) => Err(error),
        other => Err(io::Error::other(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::shell::{Engine, Limits};

    fn session(input: &[u8]) -> String {
        let mut engine = Engine::new(fixture::store(10), crate::tables::Viewer::All, Limits::default()).unwrap();
        let mut out = Vec::new();
        run(&mut engine, input, &mut out, Mode::Csv).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn statements_over_lines_and_after_errors() {
        let out = session(
            b"SELECT 1\n AS a\n;\nSELECT x;\nSELECT ';' AS b;\nSELECT 2 AS c; SELECT 3 AS d -- ;\n;\n.exit\nSELECT 4;",
        );
        let error = "Error: no such column: x\n  SELECT x;\n         ^\n";
        assert_eq!(out, format!("a\r\n1\r\n{error}b\r\n;\r\nc\r\n2\r\nd\r\n3\r\n"));
    }

    #[test]
    fn the_last_statement_needs_no_semicolon() {
        assert_eq!(session(b"SELECT 7 AS a"), "a\r\n7\r\n");
    }

    #[test]
    fn commands_between_statements() {
        assert_eq!(session(b".mode line\nSELECT 1 AS a;"), "a = 1\n");
        assert_eq!(session(b".tables ai\n"), "ai_agents\n");
        assert_eq!(session(b".all agent_signatures\n"), session(b"SELECT * FROM agent_signatures"));
        assert!(session(b".mode nothing").starts_with("Error"));
        let timed = session(b".timer on\nSELECT 1 AS a; SELECT 2 AS b;\n");
        assert!(timed.contains("b\r\n2\r\nRun Time: real 0.") && timed.ends_with(" s, 1 row\n"), "{timed}");
    }

    #[test]
    fn bytes_that_are_no_text_do_not_end_it() {
        assert_eq!(session(b"SELECT '\xff' AS a;\nSELECT 1 AS b;"), "a\r\n\u{fffd}\r\nb\r\n1\r\n");
    }
}
