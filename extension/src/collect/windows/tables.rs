//! IP Helper's tables of sockets, by the process that owns each.
//!
//! The rows are those of `MIB_TCPTABLE_OWNER_PID`, `MIB_TCP6TABLE_OWNER_PID`, `MIB_UDPTABLE_OWNER_PID` and `MIB_UDP6TABLE_OWNER_PID`
//! (<https://learn.microsoft.com/en-us/windows/win32/api/iphlpapi/nf-iphlpapi-getextendedtcptable>,
//! <https://learn.microsoft.com/en-us/windows/win32/api/iphlpapi/nf-iphlpapi-getextendedudptable>): a number of rows, and the rows, of
//! words of four bytes. Addresses are in the order of the network, and so is a port in the first two bytes of its word.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::cursor::{Cursor, Short};
use super::decode::Endpoints;
use super::sockets::socket_id;
use crate::collect::polling::system::{Handle, Socket};
use crate::event::{TcpState, Transport};

/// Ports that are given to sockets that did not ask for one
/// (<https://learn.microsoft.com/en-us/troubleshoot/windows-server/networking/default-dynamic-port-range-tcpip-chang>).
const CHOSEN: u16 = 49152;

/// One of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tcp4, Self::Tcp6, Self::Udp4, Self::Udp6];
}

/// A socket, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// The process.
    pub pid: u32,
    /// What it speaks.
    pub transport: Transport,
    /// Own address.
    pub local: SocketAddr,
    /// The peer; of a UDP socket none is told.
    pub remote: Option<SocketAddr>,
    /// In TCP's words; what has no peer listens.
    pub state: TcpState,
}

impl Owned {
    /// Identifies it, as events do.
    #[must_use]
    pub fn id(&self) -> u64 {
        socket_id(self.transport, self.local, self.remote, self.pid)
    }

    /// Whether it listens, as far as that is clear: a UDP port of the system's choice may have sent to somebody.
    #[must_use]
    pub fn listens(&self) -> bool {
        let chosen = self.transport == Transport::Udp && (self.local.port() == 0 || self.local.port() >= CHOSEN);
        self.state == TcpState::Listen && !chosen
    }
}

/// The sockets of a table. One that ends in the middle of a row is read as far as it goes.
#[must_use]
pub fn rows(table: Table, bytes: &[u8]) -> Vec<Owned> {
    let mut cursor = Cursor::new(bytes, true);
    let Ok(count) = cursor.u32() else { return Vec::new() };
    let mut rows = Vec::new();
    for _ in 0..count {
        match row(table, &mut cursor) {
            Ok(Some(owned)) => rows.push(owned),
            Ok(None) => {}
            Err(Short) => break,
        }
    }
    rows
}

/// One row; none where it is nobody's.
fn row(table: Table, cursor: &mut Cursor<'_>) -> Result<Option<Owned>, Short> {
    let (state, local, remote) = match table {
        Table::Tcp4 => (cursor.u32()?, address4(cursor)?, Some(address4(cursor)?)),
        Table::Tcp6 => {
            let (local, remote) = (address6(cursor)?, address6(cursor)?);
            (cursor.u32()?, local, Some(remote))
        }
        Table::Udp4 => (2, address4(cursor)?, None),
        Table::Udp6 => (2, address6(cursor)?, None),
    };
    let pid = cursor.u32()?;
    let transport = if remote.is_some() { Transport::Tcp } else { Transport::Udp };
    let state = state_of(state).filter(|_| pid != 0);
    let remote = remote.filter(|_| state != Some(TcpState::Listen));
    Ok(state.map(|state| Owned { pid, transport, local, remote, state }))
}

fn address4(cursor: &mut Cursor<'_>) -> Result<SocketAddr, Short> {
    let address = Ipv4Addr::from(cursor.array::<4>()?);
    Ok(SocketAddr::new(IpAddr::V4(address), port(cursor)?))
}

fn address6(cursor: &mut Cursor<'_>) -> Result<SocketAddr, Short> {
    let address = Ipv6Addr::from(cursor.array::<16>()?);
    cursor.skip(4)?; // the scope
    Ok(SocketAddr::new(IpAddr::V6(address), port(cursor)?))
}

fn port(cursor: &mut Cursor<'_>) -> Result<u16, Short> {
    let [high, low, ..] = cursor.array::<4>()?;
    Ok(u16::from_be_bytes([high, low]))
}

/// `MIB_TCP_STATE`; none of what has ended or rests, which is nobody's any more
/// (<https://learn.microsoft.com/en-us/windows/win32/api/tcpmib/ns-tcpmib-mib_tcprow_lh>).
fn state_of(state: u32) -> Option<TcpState> {
    Some(match state {
        2 => TcpState::Listen,
        3 => TcpState::SynSent,
        4 => TcpState::SynRecv,
        5 => TcpState::Established,
        6 => TcpState::FinWait1,
        7 => TcpState::FinWait2,
        8 => TcpState::CloseWait,
        9 => TcpState::Closing,
        10 => TcpState::LastAck,
        _ => return None,
    })
}

/// The sockets as a collector that polls asks for them.
#[must_use]
pub fn sockets(owned: &[Owned]) -> Vec<Socket> {
    let is_listener = |owned: &&Owned| owned.transport == Transport::Tcp && owned.state == TcpState::Listen;
    let listening: HashSet<(u32, u16)> =
        owned.iter().filter(is_listener).map(|owned| (owned.pid, owned.local.port())).collect();
    let nowhere = |local: SocketAddr| match local {
        SocketAddr::V4(_) => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        SocketAddr::V6(_) => SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
    };
    let socket = |owned: &Owned| Socket {
        inode: owned.id(),
        transport: owned.transport,
        v6: owned.local.is_ipv6(),
        local: owned.local,
        remote: owned.remote.unwrap_or_else(|| nowhere(owned.local)),
        path: None,
        state: owned.state,
        connected: !listening.contains(&(owned.pid, owned.local.port())),
        bytes: None,
    };
    owned.iter().filter(|owned| owned.remote.is_some() || owned.listens()).map(socket).collect()
}

/// The same for one that hears events: what they have told or will tell is left out. They count from here on.
#[must_use]
pub fn connections(owned: &[Owned], has_told: impl Fn(Endpoints) -> bool) -> Vec<Socket> {
    let known = |socket: &Socket| has_told(Endpoints { local: socket.local, remote: socket.remote });
    let wanted = |socket: &Socket| socket.state != TcpState::Listen && !known(socket);
    let counted = |socket| Socket { bytes: Some((0, 0)), ..socket };
    sockets(owned).into_iter().filter(wanted).map(counted).collect()
}

/// What those processes have, each by a number of its own; there are no descriptors.
#[must_use]
pub fn handles(owned: &[Owned], pid: u32) -> Vec<(i32, Handle)> {
    let own = owned.iter().filter(|owned| owned.pid == pid);
    // A number below nothing is not shown.
    (1..).zip(own).map(|(number, owned)| (-number, Handle::Socket(owned.id()))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn word(number: u32) -> Vec<u8> {
        number.to_le_bytes().to_vec()
    }

    /// A port as these tables have it, with the junk behind it that they may have.
    fn port_word(port: u16) -> Vec<u8> {
        [&port.to_be_bytes()[..], &[0xab, 0xcd]].concat()
    }

    fn tcp4(state: u32, local: ([u8; 4], u16), remote: ([u8; 4], u16), pid: u32) -> Vec<u8> {
        let address = |(address, port): ([u8; 4], u16)| [&address[..], &port_word(port)].concat();
        [word(state), address(local), address(remote), word(pid)].concat()
    }

    fn end6(address: &str, port: u16) -> Vec<u8> {
        let address: Ipv6Addr = address.parse().unwrap();
        [&address.octets()[..], &word(3), &port_word(port)].concat()
    }

    #[test]
    fn rows_of_all_tables() {
        let lo = [127, 0, 0, 1];
        let table = [
            word(4),
            tcp4(2, ([0; 4], 80), ([0; 4], 0), 8),
            tcp4(5, (lo, 80), (lo, 50000), 8),
            tcp4(11, (lo, 81), (lo, 50001), 0), // rests
            tcp4(8, (lo, 50000), (lo, 80), 12),
        ]
        .concat();
        let found = rows(Table::Tcp4, &table);
        let shown: Vec<_> = found.iter().map(|row| (row.pid, row.local.to_string(), row.remote, row.state)).collect();
        assert_eq!(
            shown,
            [
                (8, "0.0.0.0:80".to_owned(), None, TcpState::Listen),
                (8, "127.0.0.1:80".to_owned(), Some("127.0.0.1:50000".parse().unwrap()), TcpState::Established),
                (12, "127.0.0.1:50000".to_owned(), Some("127.0.0.1:80".parse().unwrap()), TcpState::CloseWait),
            ]
        );
        let listed = sockets(&found);
        assert_eq!(listed.iter().map(|socket| socket.connected).collect::<Vec<_>>(), [false, false, true]);
        let ids: HashSet<_> = listed.iter().map(|socket| socket.inode).collect();
        assert!(ids.len() == 3 && ids.iter().all(|id| i64::try_from(*id).is_err()));
        assert_eq!(handles(&found, 8), [(-1, Handle::Socket(found[0].id())), (-2, Handle::Socket(found[1].id()))]);
        let told = Endpoints { local: "127.0.0.1:80".parse().unwrap(), remote: "127.0.0.1:50000".parse().unwrap() };
        let left = connections(&found, |ends| ends == told);
        let left: Vec<_> = left.iter().map(|socket| (socket.local.port(), socket.bytes)).collect();
        assert_eq!(left, [(50000, Some((0, 0)))]);

        let table = [word(1), end6("2001:db8::1", 443), end6("::1", 50000), word(5), word(9)].concat();
        let found = rows(Table::Tcp6, &table);
        assert_eq!((found.len(), found[0].local.to_string().as_str()), (1, "[2001:db8::1]:443"));
        assert_eq!((found[0].remote.unwrap().to_string().as_str(), found[0].pid), ("[::1]:50000", 9));

        let table = [word(2), lo.to_vec(), port_word(53), word(8), lo.to_vec(), port_word(CHOSEN), word(8)].concat();
        let found = rows(Table::Udp4, &table);
        assert_eq!((found.len(), found[0].listens(), found[1].listens()), (2, true, false));
        assert_eq!(sockets(&found).len(), 1, "the other one may have sent to somebody");

        let table = [word(1), end6("::", 5353), word(8)].concat();
        let found = rows(Table::Udp6, &table);
        assert_eq!((found[0].local.to_string().as_str(), found[0].state), ("[::]:5353", TcpState::Listen));
        assert_eq!(sockets(&found)[0].remote.to_string(), "[::]:0");
    }

    #[test]
    fn a_cut_table_is_read_as_far_as_it_goes() {
        let row = tcp4(5, ([1; 4], 80), ([2; 4], 90), 8);
        let table = [word(u32::MAX), row.clone(), row.clone()].concat();
        for length in 0..table.len() {
            let whole = length.saturating_sub(4) / row.len();
            assert_eq!(rows(Table::Tcp4, table.get(..length).unwrap()).len(), whole, "{length}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_table(table in 0..4_usize, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let found = rows(Table::ALL[table], &bytes);
            prop_assert!(sockets(&found).len() <= found.len());
        }
    }
}
