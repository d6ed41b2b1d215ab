/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * Reads of the kernel's memory. Since 6.2 a program may say what a pointer points to, and then reads by plain loads, which
 * give 0 where there is nothing; before, each read is the call of a helper, which costs ten times as much.
 */
#ifndef AGENTQUERY_READS_H
#define AGENTQUERY_READS_H

extern void *bpf_rdonly_cast(const void *object, __u32 btf_id) __ksym __weak;

#define CAN_CAST bpf_ksym_exists(bpf_rdonly_cast)
#define CAST(pointer) ((typeof(pointer))bpf_rdonly_cast((pointer), bpf_core_type_id_kernel(typeof(*(pointer)))))
/* One field of a structure of the kernel's. */
#define READ(pointer, field) (CAN_CAST ? CAST(pointer)->field : BPF_CORE_READ(pointer, field))

static __always_inline __u64 read_word(const void *at)
{
	__u64 word = 0;

	if (CAN_CAST)
		return CAST((struct timespec64 *)at)->tv_sec;
	bpf_probe_read_kernel(&word, sizeof(word), at);
	return word;
}

/* A field that is a pointer, as the number that global functions take. */
#define ADDRESS_IN(pointer, field) read_word(&(pointer)->field)

#endif
