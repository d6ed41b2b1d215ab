"""osquery's manager, made of the classes of the PyPI package osquery: the protocol as a third party speaks it.

  manager.py rows SOCKET QUERIES CONTEXTS   drives a registered extension as the core does; prints the queries' rows
  manager.py life SOCKET PROGRAM            starts the program as the core does, and plays the core's moods
  manager.py query SOCKET SQL               asks a manager; prints the rows
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

from osquery.extensions import Extension, ExtensionManager
from osquery.extensions.ttypes import ExtensionResponse, ExtensionStatus, InternalExtensionInfo
from thrift.protocol import TBinaryProtocol
from thrift.server import TServer
from thrift.transport import TSocket, TTransport

OPERATORS = {2: "=", 4: ">", 8: "<=", 16: "<", 32: ">=", 65: "LIKE", 66: "GLOB", 68: "!=", 69: "IS NOT", 72: "IS"}


class Manager:
    """The core's side: knows who is registered."""

    def __init__(self, path):
        self.path = path
        self.lock = threading.Condition()
        self.registered = {}
        self.refusals = 0
        self.refused = 0
        self.next_uuid = 41
        processor = ExtensionManager.Processor(self)
        self.server = TServer.TThreadedServer(
            processor,
            TSocket.TServerSocket(unix_socket=path),
            TTransport.TBufferedTransportFactory(),
            TBinaryProtocol.TBinaryProtocolFactory(),
            daemon=True,
        )
        threading.Thread(target=self.server.serve, daemon=True).start()

    def ping(self):
        return ExtensionStatus(code=0, message="OK", uuid=0)

    def extensions(self):
        with self.lock:
            return {uuid: info for uuid, (info, _) in self.registered.items()}

    def options(self):
        return {}

    def registerExtension(self, info, registry):
        with self.lock:
            if self.refused < self.refusals:
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
        # The socket's name has the uuid in it, so it can only be made after the registration.
        assert appears(self.path), self.path

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
    for table, routes in plugin.tables.items():
        attributes = [row for row in routes if row["id"] == "attributes"]
        assert (attributes == [{"id": "attributes", "attributes": "4"}]) == (table == "agent_file_ops"), (table, attributes)
        answer = plugin.call(lambda client: client.call("table", table, {"action": "columns"}))
        assert answer.response == routes
    with open(contexts) as file:
        check_contexts(plugin, file)
    with open(queries) as file:
        print(json.dumps(run_queries(plugin, json.load(file))))


def life(path, program):
    manager = Manager(path)
    command = [program, "--verbose", "--socket", path, "--timeout", "3", "--interval", "1"]
    process = subprocess.Popen(command)
    try:
        (first,) = manager.wait_for(lambda known: known, 5)
        # The core forgets its extensions at times; they are to notice.
        with manager.lock:
            manager.registered.clear()
        (second,) = manager.wait_for(lambda known: known, 10)
        assert appears(f"{path}.{second}") and not os.path.exists(f"{path}.{first}")
        began = time.time()
        process.send_signal(signal.SIGTERM)
        code = process.wait(4)
        assert code == 0 and time.time() - began < 4, code
        manager.wait_for(lambda known: not known, 1)
        assert not os.path.exists(f"{path}.{second}")
    finally:
        process.kill()


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
    {"rows": rows, "life": life, "query": query}[sys.argv[1]](*sys.argv[2:])
