/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/* System calls, by what they do, and their arguments, whatever ABI they came by. */
#ifndef AGENTQUERY_CALLS_H
#define AGENTQUERY_CALLS_H

#define CALLS 512
#define AT_FDCWD -100
#define TS_COMPAT 2 /* arch/x86/include/asm/thread_info.h */
#define TIF_32BIT 22 /* arch/arm64/include/asm/thread_info.h */

enum operation {
	OP_NONE,
	OP_OPEN,
	OP_OPENAT,
	OP_OPENAT2,
	OP_CREAT,
	OP_CLOSE,
	OP_CLOSE_RANGE,
	OP_DUP, /* dup, dup2, dup3: the result is the new descriptor */
	OP_FCNTL,
	OP_READ,
	OP_READV,
	OP_WRITE,
	OP_WRITEV,
	OP_SENDFILE,
	OP_COPY_RANGE, /* copy_file_range, splice: from, offset, to */
	OP_UNLINK,
	OP_UNLINKAT,
	OP_RMDIR,
	OP_RENAME,
	OP_RENAMEAT,
	OP_RENAMEAT2,
	OP_LINK,
	OP_LINKAT,
	OP_SYMLINK,
	OP_SYMLINKAT,
	OP_MKDIR,
	OP_MKDIRAT,
	OP_CHMOD,
	OP_FCHMODAT,
	OP_FCHMODAT2,
	OP_FCHMOD,
	OP_CHOWN,
	OP_LCHOWN,
	OP_FCHOWNAT,
	OP_FCHOWN,
	OP_TRUNCATE,
	OP_FTRUNCATE,
	OP_CONNECT,
	OP_ACCEPT, /* accept, accept4 */
	OP_BIND,
	OP_LISTEN,
	OP_SEND, /* sendto */
	OP_SENDMSG,
	OP_SENDMMSG,
	OP_RECEIVE, /* recvfrom */
	OP_RECVMSG,
	OP_RECVMMSG,
	OP_SOCKETCALL, /* i386: any of them */
	OP_MEMFD,
	OP_MKNOD,
	OP_MKNODAT,
	OP_TEE,
	OP_VMSPLICE,
	OP_MMAP,
	OP_MMAP_BLOCK, /* mmap of i386: its arguments are in memory */
	OP_MPROTECT,
	OP_RING,
	OP_UNSUPPORTED, /* counted, not decoded */
};

#if defined(__TARGET_ARCH_x86)
#include <asm/unistd_64.h>
#else
#define __ARCH_WANT_RENAMEAT /* as arm64 itself has it: what rename(3) of glibc calls there */
#include <asm-generic/unistd.h>
#endif

static const volatile __u8 native_calls[CALLS] = {
#ifdef __NR_open
	[__NR_open] = OP_OPEN,
	[__NR_creat] = OP_CREAT,
	[__NR_dup2] = OP_DUP,
	[__NR_unlink] = OP_UNLINK,
	[__NR_rmdir] = OP_RMDIR,
	[__NR_rename] = OP_RENAME,
	[__NR_link] = OP_LINK,
	[__NR_symlink] = OP_SYMLINK,
	[__NR_mkdir] = OP_MKDIR,
	[__NR_chmod] = OP_CHMOD,
	[__NR_chown] = OP_CHOWN,
	[__NR_lchown] = OP_LCHOWN,
	[__NR_mknod] = OP_MKNOD,
#endif
#ifdef __NR_renameat
	[__NR_renameat] = OP_RENAMEAT,
#endif
	[__NR_openat] = OP_OPENAT,
	[437 /* openat2 */] = OP_OPENAT2,
	[__NR_close] = OP_CLOSE,
	[436 /* close_range */] = OP_CLOSE_RANGE,
	[__NR_dup] = OP_DUP,
	[__NR_dup3] = OP_DUP,
	[__NR_fcntl] = OP_FCNTL,
	[__NR_read] = OP_READ,
	[__NR_pread64] = OP_READ,
	[__NR_readv] = OP_READV,
	[__NR_preadv] = OP_READ,
	[__NR_preadv2] = OP_READV,
	[__NR_write] = OP_WRITE,
	[__NR_pwrite64] = OP_WRITE,
	[__NR_writev] = OP_WRITEV,
	[__NR_pwritev] = OP_WRITE,
	[__NR_pwritev2] = OP_WRITEV,
	[__NR_sendfile] = OP_SENDFILE,
	[__NR_copy_file_range] = OP_COPY_RANGE,
	[__NR_splice] = OP_COPY_RANGE,
	[__NR_unlinkat] = OP_UNLINKAT,
	[__NR_renameat2] = OP_RENAMEAT2,
	[__NR_linkat] = OP_LINKAT,
	[__NR_symlinkat] = OP_SYMLINKAT,
	[__NR_mkdirat] = OP_MKDIRAT,
	[__NR_fchmodat] = OP_FCHMODAT,
	[452 /* fchmodat2, 6.6 */] = OP_FCHMODAT2,
	[__NR_fchmod] = OP_FCHMOD,
	[__NR_fchownat] = OP_FCHOWNAT,
	[__NR_fchown] = OP_FCHOWN,
	[__NR_truncate] = OP_TRUNCATE,
	[__NR_ftruncate] = OP_FTRUNCATE,
	[__NR_connect] = OP_CONNECT,
	[__NR_accept] = OP_ACCEPT,
	[__NR_accept4] = OP_ACCEPT,
	[__NR_bind] = OP_BIND,
	[__NR_listen] = OP_LISTEN,
	[__NR_sendto] = OP_SEND,
	[__NR_sendmsg] = OP_SENDMSG,
	[__NR_sendmmsg] = OP_SENDMMSG,
	[__NR_recvfrom] = OP_RECEIVE,
	[__NR_recvmsg] = OP_RECVMSG,
	[__NR_recvmmsg] = OP_RECVMMSG,
	[__NR_open_by_handle_at] = OP_OPENAT, /* its flags are at the same place */
	[__NR_memfd_create] = OP_MEMFD,
	[__NR_mknodat] = OP_MKNODAT,
	[__NR_tee] = OP_TEE,
	[__NR_vmsplice] = OP_VMSPLICE,
	[__NR_mmap] = OP_MMAP,
	[__NR_mprotect] = OP_MPROTECT,
	[425 /* io_uring_setup */] = OP_RING,
};

#if defined(__TARGET_ARCH_x86)
/* i386 numbers (arch/x86/entry/syscalls/syscall_32.tbl), by int 0x80 from any process. */
static const volatile __u8 compat_calls[CALLS] = {
	[3 /* read */] = OP_READ,
	[4 /* write */] = OP_WRITE,
	[5 /* open */] = OP_OPEN,
	[6 /* close */] = OP_CLOSE,
	[8 /* creat */] = OP_CREAT,
	[9 /* link */] = OP_LINK,
	[10 /* unlink */] = OP_UNLINK,
	[14 /* mknod */] = OP_MKNOD,
	[15 /* chmod */] = OP_CHMOD,
	[16 /* lchown16 */] = OP_LCHOWN,
	[38 /* rename */] = OP_RENAME,
	[39 /* mkdir */] = OP_MKDIR,
	[40 /* rmdir */] = OP_RMDIR,
	[41 /* dup */] = OP_DUP,
	[55 /* fcntl */] = OP_FCNTL,
	[63 /* dup2 */] = OP_DUP,
	[83 /* symlink */] = OP_SYMLINK,
	[90 /* mmap */] = OP_MMAP_BLOCK,
	[92 /* truncate */] = OP_TRUNCATE,
	[93 /* ftruncate */] = OP_FTRUNCATE,
	[94 /* fchmod */] = OP_FCHMOD,
	[95 /* fchown16 */] = OP_FCHOWN,
	[102 /* socketcall */] = OP_SOCKETCALL,
	[125 /* mprotect */] = OP_MPROTECT,
	[145 /* readv */] = OP_READ,
	[146 /* writev */] = OP_WRITE,
	[180 /* pread64 */] = OP_READ,
	[181 /* pwrite64 */] = OP_WRITE,
	[182 /* chown16 */] = OP_CHOWN,
	[187 /* sendfile */] = OP_SENDFILE,
	[192 /* mmap2 */] = OP_MMAP,
	[193 /* truncate64 */] = OP_TRUNCATE,
	[194 /* ftruncate64 */] = OP_FTRUNCATE,
	[198 /* lchown */] = OP_LCHOWN,
	[207 /* fchown */] = OP_FCHOWN,
	[212 /* chown */] = OP_CHOWN,
	[221 /* fcntl64 */] = OP_FCNTL,
	[239 /* sendfile64 */] = OP_SENDFILE,
	[295 /* openat */] = OP_OPENAT,
	[296 /* mkdirat */] = OP_MKDIRAT,
	[297 /* mknodat */] = OP_MKNODAT,
	[298 /* fchownat */] = OP_FCHOWNAT,
	[301 /* unlinkat */] = OP_UNLINKAT,
	[302 /* renameat */] = OP_RENAMEAT,
	[303 /* linkat */] = OP_LINKAT,
	[304 /* symlinkat */] = OP_SYMLINKAT,
	[306 /* fchmodat */] = OP_FCHMODAT,
	[313 /* splice */] = OP_COPY_RANGE,
	[315 /* tee */] = OP_TEE,
	[316 /* vmsplice */] = OP_VMSPLICE,
	[330 /* dup3 */] = OP_DUP,
	[333 /* preadv */] = OP_READ,
	[334 /* pwritev */] = OP_WRITE,
	[342 /* open_by_handle_at */] = OP_OPENAT,
	[353 /* renameat2 */] = OP_RENAMEAT2,
	[337 /* recvmmsg */] = OP_RECVMMSG,
	[345 /* sendmmsg */] = OP_SENDMMSG,
	[361 /* bind */] = OP_BIND,
	[356 /* memfd_create */] = OP_MEMFD,
	[362 /* connect */] = OP_CONNECT,
	[363 /* listen */] = OP_LISTEN,
	[364 /* accept4 */] = OP_ACCEPT,
	[369 /* sendto */] = OP_SEND,
	[370 /* sendmsg */] = OP_SENDMSG,
	[371 /* recvfrom */] = OP_RECEIVE,
	[372 /* recvmsg */] = OP_RECVMSG,
	[377 /* copy_file_range */] = OP_COPY_RANGE,
	[378 /* preadv2 */] = OP_READ,
	[379 /* pwritev2 */] = OP_WRITE,
	[417 /* recvmmsg_time64 */] = OP_RECVMMSG,
	[425 /* io_uring_setup */] = OP_RING,
	[436 /* close_range */] = OP_CLOSE_RANGE,
	[437 /* openat2 */] = OP_OPENAT2,
	[452 /* fchmodat2 */] = OP_FCHMODAT2,
};
#endif

struct call {
	enum operation operation;
	struct file *file; /* of a call on a socket */
	struct sock *sk;
	bool compat;
	__u64 arguments[6];
};

/* Which operation a call is; OP_NONE for what is of no interest. */
static __always_inline enum operation operation_of(struct task_struct *task, struct pt_regs *regs, bool *compat)
{
#if defined(__TARGET_ARCH_x86)
	__u64 number = regs->orig_ax;

	*compat = task->thread_info.status & TS_COMPAT;
	if ((__s64)number > 0 && (number & 0x40000000)) /* x32; rt_sigreturn leaves -1 */
		return OP_UNSUPPORTED;
	if (number >= CALLS)
		return OP_NONE;
	return *compat ? compat_calls[number & (CALLS - 1)] : native_calls[number & (CALLS - 1)];
#else
	__u32 number = regs->syscallno;

	*compat = false;
	if (task->thread_info.flags & (1ul << TIF_32BIT)) /* an AArch32 program, whose numbers are those of 32-bit ARM */
		return OP_UNSUPPORTED;
	if (number >= CALLS)
		return OP_NONE;
	return native_calls[number & (CALLS - 1)];
#endif
}

/* What socketcall(2) of i386 was asked for (include/uapi/linux/net.h); its arguments lie in memory. */
static __noinline void read_socketcall(struct call *call)
{
	__u32 arguments[6] = {};
	__u64 at = call->arguments[1];
	int i;

	switch (call->arguments[0]) {
	case 2:
		call->operation = OP_BIND;
		break;
	case 3:
		call->operation = OP_CONNECT;
		break;
	case 4:
		call->operation = OP_LISTEN;
		break;
	case 5:
	case 18:
		call->operation = OP_ACCEPT;
		break;
	case 9:
	case 11:
		call->operation = OP_SEND;
		break;
	case 10:
	case 12:
		call->operation = OP_RECEIVE;
		break;
	case 16:
		call->operation = OP_SENDMSG;
		break;
	case 17:
		call->operation = OP_RECVMSG;
		break;
	case 19:
		call->operation = OP_RECVMMSG;
		break;
	case 20:
		call->operation = OP_SENDMMSG;
		break;
	default:
		call->operation = OP_NONE;
		return;
	}
	/* send and recv have no address. */
	if (call->arguments[0] == 9 || call->arguments[0] == 10)
		bpf_probe_read_user(arguments, 4 * sizeof(arguments[0]), (void *)at);
	else
		bpf_probe_read_user(arguments, sizeof(arguments), (void *)at);
	for (i = 0; i < 6; i++)
		call->arguments[i] = arguments[i];
}

static __always_inline void read_arguments(struct call *call, struct pt_regs *regs, bool compat)
{
	call->compat = compat;
#if defined(__TARGET_ARCH_x86)
	if (compat) {
		call->arguments[0] = (__u32)regs->bx;
		call->arguments[1] = (__u32)regs->cx;
		call->arguments[2] = (__u32)regs->dx;
		call->arguments[3] = (__u32)regs->si;
		call->arguments[4] = (__u32)regs->di;
		call->arguments[5] = (__u32)regs->bp;
		return;
	}
	call->arguments[0] = regs->di;
	call->arguments[1] = regs->si;
	call->arguments[2] = regs->dx;
	call->arguments[3] = regs->r10;
	call->arguments[4] = regs->r8;
	call->arguments[5] = regs->r9;
#else
	call->arguments[0] = regs->orig_x0;
	call->arguments[1] = regs->regs[1];
	call->arguments[2] = regs->regs[2];
	call->arguments[3] = regs->regs[3];
	call->arguments[4] = regs->regs[4];
	call->arguments[5] = regs->regs[5];
#endif
}

/* The arguments of a call of i386 whose one argument is where they are. */
static __always_inline void read_block(struct call *call)
{
	__u32 block[6] = {};
	int i;

	bpf_probe_read_user(block, sizeof(block), (void *)call->arguments[0]);
	for (i = 0; i < 6; i++)
		call->arguments[i] = block[i];
}

/* A 32-bit address may lie above 2 GiB; the last page is errors. */
static __always_inline long mapped_at(long result)
{
	return (int)result < 0 && (int)result > -4096 ? (int)result : (__u32)result;
}

#endif
