//! What the peer of a connection is, and whether the agent is expected to talk to it.

use super::engine::Context;
use super::rows::ConnectionRow;
use crate::enrich::Meaning;
use crate::enrich::endpoints::{EndpointType, Peer};
use crate::identify::Catalogue;

/// Judges a connection's peer by what is known of it now, and counts it when it became one that is not expected.
pub(super) fn judge(row: &mut ConnectionRow, context: &mut Context<'_>) {
    if became_unexpected(row, context.catalogue, context.meaning)
        && let Some(instance) = context.instance.as_deref_mut()
    {
        *instance.row.unexpected_connections.get_or_insert(0) += 1;
        instance.changed(context.time_ns);
    }
}

fn became_unexpected(row: &mut ConnectionRow, catalogue: &Catalogue, meaning: &Meaning) -> bool {
    if row.direction == "listen" {
        return false; // there is none
    }
    let before = row.expected;
    let port = row.remote_port.filter(|_| row.direction == "outbound");
    let peer = Peer {
        host: row.remote_host.as_deref(),
        address: row.remote_address.as_deref().and_then(|address| address.parse().ok()),
        port: port.and_then(|port| u16::try_from(port).ok()),
        path: if row.transport == "unix" { Some(row.path.as_deref().unwrap_or_default()) } else { None },
    };
    let verdict = meaning.endpoints.judge(&peer);
    row.endpoint_type = Some(verdict.kind);
    row.service = verdict.service;
    let here = matches!(verdict.kind, EndpointType::Localhost | EndpointType::Ipc);
    let named = row.remote_host.as_deref().filter(|_| !here && row.direction == "outbound");
    row.expected = named.and_then(|host| catalogue.named(&row.agent)?.is_expected(host));
    row.expected == Some(false) && before != Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(agent: &str, host: Option<&str>, address: &str, direction: &'static str) -> ConnectionRow {
        let mut row = ConnectionRow {
            agent: agent.into(),
            remote_host: host.map(Into::into),
            remote_address: Some(address.into()),
            remote_port: Some(443),
            transport: "tcp",
            direction,
            ..ConnectionRow::default()
        };
        became_unexpected(&mut row, &Catalogue::builtin(), &Meaning::builtin());
        row
    }

    #[test]
    fn only_a_name_is_judged() {
        let expected = |host, address| judged("claude-code", host, address, "outbound").expected;
        assert_eq!(expected(Some("api.anthropic.com"), "203.0.113.7"), Some(true));
        assert_eq!(expected(Some("evil.example"), "203.0.113.7"), Some(false));
        assert_eq!(expected(None, "203.0.113.7"), None, "never unexpected from a bare address");
        assert_eq!(expected(Some("localhost"), "127.0.0.1"), None);
        assert_eq!(judged("no-such-agent", Some("evil.example"), "203.0.113.7", "outbound").expected, None);
        assert_eq!(judged("claude-code", Some("evil.example"), "203.0.113.7", "inbound").expected, None);
    }

    #[test]
    fn a_listening_socket_has_no_peer() {
        assert_eq!(judged("claude-code", None, "", "listen").endpoint_type, None);
        assert_eq!(judged("claude-code", None, "203.0.113.7", "inbound").endpoint_type, Some(EndpointType::Unknown));
    }

    #[test]
    fn it_becomes_unexpected_once() {
        let (catalogue, meaning) = (Catalogue::builtin(), Meaning::builtin());
        let mut row = judged("claude-code", None, "203.0.113.7", "outbound");
        row.remote_host = Some("evil.example".into());
        assert!(became_unexpected(&mut row, &catalogue, &meaning));
        assert!(!became_unexpected(&mut row, &catalogue, &meaning));
    }
}
