//! What an event means, beyond what the kernel says of it.

pub mod mask;

pub use mask::Masker;
