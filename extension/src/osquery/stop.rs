//! A request to end that many threads wait for.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Shared by all that should end together.
#[derive(Clone, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Asks for the end.
    pub fn request(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Waits, but not beyond the end: true when it was asked for.
    #[must_use]
    pub fn wait(&self, time: Duration) -> bool {
        let requested = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (requested, _) = self
            .0
            .1
            .wait_timeout_while(requested, time, |requested| !*requested)
            .unwrap_or_else(PoisonError::into_inner);
        *requested
    }

    /// Waits for the end.
    pub fn wait_for_it(&self) {
        while !self.wait(Duration::from_secs(3600)) {}
    }

    /// SIGTERM and SIGINT ask for the end. A second one ends the process at once, should the first one not.
    ///
    /// # Errors
    /// When the handlers cannot be set.
    #[cfg(unix)]
    pub fn on_signals(&self) -> std::io::Result<()> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let asked = Arc::new(std::sync::atomic::AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&asked))?;
            signal_hook::flag::register(signal, Arc::clone(&asked))?;
        }
        let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
        let stop = self.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            if signals.forever().next().is_some() {
                stop.request();
            }
        })?;
        Ok(())
    }

    /// Ctrl-C, a closed console and the end of the session ask for the end. A second Ctrl-C ends the process at once, should
    /// the first one not.
    ///
    /// # Errors
    /// When the system does not tell.
    #[cfg(windows)]
    pub fn on_signals(&self) -> std::io::Result<()> {
        let stop = self.clone();
        crate::os::on_key(move |_| {
            let first = !stop.wait(Duration::ZERO);
            stop.request();
            first
        })
    }
}
