//! The live state and the rows that it leaves.
//!
//! [`Engine`] is the state machine, run by one thread; [`Store`] is what it leaves and what queries read.

pub mod clock;
mod connections;
mod engine;
mod events;
mod files;
pub mod found;
mod inspect;
pub mod live;
pub mod log;
mod names;
mod peer;
pub mod rows;
mod store;

pub use engine::{Boot, Engine};
pub(crate) use inspect::EDITORS;
pub use store::{Probe, State, Store};
