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
#define O_TMPFILE_ALONE 020000000 /* __O_TMPFILE */
#define EBADF 9
#define AT_SYMLINK_NOFOLLOW 0x100
#define AT_REMOVEDIR 0x200
#define AT_SYMLINK_FOLLOW 0x400
#define RENAME_EXCHANGE 2
#define F_DUPFD 0
#define F_DUPFD_CLOEXEC 1030
#define PROC_SUPER_MAGIC 0x9fa0
#define SYSFS_MAGIC 0x62656572
#define PROT_WRITE 2
#define MAP_TYPE 0xf
#define MAP_SHARED 1
#define MAP_SHARED_VALIDATE 3
#define MAPPINGS_MAX 4096

/* The socket of a descriptor, if it is one. */
static __always_inline bool find_socket(struct task_struct *task, struct call *call, int fd)
{
	struct socket *socket;
	struct inode *inode;

	call->file = file_at(task, fd);
	if (!call->file)
		return false;
	inode = READ(call->file, f_inode);
	if ((READ(inode, i_mode) & S_IFMT) != S_IFSOCK)
		return false;
	socket = READ(call->file, private_data);
	call->sk = READ(socket, sk);
	return call->sk;
}

static __always_inline __u64 descriptor_key(struct task_struct *task, int fd)
{
	return (__u64)task->tgid << 32 | (__u32)fd;
}

/* Whether a struct file, which may have gone or been used anew, is still the one with that inode. */
static __always_inline bool is_referenced(struct file *file, __u64 inode)
{
	long references;

	if ((__u64)READ(file, f_inode) != inode)
		return false;
	if (bpf_core_field_exists(struct file___ref, f_ref)) {
		references = READ((struct file___ref *)file, f_ref.refcnt.counter);
		return references >= 0;
	}
	return READ(file, f_count.counter) > 0;
}

static __always_inline bool is_alive(__u64 address, const struct aq_file *entry)
{
	if (address == entry->open_id)
		return false; /* its end waits to be told */
	return is_referenced((struct file *)address, entry->inode);
}

/* The end of an open, in the name of the process that opened. Counted only when it is offered to the ring. */
static __always_inline bool submit_close(const struct aq_file *entry, __u32 flags)
{
	struct aq_close record = {};

	begin_as(&record.header, AQ_CLOSE, &entry->owner);
	if (admit(record.header.slot, record.header.boot_ns) != ADMITTED)
		return false;
	COUNT(AQ_CLOSE, seen);
	record.header.flags = flags | (entry->flags & AQ_MAPPED);
	record.header.sequence = next_sequence(RECORDS);
	record.open_id = entry->open_id;
	record.bytes_read = entry->bytes_read;
	record.bytes_written = entry->bytes_written;
	return put(&record.header, sizeof(record), false);
}

/* An end that cannot be told now is kept, under a key that no struct file has, until a sweep can tell it: without it
 * the file would be shown as open for ever. */
static __noinline void end_file(__u64 key, __u32 flags)
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

/* A file was opened, with these O_ flags. The descriptor is -1 when there is none. */
static __noinline void handle_open(struct task_struct *task, const struct mark *mark, struct file *file, int fd,
				   __u64 flags)
{
	__u32 which = SCRATCH_CALL, at = 0, mode;
	struct record *record = bpf_map_lookup_elem(&records, &which);
	__u64 address = (__u64)file, key, magic;
	struct aq_file entry = {};
	struct super_block *sb;
	struct inode *inode;

	if (!record)
		return;
	if (!file) { /* another thread has closed the descriptor already: what it was of is not known */
		COUNT(AQ_OPEN, seen);
		COUNT(AQ_OPEN, oversized);
		return;
	}
	inode = READ(file, f_inode);
	record->open.mode = READ(inode, i_mode);
	mode = READ(file, f_mode);
	if ((mode & FMODE_PATH) || (record->open.mode & S_IFMT) == S_IFDIR || !has_path(file))
		return;
	COUNT(AQ_OPEN, seen);
	sb = READ(inode, i_sb);
	magic = READ(sb, s_magic);
	if (!(mode & FMODE_WRITE) && (magic == PROC_SUPER_MAGIC || magic == SYSFS_MAGIC)) {
		COUNT(AQ_OPEN, filtered);
		return;
	}
	begin(&record->header, AQ_OPEN, task, mark);
	if ((mode & FMODE_CREATED) || (flags & O_TMPFILE_ALONE))
		record->open.how = AQ_OPEN_CREATE;
	else if ((mode & FMODE_WRITE) && (flags & O_TRUNC))
		record->open.how = AQ_OPEN_TRUNCATE;
	else if (mode & FMODE_WRITE)
		record->open.how = AQ_OPEN_WRITE;
	else
		record->open.how = AQ_OPEN_READ;
	record->open.fd = fd;
	record->open.uid = task->real_cred->uid.val;
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
	if (fd < 0)
		return;
	key = descriptor_key(task, fd);
	bpf_map_update_elem(&descriptors, &key, &address, BPF_ANY);
}

static __always_inline __u64 open_flags(const struct call *call)
{
	__u64 flags = 0;

	switch (call->operation) {
	case OP_OPEN:
		return call->arguments[1];
	case OP_OPENAT:
		return call->arguments[2];
	case OP_OPENAT2: /* struct open_how begins with its flags */
		bpf_probe_read_user(&flags, sizeof(flags), (void *)call->arguments[2]);
		return flags;
	case OP_MEMFD:
		return O_TMPFILE_ALONE; /* a new file without a name in any directory */
	default:
		return O_TRUNC;
	}
}

/* A descriptor has gone. The address of the file that it was of, or 0. */
static __always_inline __u64 forget_descriptor(struct task_struct *task, int fd)
{
	__u64 key = descriptor_key(task, fd), address;
	__u64 *known = bpf_map_lookup_elem(&descriptors, &key);

	if (!known)
		return 0;
	address = *known;
	bpf_map_delete_elem(&descriptors, &key);
	return address;
}

/* A descriptor of a file has gone; the file too, when it was the last reference. */
static __always_inline void close_file(__u64 address, __u32 flags)
{
	struct aq_file *entry = bpf_map_lookup_elem(&files, &address);

	if (entry && !is_alive(address, entry))
		end_file(address, flags);
}

/* Its entry; none of another file that had this struct before and ended unseen. */
static __always_inline struct aq_file *known_file(struct file *file)
{
	__u64 address = (__u64)file;
	struct aq_file *entry;

	if (!file)
		return NULL;
	entry = bpf_map_lookup_elem(&files, &address);
	return entry && entry->inode == (__u64)READ(file, f_inode) ? entry : NULL;
}

/* A new descriptor of a known file. */
static __noinline void handle_dup(struct task_struct *task, int fd)
{
	struct file *file = file_at(task, fd);
	__u64 address = (__u64)file, key = descriptor_key(task, fd);

	close_file(forget_descriptor(task, fd), AQ_SEEN); /* dup2 onto an open one closes that */
	if (known_file(file))
		bpf_map_update_elem(&descriptors, &key, &address, BPF_ANY);
}

/* Counts for an open file; false when it is none that is known. */
static __always_inline bool count_bytes(struct file *file, __u64 bytes, bool written)
{
	struct aq_file *entry = known_file(file);

	if (entry)
		__sync_fetch_and_add(written ? &entry->bytes_written : &entry->bytes_read, bytes);
	return entry;
}

static __always_inline bool handle_bytes(struct task_struct *task, int fd, __u64 bytes, bool written)
{
	return count_bytes(file_at(task, fd), bytes, written);
}

/* vmsplice goes into a pipe, or out of it, as its end is. */
static __noinline void handle_vmsplice(struct task_struct *task, int fd, __u64 bytes)
{
	struct file *file = file_at(task, fd);

	if (file)
		count_bytes(file, bytes, READ(file, f_mode) & FMODE_WRITE);
}

/* Shared mappings that are not for writing yet, by thread group and address: mprotect may make them so. */
struct mapping {
	__u64 address;
	__u64 process;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAPPINGS_MAX);
	__type(key, struct mapping);
	__type(value, __u64); /* address of the struct file */
} mappings SEC(".maps");

/* What is written through a mapping no call tells: that it can be is all there is. */
static __noinline void handle_mmap(struct task_struct *task, __u64 address, __u64 protection, __u64 flags, int fd)
{
	struct mapping key = { .address = address, .process = task->tgid };
	__u64 type = flags & MAP_TYPE;
	struct file *file;
	struct aq_file *entry;
	__u64 known;

	if (fd < 0 || (type != MAP_SHARED && type != MAP_SHARED_VALIDATE))
		return;
	file = file_at(task, fd);
	entry = known_file(file);
	if (!entry || !(READ(file, f_mode) & FMODE_WRITE))
		return;
	if (protection & PROT_WRITE) {
		entry->flags = AQ_MAPPED;
		return;
	}
	known = (__u64)file;
	bpf_map_update_elem(&mappings, &key, &known, BPF_ANY);
}

static __noinline void handle_mprotect(struct task_struct *task, __u64 address, __u64 protection)
{
	struct mapping key = { .address = address, .process = task->tgid };
	struct aq_file *entry;
	__u64 *known;

	if (!(protection & PROT_WRITE))
		return;
	known = bpf_map_lookup_elem(&mappings, &key);
	entry = known ? known_file((struct file *)*known) : NULL;
	if (entry)
		entry->flags = AQ_MAPPED;
}

static __always_inline bool begins_with(const char *head, const char *prefix, int length)
{
	int i;

	for (i = 0; i < length; i++) {
		if (head[i] != prefix[i])
			return false;
	}
	return true;
}

/* The number behind a prefix, and how long both are; 0 when the head is something else. */
static __always_inline int number_behind(const char *head, const char *prefix, int prefix_length, int *number)
{
	int i;

	if (!begins_with(head, prefix, prefix_length))
		return 0;
	*number = 0;
	for (i = prefix_length; i < prefix_length + 8; i++) {
		if (head[i] == 0 || head[i] == '/')
			break;
		if (head[i] < '0' || head[i] > '9')
			return 0;
		*number = *number * 10 + (head[i] - '0');
	}
	if (i == prefix_length || i == prefix_length + 8)
		return 0;
	return head[i] == '/' ? i + 1 : i;
}

#define SELF_PREFIX "/proc/self/fd/"
#define THREAD_PREFIX "/proc/thread-self/fd/"
#define DEVICE_PREFIX "/dev/fd/"
#define CWD_PREFIX "/proc/self/cwd/"
#define ROOT_PREFIX "/proc/self/root/"
#define FROM_ROOT -200 /* instead of a descriptor: the root directory */

/* A name through a link of /proc/self starts from what this process has there, and means nothing to any other one. Moves
 * the name behind it. */
static __always_inline bool starts_from_self(__u64 *name, int *dirfd, bool in_kernel)
{
	char head[sizeof(THREAD_PREFIX) + 8] = {};
	int length, number = 0;

	if (read_string(head, sizeof(head), (void *)*name, in_kernel) <= 0 || head[0] != '/')
		return false;
	if (begins_with(head, CWD_PREFIX, sizeof(CWD_PREFIX) - 1)) {
		length = sizeof(CWD_PREFIX) - 1;
		number = AT_FDCWD;
	} else if (begins_with(head, ROOT_PREFIX, sizeof(ROOT_PREFIX) - 1)) {
		length = sizeof(ROOT_PREFIX) - 1;
		number = FROM_ROOT;
	} else {
		length = number_behind(head, SELF_PREFIX, sizeof(SELF_PREFIX) - 1, &number);
		if (!length)
			length = number_behind(head, DEVICE_PREFIX, sizeof(DEVICE_PREFIX) - 1, &number);
		if (!length)
			length = number_behind(head, THREAD_PREFIX, sizeof(THREAD_PREFIX) - 1, &number);
		if (!length)
			return false;
	}
	*name += length;
	*dirfd = number;
	return true;
}

/* Walks the path of the process' root; whether that is another than the one of its mount namespace. */
static __always_inline bool walk_root(__u32 which, struct task_struct *task)
{
	struct path_buffer *buffer = bpf_map_lookup_elem(&path_buffers, &which);

	walk_path(which, ADDRESS_IN(task->fs, root.dentry), ADDRESS_IN(task->fs, root.mnt));
	return buffer && buffer->start != AQ_PATH_MAX - 1;
}

/* The directory that a name starts from, in the kernel's words. */
static __always_inline __u32 append_base(struct record *record, __u32 which, __u32 *at, struct task_struct *task, int dirfd,
					 __u64 *name, bool in_kernel)
{
	char first = 0;
	struct file *file;
	bool by_self = *name && starts_from_self(name, &dirfd, in_kernel);

	if (in_kernel)
		bpf_probe_read_kernel(&first, 1, (void *)*name);
	else
		bpf_probe_read_user(&first, 1, (void *)*name);
	if (dirfd == FROM_ROOT || (*name && first == '/' && !by_self)) {
		walk_root(which, task);
	} else if (dirfd == AT_FDCWD) {
		walk_path(which, ADDRESS_IN(task->fs, pwd.dentry), ADDRESS_IN(task->fs, pwd.mnt));
	} else {
		file = file_at(task, dirfd);
		if (!file)
			return 0;
		walk_file(which, file);
	}
	return append_path(record, which, at);
}

/* Which arguments of a change are what. A name of 0 means the file itself, or that of the descriptor. */
struct names {
	__u32 what;
	__u32 mode;
	__u32 flags; /* of the record */
	int dirfd;
	int dest_dirfd;
	__u64 name;
	__u64 dest_name;
	struct file *file;
	__u64 request_id;
	bool in_kernel; /* the names: the kernel has read them already */
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
	names->file = NULL;
	names->request_id = 0;
	names->in_kernel = false;
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
	case OP_MKNOD:
		names->what = AQ_MKNOD;
		names->mode = a[1];
		return true;
	case OP_MKNODAT:
		names->what = AQ_MKNOD;
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

/* False when the change is not told. */
static __always_inline bool submit_change(struct task_struct *task, const struct mark *mark, struct names *names)
{
	__u32 which = SCRATCH_CALL, at = 0;
	struct record *record = bpf_map_lookup_elem(&records, &which);

	if (!record)
		return false;
	if (!names->name) {
		if (!names->file)
			names->file = file_at(task, names->dirfd);
		if (!names->file || !has_path(names->file))
			return false;
	}
	COUNT(AQ_CHANGE, seen);
	begin(&record->header, AQ_CHANGE, task, mark);
	record->header.flags = names->flags;
	if (names->name && walk_root(which, task))
		record->header.flags |= AQ_ROOTED;
	record->change.what = names->what;
	record->change.mode = names->mode == 0xffffffff ? names->mode : names->mode & 07777;
	record->change.request_id = names->request_id;
	record->change.uid = task->real_cred->uid.val;
	record->change.mount_ns = task->nsproxy->mnt_ns->ns.inum;
	record->change.base_length = 0;
	record->change.dest_base_length = 0;
	record->change.dest_name_length = 0;
	record->change.name_length = 0;
	if (!names->name) {
		walk_file(which, names->file);
		record->change.base_length = append_path(record, which, &at);
	} else {
		if (names->what != AQ_SYMLINK)
			record->change.base_length =
				append_base(record, which, &at, task, names->dirfd, &names->name, names->in_kernel);
		record->change.name_length = append_string(record, &at, (void *)names->name, names->in_kernel);
	}
	if (names->dest_name) {
		record->change.dest_base_length =
			append_base(record, which, &at, task, names->dest_dirfd, &names->dest_name, names->in_kernel);
		record->change.dest_name_length = append_string(record, &at, (void *)names->dest_name, names->in_kernel);
	}
	if (at > AQ_DATA_MAX) {
		COUNT(AQ_CHANGE, oversized);
		return false;
	}
	return submit(&record->header, AQ_TEXT + at, false);
}

static __noinline void handle_change(struct task_struct *task, const struct mark *mark, const struct call *call)
{
	struct names names;

	if (names_of(call, &names))
		submit_change(task, mark, &names);
}

static long sweep_one(void *map, const __u64 *key, struct aq_file *entry, void *context)
{
	__u64 address = *key;

	if (!is_alive(address, entry))
		end_file(address, 0);
	return 0;
}

#endif
