//! A table as osquery's registry and as SQLite want it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Table;

/// A row of a registration.
pub type RouteRow = BTreeMap<String, String>;

/// The rows by which the table is registered with osquery.
#[must_use]
pub fn routes(table: &dyn Table) -> Vec<RouteRow> {
    let row = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let mut rows: Vec<RouteRow> = table
        .columns()
        .iter()
        .map(|column| {
            let options = column.options().to_string();
            row(&[("id", "column"), ("name", column.name), ("type", column.kind.name()), ("op", &options)])
        })
        .collect();
    if table.info().event_based {
        // EVENT_BASED; osquery honours it for extensions.
        rows.push(row(&[("id", "attributes"), ("attributes", "4")]));
    }
    rows
}

/// `CREATE TABLE` of the table. Names are quoted: some, such as `mode`, are words of SQL in one dialect or other.
#[must_use]
pub fn create_table(table: &dyn Table) -> String {
    let mut sql = format!("CREATE TABLE {} (", quote(table.info().name));
    for (index, column) in table.columns().iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let hidden = if column.is_hidden() { " HIDDEN" } else { "" };
        let _ = write!(sql, "{comma}\n  {} {}{hidden}", quote(column.name), column.kind.name());
    }
    sql.push_str("\n)");
    sql
}

/// A name in double quotes.
#[must_use]
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use crate::tables::{all, find};

    #[test]
    fn rows_that_never_change_are_event_based() {
        for table in all() {
            let last = super::routes(table).pop().unwrap();
            let event_based = ["agent_file_ops", "agent_events"].contains(&table.info().name);
            assert_eq!(last["id"] == "attributes", event_based, "{}", table.info().name);
            assert_eq!(event_based, last.get("attributes").is_some_and(|bits| bits == "4"));
        }
    }

    #[test]
    fn options_are_osquerys_bits() {
        let routes = super::routes(find("agent_file_ops").unwrap());
        let op = |name: &str| &routes.iter().find(|row| row.get("name").is_some_and(|n| n == name)).unwrap()["op"];
        assert_eq!([op("eid"), op("path"), op("mode"), op("max_rows"), op("consumer")], ["9", "9", "8", "20", "20"]);
    }

    #[test]
    fn sqlite_takes_every_schema() {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        let mut schema = String::new();
        for table in all() {
            let sql = super::create_table(table);
            // HIDDEN means something to virtual tables only; to others it is a part of the type's name.
            db.execute_batch(&sql).unwrap();
            schema = schema + &sql + ";\n";
        }
        insta::assert_snapshot!(schema);
    }
}
