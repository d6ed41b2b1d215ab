//! Constraints, as conditions that the engine checks before a row leaves the file.
//!
//! Every row that is read is judged again by [`Filter`](crate::tables::filter::Filter), so a condition may let through
//! more than that, never less. What cannot be said safely in `DuckDB`'s terms is left out.

use duckdb::types::Value as Parameter;

use super::schema::{Kept, NANOSECONDS, Place};
use crate::tables::constraint::{Constraint, Op};
use crate::tables::filter::Number;
use crate::tables::{Column, ColumnType, Viewer};

/// Values of a list that are said one by one.
const MOST: usize = 1000;

const SECOND: i128 = 1_000_000_000;

/// Which rows of a table a query reads.
#[derive(Debug, Clone)]
pub struct Query<'a> {
    /// In whose name.
    pub viewer: Viewer,
    /// What a row must match.
    pub constraints: &'a [Constraint],
    /// Rows that ended before this second are left out.
    pub since: Option<i64>,
}

/// A query's conditions on a table, compiled.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    clauses: Vec<String>,
    parameters: Vec<Parameter>,
}

impl Conditions {
    pub(super) fn compile(kept: &Kept, query: &Query<'_>) -> Self {
        let mut all = Self::default();
        if let Viewer::User(uid) = query.viewer {
            all.push("owner = ?", [Parameter::BigInt(uid.into())]);
        }
        if let Some(since) = query.since {
            if kept.has("end_time") {
                // Where the end is not known, by the time of the row.
                let known = i64::try_from(i128::from(since) * SECOND).unwrap_or(i64::MAX);
                all.push(
                    format!("(end_time >= ? OR end_time IS NULL AND {NANOSECONDS} >= {known})"),
                    [Parameter::BigInt(since)],
                );
            } else {
                all.seconds(Op::GreaterOrEqual, since);
            }
        }
        for column in &kept.columns {
            let here: Vec<_> = query
                .constraints
                .iter()
                .filter(|constraint| constraint.column.eq_ignore_ascii_case(column.name))
                .collect();
            match kept.place(column) {
                Place::Nowhere => {}
                Place::Stored => all.column(column, &here),
                Place::Seconds => all.seconds_column(&here),
            }
        }
        all
    }

    pub(super) fn push(&mut self, clause: impl Into<String>, parameters: impl IntoIterator<Item = Parameter>) {
        self.clauses.push(clause.into());
        self.parameters.extend(parameters);
    }

    pub(super) fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// `WHERE` and all of them, or nothing.
    pub(super) fn sql(&self) -> String {
        if self.clauses.is_empty() { String::new() } else { format!(" WHERE {}", self.clauses.join(" AND ")) }
    }

    fn column(&mut self, column: &Column, constraints: &[&Constraint]) {
        let alternatives: Vec<_> =
            constraints.iter().filter(|constraint| matches!(constraint.op, Op::Equal | Op::Is)).collect();
        if !alternatives.is_empty() {
            // One that cannot be said makes the whole list so.
            if let Some(integers) = integers(column, &alternatives) {
                self.integers(column.name, &integers);
            } else if alternatives.len() <= MOST {
                self.any(column, &alternatives);
            }
        }
        for constraint in constraints {
            if let Some((clause, parameter)) = single(column, constraint) {
                self.push(clause, parameter);
            }
        }
    }

    fn any(&mut self, column: &Column, alternatives: &[&&Constraint]) {
        let each = alternatives.iter().map(|constraint| equal(column, &constraint.value));
        if let Some(each) = each.collect::<Option<Vec<_>>>() {
            let (clauses, parameters): (Vec<_>, Vec<_>) = each.into_iter().unzip();
            self.push(format!("({})", clauses.join(" OR ")), parameters.into_iter().flatten());
        }
    }

    /// One of these; of a long list, what lies between its lowest and its highest.
    fn integers(&mut self, name: &str, integers: &[i64]) {
        if integers.len() <= MOST {
            let list: Vec<_> = integers.iter().map(ToString::to_string).collect();
            self.push(format!("{name} IN ({})", list.join(", ")), []);
        } else if let (Some(low), Some(high)) = (integers.iter().min(), integers.iter().max()) {
            self.push(format!("{name} BETWEEN {low} AND {high}"), []);
        }
    }

    fn seconds_column(&mut self, constraints: &[&Constraint]) {
        let integer = |constraint: &&&Constraint| match Number::parse(&constraint.value) {
            Some(Number::Integer(integer)) => Some((constraint.op, integer)),
            _ => None,
        };
        // A list reaches from its lowest to its highest.
        let alternatives: Vec<_> =
            constraints.iter().filter(|constraint| matches!(constraint.op, Op::Equal | Op::Is)).collect();
        let seconds: Option<Vec<_>> = alternatives.iter().map(|c| integer(c).map(|(_, integer)| integer)).collect();
        if let Some((low, high)) = seconds.and_then(|all| Some((*all.iter().min()?, *all.iter().max()?))) {
            self.seconds(Op::GreaterOrEqual, low);
            self.seconds(Op::LessOrEqual, high);
        }
        for (op, integer) in constraints.iter().filter_map(|constraint| integer(&constraint)) {
            self.seconds(op, integer);
        }
    }

    /// A condition on seconds, said of the nanoseconds that are stored.
    fn seconds(&mut self, op: Op, seconds: i64) {
        let (sign, bound) = match op {
            Op::Greater => (">=", i128::from(seconds) + 1),
            Op::GreaterOrEqual => (">=", i128::from(seconds)),
            Op::Less => ("<", i128::from(seconds)),
            Op::LessOrEqual => ("<", i128::from(seconds) + 1),
            _ => return,
        };
        // Beyond what can be stored, the filter decides.
        if let Ok(bound) = i64::try_from(bound * SECOND) {
            self.push(format!("{NANOSECONDS} {sign} {bound}"), []);
        }
    }
}

/// The whole numbers of which one is wanted; none when something else is.
fn integers(column: &Column, alternatives: &[&&Constraint]) -> Option<Vec<i64>> {
    let integer = |constraint: &&&Constraint| match Number::parse(&constraint.value) {
        Some(Number::Integer(integer)) => Some(integer),
        _ => None,
    };
    let whole = matches!(column.kind, ColumnType::Integer | ColumnType::BigInt);
    whole.then(|| alternatives.iter().map(integer).collect()).flatten()
}

/// Also where the filter can't tell: what is NULL here is '' in osquery, and a text is only compared up to a NUL.
fn or_unsure(name: &str, clause: &str) -> String {
    format!("({clause} OR {name} IS NULL OR contains({name}, chr(0)))")
}

fn equal(column: &Column, value: &str) -> Option<(String, Vec<Parameter>)> {
    let name = column.name;
    if column.kind == ColumnType::Text {
        // What looks like a number also equals other ways to write it.
        if Number::parse(value).is_some() || value.contains('\0') {
            return None;
        }
        let clause = or_unsure(name, &format!("lower(rtrim({name}, ' ')) = lower(rtrim(?, ' '))"));
        return Some((clause, vec![Parameter::Text(value.to_owned())]));
    }
    Some(match Number::parse(value)? {
        Number::Integer(integer) if column.kind != ColumnType::Double => {
            (format!("{name} = ?"), vec![Parameter::BigInt(integer)])
        }
        number => {
            let (low, high) = around(number)?;
            (format!("CAST({name} AS DOUBLE) BETWEEN ? AND ?"), vec![Parameter::Double(low), Parameter::Double(high)])
        }
    })
}

/// A fraction, and a little on both sides: more than what the filter takes for nearly equal.
fn around(number: Number) -> Option<(f64, f64)> {
    let double = number.double();
    let slack = double.abs() * 1e-11;
    (double + slack).is_finite().then_some((double - slack, double + slack))
}

fn single(column: &Column, constraint: &Constraint) -> Option<(String, Option<Parameter>)> {
    let Constraint { op, value, .. } = constraint;
    let name = column.name;
    let text = column.kind == ColumnType::Text;
    let plain = text && !value.contains('\0');
    match op {
        Op::Like if plain => {
            // `_` and what is not ASCII are widened: engines differ in what a character is and in its case.
            let wide: String = value.chars().map(|c| if c == '_' || !c.is_ascii() { '%' } else { c }).collect();
            Some((or_unsure(name, &format!("{name} ILIKE ?")), Some(Parameter::Text(wide))))
        }
        Op::Glob if plain && !value.contains('[') => {
            let prefix = value.split(['*', '?']).next().filter(|prefix| !prefix.is_empty())?;
            Some((or_unsure(name, &format!("starts_with({name}, ?)")), Some(Parameter::Text(prefix.to_owned()))))
        }
        Op::Greater | Op::GreaterOrEqual | Op::Less | Op::LessOrEqual if !text => order(column, *op, value),
        _ => None,
    }
}

fn order(column: &Column, op: Op, value: &str) -> Option<(String, Option<Parameter>)> {
    let name = column.name;
    let (sign, wide) = match op {
        Op::Greater => (">", ">="),
        Op::GreaterOrEqual => (">=", ">="),
        Op::Less => ("<", "<="),
        _ => ("<=", "<="),
    };
    match Number::parse(value)? {
        Number::Integer(integer) if column.kind != ColumnType::Double => {
            Some((format!("{name} {sign} {integer}"), None))
        }
        number => {
            let (low, high) = around(number)?;
            let bound = if wide == ">=" { low } else { high };
            Some((format!("CAST({name} AS DOUBLE) {wide} ?"), Some(Parameter::Double(bound))))
        }
    }
}
