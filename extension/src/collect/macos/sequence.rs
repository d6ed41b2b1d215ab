//! Messages that the kernel could not deliver, by the gaps in their numbers.
//!
//! [`seq_num`](https://developer.apple.com/documentation/endpointsecurity/es_message_t/seq_num) counts the messages of
//! one kind for one client, since version 2 of a message, and
//! [`global_seq_num`](https://developer.apple.com/documentation/endpointsecurity/es_message_t/global_seq_num) those of all
//! kinds, since version 4: each message adds one, and what is left out was dropped.

use super::message::Kind;

/// One series of numbers.
#[derive(Debug, Clone, Copy, Default)]
struct Series {
    next: Option<u64>,
}

impl Series {
    /// Takes the number of a message; how many before it are missing. What was before the first is not known.
    fn take(&mut self, number: u64) -> u64 {
        let expected = self.next.replace(number.wrapping_add(1)).unwrap_or(number);
        // A smaller one begins another series: nothing is known of what is between.
        number.saturating_sub(expected)
    }
}

/// The numbers of all kinds.
#[derive(Debug, Clone, Default)]
pub struct Sequences {
    kinds: [Series; Kind::ALL.len()],
    all: Series,
}

/// What is missing before a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Missing {
    /// Of its kind.
    pub of_kind: u64,
    /// Of any kind.
    pub of_all: u64,
}

impl Sequences {
    /// Takes a message with the numbers that it has.
    pub fn take(&mut self, kind: Kind, number: Option<u64>, global: Option<u64>) -> Missing {
        let series = self.kinds.get_mut(kind as usize);
        let of_kind = number.zip(series).map_or(0, |(number, series)| series.take(number));
        Missing { of_kind, of_all: global.map_or(0, |number| self.all.take(number)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn gaps_are_counted_for_each_kind_and_for_all() {
        let mut sequences = Sequences::default();
        let mut take = |kind, number, global| {
            let Missing { of_kind, of_all } = sequences.take(kind, Some(number), Some(global));
            (of_kind, of_all)
        };
        assert_eq!(take(Kind::Open, 7, 20), (0, 0), "it is not known where it begins");
        assert_eq!(take(Kind::Open, 8, 21), (0, 0));
        assert_eq!(take(Kind::Close, 0, 24), (0, 2), "two of some kind");
        assert_eq!(take(Kind::Open, 11, 25), (2, 0), "it was this one");
        assert_eq!(take(Kind::Open, 3, 2), (0, 0), "another series");
        assert_eq!(take(Kind::Open, 5, 3), (1, 0));
        assert_eq!(take(Kind::Open, u64::MAX, u64::MAX).0, u64::MAX - 6);
        assert_eq!(take(Kind::Open, 0, 0), (0, 0));
    }

    #[test]
    fn old_messages_have_no_numbers() {
        assert_eq!(Sequences::default().take(Kind::Exit, None, None), Missing::default());
    }

    proptest! {
        /// Whatever is left out of a series is counted, but for what is before the first and behind the last.
        #[test]
        fn what_is_dropped_is_what_is_missing(dropped in proptest::collection::vec(any::<bool>(), 0..200)) {
            let mut sequences = Sequences::default();
            let mut missing = 0;
            for (number, _) in dropped.iter().enumerate().filter(|(_, dropped)| !**dropped) {
                missing += sequences.take(Kind::Open, Some(number as u64), None).of_kind;
            }
            let told: Vec<usize> = (0..dropped.len()).filter(|number| !dropped[*number]).collect();
            let expected = match (told.first(), told.last()) {
                (Some(first), Some(last)) => last - first + 1 - told.len(),
                _ => 0,
            };
            prop_assert_eq!(missing, expected as u64);
        }
    }
}
