//! Signatures by which agents are recognised.

use super::{Declaration, Example, Info, Owner, Source, bigint, integer, max_rows, text};
use crate::record::Store;
use crate::record::rows::SignatureRow;

pub(super) static TABLE: Declaration<SignatureRow> = Declaration {
    info: Info {
        name: "agent_signatures",
        description: "One row for each signature that was read, the refused ones with the reason.",
        platforms: &["linux"],
        event_based: false,
        examples: &[
            Example {
                question: "Which agents can be recognised?",
                sql: "SELECT agent, display_name, vendor, source FROM agent_signatures WHERE status = 'loaded'",
            },
            Example {
                question: "Which signatures are broken?",
                sql: "SELECT source, message FROM agent_signatures WHERE status <> 'loaded'",
            },
        ],
    },
    rows: Source::Store(Store::signatures),
    ended: |_| None,
    owner: |_| Owner::Anyone,
    finished: None,
    running: None,
    fields: &[
        text("agent", "Agent, by the name of its signature", |row| (&row.agent).into()),
        text("display_name", "Name for people", |row| (&row.display_name).into()),
        text("vendor", "Who makes the agent", |row| (&row.vendor).into()),
        text("category", "cli, ide, desktop, editor_extension, daemon or local_llm", |row| (&row.category).into()),
        text("source", "File that it was read from; builtin:NAME for the ones that come with the program", |row| {
            (&row.source).into()
        }),
        text("status", "loaded, refused, or kept: the file is broken by now, and its last good version holds", |row| {
            row.status.into()
        }),
        text("message", "Why it was refused, or what to know about it", |row| (&row.message).into()),
        integer("early", "1 when it is recognised at the start of the program, 0 when only later", |row| {
            row.early.into()
        }),
        bigint("rules", "Number of its rules", |row| row.rules.into()),
        max_rows(),
    ],
};
