//! Time of events and order of rows.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970.
#[must_use]
pub fn unix_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Gives out eids and turns the kernel's time into UNIX time.
#[derive(Debug)]
pub struct Clock {
    last_eid: i64,
    /// UNIX time minus time since boot.
    offset: i64,
}

impl Clock {
    /// A clock whose eids are above `floor`.
    #[must_use]
    pub fn new(floor: i64) -> Self {
        Self { last_eid: floor, offset: 0 }
    }

    /// Takes the offset anew: a step of the system's clock changes later rows, not those that are there.
    pub fn set(&mut self, unix_ns: i64, boot_ns: u64) {
        self.offset = unix_ns - i64::try_from(boot_ns).unwrap_or(0);
    }

    /// UNIX time of a time since boot, in nanoseconds.
    #[must_use]
    pub fn unix(&self, boot_ns: u64) -> i64 {
        i64::try_from(boot_ns).unwrap_or(i64::MAX).saturating_add(self.offset)
    }

    /// The next eid: it grows with publication, and is near the time of it.
    pub fn next_eid(&mut self) -> i64 {
        self.last_eid = (self.last_eid + 1).max(unix_ns());
        self.last_eid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eids_grow_even_when_the_clock_goes_back() {
        let future = unix_ns() + 1_000_000_000_000;
        let mut clock = Clock::new(future);
        assert_eq!(clock.next_eid(), future + 1);
        assert_eq!(clock.next_eid(), future + 2);
    }

    #[test]
    fn eids_are_near_the_time_of_publication() {
        let before = unix_ns();
        let eid = Clock::new(0).next_eid();
        assert!(eid >= before && eid <= unix_ns());
    }
}
