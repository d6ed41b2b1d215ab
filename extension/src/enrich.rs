//! Giving meaning: names for numbers, paths as a person would write them, secrets masked.

pub mod container;
pub mod errno;
pub mod mask;
pub mod names;
pub mod noise;
pub mod project;
pub mod resolve;
pub mod users;

pub use mask::Masker;
