"""The comparison must find every kind of difference: a truth test that cannot fail shows nothing."""

import copy
import unittest

import compare

TRUTH = [
    {"kind": "exec", "time": "100.0", "pid": 10, "path": "/bin/agent", "argv": ["agent"], "args": ["agent", "go"]},
    {"kind": "fork", "time": "100.1", "pid": 10, "child": 11},
    {"kind": "exec", "time": "100.2", "pid": 11, "path": "/bin/sh", "argv": ["sh"], "args": ["sh", "-c", "x"]},
    {"kind": "exec", "time": "100.3", "pid": 11, "path": "/bin/cat", "argv": ["cat"], "args": ["cat", "y" * 10000]},
    {"kind": "file", "time": "100.4", "pid": 11, "operation": "open_read", "path": "/etc/ld.so.cache", "dest": None},
    {"kind": "file", "time": "100.4", "pid": 11, "operation": "create", "path": "/w/a", "dest": None},
    {"kind": "file", "time": "100.5", "pid": 11, "operation": "open_write", "path": "/w/a", "dest": None},
    {"kind": "file", "time": "100.5", "pid": 11, "operation": "open_write", "path": "/w/a", "dest": None},
    {"kind": "file", "time": "100.6", "pid": 11, "operation": "rename", "path": "/w/a", "dest": "/w/b"},
    {"kind": "connect", "time": "100.7", "pid": 11, "family": "inet", "address": "127.0.0.1", "port": 80, "error": None},
    *(
        {"kind": "socket", "time": "100.7", "pid": 11, "transport": transport, "direction": direction, "address": address, "port": port, "path": path, "error": error}
        for transport, direction, address, port, path, error in (
            ("tcp", "listen", None, None, None, None),
            ("tcp", "inbound", "::1", 9, None, None),
            ("udp", "listen", None, 7, None, None),
            ("udp", "outbound", "10.0.0.1", 53, None, None),
            ("unix", "outbound", None, None, "@x", "ENOENT"),
        )
    ),
    {"kind": "fork", "time": "100.7", "pid": 10, "child": 12},
    {"kind": "exit", "time": "100.8", "pid": 12, "code": 0, "signal": None},
    {"kind": "exit", "time": "100.8", "pid": 11, "code": None, "signal": 9},
    {"kind": "exit", "time": "100.9", "pid": 10, "code": 3, "signal": None},
]


def row(pid, **values):
    return {"agent": "claude-code", "agent_id": "i1", "pid": str(pid), "time_ns": "100500000000", **values}


def process(eid, pid, how, exec_path, cmdline, **values):
    empty = {"exit_code": None, "signal": None, "state": "exited", "truncated": "0"}
    return row(pid, eid=str(eid), how=how, exec_path=exec_path, cmdline=cmdline, **{**empty, **values})


def operation(pid, name, path, dest=None):
    return row(pid, operation=name, path=path, dest_path=dest)


def socket(transport, direction, **values):
    empty = {"remote_address": None, "remote_port": None, "local_port": "7", "path": None, "error": None}
    return row(11, transport=transport, direction=direction, **{**empty, **values})


def rows():
    """Rows that agree with the truth."""
    return {
        "processes": [
            process(1, 10, "exec", "/bin/agent", "agent go", exit_code="3"),
            process(2, 11, "exec", "/bin/sh", "sh -c x", state="replaced"),
            process(3, 11, "exec", "/bin/cat", "cat " + "y" * 10000, signal="9"),
            process(4, 12, "fork", "/bin/agent", "agent go", exit_code="0"),
        ],
        "connections": [
            socket("tcp", "outbound", remote_address="127.0.0.1", remote_port="80"),
            socket("tcp", "listen"),
            socket("tcp", "inbound", remote_address="::1", remote_port="9", error="ECONNRESET"),
            socket("udp", "listen"),
            socket("udp", "outbound", remote_address="10.0.0.1", remote_port="53"),
            socket("unix", "outbound", path="@x", error="ENOENT"),
        ],
        "files": [
            operation(11, "create", "/w/a"),
            operation(11, "open_write", "/w/a"),
            operation(11, "open_write", "/w/a"),
            operation(11, "rename", "/w/a", "/w/b"),
            operation(11, "close", "/w/a"),
        ],
        "agents": [row(10, role="main", start_time="100", path="/bin/agent", cmdline="agent go")],
    }


class Compare(unittest.TestCase):
    def differences(self, change=lambda rows: None):
        changed = copy.deepcopy(rows())
        change(changed)
        return dict(compare.compare(TRUTH, **changed, agent="claude-code"))

    def finds(self, group, change, count=1):
        found = self.differences(change)
        self.assertIn(group, found, found)
        self.assertEqual(len(found[group]), count, found)

    def test_rows_that_agree(self):
        self.assertEqual(self.differences(), {})

    def test_missing_rows(self):
        for table in ("processes", "connections", "files"):
            for index, gone in enumerate(rows()[table]):
                if gone.get("operation") != "close":
                    with self.subTest(table=table, row=index):
                        self.finds(f"{'sockets' if table == 'connections' and index else table}: missing", lambda rows: rows[table].pop(index))

    def test_doubled_rows(self):
        for table in ("processes", "connections", "files"):
            for index, double in enumerate(rows()[table]):
                if double.get("operation") != "close":
                    with self.subTest(table=table, row=index):
                        name = "sockets" if table == "connections" and index else table
                        self.finds(f"{name}: not in the truth", lambda rows: rows[table].append(rows[table][index]))

    def test_any_other_value(self):
        values = {
            "processes": {"pid": "12", "exec_path": "/bin/other", "cmdline": "other", "how": "adopted"},
            "connections": {"pid": "12", "remote_address": "127.0.0.2", "remote_port": "81"},
            "files": {"pid": "12", "operation": "truncate", "path": "/w/c", "dest_path": "/w/c"},
        }
        for table, columns in values.items():
            for column, value in columns.items():
                with self.subTest(table=table, column=column):
                    change = lambda rows: rows[table][0].update({column: value})
                    self.finds(f"{table}: missing", change)
                    self.finds(f"{table}: not in the truth", change)

    def test_any_other_value_of_a_socket(self):
        values = {"pid": "12", "direction": "inbound", "remote_address": "::2", "remote_port": "54", "path": "@y", "error": "EACCES"}
        for column, value in values.items():
            with self.subTest(column=column):
                change = lambda rows: rows["connections"][4].update({column: value})
                self.finds("sockets: missing", change)
                self.finds("sockets: not in the truth", change)

    def test_wrong_attribution(self):
        for table in ("processes", "connections", "files"):
            with self.subTest(table=table):
                self.finds(f"{table}: a row of the tree under another agent", lambda rows: rows[table][0].update(agent_id="i2"))
                self.finds(f"{table}: a row from outside the tree", lambda rows: rows[table][0].update(pid="99"))
                self.finds(f"{table}: a row of the instance with another agent's name", lambda rows: rows[table][0].update(agent="codex"))

    def test_other_runs_are_left_alone(self):
        def other(rows):
            for table in ("processes", "connections", "files"):
                rows[table].append({**rows[table][0], "agent_id": "i2", "pid": "50"})
                rows[table].append({**rows[table][0], "agent_id": "i2", "time_ns": "90000000000"})
            rows["agents"].append({**rows["agents"][0], "agent_id": "i2", "start_time": "90"})

        self.assertEqual(self.differences(other), {})

    def test_agents(self):
        none = "agents: not exactly one main instance"
        self.finds(none, lambda rows: rows["agents"].clear())
        self.finds(none, lambda rows: rows["agents"][0].update(agent="codex"))
        self.finds(none, lambda rows: rows["agents"].append({**rows["agents"][0], "agent_id": "i2", "pid": "11"}))
        self.finds("agents: an agent too many in the tree", lambda rows: rows["agents"].append({**rows["agents"][0], "agent": "codex", "pid": "11"}))

    def test_ends(self):
        another = "processes: another end"
        self.finds(another, lambda rows: rows["processes"][0].update(exit_code="0"))
        self.finds(another, lambda rows: rows["processes"][0].update(state="running"))
        self.finds(another, lambda rows: rows["processes"][2].update(signal="15"))
        self.finds(another, lambda rows: rows["processes"][2].update(signal=None, exit_code="9"))
        self.finds("processes: replaced by a further exec, but", lambda rows: rows["processes"][1].update(state="exited"))

    def test_order(self):
        def swap(rows):
            rows["processes"][1].update(eid="3")
            rows["processes"][2].update(eid="2")

        self.finds("processes: in another order", swap)

    def test_a_cut_command_line(self):
        cut = lambda length, **more: lambda rows: rows["processes"][2].update(cmdline="cat " + "y" * length, **more)
        self.assertEqual(self.differences(cut(9000, truncated="1")), {})
        self.finds("processes: missing", cut(9000))
        self.finds("processes: missing", cut(100, truncated="1"))
        self.finds("processes: missing", lambda rows: rows["processes"][2].update(cmdline="z" * 9000, truncated="1"))

    def test_noise_is_left_out_on_both_sides(self):
        self.assertEqual(self.differences(lambda rows: rows["files"].append(operation(11, "open_read", "/proc/self/maps"))), {})
        self.finds("files: not in the truth", lambda rows: rows["files"].append(operation(11, "open_write", "/proc/self/maps")))

    def test_what_is_noise(self):
        for path in (
            "/proc/1/stat",
            "/sys/fs/cgroup/x",
            "/dev/null",
            "/etc/ld.so.cache",
            "/etc/ld.so.preload",
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/usr/lib/libz.so",
            "/usr/lib64/a/b.so.1.2",
            "/usr/lib/locale/C.utf8/LC_CTYPE",
            "/usr/share/locale/locale.alias",
            "/usr/lib/python3.11/os.py",
            "/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache",
        ):
            self.assertTrue(compare.noise("open_read", path), path)
            self.assertFalse(compare.noise("open_write", path), path)
        for path in ("/procs", "/etc/ld.so.conf", "/usr/local/lib/a.so", "/home/a/lib/x.so", "/usr/lib/x.sock", "/etc/passwd", "/w/.git/config", "/w/locale/x"):
            self.assertFalse(compare.noise("open_read", path), path)


if __name__ == "__main__":
    unittest.main()
