"""osquery's core with its SQL: SQLite, to which the tables of an extension are virtual tables, planned as the core plans them.

  osquery_sql.py serve SOCKET      plays the core, as manager.py does, and answers queries
  osquery_sql.py compare CONTEXTS  asks what a real core was asked, and says where its tables are called in another way

What is done with a constraint is that of osquery/sql/virtual_table.cpp: columns with INDEX, REQUIRED or ADDITIONAL are passed
on, texts are not ordered, a list on an OPTIMIZED column is one call, and SQLite looks at each row again.
"""

import json
import sys
import time

import apsw
import apsw.ext

import manager

INDEX, REQUIRED, ADDITIONAL, OPTIMIZED, HIDDEN = 1, 2, 4, 8, 16
ORDER = (4, 8, 16, 32)


def cell(kind, text):
    """A value of a row as the core shows it: a missing TEXT is '', a missing number NULL."""
    if kind == "TEXT":
        return text or ""
    if not text:
        return None
    return float(text) if kind == "DOUBLE" else int(text)


class Table:
    """An extension's table."""

    def __init__(self, plugin, name, calls):
        self.plugin, self.name, self.calls = plugin, name, calls
        self.columns = list(plugin.columns(name).values())
        self.plans = []

    def schema(self):
        hidden = lambda column: " HIDDEN" if int(column["op"]) & HIDDEN else ""
        columns = (f'"{column["name"]}" {column["type"]}{hidden(column)}' for column in self.columns)
        return f"CREATE TABLE x ({', '.join(columns)})"

    def BestIndexObject(self, info):
        plan, cost = [], 1_000_000
        for i in range(info.nConstraint):
            at, op = info.get_aConstraint_iColumn(i), info.get_aConstraint_op(i)
            if not info.get_aConstraint_usable(i) or not 0 <= at < len(self.columns):
                continue
            column = self.columns[at]
            options = int(column["op"])
            if (column["type"] == "TEXT" and op in ORDER) or not options & (INDEX | REQUIRED | ADDITIONAL):
                continue
            cost = 1
            plan.append((column["name"], op))
            info.set_aConstraintUsage_argvIndex(i, len(plan))
            if options & OPTIMIZED and info.get_aConstraintUsage_in(i):
                info.set_aConstraintUsage_in(i, True)
        used = [self.columns[i]["name"] for i in sorted(info.colUsed) if i < min(len(self.columns), 63)]
        self.plans.append((plan, used))
        info.idxNum, info.estimatedCost = len(self.plans) - 1, cost
        return True

    def Open(self):
        return Cursor(self)

    def Disconnect(self):
        pass

    Destroy = Disconnect


class Cursor:
    """A walk over the rows of one call."""

    def __init__(self, table):
        self.table = table

    def Filter(self, number, _, arguments):
        plan, used = self.table.plans[number]
        constraints = {}
        for (name, op), argument in zip(plan, arguments):
            for value in argument if isinstance(argument, (set, frozenset)) else [argument]:
                # What has no text is not passed on.
                if value is not None and value != "":
                    constraints.setdefault(name, []).append((op, str(value)))
        plugin, name = self.table.plugin, self.table.name
        context = plugin.context(name, constraints, used)
        began = time.monotonic()
        self.rows = plugin.generate(name, context)
        self.table.calls.append({"table": name, "context": context, "seconds": time.monotonic() - began})
        self.at = 0

    def Next(self):
        self.at += 1

    def Eof(self):
        return self.at >= len(self.rows)

    def Column(self, number):
        if number < 0:
            return self.at
        column = self.table.columns[number]
        return cell(column["type"], self.rows[self.at].get(column["name"]))

    def Rowid(self):
        return self.at

    def Close(self):
        pass


class Module:
    """Makes the tables of one connection."""

    def __init__(self, plugin, calls):
        self.plugin, self.calls = plugin, calls

    def Create(self, _connection, _module, _database, name, *_arguments):
        table = Table(self.plugin, name, self.calls)
        return table.schema(), table

    Connect = Create


def connect(plugin, own, calls):
    """SQLite with the tables of an extension, and others."""
    connection = apsw.Connection(":memory:")
    connection.create_module("extension", Module(plugin, calls), use_bestindex_object=True)
    for name in plugin.tables:
        connection.execute(f'CREATE VIRTUAL TABLE "{name}" USING extension')
    for name, (columns, rows) in own.items():
        connection.execute(f'CREATE TABLE "{name}" ({", ".join(f"{c} {kind}" for c, kind in columns.items())})')
        for row in rows:
            assert set(row) <= set(columns), row
            cells = [cell(kind, str(row.get(column, ""))) for column, kind in columns.items()]
            connection.execute(f'INSERT INTO "{name}" VALUES ({", ".join("?" for _ in cells)})', cells)
    return connection


class Recorded(manager.Plugin):
    """The tables that a real core was asked for, when its contexts were recorded."""

    # Options of the columns, in their order.
    tables = {
        "p_opts": {"t": 0, "pid": 1, "add": 4, "plain": 0, "hid": 16, "opt": 9},
        "p_default": {"t": 0, "pid": 0, "txt": 0, "hid": 16},
        "p_addl": {"t": 4, "pid": 12, "txt": 4, "plain": 20},
        "p_req": {"t": 0, "req": 2},
    }

    def __init__(self):
        pass

    def columns(self, table):
        columns = self.tables[table]
        kind = lambda name: "BIGINT" if name in ("t", "pid", "opt") else "TEXT"
        # The core makes INDEX of no options.
        return {name: {"name": name, "type": kind(name), "op": str(op or INDEX)} for name, op in columns.items()}

    def generate(self, table, _):
        row = lambda i: {"t": i, "pid": i % 4, "opt": i % 3, "add": f"a{i}", "plain": f"p{i}", "hid": f"h{i}", "txt": f"x{i}", "req": "r"}
        return [{name: str(row(i)[name]) for name in self.tables[table]} for i in range(10)]


def compare(contexts):
    own = {
        "processes": ({"pid": "INTEGER PRIMARY KEY", "name": "TEXT"}, [{"pid": pid, "name": "x"} for pid in (1, 2, 3)]),
        "time": ({"unix_time": "BIGINT"}, [{"unix_time": 1790000000}]),
    }
    # A time of day is another one each time.
    exact = lambda op, expr: (op, "now" if len(expr) == 10 and expr.isdigit() else expr)

    def shape(call):
        context = json.loads(call["context"])
        entries = ((column["name"], entry) for column in context["constraints"] for entry in column["list"])
        # LIMIT and OFFSET are offered by one SQLite and not by another, and no table looks at them.
        asked = [(name, *exact(entry["op"], entry["expr"])) for name, entry in entries if entry["op"] not in (73, 74)]
        return call["table"], sorted(asked), sorted(context["colsUsed"])

    same, other = 0, []
    with open(contexts) as file:
        for line in file:
            query, calls = json.loads(line), []
            if not query["ok"]:
                continue
            list(connect(Recorded(), own, calls).execute(query["sql"]))
            ours, theirs = ([shape(call) for call in asked] for asked in (calls, query["calls"]))
            if ours == theirs:
                same += 1
            else:
                other.append({"sql": query["sql"], "ours": ours, "osquery": theirs})
    print(json.dumps({"same": same, "other": other}))


class Core(manager.Play):
    """The core, which can be asked."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.own = {}

    def give(self, table, columns, rows):
        """A table of the core's own, or of another extension: its columns with their types, and its rows."""
        self.own[table] = (columns, rows)

    def open(self, calls):
        known = [{"uuid": str(uuid), "name": info.name} for uuid, info in self.manager.extensions().items()]
        return connect(self.plugin(), {"osquery_extensions": ({"uuid": "BIGINT", "name": "TEXT"}, known), **self.own}, calls)

    def ask(self, sql):
        """A query: its columns and rows, the calls that it made, and how long it took."""
        calls = []
        connection = self.open(calls)
        began = time.monotonic()
        cursor = connection.execute(sql)
        rows = list(cursor)
        seconds = time.monotonic() - began
        # A query without rows is over before it can be asked for its columns.
        columns = [name for name, *_ in apsw.ext.query_info(connection, sql).description]
        rows = [{name: "" if value is None else str(value) for name, value in zip(columns, row)} for row in rows]
        return {"columns": columns, "rows": rows, "calls": calls, "seconds": seconds}


if __name__ == "__main__":
    manager.Play = Core
    {"serve": manager.serve, "compare": compare}[sys.argv[1]](*sys.argv[2:])
