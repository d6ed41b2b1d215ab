/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * Files: opens, what goes through them, their end, and changes by name.
 *
 * An open ends when the kernel drops the last reference to its struct file, whoever held it. At the exit of close the
 * descriptor is gone already, so a table remembers which file it was; ends that no close shows (exit, close-on-exec,
 * dup2, close_range, passed descriptors, mappings) are found by the sweep.
 */
#ifndef AGENTQUERY_FILES_H
#define AGENTQUERY_FILES_H

#define FMODE_WRITE 2
#define FMODE_PATH 0x4000
#define FMODE_CREATED 0x100000
#define O_TRUNC 01000
#define EBADF 9
#define AT_SYMLINK_NOFOLLOW 0x100
#define AT_REMOVEDIR 0x200
#define AT_SYMLINK_FOLLOW 0x400
#define RENAME_EXCHANGE 2
#define F_DUPFD 0
#define F_DUPFD_CLOEXEC 1030
#define PROC_SUPER_MAGIC 0x9fa0
#define SYSFS_MAGIC 0x62656572

static __always_inline __u64 descriptor_key(struct task_struct *task, int fd)
{
	return (__u64)task->tgid << 32 | (__u32)fd;
}

static __always_inline bool is_alive(__u64 address, const struct aq_file *entry)
{
	struct file *file = (struct file *)address;
	long references;

	if (address == entry->open_id)
		return false; /* its end waits to be told */
	if ((__u64)BPF_CORE_READ(file, f_inode) != entry->inode)
		return false;
	if (bpf_core_field_exists(struct file___ref, f_ref)) {
		references = BPF_CORE_READ((struct file___ref *)file, f_ref.refcnt.counter);
		return references >= 0;
	}
	return BPF_CORE_READ(file, f_count.counter) > 0;
}

/* The end of an open, in the name of the process that opened. Counted only when it is offered to the ring. */
static __always_inline bool submit_close(const struct aq_file *entry, __u32 flags)
{
	struct aq_close record = {};

	begin_as(&record.header, AQ_CLOSE, &entry->owner);
	if (admit(record.header.slot, record.header.boot_ns) != ADMITTED)
		return false;
	COUNT(AQ_CLOSE, seen);
	record.header.flags = flags;
	record.header.sequence = next_sequence(RECORDS);
	record.open_id = entry->open_id;
	record.bytes_read = entry->bytes_read;
	record.bytes_written = entry->bytes_written;
	return put(&record.header, sizeof(record), false);
}

/* An end that cannot be told now is kept, under a key that no struct file has, until a sweep can tell it: without it
 * the file would be shown as open for ever. */
static __always_inline void end_file(__u64 key, __u32 flags)
{
	struct aq_file *found = bpf_map_lookup_elem(&files, &key);
	struct aq_file entry;

	if (!found)
		return;
	entry = *found;
	/* Whoever deletes it reports it: two CPUs may come here at once. */
	if (bpf_map_delete_elem(&files, &key) || submit_close(&entry, flags))
		return;
	key = entry.open_id;
	if (bpf_map_update_elem(&files, &key, &entry, BPF_ANY)) {
		COUNT(AQ_CLOSE, seen);
		COUNT(AQ_CLOSE, oversized); /* no room: others have taken its place meanwhile */
	}
}

static __always_inline void handle_open(struct task_struct *task, const struct mark *mark, const struct call *call, int fd)
{
	__u32 which = SCRATCH_CALL, at = 0, mode;
	struct record *record = bpf_map_lookup_elem(&records, &which);
	struct file *file = file_at(task, fd);
	__u64 address = (__u64)file, flags = 0, key, magic;
	struct aq_file entry = {};
	struct inode *inode;

	if (!record)
		return;
	if (!file) { /* another thread has closed the descriptor already: what it was of is not known */
		COUNT(AQ_OPEN, seen);
		COUNT(AQ_OPEN, oversized);
		return;
	}
	inode = BPF_CORE_READ(file, f_inode);
	record->open.mode = BPF_CORE_READ(inode, i_mode);
	mode = BPF_CORE_READ(file, f_mode);
	if ((mode & FMODE_PATH) || (record->open.mode & S_IFMT) == S_IFDIR || !has_path(file))
		return;
	COUNT(AQ_OPEN, seen);
	magic = BPF_CORE_READ(inode, i_sb, s_magic);
	if (!(mode & FMODE_WRITE) && (magic == PROC_SUPER_MAGIC || magic == SYSFS_MAGIC)) {
		COUNT(AQ_OPEN, filtered);
		return;
	}
	switch (call->operation) {
	case OP_OPEN:
		flags = call->arguments[1];
		break;
	case OP_OPENAT:
		flags = call->arguments[2];
		break;
	case OP_OPENAT2: /* struct open_how begins with its flags */
		bpf_probe_read_user(&flags, sizeof(flags), (void *)call->arguments[2]);
		break;
	default:
		flags = O_TRUNC;
	}
	begin(&record->header, AQ_OPEN, task, mark);
	if (mode & FMODE_CREATED)
		record->open.how = AQ_OPEN_CREATE;
	else if ((mode & FMODE_WRITE) && (flags & O_TRUNC))
		record->open.how = AQ_OPEN_TRUNCATE;
	else if (mode & FMODE_WRITE)
		record->open.how = AQ_OPEN_WRITE;
	else
		record->open.how = AQ_OPEN_READ;
	record->open.fd = fd;
	record->open.uid = BPF_CORE_READ(task, real_cred, uid.val);
	record->open.padding = 0;
	/* Unique: a sequence number of its own, of this CPU. */
	record->open.open_id = (__u64)(record->header.cpu + 1) << 48 | next_sequence(OPENS);

	/* The struct file is a reused one when its address is known: the open before has ended unseen. */
	end_file(address, 0);
	entry.open_id = record->open.open_id;
	entry.inode = (__u64)inode;
	own(&entry.owner, task, mark);
	walk_file(which, file);
	record->open.path_length = append_path(record, which, &at);
	if (bpf_map_update_elem(&files, &address, &entry, BPF_ANY))
		record->header.flags |= AQ_UNTRACKED;
	if (at > AQ_DATA_MAX) {
		COUNT(AQ_OPEN, oversized);
		bpf_map_delete_elem(&files, &address);
		return;
	}
	if (!submit(&record->header, AQ_TEXT + at, false)) {
		bpf_map_delete_elem(&files, &address); /* nobody waits for its end */
		return;
	}
	key = descriptor_key(task, fd);
	bpf_map_update_elem(&descriptors, &key, &address, BPF_ANY);
}

/* A descriptor has gone; its file too, when it was the last reference. */
static __always_inline void handle_close(struct task_struct *task, int fd, __u32 flags)
{
	__u64 key = descriptor_key(task, fd), address;
	__u64 *known = bpf_map_lookup_elem(&descriptors, &key);
	struct aq_file *entry;

	if (!known)
		return;
	address = *known;
	bpf_map_delete_elem(&descriptors, &key);
	entry = bpf_map_lookup_elem(&files, &address);
	if (entry && !is_alive(address, entry))
		end_file(address, flags);
}

/* A new descriptor of a known file. */
static __always_inline void handle_dup(struct task_struct *task, int fd)
{
	struct file *file = file_at(task, fd);
	__u64 address = (__u64)file, key = descriptor_key(task, fd);

	handle_close(task, fd, AQ_SEEN); /* dup2 onto an open one closes that */
	if (file && bpf_map_lookup_elem(&files, &address))
		bpf_map_update_elem(&descriptors, &key, &address, BPF_ANY);
}

/* False when it is no file that is followed. */
static __always_inline bool handle_bytes(struct task_struct *task, int fd, __u64 bytes, bool written)
{
	struct file *file = file_at(task, fd);
	__u64 address = (__u64)file;
	struct aq_file *entry;

	if (!file)
		return false;
	entry = bpf_map_lookup_elem(&files, &address);
	if (!entry || entry->inode != (__u64)BPF_CORE_READ(file, f_inode))
		return false;
	__sync_fetch_and_add(written ? &entry->bytes_written : &entry->bytes_read, bytes);
	return true;
}

#define DESCRIPTOR_PREFIX "/proc/self/fd/"

/* A name below /proc/self/fd/N starts from the descriptor N, and means nothing to any other process. Moves the name
 * behind it. */
static __always_inline bool starts_from_descriptor(__u64 *name, int *dirfd)
{
	char head[sizeof(DESCRIPTOR_PREFIX) + 8] = {};
	int number = 0, i;

	if (bpf_probe_read_user_str(head, sizeof(head), (void *)*name) <= 0)
		return false;
	for (i = 0; i < (int)sizeof(DESCRIPTOR_PREFIX) - 1; i++) {
		if (head[i] != DESCRIPTOR_PREFIX[i])
			return false;
	}
	for (i = sizeof(DESCRIPTOR_PREFIX) - 1; i < (int)sizeof(head); i++) {
		if (head[i] == 0 || head[i] == '/')
			break;
		if (head[i] < '0' || head[i] > '9')
			return false;
		number = number * 10 + (head[i] - '0');
	}
	if (i == sizeof(DESCRIPTOR_PREFIX) - 1 || i == sizeof(head))
		return false;
	*name += head[i & 31] == '/' ? i + 1 : i;
	*dirfd = number;
	return true;
}

/* The directory that a name starts from, in the kernel's words. */
static __always_inline __u32 append_base(struct record *record, __u32 which, __u32 *at, struct task_struct *task, int dirfd,
					 __u64 *name)
{
	char first = 0;
	struct file *file;
	bool by_descriptor = *name && starts_from_descriptor(name, &dirfd);

	bpf_probe_read_user(&first, 1, (void *)*name);
	if (*name && first == '/' && !by_descriptor) {
		walk_path(which, (__u64)BPF_CORE_READ(task, fs, root.dentry), (__u64)BPF_CORE_READ(task, fs, root.mnt));
	} else if (dirfd == AT_FDCWD) {
		walk_path(which, (__u64)BPF_CORE_READ(task, fs, pwd.dentry), (__u64)BPF_CORE_READ(task, fs, pwd.mnt));
	} else {
		file = file_at(task, dirfd);
		if (!file)
			return 0;
		walk_file(which, file);
	}
	return append_path(record, which, at);
}

/* Which arguments of a change are what. A name of 0 means the descriptor itself. */
struct names {
	__u32 what;
	__u32 mode;
	__u32 flags; /* of the record */
	int dirfd;
	int dest_dirfd;
	__u64 name;
	__u64 dest_name;
};

static __always_inline bool names_of(const struct call *call, struct names *names)
{
	const __u64 *a = call->arguments;

	names->dirfd = AT_FDCWD;
	names->dest_dirfd = AT_FDCWD;
	names->name = a[0];
	names->dest_name = 0;
	names->mode = 0xffffffff;
	names->flags = 0;
	switch (call->operation) {
	case OP_UNLINK:
		names->what = AQ_DELETE;
		return true;
	case OP_RMDIR:
		names->what = AQ_RMDIR;
		return true;
	case OP_UNLINKAT:
		names->what = a[2] & AT_REMOVEDIR ? AQ_RMDIR : AQ_DELETE;
		names->dirfd = a[0];
		names->name = a[1];
		return true;
	case OP_RENAME:
		names->what = AQ_RENAME;
		names->dest_name = a[1];
		return true;
	case OP_RENAMEAT:
	case OP_RENAMEAT2:
	case OP_LINKAT:
		names->what = call->operation == OP_LINKAT ? AQ_LINK : AQ_RENAME;
		if (call->operation == OP_RENAMEAT2 && (a[4] & RENAME_EXCHANGE))
			names->flags = AQ_EXCHANGED;
		if (call->operation == OP_LINKAT && (a[4] & AT_SYMLINK_FOLLOW))
			names->flags = AQ_FOLLOWED;
		names->dirfd = a[0];
		names->name = a[1];
		names->dest_dirfd = a[2];
		names->dest_name = a[3];
		return true;
	case OP_LINK:
		names->what = AQ_LINK;
		names->dest_name = a[1];
		return true;
	case OP_SYMLINK:
		names->what = AQ_SYMLINK;
		names->dest_name = a[1];
		return true;
	case OP_SYMLINKAT:
		names->what = AQ_SYMLINK;
		names->dest_dirfd = a[1];
		names->dest_name = a[2];
		return true;
	case OP_MKDIR:
		names->what = AQ_MKDIR;
		names->mode = a[1];
		return true;
	case OP_MKDIRAT:
		names->what = AQ_MKDIR;
		names->dirfd = a[0];
		names->name = a[1];
		names->mode = a[2];
		return true;
	case OP_CHMOD:
		names->what = AQ_CHMOD;
		names->mode = a[1];
		names->flags = AQ_FOLLOWED;
		return true;
	case OP_FCHMODAT: /* has no flags */
	case OP_FCHMODAT2:
		names->what = AQ_CHMOD;
		if (call->operation == OP_FCHMODAT || !(a[3] & AT_SYMLINK_NOFOLLOW))
			names->flags = AQ_FOLLOWED;
		names->dirfd = a[0];
		names->name = a[1];
		names->mode = a[2];
		return true;
	case OP_FCHMOD:
		names->what = AQ_CHMOD;
		names->dirfd = a[0];
		names->name = 0;
		names->mode = a[1];
		return true;
	case OP_CHOWN:
		names->flags = AQ_FOLLOWED;
		/* fallthrough */
	case OP_LCHOWN:
		names->what = AQ_CHOWN;
		return true;
	case OP_FCHOWNAT:
		names->what = AQ_CHOWN;
		if (!(a[4] & AT_SYMLINK_NOFOLLOW))
			names->flags = AQ_FOLLOWED;
		names->dirfd = a[0];
		names->name = a[1];
		return true;
	case OP_FCHOWN:
		names->what = AQ_CHOWN;
		names->dirfd = a[0];
		names->name = 0;
		return true;
	case OP_TRUNCATE:
		names->what = AQ_TRUNCATE;
		names->flags = AQ_FOLLOWED;
		return true;
	case OP_FTRUNCATE:
		names->what = AQ_TRUNCATE;
		names->dirfd = a[0];
		names->name = 0;
		return true;
	default:
		return false;
	}
}

static __always_inline void handle_change(struct task_struct *task, const struct mark *mark, const struct call *call)
{
	__u32 which = SCRATCH_CALL, at = 0;
	struct record *record = bpf_map_lookup_elem(&records, &which);
	struct names names;
	struct file *file;

	if (!record || !names_of(call, &names))
		return;
	if (!names.name) {
		file = file_at(task, names.dirfd);
		if (!file || !has_path(file))
			return;
	}
	COUNT(AQ_CHANGE, seen);
	begin(&record->header, AQ_CHANGE, task, mark);
	record->header.flags = names.flags;
	record->change.what = names.what;
	record->change.mode = names.mode == 0xffffffff ? names.mode : names.mode & 07777;
	record->change.uid = BPF_CORE_READ(task, real_cred, uid.val);
	record->change.mount_ns = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);
	record->change.base_length = 0;
	record->change.dest_base_length = 0;
	record->change.dest_name_length = 0;
	record->change.name_length = 0;
	if (names.what != AQ_SYMLINK)
		record->change.base_length = append_base(record, which, &at, task, names.dirfd, &names.name);
	if (names.name)
		record->change.name_length = append_user_string(record, &at, (void *)names.name);
	if (names.dest_name) {
		record->change.dest_base_length = append_base(record, which, &at, task, names.dest_dirfd, &names.dest_name);
		record->change.dest_name_length = append_user_string(record, &at, (void *)names.dest_name);
	}
	if (at > AQ_DATA_MAX) {
		COUNT(AQ_CHANGE, oversized);
		return;
	}
	submit(&record->header, AQ_TEXT + at, false);
}

static long sweep_one(void *map, const __u64 *key, struct aq_file *entry, void *context)
{
	__u64 address = *key;

	if (!is_alive(address, entry))
		end_file(address, 0);
	return 0;
}

/* Run by the recorder: reports every known file that has ended unseen. */
SEC("raw_tp")
int sweep(void *context)
{
	bpf_for_each_map_elem(&files, sweep_one, NULL, 0);
	return 0;
}

#endif
