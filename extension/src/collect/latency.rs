//! How long events take from the kernel's clock to a published row, as a histogram.
//!
//! Buckets grow by an eighth: a percentile is at most 12.5 % too high, and counting is one atomic addition.

use std::sync::atomic::{AtomicU64, Ordering};

const PER_OCTAVE: usize = 8;
const BUCKETS: usize = 8 * 40;

/// Counts of latencies in nanoseconds.
#[derive(Debug)]
pub struct Latency {
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS] }
    }
}

fn bucket(nanoseconds: u64) -> usize {
    let value = nanoseconds.max(1 << 3);
    let octave = value.ilog2();
    let eighth = (value >> (octave - 3)) & 7;
    (octave as usize - 3) * PER_OCTAVE + usize::try_from(eighth).unwrap_or(0)
}

/// The highest value that falls into a bucket.
fn highest(bucket: usize) -> u64 {
    let (octave, eighth) = (bucket / PER_OCTAVE, bucket % PER_OCTAVE);
    ((eighth as u64 + 9) << octave) - 1
}

impl Latency {
    /// Counts one.
    pub fn add(&self, nanoseconds: u64) {
        if let Some(count) = self.buckets.get(bucket(nanoseconds).min(BUCKETS - 1)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The value below which `share` (0 to 1) of all lie, in nanoseconds; `None` when nothing was counted.
    #[must_use]
    pub fn percentile(&self, share: f64) -> Option<u64> {
        let counts: Vec<u64> = self.buckets.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let wanted = ((total as f64) * share).ceil() as u64;
        let mut below = 0;
        counts.iter().enumerate().find_map(|(index, count)| {
            below += count;
            (total > 0 && below >= wanted.max(1)).then(|| highest(index))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_values_and_no_other() {
        for value in [8, 9, 15, 16, 17, 1_000, 123_456, 10_000_000, 5_000_000_000] {
            let at = bucket(value);
            assert!(highest(at) >= value, "{value}");
            assert!(at == 0 || highest(at - 1) < value, "{value}");
        }
    }

    #[test]
    fn percentiles_are_right_within_a_bucket() {
        let latency = Latency::default();
        assert_eq!(latency.percentile(0.5), None);
        for value in 1..=1000_u64 {
            latency.add(value * 1000);
        }
        for (share, exact) in [(0.5, 500_000.0), (0.95, 950_000.0), (0.99, 990_000.0)] {
            #[allow(clippy::cast_precision_loss)]
            let got = latency.percentile(share).unwrap() as f64;
            assert!(got >= exact && got <= exact * 1.13, "{share}: {got}");
        }
    }
}
