/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * What tells the names of peers on the wire: the first bytes of a TLS client, and answers of the DNS. Read at the exit of
 * the calls that sent or received them, from the program's own memory. Nothing else that a program sends or receives
 * leaves the kernel, and user space keeps the names alone.
 */
#ifndef AGENTQUERY_NAMES_H
#define AGENTQUERY_NAMES_H

#define HELLO_MAX 2048 /* the name lies in these also where keys of post-quantum cryptography make the whole longer */
#define ANSWER_MAX 4096 /* of one datagram or read: what resolvers offer to take (EDNS) */
#define ANSWERS_MAX (64 * 1024) /* of one connection */
#define PORT_DNS 53
#define IPPROTO_UDP 17
#define MSG_PEEK 2
#define PIECES 16 /* of a vector */
#define MESSAGES 4 /* of recvmmsg */
#define STREAMS_MAX 8192

/* A connection whose first bytes are waited for, by the address of its struct sock. It is removed when enough is known:
 * nothing of it is read any more. */
struct stream {
	__u32 seen;
	__u32 wanted;
	__u32 answers; /* to the DNS: what comes back is read, not what is sent */
	__u32 padding;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, STREAMS_MAX);
	__type(key, __u64);
	__type(value, struct stream);
} streams SEC(".maps");

/* How far the bytes of a call have been copied into the record. */
struct capture {
	__u32 at;
	__u32 left;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct capture);
} captures SEC(".maps");

/* struct user_msghdr; struct mmsghdr is this and a length. */
struct message {
	__u64 name;
	__u32 name_length;
	__u32 padding;
	__u64 vector;
	__u64 count;
	__u64 rest[3];
};

struct counted_message {
	struct message message;
	__u32 length;
	__u32 padding;
};

/* A client's connection begins. */
static __always_inline void expect_names(struct sock *sk)
{
	__u64 key = (__u64)sk;
	struct stream stream = { .wanted = HELLO_MAX };

	if (bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport)) == PORT_DNS) {
		stream.wanted = ANSWERS_MAX;
		stream.answers = 1;
	}
	bpf_map_update_elem(&streams, &key, &stream, BPF_ANY);
}

static __always_inline void forget_names(struct sock *sk)
{
	__u64 key = (__u64)sk;

	bpf_map_delete_elem(&streams, &key);
}

/* Copies one piece of a program's memory behind those before; true when all is there. */
__noinline int capture_piece(__u64 base, __u64 length)
{
	__u32 which = SCRATCH_CALL, zero = 0, at;
	struct record *record = bpf_map_lookup_elem(&records, &which);
	struct capture *capture = bpf_map_lookup_elem(&captures, &zero);

	if (!record || !capture)
		return 1;
	at = capture->at;
	if (at >= ANSWER_MAX)
		return 1;
	if (length > capture->left)
		length = capture->left;
	if (length > ANSWER_MAX - at)
		length = ANSWER_MAX - at;
	KEEP_BOUND(length);
	length &= 2 * ANSWER_MAX - 1;
	KEEP_BOUND(at);
	at &= ANSWER_MAX - 1;
	if (bpf_probe_read_user(&record->data[at], length, (void *)base)) {
		capture->left = 0;
		return 1;
	}
	capture->at = at + length;
	capture->left -= length;
	return capture->left == 0;
}

/* The piece at that place of a vector. */
__noinline int capture_part(__u64 vector, __u32 index)
{
	struct {
		__u64 base;
		__u64 length;
	} part = {};

	if (bpf_probe_read_user(&part, sizeof(part), (void *)(vector + index * sizeof(part))))
		return 1;
	return capture_piece(part.base, part.length);
}

__noinline int capture_vector(__u64 vector, __u64 count)
{
	__u32 i;

	for (i = 0; i < PIECES; i++) {
		if (i >= count || capture_part(vector, i))
			break;
	}
	return 0;
}

static __always_inline bool begin_capture(__u64 bytes)
{
	__u32 zero = 0;
	struct capture *capture = bpf_map_lookup_elem(&captures, &zero);

	if (!capture)
		return false;
	capture->at = 0;
	capture->left = bytes < ANSWER_MAX ? bytes : ANSWER_MAX;
	return true;
}

static __always_inline __u32 captured(void)
{
	__u32 zero = 0;
	struct capture *capture = bpf_map_lookup_elem(&captures, &zero);

	return capture ? capture->at : 0;
}

/* The beginning of what a call has sent or received; how much of it there is. */
static __always_inline __u32 capture(const struct call *call, __u64 bytes)
{
	const __u64 *a = call->arguments;
	struct message message = {};

	if (!begin_capture(bytes))
		return 0;
	switch (call->operation) {
	case OP_READ:
	case OP_WRITE:
	case OP_SEND:
	case OP_RECEIVE:
		capture_piece(a[1], a[2]);
		break;
	case OP_READV:
	case OP_WRITEV:
		if (!call->compat) /* whose vectors are of another layout */
			capture_vector(a[1], a[2]);
		break;
	default:
		if (!call->compat && !bpf_probe_read_user(&message, sizeof(message), (void *)a[1]))
			capture_vector(message.vector, message.count);
	}
	return captured();
}

/* Tells what was captured. */
static __always_inline void tell_captured(struct task_struct *task, const struct mark *mark, struct sock *sk, __u32 what,
					  __u32 offset, __u32 length)
{
	__u32 which = SCRATCH_CALL;
	struct record *record = bpf_map_lookup_elem(&records, &which);

	if (!record)
		return;
	COUNT(AQ_NAME, seen);
	begin(&record->header, AQ_NAME, task, mark);
	record->name.socket_id = (__u64)sk;
	record->name.what = what;
	record->name.net_ns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	record->name.mount_ns = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
	record->name.offset = offset;
	record->name.length = length;
	record->name.addresses = 0;
	KEEP_BOUND(length);
	length &= 2 * ANSWER_MAX - 1;
	submit(&record->header, AQ_TEXT + length, false);
}

/* How many bytes of the connection are a ClientHello, as far as these bytes from its beginning tell; 0 when they are none
 * (RFC 8446, 4 and 5.1). */
static __always_inline __u32 hello_length(const struct record *record, __u32 length)
{
	const __u8 *data = (const __u8 *)record->data;
	__u32 of_record, of_message;

	if (data[0] != 0x16 || (length > 1 && data[1] != 3) || (length > 5 && data[5] != 1))
		return 0;
	if (length < 9)
		return HELLO_MAX;
	of_record = data[3] << 8 | data[4];
	of_message = 4 + (data[6] << 16 | data[7] << 8 | data[8]);
	if (of_message > of_record || 5 + of_record > HELLO_MAX) /* it goes on in another record */
		return HELLO_MAX;
	return 5 + of_record;
}

static __always_inline void handle_sent(struct task_struct *task, const struct mark *mark, const struct call *call, __u64 bytes)
{
	__u32 which = SCRATCH_CALL, length, wanted;
	struct record *record;
	struct sock *sk = call->sk;
	__u64 key = (__u64)sk;
	struct stream *stream;

	if (bytes == 0)
		return;
	stream = bpf_map_lookup_elem(&streams, &key);
	if (!stream || stream->answers)
		return;
	record = bpf_map_lookup_elem(&records, &which);
	if (!record)
		return;
	wanted = stream->wanted - stream->seen;
	length = capture(call, bytes < wanted ? bytes : wanted);
	if (length == 0) { /* it cannot be read any more */
		COUNT(AQ_NAME, seen);
		COUNT(AQ_NAME, oversized);
	} else if (stream->seen == 0) {
		stream->wanted = hello_length(record, length);
	} else if (stream->seen == 1 && record->data[0] != 3) {
		length = 0;
	}
	if (length > stream->wanted - stream->seen)
		length = stream->wanted - stream->seen; /* what follows the ClientHello */
	if (length)
		tell_captured(task, mark, sk, AQ_HELLO, stream->seen, length);
	stream->seen += length;
	if (length == 0 || stream->seen >= stream->wanted)
		bpf_map_delete_elem(&streams, &key);
}

/* A datagram of the DNS that answers something: header of RFC 1035, 4.1.1. */
static __always_inline bool is_answer(const struct record *record, __u32 length)
{
	const __u8 *data = (const __u8 *)record->data;

	return length > 12 && (data[2] & 0x80) && (data[3] & 0xf) == 0 && (data[6] || data[7]);
}

static __always_inline bool is_dns_port(__u64 address)
{
	__u16 head[2] = {}; /* family and port, of IPv4 as of IPv6 */

	return address && !bpf_probe_read_user(head, sizeof(head), (void *)address) && bpf_ntohs(head[1]) == PORT_DNS;
}

/* Who sent what a call has received, where the socket is not connected. */
static __always_inline __u64 sender_of(const struct call *call)
{
	struct message message = {};

	if (call->operation == OP_RECEIVE)
		return call->arguments[4];
	if (call->operation == OP_RECVMSG && !call->compat &&
	    !bpf_probe_read_user(&message, sizeof(message), (void *)call->arguments[1]))
		return message.name;
	return 0;
}

/* One of the messages of recvmmsg; true when it is to be told. */
__noinline int capture_message(__u64 messages, __u32 index, __u32 connected)
{
	struct counted_message counted = {};

	if (bpf_probe_read_user(&counted, sizeof(counted), (void *)(messages + index * sizeof(counted))))
		return 0;
	if (!connected && !is_dns_port(counted.message.name))
		return 0;
	if (!begin_capture(counted.length))
		return 0;
	capture_vector(counted.message.vector, counted.message.count);
	return 1;
}

static __always_inline bool peeks(const struct call *call)
{
	if (call->operation == OP_RECEIVE || call->operation == OP_RECVMMSG)
		return call->arguments[3] & MSG_PEEK;
	return call->operation == OP_RECVMSG && (call->arguments[2] & MSG_PEEK);
}

static __always_inline void handle_received(struct task_struct *task, const struct mark *mark, const struct call *call,
					    __u64 result)
{
	__u32 which = SCRATCH_CALL, length, i;
	struct record *record;
	struct sock *sk = call->sk;
	__u64 key = (__u64)sk;
	struct stream *stream;
	__u16 port;

	if (result == 0 || peeks(call))
		return;
	port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (port != PORT_DNS && port != 0)
		return;
	if (BPF_CORE_READ(sk, sk_protocol) != IPPROTO_UDP) {
		stream = port ? bpf_map_lookup_elem(&streams, &key) : NULL;
		if (!stream || !stream->answers)
			return;
		length = capture(call, result);
		if (length)
			tell_captured(task, mark, sk, AQ_ANSWERS, stream->seen, length);
		stream->seen += result; /* what was not captured leaves a gap there */
		if (stream->seen >= stream->wanted)
			bpf_map_delete_elem(&streams, &key);
		return;
	}
	record = bpf_map_lookup_elem(&records, &which);
	if (!record)
		return;
	if (call->operation == OP_RECVMMSG) {
		for (i = 0; i < MESSAGES; i++) {
			if (i >= result || call->compat)
				break;
			if (capture_message(call->arguments[1], i, port)) {
				length = captured();
				if (is_answer(record, length))
					tell_captured(task, mark, sk, AQ_ANSWER, 0, length);
			}
		}
		return;
	}
	if (port == 0 && !is_dns_port(sender_of(call)))
		return;
	length = capture(call, result);
	if (is_answer(record, length))
		tell_captured(task, mark, sk, AQ_ANSWER, 0, length);
}

#endif
