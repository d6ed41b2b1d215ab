#!/usr/bin/env python3
"""What a traced run did, read from strace: the truth that the recorder's rows are held against.

It must not be wrong anywhere, or the comparison would need tolerance and could hide a real loss. So nothing is
guessed: what this program does not understand is an error that names the line, and what a system call does not say
(did this open create the file, is that path a directory) comes from a model of the file system, which starts as a
snapshot taken just before the run and is kept up to date call by call.

  oracle.py snapshot > before.json         before the run, when the run's own folders are already there
  oracle.py flags                          strace's arguments
  oracle.py truth run.strace before.json   one JSON object a line, in the order in which the calls returned

  {"kind": "fork", "time", "pid", "child"}
  {"kind": "exec", "time", "pid", "path", "argv", "args"}        path and argv as passed; args as the program got
                                                                 them: `#!` puts the interpreter in front
  {"kind": "exit", "time", "pid", "code", "signal"}              one of the two is null
  {"kind": "connect", "time", "pid", "family", "address", "port", "error"}     TCP only; error is null or errno's name
  {"kind": "socket", "time", "pid", "transport", "direction", "address", "port", "path", "error"}
                                          TCP that is accepted or listened on (without a port), UDP flows and bound ports, UNIX
  {"kind": "file", "time", "pid", "operation", "path", "dest"}   dest for rename, link and symlink, else null

Pids are those of processes, never of threads. Text is UTF-8, other bytes are written as \\xNN. Failed calls are no
events, but for connect. A symlink's `path` is its content and its `dest` the new name.
"""

import json
import os
import re
import signal
import sys

CALLS = (
    "clone clone3 ?fork ?vfork execve execveat chdir fchdir chroot pivot_root unshare mount ?move_mount"
    " ?open openat ?openat2 ?creat open_by_handle_at io_uring_setup ?getdents getdents64 truncate ftruncate"
    " ?unlink unlinkat ?rmdir ?mkdir mkdirat ?mknod mknodat bind ?rename ?renameat renameat2 ?link linkat ?symlink symlinkat"
    " ?chmod fchmod fchmodat ?fchmodat2 ?chown ?lchown fchown fchownat connect"
    " socket accept accept4 listen sendto sendmsg ?sendmmsg recvfrom recvmsg ?recvmmsg"
    " dup ?dup2 dup3 fcntl memfd_create exit_group"
)
# What the kernel makes a process call where a uprobe was set, on x86 since Linux 6.11 (uretprobe) and 6.18 (uprobe): no
# doing of its own. strace of before them has numbers alone.
PROBES = ("uretprobe", "syscall_0x14f", "uprobe", "syscall_0x150")
# Nothing is cut: an argument of exec has at most 128 KiB (MAX_ARG_STRLEN), a path 4 KiB.
# A process that ends while its other threads are in calls cuts those off, and then nobody knows what they did: so the end
# is held up until they are through.
HOLD_UP = "inject=exit_group:delay_enter=30ms"
FLAGS = ["-f", "-ttt", "-yy", "-s", "131072", "--seccomp-bpf", "-e", "trace=" + ",".join(CALLS.split()), "-e", HOLD_UP]

# Kernel file systems: their content changes by itself, so the model does not hold them.
UNMODELLED = ("/proc", "/sys", "/dev/pts", "/dev/fd")
FILE = 1


class Unclear(Exception):
    """The trace does not say exactly what happened, or says something that this program does not know."""


# ---------------------------------------------------------------------------------------------- the trace


class Call:
    """A system call that returned."""

    def __init__(self, tid, name, args, result, began, ended, time):
        self.tid, self.name, self.args, self.result = tid, name, args, result
        self.began, self.ended, self.time = began, ended, time
        self.unknown = result.startswith("?")
        self.error = (re.match(r"-1 (\w+)", result) or [None, None])[1]
        number = re.match(r"\d+", result)
        self.value = int(number[0]) if number else None


class End:
    """The end of a thread."""

    def __init__(self, tid, how, ended, time):
        self.tid, self.how, self.ended, self.time = tid, how, ended, time


LINE = re.compile(r"(\d+) +(\d+\.\d+) (.*)", re.S)
# The latter when a thread that is not the first one called execve, which gives it the first one's id.
HALF = re.compile(r"(.*?)\s*<(?:unfinished|pid changed to \d+) \.\.\.>", re.S)
RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)", re.S)
SOCKET = re.compile(r"<[A-Z][\w-]*:\[")


def records(lines):
    """Calls and ends in the order in which they were over; halves of a call are put together."""
    begun, supersedes = {}, set()
    for number, raw in enumerate(lines, 1):
        raw = raw.rstrip("\n")
        line = LINE.fullmatch(raw)
        if not line:
            raise Unclear(f"line {number}: not a line of strace -f -ttt: {raw!r}")
        tid, time, text = int(line[1]), line[2], line[3]
        if superseded := re.fullmatch(r"\+\+\+ superseded by execve in pid (\d+) \+\+\+", text):
            begun[tid] = begun.pop(int(superseded[1]))
            supersedes.add(tid)
            continue
        if text.startswith("--- "):
            continue  # a signal that was delivered; "+++ killed by" tells what it did
        if text.startswith("+++ "):
            begun.pop(tid, None)
            yield End(tid, text, number, time)
            continue
        began = number
        if half := HALF.fullmatch(text):
            begun[tid] = (number, half[1])
            continue
        if resumed := RESUMED.fullmatch(text):
            if tid not in begun:
                raise Unclear(f"line {number}: the end of a call that had no beginning")
            began, head = begun.pop(tid)
            text = head + resumed[2]
        name, args, result = parse_call(text, number)
        if tid in supersedes:
            # It superseded the others only because it succeeded; with --seccomp-bpf, strace 6.1 prints a result that makes no sense.
            supersedes.remove(tid)
            result = "0"
        if "(errno " in result:
            raise Unclear(f"line {number}: an error that strace does not know: {result!r}")
        yield Call(tid, name, args, result, began, number, time)
    for tid, (number, text) in begun.items():
        raise Unclear(f"line {number}: thread {tid} neither returned from {text!r} nor ended")


def parse_call(text, number):
    """`name(arguments) = result`, with the arguments as strace wrote them."""
    opening = text.find("(")
    if opening < 1:
        raise Unclear(f"line {number}: not a call: {text!r}")
    args, depth, start, at = [], 0, opening + 1, opening + 1
    while at < len(text):
        c = text[at]
        if c == '"':
            at = end_of_string(text, at, number)
            if text.startswith("...", at):
                raise Unclear(f"line {number}: strace cut a string, raise -s")
            continue
        if c == "<":
            at = end_of_annotation(text, at, number)
            continue
        if text.startswith("/*", at):
            at = text.index("*/", at) + 2
            continue
        if c == ")" and depth == 0:
            args.append(text[start:at].strip())
            result = re.fullmatch(r"\s*= (.*)", text[at + 1 :], re.S)
            if not result:
                raise Unclear(f"line {number}: no result: {text!r}")
            return text[:opening], args, result[1]
        if c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == "," and depth == 0:
            args.append(text[start:at].strip())
            start = at + 1
        at += 1
    # A thread that was killed in the call: `openat(AT_FDCWD, "x" <unfinished ...>) = ?` has its parenthesis, so this is new.
    raise Unclear(f"line {number}: no end of the arguments: {text!r}")


def end_of_string(text, at, number):
    """The index behind the string that begins at `at`."""
    at += 1
    while at < len(text):
        if text[at] == "\\":
            at += 2
        elif text[at] == '"':
            return at + 1
        else:
            at += 1
    raise Unclear(f"line {number}: no end of a string: {text!r}")


def end_of_annotation(text, at, number):
    """The index behind the `<...>` that begins at `at`; `<` and `>` in a path are written as octal, those of devices nest."""
    if SOCKET.match(text, at):
        return text.index("]>", at) + 2
    depth = 0
    for at in range(at, len(text)):
        depth += {"<": 1, ">": -1}.get(text[at], 0)
        if depth == 0:
            return at + 1
    raise Unclear(f"line {number}: no end of an annotation: {text!r}")


ESCAPE = re.compile(r"\\([0-7]{1,3}|.)", re.S)
SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "v": "\v", "f": "\f"}


def unescape(text):
    """The bytes behind strace's escapes, as Python keeps file names."""
    text = ESCAPE.sub(lambda e: chr(int(e[1], 8)) if e[1][0] in "01234567" else SIMPLE.get(e[1], e[1]), text)
    return text.encode("latin-1").decode("utf-8", "surrogateescape")


def shown(text):
    """Text as rows have it."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


STRING = re.compile(r'"((?:[^"\\]|\\.)*)"', re.S)


def string(arg, call):
    """A string argument."""
    match = STRING.fullmatch(arg)
    if not match:
        raise Unclear(f"line {call.ended}: not a string: {arg!r}")
    return unescape(match[1])


def strings(arg, call):
    """An array of strings; NULL is the empty one."""
    if arg == "NULL":
        return []
    if not re.fullmatch(r'\[("(?:[^"\\]|\\.)*"(, )?)*\]', arg, re.S):
        raise Unclear(f"line {call.ended}: not an array of strings: {arg!r}")
    return [unescape(s) for s in STRING.findall(arg)]


MEMFD = "/memfd:"


class Descriptor:
    """An annotated descriptor. `path` is None for what has no name: pipes, sockets; of a memfd it is `memfd:name`."""

    def __init__(self, text, call):
        match = re.fullmatch(r"(AT_FDCWD|-?\d+)(?:<(.*)>)?(\(deleted\))?", text, re.S)
        if not match:
            raise Unclear(f"line {call.ended}: not a descriptor: {text!r}")
        if match[2] is None:
            raise Unclear(f"line {call.ended}: a descriptor without -yy's annotation: {text!r}")
        self.deleted = bool(match[3])
        raw = re.sub(r"<(char|block) \d+:\d+>$", "", match[2])
        self.kind = raw.split(":")[0]
        self.path = unescape(raw[1:] if raw.startswith(MEMFD) else raw) if raw.startswith("/") else None


# ---------------------------------------------------------------------------------------------- the file system


def snapshot(path="/"):
    """A directory as a dict, a symlink as its content, anything else as FILE."""
    tree = {}
    try:
        entries = os.scandir(path)
    except OSError:
        return tree
    with entries:
        for entry in entries:
            try:
                if entry.is_symlink():
                    tree[entry.name] = os.readlink(entry.path)
                elif not entry.is_dir(follow_symlinks=False):
                    tree[entry.name] = FILE
                else:
                    tree[entry.name] = {} if entry.path in UNMODELLED else snapshot(entry.path)
            except OSError:
                pass  # gone since the directory was read
    return tree


def below(path, roots):
    """Whether path is one of roots or lies below one."""
    return any(path == root or path.startswith(root + "/") for root in roots)


class Files:
    """Which paths exist, and what they are."""

    def __init__(self, tree):
        self.tree = tree

    def get(self, path):
        """What lies at a path without symlinks in its directories; None when nothing does."""
        node = self.tree
        for part in filter(None, path.split("/")):
            node = node.get(part) if isinstance(node, dict) else None
        return node

    def put(self, path, node):
        """Lets node lie at path; None removes."""
        directory, name = os.path.split(path)
        parent = self.get(directory)
        if not isinstance(parent, dict):
            raise Unclear(f"the model has no directory {directory!r} for {name!r}")
        if node is None:
            parent.pop(name, None)
        else:
            parent[name] = node

    def resolve(self, base, name, follow):
        """The path that `name`, seen from the directory `base`, leads to. `follow` says whether a symlink at its end is followed."""
        here, todo, links = base.rstrip("/"), name.split("/")[::-1], 0
        if name.startswith("/"):
            here = ""
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                here = here.rpartition("/")[0]
                continue
            path = f"{here}/{part}"
            node = self.get(path)
            last = not any(p not in ("", ".") for p in todo)
            if isinstance(node, str) and (follow or not last):
                links += 1
                if links > 40:
                    raise Unclear(f"too many symlinks in {name!r}")
                todo += node.split("/")[::-1]
                if node.startswith("/"):
                    here = ""
                continue
            if not last and not isinstance(node, dict) and not below(path, UNMODELLED):
                raise Unclear(f"the model has no directory {path!r}, that was used in {name!r}")
            here = path
        return here or "/"


# ---------------------------------------------------------------------------------------------- the run


def interpreted(path, argv, live):
    """argv after the kernel put a script's interpreter in front (fs/binfmt_script.c, load_script)."""
    argv = argv or [""]
    for _ in range(5):
        with open(live, "rb") as file:
            head = file.read(256)
        if not head.startswith(b"#!"):
            return argv
        words = head[2:].split(b"\n")[0].strip(b" \t").decode("utf-8", "surrogateescape")
        interpreter, *option = re.split(r"[ \t]+", words, maxsplit=1)
        argv = [interpreter, *option, path, *argv[1:]]
        path = live = interpreter
    raise Unclear(f"interpreters nest too deep: {path!r}")


CREATING = ("clone", "clone3", "fork", "vfork")
# By name, relative to the working directory: how many names; the *at forms take a directory before each.
BY_NAME = {
    "unlink": "delete", "rmdir": "rmdir", "mkdir": "mkdir", "truncate": "truncate", "chmod": "chmod", "chown": "chown",
    "lchown": "chown", "rename": "rename", "link": "link",
}
BY_NAME_AT = {
    "unlinkat": "delete", "mkdirat": "mkdir", "fchmodat": "chmod", "fchmodat2": "chmod", "fchownat": "chown",
    "renameat": "rename", "renameat2": "rename", "linkat": "link",
}
BY_DESCRIPTOR = {"ftruncate": "truncate", "fchmod": "chmod", "fchown": "chown"}
DUPLICATING = ("dup", "dup2", "dup3", "fcntl")
OPENS = ("open", "openat", "openat2", "creat")
FORBIDDEN = ("chroot", "pivot_root", "mount", "move_mount", "io_uring_setup", "open_by_handle_at")
# What a UDP socket does with datagrams. That read and write do it too is not seen: they would be most of the trace.
DATAGRAMS = ("sendto", "sendmsg", "sendmmsg", "recvfrom", "recvmsg", "recvmmsg")
CHANGES = {*OPENS, *BY_NAME, *BY_NAME_AT, *BY_DESCRIPTOR, "symlink", "symlinkat", "connect", "execve", "execveat", *CREATING}
# What connect can return for a connection that was tried; any other error means that there was none to try.
TRIED = {None, "EINPROGRESS", "ECONNREFUSED", "ENETUNREACH", "EHOSTUNREACH", "ETIMEDOUT", "EADDRNOTAVAIL", "ECONNRESET", "EINTR"}


class Run:
    """Turns records into events."""

    def __init__(self, recs, tree, cwd):
        self.records, self.files, self.events = list(recs), Files(tree), []
        self.root = self.records[0].tid
        self.births = {}
        for call in self.records:
            if isinstance(call, Call) and call.name in CREATING and call.value:
                if call.value in self.births or call.value == self.root:
                    raise Unclear(f"line {call.ended}: the id {call.value} was given out twice")
                self.births[call.value] = call
        self.listed = {Descriptor(c.args[0], c).path for c in self.records if isinstance(c, Call) and c.name.startswith("getdents")}
        # tid -> [working directory]: threads that share it (CLONE_FS) share the list.
        self.cwd = {self.root: [cwd]}
        # tid -> {descriptor: path}, in the same way (CLONE_FILES); only what names through /proc/self/fd are read with.
        self.descriptors = {self.root: {}}
        # path -> (line, tid, whether something was there before) of the last call that changed it, or that found it there when
        # it would else have made it.
        self.ended, self.changed, self.found = set(), {}, {}

    def pid(self, tid):
        """The process of a thread."""
        while tid in self.births and "CLONE_THREAD" in flags_of(self.births[tid]):
            tid = self.births[tid].tid
        return tid

    def fs(self, tid):
        """The working directory of a thread; a new one has its parent's, as it was when the clone began."""
        if tid not in self.cwd:
            if tid not in self.births:
                raise Unclear(f"thread {tid} was started by nobody in the trace")
            birth = self.births[tid]
            parent = self.fs(birth.tid)
            self.cwd[tid] = parent if "CLONE_FS" in flags_of(birth) else list(parent)
        return self.cwd[tid]

    def opened(self, tid):
        """The descriptors of a thread that name something in a file system."""
        if tid not in self.descriptors:
            birth = self.births[tid]
            parent = self.opened(birth.tid)
            self.descriptors[tid] = parent if "CLONE_FILES" in flags_of(birth) else dict(parent)
        return self.descriptors[tid]

    def emit(self, kind, record, **fields):
        self.events.append({"kind": kind, "time": record.time, "pid": self.pid(record.tid), **fields})

    def file(self, call, operation, path, dest=None):
        self.emit("file", call, operation=operation, path=shown(path), dest=dest if dest is None else shown(dest))

    def events_of_run(self):
        """All events, in order."""
        for record in self.records:
            self.fs(record.tid)
            self.opened(record.tid)
            try:
                if isinstance(record, End):
                    self.end(record)
                else:
                    self.call(record)
            except (Unclear, OSError) as error:
                raise Unclear(f"line {record.ended}: {error}") from error
        alive = {self.pid(t) for t in [self.root, *self.births]} - self.ended
        if alive:
            raise Unclear(f"no end of the processes {sorted(alive)}")
        return self.events

    def end(self, end):
        if end.tid != self.pid(end.tid):
            return
        if end.tid in self.ended:
            raise Unclear(f"process {end.tid} ended twice: its pid was used again")
        self.ended.add(end.tid)
        if code := re.fullmatch(r"\+\+\+ exited with (\d+) \+\+\+", end.how):
            self.emit("exit", end, code=int(code[1]), signal=None)
        elif killed := re.match(r"\+\+\+ killed by (\w+)", end.how):
            self.emit("exit", end, code=None, signal=int(signal.Signals[killed[1]]))
        else:
            raise Unclear(f"not an end: {end.how!r}")

    def call(self, call):
        if call.unknown and call.name in CHANGES and "ERESTART" not in call.result:
            raise Unclear(f"{call.name} was cut off by the thread's end, what it did is not known")
        if call.name == "connect":
            return self.connect(call)
        # uretprobe(2), which strace 6.1 has no name for: the kernel makes it at the end of a function that is watched.
        if call.value is None or call.name == "syscall_0x14f":
            return None
        if call.name in FORBIDDEN:
            raise Unclear(f"{call.name} changes what paths mean, or hides calls from strace")
        if call.name in CREATING:
            self.fs(call.value)
            self.opened(call.value)
            if self.pid(call.value) == call.value:
                self.emit("fork", call, child=call.value)
        elif call.name in ("execve", "execveat"):
            self.exec(call)
        elif call.name == "chdir":
            self.fs(call.tid)[0] = self.files.resolve(self.fs(call.tid)[0], string(call.args[0], call), follow=True)
        elif call.name == "fchdir":
            self.fs(call.tid)[0] = Descriptor(call.args[0], call).path
        elif call.name == "unshare":
            if re.search("CLONE_FS|CLONE_NEWNS", call.args[0]):
                raise Unclear(f"unshare({call.args[0]})")
        elif call.name in OPENS:
            self.open(call)
        elif call.name in DUPLICATING:
            if call.name != "fcntl" or call.args[1].startswith("F_DUPFD"):
                opened = self.opened(call.tid)
                opened[call.value] = Descriptor(call.result, call).path
                if socket := opened.get(("socket", number_of(call.args[0]))):
                    opened["socket", call.value] = socket
        elif call.name == "socket":
            # Of a UDP socket: the peers of its flows, and the one that it is connected to.
            self.opened(call.tid)["socket", call.value] = {"peers": set(), "peer": None}
        elif call.name in ("accept", "accept4"):
            self.accept(call)
        elif call.name == "listen":
            self.listen(call)
        elif call.name in DATAGRAMS:
            self.datagrams(call)
        elif call.name in BY_DESCRIPTOR:
            if path := Descriptor(call.args[0], call).path:
                self.file(call, BY_DESCRIPTOR[call.name], path)
        elif call.name in BY_NAME or call.name in BY_NAME_AT:
            self.change(call)
        elif call.name in ("symlink", "symlinkat"):
            content = string(call.args[0], call)
            name = self.named(call, call.args[1:], call.name == "symlinkat")
            self.settle(call, name, content, there=False)
            self.file(call, "symlink", content, name)
        elif call.name in ("mknod", "mknodat"):
            name = self.named(call, call.args, call.name == "mknodat")
            self.settle(call, name, FILE, there=False)
            self.file(call, "create", name)
        elif call.name == "memfd_create":
            path = self.opened(call.tid)[call.value] = Descriptor(call.result, call).path
            self.file(call, "create", path)
        elif call.name == "bind":
            if path := re.search(r'sun_path="((?:[^"\\]|\\.)*)"', call.args[1], re.S):
                self.settle(call, self.files.resolve(self.fs(call.tid)[0], unescape(path[1]), follow=False), FILE, there=False)
            elif Descriptor(call.args[0], call).kind in ("UDP", "UDPv6"):
                if port := addresses(call.args[1])[0][1]:
                    self.socket(call, "udp", "listen", port=port)
        elif call.name in PROBES:
            pass
        elif call.name != "exit_group" and not call.name.startswith("getdents"):
            raise Unclear(f"an unknown call: {call.name}")
        return None

    def directory(self, call, arg):
        """The path of a call's directory argument."""
        path = Descriptor(arg, call).path
        if arg.startswith("AT_FDCWD") and path != self.fs(call.tid)[0]:
            raise Unclear(f"the working directory is {path!r}, by the model {self.fs(call.tid)[0]!r}")
        return path

    def through_descriptor(self, call, name):
        """A name that begins with /proc/self/fd/N/ goes through the directory that is open there."""
        if match := re.fullmatch(r"/proc/self/fd/(\d+)(/.*)", name, re.S):
            base = self.opened(call.tid).get(int(match[1]))
            if base is None or not isinstance(self.files.get(base), dict):
                raise Unclear(f"{name!r}: no directory was opened as {match[1]}, but {base!r}")
            return base + match[2]
        return name

    def named(self, call, args, at):
        """The path of a name in a call: the directory's path and the name, the directory resolved, the name not."""
        name = string(args[1] if at else args[0], call)
        # The annotation of the directory is not asked for when the name starts from the root: it may be no descriptor then.
        base = "/" if name.startswith("/") else self.directory(call, args[0]) if at else self.fs(call.tid)[0]
        if name == "":
            if "AT_EMPTY_PATH" not in call.args[-1]:
                raise Unclear("an empty name")
            return Descriptor(args[0], call).path
        path = self.files.resolve(base, self.through_descriptor(call, name), follow=False)
        if below(path, UNMODELLED):
            raise Unclear(f"{call.name} of {path!r}: the model does not hold it")
        return path

    def change(self, call):
        at = call.name in BY_NAME_AT
        operation = BY_NAME_AT[call.name] if at else BY_NAME[call.name]
        if operation == "delete" and at and "AT_REMOVEDIR" in call.args[2]:
            operation = "rmdir"
        path, dest = self.named(call, call.args, at), None
        if path is None:
            return
        if operation in ("rename", "link"):
            if "AT_SYMLINK_FOLLOW" in call.args[-1]:
                raise Unclear("a link to what a symlink leads to")
            dest = self.named(call, call.args[2 if at else 1 :], at)
            node = self.files.get(path)
            if node is None:
                raise Unclear(f"the model has no {path!r}")
            exchange = "RENAME_EXCHANGE" in call.args[-1]
            if operation == "rename":
                self.settle(call, path, self.files.get(dest) if exchange else None, there=True)
            self.settle(call, dest, node, there=False if operation == "link" else exchange or None)
        elif operation in ("delete", "rmdir"):
            self.settle(call, path, None, there=True)
        elif operation == "mkdir":
            self.settle(call, path, {}, there=False)
        self.file(call, operation, path, dest)

    def settle(self, call, path, node, there=None):
        """Writes into the model what lies at path since this call. `there` says whether the call could only succeed with something at
        path (True), only without (False), or either way (None)."""
        self.order(call, path, self.changed, there)
        self.order(call, path, self.found, there)
        self.changed[path] = (call.ended, call.tid, self.files.get(path) is not None)
        self.files.put(path, node)

    def find(self, call, path):
        """Notes that a call's outcome hung on path being there."""
        self.order(call, path, self.changed, None)
        self.found[path] = (call.ended, call.tid, True)

    def order(self, call, path, others, there):
        """Two threads at once at one name could have had their turns in either order: then nothing is sure, unless this call
        could not have succeeded before the other one."""
        ended, tid, before = others.get(path, (0, 0, None))
        if ended > call.began and tid != call.tid and there in (None, before):
            raise Unclear(f"{call.name} of {path!r} ran at the same time as the call at line {ended}")

    def open(self, call):
        flags = {"open": 1, "openat": 2, "openat2": 2}.get(call.name)
        flags = "O_WRONLY|O_CREAT|O_TRUNC" if flags is None else call.args[flags]
        flags = set(re.findall(r"\bO_\w+", flags))
        opened = Descriptor(call.result, call)
        name = string(call.args[0 if call.name in ("open", "creat") else 1], call)
        if (through := self.through_descriptor(call, name)) != name and opened.path != through:
            raise Unclear(f"{name!r} is {through!r} by the model, but {opened.path!r}")
        self.opened(call.tid)[call.value] = opened.path
        if opened.path is None or "O_PATH" in flags:
            return
        if "O_TMPFILE" in flags:
            # The kernel gives the file a name that leads nowhere.
            return self.file(call, "create", opened.path)
        path, writes = opened.path, bool(flags & {"O_WRONLY", "O_RDWR"})
        if path.startswith(MEMFD[1:]):
            how = "open_read" if not writes else "truncate" if "O_TRUNC" in flags else "open_write"
            return self.file(call, how, path)
        node = self.files.get(path)
        if "O_DIRECTORY" in flags or isinstance(node, dict) or path in self.listed:
            return
        known = node is not None or below(path, UNMODELLED)
        if "O_CREAT" in flags and not below(path, UNMODELLED):
            if opened.deleted and known == ("O_EXCL" in flags):
                raise Unclear(f"{path!r} was removed while it was opened")
            if known and "O_EXCL" in flags:
                raise Unclear(f"O_EXCL created {path!r}, that was there by the model")
            if known:
                self.find(call, path)
            else:
                self.settle(call, path, FILE, there=False if "O_EXCL" in flags else None)
        elif not known and not opened.deleted:
            raise Unclear(f"{path!r} was opened, that was not there by the model")
        if not known and "O_CREAT" in flags:
            self.file(call, "create", path)
        elif writes:
            self.file(call, "truncate" if "O_TRUNC" in flags else "open_write", path)
        else:
            self.file(call, "open_read", path)

    def exec(self, call):
        if call.name == "execve":
            path, argv, base = string(call.args[0], call), strings(call.args[1], call), self.fs(call.tid)[0]
            live = path
        else:
            path, argv, base = string(call.args[1], call), strings(call.args[2], call), Descriptor(call.args[0], call).path
            live = path or base
            if not path.startswith("/") and not call.args[0].startswith("AT_FDCWD"):
                # The kernel's own name for it (fs/exec.c, alloc_bprm).
                number = re.match(r"\d+", call.args[0])[0]
                path = f"/dev/fd/{number}/{path}" if path else f"/dev/fd/{number}"
        # /proc/self/exe is what runs already: no script.
        live = None if below(live, UNMODELLED) or live.startswith(MEMFD[1:]) else self.files.resolve(base, live, follow=True)
        args = interpreted(path, argv, live) if live else argv
        self.emit("exec", call, path=shown(path), argv=list(map(shown, argv)), args=list(map(shown, args)))

    def connect(self, call):
        family = re.search(r"sa_family=AF_(\w+)", call.args[1])
        kind = Descriptor(call.args[0], call).kind
        if family and family[1] == "UNSPEC" and kind in ("UDP", "UDPv6"):
            self.udp(call)["peer"] = None
        if family and family[1] == "UNIX":
            path = unix_name(call.args[1])
            # the C library asks so before each look-up whether a cache of names runs
            absent = (path, call.error) == ("/var/run/nscd/socket", "ENOENT")
            if call.error != "EISCONN" and not call.unknown and not absent:
                self.socket(call, "unix", "outbound", path=path, error=call.error)
            return
        if not family or family[1] not in ("INET", "INET6"):
            return
        if kind in ("UDP", "UDPv6"):
            peer = addresses(call.args[1])[0]
            if call.error:
                self.socket(call, "udp", "outbound", *peer, error=call.error)
            else:
                self.udp(call)["peer"] = peer
                self.flow(call, peer, "outbound")
            return
        if kind in ("PING", "PINGv6", "RAW", "RAWv6"):
            return
        if kind not in ("TCP", "TCPv6"):
            raise Unclear(f"connect of a socket that is neither TCP nor UDP: {call.args[0]}")
        if call.error in ("EALREADY", "EISCONN"):
            return  # asks after a connection that was counted when it was begun
        if call.error not in TRIED:
            raise Unclear(f"connect: {call.result}")
        address = re.search(r'inet_(?:addr\(|pton\(AF_INET6, )"([^"]+)"', call.args[1])[1]
        port = int(re.search(r"port=htons\((\d+)\)", call.args[1])[1])
        self.emit("connect", call, family=family[1].lower(), address=address, port=port, error=call.error)

    def socket(self, call, transport, direction, address=None, port=None, path=None, error=None):
        path = path if path is None else shown(path)
        self.emit("socket", call, transport=transport, direction=direction, address=address, port=port, path=path, error=error)

    def accept(self, call):
        kind = Descriptor(call.args[0], call).kind
        if kind.startswith("UNIX"):
            return self.socket(call, "unix", "inbound", path=annotated_name(call.args[0]))
        if kind not in ("TCP", "TCPv6"):
            raise Unclear(f"accept by a socket that is neither TCP nor UNIX: {call.args[0]}")
        peers = addresses(call.args[1])
        if not peers:
            peer = re.search(r"->\[?([^\]>]+?)\]?:(\d+)\]>$", call.result)
            if not peer:
                raise Unclear(f"accept does not say whom: {call.result}")
            peers = [(peer[1], int(peer[2]))]
        return self.socket(call, "tcp", "inbound", *peers[0])

    def listen(self, call):
        kind = Descriptor(call.args[0], call).kind
        opened = self.opened(call.tid).setdefault(("socket", number_of(call.args[0])), {})
        if opened.get("listens"):
            return  # another backlog
        opened["listens"] = True
        if kind.startswith("UNIX"):
            self.socket(call, "unix", "listen", path=annotated_name(call.args[0]))
        else:
            self.socket(call, "tcp", "listen")

    def udp(self, call):
        """What is known of a UDP socket."""
        known = self.opened(call.tid).get(("socket", number_of(call.args[0])))
        if known is None:
            raise Unclear(f"a UDP socket that nobody made: {call.args[0]}")
        return known

    def flow(self, call, peer, direction):
        known = self.udp(call)
        if peer not in known["peers"]:
            known["peers"].add(peer)
            self.socket(call, "udp", direction, *peer)

    def datagrams(self, call):
        if Descriptor(call.args[0], call).kind not in ("UDP", "UDPv6"):
            return
        if "MSG_PEEK" in call.args[-1] or "MSG_ERRQUEUE" in call.args[-1] or "MSG_PEEK" in "".join(call.args[3:4]):
            return
        where = "".join(call.args[4:5] if call.name in ("sendto", "recvfrom") else call.args[1:2])
        peers = addresses(where) or [self.udp(call)["peer"]]
        for peer in peers:
            if peer is None:
                raise Unclear("a datagram from or to nobody knows whom")
            self.flow(call, peer, "outbound" if call.name.startswith("send") else "inbound")


ADDRESS = re.compile(
    r"sa_family=AF_INET6?, sin6?_port=htons\((\d+)\),.*?(?:inet_addr\(|inet_pton\(AF_INET6, )\"([^\"]+)\"", re.S
)


def addresses(text):
    """Addresses with their ports, of AF_INET and AF_INET6."""
    return [(address, int(port)) for port, address in ADDRESS.findall(text)]


def number_of(arg):
    """A descriptor's number."""
    return int(re.match(r"\d+", arg)[0])


NAME = r'(@?)"((?:[^"\\]|\\.)*)"'


def unix_name(text):
    """The name in a UNIX address, an abstract one behind @."""
    name = re.search("sun_path=" + NAME, text, re.S)
    return name and name[1] + unescape(name[2])


def annotated_name(text):
    """The name in -yy's annotation of a UNIX socket."""
    name = re.search(r"\[[\d>-]+, ?" + NAME, text, re.S)
    return name and name[1] + unescape(name[2])


def flags_of(call):
    """A clone's flags; fork and vfork have none."""
    return (re.search(r"flags=([\w|]+)", " ".join(call.args)) or ["", ""])[1].split("|")


def truth(trace, tree, cwd):
    """The events of a trace, whose first process began in the directory `cwd`."""
    return Run(records(trace), tree, cwd).events_of_run()


def main(args):
    if args == ["snapshot"]:
        json.dump({"cwd": os.getcwd(), "tree": snapshot()}, sys.stdout)
    elif args == ["flags"]:
        print("\n".join(FLAGS))
    elif len(args) == 3 and args[0] == "truth":
        with open(args[2]) as file:
            before = json.load(file)
        with open(args[1], encoding="latin-1", newline="\n") as trace:
            for event in truth(trace, before["tree"], before["cwd"]):
                print(json.dumps(event))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Unclear as error:
        sys.exit(f"oracle: {sys.argv[2] if len(sys.argv) > 2 else ''}: {error}")
