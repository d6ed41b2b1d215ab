//! Ctrl-C stops the query that runs, and not the shell.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::Interrupter;

/// Hears SIGINT. At the prompt there is none: the line editor reads the key itself.
#[derive(Clone, Default)]
pub(super) struct Interrupts(Arc<Mutex<Option<Interrupter>>>);

impl Interrupts {
    /// From now on SIGINT does not end the process.
    #[cfg(unix)]
    pub(super) fn listen() -> io::Result<Self> {
        let interrupts = Self::default();
        let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT])?;
        let heard = interrupts.clone();
        std::thread::Builder::new().name("interrupts".into()).spawn(move || {
            for _ in signals.forever() {
                heard.stop();
            }
        })?;
        Ok(interrupts)
    }

    /// From now on Ctrl-C does not end the process.
    #[cfg(windows)]
    pub(super) fn listen() -> io::Result<Self> {
        use crate::os::{Key, on_key};
        let interrupts = Self::default();
        let heard = interrupts.clone();
        on_key(move |key| {
            if key == Key::Interrupt {
                heard.stop();
            }
            key == Key::Interrupt
        })?;
        Ok(interrupts)
    }

    fn stop(&self) {
        if let Some(stop) = self.held().as_ref() {
            stop();
        }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Interrupter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the work, which the interrupter stops.
    pub(super) fn during<T>(&self, stop: Interrupter, work: impl FnOnce() -> T) -> T {
        *self.held() = Some(stop);
        let done = work();
        *self.held() = None;
        done
    }
}
