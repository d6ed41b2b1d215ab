// Generated from bpf/event.h by ./dev bpf (bindgen 0.60.1).

pub const AQ_VERSION: u32 = 1;
pub const AQ_FORK: u32 = 0;
pub const AQ_EXEC: u32 = 1;
pub const AQ_EXIT: u32 = 2;
pub const AQ_OPEN: u32 = 3;
pub const AQ_CLOSE: u32 = 4;
pub const AQ_CHANGE: u32 = 5;
pub const AQ_CONNECTION: u32 = 6;
pub const AQ_NAME: u32 = 7;
pub const AQ_REQUEST: u32 = 8;
pub const AQ_KINDS: u32 = 9;
pub const AQ_TRUNCATED: u32 = 1;
pub const AQ_CANDIDATE: u32 = 2;
pub const AQ_SEEN: u32 = 4;
pub const AQ_UNTRACKED: u32 = 8;
pub const AQ_FOLLOWED: u32 = 16;
pub const AQ_EXCHANGED: u32 = 32;
pub const AQ_PENDING: u32 = 65536;
pub const AQ_MAPPED: u32 = 131072;
pub const AQ_ROOTED: u32 = 262144;
pub const AQ_SLOT_FREE: u32 = 0;
pub const AQ_SLOT_PROVISIONAL: u32 = 1;
pub const AQ_SLOT_CONFIRMED: u32 = 2;
pub const AQ_SLOT_MUTED: u32 = 3;
pub const AQ_SLOTS: u32 = 4096;
pub const AQ_NO_SLOT: u32 = 4294967295;
pub const AQ_MUTED_SLOT: u32 = 0;
pub const AQ_PATH_MAX: u32 = 4096;
pub const AQ_ARGV_MAX: u32 = 16384;
pub const AQ_DATA_MAX: u32 = 28672;
pub const AQ_TEXT: u32 = 112;
pub const AQ_LITERAL_MAX: u32 = 48;
pub const AQ_LITERAL: u32 = 1;
pub const AQ_INTERPRETER: u32 = 2;
pub const AQ_MARKER: u32 = 4;
pub const AQ_LAST: u32 = 8;
pub const AQ_MARKER_LEAST: u32 = 4;
pub const AQ_MARKER_HASH: u32 = 2654435761;
pub const AQ_OPEN_READ: u32 = 0;
pub const AQ_OPEN_WRITE: u32 = 1;
pub const AQ_OPEN_TRUNCATE: u32 = 2;
pub const AQ_OPEN_CREATE: u32 = 3;
pub const AQ_DELETE: u32 = 0;
pub const AQ_RENAME: u32 = 1;
pub const AQ_LINK: u32 = 2;
pub const AQ_SYMLINK: u32 = 3;
pub const AQ_MKDIR: u32 = 4;
pub const AQ_RMDIR: u32 = 5;
pub const AQ_CHMOD: u32 = 6;
pub const AQ_CHOWN: u32 = 7;
pub const AQ_TRUNCATE: u32 = 8;
pub const AQ_MKNOD: u32 = 9;
pub const AQ_OPENED: u32 = 10;
pub const AQ_RESULT: u32 = 0;
pub const AQ_RING: u32 = 1;
pub const AQ_STEP_CONNECT: u32 = 0;
pub const AQ_STEP_STATE: u32 = 1;
pub const AQ_STEP_ACCEPT: u32 = 2;
pub const AQ_STEP_LISTEN: u32 = 3;
pub const AQ_STEP_FLOW: u32 = 4;
pub const AQ_STEP_FLOW_END: u32 = 5;
pub const AQ_STEP_END: u32 = 6;
pub const AQ_STEP_FOUND: u32 = 7;
pub const AQ_STEP_HELD: u32 = 8;
pub const AQ_FLOW_CONNECTED: u32 = 0;
pub const AQ_FLOW_SENT: u32 = 1;
pub const AQ_FLOW_RECEIVED: u32 = 2;
pub const AQ_HELLO: u32 = 0;
pub const AQ_ANSWER: u32 = 1;
pub const AQ_ANSWERS: u32 = 2;
pub const AQ_LOOKUP: u32 = 3;
pub const AQ_HOST_MAX: u32 = 256;
pub const AQ_ADDRESSES_MAX: u32 = 16;
pub type __u8 = ::std::os::raw::c_uchar;
pub type __u16 = ::std::os::raw::c_ushort;
pub type __s32 = ::std::os::raw::c_int;
pub type __u32 = ::std::os::raw::c_uint;
pub type __u64 = ::std::os::raw::c_ulonglong;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_header {
    pub version: __u16,
    pub kind: __u16,
    pub length: __u32,
    pub sequence: __u64,
    pub cpu: __u32,
    pub flags: __u32,
    pub boot_ns: __u64,
    pub start_ns: __u64,
    pub pid: __u32,
    pub tid: __u32,
    pub slot: __u32,
    pub generation: __u32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_fork {
    pub header: aq_header,
    pub child_start_ns: __u64,
    pub child_pid: __u32,
    pub child_ns_pid: __u32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_exec {
    pub header: aq_header,
    pub cgroup_id: __u64,
    pub parent: __u32,
    pub ns_pid: __u32,
    pub uid: __u32,
    pub gid: __u32,
    pub mount_ns: __u32,
    pub argv_length: __u32,
    pub path_length: __u16,
    pub exec_path_length: __u16,
    pub cwd_length: __u16,
    pub markers_length: __u16,
    pub tty: [::std::os::raw::c_char; 16usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_exit {
    pub header: aq_header,
    pub status: __u32,
    pub padding: __u32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_open {
    pub header: aq_header,
    pub open_id: __u64,
    pub how: __u32,
    pub mode: __u32,
    pub fd: __s32,
    pub uid: __u32,
    pub path_length: __u32,
    pub padding: __u32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_close {
    pub header: aq_header,
    pub open_id: __u64,
    pub bytes_read: __u64,
    pub bytes_written: __u64,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_change {
    pub header: aq_header,
    pub what: __u32,
    pub mode: __u32,
    pub uid: __u32,
    pub mount_ns: __u32,
    pub base_length: __u16,
    pub name_length: __u16,
    pub dest_base_length: __u16,
    pub dest_name_length: __u16,
    pub request_id: __u64,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_connection {
    pub header: aq_header,
    pub socket_id: __u64,
    pub inode: __u64,
    pub bytes_sent: __u64,
    pub bytes_received: __u64,
    pub net_ns: __u32,
    pub error: __s32,
    pub fd: __s32,
    pub remote_pid: __u32,
    pub local_port: __u16,
    pub remote_port: __u16,
    pub step: __u8,
    pub state: __u8,
    pub family: __u8,
    pub protocol: __u8,
    pub local: [__u8; 16usize],
    pub remote: [__u8; 16usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_unix_connection {
    pub connection: aq_connection,
    pub path_length: __u32,
    pub path: [__u8; 108usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_name {
    pub header: aq_header,
    pub socket_id: __u64,
    pub what: __u32,
    pub net_ns: __u32,
    pub mount_ns: __u32,
    pub offset: __u32,
    pub length: __u32,
    pub addresses: __u32,
    pub padding: [__u64; 3usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_request {
    pub header: aq_header,
    pub request_id: __u64,
    pub result: __s32,
    pub what: __u32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_counters {
    pub seen: __u64,
    pub submitted: __u64,
    pub filtered: __u64,
    pub ring_full: __u64,
    pub oversized: __u64,
    pub throttled: __u64,
    pub unsupported_abi: __u64,
    pub padding: __u64,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_slot {
    pub state: __u32,
    pub generation: __u32,
    pub refilled_ns: __u64,
    pub tokens: __u64,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_control {
    pub show_every_exec: __u32,
    pub look_for_markers: __u32,
    pub mark_root: __u32,
    pub mark_slot: __u32,
    pub mark_generation: __u32,
    pub padding: __u32,
    pub marker_bits: [__u64; 4usize],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_recorder {
    pub read_position: __u64,
    pub heard_ns: __u64,
    pub calls_ns: __u64,
    pub ring_ns: __u64,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_owner {
    pub start_ns: __u64,
    pub pid: __u32,
    pub tid: __u32,
    pub slot: __u32,
    pub generation: __u32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_file {
    pub open_id: __u64,
    pub inode: __u64,
    pub bytes_read: __u64,
    pub bytes_written: __u64,
    pub owner: aq_owner,
    pub flags: __u64,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_socket {
    pub socket_id: __u64,
    pub inode: __u64,
    pub bytes_sent: __u64,
    pub bytes_received: __u64,
    pub owner: aq_owner,
    pub flows: __u32,
    pub error: __s32,
    pub ports: __u32,
    pub ended: __u8,
    pub state: __u8,
    pub missed: __u8,
    pub padding: __u8,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_flow_key {
    pub socket_id: __u64,
    pub remote: [__u8; 16usize],
    pub remote_port: __u16,
    pub family: __u16,
    pub padding: __u32,
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct aq_flow {
    pub bytes_sent: __u64,
    pub bytes_received: __u64,
    pub last_ns: __u64,
    pub owner: aq_owner,
    pub socket_key: __u64,
    pub index: __u32,
    pub datagrams: __u32,
}
