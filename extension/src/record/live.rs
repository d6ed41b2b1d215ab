//! Rows that can still change, and which of them the history does not have as they are.

use std::collections::{BTreeMap, BTreeSet};

/// Rows by their number (an agent's: that of its first process' row).
#[derive(Debug)]
pub struct Live<R> {
    rows: BTreeMap<i64, R>,
    /// Those that the history does not have.
    begun: BTreeSet<i64>,
    /// Those that it has as they were before.
    changed: BTreeSet<i64>,
}

impl<R> Default for Live<R> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), begun: BTreeSet::new(), changed: BTreeSet::new() }
    }
}

impl<R> Live<R> {
    /// Adds a row, or puts it in the place of the one with that number.
    pub fn insert(&mut self, number: i64, row: R) {
        let new = if self.rows.insert(number, row).is_some() { &mut self.changed } else { &mut self.begun };
        new.insert(number);
    }

    /// Takes a row out: it has ended.
    pub fn remove(&mut self, number: i64) -> Option<R> {
        self.begun.remove(&number);
        self.changed.remove(&number);
        self.rows.remove(&number)
    }

    /// A row.
    #[must_use]
    pub fn get(&self, number: i64) -> Option<&R> {
        self.rows.get(&number)
    }

    /// A row, to change it.
    pub fn get_mut(&mut self, number: i64) -> Option<&mut R> {
        let row = self.rows.get_mut(&number)?;
        self.changed.insert(number);
        Some(row)
    }

    /// The rows, oldest first.
    pub fn values(&self) -> impl Iterator<Item = &R> {
        self.rows.values()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The highest number; 0 without a row.
    #[must_use]
    pub fn highest(&self) -> i64 {
        self.rows.keys().next_back().copied().unwrap_or(0)
    }

    /// How many rows began, and how many only changed, since they were taken for the history.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        (self.begun.len(), self.changed.difference(&self.begun).count())
    }

    /// The rows that began or changed since the last time.
    pub fn take_new(&mut self) -> impl Iterator<Item = &R> {
        let mut new = std::mem::take(&mut self.begun);
        new.append(&mut self.changed);
        new.into_iter().filter_map(|number| self.rows.get(&number))
    }

    /// The history has none of them for sure.
    pub fn all_new(&mut self) {
        self.begun = self.rows.keys().copied().collect();
        self.changed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_began_or_changed_is_taken_once() {
        let mut live = Live::default();
        for number in 1..=4 {
            live.insert(number, number);
        }
        live.remove(2);
        live.insert(3, 30);
        assert_eq!(live.take_new().copied().collect::<Vec<_>>(), [1, 30, 4], "as they are by now");
        assert_eq!(live.waiting(), (0, 0));
        *live.get_mut(1).unwrap() = 10;
        live.insert(4, 40);
        assert_eq!(live.waiting(), (0, 2));
        live.insert(5, 5);
        assert_eq!(live.take_new().copied().collect::<Vec<_>>(), [10, 40, 5]);
        // Taken out and put back it is another row, as a fork's that runs a program.
        let row = live.remove(1).unwrap();
        live.insert(1, row + 1);
        assert_eq!(live.take_new().copied().collect::<Vec<_>>(), [11]);
        live.all_new();
        assert_eq!((live.take_new().count(), live.highest()), (4, 5));
    }
}
