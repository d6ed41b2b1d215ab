/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * UDP flows: what one socket exchanges with one peer, from the first datagram to the socket's end or a minute of rest.
 *
 * They are counted at the exit of the calls, for only there the peer of a datagram is known. connect makes a flow without
 * a datagram: resolvers connect to each address that they consider, and send nothing.
 */
#ifndef AGENTQUERY_FLOWS_H
#define AGENTQUERY_FLOWS_H

#define FLOWS_OF_SOCKET 256
#define FLOW_IDLE_NS (60ull * 1000000000)
#define NO_DATAGRAM (~0ull)
#define MESSAGES_MAX 1024 /* UIO_MAXIOV: of one sendmmsg or recvmmsg */

/* The call whose datagrams are counted. */
struct datagrams {
	struct aq_flow_key key;
	struct aq_owner owner;
	__u64 file;
	__u64 sk;
	__u64 messages;
	int fd;
	__u32 received; /* no bool: the compiler would add one to a pointer, the verifier knows only that it is a byte */
	bool compat;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct datagrams);
} datagram_calls SEC(".maps");

/* struct user_msghdr and struct compat_msghdr begin with the address and its length. */
#define MESSAGE_BYTES 56
#define COMPAT_MESSAGE_BYTES 28

static __always_inline struct datagrams *datagrams_now(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&datagram_calls, &zero);
}

static __always_inline void begin_datagrams(struct task_struct *task, const struct mark *mark, struct file *file,
					    struct sock *sk, int fd, bool received, bool compat)
{
	struct datagrams *call = datagrams_now();

	if (!call)
		return;
	own(&call->owner, task, mark);
	call->file = (__u64)file;
	call->sk = (__u64)sk;
	call->fd = fd;
	call->received = received;
	call->compat = compat;
}

/* The peer of a datagram: that of the call, or else of the socket. False when neither is known. */
static __always_inline bool read_peer(struct datagrams *call, __u64 name)
{
	struct sock *sk = (struct sock *)call->sk;
	struct aq_flow_key *key = &call->key;
	struct address address = {};

	__builtin_memset(key, 0, sizeof(*key));
	if (name)
		bpf_probe_read_user(&address, sizeof(address), (void *)name);
	if (address.family == AF_INET || address.family == AF_INET6) {
		key->family = address.family;
		key->remote_port = bpf_ntohs(address.port);
		if (address.family == AF_INET6)
			__builtin_memcpy(key->remote, address.v6, 16);
		else
			__builtin_memcpy(key->remote, address.v4, 4);
		return true;
	}
	key->remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	key->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (key->family == AF_INET6) {
		BPF_CORE_READ_INTO(&key->remote, sk, __sk_common.skc_v6_daddr);
	} else {
		__u32 remote = BPF_CORE_READ(sk, __sk_common.skc_daddr);

		__builtin_memcpy(key->remote, &remote, 4);
	}
	return key->remote_port != 0;
}

/* The first free place among a socket's flows, which is then this call's; negative when there is none. */
__noinline int claim_place(void)
{
	struct datagrams *call = datagrams_now();
	struct flow_place place = {};
	int i;

	if (!call)
		return -1;
	place.socket_id = call->key.socket_id;
	for (i = 0; i < FLOWS_OF_SOCKET; i++) {
		place.index = i;
		if (!bpf_map_update_elem(&flow_places, &place, &call->key, BPF_NOEXIST))
			return i;
	}
	return -1;
}

static __always_inline void submit_flow(struct datagrams *call, const struct aq_flow *flow, __u8 state)
{
	struct aq_connection record = {};

	begin_step(&record, AQ_STEP_FLOW, &flow->owner, (struct sock *)call->sk);
	record.socket_id = call->key.socket_id;
	record.fd = call->fd;
	record.family = call->key.family;
	record.remote_port = call->key.remote_port;
	__builtin_memcpy(record.remote, call->key.remote, 16);
	record.state = state;
	submit(&record.header, sizeof(record), true);
}

/* One datagram of the call, or (NO_DATAGRAM) the peer that the socket was connected to. */
__noinline int count_datagram(__u64 name, __u64 bytes)
{
	struct datagrams *call = datagrams_now();
	struct aq_flow made = {}, *flow;
	struct aq_socket *entry;
	int index;

	if (!call)
		return 0;
	if (!read_peer(call, name)) {
		COUNT(AQ_CONNECTION, seen);
		COUNT(AQ_CONNECTION, oversized); /* received from whom nobody asked */
		return 0;
	}
	entry = udp_socket((struct file *)call->file, call->fd, &call->owner);
	if (!entry) {
		COUNT(AQ_CONNECTION, seen);
		COUNT(AQ_CONNECTION, oversized);
		return 0;
	}
	call->key.socket_id = entry->socket_id;
	flow = bpf_map_lookup_elem(&flows, &call->key);
	if (!flow) {
		if (entry->flows >= FLOWS_OF_SOCKET) {
			COUNT(AQ_CONNECTION, seen);
			COUNT(AQ_CONNECTION, throttled);
			return 0;
		}
		index = claim_place();
		if (index < 0) {
			COUNT(AQ_CONNECTION, seen);
			COUNT(AQ_CONNECTION, oversized);
			return 0;
		}
		made.owner = call->owner;
		made.socket_key = call->file;
		made.index = index;
		made.last_ns = bpf_ktime_get_boot_ns();
		if (bpf_map_update_elem(&flows, &call->key, &made, BPF_NOEXIST)) {
			struct flow_place place = { .socket_id = call->key.socket_id, .index = index };

			bpf_map_delete_elem(&flow_places, &place); /* another thread's first datagram, or no room */
		} else {
			__sync_fetch_and_add(&entry->flows, 1);
			if (bytes == NO_DATAGRAM)
				submit_flow(call, &made, AQ_FLOW_CONNECTED);
		}
		flow = bpf_map_lookup_elem(&flows, &call->key);
		if (!flow) {
			COUNT(AQ_CONNECTION, seen);
			COUNT(AQ_CONNECTION, oversized);
			return 0;
		}
	}
	if (bytes == NO_DATAGRAM)
		return 0;
	__sync_fetch_and_add(call->received ? &flow->bytes_received : &flow->bytes_sent, bytes);
	flow->last_ns = bpf_ktime_get_boot_ns();
	if (!flow->datagrams) {
		flow->datagrams = 1;
		submit_flow(call, flow, call->received ? AQ_FLOW_RECEIVED : AQ_FLOW_SENT);
	}
	return 0;
}

static __always_inline __u64 name_of_message(__u64 message, bool compat)
{
	__u64 name = 0;
	__u32 length = 0;

	bpf_probe_read_user(&name, compat ? 4 : 8, (void *)message);
	bpf_probe_read_user(&length, sizeof(length), (void *)(message + (compat ? 4 : 8)));
	return length ? name : 0;
}

/* sendmsg, recvmsg */
static __always_inline void count_message(__u64 message, __u64 bytes)
{
	struct datagrams *call = datagrams_now();

	if (call)
		count_datagram(name_of_message(message, call->compat), bytes);
}

__noinline int count_one_message(__u32 index)
{
	struct datagrams *call = datagrams_now();
	__u64 size, message;
	__u32 bytes = 0;

	if (!call)
		return 0;
	size = call->compat ? COMPAT_MESSAGE_BYTES : MESSAGE_BYTES;
	/* struct mmsghdr: the message, and how much of it went. */
	message = call->messages + index * (size + (call->compat ? 4 : 8));
	bpf_probe_read_user(&bytes, sizeof(bytes), (void *)(message + size));
	if (transport_of((struct sock *)call->sk) == UDP)
		count_datagram(name_of_message(message, call->compat), bytes);
	else
		add_to_socket((struct sock *)call->sk, call->file, bytes, call->received);
	return 0;
}

/* sendmmsg, recvmmsg */
static __always_inline void count_messages(__u64 messages, __u64 count)
{
	struct datagrams *call = datagrams_now();
	int i;

	if (!call)
		return;
	call->messages = messages;
	for (i = 0; i < MESSAGES_MAX; i++) {
		if (i >= count)
			break;
		count_one_message(i);
	}
}

/* The end of a flow, told where it can be. */
__noinline int end_flow_at(__u64 socket_id, __u32 index)
{
	struct flow_place place = { .socket_id = socket_id, .index = index };
	struct aq_flow_key *found = bpf_map_lookup_elem(&flow_places, &place), key;
	struct aq_connection record = {};
	struct aq_socket *entry;
	struct aq_flow *flow;
	__u64 socket_key;

	if (!found)
		return 0;
	key = *found;
	flow = bpf_map_lookup_elem(&flows, &key);
	bpf_map_delete_elem(&flow_places, &place);
	if (!flow)
		return 0;
	COUNT(AQ_CONNECTION, seen);
	begin_as(&record.header, AQ_CONNECTION, &flow->owner);
	record.socket_id = socket_id;
	record.bytes_sent = flow->bytes_sent;
	record.bytes_received = flow->bytes_received;
	record.fd = -1;
	record.step = AQ_STEP_FLOW_END;
	record.family = key.family;
	record.protocol = IPPROTO_UDP;
	record.remote_port = key.remote_port;
	__builtin_memcpy(record.remote, key.remote, 16);
	socket_key = flow->socket_key;
	if (bpf_map_delete_elem(&flows, &key))
		return 0;
	submit(&record.header, sizeof(record), true);
	entry = bpf_map_lookup_elem(&sockets, &socket_key);
	if (entry && entry->socket_id == socket_id)
		__sync_fetch_and_add(&entry->flows, -1);
	return 1;
}

/* All of a socket. */
__noinline int end_flows(__u64 socket_id)
{
	int i;

	for (i = 0; i < FLOWS_OF_SOCKET; i++)
		end_flow_at(socket_id, i);
	return 0;
}

#endif
