//! One cell of a table, and the ways into it.
//!
//! osquery sends every cell as text, SQLite and `DuckDB` want it typed: a column's accessor gives this type and each
//! front turns it into its own.

use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Text that many rows share: names, paths and addresses repeat.
pub type Text = Arc<str>;

/// A count as a cell has it.
#[must_use]
pub fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// One cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Not known. Never used for zero.
    Null,
    /// INTEGER and BIGINT.
    Integer(i64),
    /// DOUBLE.
    Double(f64),
    /// TEXT.
    Text(Text),
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_none(),
            Self::Integer(integer) => serializer.serialize_i64(*integer),
            Self::Double(double) => serializer.serialize_f64(*double),
            Self::Text(text) => serializer.serialize_str(text),
        }
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}
impl From<i32> for Value {
    fn from(value: i32) -> Self {
        Self::Integer(value.into())
    }
}
impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Integer(value.into())
    }
}
impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Integer(value.into())
    }
}
impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}
impl From<Text> for Value {
    fn from(value: Text) -> Self {
        Self::Text(value)
    }
}
impl From<&Text> for Value {
    fn from(value: &Text) -> Self {
        Self::Text(value.clone())
    }
}
impl From<&'static str> for Value {
    fn from(value: &'static str) -> Self {
        Self::Text(value.into())
    }
}
impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value.into())
    }
}
impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}
impl<'a, T> From<&'a Option<T>> for Value
where
    &'a T: Into<Value>,
{
    fn from(value: &'a Option<T>) -> Self {
        value.as_ref().map_or(Self::Null, Into::into)
    }
}
