//! What libproc writes of descriptors, files and sockets: bytes in, what a collector asks for out.
//!
//! The structures are those of `bsd/sys/proc_info.h` of XNU, which is the same for all programs of macOS: they are part of
//! its interface. Their sizes are what `proc_pidfdinfo` returns, so that a structure that has changed is no record.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use crate::collect::polling::system::{OpenFile, Socket};
use crate::event::{TcpState, Transport, escape};

/// `struct proc_fdinfo`.
pub const FD_SIZE: usize = 8;
/// `struct vnode_fdinfowithpath`: `proc_fileinfo` (24), `vnode_info` (152), and the path.
pub const FILE_SIZE: usize = 24 + 152 + 1024;
/// `struct socket_fdinfo`: `proc_fileinfo` (24) and `socket_info` (768).
pub const SOCKET_SIZE: usize = 24 + 768;

/// `PROX_FDTYPE_VNODE` and `PROX_FDTYPE_SOCKET`.
const VNODE: u32 = 1;
const SOCKET: u32 = 2;

// In both: struct vinfo_stat (136) behind proc_fileinfo.
const OPENFLAGS: usize = 0;
const OFFSET: usize = 8;
const DEVICE: usize = 24;
const MODE: usize = 28;
const INODE: usize = 32;
/// Behind `vi_type`, `vi_pad` and `vi_fsid`.
const PATH: usize = 176;

// struct socket_info behind the same.
const SOI_SO: usize = 160;
const SOI_PROTOCOL: usize = 180;
const SOI_FAMILY: usize = 184;
const SOI_OPTIONS: usize = 188;
const SOI_STATE: usize = 192;
const SOI_KIND: usize = 256;
const SOI_PROTO: usize = 264;

// struct in_sockinfo (80), with which struct tcp_sockinfo begins.
const FOREIGN_PORT: usize = SOI_PROTO;
const LOCAL_PORT: usize = SOI_PROTO + 4;
const VERSIONS: usize = SOI_PROTO + 24;
const FOREIGN: usize = SOI_PROTO + 32;
const LOCAL: usize = SOI_PROTO + 48;
const TCP_STATE: usize = SOI_PROTO + 80;

// struct un_sockinfo: two handles, and two times 255 bytes with a struct sockaddr_un.
const UNIX_ADDRESS: usize = SOI_PROTO + 16;
const UNIX_PEER: usize = SOI_PROTO + 16 + 255;
/// Of `sun_path`, behind length and family.
const UNIX_PATH: usize = 104;

/// `SOCKINFO_IN`, `SOCKINFO_TCP`, `SOCKINFO_UN`.
const KIND_IN: i32 = 1;
const KIND_TCP: i32 = 2;
const KIND_UNIX: i32 = 3;
/// `AF_INET6` and `IPPROTO_UDP` of macOS.
const AF_INET6: i32 = 30;
const IPPROTO_UDP: i32 = 17;
/// `INI_IPV4`.
const IPV4: u8 = 1;
/// `SO_ACCEPTCONN` and `SOI_S_ISCONNECTED`.
const LISTENS: u16 = 0x2;
const CONNECTED: u16 = 0x2;
/// Of the flags of an open file (`sys/fcntl.h`).
const FREAD: u32 = 0x1;
const FWRITE: u32 = 0x2;

/// Ports that are given to sockets that did not ask for one (`net.inet.ip.portrange.first` and `last`).
const CHOSEN: RangeInclusive<u16> = 49152..=65535;

/// What a descriptor is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descriptor {
    /// A file.
    File(i32),
    /// A socket.
    Socket(i32),
}

/// An open file: what it is, and what tells one open of it from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    /// The file.
    pub file: OpenFile,
    /// Flags, and where it is read or written next.
    pub open: (u32, u64),
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_ne_bytes)
}

fn signed(bytes: &[u8], at: usize) -> Option<i32> {
    array(bytes, at).map(i32::from_ne_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_ne_bytes)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_ne_bytes)
}

/// Text up to a zero.
fn text(bytes: &[u8], at: usize, most: usize) -> Option<String> {
    let bytes = bytes.get(at..)?;
    let bytes = bytes.get(..most).unwrap_or(bytes);
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.get(..end).filter(|text| !text.is_empty()).map(escape)
}

/// Descriptors of files and sockets, of what `PROC_PIDLISTFDS` writes.
#[must_use]
pub fn descriptors(bytes: &[u8]) -> Vec<Descriptor> {
    let descriptor = |record: &[u8]| match (signed(record, 0)?, number(record, 4)?) {
        (fd, VNODE) => Some(Descriptor::File(fd)),
        (fd, SOCKET) => Some(Descriptor::Socket(fd)),
        _ => None,
    };
    bytes.chunks_exact(FD_SIZE).filter_map(descriptor).collect()
}

/// A file, of what `PROC_PIDFDVNODEPATHINFO` writes; `None` when it has no name any more, or is not to be read or written.
#[must_use]
pub fn file(bytes: &[u8]) -> Option<FileRecord> {
    if bytes.len() != FILE_SIZE {
        return None;
    }
    let flags = number(bytes, OPENFLAGS)?;
    if flags & (FREAD | FWRITE) == 0 {
        return None;
    }
    let file = OpenFile {
        id: (number(bytes, DEVICE)?.into(), long(bytes, INODE)?),
        path: text(bytes, PATH, FILE_SIZE)?,
        mode: short(bytes, MODE)?.into(),
        writes: flags & FWRITE != 0,
    };
    Some(FileRecord { file, open: (flags, long(bytes, OFFSET)?) })
}

/// The number of a socket, of what `PROC_PIDFDSOCKETINFO` writes: an address in the kernel, made unrecognisable.
#[must_use]
pub fn socket_id(bytes: &[u8]) -> Option<u64> {
    if bytes.len() == SOCKET_SIZE { long(bytes, SOI_SO).filter(|id| *id != 0) } else { None }
}

/// A socket, if it is one that tables tell of. Whether this end of a TCP connection connected, [`mark_inbound`] finds.
#[must_use]
pub fn socket(bytes: &[u8]) -> Option<Socket> {
    let inode = socket_id(bytes)?;
    match signed(bytes, SOI_KIND)? {
        KIND_TCP => {
            let state = tcp_state(signed(bytes, TCP_STATE)?).filter(|state| *state != TcpState::Close)?;
            inet(bytes, inode, Transport::Tcp, state)
        }
        KIND_IN if signed(bytes, SOI_PROTOCOL)? == IPPROTO_UDP => {
            let socket = inet(bytes, inode, Transport::Udp, TcpState::Listen)?;
            if socket.remote.port() != 0 {
                return Some(Socket { state: TcpState::Established, ..socket });
            }
            // Without a peer and with a port of the kernel's it may be bound, or have sent to somebody: not known.
            let port = socket.local.port();
            (port != 0 && !CHOSEN.contains(&port)).then_some(socket)
        }
        KIND_UNIX => unix(bytes, inode),
        _ => None,
    }
}

/// `TSI_S_CLOSED` and so on, as BSD numbers them (`netinet/tcp_fsm.h`).
fn tcp_state(state: i32) -> Option<TcpState> {
    Some(match state {
        0 => TcpState::Close,
        1 => TcpState::Listen,
        2 => TcpState::SynSent,
        3 => TcpState::SynRecv,
        4 => TcpState::Established,
        5 => TcpState::CloseWait,
        6 => TcpState::FinWait1,
        7 => TcpState::Closing,
        8 => TcpState::LastAck,
        9 => TcpState::FinWait2,
        10 => TcpState::TimeWait,
        _ => return None,
    })
}

fn inet(bytes: &[u8], inode: u64, transport: Transport, state: TcpState) -> Option<Socket> {
    let versions: [u8; 1] = array(bytes, VERSIONS)?;
    // One that takes both is of IPv6; one of IPv6 that speaks IPv4 has its addresses as those.
    let v6 = match versions {
        [IPV4] => false,
        [both] if both & IPV4 != 0 => signed(bytes, SOI_FAMILY)? == AF_INET6,
        _ => true,
    };
    let address = |address: usize, port: usize| {
        let ip = if v6 {
            IpAddr::from(array::<16>(bytes, address)?)
        } else {
            IpAddr::from(array::<4>(bytes, address + 12)?) // struct in4in6_addr
        };
        // An int whose first bytes are the port in the order of the network.
        Some(SocketAddr::new(ip, u16::from_be_bytes(array(bytes, port)?)))
    };
    let (local, remote) = (address(LOCAL, LOCAL_PORT)?, address(FOREIGN, FOREIGN_PORT)?);
    Some(Socket { inode, transport, v6, local, remote, path: None, state, connected: true, bytes: None })
}

/// One that has a name, its own or its peer's: else it is one of a pair.
fn unix(bytes: &[u8], inode: u64) -> Option<Socket> {
    let path = |at: usize| text(bytes, at + 2, UNIX_PATH);
    let (own, peer) = (path(UNIX_ADDRESS), path(UNIX_PEER));
    let listens = short(bytes, SOI_OPTIONS)? & LISTENS != 0;
    let is_connected = short(bytes, SOI_STATE)? & CONNECTED != 0;
    let (state, path, connected) = match (own, peer) {
        (Some(own), _) if listens => (TcpState::Listen, own, false),
        (_, Some(peer)) if is_connected => (TcpState::Established, peer, true),
        (Some(own), None) if is_connected => (TcpState::Established, own, false),
        _ => return None,
    };
    let nowhere = SocketAddr::new(IpAddr::from([0; 4]), 0);
    let path = Some(path);
    let transport = Transport::Unix;
    Some(Socket { inode, transport, v6: false, local: nowhere, remote: nowhere, path, state, connected, bytes: None })
}

/// Of connections by TCP: those to a port that is listened on were accepted.
pub fn mark_inbound(sockets: &mut [Socket]) {
    let listens = |socket: &&Socket| socket.transport == Transport::Tcp && socket.state == TcpState::Listen;
    let ports: Vec<u16> = sockets.iter().filter(listens).map(|socket| socket.local.port()).collect();
    for socket in sockets.iter_mut().filter(|socket| socket.transport == Transport::Tcp) {
        socket.connected = !ports.contains(&socket.local.port());
    }
}

/// The name below `/dev` of a terminal, of its number: 16 are the ends of pseudo-terminals that programs have (`ttys000`).
#[must_use]
pub fn terminal(device: u32) -> String {
    match (device >> 24, device & 0xff_ffff) {
        (16, minor) => format!("ttys{minor:03}"),
        (0, 0) => "console".to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A record of zeros, with these bytes at these places.
    fn record(size: usize, parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; size];
        for (at, part) in parts {
            bytes[*at..at + part.len()].copy_from_slice(part);
        }
        bytes
    }

    fn address_of(v4: [u8; 4]) -> [u8; 16] {
        let mut address = [0; 16];
        address[12..].copy_from_slice(&v4);
        address
    }

    fn port(port: u16) -> [u8; 4] {
        let [high, low] = port.to_be_bytes();
        [high, low, 0, 0]
    }

    fn tcp(local: u16, remote: u16, state: i32) -> Vec<u8> {
        let parts: [(usize, &[u8]); 8] = [
            (SOI_SO, &(4711_u64 + u64::from(local)).to_ne_bytes()),
            (SOI_KIND, &KIND_TCP.to_ne_bytes()),
            (FOREIGN_PORT, &port(remote)),
            (LOCAL_PORT, &port(local)),
            (VERSIONS, &[IPV4]),
            (FOREIGN, &address_of([10, 0, 0, 2])),
            (LOCAL, &address_of([127, 0, 0, 1])),
            (TCP_STATE, &state.to_ne_bytes()),
        ];
        record(SOCKET_SIZE, &parts)
    }

    #[test]
    fn descriptors_of_files_and_sockets() {
        let fds = [[3, VNODE], [4, SOCKET], [5, 5], [6, 6], [7, VNODE]];
        let mut bytes: Vec<u8> = fds.as_flattened().iter().flat_map(|number| number.to_ne_bytes()).collect();
        bytes.extend([1, 2, 3]);
        let expected = [Descriptor::File(3), Descriptor::Socket(4), Descriptor::File(7)];
        assert_eq!(descriptors(&bytes), expected);
    }

    #[test]
    fn a_file_with_its_path() {
        let parts: [(usize, &[u8]); 6] = [
            (OPENFLAGS, &3_u32.to_ne_bytes()),
            (OFFSET, &100_u64.to_ne_bytes()),
            (DEVICE, &0x0100_0004_u32.to_ne_bytes()),
            (MODE, &0o10_0644_u16.to_ne_bytes()),
            (INODE, &99_u64.to_ne_bytes()),
            (PATH, b"/Users/ann/\xff\0rest"),
        ];
        let bytes = record(FILE_SIZE, &parts);
        let expected =
            OpenFile { id: (0x0100_0004, 99), path: "/Users/ann/\\xff".into(), mode: 0o10_0644, writes: true };
        assert_eq!(file(&bytes), Some(FileRecord { file: expected, open: (3, 100) }));
        assert_eq!(file(&bytes[1..]), None, "another structure");
        assert_eq!(file(&record(FILE_SIZE, &parts[..5])), None, "without a name");
        assert_eq!(file(&record(FILE_SIZE, &parts[1..])), None, "neither read nor written");
    }

    #[test]
    fn connections_of_tcp() {
        let found = socket(&tcp(50_000, 443, 4)).unwrap();
        assert_eq!((found.local, found.remote), ("127.0.0.1:50000".parse().unwrap(), "10.0.0.2:443".parse().unwrap()));
        assert_eq!((found.inode, found.state, found.v6), (54_711, TcpState::Established, false));
        let states = [(1, TcpState::Listen), (2, TcpState::SynSent), (3, TcpState::SynRecv), (5, TcpState::CloseWait)];
        let more = [(6, TcpState::FinWait1), (7, TcpState::Closing), (8, TcpState::LastAck), (9, TcpState::FinWait2)];
        for (number, state) in states.into_iter().chain(more).chain([(10, TcpState::TimeWait)]) {
            assert_eq!(socket(&tcp(1, 2, number)).unwrap().state, state);
        }
        for none in [0, 11, -1] {
            assert_eq!(socket(&tcp(1, 2, none)), None, "{none}");
        }
    }

    #[test]
    fn addresses_of_both_families() {
        let mut bytes = tcp(22, 0, 1);
        bytes[SOI_FAMILY..SOI_FAMILY + 4].copy_from_slice(&AF_INET6.to_ne_bytes());
        bytes[LOCAL..LOCAL + 16].fill(0);
        assert_eq!(socket(&bytes).unwrap().local, "0.0.0.0:22".parse().unwrap(), "IPv4 by a socket of IPv6");
        bytes[VERSIONS] = 3;
        assert_eq!(socket(&bytes).unwrap().local, "[::]:22".parse().unwrap(), "both");
        bytes[VERSIONS] = 2;
        bytes[LOCAL + 15] = 1;
        let found = socket(&bytes).unwrap();
        assert_eq!((found.local, found.v6), ("[::1]:22".parse().unwrap(), true));
    }

    #[test]
    fn udp_with_a_peer_or_a_port_of_its_own() {
        let udp = |local, remote| {
            let mut bytes = tcp(local, remote, 0);
            bytes[SOI_KIND..SOI_KIND + 4].copy_from_slice(&KIND_IN.to_ne_bytes());
            bytes[SOI_PROTOCOL..SOI_PROTOCOL + 4].copy_from_slice(&IPPROTO_UDP.to_ne_bytes());
            bytes
        };
        let state = |bytes: Vec<u8>| socket(&bytes).map(|socket| (socket.transport, socket.state));
        assert_eq!(state(udp(50_000, 53)), Some((Transport::Udp, TcpState::Established)));
        assert_eq!(state(udp(5353, 0)), Some((Transport::Udp, TcpState::Listen)));
        assert_eq!((state(udp(50_000, 0)), state(udp(0, 0))), (None, None));
        let mut other = udp(1, 2);
        other[SOI_PROTOCOL] = 1;
        assert_eq!(socket(&other), None, "ICMP");
    }

    #[test]
    fn unix_sockets_that_have_a_name() {
        let unix = |options: u16, state: u16, own: &[u8], peer: &[u8]| {
            let parts: [(usize, &[u8]); 6] = [
                (SOI_SO, &9_u64.to_ne_bytes()),
                (SOI_KIND, &KIND_UNIX.to_ne_bytes()),
                (SOI_OPTIONS, &options.to_ne_bytes()),
                (SOI_STATE, &state.to_ne_bytes()),
                (UNIX_ADDRESS + 2, own),
                (UNIX_PEER + 2, peer),
            ];
            let found = socket(&record(SOCKET_SIZE, &parts));
            found.map(|socket| (socket.path.unwrap(), socket.state, socket.connected))
        };
        assert_eq!(unix(LISTENS, 0, b"/a", b""), Some(("/a".into(), TcpState::Listen, false)));
        assert_eq!(unix(0, CONNECTED, b"/a", b""), Some(("/a".into(), TcpState::Established, false)));
        assert_eq!(unix(0, CONNECTED, b"", b"/b"), Some(("/b".into(), TcpState::Established, true)));
        assert_eq!(unix(0, CONNECTED, b"", b""), None, "one of a pair");
        assert_eq!(unix(0, 0, b"/a", b""), None, "bound alone");
        // A peer's address of full length is not followed by a zero.
        let long = [b'x'; 104];
        assert_eq!(unix(0, CONNECTED, b"", &long).unwrap().0.len(), 104);
    }

    #[test]
    fn the_end_that_listens_did_not_connect() {
        let mut sockets: Vec<_> = [tcp(8080, 0, 1), tcp(8080, 50_000, 4), tcp(50_001, 443, 4)]
            .iter()
            .filter_map(|bytes| socket(bytes))
            .collect();
        mark_inbound(&mut sockets);
        assert_eq!(sockets.iter().map(|socket| socket.connected).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn terminals_by_their_number() {
        for (device, name) in [(0x1000_0003, "ttys003"), (0x1000_00ff, "ttys255"), (0, "console"), (u32::MAX, "")] {
            assert_eq!(terminal(device), name);
        }
    }

    proptest! {
        /// Whatever is written: no panic.
        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), SOCKET_SIZE)) {
            let _ = (descriptors(&bytes), socket(&bytes), file(&bytes));
            let _ = file(&[bytes.clone(), bytes].concat()[..FILE_SIZE]);
        }
    }
}
