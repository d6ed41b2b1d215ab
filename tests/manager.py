"""osquery's manager, made of the classes of the PyPI package osquery: the protocol as a third party speaks it.

  manager.py rows SOCKET QUERIES CONTEXTS   drives a registered extension as the core does; prints the queries' rows
  manager.py serve SOCKET                   plays the core, with its moods, by commands on stdin
  manager.py query SOCKET SQL               asks a manager; prints the rows
"""

import json
import logging
import os
import sqlite3
import sys
import threading
import time

from osquery.extensions import Extension, ExtensionManager
from osquery.extensions.ttypes import ExtensionResponse, ExtensionStatus, InternalExtensionInfo
from thrift.protocol import TBinaryProtocol
from thrift.server import TServer
from thrift.transport import TSocket, TTransport

# A connection that fails is said by its exception.
logging.getLogger("thrift").setLevel(logging.CRITICAL)

OPERATORS = {2: "=", 4: ">", 8: "<=", 16: "<", 32: ">=", 65: "LIKE", 66: "GLOB", 68: "!=", 69: "IS NOT", 72: "IS"}


class Server(TServer.TThreadedServer):
    """A connection a thread, a message a connection, and what becomes of the reply is a matter of mood."""

    mood = "well"

    def hold(self):
        mood = self.mood
        while self.mood == mood:
            time.sleep(0.02)

    def handle(self, client):
        reply = TTransport.TMemoryBuffer()
        try:
            self.processor.process(
                TBinaryProtocol.TBinaryProtocol(TTransport.TBufferedTransport(client)),
                TBinaryProtocol.TBinaryProtocol(reply),
            )
            reply = reply.getvalue()
            if self.mood == "mute":
                self.hold()
            elif self.mood == "garbage":
                client.write(os.urandom(1000))
            elif self.mood == "half":
                client.write(reply[: len(reply) // 2])
            elif self.mood == "half, and waits":
                client.write(reply[: len(reply) // 2])
                self.hold()
            else:
                client.write(reply)
        except (TTransport.TTransportException, OSError):
            pass
        finally:
            client.close()


class Manager:
    """The core's side: knows who is registered."""

    def __init__(self, path):
        self.path = path
        self.lock = threading.Condition()
        self.registered = {}
        self.refusals = 0
        self.refused = 0
        self.next_uuid = 41
        # A mood that begins with the next registration.
        self.from_now_on = None
        listener = TSocket.TServerSocket(unix_socket=path)
        self.server = Server(ExtensionManager.Processor(self), listener, daemon=True)
        threading.Thread(target=self.server.serve, daemon=True).start()

    def ping(self):
        return ExtensionStatus(code=0, message="OK", uuid=0)

    def extensions(self):
        with self.lock:
            return {uuid: info for uuid, (info, _) in self.registered.items()}

    def options(self):
        return {}

    def registerExtension(self, info, registry):
        self.server.mood = self.from_now_on or self.server.mood
        self.from_now_on = None
        with self.lock:
            known = any(other.name == info.name for other, _ in self.registered.values())
            if known or self.refused < self.refusals:
                self.refused += 1
                return ExtensionStatus(code=1, message="Duplicate extension registered", uuid=0)
            self.next_uuid += 1
            self.registered[self.next_uuid] = (info, registry)
            self.lock.notify_all()
            return ExtensionStatus(code=0, message="OK", uuid=self.next_uuid)

    def deregisterExtension(self, uuid):
        with self.lock:
            known = self.registered.pop(uuid, None)
            self.lock.notify_all()
            return ExtensionStatus(code=0 if known else 1, message="", uuid=uuid)

    def query(self, sql):
        return ExtensionResponse(ExtensionStatus(code=1, message="not here", uuid=0), [])

    def getQueryColumns(self, sql):
        return self.query(sql)

    def wait_for(self, what, seconds):
        with self.lock:
            assert self.lock.wait_for(lambda: what(self.registered), seconds), f"not within {seconds} s"
            return dict(self.registered)


def appears(path):
    deadline = time.time() + 2
    while not os.path.exists(path) and time.time() < deadline:
        time.sleep(0.02)
    return os.path.exists(path)


class Plugin:
    """A registered extension, called as the core calls it: a connection for each call, a ping before it."""

    def __init__(self, path, uuid, registry):
        self.path = f"{path}.{uuid}"
        self.tables = registry["table"]

    def call(self, ask):
        transport = TTransport.TBufferedTransport(TSocket.TSocket(unix_socket=self.path))
        transport.open()
        try:
            return ask(Extension.Client(TBinaryProtocol.TBinaryProtocol(transport)))
        finally:
            transport.close()

    def ping(self):
        assert self.call(lambda client: client.ping()).code == 0

    def generate(self, table, context):
        self.ping()
        request = {"action": "generate", "context": context}
        response = self.call(lambda client: client.call("table", table, request))
        assert response.status.code == 0, response.status.message
        return response.response

    def columns(self, table):
        return {row["name"]: row for row in self.tables[table] if row["id"] == "column"}

    def context(self, table, constraints, used):
        """A context as the core writes it: every column, alphabetical."""
        columns = self.columns(table)
        listed = [
            {
                "name": name,
                "list": [{"op": op, "expr": expr} for op, expr in constraints.get(name, [])],
                "affinity": columns[name]["type"],
            }
            for name in sorted(columns)
        ]
        return json.dumps({"constraints": listed, "colsUsed": used, "colsUsedBitset": 0})


def fill(db, plugin, table, rows):
    """A table as the core shows it: a missing TEXT is '', a missing number NULL."""
    columns = plugin.columns(table)
    declared = ", ".join(f'"{name}" {row["type"]}' for name, row in columns.items())
    db.execute(f'CREATE TABLE "{table}" ({declared})')
    marks = ", ".join("?" for _ in columns)
    for row in rows:
        assert set(row) <= set(columns), row
        cells = []
        for name, column in columns.items():
            kind, text = column["type"], row.get(name, "")
            if kind == "TEXT":
                cells.append(text)
            else:
                assert kind in ("INTEGER", "BIGINT", "DOUBLE"), kind
                cells.append(None if text == "" else float(text) if kind == "DOUBLE" else int(text))
        db.execute(f'INSERT INTO "{table}" VALUES ({marks})', cells)


def visible(plugin, table):
    return [name for name, row in plugin.columns(table).items() if not int(row["op"]) & 16]


def run_queries(plugin, queries):
    """Each query as the core answers it: SQLite over what generate gives."""
    results = []
    for query in queries:
        db = sqlite3.connect(":memory:")
        sql = query["sql"]
        for table, constraints in query["tables"].items():
            names = plugin.columns(table)
            used = [] if sql.startswith("SELECT count(*)") else list(names)
            rows = plugin.generate(table, plugin.context(table, constraints, used))
            fill(db, plugin, table, rows)
        if " * " in sql:
            (table,) = query["tables"]
            sql = sql.replace(" * ", " " + ", ".join(f'"{name}"' for name in visible(plugin, table)) + " ")
        cursor = db.execute(sql)
        names = [column[0] for column in cursor.description]
        results.append([{n: "" if v is None else str(v) for n, v in zip(names, row)} for row in cursor])
    return results


# Columns of agent_processes that stand for those of the recorded contexts, and what is written before their values.
STANDS_FOR = {"t": "ns_pid", "pid": "pid", "opt": "exit_code", "add": "name", "plain": "name", "hid": "name", "txt": "name"}


def adapt(column, expr):
    if column == "pid" and expr.isdigit():
        return str(100 + int(expr))
    return "p" + expr[1:] if column in ("add", "hid", "txt") and expr[:1] in ("a", "h", "x") else expr


def check_contexts(plugin, lines):
    """Contexts of a real osqueryd: raw ones do no harm, adapted ones keep every row that SQLite wants."""
    table = "agent_processes"
    names = list(plugin.columns(table))
    everything = plugin.generate(table, plugin.context(table, {}, names))
    assert len(everything) == 10, len(everything)
    db = sqlite3.connect(":memory:")
    fill(db, plugin, table, everything)
    narrowed = calls = 0
    for line in lines:
        for call in json.loads(line)["calls"]:
            for each in plugin.tables:
                plugin.generate(each, call["context"])
            calls += 1
            adapted, conditions, arguments = {}, [], []
            for column in json.loads(call["context"])["constraints"]:
                if column["name"] not in STANDS_FOR:
                    continue
                name = STANDS_FOR[column["name"]]
                equal = []
                for entry in column["list"]:
                    op, expr = entry["op"], adapt(column["name"], entry["expr"])
                    adapted.setdefault(name, []).append([op, expr])
                    if op == 2:
                        equal.append(expr)
                    elif op in OPERATORS:
                        conditions.append(f"{name} {OPERATORS[op]} ?")
                        arguments.append(expr)
                if equal:
                    conditions.append(f"{name} IN ({', '.join('?' for _ in equal)})")
                    arguments += equal
            # Parameters have no affinity of their own, just as values in a query.
            sql = f"SELECT eid FROM {table} WHERE {' AND '.join(conditions) or '1'}"
            wanted = {str(eid) for (eid,) in db.execute(sql, arguments)}
            kept = {row["eid"] for row in plugin.generate(table, plugin.context(table, adapted, names))}
            assert wanted <= kept, (line, wanted - kept)
            narrowed += len(kept) < 10
    assert calls > 109 and narrowed > 40, (calls, narrowed)


def rows(path, queries, contexts):
    manager = Manager(path)
    manager.refusals = 2
    registered = manager.wait_for(lambda known: known, 20)
    assert manager.refused == 2
    ((uuid, (info, registry)),) = registered.items()
    assert info.name == "agentquery", info
    plugin = Plugin(path, uuid, registry)
    # The socket's name has the uuid in it, so it can only be made after the registration.
    assert appears(plugin.path), plugin.path
    for table, routes in plugin.tables.items():
        attributes = [row for row in routes if row["id"] == "attributes"]
        assert (attributes == [{"id": "attributes", "attributes": "4"}]) == (table == "agent_file_ops"), (table, attributes)
        answer = plugin.call(lambda client: client.call("table", table, {"action": "columns"}))
        assert answer.response == routes
    with open(contexts) as file:
        check_contexts(plugin, file)
    with open(queries) as file:
        print(json.dumps(run_queries(plugin, json.load(file))))


class Play:
    """What the core can be told to do."""

    def __init__(self, path):
        self.manager = Manager(path)

    def plugin(self):
        ((uuid, (_, registry)),) = self.manager.wait_for(lambda known: known, 0).items()
        return Plugin(self.manager.path, uuid, registry)

    def uuid(self):
        """Under which the extension is known; null when it is not."""
        return next(iter(self.manager.extensions()), None)

    def mood(self, mood):
        self.manager.server.mood = mood

    def forget(self):
        """As the core drops an extension behind its back."""
        with self.manager.lock:
            self.manager.registered.clear()

    def lose_the_registration(self, mood):
        """The next registration is carried out, and its answer has this mood, as all after it."""
        self.manager.from_now_on = mood

    def lost(self):
        return self.manager.from_now_on is None and bool(self.manager.extensions())

    def registered(self, seconds):
        self.manager.wait_for(lambda known: known, seconds)

    def refuse(self, refuse):
        self.manager.refusals = sys.maxsize if refuse else 0

    def back(self, seconds):
        """Waits until a table answers; says how long that took."""
        began = time.monotonic()
        while True:
            try:
                plugin = self.plugin()
                plugin.generate("ai_agents", plugin.context("ai_agents", {}, []))
                return time.monotonic() - began
            except (AssertionError, OSError, TTransport.TTransportException) as error:
                assert time.monotonic() - began < seconds, f"no table answers within {seconds} s: {error}"
                time.sleep(0.02)

    def generate(self, table, constraints, used):
        plugin = self.plugin()
        return plugin.generate(table, plugin.context(table, constraints, used or list(plugin.columns(table))))

    def slow(self, path):
        """A generate that takes as long as it may: a long list of texts that are nearly this path."""
        paths = [[2, f"{path[:-8]}{i:08x}"] for i in range(100_000)]
        return self.generate("agent_file_ops", {"path": paths}, ["path"])

    def pings(self, count):
        """The longest of so many pings."""
        plugin = self.plugin()
        longest = 0
        for _ in range(count):
            began = time.monotonic()
            plugin.ping()
            longest = max(longest, time.monotonic() - began)
        return longest

    def join(self, table, column, values, constraints):
        """A generate for each value of a column, as a join makes them; says how long that took."""
        plugin = self.plugin()
        contexts = [plugin.context(table, {column: [[2, value]], **constraints}, []) for value in values]
        began = time.monotonic()
        for context in contexts:
            plugin.generate(table, context)
        return time.monotonic() - began


def serve(path):
    play = Play(path)
    assert appears(path)
    print(json.dumps({"ok": None}), flush=True)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"ok": getattr(play, name)(*arguments)}
        except Exception as error:
            answer = {"error": f"{name}: {type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


def query(path, sql):
    transport = TTransport.TBufferedTransport(TSocket.TSocket(unix_socket=path))
    transport.open()
    client = ExtensionManager.Client(TBinaryProtocol.TBinaryProtocol(transport))
    assert client.ping().code == 0
    assert client.registerExtension(InternalExtensionInfo(name="x"), {}).code != 0
    assert client.call("table", "ai_agents", {"action": "generate"}).status.code == 0
    assert client.call("table", "processes", {"action": "generate"}).status.code != 0
    assert client.call("config", "filesystem", {"action": "genConfig"}).status.code != 0
    assert client.query("DROP TABLE ai_agents").status.code != 0
    columns = [name for column in client.getQueryColumns(sql).response for name in column]
    response = client.query(sql)
    assert response.status.code == 0, response.status.message
    print(json.dumps({"columns": columns, "rows": response.response}))


if __name__ == "__main__":
    {"rows": rows, "serve": serve, "query": query}[sys.argv[1]](*sys.argv[2:])
