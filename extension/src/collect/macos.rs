//! macOS: Endpoint Security tells of processes and files, libproc of connections and of what is open.
//!
//! The kernel's messages are copied where they arrive, into the plain structures of [`message`], and decoded on the
//! recording thread: [`decode`], [`opens`], [`sequence`] and [`source`] know nothing of Apple's library, and are compiled and tested
//! on every system, as is [`records`], which reads what libproc writes. `client` is the glue to Endpoint Security, `look`
//! that to libproc.
//!
//! None of the glue has run: it is type-checked, and what it feeds is tested with constructed records.

#[cfg(target_os = "macos")]
pub mod client;
pub mod decode;
#[cfg(target_os = "macos")]
pub mod look;
pub mod message;
pub mod opens;
pub mod peers;
pub mod records;
pub mod refusal;
pub mod sequence;
pub mod source;
