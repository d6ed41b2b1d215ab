//! TCP connections: outbound ones from the call to the last state, and what an adopted process has open, listening sockets
//! too, to its end.
//!
//! Two sources tell of one connection: the call, which knows the descriptor and its own error, and the socket's states,
//! which come later and under any task. They meet by the socket's identity; a refused one has its last state before the
//! call returns, so a row is finished only when both have spoken or the owner has ended.

use std::collections::HashMap;

use super::Store;
use super::engine::{Context, Process};
use super::names::{Named, is_better};
use super::rows::{ConnectionRow, Identity};
use crate::enrich::errno;
use crate::event::{Connection, Event, EventKind, ProcessKey, TcpState};

/// As in osquery's `process_open_sockets`: the address family and `IPPROTO_TCP` of Linux.
const AF_INET: i64 = 2;
const AF_INET6: i64 = 10;
const IPPROTO_TCP: i64 = 6;

#[derive(Debug)]
struct Live {
    owner: Process,
    row: ConnectionRow,
    ended: bool,
    returned: bool,
}

/// Sockets by the collector's identity of them.
#[derive(Debug, Default)]
pub(super) struct Connections {
    live: HashMap<u64, Live>,
    /// Sockets, with their inode and their owner, whose connection failed with an error that its call did not return. The
    /// kernel gives it to the next connect, which begins nothing (`__inet_stream_connect`).
    unfetched: HashMap<u64, (u64, ProcessKey)>,
}

impl Connections {
    /// The process that an event's socket belonged to, which may have ended.
    pub(super) fn owner(&self, event: &Event) -> Option<Process> {
        let EventKind::Connection(connection) = &event.kind else { return None };
        let live = self.live.get(&connection.socket_id)?;
        (live.owner.key == event.process).then(|| live.owner.clone())
    }

    /// One step of a connection.
    pub(super) fn step(&mut self, step: &Connection, mut context: Context<'_>) -> bool {
        if step.state == Some(TcpState::SynSent) {
            self.finish(step.socket_id, context.store); // the same socket tries again
            self.unfetched.remove(&step.socket_id);
            let row = begin(step, &mut context);
            self.keep(step, row, false, &context);
            return true;
        }
        let Some(live) = self.live.get_mut(&step.socket_id) else {
            if step.state.is_some() {
                return false; // a socket that connected before we saw it
            }
            let failed_before = self.unfetched.remove(&step.socket_id);
            if step.error != 0 && failed_before.is_some_and(|(inode, _)| inode == step.inode) {
                return false; // the error of the row that there is
            }
            // No state was seen: the route or the address was refused before the socket moved, or it is local.
            let mut row = begin(step, &mut context);
            row.fd = Some(step.fd.into());
            if step.error != 0 {
                fail(&mut row, step.error, context.time_ns);
                context.store.update(|state| state.connections.push(row));
                return true;
            }
            self.keep(step, row, false, &context);
            return true;
        };
        let row = &mut live.row;
        match step.state {
            None => {
                row.fd = Some(step.fd.into());
                live.returned = true;
                if step.error != 0 && !live.ended {
                    fail(row, step.error, context.time_ns);
                    live.ended = true;
                }
            }
            Some(TcpState::Close) if row.state == "connecting" => {
                // No error of the socket: the program gave up, or the process ended.
                fail(row, step.error, context.time_ns);
                live.ended = true;
            }
            Some(TcpState::Close) => {
                row.state = "closed";
                row.end_time = Some(context.time_ns / 1_000_000_000);
                row.error = (step.error != 0).then(|| errno::name(step.error).into());
                live.ended = true;
                live.returned = true;
            }
            Some(state) => row.state = state_name(state),
        }
        if !live.ended {
            set_local(row, step);
        }
        if live.ended && live.returned {
            let fetched = step.state.is_none() && step.error != 0;
            if live.row.error.is_some() && !fetched {
                let inode = live.row.socket.and_then(|inode| u64::try_from(inode).ok()).unwrap_or(0);
                self.unfetched.insert(step.socket_id, (inode, live.owner.key));
            }
            self.finish(step.socket_id, context.store);
        } else {
            let row = live.row.clone();
            context.store.update(|state| state.live_connections.insert(row.eid, row));
        }
        true
    }

    /// A connection or a listening socket that was there before recording began, perhaps with the row that an earlier
    /// recorder had of it.
    pub(super) fn adopt(
        &mut self,
        step: &Connection,
        before: Option<ConnectionRow>,
        inbound: bool,
        mut context: Context<'_>,
    ) -> bool {
        let Some(state) = step.state else { return false };
        let mut row = before.unwrap_or_else(|| {
            let mut row = begin(step, &mut context);
            row.fd = Some(step.fd.into());
            if inbound || state == TcpState::Listen {
                (row.remote_host, row.host_source) = (None, None);
            }
            if state == TcpState::Listen {
                row.direction = "listen";
                row.remote_address = None;
                row.remote_port = None;
            } else if inbound {
                row.direction = "inbound";
            }
            row
        });
        row.state = state_name(state);
        set_local(&mut row, step);
        self.keep(step, row, true, &context);
        true
    }

    /// The row that an earlier recorder had of a connection that goes on.
    pub(super) fn know_again(&mut self, row: ConnectionRow, owner: Process, store: &Store) {
        store.update(|state| state.live_connections.insert(row.eid, row.clone()));
        // A call that has returned told the descriptor.
        let returned = row.fd.is_some();
        self.live.insert(row.identity.id, Live { owner, row, ended: false, returned });
    }

    /// The name of a connection's peer was told; false when it is of no use.
    pub(super) fn name(&mut self, socket_id: u64, name: &Named, store: &Store) -> bool {
        let Some(live) = self.live.get_mut(&socket_id) else { return false };
        if live.row.direction != "outbound" || !is_better(name.source, live.row.host_source) {
            return false;
        }
        set_name(&mut live.row, name);
        let row = live.row.clone();
        store.update(|state| state.live_connections.insert(row.eid, row));
        true
    }

    /// Whether a connection of that inode lives.
    pub(super) fn has_socket(&self, socket: i64) -> bool {
        self.live.values().any(|live| live.row.socket == Some(socket))
    }

    fn keep(&mut self, step: &Connection, mut row: ConnectionRow, returned: bool, context: &Context<'_>) {
        let start_ns = context.process.key.start_ns;
        row.identity = Identity { start_ns, id: step.socket_id, ..Identity::default() };
        context.store.update(|state| state.live_connections.insert(row.eid, row.clone()));
        let owner = context.process.clone();
        self.live.insert(step.socket_id, Live { owner, row, ended: false, returned });
    }

    fn finish(&mut self, socket_id: u64, store: &Store) {
        if let Some(live) = self.live.remove(&socket_id) {
            store.update(|state| {
                state.live_connections.remove(live.row.eid);
                state.connections.push(live.row);
            });
        }
    }

    /// The owner ended: what waits only for its call to return does not come.
    pub(super) fn owner_ended(&mut self, owner: &Process, store: &Store) {
        self.unfetched.retain(|_, (_, key)| *key != owner.key);
        let of_owner = |live: &Live, key: ProcessKey| live.ended && live.owner.key == key;
        let over: Vec<u64> =
            self.live.iter().filter(|(_, live)| of_owner(live, owner.key)).map(|(socket, _)| *socket).collect();
        for socket in over {
            self.finish(socket, store);
        }
    }
}

fn state_name(state: TcpState) -> &'static str {
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

fn fail(row: &mut ConnectionRow, error: i32, time_ns: i64) {
    row.state = "failed";
    row.error = (error != 0).then(|| errno::name(error).into());
    row.end_time = Some(time_ns / 1_000_000_000);
}

fn set_local(row: &mut ConnectionRow, step: &Connection) {
    if step.local.port() != 0 {
        row.local_address = Some(step.local.ip().to_string().into());
        row.local_port = Some(step.local.port().into());
    }
    if step.inode != 0 {
        row.socket = i64::try_from(step.inode).ok();
    }
}

fn set_name(row: &mut ConnectionRow, name: &Named) {
    row.remote_host = Some(name.host.clone());
    row.host_source = Some(name.source);
}

fn begin(step: &Connection, context: &mut Context<'_>) -> ConnectionRow {
    let mut row = ConnectionRow {
        eid: context.clock.next_eid(),
        time_ns: context.time_ns,
        pid: context.process.key.pid.into(),
        process_eid: context.process.eid,
        name: context.process.name.clone(),
        family: if step.v6 { AF_INET6 } else { AF_INET },
        protocol: IPPROTO_TCP,
        transport: "tcp",
        direction: "outbound",
        remote_address: Some(step.remote.ip().to_string().into()),
        remote_port: Some(step.remote.port().into()),
        state: "connecting",
        start_time: context.time_ns / 1_000_000_000,
        uid: context.process.uid.map(i64::from),
        net_namespace: (step.net_ns != 0).then(|| step.net_ns.to_string().into()),
        ..ConnectionRow::default()
    };
    set_local(&mut row, step);
    if let Some(name) = context.names.of(context.process.instance, step.net_ns, step.remote.ip()) {
        set_name(&mut row, name);
    }
    if let Some(instance) = context.instance.as_deref_mut() {
        row.agent = instance.row.agent.clone();
        row.agent_id = instance.row.agent_id;
        row.container_id.clone_from(&instance.container_id);
        instance.row.connections_total += i64::from(step.state != Some(TcpState::Listen));
        instance.changed(context.time_ns);
    }
    row
}
