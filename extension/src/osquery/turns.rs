//! A bound on the answers that are made at the same time: each may take some ten megabytes while it is made.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// So many at a time; the others wait.
#[derive(Clone)]
pub(super) struct Turns(Arc<(Mutex<usize>, Condvar)>);

/// One's turn, until it is dropped.
pub(super) struct Turn(Turns);

impl Turns {
    pub(super) fn new(at_a_time: usize) -> Self {
        Self(Arc::new((Mutex::new(at_a_time), Condvar::new())))
    }

    /// Waits for a turn; none when there is none until then.
    pub(super) fn wait(&self, until: Instant) -> Option<Turn> {
        let left = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let time = until.saturating_duration_since(Instant::now());
        let waited = self.0.1.wait_timeout_while(left, time, |left| *left == 0);
        let (mut left, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *left = left.checked_sub(1)?;
        Some(Turn(self.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.0.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.0.1.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn no_more_than_so_many_and_each_in_the_end() {
        let turns = Turns::new(2);
        let first = turns.wait(Instant::now()).unwrap();
        let _second = turns.wait(Instant::now()).unwrap();
        assert!(turns.wait(Instant::now() + Duration::from_millis(20)).is_none());
        let third = std::thread::spawn({
            let turns = turns.clone();
            move || turns.wait(Instant::now() + Duration::from_secs(30)).is_some()
        });
        drop(first);
        assert!(third.join().unwrap());
    }
}
