//! Constraints, as conditions that the engine checks before a row leaves the file.
//!
//! Every row that is read is judged again by [`Filter`](crate::tables::filter::Filter), so a condition may let through
//! more than that, never less. What cannot be said safely in `DuckDB`'s terms is left out.

use std::borrow::Cow;

use duckdb::types::Value as Parameter;

use super::schema::{EID, Kept, NANOSECONDS, Place};
use crate::tables::constraint::{Constraint, Op};
use crate::tables::filter::Number;
use crate::tables::{ColumnType, Viewer};

/// Values of a list that are said one by one.
const MOST: usize = 1000;

const SECOND: i64 = 1_000_000_000;

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
    eids: Interval,
}

/// From the one number to the other, both included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interval(pub(super) i64, pub(super) i64);

impl Default for Interval {
    fn default() -> Self {
        Self(i64::MIN, i64::MAX)
    }
}

impl Interval {
    fn and(self, other: Self) -> Self {
        Self(self.0.max(other.0), self.1.min(other.1))
    }

    /// Each of its ends moved, where it has one.
    fn map(self, least: impl Fn(i64) -> i64, greatest: impl Fn(i64) -> i64) -> Self {
        let Self(from, to) = self;
        Self(if from == i64::MIN { from } else { least(from) }, if to == i64::MAX { to } else { greatest(to) })
    }

    /// Seconds, as nanoseconds.
    fn nanoseconds(self) -> Self {
        self.map(|from| from.saturating_mul(SECOND), |to| to.saturating_mul(SECOND).saturating_add(SECOND - 1))
    }

    /// Where whole numbers must be that match these constraints on one column.
    fn of(constraints: &[&Constraint]) -> Self {
        let integer = |constraint: &&Constraint| match Number::parse(&constraint.value) {
            Some(Number::Integer(integer)) => Some(integer),
            _ => None,
        };
        let equal = |constraint: &&&Constraint| matches!(constraint.op, Op::Equal | Op::Is);
        // A list reaches from its lowest to its highest.
        let list: Option<Vec<_>> = constraints.iter().filter(equal).map(integer).collect();
        let list = list.and_then(|list| Some(Self(*list.iter().min()?, *list.iter().max()?))).unwrap_or_default();
        constraints.iter().fold(list, |all, constraint| {
            let Some(integer) = integer(constraint) else { return all };
            all.and(match constraint.op {
                Op::Greater => Self(integer.saturating_add(1), i64::MAX),
                Op::GreaterOrEqual => Self(integer, i64::MAX),
                Op::Less => Self(i64::MIN, integer.saturating_sub(1)),
                Op::LessOrEqual => Self(i64::MIN, integer),
                _ => return all,
            })
        })
    }
}

impl Conditions {
    pub(super) fn compile(kept: &Kept, query: &Query<'_>) -> Self {
        let mut all = Self::default();
        if let Viewer::User(uid) = query.viewer {
            all.push("owner = ?", [Parameter::BigInt(uid.into())]);
        }
        let mut times = Interval::default();
        if let Some(since) = query.since {
            if kept.has("end_time") {
                // Where the end is not known, by the time of the row.
                let (time, began) = (kept.nanoseconds(), since.saturating_mul(SECOND));
                all.push(
                    format!("(end_time >= ? OR end_time IS NULL AND {time} >= {began})"),
                    [Parameter::BigInt(since)],
                );
            } else {
                times = Interval(since, i64::MAX).nanoseconds();
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
                Place::Seconds => times = times.and(Interval::of(&here).nanoseconds()),
                Place::Stored | Place::BeforeEid => {
                    all.column(&Operand { sql: kept.sql(column), kind: column.kind }, &here);
                }
            }
            match column.name {
                EID => all.eids = all.eids.and(Interval::of(&here)),
                NANOSECONDS => times = times.and(Interval::of(&here)),
                _ => {}
            }
        }
        all.between(&kept.nanoseconds(), times);
        // The engine skips blocks of rows by their eids; their times it has to compute.
        if let Some((least, greatest)) = kept.delays().filter(|_| kept.is_in_order_of_time()) {
            let eids = times.map(|from| from.saturating_add(least), |to| to.saturating_add(greatest));
            all.between(EID, eids);
            all.eids = all.eids.and(eids);
        }
        all
    }

    fn between(&mut self, sql: &str, Interval(from, to): Interval) {
        if from > i64::MIN {
            self.push(format!("{sql} >= {from}"), []);
        }
        if to < i64::MAX {
            self.push(format!("{sql} <= {to}"), []);
        }
    }

    /// Where the eids of all rows are; of a table without, anywhere.
    pub(super) fn eids(&self) -> Interval {
        self.eids
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

    fn column(&mut self, operand: &Operand, constraints: &[&Constraint]) {
        let alternatives: Vec<_> =
            constraints.iter().filter(|constraint| matches!(constraint.op, Op::Equal | Op::Is)).collect();
        if !alternatives.is_empty() {
            // One that cannot be said makes the whole list so.
            if let Some(integers) = integers(operand, &alternatives) {
                self.integers(&operand.sql, &integers);
            } else if alternatives.len() <= MOST {
                self.any(operand, &alternatives);
            }
        }
        for constraint in constraints {
            if let Some((clause, parameter)) = single(operand, constraint) {
                self.push(clause, parameter);
            }
        }
    }

    fn any(&mut self, operand: &Operand, alternatives: &[&&Constraint]) {
        let each = alternatives.iter().map(|constraint| equal(operand, &constraint.value));
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
}

/// A column in SQL.
struct Operand {
    sql: Cow<'static, str>,
    kind: ColumnType,
}

/// The whole numbers of which one is wanted; none when something else is.
fn integers(operand: &Operand, alternatives: &[&&Constraint]) -> Option<Vec<i64>> {
    let integer = |constraint: &&&Constraint| match Number::parse(&constraint.value) {
        Some(Number::Integer(integer)) => Some(integer),
        _ => None,
    };
    let whole = matches!(operand.kind, ColumnType::Integer | ColumnType::BigInt);
    whole.then(|| alternatives.iter().map(integer).collect()).flatten()
}

/// Also where the filter can't tell: what is NULL here is '' in osquery, and a text is only compared up to a NUL.
fn or_unsure(name: &str, clause: &str) -> String {
    format!("({clause} OR {name} IS NULL OR contains({name}, chr(0)))")
}

fn equal(operand: &Operand, value: &str) -> Option<(String, Vec<Parameter>)> {
    let name = &*operand.sql;
    if operand.kind == ColumnType::Text {
        // What looks like a number also equals other ways to write it.
        if Number::parse(value).is_some() || value.contains('\0') {
            return None;
        }
        let clause = or_unsure(name, &format!("lower(rtrim({name}, ' ')) = lower(rtrim(?, ' '))"));
        return Some((clause, vec![Parameter::Text(value.to_owned())]));
    }
    Some(match Number::parse(value)? {
        Number::Integer(integer) if operand.kind != ColumnType::Double => {
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

fn single(operand: &Operand, constraint: &Constraint) -> Option<(String, Option<Parameter>)> {
    let Constraint { op, value, .. } = constraint;
    let name = &*operand.sql;
    let text = operand.kind == ColumnType::Text;
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
        Op::Greater | Op::GreaterOrEqual | Op::Less | Op::LessOrEqual if !text => order(operand, *op, value),
        _ => None,
    }
}

fn order(operand: &Operand, op: Op, value: &str) -> Option<(String, Option<Parameter>)> {
    let name = &*operand.sql;
    let (sign, wide) = match op {
        Op::Greater => (">", ">="),
        Op::GreaterOrEqual => (">=", ">="),
        Op::Less => ("<", "<="),
        _ => ("<=", "<="),
    };
    match Number::parse(value)? {
        Number::Integer(integer) if operand.kind != ColumnType::Double => {
            Some((format!("{name} {sign} {integer}"), None))
        }
        number => {
            let (low, high) = around(number)?;
            let bound = if wide == ">=" { low } else { high };
            Some((format!("CAST({name} AS DOUBLE) {wide} ?"), Some(Parameter::Double(bound))))
        }
    }
}
