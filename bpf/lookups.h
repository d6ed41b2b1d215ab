/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * getaddrinfo of the C library: which name a program asked for, and which addresses it got, whoever resolved them (nscd,
 * systemd-resolved, a file). Attached to each C library that agents run with; all its users come here, and those that
 * are no agent's leave after a look-up of task storage.
 */
#ifndef AGENTQUERY_LOOKUPS_H
#define AGENTQUERY_LOOKUPS_H

#define LOOKUP_ENTRIES (3 * AQ_ADDRESSES_MAX) /* each address comes once for each type of socket */

/* The arguments that are needed at the return, and how far the result has been read, by thread. Of a call that never
 * returns the entry goes when it is old. */
struct lookup {
	__u64 name;
	__u64 result;
	__u64 at;
	__u32 type;
	__u32 count;
	__u8 addresses[AQ_ADDRESSES_MAX][16];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct lookup);
} lookups SEC(".maps");

struct lookup_record {
	struct aq_name name;
	char host[AQ_HOST_MAX];
	__u8 addresses[AQ_ADDRESSES_MAX][16];
};

/* struct addrinfo of 64-bit libraries, and the part of struct sockaddr_in6 that is needed. */
struct address_info {
	__u32 flags;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u64 length;
	__u64 address;
	__u64 canonical_name;
	__u64 next;
};

struct address_of {
	__u16 family;
	__u16 port;
	__u8 v4[4]; /* v6: flow label */
	__u8 v6[16];
};

#if defined(__TARGET_ARCH_x86)
#define USER_ARGUMENT_1(registers) ((registers)->di)
#define USER_ARGUMENT_4(registers) ((registers)->cx)
#define USER_RESULT(registers) ((registers)->ax)
#else
#define USER_ARGUMENT_1(registers) ((registers)->regs[0])
#define USER_ARGUMENT_4(registers) ((registers)->regs[3])
#define USER_RESULT(registers) ((registers)->regs[0])
#endif

/* One entry of the result; true at the end. */
__noinline int lookup_step(__u32 thread)
{
	struct lookup *lookup = bpf_map_lookup_elem(&lookups, &thread);
	struct address_info info = {};
	struct address_of address = {};
	__u32 count;
	__u8 *to;

	if (!lookup || !lookup->at || bpf_probe_read_user(&info, sizeof(info), (void *)lookup->at))
		return 1;
	count = lookup->count;
	if (count >= AQ_ADDRESSES_MAX)
		return 1;
	KEEP_BOUND(count);
	to = lookup->addresses[count & (AQ_ADDRESSES_MAX - 1)];
	lookup->at = info.next;
	if (lookup->type == 0)
		lookup->type = info.type;
	if (info.type != lookup->type)
		return 0;
	if (bpf_probe_read_user(&address, sizeof(address), (void *)info.address) &&
	    bpf_probe_read_user(&address, 8, (void *)info.address)) /* of IPv4 it ends earlier */
		return 1;
	if (address.family == 10) { /* AF_INET6 */
		__builtin_memcpy(to, address.v6, 16);
	} else if (address.family == 2) { /* AF_INET */
		to[10] = 0xff;
		to[11] = 0xff;
		__builtin_memcpy(to + 12, address.v4, 4);
	} else {
		return 0;
	}
	lookup->count = count + 1;
	return 0;
}

SEC("uprobe")
int on_lookup(struct pt_regs *registers)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct lookup lookup = {};
	struct mark mark;
	__u32 thread;

	lookup.name = USER_ARGUMENT_1(registers);
	lookup.result = USER_ARGUMENT_4(registers);
	if (!lookup.name || !lookup.result || !is_shown(slot_of(task, &mark)))
		return 0;
	thread = task->pid;
	bpf_map_update_elem(&lookups, &thread, &lookup, BPF_ANY);
	return 0;
}

/* The record is made in the ring: programs of this kind can be preempted by others, so none of them has memory of its CPU. */
SEC("uretprobe")
int on_lookup_done(struct pt_regs *registers)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct lookup_record *record;
	struct lookup *lookup;
	__u32 thread = task->pid, i;
	struct mark mark;
	long length;

	lookup = bpf_map_lookup_elem(&lookups, &thread);
	if (!lookup)
		return 0;
	if ((int)USER_RESULT(registers) != 0 || !is_shown(slot_of(task, &mark)))
		goto done;
	bpf_probe_read_user(&lookup->at, sizeof(lookup->at), (void *)lookup->result);
	for (i = 0; i < LOOKUP_ENTRIES; i++) {
		if (lookup_step(thread))
			break;
	}
	COUNT(AQ_NAME, seen);
	switch (admit(mark.slot, bpf_ktime_get_boot_ns())) {
	case RING_FULL:
		next_sequence(RECORDS);
		COUNT(AQ_NAME, ring_full);
		goto done;
	case THROTTLED:
		next_sequence(RECORDS);
		COUNT(AQ_NAME, throttled);
		goto done;
	}
	record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
	if (!record) {
		next_sequence(RECORDS);
		COUNT(AQ_NAME, ring_full);
		goto done;
	}
	__builtin_memset(record, 0, sizeof(*record));
	begin(&record->name.header, AQ_NAME, task, &mark);
	record->name.header.sequence = next_sequence(RECORDS);
	record->name.header.length = sizeof(*record);
	record->name.what = AQ_LOOKUP;
	record->name.net_ns = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
	record->name.mount_ns = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
	length = bpf_probe_read_user_str(record->host, sizeof(record->host), (void *)lookup->name);
	record->name.length = length > 0 ? length - 1 : 0;
	record->name.addresses = lookup->count;
	__builtin_memcpy(record->addresses, lookup->addresses, sizeof(record->addresses));
	COUNT(AQ_NAME, submitted);
	bpf_ringbuf_submit(record, unread() < 256 * 1024 ? BPF_RB_NO_WAKEUP : BPF_RB_FORCE_WAKEUP);
done:
	bpf_map_delete_elem(&lookups, &thread);
	return 0;
}

#endif
