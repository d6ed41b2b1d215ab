//! The live state and the rows that it leaves.

pub mod log;
pub mod rows;
mod store;

pub use store::{Probe, State, Store};
