//! agentquery: what AI coding agents do on a machine, as SQL tables.
//!
//! The data goes one way, and the modules are read in its order: [`event`] is the vocabulary, [`collect`] hears the
//! kernel, [`identify`] says which process is an agent, [`enrich`] gives meaning, [`record`] keeps the rows, [`history`]
//! keeps them on disk, [`tables`] declares them, [`osquery`] and [`shell`] answer from them.

pub mod collect;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod enrich;
pub mod event;
pub mod export;
pub mod front;
mod hash;
pub mod history;
pub mod identify;
mod inside;
pub mod install;
pub mod lock;
pub mod log;
mod meant;
pub mod os;
pub mod osquery;
pub mod packs;
pub mod places;
pub mod record;
pub mod recorder;
pub mod sensor;
pub mod shell;
pub mod tables;
pub mod trust;
pub mod value;
mod yaml;

#[cfg(test)]
extern crate self as agentquery;
#[cfg(test)]
#[path = "../../tests/fixture.rs"]
mod fixture;
