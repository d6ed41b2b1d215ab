//! Asking for a table's rows, a piece at a time.
//!
//! What is asked for at once is what began in a short time, and never more than some thousand rows: whoever answers holds
//! an answer whole. When there are more, or the answer is too large or takes too long, the time is made shorter and it
//! is asked again. When a row began does not change, so each is in one piece, also when it ends or moves from memory
//! into the history meanwhile.

use std::io;
use std::ops::Range;
use std::time::Duration;

use super::{ExportError, Row};
use crate::osquery::Stop;
use crate::shell::{self, Backend, Sink};
use crate::tables::schema::quote;
use crate::tables::{Column, ColumnType, Table};
use crate::value::Value;

/// Rows of a piece, less one.
const ROWS: usize = if cfg!(test) { 5 } else { 5000 };

/// Between two questions to one who is busy, and how often it is asked.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 500 });
const TRIES: u32 = 20;

/// What of a table is exported.
pub struct Shape {
    /// The table.
    pub table: &'static dyn Table,
    /// The columns that are not hidden.
    pub columns: Vec<&'static Column>,
    /// Among them, what tells rows apart.
    pub key: usize,
    /// And when a row began.
    pub begin: usize,
    /// How many of it are a second.
    pub second: i64,
    /// Whether its rows go on after they began.
    pub lasts: bool,
}

impl Shape {
    /// None of a table whose rows are not kept.
    pub fn of(table: &'static dyn Table) -> Option<Self> {
        let key = table.columns().get(table.key())?.name;
        let columns: Vec<_> = table.columns().into_iter().filter(|column| !column.is_hidden()).collect();
        let place = |name: &str| columns.iter().position(|column| column.name == name);
        // The time of what is no event is that of its last change.
        let (begin, second) = if key == "eid" { ("time_ns", 1_000_000_000) } else { ("start_time", 1) };
        let (key, begin, lasts) = (place(key)?, place(begin)?, place("end_time").is_some());
        table.is_kept().then_some(Self { table, columns, key, begin, second, lasts })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.table.info().name
    }

    fn column(&self, index: usize) -> &'static str {
        self.columns.get(index).map_or("", |column| column.name)
    }

    /// What tells the row from others.
    pub fn key_of(&self, row: &Row) -> i64 {
        number(row, self.key)
    }

    /// When the row began.
    pub fn begin_of(&self, row: &Row) -> i64 {
        number(row, self.begin)
    }

    fn sql(&self, condition: &str) -> String {
        let columns: Vec<_> = self.columns.iter().map(|column| quote(column.name)).collect();
        format!("SELECT {} FROM {} WHERE {condition}", columns.join(", "), quote(self.name()))
    }
}

fn number(row: &Row, index: usize) -> i64 {
    if let Some(Value::Integer(number)) = row.get(index) { *number } else { 0 }
}

/// Asks for rows of a table.
pub struct Pieces<'a> {
    /// Who answers.
    pub backend: &'a mut dyn Backend,
    /// Ends it.
    pub stop: &'a Stop,
}

impl Pieces<'_> {
    /// The rows that began in that time, in its order. Each piece comes with when it ends.
    pub fn began(
        &mut self,
        shape: &Shape,
        time: Range<i64>,
        mut take: impl FnMut(i64, Vec<Row>) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let (mut at, mut width, mut most) = (time.start, time.end.saturating_sub(time.start), ROWS);
        let begin = shape.column(shape.begin);
        while at < time.end {
            let end = at.saturating_add(width).min(time.end);
            let sql = shape.sql(&format!("{begin} >= {at} AND {begin} < {end} LIMIT {most}"));
            match self.ask(shape, &sql) {
                Ok(mut rows) if rows.len() < most => {
                    rows.sort_unstable_by_key(|row| (shape.begin_of(row), shape.key_of(row)));
                    if rows.len() < most / 4 {
                        width = width.saturating_mul(4);
                    }
                    take(end, rows)?;
                    (at, most) = (end, ROWS);
                }
                Ok(_) if end - at == 1 => most = most.saturating_mul(2),
                Err(Failure::Narrow(_)) | Ok(_) if end - at > 1 => width = ((end - at) / 8).max(1),
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// The rows that began before that second and had not ended then.
    pub fn lasted(&mut self, shape: &Shape, since: i64) -> Result<Vec<Row>, ExportError> {
        let (begin, bound) = (shape.column(shape.begin), since.saturating_mul(shape.second));
        // What ends meanwhile is in both. The sign keeps the first from being a question about the past: what lives is
        // shown whenever it began, and all else that is old need not be read.
        let live = shape.sql(&format!("end_time IS NULL AND +{begin} < {bound}"));
        let ended = shape.sql(&format!("end_time >= {since} AND {begin} < {bound}"));
        let mut rows = self.ask(shape, &live)?;
        rows.extend(self.ask(shape, &ended)?);
        // Of two, the later one knows how it ended.
        rows.reverse();
        rows.sort_by_key(|row| shape.key_of(row));
        rows.dedup_by_key(|row| shape.key_of(row));
        Ok(rows)
    }

    fn ask(&mut self, shape: &Shape, sql: &str) -> Result<Vec<Row>, Failure> {
        let mut tries = 0;
        loop {
            if self.stop.wait(Duration::ZERO) {
                return Err(Failure::Interrupted);
            }
            let mut page = Page { columns: &shape.columns, rows: Vec::new(), mistake: None };
            let answer = self.backend.run(sql, &mut page);
            if let Some(mistake) = page.mistake {
                return Err(Failure::Answer(mistake));
            }
            tries += 1;
            match answer {
                Ok(()) => return Ok(page.rows),
                Err(error) if error.asks_to_narrow() => return Err(Failure::Narrow(error)),
                Err(error) if error.asks_to_wait() && tries < TRIES => {
                    let _ = self.stop.wait(PAUSE);
                }
                Err(error) => return Err(Failure::Query(error)),
            }
        }
    }
}

/// Why there is no piece.
enum Failure {
    /// Fewer rows could be had.
    Narrow(shell::Error),
    Query(shell::Error),
    Answer(String),
    Interrupted,
}

impl From<Failure> for ExportError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Narrow(error) | Failure::Query(error) => Self::Query(error),
            Failure::Answer(what) => Self::Answer(what),
            Failure::Interrupted => Self::Interrupted,
        }
    }
}

/// Takes an answer. Through a socket all cells come as text, and get the types of their columns back.
struct Page<'a> {
    columns: &'a [&'static Column],
    rows: Vec<Row>,
    mistake: Option<String>,
}

impl Sink for Page<'_> {
    fn begin(&mut self, columns: &[String]) -> io::Result<()> {
        if self.columns.iter().map(|column| column.name).ne(columns.iter().map(String::as_str)) {
            self.mistake = Some(format!("columns {}", columns.join(", ")));
        }
        self.rows.clear();
        Ok(())
    }

    fn row(&mut self, cells: &[Value]) -> io::Result<()> {
        let typed = |(column, cell): (&&Column, &Value)| {
            typed(column.kind, cell).ok_or_else(|| format!("{cell:?} in the column {}", column.name))
        };
        match self.columns.iter().zip(cells).map(typed).collect() {
            Ok(row) => self.rows.push(row),
            Err(mistake) => self.mistake = Some(mistake),
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn typed(kind: ColumnType, cell: &Value) -> Option<Value> {
    Some(match (cell, kind) {
        (Value::Text(text), ColumnType::Integer | ColumnType::BigInt) => Value::Integer(text.parse().ok()?),
        (Value::Text(text), ColumnType::Double) => Value::Double(text.parse().ok()?),
        (Value::Null, _)
        | (Value::Text(_), ColumnType::Text)
        | (Value::Integer(_), ColumnType::Integer | ColumnType::BigInt)
        | (Value::Double(_), ColumnType::Double) => cell.clone(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::Interrupter;
    use crate::tables;

    /// Rows that began at these times, which can be had three at a time only.
    struct Slow {
        begins: Vec<i64>,
        asked: usize,
    }

    impl Backend for Slow {
        fn run(&mut self, sql: &str, sink: &mut dyn Sink) -> Result<(), shell::Error> {
            self.asked += 1;
            let number = |after: &str| -> i64 {
                let rest = sql.split_once(after).unwrap().1;
                rest.split_whitespace().next().unwrap().parse().unwrap()
            };
            let time = number("time_ns >= ")..number("time_ns < ");
            let most = usize::try_from(number("LIMIT ")).unwrap();
            let columns = Shape::of(tables::find("agent_file_ops").unwrap()).unwrap().columns;
            let found: Vec<_> = self.begins.iter().filter(|begin| time.contains(begin)).take(most).collect();
            if self.asked % 7 == 3 {
                return Err(shell::Error::Remote(
                    "agentquery is busy with other queries; ask again in a moment".into(),
                ));
            }
            if found.len() > 3 && time.end - time.start > 1 {
                return Err(shell::Error::TooLong(60));
            }
            sink.begin(&columns.iter().map(|column| column.name.to_owned()).collect::<Vec<_>>())?;
            for begin in found {
                let cell = |column: &&Column| match column.name {
                    "eid" | "time_ns" => begin.to_string().into(),
                    _ => Value::Null,
                };
                sink.row(&columns.iter().map(cell).collect::<Vec<_>>())?;
            }
            sink.end()?;
            Ok(())
        }

        fn interrupter(&self) -> Interrupter {
            std::sync::Arc::new(|| {})
        }
    }

    #[test]
    fn every_row_once_however_little_can_be_had() {
        // Some far apart, some close, and more at one moment than a piece has.
        let mut begins: Vec<i64> = (0..40).map(|n| n * n * n * 1_000_003 % 50_000_000).collect();
        begins.extend([7_777; 23]);
        let shape = Shape::of(tables::find("agent_file_ops").unwrap()).unwrap();
        let mut backend = Slow { begins: begins.clone(), asked: 0 };
        let (stop, mut got, mut reached) = (Stop::default(), Vec::new(), 0);
        let mut pieces = Pieces { backend: &mut backend, stop: &stop };
        let time = 100..45_000_000;
        pieces
            .began(&shape, time.clone(), |end, rows| {
                assert!(end > reached);
                reached = end;
                got.extend(rows.iter().map(|row| shape.begin_of(row)));
                Ok(())
            })
            .unwrap();
        begins.retain(|begin| time.contains(begin));
        begins.sort_unstable();
        assert_eq!((got, reached), (begins, time.end));
        stop.request();
        let mut pieces = Pieces { backend: &mut backend, stop: &stop };
        assert!(matches!(pieces.began(&shape, time, |_, _| Ok(())), Err(ExportError::Interrupted)));
    }

    #[test]
    fn text_gets_its_columns_type() {
        assert_eq!(typed(ColumnType::BigInt, &"-5".into()), Some(Value::Integer(-5)));
        assert_eq!(typed(ColumnType::Double, &"0.1".into()), Some(Value::Double(0.1)));
        assert_eq!(typed(ColumnType::Integer, &"x".into()), None);
        assert_eq!(typed(ColumnType::Text, &Value::Integer(1)), None);
        for name in ["ai_agents", "agent_processes", "agent_connections", "agent_file_ops"] {
            let shape = Shape::of(tables::find(name).unwrap()).unwrap();
            assert_eq!(shape.lasts, name != "agent_file_ops");
        }
        assert!(Shape::of(tables::find("agent_collector").unwrap()).is_none());
    }
}
