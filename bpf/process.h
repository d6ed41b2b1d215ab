/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/* fork, exec, exit: always attached. They carry the mark down the tree and set it on what may be an agent. */
#ifndef AGENTQUERY_PROCESS_H
#define AGENTQUERY_PROCESS_H

#define CLONE_THREAD 0x00010000
#define SIGNAL_GROUP_EXIT 4 /* include/linux/sched/signal.h */
#define COMPONENTS 8 /* of the executable's path, from its end */
#define ARGUMENTS 3 /* argv[1..3] of an interpreter */
#define ARGUMENT_BYTES 512 /* of an argument, from its end */

/* Counters of the scan are kept in the map: what comes from memory the verifier does not track, so that the states of
 * the loop stay few. */
struct words {
	char component[AQ_LITERAL_MAX + 16];
	__u32 at;
	__u32 found;
	char argument[AQ_PATH_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct words);
} words SEC(".maps");

/* The pid in the task's own pid namespace: struct pid ends in one number for each level. */
static __always_inline __u32 ns_pid_of(struct task_struct *task)
{
	struct pid *pid = task->thread_pid;
	__u32 level = BPF_CORE_READ(pid, level), number = 0;

	bpf_probe_read_kernel(&number, sizeof(number),
			      (void *)pid + bpf_core_field_offset(struct pid, numbers) +
				      level * bpf_core_type_size(struct upid));
	return number;
}

/* copy_process: every new thread and process, io_uring's workers too (those have no sched_process_fork). The child does
 * not run yet, so nothing of it can come before this. */
SEC("tp_btf/task_newtask")
int BPF_PROG(on_newtask, struct task_struct *child, __u64 clone_flags)
{
	struct task_struct *parent = bpf_get_current_task_btf();
	struct aq_fork record = {};
	struct mark mark, *own;
	struct aq_slot *slot = slot_of(parent, &mark);

	if (!slot || slot->state == AQ_SLOT_FREE)
		return 0;
	own = bpf_task_storage_get(&marks, child, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (own) {
		*own = mark;
		own->exits = 0;
	}
	if (!is_shown(slot) || (clone_flags & CLONE_THREAD) || child->tgid != child->pid)
		return 0;
	COUNT(AQ_FORK, seen);
	if (!own) {
		COUNT(AQ_FORK, oversized); /* no memory for its mark: what it does will not be seen */
		return 0;
	}
	begin(&record.header, AQ_FORK, parent, &mark);
	record.child_pid = child->tgid;
	record.child_start_ns = child->start_boottime;
	record.child_ns_pid = ns_pid_of(child);
	submit(&record.header, sizeof(record), true);
	return 0;
}

/* Looks up the last components of the executable's path. Returns AQ_LITERAL, AQ_LAST and AQ_INTERPRETER as they hold. */
static __always_inline __u32 look_at_image(struct words *words, struct file *image)
{
	struct dentry *dentry = BPF_CORE_READ(image, f_path.dentry);
	__u32 found = 0;
	int i;

	for (i = 0; i < COMPONENTS; i++) {
		struct dentry *parent = BPF_CORE_READ(dentry, d_parent);
		__u32 length = BPF_CORE_READ(dentry, d_name.len), value;

		if (parent == dentry)
			break;
		if (length < AQ_LITERAL_MAX) {
			__builtin_memset(words->component, 0, AQ_LITERAL_MAX);
			bpf_probe_read_kernel(words->component, length & 63, BPF_CORE_READ(dentry, d_name.name));
			value = literal(words->component);
			found |= i == 0 ? value : value & AQ_LITERAL;
		}
		dentry = parent;
	}
	return found;
}

/* One byte of the argument; true at its end. A global function, verified once and not once a byte. */
__noinline int look_at_byte(__u32 index)
{
	__u32 zero = 0, at;
	struct words *own = bpf_map_lookup_elem(&words, &zero);
	char c;

	if (!own || index >= ARGUMENT_BYTES)
		return 1;
	c = own->argument[index];
	at = own->at;
	if (c != '/' && c != 0) {
		if (at < AQ_LITERAL_MAX)
			own->component[at] = c;
		own->at = at + 1;
		return 0;
	}
	if (at > 0 && at < AQ_LITERAL_MAX)
		own->found |= literal(own->component) & (c ? AQ_LITERAL : AQ_LITERAL | AQ_LAST);
	__builtin_memset(own->component, 0, AQ_LITERAL_MAX);
	own->at = 0;
	return c == 0;
}

/* Looks up the components of one argument, of a long one those in its last bytes. */
__noinline int look_at_argument(__u64 address, __u32 bytes)
{
	__u32 zero = 0, i;
	struct words *own = bpf_map_lookup_elem(&words, &zero);

	if (!own)
		return 0;
	if (bytes > ARGUMENT_BYTES) {
		address += bytes - ARGUMENT_BYTES;
		bytes = ARGUMENT_BYTES;
	}
	if (bpf_probe_read_user(own->argument, bytes & 1023, (void *)address))
		return 0;
	__builtin_memset(own->component, 0, AQ_LITERAL_MAX);
	own->at = 0;
	own->found = 0;
	for (i = 0; i < ARGUMENT_BYTES; i++) {
		if (look_at_byte(i))
			break;
	}
	return own->found;
}

static __always_inline __u32 look_at_arguments(struct words *words, __u64 at, __u64 end)
{
	__u32 found = 0;
	long length;
	int i;

	for (i = 0; i <= ARGUMENTS; i++) {
		if (at >= end)
			break;
		length = bpf_probe_read_user_str(words->argument, sizeof(words->argument), (void *)at);
		if (length <= 0 || length >= (long)sizeof(words->argument))
			break;
		if (i > 0)
			found |= look_at_argument(at, length);
		at += length;
	}
	return found;
}

static __always_inline bool may_be_agent(struct task_struct *task, struct file *image)
{
	__u32 zero = 0, found;
	struct words *own = bpf_map_lookup_elem(&words, &zero);

	if (!own || !image)
		return false;
	found = look_at_image(own, image);
	if (found & (AQ_LITERAL | AQ_LAST))
		return true;
	if (!(found & AQ_INTERPRETER))
		return false;
	return look_at_arguments(own, BPF_CORE_READ(task, mm, arg_start), BPF_CORE_READ(task, mm, arg_end));
}

/* A provisional mark of a slot of its own. */
static __always_inline bool mark_provisional(struct task_struct *task, struct mark *mark)
{
	struct aq_slot *slot;
	struct mark *own;

	if (bpf_map_pop_elem(&free_slots, &mark->slot))
		return false;
	slot = bpf_map_lookup_elem(&slots, &mark->slot);
	own = bpf_task_storage_get(&marks, task, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!slot || !own) {
		bpf_map_push_elem(&free_slots, &mark->slot, 0);
		return false;
	}
	slot->generation += 1;
	slot->tokens = TOKENS_MOST;
	slot->refilled_ns = bpf_ktime_get_boot_ns();
	slot->state = AQ_SLOT_PROVISIONAL;
	mark->generation = slot->generation;
	mark->exits = 0;
	*own = *mark;
	return true;
}

/* The exec that would have told of the mark is lost: nobody else gives its slot back. */
static __always_inline void unmark(struct mark *mark)
{
	struct aq_slot *slot = bpf_map_lookup_elem(&slots, &mark->slot);

	if (!slot)
		return;
	slot->state = AQ_SLOT_FREE;
	bpf_map_push_elem(&free_slots, &mark->slot, 0);
}

/* What an exec says of the process, but for its texts. */
static __always_inline void describe(struct record *record, struct task_struct *task)
{
	struct tty_struct *tty = BPF_CORE_READ(task, signal, tty);

	record->exec.cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	record->exec.parent = BPF_CORE_READ(task, real_parent, tgid);
	record->exec.ns_pid = ns_pid_of(task);
	record->exec.uid = BPF_CORE_READ(task, real_cred, uid.val);
	record->exec.gid = BPF_CORE_READ(task, real_cred, gid.val);
	record->exec.mount_ns = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
	record->exec.markers_length = 0;
	record->exec.tty[0] = 0;
	bpf_probe_read_kernel_str(record->exec.tty, sizeof(record->exec.tty),
				  tty ? (void *)tty + bpf_core_field_offset(struct tty_struct, name) : NULL);
}

/* begin_new_exec is done: the new image and its arguments are in place, and were just written, so they can be read. */
SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, int old_pid, struct linux_binprm *binary)
{
	__u32 which = SCRATCH_EXEC, at = 0;
	struct record *record;
	struct mark mark = { .slot = AQ_NO_SLOT };
	struct aq_slot *slot = slot_of(task, &mark);
	struct mm_struct *mm = task->mm;
	struct file *image = mm->exe_file;
	bool candidate, fresh = false, cut = false;
	__u32 markers = 0;
	__u64 start, end, bytes;
	long length;

	if ((slot && slot->state == AQ_SLOT_MUTED) || !is_heard())
		return 0;
	candidate = may_be_agent(task, image);
	if (control_now() && control_now()->look_for_markers)
		markers = look_at_environment(mm);
	if (!is_shown(slot)) {
		if (candidate || markers) {
			COUNT(AQ_EXEC, seen);
			if (!mark_provisional(task, &mark)) {
				COUNT(AQ_EXEC, throttled); /* every slot is in use */
				return 0;
			}
			fresh = true;
		} else if (control_now() && control_now()->show_every_exec) {
			COUNT(AQ_EXEC, seen);
			mark.slot = AQ_NO_SLOT;
			mark.generation = 0;
		} else {
			return 0;
		}
	} else {
		COUNT(AQ_EXEC, seen);
	}
	record = bpf_map_lookup_elem(&records, &which);
	if (!record)
		return 0;
	begin(&record->header, AQ_EXEC, task, &mark);
	if (candidate)
		record->header.flags |= AQ_CANDIDATE;
	describe(record, task);

	walk_file(which, image);
	record->exec.path_length = append_path(record, which, &at);

	if (at > AQ_DATA_MAX - AQ_PATH_MAX)
		goto oversized; /* cannot be: the verifier wants it said */
	length = bpf_probe_read_kernel_str(&record->data[at], AQ_PATH_MAX, BPF_CORE_READ(binary, filename));
	length = length > 0 ? (length - 1) & (AQ_PATH_MAX - 1) : 0;
	record->exec.exec_path_length = length;
	at += length;

	walk_path(which, (__u64)BPF_CORE_READ(task, fs, pwd.dentry), (__u64)BPF_CORE_READ(task, fs, pwd.mnt));
	record->exec.cwd_length = append_path(record, which, &at);

	start = BPF_CORE_READ(mm, arg_start);
	end = BPF_CORE_READ(mm, arg_end);
	bytes = end - start;
	if (bytes > AQ_ARGV_MAX - 1) {
		bytes = AQ_ARGV_MAX - 1;
		cut = true;
	}
	if (at > AQ_DATA_MAX - AQ_ARGV_MAX)
		goto oversized;
	KEEP_BOUND(bytes);
	bytes &= AQ_ARGV_MAX - 1;
	if (bpf_probe_read_user(&record->data[at], bytes, (void *)start)) {
		bytes = 0;
		cut = true;
	}
	if (cut)
		record->header.flags |= AQ_TRUNCATED;
	record->exec.argv_length = bytes;
	at += bytes;
	if (markers)
		at += append_markers(record, at);
	if (at > AQ_DATA_MAX)
		goto oversized;
	if (!submit(&record->header, AQ_TEXT + at, true) && fresh)
		unmark(&mark);
	return 0;
oversized:
	COUNT(AQ_EXEC, oversized);
	if (fresh)
		unmark(&mark);
	return 0;
}

/* do_exit: signal->live has been counted down, so zero means that no thread is left. Threads that end at once may all
 * find it zero: the first of them tells. The first thread of the process, on which they agree, is there until all have
 * ended (delay_group_leader). */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	struct aq_exit record = {};
	struct mark mark, *of_process;
	struct aq_slot *slot = slot_of(task, &mark);

	if (!is_shown(slot) || BPF_CORE_READ(task, signal, live.counter) != 0)
		return 0;
	of_process = bpf_task_storage_get(&marks, task->group_leader, NULL, 0);
	if (of_process && __sync_fetch_and_add(&of_process->exits, 1) != 0)
		return 0;
	COUNT(AQ_EXIT, seen);
	begin(&record.header, AQ_EXIT, task, &mark);
	/* The rule of wait_task_zombie. */
	if (BPF_CORE_READ(task, signal, flags) & SIGNAL_GROUP_EXIT)
		record.status = BPF_CORE_READ(task, signal, group_exit_code);
	else
		record.status = BPF_CORE_READ(task, group_leader, exit_code);
	submit(&record.header, sizeof(record), true);
	return 0;
}

#endif
