//! Health of the collector.

use super::{Declaration, Example, Info, Owner, Source, bigint, max_rows, text};
use crate::record::Store;
use crate::record::rows::CollectorRow;

pub(super) static TABLE: Declaration<CollectorRow> = Declaration {
    info: Info {
        name: "agent_collector",
        description: "One row for each kind of event: what the kernel saw, what came through, and what was lost where; and rows with a message alone: gap (what was not recorded), blind_spot (what cannot be seen here), bytes (how those of connections are counted), config and history (what is wrong with them). seen = submitted + filtered + ring_full + oversized + throttled, and submitted = received + in_flight.",
        platforms: &["linux"],
        event_based: false,
        examples: &[
            Example {
                question: "Was anything lost?",
                sql: "SELECT event, ring_full, oversized, throttled, recursion_misses, evicted FROM agent_collector",
            },
            Example {
                question: "Is this the best that the machine can do?",
                sql: "SELECT DISTINCT collector, mode, degradation_reason FROM agent_collector",
            },
        ],
    },
    rows: Source::Store(Store::collector),
    ended: |_| None,
    owner: |row| row.uid.map_or(Owner::Anyone, Owner::User),
    finished: None,
    running: None,
    fields: &[
        text("collector", "Whose collector records: linux, windows or macos", |row| (&row.collector).into()),
        text("mode", "How it records: ebpf, with system calls on demand or not, etw, or polling", |row| {
            (&row.mode).into()
        }),
        text("degradation_reason", "Why it is not the best that there is; NULL when it is", |row| {
            (&row.degradation_reason).into()
        }),
        text(
            "blind_spot",
            "What a row blind_spot is about, io_uring of an agent, or what is too short for polling; NULL elsewhere",
            |row| (&row.blind_spot).into(),
        ),
        text("event", "Kind of event, or gap, blind_spot, bytes, config or history", |row| (&row.event).into()),
        bigint("seen", "Events that the kernel side saw", |row| row.seen.into()),
        bigint("submitted", "Events put into the ring", |row| row.submitted.into()),
        bigint("filtered", "Events of no agent, or of the noise list", |row| row.filtered.into()),
        bigint("ring_full", "Events lost because the ring was full", |row| row.ring_full.into()),
        bigint(
            "oversized",
            "Events lost because they were too large, or because what they tell of could not be read or remembered",
            |row| row.oversized.into(),
        ),
        bigint(
            "throttled",
            "Events left out to keep one instance from crowding out the others, and datagrams to a 257th peer of one UDP socket",
            |row| row.throttled.into(),
        ),
        bigint("unsupported_abi", "System calls of another ABI, counted only", |row| row.unsupported_abi.into()),
        bigint("recursion_misses", "Runs that the kernel skipped", |row| row.recursion_misses.into()),
        bigint("received", "Events taken from the ring", |row| row.received.into()),
        bigint("in_flight", "Events in the ring", |row| row.in_flight.into()),
        bigint("discarded", "Events received and then found to be of no agent", |row| row.discarded.into()),
        bigint("evicted", "Rows that left memory because of the limit", |row| row.evicted.into()),
        bigint(
            "latency_p50_us",
            "Median of the microseconds from an event to its row, or to the finding that it is none",
            |row| row.latency_p50_us.into(),
        ),
        bigint("latency_p95_us", "95th percentile of the same", |row| row.latency_p95_us.into()),
        bigint("latency_p99_us", "99th percentile of the same", |row| row.latency_p99_us.into()),
        text("message", "More about it, for people", |row| (&row.message).into()),
        max_rows(),
    ],
};
