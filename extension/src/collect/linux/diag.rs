//! The bytes of TCP connections, of `sock_diag(7)`: any user may ask, in the network namespace that the process is in.

use std::collections::HashMap;
use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

/// Sent and received, since the connection began.
pub(super) type Bytes = (u64, u64);

/// A part of an answer; the kernel makes none that is larger (`NLMSG_GOODSIZE` is a page or two, and a receive buffer
/// of that size gets 32 KB, `netlink_dump`).
const PART: usize = 32 << 10;
/// Where numbers of 64 bits stand in `struct tcp_info` (`include/uapi/linux/tcp.h`; the last two since Linux 4.19).
const RECEIVED: usize = 128;
const SENT: usize = 200;
const SENT_AGAIN: usize = 208;

/// By the inodes of the sockets.
///
/// # Errors
/// When the kernel does not tell: it may be built without (`CONFIG_INET_TCP_DIAG`).
pub(super) fn bytes() -> io::Result<HashMap<u64, Bytes>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut found = HashMap::new();
    for (family, socket_id) in [(libc::AF_INET, SocketId::new_v4()), (libc::AF_INET6, SocketId::new_v6())] {
        let request = InetRequest {
            family: u8::try_from(family).unwrap_or(0),
            protocol: u8::try_from(libc::IPPROTO_TCP).unwrap_or(0),
            extensions: ExtensionFlags::INFO,
            states: StateFlags::all() & !(StateFlags::LISTEN | StateFlags::TIME_WAIT),
            socket_id,
        };
        ask(&socket, SockDiagMessage::InetRequest(request), &mut found)?;
    }
    Ok(found)
}

fn ask(socket: &Socket, request: SockDiagMessage, found: &mut HashMap<u64, Bytes>) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut packet = NetlinkMessage::new(header, request.into());
    packet.finalize();
    let mut message = vec![0; packet.buffer_len()];
    packet.serialize(&mut message);
    socket.send(&message, 0)?;
    let mut part = Vec::with_capacity(PART);
    loop {
        part.clear();
        socket.recv(&mut part, 0)?;
        if read(&part, found)? {
            return Ok(());
        }
    }
}

/// Takes a part of an answer; true when it was the last one.
fn read(mut part: &[u8], found: &mut HashMap<u64, Bytes>) -> io::Result<bool> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    while !part.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(part).map_err(invalid)?;
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                let info = response.nlas.iter().find_map(|attribute| match attribute {
                    Nla::TcpInfo(info) => of_info(info),
                    _ => None,
                });
                found.extend(info.map(|bytes| (u64::from(response.header.inode), bytes)));
            }
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            _ => {}
        }
        // Messages begin at multiples of four (NLMSG_ALIGN).
        let length = (message.header.length as usize).next_multiple_of(4);
        part = part.get(length.max(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Older kernels tell less.
fn of_info(info: &[u8]) -> Option<Bytes> {
    let number = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
    Some((number(SENT)?.saturating_sub(number(SENT_AGAIN)?), number(RECEIVED)?))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn inode(socket: &impl AsRawFd) -> u64 {
        std::fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().ino()
    }

    #[test]
    fn both_ends_of_a_connection() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            client.write_all(&[7; 10_000]).unwrap();
            server.read_exact(&mut [0; 10_000]).unwrap();
            server.write_all(&[7; 3]).unwrap();
            client.read_exact(&mut [0; 3]).unwrap();
            let found = bytes().unwrap();
            assert_eq!(found.get(&inode(&client)), Some(&(10_000, 3)), "{address}");
            assert_eq!(found.get(&inode(&server)), Some(&(3, 10_000)));
            assert_eq!(found.get(&inode(&listener)), None);
        }
    }

    #[test]
    fn what_an_old_kernel_does_not_tell_is_not_known() {
        assert_eq!(of_info(&[1; 136]), None);
        assert_eq!(of_info(&[0; 232]), Some((0, 0)));
        assert!(read(b"garbage that is no message", &mut HashMap::new()).is_err());
    }
}
