//! Time of events and order of rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970.
#[must_use]
pub fn unix_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Seconds since 1970.
#[must_use]
pub fn unix_seconds() -> i64 {
    unix_ns().div_euclid(1_000_000_000)
}

/// Gives out eids, to whoever has it: each is greater than all before it. One thread takes them.
#[derive(Debug, Clone, Default)]
pub struct Eids(Arc<AtomicI64>);

impl Eids {
    /// The next one: that of the UNIX nanoseconds `at`, where no other row has that or a later one.
    #[must_use]
    pub fn next(&self, at: i64) -> i64 {
        let eid = (self.last() + 1).max(at);
        self.0.store(eid, Ordering::Relaxed);
        eid
    }

    /// The one that was given last.
    #[must_use]
    pub fn last(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Gives out eids and turns the kernel's time into UNIX time.
#[derive(Debug)]
pub struct Clock {
    eids: Eids,
    /// UNIX time of what is being recorded.
    now: i64,
    /// UNIX time minus time since boot.
    offset: i64,
}

impl Clock {
    /// A clock whose eids are above `floor`.
    #[must_use]
    pub fn new(floor: i64) -> Self {
        // And above those of a recorder before this one that stored none.
        let now = unix_ns();
        Self { eids: Eids(Arc::new(AtomicI64::new(floor.max(now)))), now, offset: 0 }
    }

    /// Where its eids come from.
    #[must_use]
    pub fn eids(&self) -> Eids {
        self.eids.clone()
    }

    /// Takes the offset anew: a step of the system's clock changes later rows, not those that are there.
    pub fn set(&mut self, unix_ns: i64, boot_ns: u64) {
        self.offset = unix_ns - i64::try_from(boot_ns).unwrap_or(0);
    }

    /// What is recorded from here on happened then.
    pub fn at(&mut self, boot_ns: u64) {
        self.now = self.unix(boot_ns);
    }

    /// UNIX time of a time since boot, in nanoseconds.
    #[must_use]
    pub fn unix(&self, boot_ns: u64) -> i64 {
        i64::try_from(boot_ns).unwrap_or(i64::MAX).saturating_add(self.offset)
    }

    /// The next eid: it grows with publication, and is the event's own time where no other row has that or a later one.
    pub fn next_eid(&mut self) -> i64 {
        self.eids.next(self.now)
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
    fn eids_are_the_times_of_events_in_order() {
        let before = unix_ns();
        let mut clock = Clock::new(0);
        let first = clock.next_eid();
        assert!(first > before && first <= unix_ns() + 1);
        clock.set(before + 10_000_000_000, 500);
        clock.at(700);
        assert_eq!(clock.next_eid(), before + 10_000_000_200);
        clock.at(600);
        assert_eq!(clock.next_eid(), before + 10_000_000_201);
    }
}
