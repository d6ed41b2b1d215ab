//! Finished rows in memory: appended by one thread, read by many, bounded.
//!
//! A reader takes references to the sealed segments and a copy of the short open one, so that the recording thread is
//! never kept waiting by a query, however large it is.

use std::collections::VecDeque;
use std::sync::Arc;

/// Rows in a segment: small enough to copy the open one at every query, large enough that a long log is few segments.
const SEGMENT: usize = 512;

/// How much memory a row holds.
pub trait Weigh {
    /// Bytes, about: the row itself and the long texts that are its own.
    fn weight(&self) -> usize;
}

/// A bounded, append-only log of rows.
#[derive(Debug)]
pub struct Log<R> {
    /// Segments and their weights.
    sealed: VecDeque<(Arc<Vec<R>>, usize)>,
    open: Vec<R>,
    open_weight: usize,
    sealed_weight: usize,
    limit: usize,
    evicted: u64,
}

impl<R: Clone + Weigh> Log<R> {
    /// A log that keeps the newest rows, in about `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { sealed: VecDeque::new(), open: Vec::new(), open_weight: 0, sealed_weight: 0, limit, evicted: 0 }
    }

    /// Appends a row; the oldest segments go when the limit is passed, and their rows are counted.
    pub fn push(&mut self, row: R) {
        self.open_weight += row.weight();
        self.open.push(row);
        if self.open.len() < SEGMENT {
            return;
        }
        let weight = std::mem::take(&mut self.open_weight);
        self.sealed_weight += weight;
        self.sealed.push_back((Arc::new(std::mem::take(&mut self.open)), weight));
        while self.sealed_weight > self.limit && self.sealed.len() > 1 {
            let Some((segment, weight)) = self.sealed.pop_front() else { return };
            self.sealed_weight -= weight;
            self.evicted += segment.len() as u64;
        }
    }

    /// Rows that were dropped because of the limit.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// What the log holds now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot<R> {
        let mut segments: Vec<_> = self.sealed.iter().map(|(segment, _)| Arc::clone(segment)).collect();
        if !self.open.is_empty() {
            segments.push(Arc::new(self.open.clone()));
        }
        Snapshot { segments }
    }
}

/// Rows as they were at one moment, oldest first.
#[derive(Debug, Clone)]
pub struct Snapshot<R> {
    segments: Vec<Arc<Vec<R>>>,
}

impl<R> Snapshot<R> {
    /// A snapshot of just these rows.
    #[must_use]
    pub fn of(rows: Vec<R>) -> Self {
        Self { segments: vec![Arc::new(rows)] }
    }

    /// Adds rows behind the ones that are there.
    #[must_use]
    pub fn and(mut self, rows: Vec<R>) -> Self {
        self.segments.push(Arc::new(rows));
        self
    }

    /// The rows in pieces, oldest first: for a reader that outlives the snapshot.
    #[must_use]
    pub fn into_segments(self) -> Vec<Arc<Vec<R>>> {
        self.segments
    }

    /// The rows, oldest first; reversible.
    #[must_use]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &R> {
        self.segments.iter().flat_map(|segment| segment.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weigh for usize {
        fn weight(&self) -> usize {
            *self
        }
    }

    #[test]
    fn the_oldest_rows_go_by_their_weight_and_are_counted() {
        let mut log = Log::new(10 * SEGMENT);
        for _ in 0..20 * SEGMENT {
            log.push(1);
        }
        assert_eq!(log.snapshot().iter().count(), 10 * SEGMENT);
        assert_eq!(log.evicted(), 10 * SEGMENT as u64);
        for _ in 0..2 * SEGMENT {
            log.push(5);
        }
        assert_eq!(log.snapshot().iter().count(), 2 * SEGMENT, "ten times the weight of one row");
        log.push(100 * SEGMENT);
        assert_eq!(log.snapshot().iter().last(), Some(&(100 * SEGMENT)), "the newest row is always there");
    }
}
