//! Connections: from packets to what happens to each connection and flow.
//!
//! The system tells of each packet, whose it is and between whom. A TCP connection is known by both its ends, which no other one
//! has at that time; what was connected before we heard of it has a row, if any, from IP Helper's table, by the same id. A UDP flow is
//! all that goes between a process' port and one peer, until a minute of silence, as on Linux. Of ports that are listened on
//! there is no event: they are looked for.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::bounded::Bounded;
use super::decode::{Endpoints, NetworkRecord, Packet};
use super::tables::Owned;
use crate::collect::watched::{Told, What, Who};
use crate::event::{Connection, EventKind, FlowStart, Heard, Name, Step, TcpState, Transport};
use crate::hash::fnv1a;

/// TCP connections that are known; the oldest goes.
const CONNECTIONS: usize = 32_768;
/// UDP flows; the oldest goes.
const FLOWS: usize = 16_384;
/// And of one port.
const FLOWS_OF_PORT: u32 = 256;
/// A flow ends after so long a silence.
const SILENCE_NS: u64 = 60_000_000_000;

/// Identifies a socket: one that has a peer by both ends, another one by its end and its process. No number that a
/// system gives a socket is as large.
#[must_use]
pub fn socket_id(transport: Transport, local: SocketAddr, remote: Option<SocketAddr>, pid: u32) -> u64 {
    let pid = if transport == Transport::Tcp && remote.is_some() { 0 } else { pid };
    let text = format!("{transport:?} {local} {remote:?} {pid}");
    fnv1a(text.into_bytes()) | 1 << 63
}

#[derive(Debug)]
struct Tcp {
    pid: u32,
    /// Its beginning was told.
    told: bool,
    began_ns: u64,
    sent: u64,
    received: u64,
}

#[derive(Debug)]
struct Flow {
    sent: u64,
    received: u64,
    last_ns: u64,
}

type FlowKey = (u32, Endpoints);

/// All connections of processes about which more is wanted.
#[derive(Debug)]
pub struct Sockets {
    tcp: Bounded<Endpoints, Tcp>,
    flows: Bounded<FlowKey, Flow>,
    /// How many flows each port has.
    of_port: HashMap<(u32, SocketAddr), u32>,
    listening: HashMap<u64, Owned>,
    /// Connections that could not be made, of whom nothing tells.
    pub failed: u64,
    /// Datagrams of a port that has too many peers.
    pub crowded: u64,
}

impl Default for Sockets {
    fn default() -> Self {
        Self {
            tcp: Bounded::new(CONNECTIONS),
            flows: Bounded::new(FLOWS),
            of_port: HashMap::new(),
            listening: HashMap::new(),
            failed: 0,
            crowded: 0,
        }
    }
}

impl Sockets {
    /// A packet of a process about which more is wanted.
    pub fn take(&mut self, record: NetworkRecord, boot_ns: u64, told: &mut Vec<Told>) {
        let NetworkRecord::Of { pid, packet, size, ends } = record else {
            self.failed += 1;
            return;
        };
        match packet {
            Packet::Connected => {
                self.end_tcp(ends, boot_ns, told);
                self.tcp.insert(ends, Tcp { pid, told: true, began_ns: boot_ns, sent: 0, received: 0 });
                for step in [Step::State(TcpState::SynSent), Step::State(TcpState::Established)] {
                    told.push(tell(pid, boot_ns, tcp(ends, step, 0, 0)));
                }
            }
            Packet::Accepted => {
                self.end_tcp(ends, boot_ns, told);
                self.tcp.insert(ends, Tcp { pid, told: true, began_ns: boot_ns, sent: 0, received: 0 });
                told.push(tell(pid, boot_ns, tcp(ends, Step::Accept(TcpState::Established), 0, 0)));
            }
            Packet::Disconnected => {
                self.know(pid, ends, boot_ns);
                self.end_tcp(ends, boot_ns, told);
            }
            Packet::Sent | Packet::Received => {
                self.know(pid, ends, boot_ns);
                let Some(known) = self.tcp.get_mut(ends) else { return };
                let count = if packet == Packet::Sent { &mut known.sent } else { &mut known.received };
                *count += u64::from(size);
            }
            Packet::DatagramSent | Packet::DatagramReceived => {
                self.datagram(pid, packet == Packet::DatagramSent, u64::from(size), ends, boot_ns, told);
            }
        }
    }

    /// One that was made before we heard of it.
    fn know(&mut self, pid: u32, ends: Endpoints, boot_ns: u64) {
        if self.tcp.get(ends).is_none() {
            self.tcp.insert(ends, Tcp { pid, told: false, began_ns: boot_ns, sent: 0, received: 0 });
        }
    }

    /// Whether the beginning of that connection was told.
    #[must_use]
    pub fn has_told(&self, ends: Endpoints) -> bool {
        self.tcp.get(ends).is_some_and(|tcp| tcp.told)
    }

    fn datagram(&mut self, pid: u32, out: bool, size: u64, ends: Endpoints, boot_ns: u64, told: &mut Vec<Told>) {
        let key = (pid, ends);
        if let Some(flow) = self.flows.get_mut(key) {
            *(if out { &mut flow.sent } else { &mut flow.received }) += size;
            flow.last_ns = boot_ns;
            return;
        }
        let of_port = self.of_port.entry((pid, ends.local)).or_default();
        if *of_port >= FLOWS_OF_PORT {
            self.crowded += 1;
            return;
        }
        *of_port += 1;
        let (sent, received) = if out { (size, 0) } else { (0, size) };
        let evicted = self.flows.evicted;
        self.flows.insert(key, Flow { sent, received, last_ns: boot_ns });
        if self.flows.evicted != evicted {
            self.count_ports();
        }
        let start = if out { FlowStart::Sent } else { FlowStart::Received };
        told.push(tell(pid, boot_ns, udp(pid, ends, Step::Flow(start), sent, received)));
    }

    /// Ends flows that are silent.
    pub fn tick(&mut self, now_ns: u64, told: &mut Vec<Told>) {
        self.end_flows(|_, flow| flow.last_ns.saturating_add(SILENCE_NS) <= now_ns, None, told);
    }

    /// A process ended at that time, a while ago, and with it its flows, and the TCP connections of which no end was heard.
    /// Its pid may be another's by now.
    pub fn process_ended(&mut self, pid: u32, boot_ns: u64, told: &mut Vec<Told>) {
        let is_its = |tcp: &Tcp| tcp.pid == pid && tcp.began_ns <= boot_ns;
        let its: Vec<Endpoints> = self.tcp.iter().filter(|(_, tcp)| is_its(tcp)).map(|(ends, _)| *ends).collect();
        for ends in its {
            self.end_tcp(ends, boot_ns, told);
        }
        self.end_flows(|(of, _), flow| *of == pid && flow.last_ns <= boot_ns, Some(boot_ns), told);
    }

    /// Of the others no more is wanted, nor will their ends be heard.
    pub fn keep(&mut self, wanted: impl Fn(u32) -> bool) {
        self.tcp.take_if(|_, tcp| !wanted(tcp.pid));
        if !self.flows.take_if(|(pid, _), _| !wanted(*pid)).is_empty() {
            self.count_ports();
        }
    }

    /// What is listened on now, of processes about which more is wanted; what is new is told, and what is no more.
    pub fn listen(&mut self, listening: &[Owned], boot_ns: u64, told: &mut Vec<Told>) {
        let now: HashMap<u64, &Owned> = listening.iter().map(|owned| (owned.id(), owned)).collect();
        for (id, owned) in self.listening.extract_if(|id, _| !now.contains_key(id)) {
            told.push(tell(owned.pid, boot_ns, of_table(id, &owned, ended(&owned))));
        }
        for (id, owned) in now {
            if self.listening.insert(id, owned.clone()).is_none() {
                told.push(tell(owned.pid, boot_ns, of_table(id, owned, Step::Listen)));
            }
        }
    }

    /// Bytes (sent, received) so far over each connection and flow.
    #[must_use]
    pub fn bytes(&self) -> HashMap<(u64, Option<SocketAddr>), (u64, u64)> {
        let id = |ends: &Endpoints| socket_id(Transport::Tcp, ends.local, Some(ends.remote), 0);
        let tcp = self.tcp.iter().map(|(ends, tcp)| ((id(ends), None), (tcp.sent, tcp.received)));
        let flow_id = |pid: u32, ends: &Endpoints| socket_id(Transport::Udp, ends.local, None, pid);
        let flows = self
            .flows
            .iter()
            .map(|((pid, ends), flow)| ((flow_id(*pid, ends), Some(ends.remote)), (flow.sent, flow.received)));
        tcp.chain(flows).collect()
    }

    /// How much was forgotten to make room.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.tcp.evicted + self.flows.evicted
    }

    fn end_tcp(&mut self, ends: Endpoints, boot_ns: u64, told: &mut Vec<Told>) {
        if let Some(Tcp { pid, sent, received, .. }) = self.tcp.remove(ends) {
            told.push(tell(pid, boot_ns, tcp(ends, Step::State(TcpState::Close), sent, received)));
        }
    }

    fn end_flows(&mut self, ends: impl Fn(&FlowKey, &Flow) -> bool, boot_ns: Option<u64>, told: &mut Vec<Told>) {
        let over = self.flows.take_if(ends);
        for ((pid, ends), Flow { sent, received, last_ns }) in &over {
            // It was over when it fell silent.
            let boot_ns = boot_ns.unwrap_or(*last_ns);
            told.push(tell(*pid, boot_ns, udp(*pid, *ends, Step::FlowEnd, *sent, *received)));
        }
        if !over.is_empty() {
            self.count_ports();
        }
    }

    fn count_ports(&mut self) {
        self.of_port.clear();
        for ((pid, ends), _) in self.flows.iter() {
            *self.of_port.entry((*pid, ends.local)).or_default() += 1;
        }
    }
}

/// A name that was looked up, for the connections to come.
#[must_use]
pub fn name(host: String, addresses: Vec<IpAddr>) -> EventKind {
    EventKind::Name(Box::new(Name { net_ns: 0, mount_ns: 0, heard: Heard::Lookup { host, addresses } }))
}

fn tell(pid: u32, boot_ns: u64, connection: Connection) -> Told {
    Told { boot_ns, process: Who::Pid(pid), what: What::Act(EventKind::Connection(connection)) }
}

fn connection(transport: Transport, socket_id: u64, local: SocketAddr, step: Step) -> Connection {
    Connection { v6: local.is_ipv6(), local, ..Connection::bare(socket_id, transport, step) }
}

fn tcp(ends: Endpoints, step: Step, sent: u64, received: u64) -> Connection {
    let id = socket_id(Transport::Tcp, ends.local, Some(ends.remote), 0);
    Connection {
        remote: ends.remote,
        bytes: Some((sent, received)),
        ..connection(Transport::Tcp, id, ends.local, step)
    }
}

fn udp(pid: u32, ends: Endpoints, step: Step, sent: u64, received: u64) -> Connection {
    let id = socket_id(Transport::Udp, ends.local, None, pid);
    Connection {
        remote: ends.remote,
        bytes: Some((sent, received)),
        ..connection(Transport::Udp, id, ends.local, step)
    }
}

fn of_table(id: u64, owned: &Owned, step: Step) -> Connection {
    connection(owned.transport, id, owned.local, step)
}

/// How it is told that something listens no more.
fn ended(owned: &Owned) -> Step {
    if owned.transport == Transport::Tcp { Step::State(TcpState::Close) } else { Step::End }
}

#[cfg(test)]
mod tests;
