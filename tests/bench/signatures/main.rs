//! What it costs to load signatures and to hold a process that starts against them.
//!
//! Prints a line for each measured value: figure, condition, value and unit, with tabs between them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)] // a benchmark fails by panicking
#![allow(clippy::cast_precision_loss)] // figures for people

mod many;

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use agentquery::identify::{Catalogue, ProcessFacts};
use many::{AGENTS, ORDINARY, Start, words};

const ROUNDS: usize = 21;
/// Times that each start is held against the signatures in a round.
const TIMES: usize = 20_000;
const MANY: usize = 1000;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let built_in = Catalogue::builtin().signatures().count();
    let with = |name: &str, all: usize, more: &str| {
        let own = folder.path().join(name);
        std::fs::create_dir(&own).unwrap();
        let made_up = all.saturating_sub(built_in + usize::from(!more.is_empty())).max(10);
        for n in 0..made_up {
            std::fs::write(own.join(format!("{n}.yaml")), many::signature(n)).unwrap();
        }
        if !more.is_empty() {
            std::fs::write(own.join("more.yaml"), more).unwrap();
        }
        Catalogue::load(&[own])
    };
    let late = "name: late\ndetection:\n  names: [late]\n  env: [LATE]\n  exe_patterns: [{regex: 'late-[a-z]+/bin'}]\n";
    let catalogues = [
        ("60 signatures", with("sixty", 60, "")),
        ("1,000 signatures", with("many", MANY, "")),
        ("60, one of them late", with("late", 60, late)),
    ];
    for _ in 0..ROUNDS {
        for (figure, starts) in [("an ordinary start", ORDINARY), ("a start of an agent", AGENTS)] {
            for (condition, catalogue) in &catalogues {
                tell(figure, condition, matching(catalogue, starts), "ns");
            }
        }
    }
    load(folder.path());
}

/// Nanoseconds for each start.
fn matching(catalogue: &Catalogue, starts: &[Start]) -> f64 {
    let starts: Vec<_> = starts.iter().map(|(path, line, script)| (*path, words(line), *script)).collect();
    let begun = Instant::now();
    for _ in 0..TIMES {
        for (path, argv, script) in &starts {
            let facts = ProcessFacts { path, exec_path: path, argv, script: *script, parent_name: Some("bash") };
            black_box(catalogue.identify(black_box(&facts)));
        }
    }
    begun.elapsed().as_nanos() as f64 / (TIMES * starts.len()) as f64
}

/// A thousand files in one directory, beside what is compiled in. The baseline reads the same files as YAML that means
/// nothing.
fn load(folder: &Path) {
    let own = folder.join("load");
    std::fs::create_dir(&own).unwrap();
    let files: Vec<_> = (0..MANY).map(|n| own.join(format!("{n:04}.yaml"))).collect();
    for (n, file) in files.iter().enumerate() {
        std::fs::write(file, many::signature(n)).unwrap();
    }
    let dirs = [own];
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let catalogue = Catalogue::load(&dirs);
        tell("loading 1,000 signatures", "signatures", milliseconds(begun.elapsed()), "ms");
        assert!(catalogue.signatures().count() >= MANY);
        let begun = Instant::now();
        for file in &files {
            let text = std::fs::read_to_string(file).unwrap();
            black_box(serde_saphyr::from_str::<serde_json::Value>(&text).unwrap());
        }
        tell("loading 1,000 signatures", "YAML alone", milliseconds(begun.elapsed()), "ms");
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn tell(figure: &str, condition: &str, value: f64, unit: &str) {
    println!("{figure}\t{condition}\t{value}\t{unit}");
}
