"""The oracle is checked by hand-written traces, and by tracing programs whose every step is known."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import unittest

import oracle

TREE = {
    "w": {"old": oracle.FILE, "d": {"x": oracle.FILE}, "link": "d", "up": "../w/d", "soft": "old"},
    "bin": "usr/bin",
    "usr": {"bin": {"true": oracle.FILE}},
    "dev": {"null": oracle.FILE},
    "proc": {},
}


def run(trace, tree=TREE):
    """Events of a trace; `10 call` stands for `10 1.0 call`, and the end of process 10 is added."""
    lines = []
    for line in textwrap.dedent(trace).strip().splitlines():
        tid, call = line.split(" ", 1)
        lines.append(f"{tid} 1.000000 {call}\n")
    tree = json.loads(json.dumps(tree))
    events = oracle.truth([*lines, "10 1.000000 +++ exited with 0 +++\n"], tree, "/w")
    return [{k: v for k, v in event.items() if k != "time"} for event in events if event != {**event, "kind": "exit", "pid": 10}]


def files(trace, tree=TREE):
    """File operations as short tuples."""
    return [(e["operation"], e["path"], *filter(None, [e["dest"]])) for e in run(trace, tree) if e["kind"] == "file"]


class Opens(unittest.TestCase):
    def test_kinds(self):
        trace = r"""
            10 openat(AT_FDCWD</w>, "new", O_WRONLY|O_CREAT|O_TRUNC, 0666) = 3</w/new>
            10 openat(AT_FDCWD</w>, "new", O_WRONLY|O_CREAT|O_TRUNC, 0666) = 3</w/new>
            10 openat(AT_FDCWD</w>, "new", O_RDWR|O_CREAT, 0666) = 3</w/new>
            10 open("old", O_RDONLY|O_CREAT, 0666) = 3</w/old>
            10 creat("old", 0666) = 3</w/old>
            10 creat("newer", 0666) = 3</w/newer>
            10 openat2(AT_FDCWD</w>, "old", {flags=O_WRONLY|O_APPEND, resolve=RESOLVE_BENEATH}, 24) = 3</w/old>
            10 openat(AT_FDCWD</w>, "excl", O_RDWR|O_CREAT|O_EXCL, 0600) = 3</w/excl>
            10 open("/w", O_RDWR|O_TMPFILE, 0600) = 3</w/#123>(deleted)
            10 memfd_create("x", MFD_CLOEXEC) = 3</memfd:x>(deleted)
            10 openat(AT_FDCWD</w>, "/proc/self/fd/3", O_WRONLY) = 4</memfd:x>(deleted)
            10 mknod("fifo", S_IFIFO|0600) = 0
            10 openat(AT_FDCWD</w>, "/dev/null", O_WRONLY|O_CREAT|O_TRUNC, 0666) = 3</dev/null<char 1:3>>
        """
        self.assertEqual(
            files(trace),
            [
                ("create", "/w/new"),
                ("truncate", "/w/new"),
                ("open_write", "/w/new"),
                ("open_read", "/w/old"),
                ("truncate", "/w/old"),
                ("create", "/w/newer"),
                ("open_write", "/w/old"),
                ("create", "/w/excl"),
                ("create", "/w/#123"),
                ("create", "memfd:x"),
                ("open_write", "memfd:x"),
                ("create", "/w/fifo"),
                ("truncate", "/dev/null"),
            ],
        )

    def test_what_is_no_event(self):
        trace = r"""
            10 openat(AT_FDCWD</w>, "none", O_RDONLY) = -1 ENOENT (No such file or directory)
            10 openat(AT_FDCWD</w>, "d", O_RDONLY) = 3</w/d>
            10 openat(AT_FDCWD</w>, "d", O_RDONLY|O_DIRECTORY) = 3</w/d>
            10 openat(AT_FDCWD</w>, "old", O_RDONLY|O_PATH) = 3</w/old>
            10 mkdir("new", 0777) = 0
            10 open("new", O_RDONLY) = 3</w/new>
            10 openat(AT_FDCWD</w>, "/proc/self/fd/1", O_WRONLY) = 3<pipe:[5]>
            10 openat(AT_FDCWD</w>, "/proc", O_RDONLY) = 3</proc>
            10 getdents64(3</proc>, 0x1 /* 3 entries, "it's" ( */, 32768) = 80
            10 openat(AT_FDCWD</w>, "old", O_RDWR) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)
            10 --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED} ---
            10 fcntl(3</w/old>, F_GETFL) = 0x8000 (flags O_RDONLY|O_LARGEFILE)
        """
        self.assertEqual(files(trace), [("mkdir", "/w/new")])

    def test_names_that_need_escapes(self):
        name = r"a \74b\76 \"q\", (x) [y]\\z\n\303\251\377 (deleted)"
        argument = name.replace(r"\74", "<").replace(r"\76", ">")
        trace = f'10 openat(AT_FDCWD</w>, "{argument}", O_RDWR|O_CREAT, 0666) = 3</w/{name}>\n10 unlink("{argument}") = 0\n10 fchmod(3</w/{name}>(deleted), 0600) = 0'
        path = '/w/a <b> "q", (x) [y]\\z\né\\xff (deleted)'
        self.assertEqual(files(trace), [("create", path), ("delete", path), ("chmod", path)])

    def test_through_proc_self_fd(self):
        trace = r"""
            10 openat(AT_FDCWD</w>, "d", O_PATH|O_DIRECTORY) = 7</w/d>
            10 dup2(7</w/d>, 9) = 9</w/d>
            10 mkdir("/proc/self/fd/9/sub", 0777) = 0
            10 openat(AT_FDCWD</w>, "/proc/self/fd/9/sub/f", O_WRONLY|O_CREAT, 0666) = 8</w/d/sub/f>
            10 unlink("/proc/self/fd/7/x") = 0
        """
        self.assertEqual(files(trace), [("mkdir", "/w/d/sub"), ("create", "/w/d/sub/f"), ("delete", "/w/d/x")])


class Changes(unittest.TestCase):
    def test_names(self):
        trace = r"""
            10 rename("old", "link/moved") = 0
            10 openat(AT_FDCWD</w>, "old", O_WRONLY|O_CREAT, 0666) = 3</w/old>
            10 renameat2(AT_FDCWD</w>, "old", 4</w/d>, "x", RENAME_EXCHANGE) = 0
            10 openat(AT_FDCWD</w>, "old", O_WRONLY|O_CREAT, 0666) = 3</w/old>
            10 link("old", "/w/./d//../hard/") = 0
            10 linkat(AT_FDCWD</w>, "old", 4</w/d>, "hard", 0) = 0
            10 symlink("no/where", "link/s") = 0
            10 symlinkat("x", 4</w/d>, "t") = 0
            10 unlink("up/s") = 0
            10 unlinkat(4</w/d>, "t", 0) = 0
            10 mkdirat(4</w/d>, "sub", 0777) = 0
            10 renameat(AT_FDCWD</w>, "d", AT_FDCWD</w>, "e") = 0
            10 openat(AT_FDCWD</w>, "e/moved", O_WRONLY|O_CREAT, 0666) = 3</w/e/moved>
            10 openat(AT_FDCWD</w>, "e/sub/n", O_WRONLY|O_CREAT, 0666) = 3</w/e/sub/n>
            10 unlinkat(AT_FDCWD</w>, "e/sub", AT_REMOVEDIR) = 0
        """
        self.assertEqual(
            files(trace),
            [
                ("rename", "/w/old", "/w/d/moved"),
                ("create", "/w/old"),
                ("rename", "/w/old", "/w/d/x"),
                ("open_write", "/w/old"),
                ("link", "/w/old", "/w/hard"),
                ("link", "/w/old", "/w/d/hard"),
                ("symlink", "no/where", "/w/d/s"),
                ("symlink", "x", "/w/d/t"),
                ("delete", "/w/d/s"),
                ("delete", "/w/d/t"),
                ("mkdir", "/w/d/sub"),
                ("rename", "/w/d", "/w/e"),
                ("open_write", "/w/e/moved"),
                ("create", "/w/e/sub/n"),
                ("rmdir", "/w/e/sub"),
            ],
        )

    def test_attributes_and_length(self):
        trace = r"""
            10 chmod("soft", 0600) = 0
            10 fchmod(3</w/old>, 0600) = 0
            10 fchmodat(AT_FDCWD</w>, "link/x", 0600) = 0
            10 chown(".", 0, 0) = 0
            10 lchown("soft", 0, 0) = 0
            10 fchown(3<pipe:[7]>, 0, 0) = 0
            10 fchownat(4</w/d>, "x", 0, 0, AT_SYMLINK_NOFOLLOW) = 0
            10 fchownat(3</w/old>, "", 0, 0, AT_EMPTY_PATH) = 0
            10 truncate("up/x", 5) = 0
            10 ftruncate(3</w/old>, 5) = 0
            10 ftruncate(3</memfd:a>(deleted), 5) = 0
            10 unlink("gone") = -1 ENOENT (No such file or directory)
        """
        self.assertEqual(
            files(trace),
            [
                ("chmod", "/w/soft"),
                ("chmod", "/w/old"),
                ("chmod", "/w/d/x"),
                ("chown", "/w"),
                ("chown", "/w/soft"),
                ("chown", "/w/d/x"),
                ("chown", "/w/old"),
                ("truncate", "/w/d/x"),
                ("truncate", "/w/old"),
                ("truncate", "memfd:a"),
            ],
        )

    def test_working_directories(self):
        trace = r"""
            10 chdir("link") = 0
            10 clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD, child_tidptr=0x1 <unfinished ...>
            11 chdir("..") = 0
            11 mkdir("a", 0777) = 0
            10 <... clone resumed>) = 11
            10 mkdir("b", 0777) = 0
            10 clone(child_stack=0x1, flags=CLONE_VM|CLONE_FS|CLONE_THREAD|0x400000, tls=0x1) = 12
            12 fchdir(5</w>) = 0
            10 mkdir("c", 0777) = 0
            11 +++ exited with 0 +++
        """
        self.assertEqual(files(trace), [("mkdir", "/w/a"), ("mkdir", "/w/d/b"), ("mkdir", "/w/c")])


class Processes(unittest.TestCase):
    def test_threads_belong_to_their_process(self):
        trace = r"""
            10 clone3({flags=CLONE_VM|CLONE_FS|CLONE_THREAD, exit_signal=0} => {parent_tid=[11]}, 88) = 11
            11 vfork( <unfinished ...>
            12 mkdir("a", 0777) = 0
            12 execve("/none/true", ["true"], 0x1 /* 3 vars */) = -1 ENOENT (No such file or directory)
            12 +++ killed by SIGKILL (core dumped) +++
            11 <... vfork resumed>) = 12
            11 mkdir("b", 0777) = 0
            11 +++ exited with 0 +++
        """
        self.assertEqual(
            run(trace),
            [
                {"kind": "file", "pid": 12, "operation": "mkdir", "path": "/w/a", "dest": None},
                {"kind": "exit", "pid": 12, "code": None, "signal": 9},
                {"kind": "fork", "pid": 10, "child": 12},
                {"kind": "file", "pid": 10, "operation": "mkdir", "path": "/w/b", "dest": None},
            ],
        )

    def test_exec_by_a_thread_that_is_not_the_first(self):
        trace = r"""
            10 clone(child_stack=0x1, flags=CLONE_VM|CLONE_FS|CLONE_THREAD, tls=0x1) = 11
            11 execve("/proc/self/exe", [], 0x1 /* 3 vars */ <pid changed to 10 ...>
            10 +++ superseded by execve in pid 11 +++
            10 <... execve resumed>) = -1 (errno 18446744073709551359)
        """
        self.assertEqual(run(trace), [{"kind": "exec", "pid": 10, "path": "/proc/self/exe", "argv": [], "args": []}])

    def test_connects(self):
        trace = r"""
            10 connect(3<TCP:[1]>, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("127.0.0.1")}, 16) = -1 EINPROGRESS (Operation now in progress)
            10 connect(3<TCP:[127.0.0.1:9->127.0.0.1:80]>, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("127.0.0.1")}, 16) = -1 EISCONN (Transport endpoint is already connected)
            10 connect(3<TCPv6:[2]>, {sa_family=AF_INET6, sin6_port=htons(81), sin6_flowinfo=htonl(0), inet_pton(AF_INET6, "::1", &sin6_addr), sin6_scope_id=0}, 28) = 0
            10 socket(AF_INET, SOCK_DGRAM, IPPROTO_IP) = 3<UDP:[3]>
            10 connect(3<UDP:[3]>, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("10.0.0.1")}, 16) = 0
            10 connect(3<UNIX-STREAM:[4->5, "/x]y"]>, {sa_family=AF_UNIX, sun_path="/x]y"}, 110) = 0
            10 connect(3<TCP:[6]>, {sa_family=AF_INET, sin_port=htons(9), sin_addr=inet_addr("127.0.0.1")}, 16) = -1 ECONNREFUSED (Connection refused)
        """
        self.assertEqual(
            [(e["family"], e["address"], e["port"], e["error"]) for e in run(trace) if e["kind"] == "connect"],
            [("inet", "127.0.0.1", 80, "EINPROGRESS"), ("inet6", "::1", 81, None), ("inet", "127.0.0.1", 9, "ECONNREFUSED")],
        )

    def test_sockets(self):
        trace = r"""
            10 socket(AF_INET, SOCK_DGRAM, IPPROTO_IP) = 3<UDP:[3]>
            10 connect(3<UDP:[3]>, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("10.0.0.1")}, 16) = 0
            10 sendmmsg(3<UDP:[10.0.0.2:5->10.0.0.1:53]>, [{msg_hdr={msg_name=NULL, msg_namelen=0, msg_iov=[{iov_base="x", iov_len=1}], msg_iovlen=1, msg_controllen=0, msg_flags=0}, msg_len=1}], 1, MSG_NOSIGNAL) = 1
            10 recvfrom(3<UDP:[10.0.0.2:5->10.0.0.1:53]>, "x", 9, 0, {sa_family=AF_INET, sin_port=htons(54), sin_addr=inet_addr("10.0.0.1")}, [28 => 16]) = 1
            10 recvfrom(3<UDP:[10.0.0.2:5->10.0.0.1:53]>, "x", 9, MSG_PEEK, {sa_family=AF_INET, sin_port=htons(55), sin_addr=inet_addr("10.0.0.1")}, [28 => 16]) = 1
            10 connect(3<UDP:[3]>, {sa_family=AF_INET, sin_port=htons(56), sin_addr=inet_addr("10.0.0.1")}, 16) = -1 ENETUNREACH (Network is unreachable)
            10 socket(AF_INET6, SOCK_DGRAM, IPPROTO_IP) = 4<UDPv6:[4]>
            10 bind(4<UDPv6:[4]>, {sa_family=AF_INET6, sin6_port=htons(7), sin6_flowinfo=htonl(0), inet_pton(AF_INET6, "::", &sin6_addr), sin6_scope_id=0}, 28) = 0
            10 listen(5<TCP:[5]>, 9) = 0
            10 listen(5<TCP:[0.0.0.0:80]>, 10) = 0
            10 accept4(5<TCP:[0.0.0.0:80]>, {sa_family=AF_INET, sin_port=htons(1), sin_addr=inet_addr("10.0.0.3")}, [16], SOCK_CLOEXEC) = 6<TCP:[10.0.0.2:80->10.0.0.3:1]>
            10 accept(5<TCPv6:[[::]:80]>, NULL, NULL) = 6<TCPv6:[[::1]:80->[::1]:2]>
            10 accept(5<TCP:[0.0.0.0:80]>, NULL, NULL) = -1 EAGAIN (Resource temporarily unavailable)
            10 listen(7<UNIX-STREAM:[7,"/a\"b"]>, 9) = 0
            10 accept(7<UNIX-STREAM:[7,"/a\"b"]>, NULL, NULL) = 8<UNIX-STREAM:[8->9,"/a\"b"]>
            10 connect(9<UNIX-STREAM:[9]>, {sa_family=AF_UNIX, sun_path=@"hidden"}, 9) = -1 ECONNREFUSED (Connection refused)
            10 connect(9<UNIX-STREAM:[9]>, {sa_family=AF_UNIX, sun_path="/var/run/nscd/socket"}, 110) = -1 ENOENT (No such file or directory)
        """
        keys = ("transport", "direction", "address", "port", "path", "error")
        self.assertEqual(
            [tuple(e[key] for key in keys) for e in run(trace)],
            [
                ("udp", "outbound", "10.0.0.1", 53, None, None),
                ("udp", "inbound", "10.0.0.1", 54, None, None),
                ("udp", "outbound", "10.0.0.1", 56, None, "ENETUNREACH"),
                ("udp", "listen", None, 7, None, None),
                ("tcp", "listen", None, None, None, None),
                ("tcp", "inbound", "10.0.0.3", 1, None, None),
                ("tcp", "inbound", "::1", 2, None, None),
                ("unix", "listen", None, None, '/a"b', None),
                ("unix", "inbound", None, None, '/a"b', None),
                ("unix", "outbound", None, None, "@hidden", "ECONNREFUSED"),
            ],
        )


class Unclear(unittest.TestCase):
    """What the trace does not say for sure is an error, never a guess."""

    def test_it_says_so(self):
        for trace in (
            '10 openat(AT_FDCWD</w>, "long"..., O_RDONLY) = 3</w/long>',  # cut
            '10 openat(AT_FDCWD</w>, "old", O_RDONLY) = 3',  # not annotated
            '10 openat(AT_FDCWD</w>, "unheard", O_RDONLY) = 3</w/unheard>',  # not in the model
            '10 openat(AT_FDCWD</w>, "old", O_RDWR|O_CREAT|O_EXCL, 0600) = 3</w/old>',  # in the model
            '10 openat(AT_FDCWD</w>, "n", O_RDWR|O_CREAT, 0600) = 3</w/n>(deleted)',
            '10 openat(AT_FDCWD</elsewhere>, "old", O_RDONLY|O_PATH) = 3</w/old>\n10 unlinkat(AT_FDCWD</elsewhere>, "old", 0) = 0',
            '10 mkdir("/nowhere/a", 0777) = 0',
            '10 rename("nothing", "else") = 0',
            '10 mkdir("/proc/self/fd/7/sub", 0777) = 0',
            '10 unlink("old") = ?',
            '10 unlink("old" <unfinished ...>\n10 <... unlink resumed>) = ?',
            "10 io_uring_setup(8, {flags=0}) = 5<anon_inode:[io_uring]>",
            '10 chroot("/w") = 0',
            "10 clone(child_stack=NULL, flags=SIGCHLD) = 11",  # never ends
            "10 clone(child_stack=NULL, flags=SIGCHLD) = 11\n11 +++ exited with 0 +++\n10 clone(child_stack=NULL, flags=SIGCHLD) = 11\n11 +++ exited with 0 +++",
            "11 mkdir(\"a\", 0777) = 0\n12 mkdir(\"b\", 0777) = 0",  # 12 comes from nowhere
            "10 nonsense",
            '10 sethostname("a", 1) = 0',
            '10 mkdir("a", 0777) = -1 (errno 18446744073709551359)',
        ):
            with self.subTest(trace=trace), self.assertRaises(oracle.Unclear):
                run(trace)

    def test_two_at_once_at_one_name(self):
        trace = r"""
            10 clone(child_stack=0x1, flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_THREAD, tls=0x1) = 11
            10 openat(AT_FDCWD</w>, "{name}", O_RDWR|O_CREAT, 0600 <unfinished ...>
            11 unlink("old") = 0
            10 <... openat resumed>) = 3</w/{name}>
        """
        with self.assertRaises(oracle.Unclear):
            run(trace.replace("{name}", "old"))
        self.assertEqual(files(trace.replace("{name}", "d/x")), [("delete", "/w/old"), ("open_write", "/w/d/x")])

    def test_two_at_once_of_which_one_can_only_have_been_the_second(self):
        trace = r"""
            10 clone(child_stack=0x1, flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_THREAD, tls=0x1) = 11
            10 unlink("new" <unfinished ...>
            11 openat(AT_FDCWD</w>, "new", O_RDWR|O_CREAT, 0600) = 3</w/new>
            10 <... unlink resumed>) = 0
            10 mkdir("new", 0700) = 0
        """
        self.assertEqual(files(trace), [("create", "/w/new"), ("delete", "/w/new"), ("mkdir", "/w/new")])

    def test_opens_of_a_file_that_stays_may_be_at_once(self):
        trace = r"""
            10 clone(child_stack=0x1, flags=CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_THREAD, tls=0x1) = 11
            10 openat(AT_FDCWD</w>, "/dev/null", O_RDWR|O_CREAT, 0600 <unfinished ...>
            11 openat(AT_FDCWD</w>, "/dev/null", O_RDWR|O_CREAT, 0600) = 4</dev/null<char 1:3>>
            10 <... openat resumed>) = 3</dev/null<char 1:3>>
        """
        self.assertEqual(files(trace), [("open_write", "/dev/null")] * 2)


PROGRAM = r"""
import ctypes, os, socket, subprocess, sys, threading
libc = ctypes.CDLL(None)
os.mkdir("d"); os.symlink("d", "s")
open("s/a", "w").close(); open("s/a", "w").close(); open("d/a", "a").close(); open("d/a").close()
name = 'n <b> "q", (x) [y]\\z\n\u00e9 (deleted)'
fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR); os.ftruncate(fd, 3); os.unlink(name); os.fchmod(fd, 0o600)
os.dup2(os.open("d", os.O_PATH), 77); os.mkdir("/proc/self/fd/77/e")
os.rename("s/e", "d/f"); os.rename("d", "moved"); os.unlink("s"); open("moved/f/g", "x").close()
os.link("moved/a", "moved/h"); os.chmod("moved/h", 0o640); os.chown("moved/h", 0, 0); os.truncate("moved/h", 9)
assert libc.renameat2(-100, b"moved/a", -100, b"moved/f/g", 2) == 0
os.chdir("moved"); os.remove("f/g"); open("f/g", "w").close(); os.remove("../moved/./a"); os.unlink("h")
pipe = os.pipe(); os.open("/proc/self/fd/%d" % pipe[0], os.O_RDONLY)
os.ftruncate(os.memfd_create("m"), 3); os.open(".", os.O_TMPFILE | os.O_RDWR)
socket.socket(socket.AF_UNIX).bind("sock"); os.unlink("sock")
listener = socket.create_server(("127.0.0.1", 0)); socket.create_connection(listener.getsockname()).close()
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("127.0.0.1", 9))
print(listener.getsockname()[1], flush=True)
open("script", "w").write("#! /bin/sh -e \nexit 7\n"); os.chmod("script", 0o755)
subprocess.run(["./script", "one two"]); subprocess.run(["sh", "-c", "cd f && : > h && kill -9 $$"])
child = os.fork()
if child == 0:
    open("forked", "w").close(); os._exit(4)
os.waitpid(child, 0)
def last():
    os.execv("/bin/sh", ["sh", "-c", "rm f/g f/h && rmdir f; exec true"])
thread = threading.Thread(target=last); thread.start(); thread.join()
"""


class Live(unittest.TestCase):
    """A real strace of a program whose steps are known."""

    def test_program(self):
        with tempfile.TemporaryDirectory() as top:
            with open(f"{top}/program.py", "w") as file:
                file.write(PROGRAM)
            os.mkdir(f"{top}/w")
            tree = oracle.snapshot()
            command = ["strace", *oracle.FLAGS, "-o", f"{top}/run.strace", "/usr/bin/python3", "-ISB", f"{top}/program.py"]
            output = subprocess.run(command, cwd=f"{top}/w", check=True, stdout=subprocess.PIPE).stdout
            with open(f"{top}/run.strace", encoding="latin-1", newline="\n") as trace:
                events = oracle.truth(trace, tree, f"{top}/w")
        # Processes by the order in which they appear, names from the work folder on.
        pids = {}
        for event in events:
            for pid in (event["pid"], event.get("child", event["pid"])):
                pids.setdefault(pid, len(pids))
        work = f"{top}/w/"
        got = []
        for event in events:
            if event["kind"] == "file" and event["path"].startswith(work) or (event.get("dest") or "").startswith(work):
                dest = event["dest"] and event["dest"].removeprefix(work)
                path = event["path"].removeprefix(work).split("#")[0]
                got.append((pids[event["pid"]], event["operation"], path, *filter(None, [dest])))
        name = 'n <b> "q", (x) [y]\\z\né (deleted)'
        self.assertEqual(
            got,
            [
                (0, "mkdir", "d"),
                (0, "symlink", "d", "s"),
                (0, "create", "d/a"),
                (0, "truncate", "d/a"),
                (0, "open_write", "d/a"),
                (0, "open_read", "d/a"),
                (0, "create", name),
                (0, "truncate", name),
                (0, "delete", name),
                (0, "chmod", name),
                (0, "mkdir", "d/e"),
                (0, "rename", "d/e", "d/f"),
                (0, "rename", "d", "moved"),
                (0, "delete", "s"),
                (0, "create", "moved/f/g"),
                (0, "link", "moved/a", "moved/h"),
                (0, "chmod", "moved/h"),
                (0, "chown", "moved/h"),
                (0, "truncate", "moved/h"),
                (0, "rename", "moved/a", "moved/f/g"),
                (0, "delete", "moved/f/g"),
                (0, "create", "moved/f/g"),
                (0, "delete", "moved/a"),
                (0, "delete", "moved/h"),
                (0, "create", "moved/"),
                (0, "delete", "moved/sock"),
                (0, "create", "moved/script"),
                (0, "chmod", "moved/script"),
                (1, "open_read", "moved/script"),
                (2, "create", "moved/f/h"),
                (3, "create", "moved/forked"),
                (4, "delete", "moved/f/g"),
                (4, "delete", "moved/f/h"),
                (5, "rmdir", "moved/f"),
            ],
        )
        self.assertEqual([(pids[e["pid"]], pids[e["child"]]) for e in events if e["kind"] == "fork"], [(0, n) for n in range(1, 6)])
        self.assertEqual(
            [(pids[e["pid"]], e["path"], *e["args"]) for e in events if e["kind"] == "exec"][1:],
            [
                (1, "./script", "/bin/sh", "-e", "./script", "one two"),
                (2, "/usr/bin/sh", "sh", "-c", "cd f && : > h && kill -9 $$"),
                (0, "/bin/sh", "sh", "-c", "rm f/g f/h && rmdir f; exec true"),
                (4, "/usr/bin/rm", "rm", "f/g", "f/h"),
                (5, "/usr/bin/rmdir", "rmdir", "f"),
                (0, "/usr/bin/true", "true"),
            ],
        )
        self.assertEqual(
            {pids[e["pid"]]: (e["code"], e["signal"]) for e in events if e["kind"] == "exit"},
            {0: (0, None), 1: (7, None), 2: (None, 9), 3: (4, None), 4: (0, None), 5: (0, None)},
        )
        connects = [(pids[e["pid"]], e["address"], e["port"]) for e in events if e["kind"] == "connect"]
        self.assertEqual(connects, [(0, "127.0.0.1", int(output))])
        sockets = [(e["transport"], e["direction"], e["address"], e["port"]) for e in events if e["kind"] == "socket"]
        self.assertEqual(sockets, [("tcp", "listen", None, None), ("udp", "outbound", "127.0.0.1", 9)])


if __name__ == "__main__":
    unittest.main()
