//! What ran before recording began, by the kernel's iterators (`bpf/adopt.h`).
//!
//! The programs that tell of what is new are attached already when these run, so that nothing lies between.

use std::collections::HashMap;
use std::io::{self, Read as _};

use libbpf_rs::{Iter, IterOpts, MapCore, MapFlags, Object};

use super::abi;
use super::decode::{bytes_of, decode, read};
use super::procfs::Proc;
use crate::collect::boot_ns;
use crate::event::{Event, EventKind, Mark, ProcessKey};

/// Runs of the marking at most: each finds what was forked behind the one before.
const PASSES: usize = 16;

/// What the recorder asks of the programs at first.
pub(super) const NOTHING_ASKED: abi::aq_control = abi::aq_control {
    show_every_exec: 0,
    look_for_markers: 0,
    mark_root: 0,
    mark_slot: 0,
    mark_generation: 0,
    padding: 0,
    marker_bits: [0; 4],
};

/// Runs an iterator to its end; what it wrote.
pub(super) fn iterate(object: &Object, name: &str) -> libbpf_rs::Result<Vec<u8>> {
    let program = object.progs_mut().find(|program| program.name() == name);
    let program = program.ok_or_else(|| libbpf_rs::Error::from(io::Error::other(format!("no program {name}"))))?;
    let link = program.attach_iter_with_opts(IterOpts::None)?;
    let mut written = Vec::new();
    Iter::new(&link)?.read_to_end(&mut written)?;
    Ok(written)
}

/// Marks a process with all its threads and descendants; what the iterator wrote.
pub(super) fn mark(object: &Object, control: &impl MapCore, root: u32, mark: Mark) -> libbpf_rs::Result<Vec<u8>> {
    let key = 0_u32.to_ne_bytes();
    let current = control.lookup(&key, MapFlags::ANY)?.unwrap_or_default();
    let mut asked: abi::aq_control = read(&current).unwrap_or(NOTHING_ASKED);
    (asked.mark_root, asked.mark_slot, asked.mark_generation) = (root, mark.slot, mark.generation);
    control.update(&key, bytes_of(&asked), MapFlags::ANY)?;
    iterate(object, "mark_tree")
}

/// Marks until nothing is new, and gives the programs of the tree.
pub(super) fn mark_all(
    object: &Object,
    control: &impl MapCore,
    root: u32,
    tree: Mark,
) -> libbpf_rs::Result<Vec<Event>> {
    let mut found: HashMap<ProcessKey, Event> = HashMap::new();
    for _ in 0..PASSES {
        let before = found.len();
        found.extend(events(&mark(object, control, root, tree)?).map(|event| (event.process, event)));
        if found.len() == before {
            break;
        }
    }
    Ok(with_arguments(found.into_values().collect()))
}

/// The records that an iterator wrote.
pub(super) fn events(written: &[u8]) -> impl Iterator<Item = Event> {
    let mut rest = written;
    std::iter::from_fn(move || {
        let header: abi::aq_header = read(rest).ok()?;
        let length = (header.length as usize).max(size_of::<abi::aq_header>());
        let (record, behind) = rest.split_at_checked(length)?;
        rest = behind;
        Some(decode(record))
    })
    .filter_map(|event| event.inspect_err(|error| tracing::error!(%error, "what runs already cannot be read")).ok())
}

/// Adds what the kernel does not say. Of one that ended meanwhile there are none.
pub(super) fn with_arguments(mut programs: Vec<Event>) -> Vec<Event> {
    let proc = Proc::default();
    for event in &mut programs {
        if let EventKind::Exec(exec) = &mut event.kind {
            let arguments = proc.arguments(event.process).unwrap_or_default();
            exec.argv = arguments.argv;
            exec.truncated |= arguments.truncated;
            event.boot_ns = boot_ns();
        }
    }
    programs
}
