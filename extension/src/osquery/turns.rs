//! A bound on the answers that are made at the same time: each may take some ten megabytes, and a core, while it is made.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use crate::tables::Viewer;

/// So many at a time; the others wait. Users who may not see everything have places of their own, so that they never
/// keep osquery or root waiting.
#[derive(Clone)]
pub(super) struct Turns(Arc<(Mutex<Left>, Condvar)>);

struct Left {
    all: usize,
    users: usize,
}

impl Left {
    fn of(&mut self, viewer: Viewer) -> &mut usize {
        match viewer {
            Viewer::All => &mut self.all,
            Viewer::User(_) => &mut self.users,
        }
    }
}

/// One's turn, until it is dropped.
pub(super) struct Turn {
    turns: Turns,
    viewer: Viewer,
}

impl Turns {
    pub(super) fn new(all: usize, users: usize) -> Self {
        Self(Arc::new((Mutex::new(Left { all, users }), Condvar::new())))
    }

    /// Waits for a turn; none when there is none until then.
    pub(super) fn wait(&self, viewer: Viewer, until: Instant) -> Option<Turn> {
        let left = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let time = until.saturating_duration_since(Instant::now());
        let waited = self.0.1.wait_timeout_while(left, time, |left| *left.of(viewer) == 0);
        let (mut left, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let places = left.of(viewer);
        *places = places.checked_sub(1)?;
        Some(Turn { turns: self.clone(), viewer })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *self.turns.0.0.lock().unwrap_or_else(PoisonError::into_inner).of(self.viewer) += 1;
        self.turns.0.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn no_more_than_so_many_and_each_in_the_end() {
        let (turns, all) = (Turns::new(2, 1), Viewer::All);
        let first = turns.wait(all, Instant::now()).unwrap();
        let _second = turns.wait(all, Instant::now()).unwrap();
        assert!(turns.wait(all, Instant::now() + Duration::from_millis(20)).is_none());
        let third = std::thread::spawn({
            let turns = turns.clone();
            move || turns.wait(all, Instant::now() + Duration::from_secs(30)).is_some()
        });
        drop(first);
        assert!(third.join().unwrap());
    }

    #[test]
    fn users_keep_nobody_else_waiting() {
        let turns = Turns::new(1, 1);
        let _alice = turns.wait(Viewer::User(1), Instant::now()).unwrap();
        assert!(turns.wait(Viewer::User(2), Instant::now()).is_none());
        assert!(turns.wait(Viewer::All, Instant::now()).is_some());
    }
}
