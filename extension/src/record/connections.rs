//! Sockets: outbound and inbound connections, UDP flows and what is listened on, from the call to the end.
//!
//! Two sources tell of one TCP connection: the call, which knows the descriptor and its own error, and the socket's
//! states, which come later and under any task. They meet by the socket's identity; a refused one has its last state
//! before the call returns, so a row is finished only when both have spoken or the owner has ended. UDP and UNIX sockets
//! have no states: they end when the last reference to them goes.

mod rest;
mod row;

use std::collections::HashMap;
use std::net::SocketAddr;

use super::Store;
use super::engine::{Context, Process};
use super::names::{Named, is_better};
use super::peer::judge;
use super::rows::{ConnectionRow, Identity};
use crate::enrich::errno;
use crate::event::{Connection, Event, EventKind, FlowStart, ProcessKey, Step, TcpState, Transport};
use rest::Rest;
use row::{add_bytes, begin, fail, set_local, set_name, state_name};

/// A row that can still change.
#[derive(Debug)]
struct Live {
    owner: Process,
    row: ConnectionRow,
    /// The last state of a TCP socket that was told.
    tcp: Option<TcpState>,
    ended: bool,
    /// Its call has returned.
    returned: bool,
    /// It has ended, but what had come before may yet be read.
    held: bool,
}

/// Sockets by the collector's identity of them.
#[derive(Debug, Default)]
pub(super) struct Connections {
    live: HashMap<u64, Live>,
    /// UDP flows, by socket and peer.
    flows: HashMap<u64, HashMap<SocketAddr, Live>>,
    rest: Rest,
    /// Sockets, with their inode and their owner, whose connection failed with an error that its call did not return. The
    /// kernel gives it to the next connect, which begins nothing (`__inet_stream_connect`).
    unfetched: HashMap<u64, (u64, ProcessKey)>,
}

impl Connections {
    /// The process that an event's socket belonged to, which may have ended.
    pub(super) fn owner(&self, event: &Event) -> Option<Process> {
        let EventKind::Connection(connection) = &event.kind else { return None };
        let flows = self.flows.get(&connection.socket_id);
        let live = match connection.step {
            Step::FlowEnd => flows?.get(&connection.remote),
            _ => self.live.get(&connection.socket_id).or_else(|| flows?.values().next()),
        }?;
        (live.owner.key == event.process).then(|| live.owner.clone())
    }

    /// One step of a connection.
    pub(super) fn step(&mut self, step: &Connection, mut context: Context<'_>) -> bool {
        match (step.step, step.transport) {
            (Step::State(state @ (TcpState::SynSent | TcpState::Listen)), _) => {
                self.end_former(step.socket_id, &context); // the same socket tries again
                self.unfetched.remove(&step.socket_id);
                let row = begin(step, direction(state), &mut context);
                self.keep(step, row, false, &context);
                true
            }
            (Step::State(state), _) => self.state(step, state, &mut context),
            (Step::Connect, Transport::Tcp) => self.connect(step, &mut context),
            (Step::Connect, _) if asks_absent_cache(step) => false,
            (Step::Connect, _) => {
                let mut row = begin(step, "outbound", &mut context);
                if step.error == 0 {
                    self.end_former(step.socket_id, &context);
                    self.keep(step, row, true, &context);
                } else {
                    fail(&mut row, step.error, context.time_ns);
                    context.store.update(|state| state.refuse_connection(row));
                }
                true
            }
            (Step::Accept(state), _) => {
                self.end_former(step.socket_id, &context);
                let row = begin(step, "inbound", &mut context);
                self.keep(step, row, true, &context);
                if state == TcpState::Close {
                    self.close(step, &mut context);
                }
                true
            }
            (Step::Listen, Transport::Tcp) => self.listen(step, &mut context),
            (Step::Listen, _) => {
                let row = begin(step, "listen", &mut context);
                self.end_former(step.socket_id, &context);
                self.keep(step, row, true, &context);
                true
            }
            (Step::Flow(start), _) => self.flow(step, start, &mut context),
            (Step::FlowEnd, _) => self.end_flow(step, &mut context),
            (Step::End, _) => self.end(step, &mut context),
            (Step::Held, _) => self.close(step, &mut context),
            (Step::Found(_), _) => self.adopt(step, None, !step.connected, context),
        }
    }

    /// `connect` of a TCP socket returned.
    fn connect(&mut self, step: &Connection, context: &mut Context<'_>) -> bool {
        let Some(live) = self.live.get_mut(&step.socket_id) else {
            let failed_before = self.unfetched.remove(&step.socket_id);
            if step.error != 0 && failed_before.is_some_and(|(inode, _)| inode == step.inode) {
                return false; // the error of the row that there is
            }
            // No state was seen: the route or the address was refused before the socket moved, or it is local.
            let mut row = begin(step, "outbound", context);
            if step.error == 0 {
                self.keep(step, row, false, context);
            } else {
                fail(&mut row, step.error, context.time_ns);
                context.store.update(|state| state.refuse_connection(row));
            }
            return true;
        };
        live.row.fd = Some(step.fd.into());
        live.returned = true;
        if step.error != 0 && !live.ended {
            fail(&mut live.row, step.error, context.time_ns);
            live.ended = true;
        }
        if !live.ended {
            set_local(&mut live.row, step);
        }
        self.publish(step, context);
        true
    }

    /// `listen` of a TCP socket returned.
    fn listen(&mut self, step: &Connection, context: &mut Context<'_>) -> bool {
        let Some(live) = self.live.get_mut(&step.socket_id) else {
            if step.error == 0 {
                let row = begin(step, "listen", context);
                self.keep(step, row, true, context);
            }
            return step.error == 0;
        };
        live.row.fd = Some(step.fd.into());
        live.returned = true;
        set_local(&mut live.row, step);
        if step.error != 0 {
            fail(&mut live.row, step.error, context.time_ns);
            live.ended = true;
        }
        self.publish(step, context);
        true
    }

    /// A TCP socket that is known came into another state.
    fn state(&mut self, step: &Connection, state: TcpState, context: &mut Context<'_>) -> bool {
        if state == TcpState::Close {
            return self.close(step, context);
        }
        // Else a socket that connected before we saw it.
        let Some(live) = self.live.get_mut(&step.socket_id) else { return false };
        live.tcp = Some(state);
        live.row.state = state_name(state);
        add_bytes(&mut live.row, step, context);
        set_local(&mut live.row, step);
        self.publish(step, context);
        true
    }

    /// A TCP socket came to its end.
    fn close(&mut self, step: &Connection, context: &mut Context<'_>) -> bool {
        let Some(live) = self.live.get_mut(&step.socket_id) else { return false };
        add_bytes(&mut live.row, step, context);
        if live.held && step.step != Step::Held {
            let Some(live) = self.live.remove(&step.socket_id) else { return false };
            if live.row.state == "time_wait" {
                self.rest.add(live.row, context.store);
            } else {
                live.finish(context.store);
            }
            return true;
        }
        if live.row.state == "connecting" || (live.row.state == "listening" && !live.returned) {
            // No error of the socket: the program gave up, or the process ended.
            fail(&mut live.row, step.error, context.time_ns);
            live.ended = true;
            self.publish(step, context);
            return true;
        }
        // The kernel goes on with a smaller socket, of which nobody tells (tcp_time_wait).
        let rests = step.error == 0 && matches!(live.tcp, Some(TcpState::FinWait2 | TcpState::Closing));
        live.row.state = if rests { "time_wait" } else { "closed" };
        live.row.end_time = Some(context.time_ns / 1_000_000_000);
        live.row.error = (step.error != 0).then(|| errno::name(step.error).into());
        live.ended = true;
        live.returned = true;
        live.held = matches!(step.step, Step::Held | Step::Accept(_));
        if live.held {
            let row = live.row.clone();
            context.store.update(|state| state.live_connections.insert(row.eid, row));
        } else if rests {
            if let Some(live) = self.live.remove(&step.socket_id) {
                self.rest.add(live.row, context.store);
            }
        } else {
            self.publish(step, context);
        }
        true
    }

    /// Shows a row as it is now, or finishes it when nothing more is to come.
    fn publish(&mut self, step: &Connection, context: &Context<'_>) {
        let Some(live) = self.live.get(&step.socket_id) else { return };
        if live.ended && live.returned {
            let fetched = step.step == Step::Connect && step.error != 0;
            if live.row.error.is_some() && !fetched && live.row.direction == "outbound" {
                let inode = live.row.socket.and_then(|inode| u64::try_from(inode).ok()).unwrap_or(0);
                self.unfetched.insert(step.socket_id, (inode, live.owner.key));
            }
            self.finish(step.socket_id, context.store);
        } else {
            let row = live.row.clone();
            context.store.update(|state| state.live_connections.insert(row.eid, row));
        }
    }

    /// A UDP flow began, or had its first datagram: with it only it is a connection.
    fn flow(&mut self, step: &Connection, start: FlowStart, context: &mut Context<'_>) -> bool {
        let flows = self.flows.entry(step.socket_id).or_default();
        let counts = start != FlowStart::Connected;
        if let Some(live) = flows.get_mut(&step.remote) {
            let counted = live.row.bytes_sent != Some(0) || live.row.bytes_received != Some(0);
            add_bytes(&mut live.row, step, context);
            if let Some(instance) = context.instance.as_deref_mut().filter(|_| counts && !counted) {
                instance.row.connections_total += 1;
                instance.changed(context.time_ns);
            }
            let row = live.row.clone();
            context.store.update(|state| state.live_connections.insert(row.eid, row));
            return true;
        }
        let row = begin(step, if start == FlowStart::Received { "inbound" } else { "outbound" }, context);
        let live = Live::new(step, row, true, context);
        flows.insert(step.remote, live);
        true
    }

    fn end_flow(&mut self, step: &Connection, context: &mut Context<'_>) -> bool {
        let Some(flows) = self.flows.get_mut(&step.socket_id) else { return false };
        let Some(mut live) = flows.remove(&step.remote) else { return false };
        if flows.is_empty() {
            self.flows.remove(&step.socket_id);
        }
        add_bytes(&mut live.row, step, context);
        live.end(context.time_ns, context.store);
        true
    }

    /// A UDP or UNIX socket ended, and with it all of its flows that have not.
    fn end(&mut self, step: &Connection, context: &mut Context<'_>) -> bool {
        let flows = self.flows.remove(&step.socket_id).unwrap_or_default();
        let known = self.live.remove(&step.socket_id);
        let any = known.is_some() || !flows.is_empty();
        if let Some(mut live) = known {
            add_bytes(&mut live.row, step, context);
            live.end(context.time_ns, context.store);
        }
        for live in flows.into_values() {
            live.end(context.time_ns, context.store);
        }
        any
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
        let Some(state) = step.state() else { return false };
        let direction = match step.transport {
            _ if state == TcpState::Listen => "listen",
            Transport::Unix if !step.connected => "inbound",
            Transport::Tcp if inbound => "inbound",
            _ => "outbound",
        };
        let mut row = before.unwrap_or_else(|| begin(step, direction, &mut context));
        if matches!(step.bytes, None | Some((0, 0))) {
            // The collector counts from here on.
            row.identity.sent = row.bytes_sent.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
            row.identity.received = row.bytes_received.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
        } else {
            add_bytes(&mut row, step, &mut context);
        }
        row.state = state_name(state);
        set_local(&mut row, step);
        if step.transport == Transport::Udp && direction != "listen" {
            let live = Live::new(step, row, true, &context);
            self.flows.entry(step.socket_id).or_default().insert(step.remote, live);
        } else {
            self.keep(step, row, true, &context);
        }
        true
    }

    /// The row that an earlier recorder had of a connection that goes on.
    pub(super) fn know_again(&mut self, row: ConnectionRow, owner: Process, store: &Store) {
        let ended = row.end_time.is_some();
        if ended && row.state == "time_wait" {
            self.rest.add(row, store);
            return;
        }
        store.update(|state| state.live_connections.insert(row.eid, row.clone()));
        // A call that has returned told the descriptor.
        let returned = row.fd.is_some();
        let (id, peer) = (row.identity.id, row.peer().filter(|_| row.transport == "udp"));
        let held = ended && row.state == "closed";
        let live = Live { owner, row, tcp: None, ended, returned, held };
        match peer {
            Some(peer) => drop(self.flows.entry(id).or_default().insert(peer, live)),
            None => drop(self.live.insert(id, live)),
        }
    }

    /// The name of a connection's peer was told; false when it is of no use.
    pub(super) fn name(&mut self, socket_id: u64, name: &Named, mut context: Context<'_>) -> bool {
        let Some(live) = self.live.get_mut(&socket_id) else { return false };
        if live.row.direction != "outbound" || !is_better(name.source, live.row.host_source) {
            return false;
        }
        set_name(&mut live.row, name);
        judge(&mut live.row, &mut context);
        let row = live.row.clone();
        context.store.update(|state| state.live_connections.insert(row.eid, row));
        true
    }

    /// Whether a connection of that inode lives.
    pub(super) fn has_socket(&self, socket: i64) -> bool {
        self.all().any(|live| live.row.socket == Some(socket))
    }

    /// The inodes of all that has not come to its end.
    pub(super) fn inodes(&self) -> Vec<u64> {
        self.all().filter_map(|live| u64::try_from(live.row.socket?).ok()).collect()
    }

    /// A socket of that inode is nobody's any more, and no end of it was told.
    pub(super) fn end_unseen(&mut self, inode: u64, time_ns: i64, store: &Store) {
        let is_it = |live: &Live| live.row.socket.is_some_and(|socket| u64::try_from(socket) == Ok(inode));
        let live = self.live.extract_if(|_, live| is_it(live)).map(|(_, live)| live);
        let flows =
            self.flows.extract_if(|_, flows| flows.values().any(is_it)).flat_map(|(_, flows)| flows.into_values());
        for live in live.chain(flows) {
            live.end(time_ns, store);
        }
    }

    /// Whether something of that instance is open, so that more bytes of it may come to be known.
    pub(super) fn is_open(&self, instance: usize) -> bool {
        let open = ["connecting", "established", "close_wait"];
        let is_open = |live: &Live| live.held || (!live.ended && open.contains(&live.row.state));
        self.all().any(|live| live.owner.instance == instance && is_open(live))
    }

    fn all(&self) -> impl Iterator<Item = &Live> {
        self.live.values().chain(self.flows.values().flat_map(HashMap::values))
    }

    /// Finishes what has been in `time_wait` for long enough.
    pub(super) fn end_rested(&mut self, boot_ns: u64, store: &Store) {
        self.rest.end(boot_ns, store);
    }

    fn keep(&mut self, step: &Connection, row: ConnectionRow, returned: bool, context: &Context<'_>) {
        self.live.insert(step.socket_id, Live::new(step, row, returned, context));
    }

    fn finish(&mut self, socket_id: u64, store: &Store) {
        if let Some(live) = self.live.remove(&socket_id) {
            live.finish(store);
        }
    }

    /// The socket begins something new, or its number is used anew: what it was before has ended.
    fn end_former(&mut self, socket_id: u64, context: &Context<'_>) {
        if let Some(live) = self.live.remove(&socket_id) {
            live.end(context.time_ns, context.store);
        }
    }

    /// The owner ended: what waits only for its call to return does not come.
    pub(super) fn owner_ended(&mut self, owner: &Process, store: &Store) {
        self.unfetched.retain(|_, (_, key)| *key != owner.key);
        let of_owner = |live: &Live, key: ProcessKey| live.ended && !live.held && live.owner.key == key;
        let over: Vec<u64> =
            self.live.iter().filter(|(_, live)| of_owner(live, owner.key)).map(|(socket, _)| *socket).collect();
        for socket in over {
            self.finish(socket, store);
        }
    }
}

impl Live {
    fn new(step: &Connection, mut row: ConnectionRow, returned: bool, context: &Context<'_>) -> Self {
        let identity = Identity { start_ns: context.process.key.start_ns, id: step.socket_id, ..row.identity };
        row.identity = identity;
        context.store.update(|state| state.begin_connection(row.clone()));
        Self { owner: context.process.clone(), row, tcp: step.state(), ended: false, returned, held: false }
    }

    fn finish(self, store: &Store) {
        store.update(|state| {
            state.live_connections.remove(self.row.eid);
            state.end_connection(self.row);
        });
    }

    /// It ends now, if it has not.
    fn end(mut self, time_ns: i64, store: &Store) {
        if !self.ended {
            self.row.end_time = Some(time_ns / 1_000_000_000);
        }
        if !self.ended || self.row.state == "time_wait" {
            self.row.state = "closed";
        }
        self.finish(store);
    }
}

/// The C library looks for a cache of names (nscd) before it looks up a user, a group or a host, twice each time; where none
/// runs there is nothing to connect to. `_PATH_NSCDSOCKET` (`nscd/nscd-client.h` of glibc; the same in musl).
fn asks_absent_cache(step: &Connection) -> bool {
    step.path.as_deref() == Some("/var/run/nscd/socket") && errno::name(step.error) == "ENOENT"
}

fn direction(state: TcpState) -> &'static str {
    if state == TcpState::Listen { "listen" } else { "outbound" }
}
