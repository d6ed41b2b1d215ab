/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/* Paths as the kernel has them: from a directory entry up to the root of the mount namespace. */
#ifndef AGENTQUERY_PATHS_H
#define AGENTQUERY_PATHS_H

#define PATH_DEPTH 2100 /* components and mounts: as many as PATH_MAX has room for */
#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define S_IFDIR 0040000
#define SB_NOUSER (1ul << 31) /* pipes, sockets, anonymous inodes, memfds: no path leads there */

/* A path being walked. The walk's state is in the map and its step a global function: so the verifier checks one step,
 * not every path through all of them. */
struct path_buffer {
	__u64 dentry;
	__u64 vfsmount;
	__u64 root; /* of the vfsmount: its dentry */
	__u32 start;
	__u32 cut;
	char text[AQ_PATH_MAX + 256];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCHES);
	__type(key, __u32);
	__type(value, struct path_buffer);
} path_buffers SEC(".maps");

/* One component, or one mount; true at the end. */
__noinline int walk_step(__u32 which)
{
	struct path_buffer *buffer = bpf_map_lookup_elem(&path_buffers, &which);
	struct dentry *dentry, *parent;
	struct vfsmount *vfsmount;
	__u32 at, length;

	if (!buffer)
		return 1;
	dentry = (struct dentry *)buffer->dentry;
	vfsmount = (struct vfsmount *)buffer->vfsmount;
	if (!dentry || !vfsmount)
		return 1;
	if (!buffer->root)
		buffer->root = (__u64)READ(vfsmount, mnt_root);
	if (buffer->dentry == buffer->root) {
		struct mount *mount = (void *)vfsmount - bpf_core_field_offset(struct mount, mnt);
		struct mount *above = READ(mount, mnt_parent);

		if (mount == above) {
			buffer->cut = 0;
			return 1;
		}
		buffer->dentry = (__u64)READ(mount, mnt_mountpoint);
		buffer->vfsmount = (__u64)above + bpf_core_field_offset(struct mount, mnt);
		buffer->root = 0;
		return 0;
	}
	parent = READ(dentry, d_parent);
	at = buffer->start;
	length = READ(dentry, d_name.len);
	if (length > 255)
		length = 255;
	if (at > AQ_PATH_MAX || at <= length + 1) /* 4096 bytes would be a length of 0 below */
		return 1;
	at -= length;
	if (bpf_probe_read_kernel(&buffer->text[at & (AQ_PATH_MAX - 1)], length & 255, READ(dentry, d_name.name)))
		return 1;
	if (parent == dentry) {
		/* Not below any mount: a detached tree, whose root is /, or what has a name alone: memfd:name. */
		if (length > 0 && buffer->text[at & (AQ_PATH_MAX - 1)] != '/')
			buffer->start = at;
		buffer->cut = 0;
		return 1;
	}
	at -= 1;
	buffer->text[at & (AQ_PATH_MAX - 1)] = '/';
	buffer->start = at;
	buffer->dentry = (__u64)parent;
	return 0;
}

/* Writes the path from its end to its beginning; the buffer's start says where it begins. */
__noinline int walk_path(__u32 which, __u64 dentry, __u64 vfsmount)
{
	struct path_buffer *buffer = bpf_map_lookup_elem(&path_buffers, &which);
	int i;

	if (!buffer)
		return 0;
	buffer->dentry = dentry;
	buffer->vfsmount = vfsmount;
	buffer->root = 0;
	buffer->cut = 1;
	buffer->start = AQ_PATH_MAX;
	for (i = 0; i < PATH_DEPTH; i++) {
		if (walk_step(which))
			break;
	}
	if (buffer->start == AQ_PATH_MAX) {
		buffer->start = AQ_PATH_MAX - 1;
		buffer->text[AQ_PATH_MAX - 1] = '/';
	}
	return 0;
}

/* Appends the path that was walked last; returns its length. */
static __always_inline __u32 append_path(struct record *record, __u32 which, __u32 *at)
{
	struct path_buffer *buffer = bpf_map_lookup_elem(&path_buffers, &which);
	__u32 start, length;

	if (!buffer)
		return 0;
	start = buffer->start;
	if (start >= AQ_PATH_MAX || *at > AQ_DATA_MAX - AQ_PATH_MAX)
		return 0;
	length = AQ_PATH_MAX - start;
	if (bpf_probe_read_kernel(&record->data[*at], length & (AQ_PATH_MAX - 1),
				  &buffer->text[start & (AQ_PATH_MAX - 1)]))
		return 0;
	if (buffer->cut)
		record->header.flags |= AQ_TRUNCATED;
	*at += length & (AQ_PATH_MAX - 1);
	return length & (AQ_PATH_MAX - 1);
}

/* Reads a string of the user's, or one that the kernel has read already; as bpf_probe_read_user_str. */
static __always_inline long read_string(void *to, __u32 size, const void *text, bool in_kernel)
{
	return in_kernel ? bpf_probe_read_kernel_str(to, size, text) : bpf_probe_read_user_str(to, size, text);
}

/* Appends a string without its NUL; returns its length. */
static __always_inline __u32 append_string(struct record *record, __u32 *at, const void *text, bool in_kernel)
{
	long length;

	if (*at > AQ_DATA_MAX - AQ_PATH_MAX)
		return 0;
	length = read_string(&record->data[*at], AQ_PATH_MAX, text, in_kernel);
	if (length <= 0) {
		record->header.flags |= AQ_TRUNCATED;
		return 0;
	}
	length = (length - 1) & (AQ_PATH_MAX - 1);
	*at += length;
	return length;
}

static __always_inline struct file *file_at(struct task_struct *task, int fd)
{
	struct files_struct *files = task->files;
	struct fdtable *table;
	struct file **array;

	/* Plain reads of typed memory: every call of an agent comes here. */
	if (!files)
		return NULL;
	table = files->fdt;
	if (!table || fd < 0 || (__u32)fd >= table->max_fds)
		return NULL;
	array = table->fd;
	return (struct file *)read_word(array + fd);
}

static __always_inline void walk_file(__u32 which, struct file *file)
{
	walk_path(which, ADDRESS_IN(file, f_path.dentry), ADDRESS_IN(file, f_path.mnt));
}

#define MEMFD "memfd:"

static __always_inline bool is_memfd(struct file *file)
{
	char name[sizeof(MEMFD)] = {};
	int i;

	bpf_probe_read_kernel_str(name, sizeof(name), BPF_CORE_READ(file, f_path.dentry, d_name.name));
	for (i = 0; i < (int)sizeof(MEMFD) - 1; i++) {
		if (name[i] != MEMFD[i])
			return false;
	}
	return true;
}

/* False for what has no name: pipes, sockets, anonymous inodes. A memfd has one, though no path leads there. */
static __always_inline bool has_path(struct file *file)
{
	struct inode *inode = READ(file, f_inode);
	struct super_block *sb = READ(inode, i_sb);

	return !(READ(sb, s_flags) & SB_NOUSER) || is_memfd(file);
}

#endif
