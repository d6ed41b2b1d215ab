//! From the steps of a socket to the cells of its row.

use crate::enrich::errno;
use crate::event::{Connection, FlowStart, Step, TcpState, Transport};
use crate::record::engine::Context;
use crate::record::names::Named;
use crate::record::peer::judge;
use crate::record::rows::{ConnectionRow, add};

/// As in osquery's `process_open_sockets`: the address family of Linux, and the IP protocol, which UNIX sockets have not.
const AF_UNIX: i64 = 1;
const AF_INET: i64 = 2;
const AF_INET6: i64 = 10;
const IPPROTO_TCP: i64 = 6;
const IPPROTO_UDP: i64 = 17;

pub(super) fn state_name(state: TcpState) -> &'static str {
    match state {
        TcpState::SynSent | TcpState::SynRecv => "connecting",
        TcpState::Established => "established",
        TcpState::FinWait1 | TcpState::FinWait2 | TcpState::LastAck | TcpState::Closing => "closing",
        TcpState::TimeWait => "time_wait",
        TcpState::Close => "closed",
        TcpState::CloseWait => "close_wait",
        TcpState::Listen => "listening",
    }
}

pub(super) fn fail(row: &mut ConnectionRow, error: i32, time_ns: i64) {
    row.state = "failed";
    row.error = (error != 0).then(|| errno::name(error).into());
    row.end_time = Some(time_ns / 1_000_000_000);
}

pub(super) fn set_local(row: &mut ConnectionRow, step: &Connection) {
    if step.transport != Transport::Unix && step.local.port() != 0 {
        row.local_address = Some(step.local.ip().to_string().into());
        row.local_port = Some(step.local.port().into());
    }
    if step.inode != 0 {
        row.socket = i64::try_from(step.inode).ok();
    }
}

pub(super) fn set_name(row: &mut ConnectionRow, name: &Named) {
    row.remote_host = Some(name.host.clone());
    row.host_source = Some(name.source);
}

/// Takes the bytes of a step, which are those since the collector knows the socket, to the row and to its instance.
pub(super) fn add_bytes(row: &mut ConnectionRow, step: &Connection, context: &mut Context<'_>) {
    let now = |before: u64, counted: u64| i64::try_from(before.saturating_add(counted)).unwrap_or(i64::MAX);
    let identity = row.identity;
    let Some((all_sent, all_received)) = step.bytes.filter(|_| row.direction != "listen") else { return };
    let (sent, received) = (row.bytes_sent.get_or_insert(0), row.bytes_received.get_or_insert(0));
    let more_sent = (now(identity.sent, all_sent) - *sent).max(0);
    let more_received = (now(identity.received, all_received) - *received).max(0);
    *sent += more_sent;
    *received += more_received;
    if let Some(instance) = context.instance.as_deref_mut().filter(|_| more_sent + more_received > 0) {
        add(&mut instance.row.bytes_sent, more_sent);
        add(&mut instance.row.bytes_received, more_received);
        instance.changed(context.time_ns);
    }
}

/// The row of something that begins. What is listened on is no connection, nor is a peer to which nothing was sent yet.
pub(super) fn begin(step: &Connection, direction: &'static str, context: &mut Context<'_>) -> ConnectionRow {
    let listens = direction == "listen";
    let (transport, protocol) = match step.transport {
        Transport::Tcp => ("tcp", IPPROTO_TCP),
        Transport::Udp => ("udp", IPPROTO_UDP),
        Transport::Unix => ("unix", 0),
    };
    let state = match (step.step, step.transport) {
        (Step::Connect, Transport::Tcp) => "connecting",
        (Step::State(state) | Step::Accept(state) | Step::Found(state), _) => state_name(state),
        (Step::Listen, _) => "listening",
        _ => "established",
    };
    let unix = step.transport == Transport::Unix;
    let remote = (!listens && !unix).then_some(step.remote);
    let family = if step.v6 { AF_INET6 } else { AF_INET };
    let counted = step.bytes.filter(|_| !listens).map(|_| 0);
    let mut row = ConnectionRow {
        eid: context.clock.next_eid(),
        time_ns: context.time_ns,
        pid: context.process.key.pid.into(),
        process_eid: context.process.eid,
        name: context.process.name.clone(),
        fd: (step.fd >= 0).then(|| step.fd.into()),
        family: if unix { AF_UNIX } else { family },
        protocol,
        transport,
        direction,
        remote_address: remote.map(|remote| remote.ip().to_string().into()),
        remote_port: remote.map(|remote| remote.port().into()),
        path: step.path.as_deref().map(Into::into),
        remote_pid: (step.remote_pid != 0).then(|| step.remote_pid.into()),
        state,
        start_time: context.time_ns / 1_000_000_000,
        bytes_sent: counted,
        bytes_received: counted,
        uid: context.process.uid.map(i64::from),
        net_namespace: (step.net_ns != 0).then(|| step.net_ns.to_string().into()),
        ..ConnectionRow::default()
    };
    set_local(&mut row, step);
    if let Some(remote) = remote.filter(|_| direction == "outbound")
        && let Some(name) = context.names.of(context.process.instance, step.net_ns, remote.ip())
    {
        set_name(&mut row, name);
    }
    if let Some(instance) = context.instance.as_deref_mut() {
        row.agent = instance.row.agent.clone();
        row.agent_id = instance.row.agent_id;
        row.container_id.clone_from(&instance.container_id);
        let silent = step.transport == Transport::Udp
            && matches!(step.step, Step::Connect | Step::Flow(FlowStart::Connected) | Step::Found(_));
        instance.row.connections_total += i64::from(!listens && !silent);
        instance.changed(context.time_ns);
    }
    if matches!(step.step, Step::Flow(_)) {
        add_bytes(&mut row, step, context);
    }
    judge(&mut row, context);
    row
}
