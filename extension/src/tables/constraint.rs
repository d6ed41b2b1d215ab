//! What a query asks of a table before it runs over its rows.
//!
//! Both fronts turn what they are told into [`Constraint`]s: osquery's JSON context by [`Context::parse`], SQLite's by
//! the shell. Whoever asks checks every row again, so a constraint only ever saves work: what is not understood here
//! is left out, and no true match may be lost by it.

use serde::Deserialize;
use serde_json::Value as Json;

/// A comparison, as far as rows can be left out by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Op {
    Equal,
    Greater,
    LessOrEqual,
    Less,
    GreaterOrEqual,
    Like,
    Glob,
    NotEqual,
    Is,
    IsNot,
}

impl Op {
    /// From SQLite's number, which osquery passes on. None for what is no comparison (LIMIT and OFFSET, which osquery
    /// hangs on the first column) and what is not known.
    #[must_use]
    pub fn from_code(code: i64) -> Option<Self> {
        Some(match code {
            2 => Self::Equal,
            4 => Self::Greater,
            8 => Self::LessOrEqual,
            16 => Self::Less,
            32 => Self::GreaterOrEqual,
            65 => Self::Like,
            66 => Self::Glob,
            68 => Self::NotEqual,
            69 => Self::IsNot,
            72 => Self::Is,
            _ => return None,
        })
    }
}

/// A comparison of a column with a value. Values come as text and may be anything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Constraint {
    /// Name of the column.
    pub column: String,
    /// How it is compared.
    pub op: Op,
    /// With what.
    pub value: String,
}

impl Constraint {
    /// A constraint.
    pub fn new(column: impl Into<String>, op: Op, value: impl Into<String>) -> Self {
        Self { column: column.into(), op, value: value.into() }
    }
}

/// What osquery tells a table about the query.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    /// The constraints. Several `=` on one column are alternatives (an IN list); all else must hold together.
    pub constraints: Vec<Constraint>,
    /// Columns that the query uses; none when that is not known, an empty list for `count(*)`.
    pub columns: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RawContext {
    #[serde(default)]
    constraints: Vec<Json>,
    #[serde(rename = "colsUsed")]
    cols_used: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RawColumn {
    name: String,
    #[serde(default)]
    list: Json,
}

#[derive(Deserialize)]
struct RawConstraint {
    op: Json,
    expr: String,
}

impl Context {
    /// Reads osquery's JSON. What is not understood, down to the whole of it, counts as not said.
    #[must_use]
    pub fn parse(json: &str) -> Self {
        let Ok(raw) = serde_json::from_str::<RawContext>(json) else {
            tracing::debug!("a context is not as osquery sends it; the query is answered without it");
            return Self::default();
        };
        let constraints = raw
            .constraints
            .into_iter()
            .filter_map(|column| serde_json::from_value::<RawColumn>(column).ok())
            .flat_map(|RawColumn { name, list }| {
                // Older cores send "" in place of an empty list.
                let list = if let Json::Array(list) = list { list } else { Vec::new() };
                list.into_iter().filter_map(move |constraint| read(&name, constraint))
            })
            .collect();
        Self { constraints, columns: raw.cols_used }
    }
}

fn read(column: &str, constraint: Json) -> Option<Constraint> {
    let RawConstraint { op, expr } = serde_json::from_value(constraint).ok()?;
    let code = op.as_i64().or_else(|| op.as_str()?.parse().ok())?;
    Some(Constraint::new(column, Op::from_code(code)?, expr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_and_offset_are_no_constraints() {
        let json = r#"{"constraints":[{"name":"t","list":[{"op":4,"expr":"5"},{"op":73,"expr":"2"},{"op":74,"expr":"1"}],
            "affinity":"BIGINT"}],"colsUsed":["t"],"colsUsedBitset":1}"#;
        let context = Context::parse(json);
        assert_eq!(context.constraints, [Constraint::new("t", Op::Greater, "5")]);
        assert_eq!(context.columns, Some(vec!["t".to_owned()]));
    }

    #[test]
    fn what_is_not_understood_is_left_out() {
        for json in ["", "null", "[]", "{", r#"{"constraints":7}"#, r#"{"constraints":[{"name":"t","list":""}]}"#] {
            assert_eq!(Context::parse(json).constraints, [], "{json}");
        }
        let json = r#"{"constraints":[{"list":[]},{"name":"t","list":[{"op":"2","expr":"1"},{"op":99,"expr":"1"},
            {"op":2},{"op":2,"expr":7},{"op":[],"expr":"1"}]}]}"#;
        assert_eq!(Context::parse(json).constraints, [Constraint::new("t", Op::Equal, "1")]);
        assert_eq!(Context::parse(json).columns, None);
    }
}
