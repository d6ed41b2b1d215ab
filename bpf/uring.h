/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * What is asked of io_uring instead of by system calls.
 *
 * A request is seen twice: when it is submitted, before it is issued (io_submit_sqe), where the names that it was given
 * are in memory; and when it is completed, where its result is known, and its file still held. Names are told at once, as
 * a change that is pending, and their result later, for they are gone by then; all else is told at the end.
 *
 * Both happen in the task that submitted, or in a kernel thread that was made for it and has its mark: the one that polls
 * the queue (SQPOLL), or a worker. Only what is left of a ring when its task has gone ends in one of the system's own.
 *
 * Two ends leave no io_uring_complete. A queue of completions that is full has a tracepoint of its own. The success of a
 * request with IOSQE_CQE_SKIP_SUCCESS has none, nor have some failures: what is left is the result in the request until it
 * is used anew. It is enough for a change, and for an open by its name; its bytes are not counted.
 */
#ifndef AGENTQUERY_URING_H
#define AGENTQUERY_URING_H

#define REQUESTS_MAX 8192
#define TRIES 4
#define SKIPPED_NS 1000000000ull /* so long after its submission a request that tells no success has ended */
#define REQ_F_CQE_SKIP (1u << 6) /* include/linux/io_uring_types.h: as IOSQE_CQE_SKIP_SUCCESS */
#define PF_WQ_WORKER 0x20
#define SPLICE_F_FD_IN_FIXED (1u << 31)
#define FILE_INDEX_ALLOC 0xffffffff
#define O_ACCMODE 3
#define O_CREAT 0100
#define O_EXCL 0200
#if defined(__TARGET_ARCH_arm64)
#define O_DIRECTORY 040000
#define O_NOFOLLOW 0100000
#else
#define O_DIRECTORY 0200000
#define O_NOFOLLOW 0400000
#endif
#define O_PATH 010000000
#define FIXED_FILE_MASK (~3ull) /* io_uring/filetable.h: the low bits of a registered file are flags */

/* include/uapi/linux/io_uring.h, those that touch files, and accept: sockets' own hooks tell the rest of these. */
#define URING_READV 1
#define URING_WRITEV 2
#define URING_READ_FIXED 4
#define URING_WRITE_FIXED 5
#define URING_ACCEPT 13
#define URING_OPENAT 18
#define URING_CLOSE 19
#define URING_READ 22
#define URING_WRITE 23
#define URING_OPENAT2 28
#define URING_SPLICE 30
#define URING_TEE 33
#define URING_RENAMEAT 35
#define URING_UNLINKAT 36
#define URING_MKDIRAT 37
#define URING_SYMLINKAT 38
#define URING_LINKAT 39
#define URING_FIXED_FD_INSTALL 54
#define URING_FTRUNCATE 55
#define URING_READV_FIXED 60
#define URING_WRITEV_FIXED 61
#define URING_OPERATIONS 64

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct io_cqe {
	__u64 user_data;
	__s32 res;
};

struct io_rsrc_node {
	unsigned long file_ptr;
};

struct io_rsrc_data {
	unsigned int nr;
	struct io_rsrc_node **nodes;
};

struct io_file_table {
	struct io_rsrc_data data;
};

/* Until 6.12 registered files were an array of their own. */
struct io_fixed_file {
	unsigned long file_ptr;
};

struct io_file_table___array {
	struct io_fixed_file *files;
};

struct io_ring_ctx {
	struct io_file_table file_table;
};

struct io_kiocb {
	struct file *file;
	__u8 opcode;
	__u64 flags; /* 32 bits until 6.8: only the low ones are looked at */
	struct io_cqe cqe;
	struct io_ring_ctx *ctx;
};

struct filename {
	const char *name;
};

struct open_how {
	__u64 flags;
};

/* What a request is about lies at its beginning, in the form of its operation. */
struct io_open {
	int dfd;
	__u32 file_slot;
	struct filename *filename;
	struct open_how how;
};

struct io_accept {
	__u32 file_slot;
};

struct io_close {
	int fd;
	__u32 file_slot;
};

struct io_unlink {
	int dfd;
	int flags;
	struct filename *filename;
};

struct io_rename {
	int old_dfd;
	int new_dfd;
	struct filename *oldpath;
	struct filename *newpath;
	int flags;
};

struct io_mkdir {
	int dfd;
	__u16 mode;
	struct filename *filename;
};

struct io_link {
	int old_dfd;
	int new_dfd;
	struct filename *oldpath;
	struct filename *newpath;
	int flags;
};

struct io_splice {
	int splice_fd_in;
	unsigned int flags;
};

struct task_struct___flags {
	unsigned int flags;
};

#pragma clang attribute pop

/* A request that was submitted and has not ended. */
struct request {
	__u64 context; /* address of the ring's struct */
	__u64 user_data;
	__u64 submitted_ns;
	__u64 id; /* of a change that is pending, else 0 */
	struct aq_owner owner;
	__u32 opcode;
	__u32 skips; /* its success is not told */
};

/* By the address of its struct io_kiocb. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, REQUESTS_MAX);
	__type(key, __u64);
	__type(value, struct request);
} requests SEC(".maps");

/* From now on this process may do things by requests. */
static __always_inline void handle_ring(struct task_struct *task, const struct mark *mark)
{
	struct aq_request record = {};

	COUNT(AQ_REQUEST, seen);
	begin(&record.header, AQ_REQUEST, task, mark);
	record.what = AQ_RING;
	submit(&record.header, sizeof(record), false);
}

static __always_inline bool is_followed(__u32 opcode)
{
	const __u64 all = 1ull << URING_READV | 1ull << URING_WRITEV | 1ull << URING_READ_FIXED | 1ull << URING_WRITE_FIXED |
			  1ull << URING_ACCEPT | 1ull << URING_OPENAT | 1ull << URING_CLOSE | 1ull << URING_READ | 1ull << URING_WRITE |
			  1ull << URING_OPENAT2 | 1ull << URING_SPLICE | 1ull << URING_TEE | 1ull << URING_RENAMEAT |
			  1ull << URING_UNLINKAT | 1ull << URING_MKDIRAT | 1ull << URING_SYMLINKAT | 1ull << URING_LINKAT |
			  1ull << URING_FIXED_FD_INSTALL | 1ull << URING_FTRUNCATE | 1ull << URING_READV_FIXED |
			  1ull << URING_WRITEV_FIXED;

	return opcode < URING_OPERATIONS && (all >> opcode & 1);
}

/* What an open of a file will have been, as far as its flags say. */
static __always_inline __u32 opened_how(__u64 flags)
{
	if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL) || (flags & O_TMPFILE_ALONE))
		return AQ_OPEN_CREATE;
	if (!(flags & O_ACCMODE))
		return AQ_OPEN_READ;
	return flags & O_TRUNC ? AQ_OPEN_TRUNCATE : AQ_OPEN_WRITE;
}

/* The names in a request, while they are there. False for one without; an open's are only of use when its completion will
 * not be told. */
static __always_inline bool names_in(struct io_kiocb *request, __u32 opcode, bool skips, struct names *names)
{
	names->dirfd = AT_FDCWD;
	names->dest_dirfd = AT_FDCWD;
	names->dest_name = 0;
	names->mode = 0xffffffff;
	names->flags = AQ_PENDING;
	names->file = NULL;
	names->in_kernel = true;
	switch (opcode) {
	case URING_UNLINKAT: {
		struct io_unlink *asked = (void *)request;

		names->what = BPF_CORE_READ(asked, flags) & AT_REMOVEDIR ? AQ_RMDIR : AQ_DELETE;
		names->dirfd = BPF_CORE_READ(asked, dfd);
		names->name = (__u64)BPF_CORE_READ(asked, filename, name);
		return true;
	}
	case URING_RENAMEAT: {
		struct io_rename *asked = (void *)request;

		names->what = AQ_RENAME;
		if (BPF_CORE_READ(asked, flags) & RENAME_EXCHANGE)
			names->flags |= AQ_EXCHANGED;
		names->dirfd = BPF_CORE_READ(asked, old_dfd);
		names->name = (__u64)BPF_CORE_READ(asked, oldpath, name);
		names->dest_dirfd = BPF_CORE_READ(asked, new_dfd);
		names->dest_name = (__u64)BPF_CORE_READ(asked, newpath, name);
		return true;
	}
	case URING_MKDIRAT: {
		struct io_mkdir *asked = (void *)request;

		names->what = AQ_MKDIR;
		names->mode = BPF_CORE_READ(asked, mode);
		names->dirfd = BPF_CORE_READ(asked, dfd);
		names->name = (__u64)BPF_CORE_READ(asked, filename, name);
		return true;
	}
	case URING_SYMLINKAT:
	case URING_LINKAT: {
		struct io_link *asked = (void *)request;

		names->what = opcode == URING_LINKAT ? AQ_LINK : AQ_SYMLINK;
		if (opcode == URING_LINKAT) {
			names->dirfd = BPF_CORE_READ(asked, old_dfd);
			if (BPF_CORE_READ(asked, flags) & AT_SYMLINK_FOLLOW)
				names->flags |= AQ_FOLLOWED;
		}
		names->name = (__u64)BPF_CORE_READ(asked, oldpath, name);
		names->dest_dirfd = BPF_CORE_READ(asked, new_dfd);
		names->dest_name = (__u64)BPF_CORE_READ(asked, newpath, name);
		return true;
	}
	case URING_OPENAT:
	case URING_OPENAT2: {
		struct io_open *asked = (void *)request;
		__u64 how = BPF_CORE_READ(asked, how.flags);

		if (!skips || (how & (O_PATH | O_DIRECTORY)))
			return false;
		names->what = AQ_OPENED + opened_how(how);
		if (!(how & O_NOFOLLOW))
			names->flags |= AQ_FOLLOWED;
		names->dirfd = BPF_CORE_READ(asked, dfd);
		names->name = (__u64)BPF_CORE_READ(asked, filename, name);
		return true;
	}
	default:
		return false;
	}
}

static __always_inline struct file *registered_file(struct io_ring_ctx *context, __u32 index)
{
	__u64 address = 0;

	if (bpf_core_field_exists(struct io_file_table, data)) {
		struct io_rsrc_node **nodes = BPF_CORE_READ(context, file_table.data.nodes), *node = NULL;

		if (!nodes || index >= BPF_CORE_READ(context, file_table.data.nr) ||
		    bpf_probe_read_kernel(&node, sizeof(node), nodes + index) || !node)
			return NULL;
		address = BPF_CORE_READ(node, file_ptr);
	} else if (bpf_core_field_exists(struct io_file_table___array, files)) {
		struct io_file_table___array *table =
			(void *)context + bpf_core_field_offset(struct io_ring_ctx, file_table);
		struct io_fixed_file *files = BPF_CORE_READ(table, files);

		bpf_probe_read_kernel(&address, sizeof(address),
				      (void *)files + (__u64)index * bpf_core_type_size(struct io_fixed_file));
	}
	return (struct file *)(address & FIXED_FILE_MASK);
}

/* The result of a change. It may use the room that other file events leave: its change is with the recorder already. */
static __always_inline void submit_result(const struct request *pending, int result)
{
	struct aq_request record = {};

	COUNT(AQ_REQUEST, seen);
	begin_as(&record.header, AQ_REQUEST, &pending->owner);
	record.header.sequence = next_sequence(RECORDS);
	record.request_id = pending->id;
	record.result = result;
	record.what = AQ_RESULT;
	put(&record.header, sizeof(record), false);
}

/* A request that was not of a change ended. `task` has its descriptors. */
static __always_inline void handle_request(struct task_struct *task, const struct mark *mark, struct io_kiocb *request,
					   __u32 opcode, int result)
{
	struct names names = {};

	if (result < 0)
		return;
	switch (opcode) {
	case URING_OPENAT:
	case URING_OPENAT2: {
		struct io_open *asked = (void *)request;
		__u32 slot = BPF_CORE_READ(asked, file_slot);

		if (slot == 0)
			handle_open(task, mark, file_at(task, result), result, BPF_CORE_READ(asked, how.flags));
		else
			handle_open(task, mark,
				    registered_file(BPF_CORE_READ(request, ctx), slot == FILE_INDEX_ALLOC ? result : slot - 1),
				    -1, BPF_CORE_READ(asked, how.flags));
		return;
	}
	case URING_ACCEPT: {
		struct io_accept *asked = (void *)request;
		struct call call = { .operation = OP_ACCEPT };

		if (BPF_CORE_READ(asked, file_slot) == 0 && find_socket(task, &call, result))
			handle_accept(task, mark, &call, result);
		return;
	}
	case URING_CLOSE: {
		struct io_close *asked = (void *)request;

		if (BPF_CORE_READ(asked, file_slot) == 0)
			handle_close(task, BPF_CORE_READ(asked, fd));
		return; /* a registered file goes later: the sweep finds it */
	}
	case URING_FIXED_FD_INSTALL:
		handle_dup(task, result);
		return;
	case URING_FTRUNCATE:
		names.what = AQ_TRUNCATE;
		names.mode = 0xffffffff;
		names.file = BPF_CORE_READ(request, file);
		if (names.file)
			submit_change(task, mark, &names);
		return;
	}
}

/* Bytes, whoever is running: the request holds its file. */
static __always_inline void count_request(struct task_struct *task, struct io_kiocb *request, __u32 opcode, int result)
{
	struct io_splice *asked = (void *)request;
	struct file *file;
	int fd;

	if (result <= 0)
		return;
	switch (opcode) {
	case URING_READ:
	case URING_READV:
	case URING_READ_FIXED:
	case URING_READV_FIXED:
		count_bytes(BPF_CORE_READ(request, file), result, false);
		return;
	case URING_WRITE:
	case URING_WRITEV:
	case URING_WRITE_FIXED:
	case URING_WRITEV_FIXED:
		count_bytes(BPF_CORE_READ(request, file), result, true);
		return;
	case URING_SPLICE:
	case URING_TEE:
		fd = BPF_CORE_READ(asked, splice_fd_in);
		if (BPF_CORE_READ(asked, flags) & SPLICE_F_FD_IN_FIXED)
			file = registered_file(BPF_CORE_READ(request, ctx), fd);
		else
			file = file_at(task, fd);
		count_bytes(file, result, false);
		count_bytes(BPF_CORE_READ(request, file), result, true);
		return;
	}
}

static __always_inline bool has_names(__u32 opcode)
{
	return opcode >= URING_RENAMEAT && opcode <= URING_LINKAT;
}

/* A request ended. What it had in the table, if it was known, is not there any more. */
static __always_inline void end_request(struct task_struct *task, const struct mark *mark, struct io_kiocb *request,
					const struct request *known, __u32 opcode, int result)
{
	/* An open whose completion is told after all is told as one. */
	if (known->id)
		submit_result(known, has_names(opcode) ? result : -EBADF);
	if (has_names(opcode))
		return;
	count_request(task, request, opcode, result);
	/* Its descriptors are those of its process. */
	if (known->owner.pid == task->tgid)
		handle_request(task, mark, request, opcode, result);
}

/* A request whose completion was not told, or told of another, has ended and left its result behind. */
static __always_inline void end_untold(const struct request *known, int result)
{
	if (known->id)
		submit_result(known, result);
}

static __always_inline void handle_submit(struct io_kiocb *request)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 key = (__u64)request;
	struct request entry = {}, *before;
	struct names names = {};
	struct mark mark;
	__u32 opcode;

	if (!is_shown(slot_of(task, &mark)))
		return;
	before = bpf_map_lookup_elem(&requests, &key);
	if (before) {
		end_untold(before, BPF_CORE_READ(request, cqe.res)); /* which is still that of the one before */
		bpf_map_delete_elem(&requests, &key);
	}
	opcode = BPF_CORE_READ(request, opcode);
	if (!is_followed(opcode))
		return;
	entry.context = (__u64)BPF_CORE_READ(request, ctx);
	entry.user_data = BPF_CORE_READ(request, cqe.user_data);
	entry.submitted_ns = bpf_ktime_get_boot_ns();
	entry.opcode = opcode;
	entry.skips = (BPF_CORE_READ(request, flags) & REQ_F_CQE_SKIP) != 0;
	own(&entry.owner, task, &mark);
	if (!names_in(request, opcode, entry.skips, &names)) {
		bpf_map_update_elem(&requests, &key, &entry, BPF_ANY); /* if there is no room, its end tells enough */
		return;
	}
	entry.id = (__u64)(bpf_get_smp_processor_id() + 1) << 48 | next_sequence(OPENS);
	names.request_id = entry.id;
	if (bpf_map_update_elem(&requests, &key, &entry, BPF_ANY)) {
		COUNT(AQ_CHANGE, seen);
		COUNT(AQ_CHANGE, oversized); /* no room to wait for its result */
		return;
	}
	if (!submit_change(task, &mark, &names))
		bpf_map_delete_elem(&requests, &key);
}

/* io_submit_sqe. Its name until 6.3 was io_uring_submit_sqe; loaded where the argument is the request. */
SEC("tp_btf/io_uring_submit_req")
int BPF_PROG(on_submit, struct io_kiocb *request)
{
	handle_submit(request);
	return 0;
}

SEC("tp_btf/io_uring_submit_sqe")
int BPF_PROG(on_submit_before, struct io_kiocb *request)
{
	handle_submit(request);
	return 0;
}

/* A completion that does not say of which request; or whose request's entry was taken for one that is like it. */
struct completion {
	__u64 context;
	__u64 user_data;
	int result;
	__u64 request;
};

static long find_like(void *map, const __u64 *key, struct request *entry, struct completion *of)
{
	struct io_kiocb *request = (struct io_kiocb *)*key;

	if (entry->context != of->context || entry->user_data != of->user_data || BPF_CORE_READ(request, cqe.res) != of->result)
		return 0;
	of->request = *key;
	return 1;
}

/* Takes a request out of the table that can have ended so. Those of one ring that a program itself cannot tell apart, and
 * that ended alike, stand for each other. */
static __always_inline bool take_like(struct completion *of, struct request *known)
{
	struct request *found;
	int i;

	for (i = 0; i < TRIES; i++) {
		of->request = 0;
		bpf_for_each_map_elem(&requests, find_like, of, 0);
		found = bpf_map_lookup_elem(&requests, &of->request);
		if (!found)
			return false;
		*known = *found;
		/* Another CPU may have found the same one. */
		if (!bpf_map_delete_elem(&requests, &of->request))
			return true;
	}
	return false;
}

/* io_fill_cqe_req. The arguments behind the request changed in 6.14; the result is in the request all along. */
SEC("tp_btf/io_uring_complete")
int BPF_PROG(on_complete, void *context, void *completed)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_struct___flags *flags = (void *)task;
	struct io_kiocb *request = completed;
	struct completion of = {};
	struct request *found, known = {};
	__u64 key = (__u64)request;
	struct mark mark = {};
	bool shown = is_shown(slot_of(task, &mark));
	__u32 opcode;

	/* NULL: one of many completions of a request, none of them of files. */
	if (!request || (!shown && !(BPF_CORE_READ(flags, flags) & PF_WQ_WORKER)))
		return 0;
	found = bpf_map_lookup_elem(&requests, &key);
	opcode = BPF_CORE_READ(request, opcode);
	of.result = BPF_CORE_READ(request, cqe.res);
	if (found)
		known = *found;
	if (!found || bpf_map_delete_elem(&requests, &key)) {
		if (!shown || !is_followed(opcode))
			return 0;
		of.context = (__u64)BPF_CORE_READ(request, ctx);
		of.user_data = BPF_CORE_READ(request, cqe.user_data);
		known.id = 0;
		if (has_names(opcode))
			take_like(&of, &known);
		known.owner.pid = task->tgid; /* submitted before it was marked, or there was no room */
	}
	end_request(task, &mark, request, &known, opcode, of.result);
	return 0;
}

/* io_cqring_event_overflow, still before the request is used anew. */
SEC("tp_btf/io_uring_cqe_overflow")
int BPF_PROG(on_overflow, void *context, __u64 user_data, __s32 result)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct completion of = { .context = (__u64)context, .user_data = user_data, .result = result };
	struct request known = {};
	struct mark mark;

	if (is_shown(slot_of(task, &mark)) && take_like(&of, &known))
		end_request(task, &mark, (struct io_kiocb *)of.request, &known, known.opcode, result);
	return 0;
}

/* What has been in the table for so long and tells no success has ended. */
static long end_skipped(void *map, const __u64 *key, struct request *entry, __u64 *now)
{
	struct io_kiocb *request = (struct io_kiocb *)*key;
	struct request known = *entry;
	__u64 address = *key;

	/* Of the sweep, which has to load where there are no such requests. */
	if (!bpf_core_field_exists(request->cqe.res) || !known.skips || known.submitted_ns + SKIPPED_NS > *now)
		return 0;
	if (bpf_map_delete_elem(&requests, &address))
		return 0;
	end_untold(&known, BPF_CORE_READ(request, cqe.res));
	return 0;
}

#endif
