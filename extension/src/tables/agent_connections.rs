//! Connections of agents.

use super::{Declaration, Example, Finished, Info, Running, Source, bigint, integer, max_rows, seconds, text, unknown};
use crate::enrich::endpoints::EndpointType;
use crate::record::Store;
use crate::record::rows::ConnectionRow;

pub(super) static TABLE: Declaration<ConnectionRow> = Declaration {
    info: Info {
        name: "agent_connections",
        description: "One row for each connection, flow or listening socket of an agent's process, open or closed: TCP and UNIX sockets that connected, failed to, or were accepted; of UDP what a socket exchanged with one peer until it was closed or rested for a minute.",
        platforms: &["linux"],
        event_based: false,
        examples: &[
            Example {
                question: "Where do agents connect to?",
                sql: "SELECT agent, coalesce(remote_host, remote_address) AS peer, remote_port, count(*) AS connections FROM agent_connections GROUP BY 1, 2, 3 ORDER BY 4 DESC",
            },
            Example {
                question: "Which connections are open now, and of which command?",
                sql: "SELECT c.agent, c.remote_address, c.remote_port, p.cmdline FROM agent_connections c JOIN agent_processes p ON p.eid = c.process_eid WHERE c.end_time IS NULL AND c.state <> 'unknown'",
            },
        ],
    },
    rows: Source::Store(Store::connections),
    ended: |row| row.end_time.or_else(|| (row.state == "unknown").then(|| seconds(row.time_ns))),
    owner: |row| row.uid.into(),
    finished: Some(Finished {
        log: |state| &state.connections,
        forget: |state, kept| state.connections.forget(kept),
        ends: Some(("eid", "agent_connections")),
        with: None,
    }),
    running: Some(Running { live: |state| &mut state.live_connections, identity: |row| row.identity }),
    fields: &[
        bigint(
            "eid",
            "Nanosecond-based number of the row, given when it was published: it only grows, over restarts too",
            |row| row.eid.into(),
        ),
        bigint("time", "Start, UNIX seconds", |row| seconds(row.time_ns).into()),
        bigint("time_ns", "Start, UNIX nanoseconds", |row| row.time_ns.into()),
        text("agent", "Agent, by the name of its signature", |row| (&row.agent).into()),
        bigint("agent_id", "The running instance of the agent; joins with ai_agents", |row| row.agent_id.into()),
        bigint("pid", "Process id, as the host sees it", |row| row.pid.into()),
        bigint("process_eid", "Row of agent_processes that did it", |row| row.process_eid.into()),
        text("name", "Name of the process: the file name of its image", |row| (&row.name).into()),
        bigint("fd", "Descriptor", |row| row.fd.into()),
        bigint("socket", "Inode of the socket; joins with process_open_sockets", |row| row.socket.into()),
        integer("family", "Address family: 2 is IPv4, 10 is IPv6, 1 is UNIX", |row| row.family.into()),
        integer("protocol", "IP protocol: 6 is TCP, 17 is UDP, 0 with a UNIX socket", |row| row.protocol.into()),
        text("transport", "tcp, udp or unix", |row| row.transport.into()),
        text("direction", "outbound, inbound or listen", |row| row.direction.into()),
        text("local_address", "Own address", |row| (&row.local_address).into()),
        integer("local_port", "Own port", |row| row.local_port.into()),
        text("remote_address", "Address of the peer", |row| (&row.remote_address).into()),
        integer("remote_port", "Port of the peer", |row| row.remote_port.into()),
        text(
            "remote_host",
            "Name of the peer, as the agent asked for it: that of TLS, or the last one that it resolved to this address before; NULL for inbound connections",
            |row| (&row.remote_host).into(),
        ),
        text(
            "host_source",
            "What told the name: sni (TLS), getaddrinfo (the C library), dns (an answer to the agent), hosts (the C library, and /etc/hosts has it) or signature",
            |row| row.host_source.into(),
        ),
        text(
            "path",
            "UNIX socket: its path as it was given to connect, or that it is bound to; an abstract name begins with @",
            |row| (&row.path).into(),
        ),
        bigint("remote_pid", "Process at the other end of a UNIX socket, or the one that listens there", |row| {
            row.remote_pid.into()
        }),
        text(
            "endpoint_type",
            "What the peer is, by rules that can be added to: llm_api, source_control, package_registry, telemetry, mcp, cloud, localhost, private, ipc or unknown; NULL for a listening socket",
            |row| row.endpoint_type.map(EndpointType::as_str).into(),
        ),
        text("service", "Service that the peer belongs to", |row| (&row.service).into()),
        integer(
            "expected",
            "1 when the signature expects this peer, 0 when not, NULL without a name to judge by or a list of the signature, and on this machine",
            |row| row.expected.into(),
        ),
        text(
            "state",
            "connecting, established, closing, close_wait, time_wait (for a minute, where this side closed first), closed, listening, failed, or unknown: it was open when recording ended, and was not found when it began again",
            |row| row.state.into(),
        ),
        text("error", "Why it failed or broke", |row| (&row.error).into()),
        bigint(
            "start_time",
            "Start, or when it was found if it was there before recording began, UNIX seconds",
            |row| row.start_time.into(),
        ),
        bigint("end_time", "End, UNIX seconds; NULL while it is open, and with state = unknown", |row| {
            row.end_time.into()
        }),
        bigint("bytes_sent", "Bytes sent, so far while it is open; NULL of what is listened on", |row| {
            row.bytes_sent.into()
        }),
        bigint("bytes_received", "Bytes received, so far while it is open; NULL of what is listened on", |row| {
            row.bytes_received.into()
        }),
        text("net_namespace", "Inode of the network namespace", |row| (&row.net_namespace).into()),
        text("tool_call_id", "Tool call of the agent that led to it", unknown),
        text("container_id", "Container in which it runs", |row| (&row.container_id).into()),
        max_rows(),
    ],
};
