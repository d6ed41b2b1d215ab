//! The name that was meant, where one was mistyped.

/// The candidate that is nearly `name`; none when nothing is near, or it is one of them.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |candidate: &'a str| (strsim::damerau_levenshtein(name, candidate), candidate);
    let (distance, best) = candidates.into_iter().map(near).min()?;
    // Two slips in a long name; in a short one that would be another name.
    ((1..=2).contains(&distance) && distance * 3 <= name.chars().count()).then_some(best)
}
