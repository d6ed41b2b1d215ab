//! Finished rows in memory: appended by one thread, read by many, bounded.
//!
//! Rows are here until the history has them, and where there is none, until the limit. A reader takes references to the sealed segments and a copy of the short open one, so that the recording thread is
//! never kept waiting by a query, however large it is.

use std::collections::VecDeque;
use std::ops::Range;
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
    /// Rows that were ever appended.
    pushed: u64,
    evicted: u64,
}

impl<R> Log<R> {
    /// A log that keeps the newest rows, in about `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            sealed: VecDeque::new(),
            open: Vec::new(),
            open_weight: 0,
            sealed_weight: 0,
            limit,
            pushed: 0,
            evicted: 0,
        }
    }

    /// Rows that are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sealed.iter().map(|(segment, _)| segment.len()).sum::<usize>() + self.open.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.sealed.is_empty()
    }

    /// Rows that were dropped because of the limit, and are nowhere else.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The number of the oldest row that is held, counted from the first one ever.
    fn first(&self) -> u64 {
        self.pushed - self.len() as u64
    }
}

impl<R: Clone + Weigh> Log<R> {
    /// Appends a row; the oldest segments go when the limit is passed, and their rows are counted.
    pub fn push(&mut self, row: R) {
        self.open_weight += row.weight();
        self.open.push(row);
        self.pushed += 1;
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
}

impl<R: Clone> Log<R> {
    /// The oldest rows that are held, about so many at most, and their numbers.
    #[must_use]
    pub fn oldest(&self, most: usize) -> (Snapshot<R>, Range<u64>) {
        let (mut segments, mut rows) = (Vec::new(), 0);
        for (segment, _) in &self.sealed {
            if rows >= most {
                break;
            }
            rows += segment.len();
            segments.push(Arc::clone(segment));
        }
        if rows < most && !self.open.is_empty() {
            rows += self.open.len();
            segments.push(Arc::new(self.open.clone()));
        }
        let first = self.first();
        (Snapshot { segments }, first..first + rows as u64)
    }

    /// Forgets rows that [`Log::oldest`] gave and that are kept elsewhere now.
    pub fn forget(&mut self, kept: &Range<u64>) {
        // What had to go meanwhile is not lost.
        self.evicted -= self.first().min(kept.end).saturating_sub(kept.start).min(self.evicted);
        let mut left = usize::try_from(kept.end.saturating_sub(self.first())).unwrap_or(usize::MAX);
        while left > 0 {
            let Some((segment, weight)) = self.sealed.pop_front() else { break };
            self.sealed_weight -= weight;
            let rest = segment.get(left..).unwrap_or_default();
            if !rest.is_empty() {
                // It was the open one when it was read.
                let share = weight * rest.len() / segment.len();
                self.sealed_weight += share;
                self.sealed.push_front((Arc::new(rest.to_vec()), share));
            }
            left = left.saturating_sub(segment.len());
        }
        let left = left.min(self.open.len());
        if left > 0 {
            self.open_weight -= self.open_weight * left / self.open.len();
            self.open.drain(..left);
        }
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

    #[test]
    fn what_is_kept_elsewhere_is_forgotten() {
        let mut log = Log::new(usize::MAX);
        let (mut pushed, mut kept) = (0, Vec::new());
        for step in 0..200 {
            for _ in 0..step * 7 % 300 {
                log.push(pushed);
                pushed += 1;
            }
            let (rows, range) = log.oldest(if step % 3 == 0 { 1 } else { 700 });
            // Rows that come while these are being stored stay.
            for _ in 0..step * 11 % 600 {
                log.push(pushed);
                pushed += 1;
            }
            assert_eq!(range.end - range.start, rows.iter().count() as u64);
            kept.extend(rows.iter().copied());
            log.forget(&range);
            let held: Vec<usize> = log.snapshot().iter().copied().collect();
            assert!(kept.iter().chain(&held).copied().eq(0..pushed), "step {step}");
            assert_eq!(log.len(), held.len());
        }
        assert_eq!(log.evicted(), 0);
    }

    #[test]
    fn what_left_while_it_was_stored_is_not_lost() {
        let mut log = Log::new(4 * SEGMENT);
        (0..3 * SEGMENT).for_each(|_| log.push(1));
        let (_, range) = log.oldest(usize::MAX);
        (0..10 * SEGMENT).for_each(|_| log.push(1));
        assert_eq!(log.evicted(), 9 * SEGMENT as u64);
        log.forget(&range);
        assert_eq!((log.evicted(), log.len()), (6 * SEGMENT as u64, 4 * SEGMENT));
    }
}
