//! Connections: Microsoft-Windows-Kernel-Network
//! (<https://github.com/jdu2600/Windows10EtwEvents/blob/master/manifest/Microsoft-Windows-Kernel-Network.tsv>).
//!
//! The fields are those of the system's own events of TCP and UDP, whose documents say what they mean
//! (<https://learn.microsoft.com/en-us/windows/win32/etw/tcpip>, <https://learn.microsoft.com/en-us/windows/win32/etw/udpip>).
//! Addresses and ports are in the order of the network. Of TCP `saddr` is this end, whoever sends
//! (<https://github.com/microsoft/perfview/issues/859>); a UDP packet that is received has its sender there
//! (<https://github.com/winsiderss/systeminformer/issues/427>).

use std::net::{IpAddr, SocketAddr};

use super::{Header, Record};
use crate::collect::windows::cursor::{Cursor, Short};

/// Who talks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoints {
    /// This end.
    pub local: SocketAddr,
    /// The other one.
    pub remote: SocketAddr,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet {
    /// A TCP connection was made from here.
    Connected,
    /// A TCP connection was made from there.
    Accepted,
    /// A TCP connection ended.
    Disconnected,
    /// Data went out by TCP.
    Sent,
    /// Data came in by TCP.
    Received,
    /// A datagram went out.
    DatagramSent,
    /// A datagram came in.
    DatagramReceived,
}

/// An event of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkRecord {
    /// One that says whose it is.
    Of {
        /// The process that the event is about, which need not be the one that it was written in.
        pid: u32,
        /// What happened.
        packet: Packet,
        /// Bytes of data.
        size: u32,
        /// Between whom.
        ends: Endpoints,
    },
    /// A connection could not be made; nothing tells whose it was, or to whom.
    Failed,
}

pub(super) fn decode(header: &Header, mut cursor: Cursor<'_>) -> Result<Option<Record>, Short> {
    // One layout of each is known.
    if header.version != 0 {
        return Ok(None);
    }
    let (packet, v6) = match header.id {
        10 => (Packet::Sent, false),
        11 => (Packet::Received, false),
        12 => (Packet::Connected, false),
        13 => (Packet::Disconnected, false),
        15 => (Packet::Accepted, false),
        26 => (Packet::Sent, true),
        27 => (Packet::Received, true),
        28 => (Packet::Connected, true),
        29 => (Packet::Disconnected, true),
        31 => (Packet::Accepted, true),
        42 => (Packet::DatagramSent, false),
        43 => (Packet::DatagramReceived, false),
        58 => (Packet::DatagramSent, true),
        59 => (Packet::DatagramReceived, true),
        // Proto and FailureCode, which is 0 when there was no failure.
        17 => {
            cursor.u16()?;
            let failed = cursor.u16()? != 0;
            return Ok(Some(if failed { Record::Network(NetworkRecord::Failed) } else { Record::Nothing }));
        }
        // Sent again (14, 30), connecting again (16, 32), what was copied (18, 34), and UDP that failed (49).
        14 | 16 | 18 | 30 | 32 | 34 | 49 => return Ok(Some(Record::Nothing)),
        _ => return Ok(None),
    };
    let (pid, size) = (cursor.u32()?, cursor.u32()?);
    let mut address = || -> Result<IpAddr, Short> {
        if v6 { cursor.array::<16>().map(IpAddr::from) } else { cursor.array::<4>().map(IpAddr::from) }
    };
    let (destination, source) = (address()?, address()?);
    let mut port = || cursor.array().map(u16::from_be_bytes);
    let (destination, source) = (SocketAddr::new(destination, port()?), SocketAddr::new(source, port()?));
    let ends = match packet {
        Packet::DatagramReceived => Endpoints { local: destination, remote: source },
        _ => Endpoints { local: source, remote: destination },
    };
    Ok(Some(Record::Network(NetworkRecord::Of { pid, packet, size, ends })))
}
