//! The interactive shell: statements up to their `;`, and a few commands that begin with a dot.

use std::io::{BufRead, Write};

use super::format::{Mode, Writer};
use super::{Backend, Error};
use crate::tables::{all, find, schema};

const HELP: &str = "\
Write SQL and end it with a semicolon.
  .tables         the tables
  .schema [TABLE] their columns
  .mode MODE      how results are written: pretty, json, csv, line or markdown
  .help           this
  .exit           end
";

/// Reads statements and commands to the end of the input. Errors in SQL are told and do not end it.
///
/// # Errors
/// When the input cannot be read or the output not be written.
pub fn run(
    backend: &mut dyn Backend,
    mut input: impl BufRead,
    mut out: impl Write,
    mut mode: Mode,
    prompts: bool,
) -> std::io::Result<()> {
    let mut pending = String::new();
    let mut line = String::new();
    loop {
        if prompts {
            write!(out, "{}", if pending.is_empty() { "agentquery> " } else { "       ...> " })?;
            out.flush()?;
        }
        line.clear();
        if input.read_line(&mut line)? == 0 {
            break;
        }
        let trimmed = line.trim();
        if pending.is_empty() && trimmed.starts_with('.') {
            if trimmed == ".exit" || trimmed == ".quit" {
                return Ok(());
            }
            command(trimmed, &mut out, &mut mode)?;
            continue;
        }
        if pending.is_empty() && trimmed.is_empty() {
            continue;
        }
        pending.push_str(&line);
        if is_complete(&pending) {
            answer(backend, &std::mem::take(&mut pending), &mut out, mode)?;
        }
    }
    if prompts {
        writeln!(out)?;
    }
    // What a file ends with needs no semicolon.
    if pending.trim().is_empty() { Ok(()) } else { answer(backend, &pending, &mut out, mode) }
}

fn answer(backend: &mut dyn Backend, sql: &str, out: &mut impl Write, mode: Mode) -> std::io::Result<()> {
    match backend.run(sql, &mut Writer::new(&mut *out, mode)) {
        Ok(()) | Err(Error::Empty) => Ok(()),
        Err(Error::Write(error)) => Err(error),
        Err(error) => writeln!(out, "Error: {}", super::escape::visible(&error.to_string())),
    }
}

fn command(line: &str, out: &mut impl Write, mode: &mut Mode) -> std::io::Result<()> {
    let mut words = line.split_whitespace();
    match (words.next().unwrap_or_default(), words.next()) {
        (".tables", None) => all().iter().try_for_each(|table| writeln!(out, "{}", table.info().name)),
        (".schema", None) => all().iter().try_for_each(|table| writeln!(out, "{};", schema::create_table(*table))),
        (".schema", Some(name)) => match find(name) {
            Some(table) => writeln!(out, "{};", schema::create_table(table)),
            None => writeln!(out, "Error: no such table; .tables lists them"),
        },
        (".mode", Some(name)) if Mode::named(name).is_some() => {
            *mode = Mode::named(name).unwrap_or_default();
            Ok(())
        }
        (".help", _) => write!(out, "{HELP}"),
        _ => writeln!(out, "Error: no such command; .help lists them"),
    }
}

/// Whether the text ends in a `;` that is not inside a text, a name or a comment.
fn is_complete(sql: &str) -> bool {
    let mut complete = false;
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        let skip = |from: usize, end: &str| {
            rest.get(from..).and_then(|body| body.find(end)).map(|found| from + found + end.len())
        };
        let length = match c {
            '\'' => skip(1, "'"),
            '"' => skip(1, "\""),
            '`' => skip(1, "`"),
            '[' => skip(1, "]"),
            '-' if rest.starts_with("--") => Some(skip(2, "\n").unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => skip(2, "*/"),
            c => {
                if !c.is_whitespace() {
                    complete = c == ';';
                }
                rest = rest.get(c.len_utf8()..).unwrap_or_default();
                continue;
            }
        };
        let comment = c == '/' || rest.starts_with("--");
        let Some(length) = length else { return false };
        complete = complete && comment;
        rest = rest.get(length..).unwrap_or_default();
    }
    complete
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::shell::{Engine, Limits};

    fn session(input: &str) -> String {
        let mut engine = Engine::new(fixture::store(10), crate::tables::Viewer::All, Limits::default()).unwrap();
        let mut out = Vec::new();
        run(&mut engine, input.as_bytes(), &mut out, Mode::Csv, false).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn statements_over_lines_and_after_errors() {
        let out = session(
            "SELECT 1\n AS a\n;\nSELECT x;\nSELECT ';' AS b;\nSELECT 2 AS c; SELECT 3 AS d -- ;\n;\n.exit\nSELECT 4;",
        );
        assert_eq!(out, "a\r\n1\r\nError: no such column: x\nb\r\n;\r\nc\r\n2\r\nd\r\n3\r\n");
    }

    #[test]
    fn the_last_statement_needs_no_semicolon() {
        assert_eq!(session("SELECT 7 AS a"), "a\r\n7\r\n");
    }

    #[test]
    fn commands() {
        assert_eq!(session(".tables\n").lines().count(), 7);
        assert!(session(".schema agent_file_ops").starts_with("CREATE TABLE \"agent_file_ops\" (\n  \"eid\" BIGINT,"));
        assert_eq!(session(".schema nothing\n"), "Error: no such table; .tables lists them\n");
        assert_eq!(session(".mode line\nSELECT 1 AS a;"), "a = 1\n");
        assert!(session(".mode nothing").starts_with("Error"));
        assert!(session(".help").contains(".tables"));
    }

    #[test]
    fn where_a_statement_ends() {
        for (sql, complete) in [
            ("select 1;", true),
            ("select 1; -- done", true),
            ("select 1; /* done */ ", true),
            ("select ';", false),
            ("select ';'", false),
            ("select [;]", false),
            ("select 1 -- ;", false),
            ("select 1 /* ;", false),
            ("select 'it''s';", true),
            ("select 1; select 2", false),
            (";'", false),
            ("é;", true),
        ] {
            assert_eq!(is_complete(sql), complete, "{sql}");
        }
    }
}
