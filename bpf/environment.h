/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * What agents leave in the environment of what they start, for a process that has no mark of their tree: it was started by
 * something that ran before. Looked at only while an agent with such variables lives, and of the others nothing is kept.
 */
#ifndef AGENTQUERY_ENVIRONMENT_H
#define AGENTQUERY_ENVIRONMENT_H

#define VARIABLES 512 /* of an environment, from its beginning */
#define MARKER_MAX 128 /* bytes of one that are kept; a power of two */
#define MARKERS_MAX 512 /* and of all */

/* Counters are kept in the map, as in struct words. */
struct environment {
	char name[AQ_LITERAL_MAX + 16];
	__u64 at;
	__u64 end;
	__u32 named;
	__u32 kept;
	char markers[MARKERS_MAX + MARKER_MAX];
	char variable[AQ_PATH_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct environment);
} environments SEC(".maps");

/* Most variables are left behind by their first bytes: what follows costs as much as all else of an exec's look. */
static __always_inline bool may_be_marker(const struct environment *own)
{
	struct aq_control *asked = control_now();
	__u32 hash = *(const __u32 *)own->variable * AQ_MARKER_HASH >> 24;

	return asked && asked->marker_bits[hash >> 6] >> (hash & 63) & 1;
}

/* One byte of the name; true at its end. */
__noinline int look_at_name(__u32 index)
{
	__u32 zero = 0;
	struct environment *own = bpf_map_lookup_elem(&environments, &zero);
	char c;

	if (!own || index >= AQ_LITERAL_MAX)
		return 1;
	c = own->variable[index];
	if (c == '=') {
		own->named = 1;
		return 1;
	}
	own->name[index] = c;
	return c == 0;
}

/* One variable; true when there is none left. A long one is taken for several, which the recorder knows better. */
__noinline int look_at_variable(void)
{
	__u32 zero = 0, i, kept, bytes;
	struct environment *own = bpf_map_lookup_elem(&environments, &zero);
	long length;

	if (!own || own->at >= own->end)
		return 1;
	length = bpf_probe_read_user_str(own->variable, sizeof(own->variable), (void *)own->at);
	if (length <= 0)
		return 1;
	own->at += length;
	if (!may_be_marker(own))
		return 0;
	__builtin_memset(own->name, 0, sizeof(own->name));
	own->named = 0;
	for (i = 0; i < AQ_LITERAL_MAX - 1; i++) {
		if (look_at_name(i))
			break;
	}
	if (!own->named || !(literal(own->name) & AQ_MARKER))
		return 0;
	kept = own->kept;
	bytes = length > MARKER_MAX - 1 ? MARKER_MAX - 1 : length;
	KEEP_BOUND(kept);
	if (kept > MARKERS_MAX - MARKER_MAX)
		return 1;
	KEEP_BOUND(bytes);
	bytes &= MARKER_MAX - 1;
	bpf_probe_read_kernel(&own->markers[kept], bytes, own->variable);
	/* What was cut has no NUL. */
	own->markers[kept + bytes] = 0;
	own->kept = kept + bytes + (length > bytes);
	return 0;
}

/* Bytes of the variables that an agent may have set. */
static __always_inline __u32 look_at_environment(struct mm_struct *mm)
{
	__u32 zero = 0, i;
	struct environment *own = bpf_map_lookup_elem(&environments, &zero);

	if (!own)
		return 0;
	own->at = BPF_CORE_READ(mm, env_start);
	own->end = BPF_CORE_READ(mm, env_end);
	own->kept = 0;
	for (i = 0; i < VARIABLES; i++) {
		if (look_at_variable())
			break;
	}
	return own->kept;
}

/* Puts them behind the record's other texts; how many bytes. */
static __always_inline __u32 append_markers(struct record *record, __u32 at)
{
	__u32 zero = 0, bytes;
	struct environment *own = bpf_map_lookup_elem(&environments, &zero);

	if (!own || at > AQ_DATA_MAX - MARKERS_MAX)
		return 0; /* no room behind arguments and paths of the greatest length */
	bytes = own->kept;
	KEEP_BOUND(bytes);
	if (bytes > MARKERS_MAX)
		return 0;
	if (bpf_probe_read_kernel(&record->data[at], bytes, own->markers))
		return 0;
	record->exec.markers_length = bytes;
	return bytes;
}

#endif
