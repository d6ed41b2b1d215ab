//! The kernel's records, turned into events.
//!
//! Pure: bytes in, an [`Event`] or a [`DecodeError`] out. A record is never trusted further than its own length, for a
//! cut or foreign one must not take the recorder down.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::abi;
use crate::event::{
    CallPath, Change, ChangeKind, Close, Connection, Event, EventKind, Exec, Exit, FlowStart, Fork, Heard, Mark, Name,
    Open, OpenMode, Piece, ProcessKey, Request, Step, TcpState, Transport, escape,
};

const _: () = assert!(size_of::<abi::aq_header>() == 56);
const _: () = assert!(size_of::<abi::aq_fork>() == 72);
const _: () = assert!(size_of::<abi::aq_exec>() == abi::AQ_TEXT as usize);
const _: () = assert!(size_of::<abi::aq_exit>() == 64);
const _: () = assert!(size_of::<abi::aq_open>() == 88);
const _: () = assert!(size_of::<abi::aq_close>() == 80);
const _: () = assert!(size_of::<abi::aq_change>() == 88);
const _: () = assert!(size_of::<abi::aq_connection>() == 144);
const _: () = assert!(size_of::<abi::aq_unix_connection>() == 256);
const _: () = assert!(size_of::<abi::aq_socket>() == 72);
const _: () = assert!(size_of::<abi::aq_flow_key>() == 32);
const _: () = assert!(size_of::<abi::aq_flow>() == 64);
const _: () = assert!(size_of::<abi::aq_name>() == abi::AQ_TEXT as usize);
const _: () = assert!(size_of::<abi::aq_request>() == 72);
const _: () = assert!(size_of::<abi::aq_counters>() == 64);
const _: () = assert!(size_of::<abi::aq_slot>() == 24);
const _: () = assert!(size_of::<abi::aq_control>() == 56);
const _: () = assert!(size_of::<abi::aq_recorder>() == 32);
const _: () = assert!(size_of::<abi::aq_file>() == 64);

/// Of Linux (`include/linux/socket.h`, `include/uapi/linux/in.h`).
const AF_UNIX: u8 = 1;
const AF_INET6: u8 = 10;
const IPPROTO_UDP: u8 = 17;

/// A record that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The record ends before what it announces.
    #[error("a record of {0} bytes is cut off")]
    Short(usize),
    /// Not the version of this program.
    #[error("a record of version {0}, not {expected}", expected = abi::AQ_VERSION)]
    Version(u16),
    /// A kind, state or operation that does not exist.
    #[error("a record with an unknown {0} {1}")]
    Unknown(&'static str, u32),
}

/// A fixed part of a record.
///
/// # Safety
/// The type is `repr(C)` and any bytes are a valid value of it.
pub(super) unsafe trait Raw: Copy {}

// SAFETY: all of these are repr(C) structures of integers and arrays of integers, made from bpf/event.h.
unsafe impl Raw for abi::aq_header {}
// SAFETY: as above.
unsafe impl Raw for abi::aq_fork {}
// SAFETY: as above.
unsafe impl Raw for abi::aq_exec {}
// SAFETY: as above.
unsafe impl Raw for abi::aq_exit {}
// SAFETY: as above.
unsafe impl Raw for abi::aq_open {}
// SAFETY: as above.
unsafe impl Raw for abi::aq_close {}
// SAFETY: as above.
unsafe impl Raw for abi::aq_change {}
// SAFETY: as above.
unsafe impl Raw for abi::aq_request {}
// SAFETY: as above.
unsafe impl Raw for abi::aq_connection {}
// SAFETY: as above.
unsafe impl Raw for abi::aq_unix_connection {}
// SAFETY: as above.
unsafe impl Raw for abi::aq_socket {}
// SAFETY: as above.
unsafe impl Raw for abi::aq_flow_key {}
// SAFETY: as above.
unsafe impl Raw for abi::aq_flow {}
// SAFETY: as above.
unsafe impl Raw for abi::aq_name {}
// SAFETY: as above.
unsafe impl Raw for abi::aq_counters {}
// SAFETY: as above.
unsafe impl Raw for abi::aq_slot {}
// SAFETY: as above.
unsafe impl Raw for abi::aq_control {}
// SAFETY: as above.
unsafe impl Raw for abi::aq_recorder {}
// SAFETY: as above.
unsafe impl Raw for abi::aq_file {}

/// Reads a fixed part from the front of bytes.
pub(super) fn read<T: Raw>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() < size_of::<T>() {
        return Err(DecodeError::Short(bytes.len()));
    }
    // SAFETY: there are enough bytes, any of them are a valid T (Raw), and the read needs no alignment.
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The bytes of a fixed part, to write it into a map.
#[cfg(target_os = "linux")]
pub(super) fn bytes_of<T: Raw>(value: &T) -> &[u8] {
    // SAFETY: a Raw type has no padding that is not a field, so all its bytes are initialised; the borrow keeps it.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }
}

/// The texts behind the fixed part, taken one by one.
struct Texts<'a> {
    rest: &'a [u8],
    whole: usize,
}

impl<'a> Texts<'a> {
    fn of(record: &'a [u8]) -> Result<Self, DecodeError> {
        let rest = record.get(abi::AQ_TEXT as usize..).ok_or(DecodeError::Short(record.len()))?;
        Ok(Self { rest, whole: record.len() })
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Short(self.whole))?;
        self.rest = rest;
        Ok(taken)
    }

    fn text(&mut self, length: impl Into<u64>) -> Result<String, DecodeError> {
        let length = usize::try_from(length.into()).map_err(|_| DecodeError::Short(self.whole))?;
        Ok(escape(self.bytes(length)?))
    }
}

/// The kind of a record, for counting one that does not decode.
#[must_use]
pub fn kind_of(record: &[u8]) -> Option<u32> {
    let header: abi::aq_header = read(record).ok()?;
    Some(header.kind.into()).filter(|kind| *kind < abi::AQ_KINDS)
}

/// One record as an event.
///
/// # Errors
/// When the bytes are not a whole record of this version.
pub fn decode(record: &[u8]) -> Result<Event, DecodeError> {
    let header: abi::aq_header = read(record)?;
    if u32::from(header.version) != abi::AQ_VERSION {
        return Err(DecodeError::Version(header.version));
    }
    let truncated = header.flags & abi::AQ_TRUNCATED != 0;
    let kind = match u32::from(header.kind) {
        abi::AQ_FORK => fork(record)?,
        abi::AQ_EXEC => exec(record, &header, truncated)?,
        abi::AQ_EXIT => exit(record)?,
        abi::AQ_OPEN => open(record, header.flags & abi::AQ_UNTRACKED == 0, truncated)?,
        abi::AQ_CLOSE => close(record, header.flags)?,
        abi::AQ_CHANGE => change(record, header.flags, truncated)?,
        abi::AQ_CONNECTION => connection(record)?,
        abi::AQ_NAME => name(record)?,
        abi::AQ_REQUEST => request(record)?,
        other => return Err(DecodeError::Unknown("kind", other)),
    };
    Ok(Event {
        boot_ns: header.boot_ns,
        process: ProcessKey { pid: header.pid, start_ns: header.start_ns },
        mark: Mark { slot: header.slot, generation: header.generation },
        kind,
    })
}

fn fork(record: &[u8]) -> Result<EventKind, DecodeError> {
    let raw: abi::aq_fork = read(record)?;
    let child = ProcessKey { pid: raw.child_pid, start_ns: raw.child_start_ns };
    Ok(EventKind::Fork(Fork { child, ns_pid: raw.child_ns_pid }))
}

fn exec(record: &[u8], header: &abi::aq_header, mut truncated: bool) -> Result<EventKind, DecodeError> {
    let raw: abi::aq_exec = read(record)?;
    let mut texts = Texts::of(record)?;
    let path = texts.text(raw.path_length)?;
    let exec_path = texts.text(raw.exec_path_length)?;
    let cwd = texts.text(raw.cwd_length)?;
    let arguments = texts.bytes(raw.argv_length as usize)?;
    let argv = match arguments.strip_suffix(&[0]) {
        Some(whole) => whole.split(|byte| *byte == 0).map(escape).collect(),
        None if arguments.is_empty() => Vec::new(),
        None => {
            truncated = true;
            arguments.split(|byte| *byte == 0).map(escape).collect()
        }
    };
    let tty: Vec<u8> = raw.tty.iter().map(|byte| byte.to_ne_bytes()[0]).take_while(|byte| *byte != 0).collect();
    Ok(EventKind::Exec(Box::new(Exec {
        parent: raw.parent,
        ns_pid: raw.ns_pid,
        uid: raw.uid,
        gid: raw.gid,
        tty: tty_name(&escape(&tty)),
        cgroup_id: raw.cgroup_id,
        mount_ns: raw.mount_ns,
        path,
        exec_path,
        cwd,
        argv,
        markers: strings(texts.bytes(raw.markers_length.into())?),
        candidate: header.flags & abi::AQ_CANDIDATE != 0,
        truncated,
    })))
}

/// Texts that are each ended by NUL.
fn strings(bytes: &[u8]) -> Vec<String> {
    bytes.split(|byte| *byte == 0).filter(|text| !text.is_empty()).map(escape).collect()
}

/// The kernel says `pts3` where /dev has `pts/3`.
fn tty_name(name: &str) -> String {
    match name.strip_prefix("pts") {
        Some(number) if number.starts_with(|c: char| c.is_ascii_digit()) => format!("pts/{number}"),
        _ => name.to_owned(),
    }
}

fn exit(record: &[u8]) -> Result<EventKind, DecodeError> {
    let raw: abi::aq_exit = read(record)?;
    // The layout of wait(2): the low seven bits are the signal, bit 7 says core dumped.
    let signal = (raw.status & 0x7f).cast_signed();
    Ok(EventKind::Exit(Some(Exit { code: ((raw.status >> 8) & 0xff).cast_signed(), signal })))
}

fn open(record: &[u8], tracked: bool, truncated: bool) -> Result<EventKind, DecodeError> {
    let raw: abi::aq_open = read(record)?;
    let how = open_mode(raw.how)?;
    let path = Texts::of(record)?.text(raw.path_length)?;
    let (open_id, mode, fd, uid) = (raw.open_id, raw.mode, raw.fd, raw.uid);
    Ok(EventKind::Open(Open { open_id, how, path, mode, fd, uid, tracked, truncated }))
}

fn open_mode(how: u32) -> Result<OpenMode, DecodeError> {
    match how {
        abi::AQ_OPEN_READ => Ok(OpenMode::Read),
        abi::AQ_OPEN_WRITE => Ok(OpenMode::Write),
        abi::AQ_OPEN_TRUNCATE => Ok(OpenMode::Truncate),
        abi::AQ_OPEN_CREATE => Ok(OpenMode::Create),
        other => Err(DecodeError::Unknown("way to open", other)),
    }
}

fn close(record: &[u8], flags: u32) -> Result<EventKind, DecodeError> {
    let raw: abi::aq_close = read(record)?;
    let abi::aq_close { open_id, bytes_read, bytes_written, .. } = raw;
    let (seen, mapped) = (flags & abi::AQ_SEEN != 0, flags & abi::AQ_MAPPED != 0);
    Ok(EventKind::Close(Close { open_id, bytes: Some((bytes_read, bytes_written)), seen, mapped: Some(mapped) }))
}

fn request(record: &[u8]) -> Result<EventKind, DecodeError> {
    let raw: abi::aq_request = read(record)?;
    let request = match raw.what {
        abi::AQ_RESULT => Request::Result { request_id: raw.request_id, done: raw.result >= 0 },
        abi::AQ_RING => Request::Ring,
        other => return Err(DecodeError::Unknown("request", other)),
    };
    Ok(EventKind::Request(request))
}

fn change(record: &[u8], flags: u32, truncated: bool) -> Result<EventKind, DecodeError> {
    let raw: abi::aq_change = read(record)?;
    let kind = match raw.what {
        abi::AQ_DELETE => ChangeKind::Delete,
        abi::AQ_RENAME => ChangeKind::Rename,
        abi::AQ_LINK => ChangeKind::Link,
        abi::AQ_SYMLINK => ChangeKind::Symlink,
        abi::AQ_MKDIR => ChangeKind::Mkdir,
        abi::AQ_RMDIR => ChangeKind::Rmdir,
        abi::AQ_CHMOD => ChangeKind::Chmod,
        abi::AQ_CHOWN => ChangeKind::Chown,
        abi::AQ_TRUNCATE => ChangeKind::Truncate,
        abi::AQ_MKNOD => ChangeKind::Mknod,
        other if other >= abi::AQ_OPENED => ChangeKind::Open(open_mode(other - abi::AQ_OPENED)?),
        other => return Err(DecodeError::Unknown("change", other)),
    };
    let mut texts = Texts::of(record)?;
    let path = CallPath { base: texts.text(raw.base_length)?, name: texts.text(raw.name_length)? };
    let dest = CallPath { base: texts.text(raw.dest_base_length)?, name: texts.text(raw.dest_name_length)? };
    Ok(EventKind::Change(Change {
        kind,
        path,
        dest: (dest != CallPath::default()).then_some(dest),
        followed: flags & abi::AQ_FOLLOWED != 0,
        exchanged: flags & abi::AQ_EXCHANGED != 0,
        mode: (raw.mode != u32::MAX).then_some(raw.mode),
        mount_ns: raw.mount_ns,
        rooted: flags & abi::AQ_ROOTED != 0,
        uid: raw.uid,
        truncated,
        request_id: (flags & abi::AQ_PENDING != 0).then_some(raw.request_id),
    }))
}

/// `include/net/tcp_states.h`.
pub(super) fn tcp_state(raw: u8) -> Result<TcpState, DecodeError> {
    Ok(match raw {
        1 => TcpState::Established,
        2 => TcpState::SynSent,
        // 12 is TCP_NEW_SYN_RECV, which only a request has that is no socket yet.
        3 => TcpState::SynRecv,
        4 => TcpState::FinWait1,
        5 => TcpState::FinWait2,
        6 => TcpState::TimeWait,
        7 => TcpState::Close,
        8 => TcpState::CloseWait,
        9 => TcpState::LastAck,
        10 => TcpState::Listen,
        11 => TcpState::Closing,
        other => return Err(DecodeError::Unknown("TCP state", other.into())),
    })
}

fn step(raw: &abi::aq_connection) -> Result<Step, DecodeError> {
    Ok(match u32::from(raw.step) {
        abi::AQ_STEP_CONNECT => Step::Connect,
        abi::AQ_STEP_STATE => Step::State(tcp_state(raw.state)?),
        abi::AQ_STEP_ACCEPT => Step::Accept(tcp_state(raw.state)?),
        abi::AQ_STEP_LISTEN => Step::Listen,
        abi::AQ_STEP_FLOW => Step::Flow(match u32::from(raw.state) {
            abi::AQ_FLOW_CONNECTED => FlowStart::Connected,
            abi::AQ_FLOW_SENT => FlowStart::Sent,
            abi::AQ_FLOW_RECEIVED => FlowStart::Received,
            other => return Err(DecodeError::Unknown("start of a flow", other)),
        }),
        abi::AQ_STEP_FLOW_END => Step::FlowEnd,
        abi::AQ_STEP_END => Step::End,
        abi::AQ_STEP_FOUND => Step::Found(tcp_state(raw.state)?),
        abi::AQ_STEP_HELD => Step::Held,
        other => return Err(DecodeError::Unknown("step of a connection", other)),
    })
}

/// An address as the kernel keeps it for a family.
pub(super) fn address(family: u8, bytes: [u8; 16], port: u16) -> SocketAddr {
    let [a, b, c, d, ..] = bytes;
    let ip = if family == AF_INET6 { IpAddr::V6(bytes.into()) } else { IpAddr::V4(Ipv4Addr::new(a, b, c, d)) };
    SocketAddr::new(ip, port)
}

/// The name of a UNIX socket: a path ends at its NUL, an abstract name begins with one; an unnamed socket has none.
fn socket_name(record: &[u8]) -> Result<Option<String>, DecodeError> {
    let raw: abi::aq_unix_connection = read(record)?;
    let name = raw.path.get(..raw.path_length as usize).ok_or(DecodeError::Short(record.len()))?;
    Ok(match name {
        [] => None,
        [0, name @ ..] => Some(format!("@{}", escape(name))),
        path => Some(escape(path.split(|byte| *byte == 0).next().unwrap_or(path))),
    })
}

fn connection(record: &[u8]) -> Result<EventKind, DecodeError> {
    let raw: abi::aq_connection = read(record)?;
    let step = step(&raw)?;
    let transport = match (raw.family, raw.protocol) {
        (AF_UNIX, _) => Transport::Unix,
        (_, IPPROTO_UDP) => Transport::Udp,
        _ => Transport::Tcp,
    };
    let named = transport == Transport::Unix && step != Step::End;
    Ok(EventKind::Connection(Connection {
        socket_id: raw.socket_id,
        inode: raw.inode,
        fd: raw.fd,
        transport,
        v6: raw.family == AF_INET6,
        local: address(raw.family, raw.local, raw.local_port),
        remote: address(raw.family, raw.remote, raw.remote_port),
        path: if named { socket_name(record)? } else { None },
        connected: raw.local_port != 0,
        remote_pid: raw.remote_pid,
        step,
        error: raw.error,
        bytes: Some((raw.bytes_sent, raw.bytes_received)),
        net_ns: raw.net_ns,
    }))
}

fn name(record: &[u8]) -> Result<EventKind, DecodeError> {
    let raw: abi::aq_name = read(record)?;
    let mut texts = Texts::of(record)?;
    let length = raw.length as usize;
    let mut piece = || {
        let bytes = texts.bytes(length)?.to_vec();
        Ok(Piece { socket_id: raw.socket_id, offset: raw.offset, bytes })
    };
    let heard = match raw.what {
        abi::AQ_HELLO => Heard::Hello(piece()?),
        abi::AQ_ANSWER => Heard::Answer(piece()?.bytes),
        abi::AQ_ANSWERS => Heard::Answers(piece()?),
        abi::AQ_LOOKUP => {
            let host = texts.bytes(abi::AQ_HOST_MAX as usize)?;
            let host = host.get(..length).ok_or(DecodeError::Short(record.len()))?;
            let address = |_| {
                let bytes = texts.bytes(16)?;
                let bytes = <[u8; 16]>::try_from(bytes).map_err(|_| DecodeError::Short(record.len()))?;
                Ok(Ipv6Addr::from(bytes).to_canonical())
            };
            let addresses = (0..raw.addresses).map(address).collect::<Result<_, _>>()?;
            Heard::Lookup { host: escape(host), addresses }
        }
        other => return Err(DecodeError::Unknown("source of a name", other)),
    };
    Ok(EventKind::Name(Box::new(Name { net_ns: raw.net_ns, mount_ns: raw.mount_ns, heard })))
}

#[cfg(test)]
mod tests;
