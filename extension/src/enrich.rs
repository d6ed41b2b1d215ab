//! Giving meaning: names for numbers, paths as a person would write them, secrets masked.

pub mod container;
pub mod endpoints;
pub mod errno;
pub mod files;
#[cfg(test)]
mod macos;
pub mod mask;
mod meaning;
pub mod names;
mod paths;
pub mod project;
pub mod resolve;
pub mod users;

pub use mask::Masker;
pub use meaning::Meaning;
