//! Results as osqueryi shows them: a box around columns.
//!
//! The widths hang on the rows, but a long result must not wait for its last one: they are those of the first rows. A
//! later cell that is wider makes its line longer and is not cut.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use unicode_width::UnicodeWidthStr as _;

/// Rows that decide the widths.
const FIRST_ROWS: usize = 1000;

/// How long rows are kept back for that.
const PATIENCE: Duration = Duration::from_millis(200);

/// A box that is being written.
#[derive(Default)]
pub(super) struct Frame {
    columns: Vec<String>,
    /// Rows that wait for the widths.
    first: Vec<Vec<String>>,
    since: Option<Instant>,
    /// None until the head is written.
    widths: Option<Vec<usize>>,
}

impl Frame {
    pub(super) fn new(columns: Vec<String>) -> Self {
        Self { columns, ..Self::default() }
    }

    pub(super) fn row(&mut self, out: &mut dyn Write, row: Vec<String>) -> io::Result<()> {
        if let Some(widths) = &self.widths {
            return line(out, &row, widths);
        }
        self.first.push(row);
        let since = *self.since.get_or_insert_with(Instant::now);
        if self.first.len() >= FIRST_ROWS || since.elapsed() >= PATIENCE { self.head(out).map(drop) } else { Ok(()) }
    }

    /// Writes what waited; true when there is a row.
    fn head(&mut self, out: &mut dyn Write) -> io::Result<bool> {
        let mut widths: Vec<usize> = self.columns.iter().map(|name| width(name)).collect();
        for row in &self.first {
            for (cell, widest) in row.iter().zip(&mut widths) {
                *widest = width(cell).max(*widest);
            }
        }
        rule(out, &widths)?;
        line(out, &self.columns, &widths)?;
        rule(out, &widths)?;
        let rows = std::mem::take(&mut self.first);
        for row in &rows {
            line(out, row, &widths)?;
        }
        self.widths = Some(widths);
        Ok(!rows.is_empty())
    }

    pub(super) fn end(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let rows = self.widths.is_some() || self.head(out)?;
        match &self.widths {
            Some(widths) if rows => rule(out, widths),
            _ => Ok(()),
        }
    }
}

fn rule(out: &mut dyn Write, widths: &[usize]) -> io::Result<()> {
    let rules: Vec<_> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    writeln!(out, "+{}+", rules.join("+"))
}

fn line(out: &mut dyn Write, cells: &[String], widths: &[usize]) -> io::Result<()> {
    for (cell, widest) in cells.iter().zip(widths) {
        write!(out, "| {cell}{} ", " ".repeat(widest.saturating_sub(width(cell))))?;
    }
    writeln!(out, "|")
}

/// Columns of a terminal that the text takes.
pub(super) fn width(text: &str) -> usize {
    text.width()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }

    #[test]
    fn a_long_result_does_not_wait_for_its_end() {
        let mut out = Vec::new();
        let mut table = Frame::new(row("a"));
        for _ in 0..FIRST_ROWS {
            table.row(&mut out, row("x")).unwrap();
        }
        assert!(!out.is_empty(), "the first rows are shown before there is an end");
        table.row(&mut out, row("wider")).unwrap();
        table.end(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), FIRST_ROWS + 5);
        assert!(text.ends_with("| x |\n| wider |\n+---+\n"));
    }

    #[test]
    fn a_slow_result_shows_what_there_is() {
        let mut out = Vec::new();
        let mut table = Frame::new(row("a"));
        table.row(&mut out, row("x")).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while out.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
            table.row(&mut out, row("y")).unwrap();
        }
        assert!(out.starts_with(b"+---+\n| a |\n+---+\n| x |\n| y |\n"));
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let mut out = Vec::new();
        let mut table = Frame::new(row("a"));
        table.row(&mut out, row("日本")).unwrap();
        table.row(&mut out, row("abcd")).unwrap();
        table.end(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "+------+\n| a    |\n+------+\n| 日本 |\n| abcd |\n+------+\n");
    }
}
