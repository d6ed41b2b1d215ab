//! From when until when, as people write it.

use crate::record::clock::unix_seconds;
use std::ops::Range;

use chrono::{DateTime, NaiveDate};

/// Seconds of a day.
pub const DAY: i64 = 24 * 3600;

/// A text that says no time.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    /// It cannot be read.
    #[error(
        "{0:?} says no time: write how long ago (90m, 24h, 7d), a date (2026-11-20), a time (2026-11-20T10:00:00Z), or \
         UNIX seconds"
    )]
    Unknown(String),
    /// There is nothing between the two.
    #[error("nothing lies between {0} and {1}: --since must be before --until")]
    Empty(String, String),
}

/// Seconds from `since` up to but without `until`.
///
/// # Errors
/// When one of them says no time, or the end is before the beginning.
pub fn parse(since: &str, until: Option<&str>) -> Result<Range<i64>, SpanError> {
    // The second that runs belongs to it.
    let now = unix_seconds().saturating_add(1);
    let span = moment(since, now)?..until.map_or(Ok(now), |until| moment(until, now))?;
    if span.is_empty() {
        return Err(SpanError::Empty(since.to_owned(), until.unwrap_or("now").to_owned()));
    }
    Ok(span)
}

/// The second that a text means.
fn moment(text: &str, now: i64) -> Result<i64, SpanError> {
    let seconds = || {
        if let Some(ago) = ago(text) {
            return now.checked_sub(ago);
        }
        if let Ok(date) = text.parse::<NaiveDate>() {
            return Some(date.and_hms_opt(0, 0, 0)?.and_utc().timestamp());
        }
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Some(time.timestamp());
        }
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    // Nanoseconds of it must fit, with room around them.
    seconds().filter(|seconds| (0..9_000_000_000).contains(seconds)).ok_or_else(|| SpanError::Unknown(text.to_owned()))
}

/// Seconds of a duration such as `24h`.
fn ago(text: &str) -> Option<i64> {
    let unit = text.chars().last()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => DAY,
        'w' => 7 * DAY,
        _ => return None,
    };
    let number = text.strip_suffix(unit)?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse::<i64>().ok()?.checked_mul(seconds)).flatten()
}

/// The date of a day counted from 1970, in UTC.
#[must_use]
pub fn date(day: i64) -> String {
    let date = DateTime::from_timestamp(day.saturating_mul(DAY), 0);
    date.map_or_else(|| day.to_string(), |date| date.format("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        let now = 1_795_000_000;
        let at = |text: &str| moment(text, now);
        assert_eq!(at("90m"), Ok(now - 5400));
        assert_eq!(at("24h"), Ok(now - DAY));
        assert_eq!(at("7d"), at("1w"));
        assert_eq!(at("1795000000"), Ok(now));
        assert_eq!(at("2026-11-18"), Ok(1_794_960_000));
        assert_eq!(at("2026-11-18T01:00:00+01:00"), at("2026-11-18"));
        assert_eq!(at("2026-11-18T00:00:00.9Z"), at("2026-11-18"));
        for wrong in
            ["", "h", "24", "-3h", "1.5h", "24 h", "99999999999999999999d", "2026-13-01", "yesterday", "9e9", "é"]
        {
            if wrong == "24" {
                assert_eq!(at(wrong), Ok(24), "seconds since 1970");
            } else {
                assert_eq!(at(wrong), Err(SpanError::Unknown(wrong.to_owned())));
            }
        }
    }

    #[test]
    fn a_span_has_an_inside() {
        assert_eq!(parse("2026-11-18", Some("2026-11-19")).unwrap(), 1_794_960_000..1_795_046_400);
        assert!(matches!(parse("2026-11-19", Some("2026-11-18")), Err(SpanError::Empty(..))));
        assert!(matches!(parse("1h", Some("1h")), Err(SpanError::Empty(..))));
        let span = parse("1h", None).unwrap();
        assert_eq!(span.end - span.start, 3600);
        assert_eq!(date(20_775), "2026-11-18");
    }
}
