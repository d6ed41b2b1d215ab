//! Finished rows in memory: appended by one thread, read by many, bounded.
//!
//! A reader takes references to the sealed segments and a copy of the short open one, so that the recording thread is
//! never kept waiting by a query, however large it is.

use std::collections::VecDeque;
use std::sync::Arc;

/// Rows in a segment: small enough to copy the open one at every query, large enough that a long log is few segments.
const SEGMENT: usize = 512;

/// A bounded, append-only log of rows.
#[derive(Debug)]
pub struct Log<R> {
    sealed: VecDeque<Arc<Vec<R>>>,
    open: Vec<R>,
    limit: usize,
    evicted: u64,
}

impl<R: Clone> Log<R> {
    /// A log that keeps at least the newest `limit` rows.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { sealed: VecDeque::new(), open: Vec::new(), limit, evicted: 0 }
    }

    /// Appends a row; the oldest segment goes when the limit is passed, and is counted.
    pub fn push(&mut self, row: R) {
        self.open.push(row);
        if self.open.len() >= SEGMENT {
            self.sealed.push_back(Arc::new(std::mem::take(&mut self.open)));
            while self.sealed.len().saturating_sub(1) * SEGMENT >= self.limit {
                self.evicted += self.sealed.pop_front().map_or(0, |segment| segment.len() as u64);
            }
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
        let mut segments: Vec<_> = self.sealed.iter().cloned().collect();
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
