/* SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0 */
/*
 * What agents do, from the kernel. Only program types that load on a kernel that is locked down: tp_btf, iter, raw_tp.
 * Each file has one subject; here is the one hook for all system calls.
 */
#include <linux/bpf.h>
#include <stdbool.h>
#include <stddef.h>

#include "kernel.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#include "event.h"
#include "reads.h"
#include "maps.h"
#include "paths.h"
#include "environment.h"
#include "process.h"
#include "calls.h"
#include "files.h"
#include "names.h"
#include "lookups.h"
#include "sockets.h"
#include "uring.h"
#include "adopt.h"

/* Attached while an agent lives. By the exit the kernel has read the user's strings, so their pages are there, and the
 * result is known. Threads of no agent leave after the number's look-up and one of task storage. */
SEC("tp_btf/sys_exit")
int BPF_PROG(on_call, struct pt_regs *regs, long result)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct call call;
	struct mark mark;
	bool compat;

	call.operation = operation_of(task, regs, &compat);
	if (call.operation == OP_NONE || !is_shown(slot_of(task, &mark)))
		return 0;
	if (call.operation == OP_UNSUPPORTED) {
		COUNT(AQ_CONNECTION, unsupported_abi);
		return 0;
	}
	read_arguments(&call, regs, compat);
	if (compat)
		result = call.operation == OP_MMAP || call.operation == OP_MMAP_BLOCK ? mapped_at(result) : (int)result;
	if (call.operation == OP_SOCKETCALL)
		read_socketcall(&call);
	if (call.operation == OP_CONNECT || call.operation == OP_LISTEN) {
		if (!find_socket(task, &call, call.arguments[0]))
			return 0;
		if (call.operation == OP_CONNECT)
			handle_connect(task, &mark, &call, result);
		else
			handle_listen(task, &mark, &call, result);
		return 0;
	}
	if (call.operation == OP_CLOSE) {
		if (result != -EBADF)
			handle_close(task, call.arguments[0]);
		return 0;
	}
	if (result < 0)
		return 0;
	switch (call.operation) {
	case OP_OPEN:
	case OP_OPENAT:
	case OP_OPENAT2:
	case OP_CREAT:
	case OP_MEMFD:
		handle_open(task, &mark, file_at(task, result), result, open_flags(&call));
		break;
	case OP_FCNTL:
		if (call.arguments[1] == F_DUPFD || call.arguments[1] == F_DUPFD_CLOEXEC)
			handle_dup(task, result);
		break;
	case OP_DUP:
		handle_dup(task, result);
		break;
	case OP_READ:
	case OP_READV:
		if (!handle_bytes(task, call.arguments[0], result, false) && find_socket(task, &call, call.arguments[0])) {
			handle_transfer(task, &mark, &call, result);
			handle_received(task, &mark, &call, result);
		}
		break;
	case OP_WRITE:
	case OP_WRITEV:
		if (!handle_bytes(task, call.arguments[0], result, true) && find_socket(task, &call, call.arguments[0])) {
			handle_transfer(task, &mark, &call, result);
			handle_sent(task, &mark, &call, result);
		}
		break;
	case OP_ACCEPT:
		if (find_socket(task, &call, result))
			handle_accept(task, &mark, &call, result);
		break;
	case OP_BIND:
		if (find_socket(task, &call, call.arguments[0]))
			handle_bind(task, &mark, &call);
		break;
	case OP_SEND:
	case OP_SENDMSG:
	case OP_SENDMMSG:
		if (find_socket(task, &call, call.arguments[0])) {
			handle_transfer(task, &mark, &call, result);
			handle_sent(task, &mark, &call, result);
		}
		break;
	case OP_RECEIVE:
	case OP_RECVMSG:
	case OP_RECVMMSG:
		if (find_socket(task, &call, call.arguments[0])) {
			handle_transfer(task, &mark, &call, result);
			handle_received(task, &mark, &call, result);
		}
		break;
	case OP_SOCKETCALL:
	case OP_NONE:
		break;
	case OP_SENDFILE:
		handle_bytes(task, call.arguments[1], result, false);
		handle_bytes(task, call.arguments[0], result, true);
		if (!HOOKED || bpf_core_field_exists(struct proto_ops, sendpage))
			count_by_call(task, call.arguments[0], result, false);
		break;
	case OP_COPY_RANGE:
		handle_bytes(task, call.arguments[0], result, false);
		handle_bytes(task, call.arguments[2], result, true);
		count_by_call(task, call.arguments[0], result, true); /* splice goes past sock_recv_length */
		if (!HOOKED || bpf_core_field_exists(struct proto_ops, sendpage))
			count_by_call(task, call.arguments[2], result, false);
		break;
	case OP_TEE:
		handle_bytes(task, call.arguments[0], result, false);
		handle_bytes(task, call.arguments[1], result, true);
		break;
	case OP_VMSPLICE:
		handle_vmsplice(task, call.arguments[0], result);
		break;
	case OP_MMAP_BLOCK:
		read_block(&call);
		/* fallthrough */
	case OP_MMAP:
		handle_mmap(task, result, call.arguments[2], call.arguments[3], call.arguments[4]);
		break;
	case OP_MPROTECT:
		handle_mprotect(task, call.arguments[0], call.arguments[2]);
		break;
	case OP_RING:
		handle_ring(task, &mark);
		break;
	case OP_CLOSE_RANGE:
		break; /* the sweep finds what ended */
	default:
		handle_change(task, &mark, &call);
	}
	return 0;
}

/* Run by the recorder: reports every known file that has ended unseen, and every request. */
SEC("raw_tp")
int sweep(void *context)
{
	__u64 now = bpf_ktime_get_boot_ns();

	bpf_for_each_map_elem(&files, sweep_one, NULL, 0);
	bpf_for_each_map_elem(&requests, end_skipped, &now, 0);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
