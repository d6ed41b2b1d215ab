//! osquery's extension protocol: Thrift's binary protocol over UNIX sockets, and over named pipes on Windows.
//!
//! The same protocol is spoken three ways. As an [`extension`] agentquery serves its tables to osquery's manager; as a
//! [`manager`] it serves SQL to whoever speaks to osqueryd; as a [`client`] it asks either. What is generated from
//! `osquery.thrift` is wrapped here in servers and clients with limits: a peer that sends garbage, sends slowly or
//! nothing at all costs a thread for a while and no more.

pub mod client;
mod core;
pub mod extension;
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::restriction, elided_lifetimes_in_paths, unused)]
#[rustfmt::skip]
mod generated;
pub mod manager;
mod plugin;
mod server;
mod socket;
mod source;
mod stop;
mod transport;
mod turns;

pub use server::Server;
pub use socket::{Access, BindError, GROUP};
pub use source::{Rows, Source};
pub use stop::Stop;

use generated::{ExtensionResponse, ExtensionStatus};

fn success(uuid: i64) -> ExtensionStatus {
    ExtensionStatus::new(0, "OK".to_owned(), uuid)
}

fn failure(message: impl Into<String>) -> ExtensionStatus {
    ExtensionStatus::new(1, message.into(), 0)
}

/// A reply with rows, or with the reason why there are none, which osquery shows to whoever asked.
fn reply(result: Result<generated::ExtensionPluginResponse, String>) -> ExtensionResponse {
    match result {
        Ok(rows) => ExtensionResponse::new(success(0), rows),
        Err(message) => ExtensionResponse::new(failure(message), Vec::new()),
    }
}
