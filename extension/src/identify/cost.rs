//! What matching and loading may cost at most, with a bound that also holds without optimisation and on a busy machine.
//! `./dev bench signatures` measures it.

use std::time::{Duration, Instant};

use super::{Catalogue, ProcessFacts};

#[path = "../../../tests/bench/signatures/many.rs"]
mod many;

/// Times that each start is held against the signatures.
const TIMES: u32 = 200;

#[test]
fn a_thousand_signatures_load_at_once_and_a_start_is_held_against_few() {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..1000 {
        std::fs::write(folder.path().join(format!("{n}.yaml")), many::signature(n)).unwrap();
    }
    let begun = Instant::now();
    let catalogue = Catalogue::load(&[folder.path().to_owned()]);
    let loading = begun.elapsed();
    let refused: Vec<_> = catalogue.rows().into_iter().filter(|row| row.status == "refused").collect();
    assert!(refused.is_empty(), "{:?}", refused.first());
    assert!(!catalogue.needs_every_exec());
    assert!(loading < Duration::from_secs(10), "{loading:?}");

    for (starts, are_agents) in [(many::ORDINARY, false), (many::AGENTS, true)] {
        for (path, line, script) in starts {
            let argv = many::words(line);
            let facts = ProcessFacts { path, exec_path: path, argv: &argv, script: *script, parent_name: Some("bash") };
            assert_eq!(catalogue.identify(&facts).is_some(), are_agents, "{path} {line}");
            let begun = Instant::now();
            for _ in 0..TIMES {
                std::hint::black_box(catalogue.identify(std::hint::black_box(&facts)));
            }
            let each = begun.elapsed() / TIMES;
            assert!(each < Duration::from_millis(1), "{path} {line}: {each:?}");
        }
    }
}
