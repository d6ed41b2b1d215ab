//! The sockets of a network namespace, as `/proc/PID/net` lists them (`proc_pid_net(5)`).

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use super::decode::tcp_state;
use super::procfs::Proc;
use crate::collect::polling::system::Socket;
use crate::event::{NOWHERE, TcpState, Transport};

/// `__SO_ACCEPTCON`: of a UNIX socket that listens.
const LISTENS: u32 = 0x1_0000;
/// `SS_CONNECTED`.
const CONNECTED: u32 = 3;
/// Ports that the kernel chooses where the system says nothing else (`net.ipv4.ip_local_port_range`).
const CHOSEN: RangeInclusive<u16> = 32768..=60999;

/// Ports that are given to sockets that did not ask for one.
#[cfg(target_os = "linux")]
pub(super) fn chosen_ports() -> RangeInclusive<u16> {
    let range = || {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
        let mut ports = text.split_ascii_whitespace().map_while(|port| port.parse().ok());
        Some(ports.next()?..=ports.next()?)
    };
    range().unwrap_or(CHOSEN)
}

/// The sockets where a process is; `None` when it has ended.
pub(super) fn sockets(proc: &Proc, pid: u32, chosen: &RangeInclusive<u16>) -> Option<Vec<Socket>> {
    let mut sockets = Vec::new();
    let mut told = false;
    let tables = [
        ("net/tcp", Transport::Tcp, false),
        ("net/tcp6", Transport::Tcp, true),
        ("net/udp", Transport::Udp, false),
        ("net/udp6", Transport::Udp, true),
    ];
    for (name, transport, v6) in tables {
        // Without IPv6 there is no such table.
        let Some(text) = proc.text(pid, name) else { continue };
        told = true;
        sockets.extend(text.lines().skip(1).filter_map(|line| inet(line, transport, v6)));
    }
    if let Some(text) = proc.text(pid, "net/unix") {
        told = true;
        sockets.extend(text.lines().skip(1).filter_map(unix));
    }
    let listening: HashSet<u16> =
        sockets.iter().filter(|socket| is_tcp_listener(socket)).map(|socket| socket.local.port()).collect();
    for socket in sockets.iter_mut().filter(|socket| socket.transport == Transport::Tcp) {
        socket.connected = !listening.contains(&socket.local.port());
    }
    // Without a peer and with a port of the kernel's it may be bound, or have sent to somebody: not known.
    let unclear = |socket: &Socket| {
        socket.transport == Transport::Udp
            && socket.state == TcpState::Listen
            && (socket.local.port() == 0 || chosen.contains(&socket.local.port()))
    };
    sockets.retain(|socket| !unclear(socket));
    told.then_some(sockets)
}

fn is_tcp_listener(socket: &Socket) -> bool {
    socket.transport == Transport::Tcp && socket.state == TcpState::Listen
}

/// `0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 0 12345 ...`
fn inet(line: &str, transport: Transport, v6: bool) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (address(fields.next()?, v6)?, address(fields.next()?, v6)?);
    let state = tcp_state(u8::from_str_radix(fields.next()?, 16).ok()?).ok()?;
    let inode: u64 = fields.nth(5)?.parse().ok()?;
    let state = match transport {
        // UDP's ESTABLISHED says that there is a peer.
        Transport::Udp if state != TcpState::Established => TcpState::Listen,
        _ => state,
    };
    // What rests is nobody's any more, and has no inode.
    let whole = inode != 0 && state != TcpState::Close;
    whole.then_some(Socket { inode, transport, v6, local, remote, path: None, state, connected: true, bytes: None })
}

/// Words of four bytes as the processor has them, in the order of the network (`get_tcp4_sock`, `net/ipv4/tcp_ipv4.c`).
fn address(text: &str, v6: bool) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(8 * at..8 * at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = if v6 {
        let bytes: Vec<u8> = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
        IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)
    } else {
        IpAddr::from(word(0)?)
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// `0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/a`. Only what has a name tells what it is: an unnamed
/// one has connected, or is one of a pair.
fn unix(line: &str) -> Option<Socket> {
    let mut fields = line.splitn(7, ' ');
    let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
    let state = u32::from_str_radix(fields.nth(1)?, 16).ok()?;
    // The inode is set to the right, and the path may hold anything.
    let (inode, path) = fields.next()?.trim_start().split_once(' ')?;
    let state = match (flags & LISTENS != 0, state) {
        (true, _) => TcpState::Listen,
        (false, CONNECTED) => TcpState::Established,
        _ => return None,
    };
    Some(Socket {
        inode: inode.parse().ok()?,
        transport: Transport::Unix,
        v6: false,
        local: NOWHERE,
        remote: NOWHERE,
        path: Some(path.to_owned()),
        state,
        connected: false,
        bytes: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn connections_as_proc_lists_them() {
        let line =
            "   1: 0100007F:A1B2 0200000A:01BB 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 20 4";
        let socket = inet(line, Transport::Tcp, false).unwrap();
        assert_eq!(
            (socket.local, socket.remote),
            ("127.0.0.1:41394".parse().unwrap(), "10.0.0.2:443".parse().unwrap())
        );
        assert_eq!((socket.inode, socket.state), (4711, TcpState::Established));
        let line = "   0: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 99 1 0 100";
        let socket = inet(line, Transport::Tcp, true).unwrap();
        assert_eq!((socket.local, socket.state), ("[::1]:22".parse().unwrap(), TcpState::Listen));
        let rests = "   1: 0100007F:A1B2 0100007F:01BB 06 00000000:00000000 03:00000000 00000000     0        0 0 3 0";
        assert_eq!(inet(rests, Transport::Tcp, false), None);
        assert_eq!(inet("nonsense", Transport::Tcp, false), None);
    }

    #[test]
    fn unix_sockets_that_have_a_name() {
        let listening = unix("0000000000000000: 00000002 00000000 00010000 0001 01    11 /run/a b").unwrap();
        assert_eq!(
            (listening.inode, listening.path.as_deref(), listening.state),
            (11, Some("/run/a b"), TcpState::Listen)
        );
        let accepted = unix("0000000000000000: 00000003 00000000 00000000 0001 03 123456 @abc").unwrap();
        assert_eq!(
            (accepted.inode, accepted.path.as_deref(), accepted.state),
            (123_456, Some("@abc"), TcpState::Established)
        );
        assert_eq!(unix("0000000000000000: 00000003 00000000 00000000 0001 03 12345"), None, "unnamed");
        assert_eq!(unix("0000000000000000: 00000002 00000000 00000000 0002 01 12345 /run/log"), None, "bound alone");
        assert_eq!(unix("garbage"), None);
    }

    #[test]
    fn the_end_that_listens_did_not_connect() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("7/net")).unwrap();
        let row = |local: &str, remote: &str, state: &str, inode: u64| {
            format!(" 0: 00000000:{local} 00000000:{remote} {state} 0:0 0:0 0 0 0 {inode} 1\n")
        };
        let tcp = [row("1F90", "0000", "0A", 1), row("1F90", "A1B2", "01", 2), row("A1B2", "1F90", "01", 3)].concat();
        std::fs::write(root.path().join("7/net/tcp"), format!("head\n{tcp}")).unwrap();
        let udp = [row("0035", "0000", "07", 4), row("D431", "0000", "07", 5), row("D432", "0035", "01", 6)].concat();
        std::fs::write(root.path().join("7/net/udp"), format!("head\n{udp}")).unwrap();
        let proc = Proc::at(root.path());
        let found = sockets(&proc, 7, &CHOSEN).unwrap();
        let told: Vec<_> = found.iter().map(|socket| (socket.inode, socket.connected, socket.state)).collect();
        let expected = [
            (1, false, TcpState::Listen),
            (2, false, TcpState::Established),
            (3, true, TcpState::Established),
            (4, true, TcpState::Listen),
            (6, true, TcpState::Established),
        ];
        assert_eq!(told, expected);
        assert_eq!(sockets(&proc, 8, &CHOSEN), None);
    }
}
