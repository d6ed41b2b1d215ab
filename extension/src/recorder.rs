//! The recorder: what fills the store while it runs.

use std::path::PathBuf;
use std::sync::Arc;

use crate::record::Store;

/// How to record.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Hear system calls always, not only while an agent runs.
    pub syscalls_always: bool,
    /// Directories with further signatures.
    pub signature_dirs: Vec<PathBuf>,
}

/// Why nothing can be recorded.
#[derive(Debug, thiserror::Error)]
pub enum Error {}

/// Records until it is dropped.
pub struct Recorder {
    store: Arc<Store>,
}

impl Recorder {
    /// Starts to record.
    ///
    /// # Errors
    /// When this machine cannot be recorded.
    pub fn start(_settings: &Settings) -> Result<Self, Error> {
        Ok(Self { store: Arc::default() })
    }

    /// The rows.
    #[must_use]
    pub fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }
}
