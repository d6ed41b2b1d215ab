//! Packets as the system tells of them, one after the other.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::event::NOWHERE;

fn ends(local: &str, remote: &str) -> Endpoints {
    Endpoints { local: local.parse().unwrap(), remote: remote.parse().unwrap() }
}

fn here() -> Endpoints {
    ends("192.0.2.1:50000", "198.51.100.7:443")
}

fn take(sockets: &mut Sockets, packet: Packet, size: u32, ends: Endpoints, boot_ns: u64) -> Vec<String> {
    let mut told = Vec::new();
    sockets.take(NetworkRecord::Of { pid: 7, packet, size, ends }, boot_ns, &mut told);
    shown(told)
}

fn shown(told: Vec<Told>) -> Vec<String> {
    let show = |told: Told| {
        let What::Act(EventKind::Connection(step)) = told.what else { panic!("{told:?}") };
        assert!(step.inode == 0 && step.fd == -1 && step.error == 0 && step.net_ns == 0);
        let id = match step.transport {
            Transport::Tcp => socket_id(step.transport, step.local, Some(step.remote), 0),
            _ => socket_id(step.transport, step.local, None, 7),
        };
        assert!(step.socket_id == id || matches!(step.step, Step::Listen | Step::End) || step.remote == NOWHERE);
        assert!(matches!(told.process, Who::Pid(7 | 8)));
        let bytes = step.bytes.map_or_else(String::new, |(sent, received)| format!(" {sent} {received}"));
        format!("{} {:?} {}{bytes}", told.boot_ns, step.step, step.remote)
    };
    told.into_iter().map(show).collect()
}

#[test]
fn a_connection_from_here() {
    let mut sockets = Sockets::default();
    assert_eq!(
        take(&mut sockets, Packet::Connected, 0, here(), 1),
        ["1 State(SynSent) 198.51.100.7:443 0 0", "1 State(Established) 198.51.100.7:443 0 0",]
    );
    assert!(sockets.has_told(here()));
    assert_eq!(take(&mut sockets, Packet::Sent, 100, here(), 2), [""; 0]);
    assert_eq!(take(&mut sockets, Packet::Received, 30, here(), 3), [""; 0]);
    let id = socket_id(Transport::Tcp, here().local, Some(here().remote), 99);
    assert_eq!(sockets.bytes(), HashMap::from([((id, None), (100, 30))]));
    assert_eq!(take(&mut sockets, Packet::Disconnected, 0, here(), 4), ["4 State(Close) 198.51.100.7:443 100 30"]);
    assert!(!sockets.has_told(here()) && sockets.bytes().is_empty());
}

#[test]
fn a_connection_from_there_and_one_whose_end_was_lost() {
    let mut sockets = Sockets::default();
    assert_eq!(take(&mut sockets, Packet::Accepted, 0, here(), 1), ["1 Accept(Established) 198.51.100.7:443 0 0"]);
    take(&mut sockets, Packet::Sent, 5, here(), 2);
    assert_eq!(
        take(&mut sockets, Packet::Connected, 0, here(), 3),
        [
            "3 State(Close) 198.51.100.7:443 5 0",
            "3 State(SynSent) 198.51.100.7:443 0 0",
            "3 State(Established) 198.51.100.7:443 0 0",
        ]
    );
    // Both ends of one on the same machine are two.
    let back = Endpoints { local: here().remote, remote: here().local };
    assert_eq!(take(&mut sockets, Packet::Accepted, 0, back, 4).len(), 1);
    assert_eq!(sockets.bytes().len(), 2);
}

#[test]
fn one_that_was_made_before_has_its_bytes_and_its_end() {
    let mut sockets = Sockets::default();
    assert_eq!(take(&mut sockets, Packet::Sent, 9, here(), 1), [""; 0]);
    assert!(!sockets.has_told(here()), "the table tells it");
    assert_eq!(take(&mut sockets, Packet::Disconnected, 0, here(), 2), ["2 State(Close) 198.51.100.7:443 9 0"]);
    assert_eq!(take(&mut sockets, Packet::Disconnected, 0, here(), 3), ["3 State(Close) 198.51.100.7:443 0 0"]);
    sockets.take(NetworkRecord::Failed, 4, &mut Vec::new());
    assert_eq!(sockets.failed, 1);
}

#[test]
fn a_flow_ends_after_a_minute_of_silence_or_with_its_process() {
    let mut sockets = Sockets::default();
    let other = ends("192.0.2.1:50000", "198.51.100.8:53");
    assert_eq!(take(&mut sockets, Packet::DatagramSent, 40, here(), 10), ["10 Flow(Sent) 198.51.100.7:443 40 0"]);
    assert_eq!(take(&mut sockets, Packet::DatagramReceived, 5, other, 20), ["20 Flow(Received) 198.51.100.8:53 0 5"]);
    assert_eq!(take(&mut sockets, Packet::DatagramReceived, 60, here(), 30), [""; 0]);
    let id = socket_id(Transport::Udp, here().local, None, 7);
    assert_eq!(sockets.bytes()[&(id, Some(here().remote))], (40, 60));
    let mut told = Vec::new();
    sockets.tick(20 + SILENCE_NS, &mut told);
    assert_eq!(shown(told), ["20 FlowEnd 198.51.100.8:53 0 5"]);
    let mut told = Vec::new();
    sockets.process_ended(8, 40, &mut told);
    sockets.process_ended(7, 29, &mut told);
    assert!(told.is_empty(), "of another process, and of one that had the pid before");
    sockets.process_ended(7, 50, &mut told);
    assert_eq!(shown(told), ["50 FlowEnd 198.51.100.7:443 40 60"]);
    assert!(sockets.bytes().is_empty() && sockets.of_port.is_empty());
}

#[test]
fn a_connection_ends_with_its_process_and_is_forgotten_with_what_is_not_wanted() {
    let mut sockets = Sockets::default();
    take(&mut sockets, Packet::Connected, 0, here(), 1);
    take(&mut sockets, Packet::Sent, 9, here(), 2);
    sockets.keep(|pid| pid == 7);
    let mut told = Vec::new();
    sockets.process_ended(7, 3, &mut told);
    assert_eq!(shown(told), ["3 State(Close) 198.51.100.7:443 9 0"]);
    take(&mut sockets, Packet::Accepted, 0, here(), 4);
    take(&mut sockets, Packet::DatagramSent, 1, here(), 4);
    sockets.keep(|_| false);
    assert!(sockets.bytes().is_empty() && sockets.of_port.is_empty() && sockets.evicted() == 0);
}

#[test]
fn listening_sockets_come_and_go() {
    let owned = |pid, port: u16, transport| Owned {
        pid,
        transport,
        local: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
        remote: None,
        state: TcpState::Listen,
    };
    let (tcp, udp, other) = (owned(7, 80, Transport::Tcp), owned(7, 53, Transport::Udp), owned(8, 81, Transport::Tcp));
    let mut sockets = Sockets::default();
    let mut look = |listening: &[&Owned], boot_ns| {
        let mut told = Vec::new();
        sockets.listen(&listening.iter().map(|owned| (*owned).clone()).collect::<Vec<_>>(), boot_ns, &mut told);
        let mut shown = shown(told);
        shown.sort();
        shown
    };
    assert_eq!(look(&[&tcp, &udp], 1), ["1 Listen 0.0.0.0:0", "1 Listen 0.0.0.0:0"]);
    assert_eq!(look(&[&tcp, &udp, &other], 2), ["2 Listen 0.0.0.0:0"]);
    assert_eq!(look(&[&tcp], 3), ["3 End 0.0.0.0:0", "3 State(Close) 0.0.0.0:0"]);
    assert_eq!(look(&[], 4), ["4 State(Close) 0.0.0.0:0"]);
    assert!(sockets.listening.is_empty());
}

#[test]
fn floods_are_bounded_and_counted() {
    let mut sockets = Sockets::default();
    let peer = |number: u32| Endpoints { remote: SocketAddr::new(IpAddr::V4(number.into()), 1), ..here() };
    for number in 0..FLOWS_OF_PORT + 10 {
        take(&mut sockets, Packet::DatagramSent, 1, peer(number), 1);
    }
    assert_eq!((sockets.flows.len(), sockets.crowded), (FLOWS_OF_PORT as usize, 10));
    for number in 0..u32::try_from(CONNECTIONS).unwrap() + 4 {
        take(&mut sockets, Packet::Connected, 1, peer(number), 1);
    }
    assert_eq!((sockets.tcp.len(), sockets.evicted()), (CONNECTIONS, 4));
}

#[test]
fn a_name_is_one_that_was_looked_up() {
    let EventKind::Name(name) = name("a.example".into(), vec![here().remote.ip()]) else { panic!() };
    let heard = Heard::Lookup { host: "a.example".into(), addresses: vec![here().remote.ip()] };
    assert_eq!(*name, Name { net_ns: 0, mount_ns: 0, heard });
}

proptest! {
    /// Whatever comes: a flow that ends had begun, and the bytes of the living are those that were counted.
    #[test]
    fn flows_are_pairs(packets in prop::collection::vec((0_u8..7, 0_u32..5, 0_u64..200), 0..200)) {
        let mut sockets = Sockets::default();
        let (mut told, mut now) = (Vec::new(), 0);
        for (kind, number, seconds) in packets {
            now += seconds * 1_000_000_000;
            let ends = Endpoints { remote: SocketAddr::new(IpAddr::V4(number.into()), 1), ..here() };
            let packet = [
                Packet::Connected, Packet::Accepted, Packet::Disconnected, Packet::Sent, Packet::Received,
                Packet::DatagramSent, Packet::DatagramReceived,
            ][usize::from(kind)];
            sockets.take(NetworkRecord::Of { pid: 7, packet, size: number, ends }, now, &mut told);
            sockets.tick(now, &mut told);
        }
        let mut flows = std::collections::HashSet::new();
        for told in told {
            let What::Act(EventKind::Connection(step)) = told.what else { panic!() };
            match step.step {
                Step::Flow(_) => prop_assert!(flows.insert(step.remote)),
                Step::FlowEnd => prop_assert!(flows.remove(&step.remote)),
                _ => {}
            }
        }
        prop_assert_eq!(flows.len(), sockets.flows.len());
        prop_assert_eq!(flows.len(), sockets.of_port.values().sum::<u32>() as usize);
    }
}
