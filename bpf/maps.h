/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/* The maps, and what every program needs of them: marks, counters, the way into the ring. */
#ifndef AGENTQUERY_MAPS_H
#define AGENTQUERY_MAPS_H

#define FILES_MAX 16384
#define SOCKETS_MAX 16384
#define FLOWS_MAX 8192

/* Hides a value from the compiler, so that the bound written after it is tested where the verifier needs it. */
#define KEEP_BOUND(value) asm volatile("" : "+r"(value))

#define TOKENS_PER_SECOND 200000ull /* events a second that one tree may send */
#define TOKENS_MOST 400000ull /* and at once */
/* A quarter of it is what the recorder has read and not made durable yet. */
#define RING_BYTES (4u << 20)
/* Without a word of the recorder for so long, programs that outlived it tell nothing any more. */
#define SILENCE_NS (600ull * 1000000000)

struct mark {
	__u32 slot;
	__u32 generation;
	__u32 exits; /* of a process's first thread: how many of its threads found that they are the last */
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, RING_BYTES);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct mark);
} marks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, AQ_SLOTS);
	__type(key, __u32);
	__type(value, struct aq_slot);
} slots SEC(".maps");

/* Slots that can be given out; filled by the recorder. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, AQ_SLOTS);
	__uint(key_size, 0);
	__uint(value_size, sizeof(__u32));
} free_slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(key_size, AQ_LITERAL_MAX);
	__uint(value_size, sizeof(__u32));
} literals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, AQ_KINDS);
	__type(key, __u32);
	__type(value, struct aq_counters);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} sequences SEC(".maps"); /* of records, of opens */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct aq_control);
} control SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct aq_recorder);
} recorder SEC(".maps");

/* Open files by the address of their struct file, and by their open_id those that have ended but could not be told. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FILES_MAX);
	__type(key, __u64);
	__type(value, struct aq_file);
} files SEC(".maps");

/* Which file a descriptor is, for at the exit of close the kernel has forgotten. Old entries may go: the sweep finds
 * what was missed. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2 * FILES_MAX);
	__type(key, __u64); /* thread group << 32 | descriptor */
	__type(value, __u64);
} descriptors SEC(".maps");

/* Sockets whose end is to be told. A table and no socket storage: at the exit of a system call the socket comes from the
 * descriptor, and the verifier takes no pointer that was read there for a storage's owner. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SOCKETS_MAX);
	__type(key, __u64);
	__type(value, struct aq_socket);
} sockets SEC(".maps");

/* UDP, by socket and peer; and which they are of each socket, for its end. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FLOWS_MAX);
	__type(key, struct aq_flow_key);
	__type(value, struct aq_flow);
} flows SEC(".maps");

struct flow_place {
	__u64 socket_id;
	__u64 index;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, FLOWS_MAX);
	__type(key, struct flow_place);
	__type(value, struct aq_flow_key);
} flow_places SEC(".maps");

/* The record being made. One for each program that can interrupt, or be interrupted by, another. */
#define SCRATCH_EXEC 0
#define SCRATCH_CALL 1
#define SCRATCH_ADOPT 2
#define SCRATCHES 3

struct record {
	union {
		struct aq_header header;
		struct aq_exec exec;
		struct aq_open open;
		struct aq_change change;
		struct aq_name name;
	};
	char data[AQ_DATA_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCHES);
	__type(key, __u32);
	__type(value, struct record);
} records SEC(".maps");

static __always_inline __u32 literal(const char *component)
{
	__u32 *value = bpf_map_lookup_elem(&literals, component);

	return value ? *value : 0;
}

static __always_inline struct aq_control *control_now(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&control, &zero);
}

static __always_inline struct aq_counters *counters_of(__u32 kind)
{
	return bpf_map_lookup_elem(&counters, &kind);
}

#define COUNT(kind, field)                                                                 \
	do {                                                                               \
		struct aq_counters *counters_ = counters_of(kind);                         \
		if (counters_)                                                             \
			__sync_fetch_and_add(&counters_->field, 1);                        \
	} while (0)

/* The slot of a task, when the slot is in the same use as when the task was marked. */
static __always_inline struct aq_slot *slot_of(struct task_struct *task, struct mark *mark)
{
	struct mark *found = bpf_task_storage_get(&marks, task, NULL, 0);
	struct aq_slot *slot;

	if (!found)
		return NULL;
	*mark = *found;
	slot = bpf_map_lookup_elem(&slots, &mark->slot);
	if (!slot || slot->generation != mark->generation)
		return NULL;
	return slot;
}

static __always_inline struct aq_recorder *recorder_now(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&recorder, &zero);
}

/* Whether there is a recorder, or will be one soon. */
static __always_inline bool is_heard(void)
{
	struct aq_recorder *now = recorder_now();

	return now && (now->heard_ns == 0 || bpf_ktime_get_boot_ns() < now->heard_ns + SILENCE_NS);
}

static __always_inline bool is_shown(const struct aq_slot *slot)
{
	return slot && (slot->state == AQ_SLOT_PROVISIONAL || slot->state == AQ_SLOT_CONFIRMED) && is_heard();
}

/* Bytes in the ring that the recorder has not read. */
static __always_inline __u64 unread(void)
{
	struct aq_recorder *now = recorder_now();

	return now ? bpf_ringbuf_query(&events, BPF_RB_PROD_POS) - now->read_position : 0;
}

/* Fills the header but for the length, in the name of a process. Every record that is begun ends in submit() or is
 * counted otherwise. */
static __always_inline void begin_as(struct aq_header *header, __u32 kind, const struct aq_owner *owner)
{
	header->version = AQ_VERSION;
	header->kind = kind;
	header->flags = 0;
	header->cpu = bpf_get_smp_processor_id();
	header->boot_ns = bpf_ktime_get_boot_ns();
	header->start_ns = owner->start_ns;
	header->pid = owner->pid;
	header->tid = owner->tid;
	header->slot = owner->slot;
	header->generation = owner->generation;
}

static __always_inline void own(struct aq_owner *owner, struct task_struct *task, const struct mark *mark)
{
	owner->start_ns = task->group_leader->start_boottime;
	owner->pid = task->tgid;
	owner->tid = task->pid;
	owner->slot = mark->slot;
	owner->generation = mark->generation;
}

static __always_inline void begin(struct aq_header *header, __u32 kind, struct task_struct *task, const struct mark *mark)
{
	struct aq_owner owner;

	own(&owner, task, mark);
	begin_as(header, kind, &owner);
}

#define RECORDS 0
#define OPENS 1

static __always_inline __u64 next_sequence(__u32 of)
{
	__u64 *sequence = bpf_map_lookup_elem(&sequences, &of);

	return sequence ? __sync_fetch_and_add(sequence, 1) : 0;
}

/* Takes a token of the tree; false when it has none left. Approximate: two CPUs may take the same one. */
static __always_inline bool take_token(__u32 index, __u64 now)
{
	struct aq_slot *slot = bpf_map_lookup_elem(&slots, &index);
	__u64 tokens, gained;

	if (!slot)
		return true;
	tokens = slot->tokens;
	if (now > slot->refilled_ns + 1000000) {
		gained = (now - slot->refilled_ns) / 1000 * TOKENS_PER_SECOND / 1000000;
		tokens = gained > TOKENS_MOST ? TOKENS_MOST : tokens + gained;
		if (tokens > TOKENS_MOST)
			tokens = TOKENS_MOST;
		slot->refilled_ns = now;
	}
	if (tokens == 0) {
		slot->tokens = 0;
		return false;
	}
	slot->tokens = tokens - 1;
	return true;
}

#define ADMITTED 0
#define RING_FULL 1
#define THROTTLED 2

/* Whether a file's record may be sent: these stop when the ring is three quarters full, so that exec, exit and connect
 * keep the rest, and when the tree has no token, which is taken here. */
static __always_inline int admit(__u32 slot, __u64 now)
{
	if (bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > RING_BYTES / 4 * 3)
		return RING_FULL;
	return take_token(slot, now) ? ADMITTED : THROTTLED;
}

#define WAKE_ABOVE (256 * 1024)
#define WAKE_EVERY (64 * 1024)

/* Whether a record of that length is one at which a recorder that has much to read is woken. Not each: a wakeup costs more
 * than the record, and one that is behind is awake. */
static __always_inline bool is_due(__u32 length)
{
	__u64 position = bpf_ringbuf_query(&events, BPF_RB_PROD_POS);

	return unread() >= WAKE_ABOVE && position / WAKE_EVERY != (position + length) / WAKE_EVERY;
}

/*
 * Puts a record into the ring. Those of files wake the recorder only when much is waiting. The others are urgent and
 * wake it at once, but for forks: an exec or an exit follows each, and a wakeup costs more than the record.
 */
static __always_inline bool put(struct aq_header *header, __u32 length, bool urgent)
{
	__u64 flags = BPF_RB_FORCE_WAKEUP;

	header->length = length;
	if ((!urgent || header->kind == AQ_FORK) && !is_due(length))
		flags = BPF_RB_NO_WAKEUP;
	if (bpf_ringbuf_output(&events, header, length, flags)) {
		COUNT(header->kind, ring_full);
		return false;
	}
	COUNT(header->kind, submitted);
	return true;
}

/* Offers a record to the ring: an urgent one whenever it fits, others when they are admitted. */
static __always_inline bool submit(struct aq_header *header, __u32 length, bool urgent)
{
	header->sequence = next_sequence(RECORDS);
	if (!urgent) {
		switch (admit(header->slot, header->boot_ns)) {
		case RING_FULL:
			COUNT(header->kind, ring_full);
			return false;
		case THROTTLED:
			COUNT(header->kind, throttled);
			return false;
		}
	}
	return put(header, length, urgent);
}

/* The same of what may come in softirq. It does not wake the recorder, which looks every few milliseconds while an agent
 * lives: a wakeup is an interrupt, behind which the next softirq runs within this program, and is not heard by it. */
static __always_inline bool submit_quietly(struct aq_header *header, __u32 length)
{
	header->sequence = next_sequence(RECORDS);
	return put(header, length, false);
}

#endif
