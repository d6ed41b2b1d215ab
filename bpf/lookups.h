/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * getaddrinfo of the C library: which name a program asked for, and which addresses it got, whoever resolved them (nscd,
 * systemd-resolved, a file). Attached to each C library that agents run with; all its users come here, and those that
 * are no agent's leave after a look-up of task storage.
 */
#ifndef AGENTQUERY_LOOKUPS_H
#define AGENTQUERY_LOOKUPS_H

/* The arguments that are needed at the return, by thread. Of one that never returns the entry goes when it is old. */
struct lookup {
	__u64 name;
	__u64 result;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
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

SEC("uprobe")
int on_lookup(struct pt_regs *registers)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct lookup lookup = { .name = USER_ARGUMENT_1(registers), .result = USER_ARGUMENT_4(registers) };
	struct mark mark;
	__u32 thread;

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
	struct address_info info = {};
	struct address_of address = {};
	struct lookup lookup, *found;
	__u32 thread = task->pid, count = 0, i;
	__u64 at = 0, now, flags;
	struct mark mark;
	long length;

	found = bpf_map_lookup_elem(&lookups, &thread);
	if (!found)
		return 0;
	lookup = *found;
	bpf_map_delete_elem(&lookups, &thread);
	if ((int)USER_RESULT(registers) != 0 || !is_shown(slot_of(task, &mark)))
		return 0;
	COUNT(AQ_NAME, seen);
	now = bpf_ktime_get_boot_ns();
	switch (admit(mark.slot, now)) {
	case RING_FULL:
		next_sequence(RECORDS);
		COUNT(AQ_NAME, ring_full);
		return 0;
	case THROTTLED:
		next_sequence(RECORDS);
		COUNT(AQ_NAME, throttled);
		return 0;
	}
	record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
	if (!record) {
		next_sequence(RECORDS);
		COUNT(AQ_NAME, ring_full);
		return 0;
	}
	__builtin_memset(record, 0, sizeof(*record));
	begin(&record->name.header, AQ_NAME, task, &mark);
	record->name.header.sequence = next_sequence(RECORDS);
	record->name.header.length = sizeof(*record);
	record->name.what = AQ_LOOKUP;
	record->name.net_ns = BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
	record->name.mount_ns = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
	length = bpf_probe_read_user_str(record->host, sizeof(record->host), (void *)lookup.name);
	record->name.length = length > 0 ? length - 1 : 0;
	bpf_probe_read_user(&at, sizeof(at), (void *)lookup.result);
	for (i = 0; i < AQ_ADDRESSES_MAX; i++) {
		if (!at || bpf_probe_read_user(&info, sizeof(info), (void *)at))
			break;
		at = info.next;
		if (bpf_probe_read_user(&address, sizeof(address), (void *)info.address) &&
		    bpf_probe_read_user(&address, 8, (void *)info.address))
			break;
		if (address.family == 10) { /* AF_INET6 */
			__builtin_memcpy(record->addresses[i], address.v6, 16);
		} else if (address.family == 2) { /* AF_INET */
			record->addresses[i][10] = 0xff;
			record->addresses[i][11] = 0xff;
			__builtin_memcpy(&record->addresses[i][12], address.v4, 4);
		}
		count = i + 1;
	}
	record->name.addresses = count;
	flags = unread() < 256 * 1024 ? BPF_RB_NO_WAKEUP : BPF_RB_FORCE_WAKEUP;
	COUNT(AQ_NAME, submitted);
	bpf_ringbuf_submit(record, flags);
	return 0;
}

#endif
