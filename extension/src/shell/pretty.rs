//! Results as osqueryi shows them: a box around columns.

use std::io::{self, Write};

/// Writes the box. All rows are there, for the widths hang on each of them.
pub(super) fn write(out: &mut dyn Write, columns: &[String], rows: &[Vec<String>]) -> io::Result<()> {
    let mut widths: Vec<usize> = columns.iter().map(|name| width(name)).collect();
    for row in rows {
        for (cell, widest) in row.iter().zip(&mut widths) {
            *widest = width(cell).max(*widest);
        }
    }
    let rules: Vec<_> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
    let rule = format!("+{}+", rules.join("+"));
    writeln!(out, "{rule}")?;
    line(out, columns, &widths)?;
    writeln!(out, "{rule}")?;
    for row in rows {
        line(out, row, &widths)?;
    }
    if !rows.is_empty() {
        writeln!(out, "{rule}")?;
    }
    Ok(())
}

fn line(out: &mut dyn Write, cells: &[String], widths: &[usize]) -> io::Result<()> {
    for (cell, widest) in cells.iter().zip(widths) {
        write!(out, "| {cell}{} ", " ".repeat(widest.saturating_sub(width(cell))))?;
    }
    writeln!(out, "|")
}

fn width(text: &str) -> usize {
    text.chars().count()
}
