//! Constraints, compiled for a table.
//!
//! SQLite decides what is true; this only leaves out rows that cannot be. The rules are therefore wider than SQLite's
//! wherever its answer hangs on something not told here: an `=` may be NOCASE or RTRIM, a text may stand for a number,
//! and a missing TEXT is NULL in the shell and `''` in osquery.

use super::constraint::{Constraint, Op};
use super::pattern::Pattern;
use super::{Column, ColumnType};
use crate::value::Value;

/// Rows for which it is false do not match; others may.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    conditions: Vec<(usize, Condition)>,
}

#[derive(Debug, Clone)]
enum Condition {
    /// One of these: an IN list.
    AnyNumber(Vec<Number>),
    AnyText(Vec<TextValue>),
    Order(Op, Number),
    /// `false`: NULL is no match. `true`: it is.
    NotInteger(i64, bool),
    NotText(String),
    Match(Pattern),
}

/// A number that came as text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    Integer(i64),
    Double(f64),
}

#[derive(Debug, Clone)]
struct TextValue {
    text: String,
    number: Option<Number>,
}

impl Number {
    /// What SQLite would convert to a number in a comparison with one; spaces around it are ignored.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // SQLite's own spaces: the vertical tab is one, others of Unicode are not.
        let text = text.trim_matches(|c| matches!(c, '\t'..='\r' | ' '));
        if let Ok(integer) = text.parse() {
            return Some(Self::Integer(integer));
        }
        // Rust's own parser also takes `inf` and `nan`, which are texts in SQL.
        let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c));
        if plain { text.parse().ok().map(Self::Double) } else { None }
    }

    #[allow(clippy::cast_precision_loss)] // compared with `nearly`
    pub(crate) fn double(self) -> f64 {
        match self {
            Self::Integer(integer) => integer as f64,
            Self::Double(double) => double,
        }
    }

    fn holds(self, op: Op, other: Self) -> bool {
        if let (Self::Integer(left), Self::Integer(right)) = (self, other) {
            return match op {
                Op::Greater => left > right,
                Op::GreaterOrEqual => left >= right,
                Op::Less => left < right,
                Op::LessOrEqual => left <= right,
                _ => left == right,
            };
        }
        // Engines differ in the last digits of a fraction read from text: what is nearly equal may match.
        let (left, right) = (self.double(), other.double());
        let nearly = (left - right).abs() <= 1e-12 * left.abs().max(right.abs());
        nearly
            || match op {
                Op::Greater | Op::GreaterOrEqual => left > right,
                Op::Less | Op::LessOrEqual => left < right,
                _ => false,
            }
    }

    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Integer(integer) => Some(Self::Integer(*integer)),
            Value::Double(double) => Some(Self::Double(*double)),
            Value::Null | Value::Text(_) => None,
        }
    }
}

impl TextValue {
    fn new(text: &str) -> Self {
        Self { text: text.trim_end_matches(' ').to_owned(), number: Number::parse(text) }
    }

    fn may_equal(&self, other: &str) -> bool {
        self.text.eq_ignore_ascii_case(other.trim_end_matches(' '))
            || self.number.is_some_and(|number| Number::parse(other).is_some_and(|other| number.holds(Op::Equal, other)))
            // Comparison of texts with a NUL inside is left to the engine.
            || other.contains('\0')
    }
}

impl Filter {
    /// Compiles what can be used of the constraints; those on unknown columns and with odd values are left out.
    #[must_use]
    pub fn compile(columns: &[&Column], constraints: &[Constraint]) -> Self {
        let mut conditions = Vec::new();
        for (index, column) in columns.iter().enumerate().filter(|(_, column)| !column.is_of_query()) {
            let here: Vec<_> =
                constraints.iter().filter(|constraint| constraint.column.eq_ignore_ascii_case(column.name)).collect();
            conditions.extend(alternatives(column.kind, &here).map(|condition| (index, condition)));
            conditions.extend(
                here.iter()
                    .filter_map(|constraint| single(column.kind, constraint))
                    .map(|condition| (index, condition)),
            );
        }
        Self { conditions }
    }

    /// Whether a row may match, its cells given by their column.
    pub fn may_match(&self, value: impl Fn(usize) -> Value) -> bool {
        self.conditions.iter().all(|(column, condition)| condition.may_hold(&value(*column)))
    }
}

/// All `=` and IS on a column together. osquery sends an IN list as several of them; one that cannot be judged makes
/// the whole list so.
fn alternatives(kind: ColumnType, constraints: &[&Constraint]) -> Option<Condition> {
    let values: Vec<_> = constraints
        .iter()
        .filter(|constraint| matches!(constraint.op, Op::Equal | Op::Is))
        .map(|constraint| constraint.value.as_str())
        .collect();
    if values.is_empty() {
        return None;
    }
    if kind == ColumnType::Text {
        return Some(Condition::AnyText(values.into_iter().map(TextValue::new).collect()));
    }
    values.into_iter().map(Number::parse).collect::<Option<Vec<_>>>().map(Condition::AnyNumber)
}

fn single(kind: ColumnType, constraint: &Constraint) -> Option<Condition> {
    let Constraint { op, value, .. } = constraint;
    match op {
        Op::Equal | Op::Is => None,
        Op::Like => Pattern::like(value).map(Condition::Match),
        Op::Glob => Pattern::glob(value).map(Condition::Match),
        Op::NotEqual | Op::IsNot if kind == ColumnType::Text => Some(Condition::NotText(value.clone())),
        Op::NotEqual | Op::IsNot => match Number::parse(value) {
            Some(Number::Integer(integer)) => Some(Condition::NotInteger(integer, *op == Op::IsNot)),
            _ => None,
        },
        // The order of texts hangs on a collation.
        Op::Greater | Op::GreaterOrEqual | Op::Less | Op::LessOrEqual if kind == ColumnType::Text => None,
        Op::Greater | Op::GreaterOrEqual | Op::Less | Op::LessOrEqual => {
            Number::parse(value).map(|number| Condition::Order(*op, number))
        }
    }
}

impl Condition {
    fn may_hold(&self, value: &Value) -> bool {
        match self {
            Self::AnyNumber(numbers) => {
                Number::of(value).is_some_and(|cell| numbers.iter().any(|number| cell.holds(Op::Equal, *number)))
            }
            Self::AnyText(texts) => texts.iter().any(|text| text.may_equal(text_of(value))),
            Self::Order(op, number) => Number::of(value).is_some_and(|cell| cell.holds(*op, *number)),
            Self::NotInteger(integer, null_matches) => match value {
                Value::Integer(cell) => cell != integer,
                Value::Null => *null_matches,
                Value::Double(_) | Value::Text(_) => true,
            },
            Self::NotText(text) => *text != text_of(value) || *value == Value::Null,
            Self::Match(pattern) => match value {
                Value::Text(text) => pattern.matches(text),
                Value::Integer(integer) => pattern.matches(&integer.to_string()),
                // A NULL may be '' where it is checked; how a fraction is written is the engine's matter.
                Value::Null | Value::Double(_) => true,
            },
        }
    }
}

/// A text cell; a missing one is read as osquery does.
fn text_of(value: &Value) -> &str {
    if let Value::Text(text) = value { text } else { "" }
}
