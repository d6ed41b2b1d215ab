//! Linux: eBPF. The programs are in `bpf/`, their records in `bpf/event.h`.
//!
//! [`decode`], [`procfs`] and `sockets` are pure and compiled on every system; `look` is `/proc` for the collector that polls,
//! which needs no eBPF; `ebpf` loads and attaches, `uring` says whether what is
//! asked of `io_uring` can be seen, `ring` reads, `adopt` asks
//! for what ran before, `pins` keeps it all for the next recorder.

#[cfg(target_os = "linux")]
mod adopt;

#[allow(missing_docs, non_camel_case_types, clippy::all, clippy::pedantic, dead_code)]
#[rustfmt::skip]
pub mod abi;
pub mod decode;
#[cfg(target_os = "linux")]
mod diag;
#[cfg(target_os = "linux")]
pub mod ebpf;
#[cfg(target_os = "linux")]
pub mod look;
#[cfg(target_os = "linux")]
pub mod pins;
pub mod procfs;
#[cfg(target_os = "linux")]
mod ring;
#[cfg(any(test, target_os = "linux"))]
mod sockets;
#[cfg(target_os = "linux")]
pub mod trial;
#[cfg(target_os = "linux")]
mod uprobes;
#[cfg(target_os = "linux")]
mod uring;
