/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * What runs already: iterators, run by the recorder. They mark it, and write the same records of it to their reader that
 * the ring would have got, had they been there at its beginning.
 *
 * Each marks first and looks then: what changes after the mark is told by the ring, so that between the two nothing is
 * missed, only told twice. When the reader's buffer is full the kernel calls them again for the same object.
 */
#ifndef AGENTQUERY_ADOPT_H
#define AGENTQUERY_ADOPT_H

#define ANCESTORS 64

/* The program that a process runs, as at its exec; its arguments only the process can read. */
static __always_inline void write_program(struct seq_file *seq, struct task_struct *task, const struct mark *mark)
{
	__u32 which = SCRATCH_ADOPT, at = 0;
	struct record *record = bpf_map_lookup_elem(&records, &which);
	struct file *image = BPF_CORE_READ(task, mm, exe_file);

	if (!record)
		return;
	begin(&record->header, AQ_EXEC, task, mark);
	describe(record, task);
	record->exec.path_length = 0;
	record->exec.exec_path_length = 0;
	record->exec.argv_length = 0;
	if (image) {
		walk_file(which, image);
		record->exec.path_length = append_path(record, which, &at);
	}
	walk_path(which, (__u64)BPF_CORE_READ(task, fs, pwd.dentry), (__u64)BPF_CORE_READ(task, fs, pwd.mnt));
	record->exec.cwd_length = append_path(record, which, &at);
	if (at > AQ_DATA_MAX)
		return;
	record->header.length = AQ_TEXT + at;
	record->header.sequence = 0;
	bpf_seq_write(seq, record, AQ_TEXT + at);
}

/* A process whose on_exit is yet to come: do_exit counts the living threads down before it. */
static __always_inline bool will_exit(struct task_struct *task)
{
	return BPF_CORE_READ(task, signal, live.counter) > 0;
}

/* Every process that has a program and no mark. */
SEC("iter/task")
int list_programs(struct bpf_iter__task *context)
{
	struct task_struct *task = context->task;
	struct mark mark = { .slot = AQ_NO_SLOT };
	struct aq_slot *slot;

	if (!task || task->pid != task->tgid || !BPF_CORE_READ(task, mm) || !will_exit(task))
		return 0;
	slot = slot_of(task, &mark);
	if (slot && slot->state != AQ_SLOT_FREE)
		return 0;
	mark.slot = AQ_NO_SLOT;
	mark.generation = 0;
	write_program(context->meta->seq, task, &mark);
	return 0;
}

static __always_inline bool is_below(struct task_struct *task, __u32 root)
{
	struct task_struct *above = task;
	int i;

	for (i = 0; i < ANCESTORS; i++) {
		__u32 pid = BPF_CORE_READ(above, tgid);

		if (pid == root)
			return true;
		if (pid <= 1)
			return false;
		above = BPF_CORE_READ(above, real_parent);
	}
	return false;
}

/* Marks a process, its threads and its descendants as the control says, and lists them. What has a mark in use keeps
 * it: the ring tells of it already. A fork from a task that is not yet marked may be missed: run it again until nothing
 * is new. */
SEC("iter/task")
int mark_tree(struct bpf_iter__task *context)
{
	struct task_struct *task = context->task;
	struct aq_control *asked = control_now();
	struct mark mark = {}, *own;
	struct aq_slot *slot;

	if (!task || !asked || asked->mark_root == 0 || !is_below(task, asked->mark_root))
		return 0;
	slot = slot_of(task, &mark);
	if (!slot || slot->state == AQ_SLOT_FREE) {
		mark.slot = asked->mark_slot;
		mark.generation = asked->mark_generation;
		mark.exits = 0;
		own = bpf_task_storage_get(&marks, task, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (!own)
			return 0;
		*own = mark;
		slot = slot_of(task, &mark);
	}
	if (task->pid == task->tgid && is_shown(slot) && will_exit(task))
		write_program(context->meta->seq, task, &mark);
	return 0;
}

/* An open socket that is connected, or waits for whoever connects. The owner is set before the state is read: what comes
 * after is told by the programs. */
static __always_inline void adopt_socket(struct seq_file *seq, struct task_struct *task, const struct mark *mark,
					 struct file *file, struct sock *sk, int fd)
{
	enum transport transport = transport_of(sk);
	__u64 key = transport == TCP ? (__u64)sk : (__u64)file;
	struct aq_unix_connection *record = unix_scratch(SCRATCH_ADOPT);
	__u32 length = sizeof(struct aq_connection);
	struct aq_socket *entry;
	struct aq_owner owner;
	struct sock *peer;
	bool told;

	if (!record || transport == NO_TRANSPORT || bpf_map_lookup_elem(&sockets, &key))
		return; /* or another process' too, which came first, or seen at its call */
	own(&owner, task, mark);
	if (transport == TCP) {
		if (!take_tcp(sk, &owner, BPF_CORE_READ(sk, __sk_common.skc_state)))
			return;
	} else {
		entry = take_other(file, &owner);
		if (!entry)
			return;
		remember_descriptor_of(task, fd, file);
	}
	begin_as(&record->connection.header, AQ_CONNECTION, &owner);
	read_socket(&record->connection, sk);
	record->connection.fd = fd;
	record->connection.step = AQ_STEP_FOUND;
	record->connection.state = BPF_CORE_READ(sk, __sk_common.skc_state);
	told = record->connection.state != TCP_CLOSE;
	if (transport != TCP)
		record->connection.socket_id = entry->socket_id;
	if (transport == UDP) {
		told = true;
		record->connection.state = TCP_ESTABLISHED;
		if (record->connection.remote_port == 0) {
			record->connection.state = TCP_LISTEN;
			told = record->connection.local_port && (BPF_CORE_READ_BITFIELD_PROBED(sk, sk_userlocks) & SOCK_BINDPORT_LOCK);
		}
	}
	if (transport == UNIX) {
		length = sizeof(struct aq_unix_connection);
		record->connection.remote_pid = record->connection.state == TCP_LISTEN ? 0 : peer_pid(sk);
		read_name(record, sk);
		if (record->path_length == 0) {
			/* The end that connected, of one that has a name: a pair has none. */
			peer = BPF_CORE_READ((struct unix_sock *)sk, peer);
			record->connection.local_port = 1;
			if (peer)
				read_name(record, peer);
		}
		told = record->path_length != 0 && (record->connection.state == TCP_LISTEN || BPF_CORE_READ((struct unix_sock *)sk, peer));
	}
	record->connection.header.length = length;
	if (!told || bpf_seq_write(seq, record, length))
		bpf_map_delete_elem(&sockets, &key);
}

static __always_inline void adopt_file(struct seq_file *seq, struct task_struct *task, const struct mark *mark,
				       struct file *file, int fd)
{
	__u64 address = (__u64)file, key = descriptor_key(task, fd), magic;
	__u32 which = SCRATCH_ADOPT, at = 0, mode = BPF_CORE_READ(file, f_mode);
	struct record *record = bpf_map_lookup_elem(&records, &which);
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	struct aq_file entry = {};

	if (!record)
		return;
	record->open.mode = BPF_CORE_READ(inode, i_mode);
	if ((mode & FMODE_PATH) || (record->open.mode & S_IFMT) == S_IFDIR || !has_path(file))
		return;
	magic = BPF_CORE_READ(inode, i_sb, s_magic);
	if (!(mode & FMODE_WRITE) && (magic == PROC_SUPER_MAGIC || magic == SYSFS_MAGIC))
		return;
	begin(&record->header, AQ_OPEN, task, mark);
	entry.open_id = (__u64)(record->header.cpu + 1) << 48 | next_sequence(OPENS);
	entry.inode = (__u64)inode;
	own(&entry.owner, task, mark);
	if (bpf_map_update_elem(&files, &address, &entry, BPF_NOEXIST)) {
		if (bpf_map_lookup_elem(&files, &address)) {
			/* Another descriptor of it, or seen at its open. */
			bpf_map_update_elem(&descriptors, &key, &address, BPF_ANY);
			return;
		}
		record->header.flags |= AQ_UNTRACKED;
	}
	record->open.open_id = entry.open_id;
	record->open.how = mode & FMODE_WRITE ? AQ_OPEN_WRITE : AQ_OPEN_READ;
	record->open.fd = fd;
	record->open.uid = BPF_CORE_READ(task, real_cred, uid.val);
	record->open.padding = 0;
	walk_file(which, file);
	record->open.path_length = append_path(record, which, &at);
	if (at > AQ_DATA_MAX)
		return;
	record->header.length = AQ_TEXT + at;
	record->header.sequence = 0;
	if (bpf_seq_write(seq, record, AQ_TEXT + at)) {
		bpf_map_delete_elem(&files, &address);
		return;
	}
	bpf_map_update_elem(&descriptors, &key, &address, BPF_ANY);
}

/* What the processes with a mark have open; each file and socket once, however many have it. */
SEC("iter/task_file")
int list_files(struct bpf_iter__task_file *context)
{
	struct task_struct *task = context->task;
	struct file *file = context->file;
	struct socket *socket;
	struct mark mark;

	if (!task || !file || !is_shown(slot_of(task, &mark)))
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		adopt_file(context->meta->seq, task, &mark, file, context->fd);
	else if (socket->sk)
		adopt_socket(context->meta->seq, task, &mark, file, socket->sk, context->fd);
	return 0;
}

#endif
