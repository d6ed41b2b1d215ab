//! What is made from the packs: the same for Fleet, and their documentation.
//!
//! Fleet's files have the shape of <https://fleetdm.com/docs/configuration/yaml-files#reports>, with the options of
//! <https://fleetdm.com/docs/rest-api/rest-api#create-report>. Before Fleet 4.82 reports were called queries, with the same
//! options.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use agentquery::record::Store;
use agentquery::shell::{Engine, Limits};
use agentquery::tables::Viewer;
use serde::Serialize;

use crate::format::{Pack, Query, packs, root};

/// A report as Fleet's YAML has it.
#[derive(Serialize)]
struct Report<'a> {
    name: String,
    description: String,
    query: &'a str,
    platform: &'a str,
    interval: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_osquery_version: Option<&'a str>,
    logging: &'static str,
    automations_enabled: bool,
    observer_can_run: bool,
}

/// Every file that is made, with its content.
pub fn files() -> Vec<(PathBuf, String)> {
    let packs = packs();
    let fleet = packs.iter().map(|(name, pack)| (root().join("packs/fleet").join(file(name)), fleet(name, pack)));
    let mut files: Vec<_> = fleet.collect();
    files.push((root().join("docs/packs.md"), documentation(packs.iter())));
    files
}

fn file(pack: &str) -> String {
    format!("{pack}.reports.yml")
}

/// How results are logged, as Fleet calls it.
fn logging(query: &Query) -> &'static str {
    match (query.snapshot, query.removed) {
        (true, _) => "snapshot",
        (false, true) => "differential",
        (false, false) => "differential_ignore_removals",
    }
}

fn fleet(name: &str, pack: &Pack) -> String {
    let report = |(query, content): (&String, &Query)| {
        let version = content.version.as_ref().or(pack.version.as_ref());
        let report = Report {
            name: format!("{name}: {}", query.replace('_', " ")),
            description: format!("{} {}", content.description, content.value),
            query: content.sql(),
            platform: &content.platform,
            interval: content.interval,
            min_osquery_version: version.map(String::as_str),
            logging: logging(content),
            automations_enabled: true,
            observer_can_run: false,
        };
        // One at a time: a list of them would be indented in a way that Fleet's own files are not.
        let text = serde_saphyr::to_string(&report).unwrap();
        text.lines()
            .enumerate()
            .fold(String::new(), |all, (at, line)| all + if at == 0 { "- " } else { "  " } + line + "\n")
    };
    let reports: String = pack.queries.iter().map(report).collect();
    format!("# Made from packs/{name}.conf: ./dev docs\n{reports}")
}

fn documentation<'a>(packs: impl Iterator<Item = (&'a String, &'a Pack)>) -> String {
    let engine = Engine::new(Arc::new(Store::default()), Viewer::All, Limits::default()).unwrap();
    let mut text = include_str!("packs.md").to_owned();
    for (name, pack) in packs {
        let _ = writeln!(
            text,
            "\n## {name}\n\n[For osquery](../packs/{name}.conf), [for Fleet](../packs/fleet/{}).",
            file(name)
        );
        for (query, content) in &pack.queries {
            let columns = engine.columns(content.sql()).unwrap_or_else(|error| panic!("{name}, {query}: {error}"));
            let columns: Vec<_> = columns.into_iter().map(|(column, _)| format!("`{column}`")).collect();
            let purpose = format!("{} {}", content.description, content.value);
            let results = format!("{}, {}. Columns: {}.", every(content.interval), logged(content), columns.join(", "));
            let [purpose, results, sql] = [&purpose, &results, &content.text].map(|text| wrapped(text));
            let _ = write!(text, "\n### {query}\n\n{purpose}\n\n{results}\n\n```sql\n{sql}\n```\n");
        }
    }
    text
}

/// In lines of 120 characters.
fn wrapped(text: &str) -> String {
    text.split(' ').fold(String::new(), |mut all, word| {
        let line = all.len() - all.rfind('\n').map_or(0, |end| end + 1);
        all += if all.is_empty() {
            ""
        } else if line + 1 + word.len() > 120 {
            "\n"
        } else {
            " "
        };
        all + word
    })
}

fn every(seconds: u32) -> String {
    match seconds {
        86_400 => "Once a day".to_owned(),
        3600 => "Once an hour".to_owned(),
        60 => "Every minute".to_owned(),
        seconds if seconds % 60 == 0 => format!("Every {} minutes", seconds / 60),
        seconds => format!("Every {seconds} seconds"),
    }
}

fn logged(query: &Query) -> &'static str {
    if query.is_of_events() {
        "each event once"
    } else if query.snapshot {
        "all rows (a snapshot)"
    } else if query.removed {
        "what was added and what was removed"
    } else {
        "what was added"
    }
}
