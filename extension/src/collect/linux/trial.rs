//! Trying the programs one by one: which of them this kernel takes.

use libbpf_rs::{IterOpts, ObjectBuilder};

use super::ebpf::{CALL_PROGRAM, OBJECT, PROCESS_PROGRAMS, attach, log_libbpf};
use super::uring;

/// Runs over all tasks when it is told to.
const ITERATOR: &str = "mark_tree";
/// Run when they are told to, or attached to a file that agents use.
const BY_HAND: [&str; 3] = ["sweep", "on_lookup", "on_lookup_done"];

/// Loads and attaches each program by itself, and takes it away again. It sees nothing meanwhile: nothing is marked.
#[must_use]
pub fn programs() -> Vec<(&'static str, Result<(), String>)> {
    log_libbpf();
    let names = PROCESS_PROGRAMS.into_iter().chain([CALL_PROGRAM, ITERATOR]).chain(BY_HAND).chain(uring::programs());
    names.map(|name| (name, one(name))).collect()
}

fn one(name: &str) -> Result<(), String> {
    let told = |error: libbpf_rs::Error| format!("{error:#}");
    let mut open = ObjectBuilder::default().open_memory(OBJECT).map_err(told)?;
    for mut program in open.progs_mut() {
        let wanted = program.name() == name;
        program.set_autoload(wanted);
    }
    let object = open.load().map_err(told)?;
    if name == ITERATOR {
        let program = object.progs_mut().find(|program| program.name() == name);
        let program = program.ok_or("it is not in the object")?;
        return program.attach_iter_with_opts(IterOpts::None).map(drop).map_err(told);
    }
    if BY_HAND.contains(&name) {
        return Ok(());
    }
    attach(&object, name).map(drop).map_err(|reason| reason.to_string())
}
