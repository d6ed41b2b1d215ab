//! How results are written.
//!
//! For people, a missing value is an empty cell and hidden characters are written out. For programs, all values are
//! text in JSON, as in osquery (ids are beyond what a reader's doubles can hold), and a missing one is null.

use std::io::{self, Write};

use super::escape::visible;
use super::{Sink, pretty};
use crate::value::Value;

/// A way to write results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// A box, for people.
    #[default]
    Pretty,
    /// An array of objects.
    Json,
    /// Comma-separated values by RFC 4180.
    Csv,
    /// A line a value, for people.
    Line,
    /// A Markdown table, for people.
    Markdown,
}

impl Mode {
    /// All, by the name that the shell knows them by.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("pretty", Self::Pretty),
        ("json", Self::Json),
        ("csv", Self::Csv),
        ("line", Self::Line),
        ("markdown", Self::Markdown),
    ];

    /// The mode of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, mode)| mode)
    }
}

/// Writes results in a mode.
pub struct Writer<W> {
    out: W,
    mode: Mode,
    columns: Vec<String>,
    frame: pretty::Frame,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// A writer to `out`.
    pub fn new(out: W, mode: Mode) -> Self {
        Self { out, mode, columns: Vec::new(), frame: pretty::Frame::default(), written: 0 }
    }

    /// Rows of the last statement.
    pub fn rows(&self) -> u64 {
        self.written
    }

    fn separated(&mut self, cells: impl Iterator<Item = String>) -> io::Result<()> {
        let cells: Vec<_> = cells.collect();
        write!(self.out, "{}\r\n", cells.join(","))
    }

    fn bars(&mut self, cells: impl Iterator<Item = String>) -> io::Result<()> {
        let cells: Vec<_> = cells.map(|cell| cell.replace('\\', "\\\\").replace('|', "\\|")).collect();
        writeln!(self.out, "| {} |", cells.join(" | "))
    }
}

/// The cell's text; none for NULL.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Integer(integer) => Some(integer.to_string()),
        Value::Double(double) => Some(format!("{double:?}")),
        Value::Text(text) => Some(text.to_string()),
    }
}

fn shown(value: &Value) -> String {
    text(value).map(|text| visible(&text).into_owned()).unwrap_or_default()
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

impl<W: Write> Sink for Writer<W> {
    fn begin(&mut self, columns: &[String]) -> io::Result<()> {
        // A column's name can be an expression with any text inside.
        let seen = |name: &String| {
            if self.mode == Mode::Json || self.mode == Mode::Csv { name.clone() } else { visible(name).into_owned() }
        };
        self.columns = columns.iter().map(seen).collect();
        self.written = 0;
        match self.mode {
            Mode::Pretty => {
                self.frame = pretty::Frame::new(self.columns.clone());
                Ok(())
            }
            Mode::Line => Ok(()),
            Mode::Json => write!(self.out, "["),
            Mode::Csv => {
                let names = self.columns.clone();
                self.separated(names.iter().map(|name| quoted(name)))
            }
            Mode::Markdown => {
                let names = self.columns.clone();
                self.bars(names.into_iter())?;
                self.bars(columns.iter().map(|_| "---".to_owned()))
            }
        }
    }

    fn row(&mut self, cells: &[Value]) -> io::Result<()> {
        let first = self.written == 0;
        self.written += 1;
        match self.mode {
            Mode::Pretty => self.frame.row(&mut self.out, cells.iter().map(shown).collect()),
            Mode::Json => {
                write!(self.out, "{}\n  {{", if first { "" } else { "," })?;
                for (index, (name, value)) in self.columns.iter().zip(cells).enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    let value = serde_json::Value::from(text(value));
                    write!(self.out, "{comma}{}:{value}", serde_json::Value::from(name.as_str()))?;
                }
                write!(self.out, "}}")
            }
            Mode::Csv => self.separated(cells.iter().map(|cell| quoted(&text(cell).unwrap_or_default()))),
            Mode::Line => {
                let widest = self.columns.iter().map(|name| name.chars().count()).max().unwrap_or(0);
                if !first {
                    writeln!(self.out)?;
                }
                for (name, value) in self.columns.iter().zip(cells) {
                    let space = " ".repeat(widest.saturating_sub(name.chars().count()));
                    writeln!(self.out, "{space}{name} = {}", shown(value))?;
                }
                Ok(())
            }
            Mode::Markdown => self.bars(cells.iter().map(shown)),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        match self.mode {
            Mode::Pretty => self.frame.end(&mut self.out)?,
            Mode::Json => writeln!(self.out, "{}]", if self.written == 0 { "" } else { "\n" })?,
            Mode::Csv | Mode::Line | Mode::Markdown => {}
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{EID, HOSTILE};

    fn written(mode: Mode, rows: &[[Value; 2]]) -> String {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, mode);
        writer.begin(&["eid".to_owned(), "path".to_owned()]).unwrap();
        for row in rows {
            writer.row(row).unwrap();
        }
        writer.end().unwrap();
        String::from_utf8(out).unwrap()
    }

    fn rows() -> Vec<[Value; 2]> {
        vec![[EID.into(), HOSTILE.into()], [Value::Null, "é".into()]]
    }

    #[test]
    fn every_mode() {
        let all: Vec<_> =
            Mode::NAMES.iter().map(|(name, mode)| format!("{name}:\n{}", written(*mode, &rows()))).collect();
        let plain = |c: char| c == '\n' || !(c.is_control() || c == '\u{202e}');
        let all = all.join("\n");
        let text = all.chars().map(|c| if plain(c) { c.to_string() } else { c.escape_unicode().to_string() });
        insta::assert_snapshot!(text.collect::<String>());
    }

    #[test]
    fn nothing_hidden_reaches_a_terminal() {
        for mode in [Mode::Pretty, Mode::Line, Mode::Markdown] {
            let text = written(mode, &rows());
            assert!(text.chars().all(|c| c == '\n' || (!c.is_control() && c != '\u{202e}')), "{text:?}");
        }
    }

    #[test]
    fn json_is_json_and_its_values_are_text() {
        let json: serde_json::Value = serde_json::from_str(&written(Mode::Json, &rows())).unwrap();
        assert_eq!(json[0]["eid"], EID.to_string());
        assert_eq!(json[0]["path"], HOSTILE);
        assert_eq!(json[1]["eid"], serde_json::Value::Null);
        assert_eq!(written(Mode::Json, &[]), "[]\n");
    }
}
