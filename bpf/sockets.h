/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * Sockets: TCP, UDP (its flows are in flows.h) and UNIX.
 *
 * The owner is the process that connects, accepts or listens. It is taken at the call, or where a TCP socket leaves CLOSE,
 * which is in the task that asks, be it by a call or by io_uring. TCP's later states come in softirq, under whatever task
 * runs there, and its last one is its end. The others have no states that a program could hear: they end when the last
 * reference to their file goes, as files do.
 */
#ifndef AGENTQUERY_SOCKETS_H
#define AGENTQUERY_SOCKETS_H

#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define IPPROTO_TCP 6
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_CLOSE 7
#define TCP_LISTEN 10
#define TCP_CLOSING 11
#define SOCK_BINDPORT_LOCK 8 /* include/net/sock.h: the port was asked for */
#define MSG_ERRQUEUE 0x2000
#define EINPROGRESS 115
#define EALREADY 114
#define EISCONN 106
#define EINTR 4
#define ERESTARTSYS 512 /* include/linux/errno.h: what a signal makes of a call that may start anew */

/* Whether the kernel tells of what goes through any socket, whatever call it was (since 6.3). */
#define HOOKED bpf_core_type_exists(btf_trace_sock_send_length)

enum transport {
	NO_TRANSPORT,
	TCP,
	UDP,
	UNIX,
};

struct address {
	__u16 family;
	__u16 port;
	__u8 v4[4]; /* v6: flow label */
	__u8 v6[16];
};

static __always_inline enum transport transport_of(struct sock *sk)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);
	__u16 protocol = BPF_CORE_READ(sk, sk_protocol), type = BPF_CORE_READ(sk, sk_type);

	if (family == AF_UNIX)
		return UNIX;
	if (family != AF_INET && family != AF_INET6)
		return NO_TRANSPORT;
	if (protocol == IPPROTO_TCP && type == SOCK_STREAM)
		return TCP;
	return protocol == IPPROTO_UDP && type == SOCK_DGRAM ? UDP : NO_TRANSPORT;
}

static __always_inline void read_socket(struct aq_connection *record, struct sock *sk)
{
	struct socket *socket = BPF_CORE_READ(sk, sk_socket);

	record->socket_id = (__u64)sk;
	record->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	record->net_ns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	if (socket)
		record->inode = BPF_CORE_READ((struct socket_alloc *)socket, vfs_inode.i_ino);
	if (record->family == AF_UNIX)
		return;
	record->protocol = BPF_CORE_READ(sk, sk_protocol);
	record->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
	record->remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (record->family == AF_INET6) {
		BPF_CORE_READ_INTO(&record->local, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&record->remote, sk, __sk_common.skc_v6_daddr);
	} else {
		__u32 local = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
		__u32 remote = BPF_CORE_READ(sk, __sk_common.skc_daddr);

		__builtin_memcpy(record->local, &local, 4);
		__builtin_memcpy(record->remote, &remote, 4);
	}
}

static __always_inline void begin_step(struct aq_connection *record, __u8 step, const struct aq_owner *owner, struct sock *sk)
{
	COUNT(AQ_CONNECTION, seen);
	begin_as(&record->header, AQ_CONNECTION, owner);
	read_socket(record, sk);
	record->step = step;
	record->fd = -1;
}

int end_flows(__u64 socket_id);

/* The end of a socket, once, in the name of its owner. One that cannot be told waits for the next sweep. */
static __noinline int end_socket(__u64 key)
{
	struct aq_socket *found = bpf_map_lookup_elem(&sockets, &key);
	struct aq_connection record = {};

	if (!found)
		return 0;
	if (found->flows)
		end_flows(found->socket_id);
	COUNT(AQ_CONNECTION, seen);
	begin_as(&record.header, AQ_CONNECTION, &found->owner);
	record.socket_id = found->socket_id;
	record.bytes_sent = found->bytes_sent;
	record.bytes_received = found->bytes_received;
	record.error = found->error;
	record.fd = -1;
	/* Only TCP has no inode here, and ends by its state. */
	record.step = found->inode ? AQ_STEP_END : AQ_STEP_STATE;
	record.state = TCP_CLOSE;
	if (submit_quietly(&record.header, sizeof(record)))
		bpf_map_delete_elem(&sockets, &key);
	else
		found->ended = true;
	return 0;
}

/* Of a TCP socket, its own one only when it has one. */
static __always_inline __u32 ports_of(struct sock *sk)
{
	return (__u32)BPF_CORE_READ(sk, __sk_common.skc_dport) << 16 | BPF_CORE_READ(sk, __sk_common.skc_num);
}

/* Takes the ownership of a TCP socket. */
static __always_inline bool take_tcp(struct sock *sk, const struct aq_owner *owner, __u8 state)
{
	__u64 key = (__u64)sk;
	struct aq_socket entry = { .socket_id = key, .owner = *owner, .state = state };

	entry.ports = ports_of(sk);

	return bpf_map_update_elem(&sockets, &key, &entry, BPF_ANY) == 0;
}

/* Takes the ownership of any other: its number, unlike an address, is never another's. */
static __always_inline struct aq_socket *take_other(struct file *file, const struct aq_owner *owner)
{
	__u64 key = (__u64)file;
	struct aq_socket entry = { .owner = *owner };

	entry.inode = BPF_CORE_READ(file, f_inode, i_ino);
	entry.socket_id = (__u64)(bpf_get_smp_processor_id() + 1) << 48 | next_sequence(OPENS);
	if (bpf_map_update_elem(&sockets, &key, &entry, BPF_ANY))
		return NULL;
	return bpf_map_lookup_elem(&sockets, &key);
}

static __always_inline void remember_descriptor_of(struct task_struct *task, int fd, struct file *file)
{
	__u64 key = descriptor_key(task, fd), address = (__u64)file;

	end_file(address, 0); /* a file that had this struct before has ended unseen: the socket's close is not its */
	bpf_map_update_elem(&descriptors, &key, &address, BPF_ANY);
}

static __always_inline void remember_descriptor(int fd, struct file *file)
{
	remember_descriptor_of(bpf_get_current_task_btf(), fd, file);
}

/* The entry of a UDP socket, made when there is none. */
static __always_inline struct aq_socket *udp_socket(struct file *file, int fd, const struct aq_owner *owner)
{
	__u64 key = (__u64)file;
	struct aq_socket *found = bpf_map_lookup_elem(&sockets, &key);

	if (found && !found->ended && found->inode == BPF_CORE_READ(file, f_inode, i_ino))
		return found;
	if (found)
		end_socket(key);
	remember_descriptor(fd, file);
	return take_other(file, owner);
}

/* Whether a struct file is still that of a socket. Its memory and its inode's may both be another's: the number is not. */
static __always_inline bool is_open(__u64 address, __u64 number)
{
	struct file *file = (struct file *)address;
	struct inode *inode = BPF_CORE_READ(file, f_inode);

	return BPF_CORE_READ(inode, i_ino) == number && is_referenced(file, (__u64)inode);
}

/* A descriptor of this file has gone; a socket ends with the last. */
static __always_inline void close_socket(__u64 file)
{
	struct aq_socket *entry = bpf_map_lookup_elem(&sockets, &file);

	if (entry && entry->inode && !is_open(file, entry->inode))
		end_socket(file);
}

/* A descriptor was closed; what it was of too, when it was the last one. */
static __always_inline void handle_close(struct task_struct *task, int fd)
{
	__u64 address = forget_descriptor(task, fd);

	close_file(address, AQ_SEEN);
	close_socket(address);
}

static __always_inline void add_to_socket(struct sock *sk, __u64 file, __u64 bytes, bool received)
{
	enum transport transport = transport_of(sk);
	__u64 key = transport == TCP ? (__u64)sk : file;
	struct aq_socket *entry;

	if (transport != TCP && transport != UNIX)
		return;
	entry = bpf_map_lookup_elem(&sockets, &key);
	if (entry)
		__sync_fetch_and_add(received ? &entry->bytes_received : &entry->bytes_sent, bytes);
}

#include "flows.h"

static __always_inline __u32 peer_pid(struct sock *sk)
{
	return BPF_CORE_READ(sk, sk_peer_pid, numbers[0].nr);
}

/* The name that a UNIX socket is bound to. */
static __always_inline void read_name(struct aq_unix_connection *record, struct sock *sk)
{
	struct unix_address *address = BPF_CORE_READ((struct unix_sock *)sk, addr);
	__u32 length;

	if (!address)
		return;
	length = BPF_CORE_READ(address, len) - sizeof(__u16);
	if (length > sizeof(record->path))
		return;
	record->path_length = length;
	bpf_probe_read_kernel(record->path, length & 127, (void *)&address->name[0].sun_path);
}

static __always_inline struct aq_unix_connection *unix_scratch(__u32 which)
{
	struct aq_unix_connection *record = bpf_map_lookup_elem(&records, &which);

	if (record)
		__builtin_memset(record, 0, sizeof(*record));
	return record;
}

static __always_inline __u8 step_of(const struct call *call)
{
	switch (call->operation) {
	case OP_CONNECT:
		return AQ_STEP_CONNECT;
	case OP_LISTEN:
		return AQ_STEP_LISTEN;
	default:
		return AQ_STEP_ACCEPT;
	}
}

/* A UNIX socket begins to be one that is told of; the name that connect was given lies in the process. */
static __noinline int unix_step(struct task_struct *task, const struct mark *mark, const struct call *call, int fd, long result)
{
	__u8 step = step_of(call);
	struct aq_unix_connection *record = unix_scratch(SCRATCH_CALL);
	struct aq_socket *entry = NULL;
	struct file *file = call->file;
	struct sock *sk = call->sk;
	struct aq_owner owner;
	__u64 key;

	if (!record)
		return 0;
	own(&owner, task, mark);
	key = (__u64)file;
	if (result >= 0) {
		entry = bpf_map_lookup_elem(&sockets, &key);
		if (entry && step == AQ_STEP_LISTEN && !entry->ended && entry->inode == BPF_CORE_READ(file, f_inode, i_ino))
			return 0; /* again: another backlog */
		if (entry)
			end_socket(key);
		remember_descriptor(fd, file);
		entry = take_other(file, &owner);
	}
	begin_step(&record->connection, step, &owner, sk);
	if (entry)
		record->connection.socket_id = entry->socket_id;
	record->connection.fd = fd;
	record->connection.error = result < 0 ? -result : 0;
	record->connection.state = step == AQ_STEP_LISTEN ? TCP_LISTEN : TCP_ESTABLISHED;
	if (result >= 0 && step != AQ_STEP_LISTEN)
		record->connection.remote_pid = peer_pid(sk);
	if (step == AQ_STEP_CONNECT) {
		__u64 length = call->arguments[2] - sizeof(__u16);

		if (length > sizeof(record->path))
			return 0;
		record->path_length = length;
		bpf_probe_read_user(record->path, length & 127, (void *)(call->arguments[1] + sizeof(__u16)));
	} else {
		read_name(record, sk);
	}
	if (result >= 0 && !entry)
		record->connection.header.flags |= AQ_UNTRACKED;
	submit(&record->connection.header, sizeof(*record), true);
	return 0;
}

/* The connection goes on when connect does not wait for it, or no longer. */
static __always_inline bool goes_on(long result)
{
	return result >= 0 || result == -EINPROGRESS || result == -EINTR || result == -ERESTARTSYS;
}

static __noinline int handle_connect(struct task_struct *task, const struct mark *mark, const struct call *call, long result)
{
	struct aq_connection record = {};
	struct address address = {};
	__u64 length = call->arguments[2];
	struct sock *sk = call->sk;
	enum transport transport = transport_of(sk);
	struct aq_owner owner;

	if (transport == NO_TRANSPORT)
		return 0;
	if (length > sizeof(address))
		length = sizeof(address);
	bpf_probe_read_user(&address, length & 31, (void *)call->arguments[1]);
	if (result == -EALREADY || result == -EISCONN)
		return 0; /* asks after a connect that was shown */
	if (transport == UNIX) {
		if (address.family == AF_UNIX && result != -ERESTARTSYS)
			unix_step(task, mark, call, call->arguments[0], result);
		return 0;
	}
	if (address.family != AF_INET && address.family != AF_INET6)
		return 0; /* AF_UNSPEC: a disconnect */
	if (transport == UDP && result == 0) {
		begin_datagrams(task, mark, call->file, sk, call->arguments[0], false, call->compat);
		count_datagram(0, NO_DATAGRAM); /* the socket's peer: 0.0.0.0 has become 127.0.0.1 */
		return 0;
	}
	own(&owner, task, mark);
	begin_step(&record, AQ_STEP_CONNECT, &owner, sk);
	record.fd = call->arguments[0];
	record.error = goes_on(result) ? 0 : -result;
	if (record.error) {
		/* What was asked for: the socket has forgotten it. */
		record.remote_port = bpf_ntohs(address.port);
		record.family = address.family;
		if (address.family == AF_INET6)
			__builtin_memcpy(record.remote, address.v6, 16);
		else
			__builtin_memcpy(record.remote, address.v4, 4);
	}
	submit(&record.header, sizeof(record), true);
	return 0;
}

/* An accepted socket may have gone on by now, and go on while we look: the first to see a state tells it. */
static __noinline int handle_accept(struct task_struct *task, const struct mark *mark, const struct call *call, int fd)
{
	struct aq_connection record = {};
	struct sock *sk = call->sk;
	enum transport transport = transport_of(sk);
	struct aq_owner owner;

	if (transport == UNIX)
		return unix_step(task, mark, call, fd, 0);
	if (transport != TCP)
		return 0;
	own(&owner, task, mark);
	if (!take_tcp(sk, &owner, BPF_CORE_READ(sk, __sk_common.skc_state)))
		record.header.flags = AQ_UNTRACKED;
	begin_step(&record, AQ_STEP_ACCEPT, &owner, sk);
	record.fd = fd;
	record.state = BPF_CORE_READ(sk, __sk_common.skc_state);
	if (record.state == TCP_CLOSE)
		record.error = BPF_CORE_READ(sk, sk_err);
	submit(&record.header, sizeof(record), true);
	if (record.state != TCP_CLOSE && BPF_CORE_READ(sk, __sk_common.skc_state) != record.state) {
		begin_step(&record, AQ_STEP_STATE, &owner, sk);
		record.state = BPF_CORE_READ(sk, __sk_common.skc_state);
		if (record.state == TCP_CLOSE) {
			record.step = AQ_STEP_HELD;
			record.error = BPF_CORE_READ(sk, sk_err);
		}
		submit(&record.header, sizeof(record), true);
	}
	return 0;
}

/* TCP: on_socket_state has told that it listens; here are the port, if it was left to the kernel, and the descriptor. */
static __noinline int handle_listen(struct task_struct *task, const struct mark *mark, const struct call *call, long result)
{
	struct aq_connection record = {};
	struct sock *sk = call->sk;
	enum transport transport = transport_of(sk);
	struct aq_owner owner;

	if (transport == UNIX && result == 0)
		return unix_step(task, mark, call, call->arguments[0], result);
	if (transport != TCP)
		return 0;
	own(&owner, task, mark);
	begin_step(&record, AQ_STEP_LISTEN, &owner, sk);
	record.fd = call->arguments[0];
	record.error = result < 0 ? -result : 0;
	record.state = TCP_LISTEN;
	submit(&record.header, sizeof(record), true);
	return 0;
}

/* A UDP socket with a port that was asked for waits for whoever comes. */
static __noinline int handle_bind(struct task_struct *task, const struct mark *mark, const struct call *call)
{
	struct aq_connection record = {};
	struct address address = {};
	struct sock *sk = call->sk;
	struct aq_socket *entry;
	struct aq_owner owner;

	if (transport_of(sk) != UDP)
		return 0;
	bpf_probe_read_user(&address, 4, (void *)call->arguments[1]);
	if (address.port == 0)
		return 0;
	own(&owner, task, mark);
	entry = udp_socket(call->file, call->arguments[0], &owner);
	begin_step(&record, AQ_STEP_LISTEN, &owner, sk);
	if (entry)
		record.socket_id = entry->socket_id;
	else
		record.header.flags |= AQ_UNTRACKED;
	record.fd = call->arguments[0];
	record.state = TCP_LISTEN;
	submit(&record.header, sizeof(record), true);
	return 0;
}

/* tcp_set_state, inet_csk_listen_start */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_socket_state, struct sock *sk, int old, int new)
{
	struct aq_connection record = {};
	struct task_struct *task;
	struct aq_socket *entry;
	struct aq_owner owner;
	struct mark mark;
	__u64 key = (__u64)sk;

	if (sk->sk_protocol != IPPROTO_TCP || sk->sk_type != SOCK_STREAM)
		return 0;
	if (old == TCP_CLOSE && (new == TCP_SYN_SENT || new == TCP_LISTEN)) {
		task = bpf_get_current_task_btf();
		if (!is_shown(slot_of(task, &mark)))
			return 0;
		own(&owner, task, &mark);
		if (!take_tcp(sk, &owner, new)) {
			COUNT(AQ_CONNECTION, seen);
			COUNT(AQ_CONNECTION, oversized); /* no room: its states will not be seen, but connect will */
			return 0;
		}
		expect_names(sk);
	} else {
		entry = bpf_map_lookup_elem(&sockets, &key);
		if (!entry || entry->ended)
			return 0;
		owner = entry->owner;
		entry->state = new;
		entry->ports = ports_of(sk);
		record.bytes_sent = entry->bytes_sent;
		record.bytes_received = entry->bytes_received;
	}
	begin_step(&record, AQ_STEP_STATE, &owner, sk);
	record.state = new;
	if (new != TCP_CLOSE) {
		submit_quietly(&record.header, sizeof(record));
		return 0;
	}
	forget_names(sk);
	record.error = BPF_CORE_READ(sk, sk_err);
	if (old != TCP_SYN_SENT && old != TCP_LISTEN && sk->sk_socket) {
		record.step = AQ_STEP_HELD;
		entry = bpf_map_lookup_elem(&sockets, &key);
		if (entry)
			entry->error = record.error;
		submit_quietly(&record.header, sizeof(record));
		return 0;
	}
	if (submit_quietly(&record.header, sizeof(record))) {
		bpf_map_delete_elem(&sockets, &key);
	} else {
		entry = bpf_map_lookup_elem(&sockets, &key);
		if (entry) {
			entry->error = record.error;
			entry->ended = true;
		}
	}
	return 0;
}

/* Bytes that no hook tells of. */
static __noinline int count_by_call(struct task_struct *task, int fd, __u64 bytes, bool received)
{
	struct call call = {};

	if (find_socket(task, &call, fd))
		add_to_socket(call.sk, (__u64)call.file, bytes, received);
	return 0;
}

/* tcp_v4_destroy_sock: nobody has it any more. */
SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(on_socket_end, struct sock *sk)
{
	__u64 key = (__u64)sk;

	if (bpf_map_lookup_elem(&sockets, &key))
		end_socket(key);
	return 0;
}

/* sock_sendmsg, sock_recvmsg. Whoever has no mark leaves after one look-up. An agent's sockets are used by its own tasks,
 * io_uring's workers too. */
static __always_inline void count_at_socket(struct sock *sk, int bytes, bool received)
{
	if (bytes <= 0 || !bpf_task_storage_get(&marks, bpf_get_current_task_btf(), NULL, 0))
		return;
	add_to_socket(sk, (__u64)BPF_CORE_READ(sk, sk_socket, file), bytes, received);
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(on_send, struct sock *sk, int bytes, int flags)
{
	count_at_socket(sk, bytes, false);
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(on_receive, struct sock *sk, int bytes, int flags)
{
	if (!(flags & (MSG_PEEK | MSG_ERRQUEUE)))
		count_at_socket(sk, bytes, true);
	return 0;
}

/* Something went through a descriptor: datagrams begin flows; of the rest only the bytes count, and those elsewhere where
 * they can be. */
static __noinline int handle_transfer(struct task_struct *task, const struct mark *mark, const struct call *call, long result)
{
	enum operation operation = call->operation;
	bool received = operation == OP_READ || operation == OP_READV || operation == OP_RECEIVE || operation == OP_RECVMSG || operation == OP_RECVMMSG;
	enum transport transport;
	struct file *file = call->file;
	struct sock *sk = call->sk;
	__u64 flags = 0;

	transport = transport_of(sk);
	if (transport == NO_TRANSPORT || (transport != UDP && HOOKED))
		return 0;
	if (operation == OP_RECEIVE || operation == OP_RECVMMSG)
		flags = call->arguments[3];
	else if (operation == OP_RECVMSG)
		flags = call->arguments[2];
	if (flags & (MSG_PEEK | MSG_ERRQUEUE))
		return 0;
	begin_datagrams(task, mark, file, sk, call->arguments[0], received, call->compat);
	if (operation == OP_SENDMMSG || operation == OP_RECVMMSG)
		count_messages(call->arguments[1], result);
	else if (transport != UDP)
		add_to_socket(sk, (__u64)file, result, received);
	else if (operation == OP_SENDMSG || operation == OP_RECVMSG)
		count_message(call->arguments[1], result);
	else if (operation == OP_SEND || operation == OP_RECEIVE)
		count_datagram(call->arguments[4], result);
	else
		count_datagram(0, result);
	return 0;
}

static long sweep_flow(void *map, const struct aq_flow_key *key, struct aq_flow *flow, void *context)
{
	if (bpf_ktime_get_boot_ns() > flow->last_ns + FLOW_IDLE_NS)
		end_flow_at(key->socket_id, flow->index);
	return 0;
}

/* Whether a TCP socket has ended. A state comes in softirq and may interrupt the program at another one: then the program
 * did not hear of it. */
static __always_inline bool sweep_tcp(__u64 address, struct aq_socket *entry)
{
	struct sock *sk = (struct sock *)address;
	__u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);
	struct aq_connection record = {};

	if (state == TCP_CLOSE || ((__u16)entry->ports && entry->ports != ports_of(sk)))
		state = TCP_CLOSE;
	if (entry->state == TCP_CLOSE && BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_CLOSE)
		state = 0; /* was held, and is another's now */
	if (state == entry->state || state > TCP_CLOSING) {
		entry->missed = 0;
		return false;
	}
	if (entry->missed != state + 1) {
		entry->missed = state + 1; /* or it is about to come */
		return false;
	}
	if (state == TCP_CLOSE || state == 0)
		return true;
	entry->state = state;
	begin_step(&record, AQ_STEP_STATE, &entry->owner, sk);
	record.bytes_sent = entry->bytes_sent;
	record.bytes_received = entry->bytes_received;
	record.state = state;
	submit_quietly(&record.header, sizeof(record));
	return false;
}

static long sweep_socket(void *map, const __u64 *key, struct aq_socket *entry, void *context)
{
	__u64 address = *key;

	if (entry->ended || (entry->inode ? !is_open(address, entry->inode) : sweep_tcp(address, entry)))
		end_socket(address);
	return 0;
}

/* Run by the recorder: reports every socket that has ended unseen, and every flow that has come to rest. */
SEC("raw_tp")
int sweep_sockets(void *context)
{
	bpf_for_each_map_elem(&flows, sweep_flow, NULL, 0);
	bpf_for_each_map_elem(&sockets, sweep_socket, NULL, 0);
	return 0;
}

#endif
