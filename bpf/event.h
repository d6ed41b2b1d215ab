/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * The kernel's records: the only definition of them. The BPF programs include this file, and the Rust types are
 * generated from it (extension/src/collect/linux/abi.rs).
 *
 * Fixed-width integers, explicit padding, every size asserted. Times are nanoseconds since boot (CLOCK_BOOTTIME). Text
 * begins at AQ_TEXT, in the order of its length fields, without NUL; what did not fit sets AQ_TRUNCATED.
 */
#ifndef AGENTQUERY_EVENT_H
#define AGENTQUERY_EVENT_H

#include <linux/types.h>

#define AQ_VERSION 1

/* What a record is about; also the index of its counters. */
#define AQ_FORK 0
#define AQ_EXEC 1
#define AQ_EXIT 2
#define AQ_OPEN 3
#define AQ_CLOSE 4
#define AQ_CHANGE 5
#define AQ_CONNECTION 6
#define AQ_NAME 7
#define AQ_REQUEST 8
#define AQ_KINDS 9

/* Flags of a record. */
#define AQ_TRUNCATED 1 /* some text was cut off */
#define AQ_CANDIDATE 2 /* exec: the path or an argument holds a literal of a signature */
#define AQ_SEEN 4      /* close: seen at the call, not inferred later */
#define AQ_UNTRACKED 8 /* open: the table of open files is full, no close will come */
#define AQ_FOLLOWED 16 /* change: of what the name points to, where it is a symlink */
#define AQ_EXCHANGED 32 /* change: a rename that was one the other way as well */
#define AQ_PENDING 0x10000 /* change: asked of io_uring; whether it was done, a request tells */
#define AQ_MAPPED 0x20000  /* close: mapped shared for writing */
#define AQ_ROOTED 0x40000  /* change: the process has another root than its mount namespace */

/* State of a slot. */
#define AQ_SLOT_FREE 0
#define AQ_SLOT_PROVISIONAL 1
#define AQ_SLOT_CONFIRMED 2
#define AQ_SLOT_MUTED 3

#define AQ_SLOTS 4096
#define AQ_NO_SLOT 0xffffffff /* an exec outside any tree, shown because a signature has no literal */
#define AQ_MUTED_SLOT 0       /* the recorder's own */

#define AQ_PATH_MAX 4096 /* longest path, without its NUL less one: PATH_MAX of Linux */
#define AQ_ARGV_MAX 16384
#define AQ_DATA_MAX (3 * AQ_PATH_MAX + AQ_ARGV_MAX)
#define AQ_TEXT 112 /* where the text begins, in every record that has text */
#define AQ_LITERAL_MAX 48 /* longest path component that can be a literal, with its NUL */

/* Value of the table of literals. */
#define AQ_LITERAL 1
#define AQ_INTERPRETER 2
#define AQ_MARKER 4 /* name of a variable that an agent sets in the environment of what it starts */
#define AQ_LAST 8 /* a literal as the last component alone */
#define AQ_MARKER_LEAST 4 /* bytes of the shortest name of such a variable */
#define AQ_MARKER_HASH 0x9e3779b1u /* of its first four bytes, by multiplication: the upper eight bits */

/* aq_open.how */
#define AQ_OPEN_READ 0
#define AQ_OPEN_WRITE 1
#define AQ_OPEN_TRUNCATE 2
#define AQ_OPEN_CREATE 3

/* aq_change.what */
#define AQ_DELETE 0
#define AQ_RENAME 1
#define AQ_LINK 2
#define AQ_SYMLINK 3
#define AQ_MKDIR 4
#define AQ_RMDIR 5
#define AQ_CHMOD 6
#define AQ_CHOWN 7
#define AQ_TRUNCATE 8
#define AQ_MKNOD 9
#define AQ_OPENED 10 /* and AQ_OPEN_READ and so on: an open of which no more will be known than its name */

/* aq_request.what */
#define AQ_RESULT 0 /* of a change that was pending */
#define AQ_RING 1   /* io_uring_setup: from now on there are requests */

/* aq_connection.step */
#define AQ_STEP_CONNECT 0 /* connect returned */
#define AQ_STEP_STATE 1 /* a TCP socket changed its state */
#define AQ_STEP_ACCEPT 2 /* accept returned, or it was there before: in that state */
#define AQ_STEP_LISTEN 3 /* listen returned, or bind of a UDP socket */
#define AQ_STEP_FLOW 4 /* a UDP flow began */
#define AQ_STEP_FLOW_END 5
#define AQ_STEP_END 6 /* the last reference to a UDP or UNIX socket went */
#define AQ_STEP_FOUND 7 /* it was there before */
#define AQ_STEP_HELD 8 /* TCP: closed, but its process still has it, and may read what came before */

/* aq_connection.state of a flow that began */
#define AQ_FLOW_CONNECTED 0 /* by connect, and no datagram yet */
#define AQ_FLOW_SENT 1 /* its first datagram was sent */
#define AQ_FLOW_RECEIVED 2

/* aq_name.what, and with it what the text is */
#define AQ_HELLO 0 /* the first bytes that a client wrote into a connection, where they begin a TLS handshake */
#define AQ_ANSWER 1 /* an answer of the DNS */
#define AQ_ANSWERS 2 /* bytes of a connection to the DNS */
#define AQ_LOOKUP 3 /* getaddrinfo returned: the name, in AQ_HOST_MAX bytes, then the addresses, in 16 bytes each */

#define AQ_HOST_MAX 256 /* with its NUL: a name of the DNS has 253 at most */
#define AQ_ADDRESSES_MAX 16

struct aq_header {
	__u16 version;
	__u16 kind;
	__u32 length; /* of the whole record */
	__u64 sequence; /* of this CPU; taken before the record is offered to the ring, so a loss leaves a gap */
	__u32 cpu;
	__u32 flags;
	__u64 boot_ns;
	__u64 start_ns; /* start of the process */
	__u32 pid; /* thread group */
	__u32 tid;
	__u32 slot;
	__u32 generation;
};

struct aq_fork {
	struct aq_header header; /* of the parent */
	__u64 child_start_ns;
	__u32 child_pid;
	__u32 child_ns_pid;
};

struct aq_exec {
	struct aq_header header;
	__u64 cgroup_id;
	__u32 parent;
	__u32 ns_pid;
	__u32 uid;
	__u32 gid;
	__u32 mount_ns;
	__u32 argv_length; /* arguments, each ended by NUL */
	__u16 path_length;
	__u16 exec_path_length;
	__u16 cwd_length;
	__u16 markers_length; /* variables of the environment as NAME=VALUE, each ended by NUL; the last of the texts */
	char tty[16];
};

struct aq_exit {
	struct aq_header header;
	__u32 status; /* as wait(2) gives it */
	__u32 padding;
};

struct aq_open {
	struct aq_header header;
	__u64 open_id;
	__u32 how;
	__u32 mode;
	__s32 fd;
	__u32 uid;
	__u32 path_length;
	__u32 padding;
};

struct aq_close {
	struct aq_header header;
	__u64 open_id;
	__u64 bytes_read;
	__u64 bytes_written;
};

struct aq_change {
	struct aq_header header;
	__u32 what;
	__u32 mode; /* of chmod and mkdir, else 0xffffffff */
	__u32 uid;
	__u32 mount_ns;
	__u16 base_length; /* directory that the name starts from, or the file itself when there is no name */
	__u16 name_length;
	__u16 dest_base_length;
	__u16 dest_name_length;
	__u64 request_id; /* with AQ_PENDING, else 0 */
};

struct aq_connection {
	struct aq_header header;
	__u64 socket_id;
	__u64 inode;
	__u64 bytes_sent; /* so far, over the socket or the flow */
	__u64 bytes_received;
	__u32 net_ns;
	__s32 error; /* errno, positive */
	__s32 fd; /* or -1 */
	__u32 remote_pid; /* of a UNIX socket's peer, or 0 */
	__u16 local_port; /* host order; of a UNIX socket that was found: 1 when it is the end that connected */
	__u16 remote_port;
	__u8 step;
	__u8 state; /* TCP_*, or 0; of a flow AQ_FLOW_* */
	__u8 family;
	__u8 protocol;
	__u8 local[16];
	__u8 remote[16];
};

/* The same of a UNIX socket. */
struct aq_unix_connection {
	struct aq_connection connection;
	__u32 path_length;
	__u8 path[108]; /* sun_path: an abstract name begins with NUL */
};

/* What may tell the name of a peer. */
struct aq_name {
	struct aq_header header;
	__u64 socket_id;
	__u32 what;
	__u32 net_ns;
	__u32 mount_ns;
	__u32 offset; /* of the bytes among those of the connection */
	__u32 length; /* of the bytes, or of the name */
	__u32 addresses; /* of a lookup, IPv4 as ::ffff:a.b.c.d */
	__u64 padding[3];
};

/* Of io_uring. */
struct aq_request {
	struct aq_header header;
	__u64 request_id;
	__s32 result; /* as the system call's */
	__u32 what;
};

/* What becomes of a record: seen = submitted + filtered + ring_full + oversized + throttled. */
struct aq_counters {
	__u64 seen;
	__u64 submitted;
	__u64 filtered;
	__u64 ring_full;
	__u64 oversized;
	__u64 throttled;
	__u64 unsupported_abi; /* calls of another ABI that are not decoded; not part of seen */
	__u64 padding;
};

struct aq_slot {
	__u32 state;
	__u32 generation;
	__u64 refilled_ns;
	__u64 tokens;
};

/* What the recorder asks of the programs at run time. */
struct aq_control {
	__u32 show_every_exec; /* a signature has no literal */
	__u32 look_for_markers; /* an agent lives that leaves its name in the environment of what it starts */
	__u32 mark_root; /* process whose tree mark_tree marks */
	__u32 mark_slot;
	__u32 mark_generation;
	__u32 padding;
	__u64 marker_bits[4]; /* which hashes of AQ_MARKER_HASH there are */
};

/* What the recorder says of itself. */
struct aq_recorder {
	__u64 read_position; /* of the ring: how far it has read, for it gives the memory back later */
	__u64 heard_ns; /* since boot: when it was last there; 0 when the programs end with it */
	__u64 calls_ns; /* since boot: when the hook on system calls was attached; 0 while it is not */
	__u64 ring_ns; /* since boot: when the ring was made */
};

/* In whose name the end of a file or a connection is told, whoever is running by then. */
struct aq_owner {
	__u64 start_ns;
	__u32 pid;
	__u32 tid;
	__u32 slot;
	__u32 generation;
};

/* An open file of an agent, by the address of its struct file. */
struct aq_file {
	__u64 open_id;
	__u64 inode; /* address, to tell a reused struct file */
	__u64 bytes_read;
	__u64 bytes_written;
	struct aq_owner owner;
	__u64 flags; /* AQ_MAPPED */
};

/* A socket of an agent: TCP by the address of its struct sock, which outlives its file; others by that of their file. */
struct aq_socket {
	__u64 socket_id;
	__u64 inode; /* number of the file's inode, to tell a reused struct file; 0 of TCP */
	__u64 bytes_sent;
	__u64 bytes_received;
	struct aq_owner owner;
	__u32 flows; /* that live */
	__s32 error;
	__u32 ports; /* of TCP, both: to tell a reused struct sock */
	__u8 ended; /* and could not be told yet */
	__u8 state; /* of TCP: the last one that was told */
	__u8 missed; /* what the last sweep found instead, and 1 */
	__u8 padding;
};

struct aq_flow_key {
	__u64 socket_id;
	__u8 remote[16];
	__u16 remote_port;
	__u16 family;
	__u32 padding;
};

struct aq_flow {
	__u64 bytes_sent;
	__u64 bytes_received;
	__u64 last_ns; /* since boot */
	struct aq_owner owner;
	__u64 socket_key;
	__u32 index; /* which of the socket's flows */
	__u32 datagrams; /* 0 or 1: whether there was one */
};

_Static_assert(sizeof(struct aq_socket) == 72, "aq_socket");
_Static_assert(sizeof(struct aq_flow_key) == 32, "aq_flow_key");
_Static_assert(sizeof(struct aq_flow) == 64, "aq_flow");
_Static_assert(sizeof(struct aq_header) == 56, "aq_header");
_Static_assert(sizeof(struct aq_fork) == 72, "aq_fork");
_Static_assert(sizeof(struct aq_exec) == AQ_TEXT, "aq_exec");
_Static_assert(sizeof(struct aq_exit) == 64, "aq_exit");
_Static_assert(sizeof(struct aq_open) == 88, "aq_open");
_Static_assert(sizeof(struct aq_close) == 80, "aq_close");
_Static_assert(sizeof(struct aq_change) == 88, "aq_change");
_Static_assert(sizeof(struct aq_connection) == 144, "aq_connection");
_Static_assert(sizeof(struct aq_unix_connection) == 256, "aq_unix_connection");
_Static_assert(sizeof(struct aq_name) == AQ_TEXT, "aq_name");
_Static_assert(sizeof(struct aq_request) == 72, "aq_request");
_Static_assert(sizeof(struct aq_counters) == 64, "aq_counters");
_Static_assert(sizeof(struct aq_slot) == 24, "aq_slot");
_Static_assert(sizeof(struct aq_control) == 56, "aq_control");
_Static_assert(sizeof(struct aq_recorder) == 32, "aq_recorder");
_Static_assert(sizeof(struct aq_file) == 64, "aq_file");

#endif
