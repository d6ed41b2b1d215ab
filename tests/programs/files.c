/*
 * Operations on files, by every way into the kernel: by system call, by int 0x80, and by io_uring. Each line of the output
 * is a row that there has to be: operation, path, new path, bytes read, bytes written, mapped; paths below the working
 * directory without it.
 *
 *     files calls|int80|uring|async|sqpoll|deferred|storm
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Newer than some systems' headers. */
#define OP_FTRUNCATE 55
#define DEFERRED (1U << 12 | 1U << 13) /* IORING_SETUP_SINGLE_ISSUER, IORING_SETUP_DEFER_TASKRUN: Linux 6.1 */

enum operation { OPENAT, OPENAT2, CLOSE, READ, WRITE, READV, WRITEV, UNLINKAT, RENAMEAT2, MKDIRAT, LINKAT, SYMLINKAT, FTRUNCATE, SPLICE };

static const struct {
	const char *name;
	int native, i386, uring;
} operations[] = {
	[OPENAT] = { "openat", SYS_openat, 295, IORING_OP_OPENAT },
	[OPENAT2] = { "openat2", 437, 437, IORING_OP_OPENAT2 },
	[CLOSE] = { "close", SYS_close, 6, IORING_OP_CLOSE },
	[READ] = { "read", SYS_read, 3, IORING_OP_READ },
	[WRITE] = { "write", SYS_write, 4, IORING_OP_WRITE },
	[READV] = { "readv", SYS_readv, 145, IORING_OP_READV },
	[WRITEV] = { "writev", SYS_writev, 146, IORING_OP_WRITEV },
	[UNLINKAT] = { "unlinkat", SYS_unlinkat, 301, IORING_OP_UNLINKAT },
	[RENAMEAT2] = { "renameat2", SYS_renameat2, 353, IORING_OP_RENAMEAT },
	[MKDIRAT] = { "mkdirat", SYS_mkdirat, 296, IORING_OP_MKDIRAT },
	[LINKAT] = { "linkat", SYS_linkat, 303, IORING_OP_LINKAT },
	[SYMLINKAT] = { "symlinkat", SYS_symlinkat, 304, IORING_OP_SYMLINKAT },
	[FTRUNCATE] = { "ftruncate", SYS_ftruncate, 93, OP_FTRUNCATE },
	[SPLICE] = { "splice", SYS_splice, 313, IORING_OP_SPLICE },
};

static enum { CALLS, INT80, URING } way;
static unsigned flags_of_all; /* of each request */

/* What is below 4 GiB can be named by int 0x80 too. */
static char *arena, *arena_next;

static void *low(const void *data, size_t size)
{
	void *copy = arena_next;

	arena_next += (size + 63) & ~63ul;
	if (arena_next > arena + (1 << 20)) {
		fprintf(stderr, "the arena is full\n");
		exit(2);
	}
	memcpy(copy, data, size);
	return copy;
}

static char *text(const char *name)
{
	return low(name, strlen(name) + 1);
}

static void row(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	putchar('\n');
}

static void opened(const char *operation, const char *path)
{
	row("%s|%s||||", operation, path);
}

static void closed(const char *path, int read, int written, const char *mapped)
{
	row("close|%s||%d|%d|%s", path, read, written, mapped);
}

static void changed(const char *operation, const char *path, const char *dest)
{
	row("%s|%s|%s|||", operation, path, dest);
}

static long must(long result, const char *what)
{
	if (result < 0) {
		fprintf(stderr, "%s: %s\n", what, strerror(result == -1 ? errno : (int)-result));
		exit(1);
	}
	return result;
}

/* The rings, as the kernel maps them. */
static struct {
	int fd;
	unsigned *sq_head, *sq_tail, *sq_mask, *sq_array, *sq_flags, *cq_head, *cq_tail, *cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
	unsigned tail; /* what the kernel is not told yet too */
	int polled;
} ring;

static void make_ring(unsigned entries, unsigned flags)
{
	struct io_uring_params given = { .flags = flags, .sq_thread_idle = 100 };
	char *sq, *cq;

	ring.fd = syscall(425, entries, &given);
	if (ring.fd < 0 && errno == EINVAL && flags == DEFERRED) {
		given = (struct io_uring_params){ 0 };
		ring.fd = syscall(425, entries, &given);
	}
	must(ring.fd, "io_uring_setup");
	sq = mmap(NULL, given.sq_off.array + given.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, IORING_OFF_SQ_RING);
	cq = mmap(NULL, given.cq_off.cqes + given.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE, MAP_SHARED,
		  ring.fd, IORING_OFF_CQ_RING);
	ring.sqes = mmap(NULL, given.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd,
			 IORING_OFF_SQES);
	ring.sq_head = (unsigned *)(sq + given.sq_off.head);
	ring.sq_tail = (unsigned *)(sq + given.sq_off.tail);
	ring.sq_mask = (unsigned *)(sq + given.sq_off.ring_mask);
	ring.sq_flags = (unsigned *)(sq + given.sq_off.flags);
	ring.sq_array = (unsigned *)(sq + given.sq_off.array);
	ring.cq_head = (unsigned *)(cq + given.cq_off.head);
	ring.cq_tail = (unsigned *)(cq + given.cq_off.tail);
	ring.cq_mask = (unsigned *)(cq + given.cq_off.ring_mask);
	ring.cqes = (struct io_uring_cqe *)(cq + given.cq_off.cqes);
	ring.polled = flags & IORING_SETUP_SQPOLL;
}

static struct io_uring_sqe *request(int opcode, int fd)
{
	unsigned index = ring.tail++ & *ring.sq_mask;
	struct io_uring_sqe *asked = &ring.sqes[index];

	memset(asked, 0, sizeof(*asked));
	asked->opcode = opcode;
	asked->fd = fd;
	asked->flags = flags_of_all;
	ring.sq_array[index] = index;
	return asked;
}

static void submit(unsigned count, unsigned wait)
{
	unsigned flags = wait ? IORING_ENTER_GETEVENTS : 0;

	__atomic_store_n(ring.sq_tail, ring.tail, __ATOMIC_SEQ_CST);
	if (ring.polled && __atomic_load_n(ring.sq_flags, __ATOMIC_ACQUIRE) & IORING_SQ_NEED_WAKEUP)
		flags |= IORING_ENTER_SQ_WAKEUP;
	must(syscall(426, ring.fd, ring.polled ? 0 : count, wait, flags, NULL, 0), "io_uring_enter");
	while (ring.polled && __atomic_load_n(ring.sq_head, __ATOMIC_ACQUIRE) != ring.tail)
		usleep(100);
}

static long result(void)
{
	unsigned head = *ring.cq_head;
	long got;

	while (head == __atomic_load_n(ring.cq_tail, __ATOMIC_ACQUIRE))
		submit(0, 1);
	got = ring.cqes[head & *ring.cq_mask].res;
	__atomic_store_n(ring.cq_head, head + 1, __ATOMIC_RELEASE);
	return got;
}

static long by_uring(enum operation operation, long a, long b, long c, long d, long e)
{
	struct io_uring_sqe *asked = request(operations[operation].uring, a);

	switch (operation) {
	case OPENAT:
		asked->addr = b;
		asked->open_flags = c;
		asked->len = d;
		break;
	case OPENAT2:
		asked->addr = b;
		asked->off = c;
		asked->len = d;
		break;
	case READ:
	case WRITE:
	case READV:
	case WRITEV:
		asked->addr = b;
		asked->len = c;
		asked->off = -1;
		break;
	case UNLINKAT:
		asked->addr = b;
		asked->unlink_flags = c;
		break;
	case RENAMEAT2:
	case LINKAT:
		asked->addr = b;
		asked->len = c;
		asked->off = d;
		asked->rename_flags = e;
		break;
	case MKDIRAT:
		asked->addr = b;
		asked->len = c;
		break;
	case SYMLINKAT:
		asked->fd = b;
		asked->addr = a;
		asked->addr2 = c;
		break;
	case FTRUNCATE:
		asked->off = b;
		break;
	case SPLICE:
		asked->splice_fd_in = a;
		asked->splice_off_in = -1;
		asked->fd = c;
		asked->off = -1;
		asked->len = e;
		break;
	case CLOSE:
		break;
	}
	submit(1, 1);
	return result();
}

static long by_int80(long number, long a, long b, long c, long d, long e)
{
#if defined(__x86_64__)
	long got;

	__asm__ volatile("push %%rbp; xor %%ebp, %%ebp; int $0x80; pop %%rbp"
			 : "=a"(got)
			 : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "memory", "r8", "r9", "r10", "r11");
	return (int)got;
#else
	(void)number, (void)a, (void)b, (void)c, (void)d, (void)e;
	return -ENOSYS;
#endif
}

static long call(enum operation operation, long a, long b, long c, long d, long e)
{
	long got;

	switch (way) {
	case CALLS:
		got = syscall(operations[operation].native, a, b, c, d, e, 0);
		if (got < 0)
			got = -errno;
		break;
	case INT80:
		got = by_int80(operations[operation].i386, a, b, c, d, e);
		break;
	default:
		got = by_uring(operation, a, b, c, d, e);
		if (got == -EINVAL && operation == FTRUNCATE) { /* since Linux 6.9 */
			got = syscall(SYS_ftruncate, a, b);
		}
	}
	return must(got, operations[operation].name);
}

static int open_at(int directory, const char *name, int flags)
{
	return call(OPENAT, directory, (long)text(name), flags, 0644, 0);
}

static void close_fd(int fd)
{
	call(CLOSE, fd, 0, 0, 0, 0);
}

static void write_some(int fd, const char *data)
{
	call(WRITE, fd, (long)text(data), strlen(data), 0, 0);
}

/* Two parts: of the layout that a 32-bit process has, or of a native one. */
static void *vector(const char *one, const char *two)
{
	struct iovec native[2] = { { text(one), strlen(one) }, { text(two), strlen(two) } };
	uint32_t narrow[4] = { (uintptr_t)native[0].iov_base, strlen(one), (uintptr_t)native[1].iov_base, strlen(two) };

	return way == INT80 ? low(narrow, sizeof(narrow)) : low(native, sizeof(native));
}

/* What every way can do. */
static void common(void)
{
	struct open_how how = { .flags = O_CREAT | O_RDWR, .mode = 0600 };
	int fd, directory, pipes[2];

	fd = open_at(AT_FDCWD, "made", O_CREAT | O_WRONLY);
	opened("create", "made");
	write_some(fd, "0123456789");
	call(WRITEV, fd, (long)vector("abc", "de"), 2, 0, 0);
	close_fd(fd);
	closed("made", 0, 15, "0");

	fd = open_at(AT_FDCWD, "made", O_RDWR);
	opened("open_write", "made");
	call(READ, fd, (long)text("xxxxxxx"), 7, 0, 0);
	call(READV, fd, (long)vector("xxxx", "x"), 2, 0, 0);
	write_some(fd, "end");
	close_fd(fd);
	closed("made", 12, 3, "0");

	fd = open_at(AT_FDCWD, "made", O_RDONLY | O_CREAT);
	opened("open_read", "made");
	close_fd(fd);
	closed("made", 0, 0, "");

	fd = open_at(AT_FDCWD, "made", O_WRONLY | O_TRUNC);
	opened("truncate", "made");
	call(FTRUNCATE, fd, 100, 0, 0, 0);
	changed("truncate", "made", "");
	close_fd(fd);
	closed("made", 0, 0, "0");

	fd = call(OPENAT2, AT_FDCWD, (long)text("by-openat2"), (long)low(&how, sizeof(how)), sizeof(how), 0);
	opened("create", "by-openat2");
	close_fd(fd);
	closed("by-openat2", 0, 0, "0");

	call(MKDIRAT, AT_FDCWD, (long)text("dir"), 0755, 0, 0);
	changed("mkdir", "dir", "");
	directory = open_at(AT_FDCWD, "dir", O_RDONLY | O_DIRECTORY);
	fd = open_at(directory, "below", O_CREAT | O_WRONLY);
	opened("create", "dir/below");
	write_some(fd, "below");
	close_fd(fd);
	closed("dir/below", 0, 5, "0");
	call(RENAMEAT2, directory, (long)text("below"), directory, (long)text("renamed"), 0);
	changed("rename", "dir/below", "dir/renamed");
	call(RENAMEAT2, AT_FDCWD, (long)text("made"), directory, (long)text("renamed"), 2 /* RENAME_EXCHANGE */);
	changed("rename", "made", "dir/renamed");
	changed("rename", "dir/renamed", "made");
	call(LINKAT, directory, (long)text("renamed"), AT_FDCWD, (long)text("linked"), 0);
	changed("link", "dir/renamed", "linked");
	call(SYMLINKAT, (long)text("dir/renamed"), AT_FDCWD, (long)text("symlink"), 0, 0);
	row("symlink|=dir/renamed|symlink|||");
	fd = open_at(AT_FDCWD, "symlink", O_RDONLY);
	opened("open_read", "dir/renamed");
	close_fd(fd);
	closed("dir/renamed", 0, 0, "");
	call(UNLINKAT, AT_FDCWD, (long)text("dir/renamed"), 0, 0, 0);
	changed("delete", "dir/renamed", "");
	call(UNLINKAT, AT_FDCWD, (long)text("symlink"), 0, 0, 0);
	changed("delete", "symlink", "");
	call(UNLINKAT, AT_FDCWD, (long)text("dir"), AT_REMOVEDIR, 0, 0);
	changed("rmdir", "dir", "");
	close_fd(directory);

	/* What fails is no row. */
	if (way == URING) {
		if (by_uring(UNLINKAT, AT_FDCWD, (long)text("not-there"), 0, 0, 0) != -ENOENT ||
		    by_uring(OPENAT, AT_FDCWD, (long)text("not-there"), O_RDONLY, 0, 0) != -ENOENT)
			exit(3);
	}

	must(pipe(pipes), "pipe");
	fd = open_at(AT_FDCWD, "linked", O_RDONLY);
	opened("open_read", "linked");
	must(call(SPLICE, fd, 0, pipes[1], 0, 64) == 64 ? 0 : -EIO, "splice from a file");
	close_fd(fd);
	closed("linked", 64, 0, "");
	fd = open_at(AT_FDCWD, "spliced", O_CREAT | O_WRONLY);
	opened("create", "spliced");
	must(call(SPLICE, pipes[0], 0, fd, 0, 64) == 64 ? 0 : -EIO, "splice to a file");
	close_fd(fd);
	closed("spliced", 0, 64, "0");

	fd = open_at(AT_FDCWD, "not-\xff-utf8", O_CREAT | O_WRONLY);
	opened("create", "not-\\xff-utf8");
	close_fd(fd);
	closed("not-\\xff-utf8", 0, 0, "0");
	call(UNLINKAT, AT_FDCWD, (long)text("not-\xff-utf8"), 0, 0, 0);
	changed("delete", "not-\\xff-utf8", "");
}

/* What else int 0x80 can do, in the numbers of i386. */
static void int80_alone(void)
{
	struct stat status;
	char *mapped;
	long fd, other;

#define I386(number, ...) must(by_int80(number, __VA_ARGS__), #number)
	fd = I386(8 /* creat */, (long)text("created"), 0600, 0, 0, 0);
	opened("create", "created");
	I386(181 /* pwrite64 */, fd, (long)text("0123456789"), 10, 0, 0);
	I386(94 /* fchmod */, fd, 0640, 0, 0, 0);
	changed("chmod", "created", "");
	close(fd);
	closed("created", 0, 10, "0");
	fd = I386(5 /* open */, (long)text("created"), O_RDONLY, 0, 0, 0);
	opened("open_read", "created");
	I386(180 /* pread64 */, fd, (long)text("xxxxxxxx"), 8, 0, 0);
	other = I386(5 /* open */, (long)text("copied"), O_CREAT | O_RDWR, 0600, 0, 0);
	opened("create", "copied");
	I386(187 /* sendfile */, other, fd, 0, 6, 0);
	I386(377 /* copy_file_range */, fd, 0, other, 0, 4);
	close(fd);
	closed("created", 18, 0, "");
	close(other);
	closed("copied", 0, 10, "0");

	fd = I386(5 /* open */, (long)text("mapped"), O_CREAT | O_RDWR, 0600, 0, 0);
	opened("create", "mapped");
	I386(194 /* ftruncate64 */, fd, 4096, 0, 0, 0);
	changed("truncate", "mapped", "");
	mapped = (char *)(uintptr_t)(uint32_t)by_int80(192 /* mmap2 */, 0, 4096, PROT_READ, MAP_SHARED, fd);
	I386(125 /* mprotect */, (long)mapped, 4096, PROT_READ | PROT_WRITE, 0, 0);
	mapped[0] = 'x';
	munmap(mapped, 4096);
	close(fd);
	closed("mapped", 0, 0, "1");
	fd = I386(5 /* open */, (long)text("mapped"), O_RDWR, 0, 0, 0);
	opened("open_write", "mapped");
	mapped = (char *)(uintptr_t)(uint32_t)by_int80(
		90 /* mmap */, (long)low((uint32_t[]){ 0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0 }, 24), 0, 0, 0, 0);
	mapped[1] = 'x';
	munmap(mapped, 4096);
	close(fd);
	closed("mapped", 0, 0, "1");

	I386(14 /* mknod */, (long)text("fifo"), S_IFIFO | 0600, 0, 0, 0);
	changed("create", "fifo", "");
	I386(297 /* mknodat */, AT_FDCWD, (long)text("fifo-at"), S_IFIFO | 0600, 0, 0);
	changed("create", "fifo-at", "");
	fd = I386(356 /* memfd_create */, (long)text("i386"), 0, 0, 0, 0);
	row("create|=memfd:i386||||");
	must(fstat(fd, &status), "fstat");
	close(fd);
	row("close|=memfd:i386||0|0|0");

	I386(39 /* mkdir */, (long)text("dir"), 0700, 0, 0, 0);
	changed("mkdir", "dir", "");
	I386(40 /* rmdir */, (long)text("dir"), 0, 0, 0, 0);
	changed("rmdir", "dir", "");
	I386(9 /* link */, (long)text("copied"), (long)text("second"), 0, 0, 0);
	changed("link", "copied", "second");
	I386(38 /* rename */, (long)text("second"), (long)text("third"), 0, 0, 0);
	changed("rename", "second", "third");
	I386(83 /* symlink */, (long)text("copied"), (long)text("soft"), 0, 0, 0);
	row("symlink|=copied|soft|||");
	I386(15 /* chmod */, (long)text("soft"), 0600, 0, 0, 0);
	changed("chmod", "copied", "");
	I386(198 /* lchown */, (long)text("soft"), 0, 0, 0, 0);
	changed("chown", "soft", "");
	I386(92 /* truncate */, (long)text("soft"), 3, 0, 0, 0);
	changed("truncate", "copied", "");
	I386(10 /* unlink */, (long)text("third"), 0, 0, 0, 0);
	changed("delete", "third", "");
#undef I386
}

/* A file that is opened without a name, where its file system can do that. */
static void by_handle(void)
{
	struct file_handle *handle = calloc(1, sizeof(*handle) + MAX_HANDLE_SZ);
	int mount, fd, directory = must(open(".", O_RDONLY), "open .");

	fd = must(open("handled", O_CREAT | O_WRONLY, 0600), "open");
	opened("create", "handled");
	close(fd);
	closed("handled", 0, 0, "0");
	handle->handle_bytes = MAX_HANDLE_SZ;
	if (name_to_handle_at(AT_FDCWD, "handled", handle, &mount, 0) && errno == EOPNOTSUPP)
		return;
	fd = must(open_by_handle_at(directory, handle, O_WRONLY | O_TRUNC), "open_by_handle_at");
	opened("truncate", "handled");
	must(write(fd, "1", 1), "write");
	close(fd);
	closed("handled", 0, 1, "0");
}

/* What only system calls can do. */
static void calls_alone(void)
{
	struct iovec parts[2] = { { "12", 2 }, { "345", 3 } };
	char name[64], whole[4096], through[4200], *mapped;
	int fd, other, pipes[2];
	loff_t offset;

	fd = must(creat("created", 0600), "creat");
	opened("create", "created");
	must(pwrite(fd, "abcdef", 6, 10), "pwrite");
	must(pwritev(fd, parts, 2, 0), "pwritev");
	must(pwritev2(fd, parts, 2, 0, 0), "pwritev2");
	must(fchmod(fd, 0640), "fchmod");
	changed("chmod", "created", "");
	must(fallocate(fd, 0, 0, 5000), "fallocate");
	close(fd);
	closed("created", 0, 16, "0");

	fd = must(open("created", O_RDONLY), "open");
	opened("open_read", "created");
	other = must(open("copied", O_CREAT | O_WRONLY, 0600), "open");
	opened("create", "copied");
	offset = 0;
	must(sendfile(other, fd, &offset, 1000), "sendfile");
	must(syscall(SYS_copy_file_range, fd, NULL, other, NULL, 500, 0), "copy_file_range");
	must(preadv(fd, (struct iovec[]){ { name, 8 }, { name + 8, 8 } }, 2, 0), "preadv");
	close(fd);
	closed("created", 1516, 0, "");
	close(other);
	closed("copied", 0, 1500, "0");

	must(mknod("fifo", S_IFIFO | 0600, 0), "mknod");
	changed("create", "fifo", "");
	must(mkfifoat(AT_FDCWD, "other-fifo", 0600), "mknodat");
	changed("create", "other-fifo", "");
	fd = must(open("fifo", O_RDWR), "open fifo");
	opened("open_write", "fifo");
	other = must(open("other-fifo", O_RDWR), "open fifo");
	opened("open_write", "other-fifo");
	must(vmsplice(fd, parts, 2, 0), "vmsplice");
	must(tee(fd, other, 5, 0), "tee");
	close(fd);
	closed("fifo", 5, 5, "0");
	close(other);
	closed("other-fifo", 0, 5, "0");

	/* Mappings: the file ends with them. */
	fd = must(open("mapped", O_CREAT | O_RDWR, 0600), "open");
	opened("create", "mapped");
	must(ftruncate(fd, 4096), "ftruncate");
	changed("truncate", "mapped", "");
	mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	mapped[0] = 'x';
	close(fd);
	munmap(mapped, 4096);
	closed("mapped", 0, 0, "1");
	fd = must(open("mapped", O_RDWR), "open");
	opened("open_write", "mapped");
	mapped = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	must(mprotect(mapped, 4096, PROT_READ | PROT_WRITE), "mprotect");
	mapped[1] = 'x';
	munmap(mapped, 4096);
	close(fd);
	closed("mapped", 0, 0, "1");
	fd = must(open("mapped", O_RDWR), "open");
	opened("open_write", "mapped");
	mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	mapped[2] = 'x';
	munmap(mapped, 4096);
	close(fd);
	closed("mapped", 0, 0, "0");

	/* Files without a name, and their first one. */
	for (int by_proc = 0; by_proc < 2; by_proc++) {
		struct stat status;
		char inode[64];

		fd = must(open(".", O_TMPFILE | O_WRONLY, 0600), "O_TMPFILE");
		must(fstat(fd, &status), "fstat");
		snprintf(inode, sizeof(inode), "#%lu", (unsigned long)status.st_ino);
		opened("create", inode);
		must(write(fd, "tmp", 3), "write");
		snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
		if (by_proc)
			must(linkat(AT_FDCWD, name, AT_FDCWD, "named-by-proc", AT_SYMLINK_FOLLOW), "linkat");
		else
			must(linkat(fd, "", AT_FDCWD, "named", AT_EMPTY_PATH), "linkat");
		changed("link", inode, by_proc ? "named-by-proc" : "named");
		close(fd);
		closed(inode, 0, 3, "0");
	}

	/* Another name of a descriptor; and its file's name is gone. */
	fd = must(open("gone", O_CREAT | O_RDWR, 0600), "open");
	opened("create", "gone");
	must(unlink("gone"), "unlink");
	changed("delete", "gone", "");
	snprintf(name, sizeof(name), "/dev/fd/%d", fd);
	other = must(open(name, O_RDONLY), "open /dev/fd");
	opened("open_read", "gone");
	must(chmod(name, 0600), "chmod");
	changed("chmod", "gone", "");
	close(other);
	closed("gone", 0, 0, "");
	close(fd);
	closed("gone", 0, 0, "0");

	/* No open: it can only be named. */
	fd = must(open("copied", O_PATH), "O_PATH");
	close(fd);

	/* A directory that is not there any more. */
	must(mkdir("leaves", 0700), "mkdir");
	changed("mkdir", "leaves", "");
	fd = must(open("leaves/file", O_CREAT | O_WRONLY, 0600), "open");
	opened("create", "leaves/file");
	must(unlink("leaves/file"), "unlink");
	changed("delete", "leaves/file", "");
	must(rmdir("leaves"), "rmdir");
	changed("rmdir", "leaves", "");
	must(ftruncate(fd, 1), "ftruncate");
	changed("truncate", "leaves/file", "");
	close(fd);
	closed("leaves/file", 0, 0, "0");

	must(rename("/proc/self/cwd/copied", "moved"), "rename");
	changed("rename", "copied", "moved");
	must(getcwd(whole, sizeof(whole)) ? 0 : -1, "getcwd");
	snprintf(through, sizeof(through), "/proc/self/root/%s/through-root", whole);
	must(mkdir(through, 0700), "mkdir");
	changed("mkdir", "through-root", "");
	must(link("moved", "second"), "link");
	changed("link", "moved", "second");
	must(symlink("moved", "soft"), "symlink");
	row("symlink|=moved|soft|||");
	must(truncate("soft", 3), "truncate");
	changed("truncate", "moved", "");

	/* A memfd is a file, with a name that is in no directory. */
	fd = must(memfd_create("thing", 0), "memfd_create");
	row("create|=memfd:thing||||");
	must(write(fd, "code", 4), "write");
	must(ftruncate(fd, 10), "ftruncate");
	row("truncate|=memfd:thing||||");
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	other = must(open(name, O_RDONLY), "open a memfd");
	row("open_read|=memfd:thing||||");
	must(read(other, name, 4), "read");
	close(other);
	row("close|=memfd:thing||4|0|");
	close(fd);
	row("close|=memfd:thing||0|4|0");
	must(pipe(pipes), "pipe");
}

/* A path as long as one can be: PATH_MAX with its NUL. */
static void longest(void)
{
	char *whole = malloc(8192), component[256], *at, *start;
	size_t below;
	int fd;

	must(getcwd(whole, 4096) ? 0 : -1, "getcwd");
	start = at = whole + strlen(whole);
	memset(component, 'd', 255);
	component[255] = 0;
	while (4095 - (at - whole) > 300) {
		*at++ = '/';
		memcpy(at, component, 201);
		at[200] = 0;
		at += 200;
		must(mkdir(whole, 0700), "mkdir");
		changed("mkdir", start + 1, "");
	}
	*at++ = '/';
	below = 4095 - (at - whole);
	if (below > 255) {
		memcpy(at, component, 100);
		at[100] = 0;
		must(mkdir(whole, 0700), "mkdir");
		changed("mkdir", start + 1, "");
		at += 100;
		*at++ = '/';
		below = 4095 - (at - whole);
	}
	memset(at, 'f', below);
	at[below] = 0;
	fd = must(open(whole, O_CREAT | O_WRONLY, 0600), "open the longest");
	opened("create", start + 1);
	close(fd);
	closed(start + 1, 0, 0, "0");
	must(unlink(whole), "unlink the longest");
	changed("delete", start + 1, "");
}

/* What only io_uring can do. */
static void uring_alone(void)
{
	struct io_uring_sqe *asked;
	struct iovec buffer;
	int fd, none[8] = { -1, -1, -1, -1, -1, -1, -1, -1 };

	/* Registered files and buffers. */
	fd = open_at(AT_FDCWD, "registered", O_CREAT | O_RDWR);
	opened("create", "registered");
	none[3] = fd;
	must(syscall(427, ring.fd, IORING_REGISTER_FILES, none, 8), "IORING_REGISTER_FILES");
	buffer.iov_base = low("0123456789", 10);
	buffer.iov_len = 10;
	must(syscall(427, ring.fd, IORING_REGISTER_BUFFERS, &buffer, 1), "IORING_REGISTER_BUFFERS");
	asked = request(IORING_OP_WRITE_FIXED, 3);
	asked->flags |= IOSQE_FIXED_FILE;
	asked->addr = (long)buffer.iov_base;
	asked->len = 10;
	submit(1, 1);
	must(result(), "write_fixed");
	asked = request(IORING_OP_READ_FIXED, fd);
	asked->addr = (long)buffer.iov_base;
	asked->len = 4;
	submit(1, 1);
	must(result(), "read_fixed");
	fd = (none[3] = -1, fd);
	asked = request(IORING_OP_FILES_UPDATE, -1);
	asked->addr = (long)none;
	asked->len = 8;
	submit(1, 1);
	must(result(), "files_update");
	close_fd(fd);
	closed("registered", 4, 10, "0");

	/* A descriptor that no table of the process has: opened, written, and closed, one after the other. */
	asked = request(IORING_OP_OPENAT, AT_FDCWD);
	asked->addr = (long)text("direct");
	asked->open_flags = O_CREAT | O_WRONLY;
	asked->len = 0600;
	asked->file_index = 5 + 1;
	asked->flags |= IOSQE_IO_LINK;
	asked = request(IORING_OP_WRITE, 5);
	asked->flags |= IOSQE_FIXED_FILE | IOSQE_IO_LINK;
	asked->addr = (long)text("directly");
	asked->len = 8;
	asked = request(IORING_OP_CLOSE, 0);
	asked->file_index = 5 + 1;
	submit(3, 3);
	must(result(), "open direct");
	must(result(), "write direct");
	must(result(), "close direct");
	opened("create", "direct");
	closed("direct", 0, 8, "0");

	/* A success that is not told. */
	asked = request(IORING_OP_UNLINKAT, AT_FDCWD);
	asked->addr = (long)text("direct");
	asked->flags |= IOSQE_CQE_SKIP_SUCCESS;
	asked = request(IORING_OP_UNLINKAT, AT_FDCWD);
	asked->addr = (long)text("not-there");
	asked->flags |= IOSQE_CQE_SKIP_SUCCESS;
	submit(2, 0);
	changed("delete", "direct", "");
	while (access("direct", F_OK) == 0)
		usleep(1000);

	/* The same of an open: there is its name, and no more. */
	asked = request(IORING_OP_OPENAT, AT_FDCWD);
	asked->addr = (long)text("untold");
	asked->open_flags = O_CREAT | O_EXCL | O_WRONLY;
	asked->len = 0600;
	asked->flags |= IOSQE_CQE_SKIP_SUCCESS;
	submit(1, 0);
	while (access("untold", F_OK) != 0)
		usleep(1000);
	opened("create", "untold");
	asked = request(IORING_OP_OPENAT, AT_FDCWD);
	asked->addr = (long)text("not-there");
	asked->flags |= IOSQE_CQE_SKIP_SUCCESS;
	submit(1, 1);
	if (result() != -ENOENT)
		exit(3);

	/* More than there is room for. */
	for (int i = 0; i < 16; i++) {
		asked = request(IORING_OP_MKDIRAT, AT_FDCWD);
		snprintf((char *)(asked->addr = (long)low("many-00", 8)), 8, "many-%02d", i);
		asked->len = 0700;
		submit(1, 0);
	}
	for (int i = 0; i < 16; i++) {
		char name[16];

		must(result(), "mkdirat");
		snprintf(name, sizeof(name), "many-%02d", i);
		changed("mkdir", name, "");
	}
}

#define BATCH 64
#define BATCHES 20

/* Many at a time. */
static void storm(void)
{
	int results[BATCH];
	char name[32], *names[BATCH];

	for (int batch = 0; batch < BATCHES; batch++) {
		arena_next = arena;
		for (int i = 0; i < BATCH; i++) {
			struct io_uring_sqe *asked = request(IORING_OP_OPENAT, AT_FDCWD);

			snprintf(name, sizeof(name), "storm-%d-%d", batch, i);
			names[i] = text(name);
			asked->addr = (long)names[i];
			asked->open_flags = O_CREAT | O_WRONLY;
			asked->len = 0600;
			asked->user_data = i;
		}
		submit(BATCH, BATCH);
		for (int i = 0; i < BATCH; i++) {
			struct io_uring_cqe *got = &ring.cqes[*ring.cq_head & *ring.cq_mask];
			int index = got->user_data;

			results[index] = must(result(), "openat");
			opened("create", names[index]);
		}
		for (int i = 0; i < BATCH; i++) {
			struct io_uring_sqe *asked = request(IORING_OP_WRITE, results[i]);

			asked->addr = (long)names[i];
			asked->len = 1 + i;
		}
		submit(BATCH, BATCH);
		for (int i = 0; i < BATCH; i++)
			must(result(), "write");
		for (int i = 0; i < BATCH; i++)
			request(IORING_OP_CLOSE, results[i]);
		submit(BATCH, BATCH);
		for (int i = 0; i < BATCH; i++) {
			must(result(), "close");
			closed(names[i], 0, 1 + i, "0");
		}
		for (int i = 0; i < BATCH; i++)
			request(IORING_OP_UNLINKAT, AT_FDCWD)->addr = (long)names[i];
		submit(BATCH, BATCH);
		for (int i = 0; i < BATCH; i++) {
			must(result(), "unlinkat");
			changed("delete", names[i], "");
		}
	}
}

int main(int argc, char **argv)
{
	const char *by = argc > 1 ? argv[1] : "";

	umask(022);
	arena = arena_next = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
#if defined(__x86_64__)
					  | MAP_32BIT
#endif
				  , -1, 0);
	if (arena == MAP_FAILED)
		return 2;
	if (!strcmp(by, "calls")) {
		way = CALLS;
		common();
		calls_alone();
		by_handle();
		longest();
		return 0;
	}
	if (!strcmp(by, "int80")) {
		way = INT80;
		common();
		int80_alone();
		return 0;
	}
	way = URING;
	flags_of_all = !strcmp(by, "async") ? IOSQE_ASYNC : 0;
	if (!strcmp(by, "storm")) {
		make_ring(BATCH, 0);
		storm();
		return 0;
	}
	make_ring(4, !strcmp(by, "sqpoll") ? IORING_SETUP_SQPOLL : !strcmp(by, "deferred") ? DEFERRED : 0);
	common();
	uring_alone();
	return 0;
}
