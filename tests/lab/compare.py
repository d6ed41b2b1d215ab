#!/usr/bin/env python3
"""Holds the recorder's rows against the truth of one run, in both directions, with no tolerance.

  compare.py TRUTH PROCESSES CONNECTIONS FILES AGENTS --agent NAME

TRUTH is oracle.py's output. The others are the tables agent_processes, agent_connections, agent_file_ops and
ai_agents as JSON arrays of rows whose values are text or null; they may hold other runs too. NAME is the name of the
agent's signature. Every difference is printed, grouped and bounded; the exit status is 1 when there is one.

What happened must be a row of the one instance, and a row of that instance must have happened. Left out, on both
sides alike, is only what the recorder calls noise: reads that every program does to start.
"""

import argparse
import collections
import ipaddress
import json
import pathlib
import re
import sys

SHOWN = 20
# Below which length a command line may not be cut.
LEAST_CMDLINE = 8192

RULES = pathlib.Path(__file__).resolve().parents[2] / "signatures/files.yaml"


def listed():
    """The list of noise that users are told of, as one expression: `*` is any run of characters, and a name alone is that
    of a file in any directory."""
    section = re.search(r"^noise:\n((?:[ #].*\n|\n)*)", RULES.read_text(), re.M)[1]
    patterns = re.findall(r'^  - "?([^"\s]+)"?$', section, re.M)
    patterns = [pattern if "/" in pattern else f"*/{pattern}" for pattern in patterns]
    if len(patterns) < 20 or any(not re.match(r"\*?/|[A-Z]:/", pattern) for pattern in patterns):
        raise ValueError(f"{RULES}: the list of noise is not as it is read here")
    return re.compile("|".join(re.escape(pattern).replace(r"\*", ".*") for pattern in patterns), re.S)


NOISE = listed()


def noise(operation, path):
    """Whether a file operation is left out."""
    return operation == "open_read" and NOISE.fullmatch(path or "") is not None


def number(text):
    """A value of an integer column."""
    return None if text is None else int(text)


class Comparison:
    """One run's truth and rows."""

    def __init__(self, truth, agent):
        self.agent, self.differences = agent, collections.defaultdict(list)
        self.events = collections.defaultdict(list)
        for event in truth:
            self.events[event["kind"]].append(event)
        self.root = truth[0]["pid"]
        self.pids = {self.root} | {event["child"] for event in self.events["fork"]}
        # Pids are used again: a row from well before or after is another process'. Rows' times come from another clock
        # than strace's, but within a second.
        self.began, self.over = float(truth[0]["time"]) - 1, float(truth[-1]["time"]) + 1

    def differs(self, group, text):
        self.differences[group].append(str(text))

    def in_tree(self, row):
        """Whether a row is about a process of the run."""
        return number(row["pid"]) in self.pids and self.began <= int(row["time_ns"]) / 1e9 <= self.over

    def instance(self, agents):
        """The id of the one instance; every other agent in the tree is one too many."""
        rows = [row for row in agents if number(row["pid"]) in self.pids and self.began - 1 <= int(row["start_time"]) <= self.over]
        mains = [row for row in rows if row["agent"] == self.agent and row["role"] == "main"]
        if len(mains) != 1:
            self.differs("agents: not exactly one main instance", f"{len(mains)} of {self.agent}")
        for row in rows:
            if row not in mains:
                self.differs("agents: an agent too many in the tree", describe(row, "agent", "role", "pid", "path", "cmdline"))
        return mains[0]["agent_id"] if mains else None

    def of_instance(self, table, rows, agent_id):
        """The rows of the instance; what is attributed wrongly is a difference."""
        ours = []
        for row in rows:
            if row["agent_id"] != agent_id:
                if self.in_tree(row):
                    self.differs(f"{table}: a row of the tree under another agent", describe(row))
            elif number(row["pid"]) not in self.pids:
                self.differs(f"{table}: a row from outside the tree", describe(row))
            else:
                ours.append(row)
                if row["agent"] != self.agent:
                    self.differs(f"{table}: a row of the instance with another agent's name", describe(row))
        return ours

    def same(self, table, truth, rows):
        """Compares two multisets."""
        truth, rows = collections.Counter(truth), collections.Counter(rows)
        for key, count in (truth - rows).items():
            self.differs(f"{table}: missing", f"{count}x {key}")
        for key, count in (rows - truth).items():
            self.differs(f"{table}: not in the truth", f"{count}x {key}")

    def processes(self, rows):
        """One row an exec, one for a fork that never called exec, in order; the last one has the end."""
        by_pid = collections.defaultdict(list)
        for row in sorted(rows, key=lambda row: int(row["eid"])):
            by_pid[number(row["pid"])].append(row)
        execs = collections.defaultdict(list)
        for event in self.events["exec"]:
            execs[event["pid"]].append((event["path"], " ".join(event["args"])))
        ends = {event["pid"]: event for event in self.events["exit"]}
        for pid in sorted(self.pids):
            truth = [("exec", pid, path, cmdline) for path, cmdline in execs[pid]] or [("fork", pid, None, None)]
            got = [self.program(row, truth) for row in by_pid[pid]]
            self.same("processes", truth, got)
            if truth != got and sorted(map(str, truth)) == sorted(map(str, got)):
                self.differs("processes: in another order", got)
            for row in by_pid[pid][:-1]:
                if (row["state"], row["exit_code"]) != ("replaced", None):
                    self.differs("processes: replaced by a further exec, but", describe(row, "pid", "exec_path", "state", "exit_code"))
            if by_pid[pid]:
                row, end = by_pid[pid][-1], ends[pid]
                code = None if end["signal"] else end["code"]
                got = (row["state"], number(row["exit_code"]), number(row["signal"]) or None)
                if got != ("exited", code, end["signal"]):
                    self.differs("processes: another end", f"pid {pid}: code {code}, signal {end['signal']}, but the row has {got}")

    def program(self, row, truth):
        """What a row of agent_processes says was run. A command line that was cut, and says so, stands for the whole one."""
        if row["how"] == "fork":
            return ("fork", number(row["pid"]), None, None)
        cmdline = row["cmdline"] or ""
        if row["truncated"] == "1" and len(cmdline.encode()) >= LEAST_CMDLINE:
            whole = (fact[3] for fact in truth if fact[2] == row["exec_path"] and fact[3].startswith(cmdline))
            cmdline = next(whole, cmdline)
        return (row["how"], number(row["pid"]), row["exec_path"], cmdline)

    def connections(self, rows):
        """One row a connect that was tried, and one a socket that was accepted, listened on or had a flow."""
        self.same("sockets", map(socket_of_truth, self.events["socket"]), filter(None, map(socket_of_row, rows)))
        rows = [row for row in rows if (row["transport"], row["direction"]) == ("tcp", "outbound")]
        self.same(
            "connections",
            [(event["pid"], address(event["address"]), event["port"]) for event in self.events["connect"]],
            [(number(row["pid"]), address(row["remote_address"]), number(row["remote_port"])) for row in rows],
        )

    def files(self, rows):
        """One row an operation; `close` rows have tests of their own."""
        truth = [(e["pid"], e["operation"], e["path"], e["dest"]) for e in self.events["file"]]
        got = [(number(row["pid"]), row["operation"], row["path"], row["dest_path"]) for row in rows if row["operation"] != "close"]
        self.same("files", [f for f in truth if not noise(f[1], f[2])], [f for f in got if not noise(f[1], f[2])])


def socket_of_truth(event):
    """What a socket of the truth is compared by."""
    keys = ("pid", "transport", "direction", "address", "port", "path", "error")
    return tuple(address(event[key]) if key == "address" else event[key] for key in keys)


def socket_of_row(row):
    """The same of a row; None for outbound TCP, which has a comparison of its own. The port of a listening TCP socket
    may be the kernel's choice. Errors of TCP come later than its calls."""
    transport, direction = row["transport"], row["direction"]
    if (transport, direction) == ("tcp", "outbound"):
        return None
    port = row["remote_port"]
    if direction == "listen":
        port = row["local_port"] if transport == "udp" else None
    error = None if transport == "tcp" else row["error"]
    return (number(row["pid"]), transport, direction, address(row["remote_address"]), number(port), row["path"], error)


def address(text):
    """An address in one spelling."""
    return None if text is None else str(ipaddress.ip_address(text))


def describe(row, *columns):
    """A row, or some of it, on one line."""
    return json.dumps({column: row[column] for column in columns or row if row[column] is not None})


def compare(truth, processes, connections, files, agents, agent):
    """The differences: group -> texts."""
    comparison = Comparison(truth, agent)
    agent_id = comparison.instance(agents)
    if agent_id is not None:
        comparison.processes(comparison.of_instance("processes", processes, agent_id))
        comparison.connections(comparison.of_instance("connections", connections, agent_id))
        comparison.files(comparison.of_instance("files", files, agent_id))
    return comparison.differences


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("truth", "processes", "connections", "files", "agents"):
        parser.add_argument(name, type=argparse.FileType())
    parser.add_argument("--agent", required=True)
    args = parser.parse_args()
    truth = [json.loads(line) for line in args.truth]
    if not truth:
        sys.exit(f"{args.truth.name}: no truth to compare with")
    tables = [json.load(file) for file in (args.processes, args.connections, args.files, args.agents)]
    differences = compare(truth, *tables, args.agent)
    for group, texts in differences.items():
        print(f"{group}: {len(texts)}")
        for text in texts[:SHOWN]:
            print(f"    {text[:600]}")
        if len(texts) > SHOWN:
            print(f"    and {len(texts) - SHOWN} more")
    if differences:
        sys.exit(1)
    kinds = collections.Counter(event["kind"] for event in truth)
    left_out = sum(1 for e in truth if e["kind"] == "file" and noise(e["operation"], e["path"]))
    reads = sum(1 for e in truth if e["kind"] == "file" and e["operation"] == "open_read")
    print(f"the same: {kinds['exec']} execs, {kinds['exit']} ends, {kinds['connect']} connects, {kinds['socket']} other sockets, {kinds['file'] - left_out} file operations; noise: {left_out} of {reads} reads")


if __name__ == "__main__":
    main()
