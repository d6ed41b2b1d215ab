//! The tables' pages in `docs/tables`.

use std::fmt::Write as _;

use super::{Column, Table, all, options};

/// File name and content of every page, the index among them.
#[must_use]
pub fn pages() -> Vec<(String, String)> {
    let mut pages: Vec<_> = all().iter().map(|table| (format!("{}.md", table.info().name), page(*table))).collect();
    pages.push(("README.md".into(), index()));
    pages
}

fn page(table: &dyn Table) -> String {
    let info = table.info();
    let mut text = format!("# {}\n\n{}\n\n", info.name, info.description);
    let _ = writeln!(text, "Systems: {}.", info.platforms.join(", "));
    if info.event_based {
        text.push_str("Event based: rows never change, and osquery logs each once.\n");
    }
    text.push_str("\n| column | type | description |\n| --- | --- | --- |\n");
    for column in table.columns() {
        let _ =
            writeln!(text, "| {} | {} | {}{} |", column.name, column.kind.name(), column.description, notes(column));
    }
    text.push_str("\n## Examples\n");
    for example in info.examples {
        let _ = write!(text, "\n{}\n\n```sql\n{};\n```\n", example.question, example.sql);
    }
    text
}

fn notes(column: &Column) -> &'static str {
    if column.is_hidden() {
        " (hidden)"
    } else if column.options() & options::INDEX != 0 {
        " (indexed)"
    } else {
        ""
    }
}

fn index() -> String {
    let mut text = String::from(
        "# Tables\n\n\
         Made from the declarations in `extension/src/tables`; `UPDATE_DOCS=1 cargo test -p agentquery docs` writes \
         them anew.\n\n\
         | table | what a row is |\n| --- | --- |\n",
    );
    for table in all() {
        let info = table.info();
        let _ = writeln!(text, "| [{}]({}.md) | {} |", info.name, info.name, info.description);
    }
    text.push_str(
        "\n## What holds for all\n\n\
         - What is not known is NULL. osquery has no NULL for TEXT and shows `''`.\n\
         - A query that says nothing of `time`, `time_ns`, `eid`, `start_time` or `end_time` (`agent_endpoints`: `first_seen`, \
         `last_seen`) sees the last 24 hours, and whatever still lives.\n\
         - Through osquery, a query that more than 10,000 rows match fails, and says how to narrow it; `max_rows = N` in \
         WHERE sets another limit. The shell has none.\n\
         - Rows come newest first. Indexed columns are compared before rows leave the table.\n\
         - `process_eid` joins with `agent_processes.eid`, `agent_id` with `ai_agents.agent_id`.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Set `UPDATE_DOCS=1` to write the pages in place of comparing them.
    #[test]
    fn pages_are_up_to_date() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tables");
        let update = std::env::var_os("UPDATE_DOCS").is_some();
        let pages = super::pages();
        if update {
            std::fs::create_dir_all(&directory).unwrap();
        }
        for (name, text) in &pages {
            let path = directory.join(name);
            if update {
                std::fs::write(&path, text).unwrap();
            }
            let found = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(&found, text, "docs/tables/{name} is stale: UPDATE_DOCS=1 cargo test -p agentquery docs");
        }
        for entry in std::fs::read_dir(&directory).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(pages.iter().any(|(page, _)| *page == name), "docs/tables/{name} belongs to no table");
        }
    }
}
