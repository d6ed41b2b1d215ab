//! Which address had which name, when an instance learnt it, and the connections whose first bytes are being put together.
//!
//! A name holds for the connections that come after it, of the same instance and in the same network namespace. It is
//! never taken from another agent's look-up: one address serves many names.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::enrich::names::dns::{self, Answer};
use crate::enrich::names::{host, hosts, tls};
use crate::event::{Heard, Name, Piece};
use crate::value::Text;

/// Addresses of one instance that have a name; the oldest goes.
const ADDRESSES: usize = 4096;
/// Connections whose first bytes are kept; the oldest goes.
const STREAMS: usize = 1024;
/// Bytes of one: a message of the DNS and its length.
const STREAM_BYTES: usize = (64 << 10) + 2;

/// What told a name, the better the later.
const SOURCES: [&str; 4] = [HOSTS, DNS, GETADDRINFO, SNI];
const SNI: &str = "sni";
const DNS: &str = "dns";
const HOSTS: &str = "hosts";
const GETADDRINFO: &str = "getaddrinfo";

/// A name, and what told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub host: Text,
    pub source: &'static str,
}

/// Whether a source is better than that of the name that there is.
pub(super) fn is_better(source: &str, than: Option<&str>) -> bool {
    let rank = |source: &str| SOURCES.iter().position(|one| *one == source);
    than.is_none_or(|than| rank(source) > rank(than))
}

/// Names of all instances.
#[derive(Debug, Default)]
pub(super) struct Names {
    instances: HashMap<usize, Known>,
    streams: HashMap<u64, Stream>,
    next: u64,
}

/// Names of one instance.
#[derive(Debug, Default)]
struct Known {
    /// By network namespace and address; with its number.
    names: HashMap<(u32, IpAddr), (u64, Named)>,
    /// By number, the oldest first.
    order: BTreeMap<u64, (u32, IpAddr)>,
}

/// The first bytes of a connection.
#[derive(Debug, Default)]
struct Stream {
    number: u64,
    /// Where the kept bytes begin in the connection.
    begin: usize,
    bytes: Vec<u8>,
}

impl Names {
    /// The name that an instance knows for an address.
    pub(super) fn of(&self, instance: usize, net_ns: u32, address: IpAddr) -> Option<&Named> {
        let known = self.instances.get(&instance)?;
        known.names.get(&(net_ns, address.to_canonical())).map(|(_, named)| named)
    }

    /// Takes in what was heard for connections to come; false when it told nothing. `hosts_file` reads the file of names
    /// as the program saw it.
    pub(super) fn learn(&mut self, instance: usize, name: &Name, hosts_file: impl FnOnce() -> Option<String>) -> bool {
        let found: Vec<(Answer, bool)> = match &name.heard {
            Heard::Hello(_) => return false,
            Heard::Answer(message) => dns::answer(message).map(|answer| (answer, false)).into_iter().collect(),
            Heard::Answers(piece) => self.answers(piece).into_iter().map(|answer| (answer, false)).collect(),
            Heard::Lookup { host: name, addresses } => {
                let Some(host) = host(name.as_bytes()) else { return false };
                vec![(Answer { host, addresses: addresses.clone() }, true)]
            }
        };
        let mut hosts_file = Some(hosts_file);
        let mut learnt = false;
        for (answer, looked_up) in found {
            let file = if looked_up { hosts_file.take().and_then(|read| read()) } else { None };
            let host = Text::from(answer.host.as_str());
            for address in answer.addresses {
                let in_file = |file: &String| hosts::says(file, &host, address);
                let source = match looked_up {
                    true if file.as_ref().is_some_and(in_file) => HOSTS,
                    true => GETADDRINFO,
                    false => DNS,
                };
                self.know(instance, name.net_ns, address, Named { host: host.clone(), source });
                learnt = true;
            }
        }
        learnt
    }

    /// The name of a connection that has begun: the socket, and the name.
    pub(super) fn of_connection(&mut self, name: &Name) -> Option<(u64, Named)> {
        let Heard::Hello(piece) = &name.heard else { return None };
        let host = tls::server_name(self.put_together(piece)?)?;
        self.streams.remove(&piece.socket_id);
        Some((piece.socket_id, Named { host: host.into(), source: SNI }))
    }

    /// A connection begins or ends: what was kept of it is of no use.
    pub(super) fn forget_connection(&mut self, socket_id: u64) {
        self.streams.remove(&socket_id);
    }

    /// An instance has ended.
    pub(super) fn forget_instance(&mut self, instance: usize) {
        self.instances.remove(&instance);
    }

    fn know(&mut self, instance: usize, net_ns: u32, address: IpAddr, named: Named) {
        let known = self.instances.entry(instance).or_default();
        let key = (net_ns, address.to_canonical());
        self.next += 1;
        if let Some((before, _)) = known.names.insert(key, (self.next, named)) {
            known.order.remove(&before);
        }
        known.order.insert(self.next, key);
        if known.order.len() > ADDRESSES
            && let Some((_, oldest)) = known.order.pop_first()
        {
            known.names.remove(&oldest);
        }
    }

    /// The bytes of a connection so far; `None` when some are missing, or there are too many.
    fn put_together(&mut self, piece: &Piece) -> Option<&[u8]> {
        let offset = piece.offset as usize;
        if offset == 0 {
            self.make_room();
            self.next += 1;
            self.streams.insert(piece.socket_id, Stream { number: self.next, ..Stream::default() });
        }
        let fits = |stream: &Stream| {
            stream.begin + stream.bytes.len() == offset && stream.bytes.len() + piece.bytes.len() <= STREAM_BYTES
        };
        if !self.streams.get(&piece.socket_id).is_some_and(fits) {
            self.streams.remove(&piece.socket_id);
            return None;
        }
        let stream = self.streams.get_mut(&piece.socket_id)?;
        stream.bytes.extend(&piece.bytes);
        Some(&stream.bytes)
    }

    fn make_room(&mut self) {
        if self.streams.len() >= STREAMS
            && let Some((oldest, _)) = self.streams.iter().min_by_key(|(_, stream)| stream.number)
        {
            let oldest = *oldest;
            self.streams.remove(&oldest);
        }
    }

    /// The answers that a connection to the DNS has brought whole: each has its length before it (RFC 1035, 4.2.2).
    fn answers(&mut self, piece: &Piece) -> Vec<Answer> {
        let mut found = Vec::new();
        if self.put_together(piece).is_none() {
            return found;
        }
        let Some(stream) = self.streams.get_mut(&piece.socket_id) else { return found };
        while let [high, low, rest @ ..] = &stream.bytes[..] {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let Some(message) = rest.get(..length) else { break };
            found.extend(dns::answer(message));
            stream.begin += 2 + length;
            stream.bytes.drain(..2 + length);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(net_ns: u32, host: &str, addresses: &[IpAddr]) -> Name {
        let heard = Heard::Lookup { host: host.into(), addresses: addresses.to_vec() };
        Name { net_ns, mount_ns: 1, heard }
    }

    fn of(names: &Names, instance: usize, net_ns: u32, address: IpAddr) -> Option<(&str, &str)> {
        names.of(instance, net_ns, address).map(|named| (&*named.host, named.source))
    }

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn a_name_is_its_instances_in_its_namespace_and_the_newest_holds() {
        let mut names = Names::default();
        assert!(names.learn(1, &lookup(5, "a.example", &[ONE]), || None));
        assert_eq!(of(&names, 1, 5, "::ffff:192.0.2.1".parse().unwrap()), Some(("a.example", "getaddrinfo")));
        assert_eq!((of(&names, 2, 5, ONE), of(&names, 1, 6, ONE)), (None, None));
        assert!(names.learn(1, &lookup(5, "B.example", &[ONE]), || Some("192.0.2.1 b.example".into())));
        assert_eq!(of(&names, 1, 5, ONE), Some(("b.example", "hosts")));
        assert!(!names.learn(1, &lookup(5, "192.0.2.1", &[ONE]), || None), "an address is no name");
        assert_eq!(of(&names, 1, 5, ONE), Some(("b.example", "hosts")));
        names.forget_instance(1);
        assert_eq!(of(&names, 1, 5, ONE), None);
    }

    #[test]
    fn names_are_bounded() {
        let mut names = Names::default();
        let address = |number: usize| IpAddr::from(u32::try_from(number).unwrap().to_be_bytes());
        for number in 0..ADDRESSES + 10 {
            names.learn(1, &lookup(5, "a.example", &[address(number), address(0)]), || None);
        }
        let known = names.instances.get(&1).unwrap();
        assert_eq!((known.names.len(), known.order.len()), (ADDRESSES, ADDRESSES));
        assert!(of(&names, 1, 5, address(0)).is_some() && of(&names, 1, 5, address(1)).is_none());
    }

    #[test]
    fn connections_are_bounded_and_a_gap_ends_one() {
        let mut names = Names::default();
        let mut piece = |socket_id: u64, offset: u32, length: usize| {
            let piece = Piece { socket_id, offset, bytes: vec![0; length] };
            (names.put_together(&piece).map(<[u8]>::len), names.streams.len())
        };
        assert_eq!(piece(1, 0, 5), (Some(5), 1));
        assert_eq!(piece(1, 5, 5), (Some(10), 1));
        assert_eq!(piece(1, 11, 5), (None, 0));
        assert_eq!(piece(1, 5, 5), (None, 0));
        for socket in 0..2 * STREAMS as u64 {
            assert!(piece(socket, 0, 1).1 <= STREAMS);
        }
        let length = u32::try_from(STREAM_BYTES).unwrap();
        assert_eq!(piece(1, 0, STREAM_BYTES).0, Some(STREAM_BYTES));
        assert_eq!(piece(1, length, 1).0, None);
    }

    #[test]
    fn an_answer_by_a_connection_may_come_in_pieces() {
        let mut answer = vec![1, 2, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
        answer.extend(b"\x01a\x07example\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01");
        let whole = [&u16::try_from(answer.len()).unwrap().to_be_bytes()[..], &answer].concat();
        let twice = [&whole[..], &whole].concat();
        for size in [1, 2, 7, 45, 200] {
            let mut names = Names::default();
            let mut learnt = 0;
            for (number, part) in twice.chunks(size).enumerate() {
                let offset = u32::try_from(number * size).unwrap();
                let piece = Piece { socket_id: 9, offset, bytes: part.to_vec() };
                let heard = Name { net_ns: 5, mount_ns: 1, heard: Heard::Answers(piece) };
                learnt += i32::from(names.learn(1, &heard, || panic!("no look-up")));
            }
            assert_eq!(of(&names, 1, 5, ONE), Some(("a.example", "dns")));
            assert_eq!(learnt, if size < 200 { 2 } else { 1 }, "{size}");
        }
    }

    #[test]
    fn sources_have_an_order() {
        assert!(is_better("sni", Some("getaddrinfo")) && is_better("getaddrinfo", Some("dns")));
        assert!(is_better("dns", None) && !is_better("sni", Some("sni")) && !is_better("hosts", Some("dns")));
    }
}
