//! Windows: ETW. The system's providers tell of processes, files, connections and names that were looked up.
//!
//! [`decode`] turns an event's bytes into what it tells; `processes`, `files` and `sockets` put together what one event alone
//! does not say; `paths` gives the kernel's names those that a person would write, `arguments` takes a command line apart. All of
//! these are pure, and compiled and tested on every system. `tables` is IP Helper's answers, for what was open before and
//! for listening sockets, of which no event tells.
//!
//! The rest calls the system: `session` starts the two ETW sessions and hears their events, `source` brings them into order and
//! gives them to the collector, `live` asks a process what its events do not tell, `iphelper` asks for the tables, `accounts` for the
//! names of users.

#[cfg(windows)]
pub mod accounts;
pub mod arguments;
mod bounded;
mod cursor;
pub mod decode;
pub mod files;
#[cfg(windows)]
pub mod iphelper;
#[cfg(windows)]
pub mod live;
#[cfg(any(test, windows))]
mod merge;
pub mod parameters;
pub mod paths;
pub mod processes;
#[cfg(windows)]
mod session;
pub mod sockets;
#[cfg(windows)]
pub mod source;
pub mod tables;

pub use cursor::Sid;
