//! What a word in a statement may become: tables, columns, keywords, and the shell's own commands.

use std::collections::BTreeSet;

use super::commands::{COMMANDS, ON_OFF};
use super::format::Mode;
use super::sql::{Kind, Token, tokens};
use crate::tables::{Table, all, find};

/// Words of SQL that a query is written with; functions end in their parenthesis.
const KEYWORDS: [&str; 62] = [
    "ALL",
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST(",
    "COLLATE",
    "CROSS",
    "DESC",
    "DISTINCT",
    "ELSE",
    "END",
    "ESCAPE",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "FROM",
    "GLOB",
    "GROUP",
    "HAVING",
    "IN",
    "INNER",
    "INTERSECT",
    "IS",
    "JOIN",
    "LEFT",
    "LIKE",
    "LIMIT",
    "NOCASE",
    "NOT",
    "NULL",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OVER",
    "PARTITION",
    "QUERY PLAN",
    "RECURSIVE",
    "SELECT",
    "THEN",
    "UNION",
    "USING",
    "VALUES",
    "WHEN",
    "WHERE",
    "WITH",
    "AVG(",
    "COALESCE(",
    "COUNT(",
    "DATETIME(",
    "GROUP_CONCAT(",
    "IFNULL(",
    "LENGTH(",
    "LOWER(",
    "MAX(",
    "MIN(",
    "REPLACE(",
    "STRFTIME(",
    "SUM(",
];

/// Where the word before the cursor begins, and what it may become, the likeliest first. `before` are the lines of the
/// statement that were entered already.
pub(super) fn complete(before: &str, line: &str, cursor: usize) -> (usize, Vec<String>) {
    let typed = line.get(..cursor).unwrap_or(line);
    let start = typed
        .rfind(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'))
        .map_or(0, |at| at + typed.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8));
    let word = typed.get(start..).unwrap_or_default();
    if before.is_empty() && typed.trim_start().starts_with('.') {
        return (start, of_command(typed, word));
    }
    // All of the statement, also what stands behind the cursor: `SELECT | FROM ai_agents`.
    let statement = format!("{before}{line}");
    let statement = tokens(&statement);
    let at = before.len() + start;
    if statement.iter().any(|token| {
        let within = token.start < at && (at < token.end() || (!token.closed && at <= token.end()));
        within && matches!(token.kind, Kind::Text | Kind::Comment)
    }) {
        return (start, Vec::new());
    }
    let named = named_tables(&statement);
    if let Some((qualifier, part)) = word.split_once('.') {
        let table = named.iter().find(|(_, alias)| alias.eq_ignore_ascii_case(qualifier));
        let columns = table.map(|(table, _)| *table).or_else(|| find(qualifier)).map(columns).unwrap_or_default();
        return (start + qualifier.len() + 1, starting(part, columns));
    }
    let previous = statement.iter().rfind(|token| token.end() <= at && token.kind != Kind::Comment);
    let tables = all().into_iter().map(|table| table.info().name.to_owned());
    let mut offered: Vec<String> = Vec::new();
    if previous.is_some_and(|token| token.is("from") || token.is("join")) {
        offered.extend(tables);
        return (start, starting(word, offered));
    }
    if named.is_empty() {
        let every: BTreeSet<String> = all().into_iter().flat_map(columns).collect();
        offered.extend(every);
    } else {
        for (table, alias) in &named {
            offered.extend(columns(*table));
            // A word that follows a table looks like its alias while it is written.
            offered.extend((*alias != word).then(|| (*alias).to_owned()));
        }
    }
    offered.extend(tables);
    let mut offered = starting(word, offered);
    let lower = word.chars().any(char::is_lowercase);
    let keyword = |word: &&str| if lower { word.to_ascii_lowercase() } else { (*word).to_owned() };
    for keyword in starting(word, KEYWORDS.iter().map(keyword).collect()) {
        if !offered.contains(&keyword) {
            offered.push(keyword);
        }
    }
    (start, offered)
}

/// The tables of ours that the statement names, each with the name by which its columns are called.
pub(super) fn named_tables<'a>(statement: &[Token<'a>]) -> Vec<(&'static dyn Table, &'a str)> {
    let mut named = Vec::new();
    let name_of = |token: &Token<'a>| match token.kind {
        Kind::Name => token.text.trim_matches(['"', '`', '[', ']']),
        _ => token.text,
    };
    for (index, token) in statement.iter().enumerate() {
        let Some(table) = find(token.name()).filter(|_| matches!(token.kind, Kind::Word | Kind::Name)) else {
            continue;
        };
        let mut after = statement.iter().skip(index + 1);
        let alias = match after.next() {
            Some(next) if next.is("as") => after.next(),
            Some(next) if next.kind == Kind::Word && !KEYWORDS.iter().any(|keyword| next.is(keyword)) => Some(next),
            _ => None,
        };
        named.push((table, alias.map_or(name_of(token), name_of)));
    }
    named
}

fn columns(table: &dyn Table) -> Vec<String> {
    table.columns().iter().map(|column| column.name.to_owned()).collect()
}

fn starting(word: &str, offered: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let starts = |offer: &String| offer.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    offered.into_iter().filter(|offer| starts(offer) && seen.insert(offer.clone())).collect()
}

fn of_command(typed: &str, word: &str) -> Vec<String> {
    let mut words = typed.split_whitespace();
    let command = words.next().unwrap_or_default();
    if word == command {
        return starting(word, COMMANDS.iter().map(|command| command.name.to_owned()).collect());
    }
    let arguments = match command {
        ".tables" | ".schema" | ".all" => all().into_iter().map(|table| table.info().name.to_owned()).collect(),
        ".mode" => Mode::NAMES.iter().map(|(name, _)| (*name).to_owned()).collect(),
        ".timer" | ".pager" => ON_OFF.iter().map(|word| (*word).to_owned()).collect(),
        ".help" => COMMANDS.iter().map(|command| command.name.to_owned()).collect(),
        _ => Vec::new(),
    };
    starting(word, arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the word at `|` may become.
    fn at(text: &str) -> Vec<String> {
        let (before, line) = text.rsplit_once('\n').map_or(("", text), |(before, line)| (before, line));
        let cursor = line.find('|').unwrap();
        complete(before, &line.replacen('|', "", 1), cursor).1
    }

    #[test]
    fn tables_after_from() {
        assert_eq!(at("select * from ai|"), ["ai_agents"]);
        assert_eq!(at("SELECT *\nFROM agent_o|"), ["agent_open_files"]);
        assert_eq!(at("SELECT * FROM |").len(), all().len());
    }

    #[test]
    fn columns_of_the_named_tables_come_first() {
        assert_eq!(at("SELECT start_g| FROM ai_agents"), ["start_gap_ms"]);
        assert_eq!(at("SELECT * FROM agent_file_ops WHERE oper|"), ["operation"]);
        assert!(at("SELECT * FROM agent_file_ops WHERE start_g|").is_empty(), "no column of that table");
        assert_eq!(at("SELECT start_g|"), ["start_gap_ms"], "no table is named yet");
        assert_eq!(at("SELECT * FROM ai_agents a, agent_processes AS p WHERE p.parent|"), ["parent", "parent_eid"]);
        assert_eq!(at("SELECT agent_processes.parent_| FROM agent_processes"), ["parent_eid"]);
        assert_eq!(at("SELECT * FROM ai_agents WHERE e|").first().unwrap(), "evidence");
        assert!(at("SELECT é, f.ope| FROM agent_file_ops f").contains(&"operation".to_owned()));
    }

    #[test]
    fn keywords_in_the_case_of_what_was_typed() {
        assert_eq!(at("sel|"), ["select"]);
        assert_eq!(at("SEL|"), ["SELECT"]);
        assert_eq!(at("SELECT 1 FROM ai_agents ORD|"), ["ORDER"]);
        assert_eq!(at("SELECT gro|"), ["group", "group_concat("]);
    }

    #[test]
    fn nothing_inside_a_text_or_a_comment() {
        for text in
            ["SELECT 'ai_|", "SELECT 'ai_|' FROM ai_agents", "SELECT 1 -- ai_|", "SELECT /* ai_|", "SELECT '\nai_|"]
        {
            assert!(at(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn commands_and_their_arguments() {
        assert_eq!(at(".sch|"), [".schema"]);
        assert_eq!(at(".mode m|"), ["markdown"]);
        assert_eq!(at(".schema ai|"), ["ai_agents"]);
        assert_eq!(at(".timer |"), ["on", "off"]);
        assert!(at("SELECT\n.sch|").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn any_text_at_any_place(before in "\\PC{0,10}", line in "[-a-zé'\"/*\\[\\];\n .]{0,30}", cursor in 0_usize..40) {
            let (start, _) = complete(&before, &line, cursor);
            proptest::prop_assert!(line.is_char_boundary(start));
        }
    }
}
