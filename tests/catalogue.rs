//! The signatures that are compiled in, held against command lines: each agent's own, and those of ordinary work.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a test fails by panicking

use std::path::{Path, PathBuf};

use agentquery::identify::{Catalogue, Match, ProcessFacts, VersionSource};
use serde::Deserialize;

/// One process, and what it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    exe: String,
    argv: Vec<String>,
    script: Option<String>,
    parent: Option<String>,
    /// `main` when not given.
    role: Option<String>,
    /// A version, or the file that has it.
    version: Option<String>,
    /// The other agent that it is.
    is: Option<String>,
}

/// The cases of one agent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    agent: Vec<Case>,
    other: Vec<Case>,
}

impl Case {
    fn identify(&self, catalogue: &Catalogue) -> Option<Match> {
        let Self { exe, argv, script, parent, .. } = self;
        catalogue.identify(&ProcessFacts {
            path: exe,
            exec_path: exe,
            argv,
            script: script.as_deref(),
            parent_name: Some(parent.as_deref().unwrap_or("bash")),
        })
    }
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data").join(name)
}

fn read<T: serde::de::DeserializeOwned>(file: &Path) -> T {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn every_agent_is_told_from_what_looks_like_it() {
    let catalogue = Catalogue::builtin();
    let mut wrong = Vec::new();
    for signature in catalogue.signatures() {
        let name = &*signature.name;
        let cases: Cases = read(&data("agents").join(format!("{name}.yaml")));
        assert!(cases.agent.len() >= 2 && cases.other.len() >= 2, "{name}: too few cases");
        for case in &cases.agent {
            let Some(found) = case.identify(&catalogue) else {
                wrong.push(format!("{name}: not recognised: {case:?}"));
                continue;
            };
            let version = match &found.version {
                VersionSource::Known(version) => Some(version.clone()),
                VersionSource::PackageJson(path) => Some(path.to_str().unwrap().to_owned()),
                VersionSource::Unknown => None,
            };
            let role = case.role.as_deref().unwrap_or("main");
            if &*found.signature.name != name || found.role.as_str() != role || version != case.version {
                wrong.push(format!("{name}: {case:?}: {found:?}"));
            }
        }
        for case in &cases.other {
            let found = case.identify(&catalogue).map(|found| found.signature.name.to_string());
            if found != case.is {
                wrong.push(format!("{name}: {case:?}: {found:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let files = std::fs::read_dir(data("agents")).unwrap().count();
    assert_eq!(files, catalogue.signatures().count(), "cases of an agent that there is not");
}

#[test]
fn ordinary_commands_are_no_agents() {
    let catalogue = Catalogue::builtin();
    let commands: Vec<Case> = read(&data("ordinary.yaml"));
    assert!(commands.len() >= 200, "{}", commands.len());
    for command in &commands {
        let found = command.identify(&catalogue);
        assert!(found.is_none(), "{command:?}: {found:?}");
    }
}
