"""A program on the exit of every system call that does nothing: what the kernel itself takes for such a hook."""

import contextlib
import ctypes
import os
import platform
import struct

BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]  # bpf(2)
PROG_LOAD, RAW_TRACEPOINT_OPEN = 5, 17  # enum bpf_cmd
RAW_TRACEPOINT = 17  # enum bpf_prog_type
RETURN_0 = struct.pack("<BBhi", 0xB7, 0, 0, 0) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # r0 = 0; exit


def bpf(command, attributes):
    attributes = ctypes.create_string_buffer(attributes, 128)
    result = ctypes.CDLL(None, use_errno=True).syscall(BPF, command, attributes, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), "bpf")
    return result


@contextlib.contextmanager
def attached():
    """Attached as the recorder's is, until the end of the block."""
    code, licence, name = (ctypes.create_string_buffer(text) for text in (RETURN_0, b"GPL", b"sys_exit"))
    address = ctypes.addressof
    program = bpf(PROG_LOAD, struct.pack("<IIQQ", RAW_TRACEPOINT, len(RETURN_0) // 8, address(code), address(licence)))
    try:
        link = bpf(RAW_TRACEPOINT_OPEN, struct.pack("<QI", address(name), program))
        try:
            yield
        finally:
            os.close(link)
    finally:
        os.close(program)
