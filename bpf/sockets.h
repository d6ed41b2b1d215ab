/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * Outbound TCP. The owner is taken where the socket leaves CLOSE for SYN_SENT, which is in the task that connects, and
 * kept with the socket: its later states come in softirq, under whatever task runs there.
 */
#ifndef AGENTQUERY_SOCKETS_H
#define AGENTQUERY_SOCKETS_H

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define TCP_SYN_SENT 2
#define TCP_CLOSE 7
#define EINPROGRESS 115
#define EALREADY 114
#define EISCONN 106
#define EINTR 4
#define ERESTARTSYS 512 /* include/linux/errno.h: what a signal makes of a call that may start anew */

struct address {
	__u16 family;
	__u16 port;
	__u8 v4[4]; /* v6: flow label */
	__u8 v6[16];
};

static __always_inline void read_socket(struct aq_connection *record, struct sock *sk)
{
	struct socket *socket = BPF_CORE_READ(sk, sk_socket);

	record->socket_id = (__u64)sk;
	record->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	record->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
	record->remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	record->net_ns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	if (socket)
		record->inode = BPF_CORE_READ((struct socket_alloc *)socket, vfs_inode.i_ino);
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

/* The connection goes on when connect does not wait for it, or no longer. */
static __always_inline bool goes_on(long result)
{
	return result >= 0 || result == -EINPROGRESS || result == -EINTR || result == -ERESTARTSYS;
}

static __always_inline void handle_connect(struct task_struct *task, const struct mark *mark, const struct call *call, long result)
{
	struct file *file = file_at(task, call->arguments[0]);
	struct aq_connection record = {};
	struct address address = {};
	__u64 length = call->arguments[2];
	struct socket *socket;
	struct sock *sk;

	if (!file || (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return;
	socket = BPF_CORE_READ(file, private_data);
	sk = BPF_CORE_READ(socket, sk);
	if (!sk || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return;
	if (length > sizeof(address))
		length = sizeof(address);
	bpf_probe_read_user(&address, length & 31, (void *)call->arguments[1]);
	if (address.family != AF_INET && address.family != AF_INET6)
		return; /* AF_UNSPEC: a disconnect */
	if (result == -EALREADY || result == -EISCONN)
		return; /* asks after a connect that was shown */
	COUNT(AQ_CONNECTION, seen);
	begin(&record.header, AQ_CONNECTION, task, mark);
	read_socket(&record, sk);
	record.fd = call->arguments[0];
	record.error = goes_on(result) ? 0 : -result;
	if (record.error) {
		/* What was asked for: the socket has forgotten it. */
		record.remote_port = bpf_ntohs(address.port);
		if (address.family == AF_INET6)
			__builtin_memcpy(record.remote, address.v6, 16);
		else
			__builtin_memcpy(record.remote, address.v4, 4);
	}
	submit(&record.header, sizeof(record), true);
}

/* tcp_set_state */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_socket_state, struct sock *sk, int old, int new)
{
	struct aq_connection record = {};
	struct task_struct *task;
	struct aq_owner *owner;
	struct mark mark;

	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (old == TCP_CLOSE && new == TCP_SYN_SENT) {
		task = bpf_get_current_task_btf();
		if (!is_shown(slot_of(task, &mark)))
			return 0;
		COUNT(AQ_CONNECTION, seen);
		owner = bpf_sk_storage_get(&owners, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		if (!owner) {
			COUNT(AQ_CONNECTION, oversized); /* no memory: its states will not be seen, but connect will */
			return 0;
		}
		own(owner, task, &mark);
		expect_names(sk);
	} else {
		owner = bpf_sk_storage_get(&owners, sk, NULL, 0);
		if (!owner)
			return 0;
		COUNT(AQ_CONNECTION, seen);
	}
	begin_as(&record.header, AQ_CONNECTION, owner);
	read_socket(&record, sk);
	record.fd = -1;
	record.state = new;
	if (new == TCP_CLOSE) {
		record.error = BPF_CORE_READ(sk, sk_err);
		bpf_sk_storage_delete(&owners, sk);
		forget_names(sk);
	}
	submit(&record.header, sizeof(record), true);
	return 0;
}

#endif
