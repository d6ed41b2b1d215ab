//! Whether this kernel tells what is asked of `io_uring`: `bpf/uring.h` needs two tracepoints, and of both the request.
//!
//! The kernel's own types say it. Linux 5.19 is the first that can be heard; older ones complete a request without saying
//! which.

use std::ffi::OsStr;

use libbpf_rs::OpenObject;
use libbpf_rs::btf::types::{FuncProto, Ptr, Struct, Typedef};
use libbpf_rs::btf::{Btf, BtfType, ReferencesType as _};

/// The submission's tracepoints, the newest first, with their programs.
const SUBMIT: [(&str, &str); 2] = [("io_uring_submit_req", "on_submit"), ("io_uring_submit_sqe", "on_submit_before")];
const COMPLETE: (&str, &str) = ("io_uring_complete", "on_complete");
/// The end of a request for whose completion there was no room.
const OVERFLOW: (&str, &str) = ("io_uring_cqe_overflow", "on_overflow");

/// Set to `io_uring`, in a test, the programs are left out.
const WITHOUT: &str = "AGENTQUERY_WITHOUT";

/// The programs that hear of requests here; none where that cannot be.
pub(super) fn programs() -> Vec<&'static str> {
    if std::env::var_os(WITHOUT).is_some_and(|what| what == "io_uring") {
        return Vec::new();
    }
    let Ok(btf) = Btf::from_vmlinux() else { return Vec::new() };
    let submit = SUBMIT.into_iter().find(|(point, _)| {
        let request = argument(&btf, point, 0).and_then(|pointer| Struct::try_from(pointer.referenced_type()).ok());
        request.is_some_and(|request| request.name().is_some_and(|name| name == "io_kiocb"))
    });
    let complete = argument(&btf, COMPLETE.0, 1).map(|_| COMPLETE);
    let overflow = argument(&btf, OVERFLOW.0, 4).map(|_| OVERFLOW);
    match (submit, complete) {
        (Some(submit), Some(complete)) => {
            [complete, submit].into_iter().chain(overflow).map(|(_, program)| program).collect()
        }
        _ => Vec::new(),
    }
}

/// An argument of a tracepoint, when it has that many and this one is a pointer.
fn argument<'a>(btf: &'a Btf<'_>, tracepoint: &str, index: usize) -> Option<Ptr<'a>> {
    let hook: Typedef<'_> = btf.type_by_name(&format!("btf_trace_{tracepoint}"))?;
    let prototype = Ptr::try_from(hook.referenced_type()).ok()?;
    let prototype = FuncProto::try_from(prototype.referenced_type()).ok()?;
    // Before them is a pointer that every tracepoint has.
    let argument = prototype.get(index + 1)?;
    let found: BtfType<'_> = btf.type_by_id(argument.ty)?;
    Ptr::try_from(found.skip_mods_and_typedefs()).ok()
}

/// Whether a program of the object is loaded when these are chosen.
pub(super) fn is_loaded(name: &OsStr, chosen: &[&str]) -> bool {
    let mut all = SUBMIT.into_iter().chain([COMPLETE, OVERFLOW]).map(|(_, program)| program);
    chosen.iter().any(|chosen| name == *chosen) || !all.any(|program| name == program)
}

/// Has only these programs loaded, of those that hear of requests.
pub(super) fn choose(open: &mut OpenObject, chosen: &[&str]) {
    for mut program in open.progs_mut() {
        if !is_loaded(program.name(), chosen) {
            program.set_autoload(false);
        }
    }
}
