//! YAML, for whatever a person writes: bounded, and a mistake is named with its place.

use serde::de::DeserializeOwned;
use serde_saphyr::Location;

/// A mistake in a text.
#[derive(Debug)]
pub(crate) struct Mistake {
    pub(crate) at: Location,
    pub(crate) message: String,
}

/// Reads a text.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Mistake> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        // A file has some hundred short texts; what needs more than this is an attack on memory.
        budget: serde_saphyr::budget! { max_nodes: 20_000, max_depth: 16, max_aliases: 256, max_anchors: 64 },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 20_000, max_replay_stack_depth: 8 },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let at = error.location().unwrap_or(Location::UNKNOWN);
        let message = error.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter);
        // The place stands apart already.
        let place = format!(" at line {}, column {}", at.line(), at.column());
        Mistake { at, message: message.strip_suffix(&place).unwrap_or(&message).to_owned() }
    })
}
