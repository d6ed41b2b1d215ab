//! Errors in SQL, with the place that they are about and what may have been meant.

use std::fmt::Write as _;

use super::Error;
use super::complete::named_tables;
use super::escape::visible;
use super::pretty::width;
use super::sql::{Kind, tokens};
use crate::meant::nearest;
use crate::tables::all;

/// Columns of the shown line.
const LINE: usize = 100;

/// Columns that stay before the place when the line is longer.
const BEFORE: usize = 40;

/// The error for people, over one line or more: what is wrong, the line with a mark below the place, and a better name.
/// It has no line break at its end.
#[must_use]
pub fn describe(error: &Error, sql: &str) -> String {
    let message = error.to_string();
    let mut text = visible(&message).into_owned();
    let known = if let Error::Place { offset, .. } = error { Some(*offset) } else { None };
    if !matches!(error, Error::Sql(_) | Error::Place { .. } | Error::Remote(_)) {
        return text;
    }
    if let Some(offset) = known.or_else(|| find(&message, sql)).filter(|offset| sql.is_char_boundary(*offset)) {
        text.push_str(&marked(sql, offset));
    }
    if let Some(name) = meant(&message, sql) {
        let _ = write!(text, "\nDid you mean {name}?");
    }
    text
}

/// The line of the place, and a mark below it.
fn marked(sql: &str, offset: usize) -> String {
    let (before, after) = (sql.get(..offset).unwrap_or_default(), sql.get(offset..).unwrap_or_default());
    let before = before.rsplit('\n').next().unwrap_or_default();
    let after = after.split('\n').next().unwrap_or_default();
    let (mut before, mut after) = (visible(before).into_owned(), visible(after).into_owned());
    if width(&before) > LINE - BEFORE {
        let kept: Vec<char> = before.chars().rev().take(BEFORE).collect();
        before = format!("...{}", kept.into_iter().rev().collect::<String>());
    }
    let room = LINE.saturating_sub(width(&before));
    if width(&after) > room {
        after = after.chars().take(room).chain("...".chars()).collect();
    }
    format!("\n  {before}{after}\n  {}^", " ".repeat(width(&before)))
}

/// The name that the engine's message is about, and what kind of name it is.
fn blamed(message: &str) -> Option<(&str, &str)> {
    // osquery's messages carry more around SQLite's.
    for what in ["no such column: ", "no such table: ", "no such function: "] {
        if let Some((_, name)) = message.split_once(what) {
            return Some((what, name.lines().next().unwrap_or_default().trim()));
        }
    }
    let (_, near) = message.split_once("near \"")?;
    Some(("near", near.split_once("\": ")?.0))
}

/// Where the blamed name stands, when that is only one place.
fn find(message: &str, sql: &str) -> Option<usize> {
    let (_, name) = blamed(message)?;
    let name = name.rsplit('.').next().filter(|name| !name.is_empty())?;
    let tokens = tokens(sql);
    let mut places = tokens
        .iter()
        .filter(|token| !matches!(token.kind, Kind::Text | Kind::Comment) && token.name().eq_ignore_ascii_case(name));
    let place = places.next()?;
    places.next().is_none().then_some(place.start)
}

/// The table or column whose name is nearly the blamed one.
fn meant(message: &str, sql: &str) -> Option<&'static str> {
    let (what, name) = blamed(message)?;
    let name = name.rsplit('.').next()?.to_ascii_lowercase();
    let candidates: Vec<&'static str> = match what {
        "no such table: " => all().iter().map(|table| table.info().name).collect(),
        "no such column: " => {
            let tables: Vec<_> = named_tables(&tokens(sql)).into_iter().map(|(table, _)| table).collect();
            tables.iter().flat_map(|table| table.columns()).map(|column| column.name).collect()
        }
        _ => return None,
    };
    nearest(&name, candidates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::shell::format::{Mode, Writer};
    use crate::shell::{Backend as _, Engine, Limits};

    fn wrong(sql: &str) -> String {
        let mut engine = Engine::new(fixture::store(1), crate::tables::Viewer::All, Limits::default()).unwrap();
        let error = engine.run(sql, &mut Writer::new(Vec::new(), Mode::Csv)).unwrap_err();
        describe(&error, sql)
    }

    #[test]
    fn the_mark_is_below_the_place() {
        let text = wrong("SELECT 1;\nSELECT agnt,\n\tpid FROM ai_agents;");
        assert_eq!(text, "no such column: agnt\n  SELECT agnt,\n         ^\nDid you mean agent?");
        assert_eq!(
            wrong("SELECT 1 FORM ai_agents"),
            "near \"ai_agents\": syntax error\n  SELECT 1 FORM ai_agents\n                ^"
        );
        assert_eq!(
            wrong("SELECT '日本', x.pid FROM ai_agents"),
            "no such column: x.pid\n  SELECT '日本', x.pid FROM ai_agents\n                 ^"
        );
    }

    #[test]
    fn a_table_is_found_by_its_name() {
        assert_eq!(
            wrong("SELECT 'ai_agent' FROM ai_agent"),
            "no such table: ai_agent\n  SELECT 'ai_agent' FROM ai_agent\n                         ^\nDid you mean ai_agents?"
        );
        assert_eq!(
            wrong("SELECT 1 FROM processes"),
            "no such table: processes\n  SELECT 1 FROM processes\n                ^"
        );
    }

    #[test]
    fn what_another_engine_said() {
        let error = Error::Remote("Error running query: no such column: pidd".into());
        let text = describe(&error, "SELECT pidd FROM ai_agents");
        assert!(text.ends_with("\n  SELECT pidd FROM ai_agents\n         ^\nDid you mean pid?"), "{text}");
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let text = wrong(&format!("SELECT {} nothing_such, {} 3 FROM ai_agents", "1,".repeat(200), "2,".repeat(200)));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].len() < 120 && lines[1].contains("nothing_such"), "{text}");
        assert_eq!(lines[1].find("nothing_such"), lines[2].find('^'), "{text}");
    }

    #[test]
    fn hostile_text_is_written_out() {
        let text = wrong("SELECT \u{1b}[2J");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }

    proptest::proptest! {
        #[test]
        fn any_place_in_any_text(sql in "\\PC{0,30}", offset in 0_usize..60) {
            let _ = describe(&Error::Place { message: "no such column: a.b".into(), offset }, &sql);
            let _ = describe(&Error::Sql("near \"a\": b".into()), &sql);
        }
    }
}
