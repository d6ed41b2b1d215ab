//! The packs as they lie in `packs/`, in the shape that osquery documents:
//! <https://osquery.readthedocs.io/en/stable/deployment/configuration/#packs>.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use agentquery::tables;
use serde::Deserialize;

/// A pack. What osquery knows and these do not use is no key of it: a slip of the pen is an error, and not ignored.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pack {
    pub platform: String,
    pub version: Option<String>,
    pub discovery: Vec<String>,
    pub queries: BTreeMap<String, Query>,
}

/// A query of a schedule.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    #[serde(rename = "query")]
    pub text: String,
    pub interval: u32,
    pub platform: String,
    pub version: Option<String>,
    pub description: String,
    pub value: String,
    #[serde(default)]
    pub snapshot: bool,
    #[serde(default = "yes")]
    pub removed: bool,
}

fn yes() -> bool {
    true
}

impl Query {
    /// Without its semicolon.
    pub fn sql(&self) -> &str {
        self.text.trim_end().trim_end_matches(';')
    }

    /// Our tables that it reads.
    pub fn tables(&self) -> Vec<&'static dyn tables::Table> {
        let words: BTreeSet<_> = self.text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
        tables::all().into_iter().filter(|table| words.contains(table.info().name)).collect()
    }

    /// Whether osquery logs each of its rows once.
    pub fn is_of_events(&self) -> bool {
        self.tables().iter().any(|table| table.info().event_based)
    }
}

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The packs with their names, in the order of these.
pub fn packs() -> BTreeMap<String, Pack> {
    let files = std::fs::read_dir(root().join("packs")).unwrap().map(|entry| entry.unwrap().path());
    let packs = files.filter(|file| file.is_file()).map(|file| {
        assert_eq!(file.extension().and_then(|end| end.to_str()), Some("conf"), "{}", file.display());
        let text = std::fs::read_to_string(&file).unwrap();
        let pack = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        (file.file_stem().unwrap().to_str().unwrap().to_owned(), pack)
    });
    packs.collect()
}

/// Every query with its pack and its name.
pub fn queries() -> Vec<(String, String, Query)> {
    let of = |(pack, content): (String, Pack)| {
        content.queries.into_iter().map(move |(name, query)| (pack.clone(), name, query))
    };
    packs().into_iter().flat_map(of).collect()
}
