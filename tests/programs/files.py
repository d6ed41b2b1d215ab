"""Operations on files as a program in Python does them; its lines are those of files.c.

    files.py calls|uring|root|mounts

`root` takes another root directory; `mounts`, which does that too, needs a mount namespace of its own, for bind mounts and
an overlay. Both end when ../go is there.
"""

import ctypes
import mmap
import os
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
AT_FDCWD = -100


def row(operation, path, dest="", read="", written="", mapped=""):
    print(operation, path, dest, read, written, mapped, sep="|")


def must(result):
    if result < 0:
        raise OSError(ctypes.get_errno() or -result, os.strerror(ctypes.get_errno() or -result))
    return result


def close(fd, path, read, written, mapped="0"):
    os.close(fd)
    row("close", path, "", read, written, mapped)


def calls():
    with open("made", "w") as file:
        file.write("0123456789")
    row("create", "made")
    row("close", "made", "", 0, 10, 0)
    with open("made", "r+") as file:
        file.read()
        file.write("abc")
    row("open_write", "made")
    row("close", "made", "", 10, 3, 0)

    os.mkdir("d")
    row("mkdir", "d")
    directory = os.open("d", os.O_RDONLY)
    fd = os.open("x", os.O_CREAT | os.O_RDWR, dir_fd=directory)
    row("create", "d/x")
    os.writev(fd, [b"12", b"3"])
    os.preadv(fd, [bytearray(2), bytearray(9)], 0)
    os.pwritev(fd, [b"45"], 3)
    close(fd, "d/x", 3, 5)
    os.rename("x", "y", src_dir_fd=directory, dst_dir_fd=directory)
    row("rename", "d/x", "d/y")
    os.link("d/y", "linked")
    row("link", "d/y", "linked")
    os.symlink("linked", "soft")
    row("symlink", "=linked", "soft")
    os.chmod("soft", 0o600)
    row("chmod", "linked")
    os.chown("soft", 0, 0, follow_symlinks=False)
    row("chown", "soft")
    os.truncate("soft", 4)
    row("truncate", "linked")

    source = os.open("made", os.O_RDONLY)
    row("open_read", "made")
    fd = os.open("copied", os.O_CREAT | os.O_WRONLY)
    row("create", "copied")
    os.sendfile(fd, source, 0, 5)
    os.copy_file_range(source, fd, 4, 0)
    pipe = os.pipe()
    os.splice(source, pipe[1], 2, offset_src=0)
    os.splice(pipe[0], fd, 2)
    close(source, "made", 11, 0, "")
    close(fd, "copied", 0, 11)

    fd = os.open("mapped", os.O_CREAT | os.O_RDWR)
    row("create", "mapped")
    os.ftruncate(fd, 4096)
    row("truncate", "mapped")
    with mmap.mmap(fd, 4096) as memory:
        memory[0] = 1
    close(fd, "mapped", 0, 0, 1)

    fd = os.memfd_create("from-python")
    row("create", "=memfd:from-python")
    os.write(fd, b"1")
    close(fd, "=memfd:from-python", 0, 1)
    os.mkfifo("fifo")
    row("create", "fifo")
    os.rmdir(os.mkdir("e") or "e")
    row("mkdir", "e")
    row("rmdir", "e")
    os.unlink("d/y")
    row("delete", "d/y")
    fd = os.open(b"\xfe\xff", os.O_CREAT | os.O_WRONLY)
    row("create", "\\xfe\\xff")
    close(fd, "\\xfe\\xff", 0, 0)
    os.rename(b"\xfe\xff", "\u00fc")
    row("rename", "\\xfe\\xff", "\u00fc")


class Ring:
    """io_uring without a library: the rings of the kernel, mapped."""

    ENTRIES = 4

    def __init__(self):
        given = bytearray(120)
        where = (ctypes.c_char * 120).from_buffer(given)
        self.fd = must(libc.syscall(425, self.ENTRIES, ctypes.byref(where)))
        sq_entries, cq_entries = struct.unpack_from("II", given)
        self.sq = struct.unpack_from("10I", given, 40)  # head tail ring_mask ring_entries flags dropped array ...
        self.cq = struct.unpack_from("10I", given, 80)  # head tail ring_mask ring_entries overflow cqes ...
        self.sq_ring = mmap.mmap(self.fd, self.sq[6] + sq_entries * 4, offset=0)
        self.cq_ring = mmap.mmap(self.fd, self.cq[5] + cq_entries * 16, offset=0x8000000)
        self.sqes = mmap.mmap(self.fd, sq_entries * 64, offset=0x10000000)
        self.kept = []

    def address(self, data):
        """Where bytes are, for as long as the ring is there."""
        buffer = ctypes.create_string_buffer(data, len(data) + 1)
        self.kept.append(buffer)
        return ctypes.addressof(buffer)

    def ask(self, opcode, fd, off=0, addr=0, length=0, flags=0, splice=0):
        tail, mask = (struct.unpack_from("I", self.sq_ring, self.sq[n])[0] for n in (1, 2))
        index = tail & mask
        entry = struct.pack("BBHiQQIIQHHiQQ", opcode, 0, 0, fd, off & (2**64 - 1), addr & (2**64 - 1), length, flags, 7, 0, 0, splice, 0, 0)
        self.sqes[index * 64 : index * 64 + 64] = entry
        struct.pack_into("I", self.sq_ring, self.sq[6] + index * 4, index)
        struct.pack_into("I", self.sq_ring, self.sq[1], tail + 1)
        must(libc.syscall(426, self.fd, 1, 1, 1, None, 0))
        head, mask = (struct.unpack_from("I", self.cq_ring, self.cq[n])[0] for n in (0, 2))
        result = struct.unpack_from("i", self.cq_ring, self.cq[5] + (head & mask) * 16 + 8)[0]
        struct.pack_into("I", self.cq_ring, self.cq[0], head + 1)
        return must(result)


def uring():
    ring = Ring()
    at = lambda name: ring.address(os.fsencode(name))

    def opened(name, flags):
        return ring.ask(18, AT_FDCWD, addr=at(name), length=0o644, flags=flags)

    def closed(fd, path, read, written, mapped="0"):
        ring.ask(19, fd)
        row("close", path, "", read, written, mapped)

    fd = opened("made", os.O_CREAT | os.O_RDWR)
    row("create", "made")
    assert ring.ask(23, fd, addr=at("0123456789"), length=10) == 10
    assert ring.ask(22, fd, addr=at("xxxx"), length=4) == 4
    closed(fd, "made", 4, 10)
    how = ring.address(struct.pack("QQQ", os.O_WRONLY | os.O_TRUNC, 0, 0))
    fd = ring.ask(28, AT_FDCWD, off=how, addr=at("made"), length=24)
    row("truncate", "made")
    part = ring.address(b"parts")
    ring.ask(2, fd, addr=ring.address(struct.pack("QQQQ", part, 2, part + 2, 3)), length=2)
    closed(fd, "made", 0, 5)
    ring.ask(37, AT_FDCWD, addr=at("d"), length=0o700)
    row("mkdir", "d")
    ring.ask(35, AT_FDCWD, off=at("d/x"), addr=at("made"), length=AT_FDCWD & 0xFFFFFFFF)
    row("rename", "made", "d/x")
    ring.ask(39, AT_FDCWD, off=at("linked"), addr=at("d/x"), length=AT_FDCWD & 0xFFFFFFFF)
    row("link", "d/x", "linked")
    ring.ask(38, AT_FDCWD, off=at("soft"), addr=at("linked"))
    row("symlink", "=linked", "soft")
    ring.ask(36, AT_FDCWD, addr=at("d/x"))
    row("delete", "d/x")
    ring.ask(36, AT_FDCWD, addr=at("d"), flags=0x200)
    row("rmdir", "d")
    pipe = os.pipe()
    fd = opened("soft", os.O_RDONLY)
    row("open_read", "linked")
    assert ring.ask(30, pipe[1], off=-1, addr=-1, length=3, splice=fd) == 3
    closed(fd, "linked", 3, 0, "")


def mount(source, target, kind=None, flags=0, data=None):
    encoded = [os.fsencode(text) if text else None for text in (source, target, kind)]
    must(libc.mount(*encoded, flags, os.fsencode(data) if data else None))


def touch(path, shown=None):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    row("create", shown or path)
    close(fd, shown or path, 0, 0)


def mkdir(path, shown=None):
    os.mkdir(path)
    row("mkdir", shown or path)


def mounts():
    for name in ("real", "bound", "lower", "upper", "scratch", "merged"):
        mkdir(name)
    mount("real", "bound", flags=4096)  # MS_BIND
    touch("bound/f")
    os.rename("bound/f", "bound/g")
    row("rename", "bound/f", "bound/g")
    directory = os.open("bound", os.O_RDONLY)
    os.unlink("g", dir_fd=directory)
    row("delete", "bound/g")

    touch("lower/below")
    mount("overlay", "merged", "overlay", data="lowerdir=lower,upperdir=upper,workdir=scratch")
    touch("merged/new")
    fd = os.open("merged/below", os.O_RDWR)
    row("open_write", "merged/below")
    os.write(fd, b"copied up")
    os.pread(fd, 4, 0)
    os.fchmod(fd, 0o640)
    row("chmod", "merged/below")
    close(fd, "merged/below", 4, 9)
    os.rename("merged/below", "merged/above")
    row("rename", "merged/below", "merged/above")
    os.unlink("merged/above")
    row("delete", "merged/above")

    root()


def root():
    outside = os.open("..", os.O_PATH)
    mkdir("root")
    # A symlink that is absolute begins at the root of whoever follows it.
    mkdir("root/etc")
    os.symlink("/etc", "root/link")
    row("symlink", "=/etc", "root/link")
    os.chroot("root")
    os.chdir("/etc")
    touch("/in-root", "root/in-root")
    touch("here", "root/etc/here")
    touch("/link/there", "root/etc/there")
    os.rename("/link/there", "../link/moved")
    row("rename", "root/etc/there", "root/etc/moved")
    os.chmod("/link", 0o711)
    row("chmod", "root/etc")
    os.unlink("/link/moved")
    row("delete", "root/etc/moved")
    # Names are resolved while it and the link are there.
    while not os.access("go", os.F_OK, dir_fd=outside):
        time.sleep(0.01)
    os.unlink("/link")
    row("delete", "root/link")


{"calls": calls, "uring": uring, "root": root, "mounts": mounts}[sys.argv[1]]()
