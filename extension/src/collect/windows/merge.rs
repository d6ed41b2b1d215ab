//! Bringing what comes by two ways into one order.
//!
//! Each ETW session is heard by a thread of its own, and gives its events when its buffers are flushed: a file's open may come
//! before the start of the process that opens it. So everything waits until what happened before it must have come.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::collect::watched::Told;

/// So long everything waits: more than the slower session's flush takes.
pub(super) const WINDOW_NS: u64 = 60_000_000;
/// More does not wait; the rest is lost, and counted.
const WAITING: usize = 1 << 17;

/// What waits for its turn.
#[derive(Debug, Default)]
pub(super) struct Merge {
    waiting: BinaryHeap<Waiting>,
    number: u64,
    /// For which there was no room.
    pub lost: u64,
}

#[derive(Debug)]
struct Waiting {
    told: Told,
    number: u64,
    /// When it came. Its own time is the wall clock's, which may be set meanwhile.
    came_ns: u64,
}

impl Waiting {
    fn turn(&self) -> (u64, u64) {
        (self.told.boot_ns, self.number)
    }
}

/// The heap's first is the oldest.
impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> Ordering {
        other.turn().cmp(&self.turn())
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.turn() == other.turn()
    }
}

impl Eq for Waiting {}

impl Merge {
    /// Takes what one way brought.
    pub(super) fn add(&mut self, now_ns: u64, told: impl IntoIterator<Item = Told>) {
        for told in told {
            if self.waiting.len() < WAITING {
                self.number += 1;
                self.waiting.push(Waiting { told, number: self.number, came_ns: now_ns });
            } else {
                self.lost += 1;
            }
        }
    }

    /// Gives out what has waited for long enough, at most so much.
    pub(super) fn due(&mut self, now_ns: u64, most: usize, told: &mut Vec<Told>) {
        for _ in 0..most {
            let is_due = |first: &Waiting| first.told.boot_ns.min(first.came_ns).saturating_add(WINDOW_NS) <= now_ns;
            if !self.waiting.peek().is_some_and(is_due) {
                return;
            }
            told.extend(self.waiting.pop().map(|waiting| waiting.told));
        }
    }

    /// How much waits.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::watched::{What, Who};

    fn told(boot_ns: u64, pid: u32) -> Told {
        Told { boot_ns, process: Who::Pid(pid), what: What::End(None) }
    }

    #[test]
    fn the_order_is_that_in_which_it_happened() {
        let mut merge = Merge::default();
        merge.add(25, [told(30, 1), told(10, 2), told(30, 3), told(20, 4)]);
        merge.add(35, [told(10, 5)]);
        let mut due = Vec::new();
        merge.due(WINDOW_NS + 9, 100, &mut due);
        assert!(due.is_empty());
        merge.due(WINDOW_NS + 20, 2, &mut due);
        assert_eq!(due, [told(10, 2), told(10, 5)]);
        merge.due(WINDOW_NS + 20, 100, &mut due);
        assert_eq!(due.len(), 3);
        merge.due(WINDOW_NS + 30, 100, &mut due);
        assert_eq!(due[2..], [told(20, 4), told(30, 1), told(30, 3)]);
    }

    #[test]
    fn a_clock_that_was_set_holds_nothing_up() {
        let mut merge = Merge::default();
        merge.add(10, [told(3_600_000_000_000, 1)]);
        let mut due = Vec::new();
        merge.due(WINDOW_NS + 9, 1, &mut due);
        assert!(due.is_empty());
        merge.due(WINDOW_NS + 10, 1, &mut due);
        assert_eq!(due.len(), 1);
    }

    #[test]
    fn what_has_no_room_is_counted() {
        let mut merge = Merge::default();
        merge.add(0, (0..WAITING as u64 + 3).map(|at| told(at, 1)));
        assert_eq!((merge.len(), merge.lost), (WAITING, 3));
    }
}
