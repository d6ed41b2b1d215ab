//! Rows that could still change when an earlier recorder ended, as the history gives them back.
//!
//! What they are about may live on, and is known again by what cannot be another's on the same boot: a process by its
//! pid and exact start, a connection by its socket and addresses. An open file has nothing of that kind: it is taken for
//! the same when a process that lives on has that path open in that way.

use std::collections::{HashMap, HashSet};

use serde::Deserialize as _;
use serde::de::value::StrDeserializer;

use super::rows::{AgentRow, ConnectionRow, Identity, OpenFileRow, ProcessRow};
use crate::enrich::endpoints::EndpointType;
use crate::event::{Connection, Event, EventKind, Open, OpenMode, ProcessKey};
use crate::history::RunningRow;
use crate::tables::{Column, Table};
use crate::value::{Text, Value};

/// Rows of one kind or another.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)]
pub struct Rows {
    pub agents: Vec<AgentRow>,
    pub processes: Vec<ProcessRow>,
    pub connections: Vec<ConnectionRow>,
    pub open_files: Vec<OpenFileRow>,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Of this boot: it may live on.
    pub here: Rows,
    /// Of an earlier boot.
    pub gone: Rows,
}

impl Found {
    /// Adds a row of the table, of this boot or not.
    pub fn add(&mut self, table: &dyn Table, row: &RunningRow, here: bool) {
        let cells = Cells { columns: &table.columns(), values: &row.values };
        let rows = if here { &mut self.here } else { &mut self.gone };
        match table.info().name {
            "ai_agents" => rows.agents.push(agent(&cells)),
            "agent_processes" => rows.processes.push(process(&cells, row.identity)),
            "agent_connections" => rows.connections.push(connection(&cells, row)),
            "agent_open_files" => rows.open_files.push(open_file(&cells, row)),
            _ => {}
        }
    }

    /// Whether nothing was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let none = |rows: &Rows| {
            rows.agents.is_empty()
                && rows.processes.is_empty()
                && rows.connections.is_empty()
                && rows.open_files.is_empty()
        };
        none(&self.here) && none(&self.gone)
    }
}

/// What was found, by what it is known again by.
#[derive(Debug, Default)]
pub(super) struct Again {
    pub agents: HashMap<i64, AgentRow>,
    pub processes: HashMap<ProcessKey, ProcessRow>,
    /// By the inode of the socket.
    pub connections: HashMap<i64, ConnectionRow>,
    open_files: HashMap<OpenKey, Vec<OpenFileRow>>,
    /// Those that are open, by the collector's id of the open.
    still_open: HashMap<u64, OpenFileRow>,
    /// The rest.
    pub gone: Rows,
    /// Processes that were found again.
    resumed: HashSet<i64>,
}

/// Pid, path, and whether it is for reading only. The descriptor may have been another one after the open.
type OpenKey = (i64, Text, bool);

impl Again {
    pub(super) fn new(found: Found) -> Self {
        let mut again = Self { gone: found.gone, ..Self::default() };
        let Rows { agents, processes, connections, open_files } = found.here;
        again.agents = agents.into_iter().map(|row| (row.agent_id, row)).collect();
        // A second row of a key is nobody's that lives.
        for row in processes {
            let key = key_of(&row).filter(|key| !again.processes.contains_key(key));
            match key {
                Some(key) => drop(again.processes.insert(key, row)),
                None => again.gone.processes.push(row),
            }
        }
        for row in connections {
            match row.socket.filter(|socket| !again.connections.contains_key(socket)) {
                Some(socket) => drop(again.connections.insert(socket, row)),
                None => again.gone.connections.push(row),
            }
        }
        for row in open_files {
            let key = (row.pid, row.path.clone(), row.operation == "open_read");
            again.open_files.entry(key).or_default().push(row);
        }
        again
    }

    /// The row of that process.
    pub(super) fn process(&mut self, key: ProcessKey) -> Option<ProcessRow> {
        let row = self.processes.remove(&key)?;
        self.resumed.insert(key.pid.into());
        Some(row)
    }

    /// The row of that connection.
    pub(super) fn connection(&mut self, step: &Connection) -> Option<ConnectionRow> {
        let socket = i64::try_from(step.inode).ok()?;
        let is = |row: &ConnectionRow| {
            let address =
                |own: Option<&Text>, other: std::net::IpAddr| own.is_none_or(|own| **own == *other.to_string());
            let port = |own: Option<i64>, other: u16| own.is_none_or(|own| own == i64::from(other));
            row.net_namespace.as_ref().is_none_or(|own| **own == *step.net_ns.to_string())
                && address(row.local_address.as_ref(), step.local.ip())
                && port(row.local_port, step.local.port())
                && address(row.remote_address.as_ref(), step.remote.ip())
                && port(row.remote_port, step.remote.port())
        };
        self.connections.get(&socket).is_some_and(is).then(|| self.connections.remove(&socket)).flatten()
    }

    /// Looks which of the files are these: the same descriptor of the same process with the same path; or, of what is left
    /// then, the only one of a process with that path.
    pub(super) fn know_open(&mut self, events: &[Event]) {
        let mut unknown: HashMap<OpenKey, Vec<&Open>> = HashMap::new();
        for event in events {
            if let EventKind::Open(open) = &event.kind {
                let key = (i64::from(event.process.pid), Text::from(open.path.as_str()), open.how == OpenMode::Read);
                unknown.entry(key).or_default().push(open);
            }
        }
        for (key, mut opens) in unknown {
            let Some(rows) = self.open_files.get_mut(&key).filter(|_| self.resumed.contains(&key.0)) else { continue };
            opens.retain(|open| {
                let place = rows.iter().position(|row| row.fd == i64::from(open.fd));
                place.map(|place| self.still_open.insert(open.open_id, rows.swap_remove(place))).is_none()
            });
            if let ([open], 1) = (&opens[..], rows.len()) {
                self.still_open.extend(rows.pop().map(|row| (open.open_id, row)));
            }
        }
    }

    /// The row of a file that is open.
    pub(super) fn open_file(&mut self, open: &Open) -> Option<OpenFileRow> {
        self.still_open.remove(&open.open_id)
    }

    /// All that was not asked for.
    pub(super) fn left(self) -> Rows {
        let mut left = self.gone;
        left.agents.extend(self.agents.into_values());
        left.processes.extend(self.processes.into_values());
        left.connections.extend(self.connections.into_values());
        left.open_files.extend(self.open_files.into_values().flatten());
        left.open_files.extend(self.still_open.into_values());
        left
    }
}

fn key_of(row: &ProcessRow) -> Option<ProcessKey> {
    let pid = u32::try_from(row.pid).ok()?;
    let start_ns = row.identity.start_ns;
    (start_ns != 0).then_some(ProcessKey { pid, start_ns })
}

/// Cells of a row, by the names of their columns.
struct Cells<'a> {
    columns: &'a [&'a Column],
    values: &'a [Value],
}

impl Cells<'_> {
    fn get<T: FromCell>(&self, name: &str) -> T {
        let place = self.columns.iter().position(|column| column.name == name);
        T::from_cell(place.and_then(|place| self.values.get(place)).unwrap_or(&Value::Null))
    }
}

/// What a field of a row is, of the cell that it became.
trait FromCell {
    fn from_cell(cell: &Value) -> Self;
}

impl FromCell for Option<i64> {
    fn from_cell(cell: &Value) -> Self {
        if let Value::Integer(integer) = cell { Some(*integer) } else { None }
    }
}
impl FromCell for i64 {
    fn from_cell(cell: &Value) -> Self {
        Option::from_cell(cell).unwrap_or(0)
    }
}
impl FromCell for Option<bool> {
    fn from_cell(cell: &Value) -> Self {
        Option::<i64>::from_cell(cell).map(|integer| integer == 1)
    }
}
impl FromCell for Option<EndpointType> {
    fn from_cell(cell: &Value) -> Self {
        let Value::Text(text) = cell else { return None };
        EndpointType::deserialize(StrDeserializer::<serde::de::value::Error>::new(text)).ok()
    }
}
impl FromCell for bool {
    fn from_cell(cell: &Value) -> Self {
        *cell == Value::Integer(1)
    }
}
impl FromCell for Option<Text> {
    fn from_cell(cell: &Value) -> Self {
        if let Value::Text(text) = cell { Some(text.clone()) } else { None }
    }
}
impl FromCell for Text {
    fn from_cell(cell: &Value) -> Self {
        Option::from_cell(cell).unwrap_or_else(|| "".into())
    }
}
impl FromCell for Option<&'static str> {
    fn from_cell(cell: &Value) -> Self {
        Some(<&'static str>::from_cell(cell)).filter(|word| !word.is_empty())
    }
}
impl FromCell for &'static str {
    fn from_cell(cell: &Value) -> Self {
        let word = |text: &Text| WORDS.into_iter().find(|word| **word == **text);
        if let Value::Text(text) = cell { word(text).unwrap_or("") } else { "" }
    }
}

/// The words that a row that can still change has in such fields.
const WORDS: [&str; 27] = [
    "running",
    "exec",
    "fork",
    "adopted",
    "marker",
    "tcp",
    "udp",
    "unix",
    "outbound",
    "inbound",
    "listen",
    "connecting",
    "established",
    "closing",
    "time_wait",
    "closed",
    "close_wait",
    "listening",
    "failed",
    "open_read",
    "open_write",
    "create",
    "truncate",
    "sni",
    "getaddrinfo",
    "dns",
    "hosts",
];

/// Fields are named as their columns; the others are given.
macro_rules! row {
    ($row:ident from $cells:ident: $($field:ident)*; $($other:ident: $value:expr),*) => {
        $row { $($field: $cells.get(stringify!($field)),)* $($other: $value),* }
    };
}

fn agent(cells: &Cells<'_>) -> AgentRow {
    row! {
        AgentRow from cells:
        agent_id agent display_name vendor category version role pid parent parent_agent_id process_eid name
        path cmdline cwd project uid gid username tty launched_by container_id permission_mode state confidence evidence
        start_time end_time start_gap_ms exit_code time_ns processes processes_total connections_total
        unexpected_connections bytes_sent bytes_received files_read files_written files_created files_deleted ns_pid;
    }
}

fn process(cells: &Cells<'_>, identity: Identity) -> ProcessRow {
    row! {
        ProcessRow from cells:
        eid time_ns agent agent_id pid parent parent_eid depth name path exec_path cmdline cwd uid gid
        username tty start_time end_time duration_ms exit_code signal state how container_id ns_pid
        truncated;
        identity: identity
    }
}

fn connection(cells: &Cells<'_>, stored: &RunningRow) -> ConnectionRow {
    row! {
        ConnectionRow from cells:
        eid time_ns agent agent_id pid process_eid name fd socket family protocol transport direction
        local_address local_port remote_address remote_port remote_host host_source path remote_pid endpoint_type service
        expected state error start_time end_time bytes_sent bytes_received net_namespace container_id;
        uid: stored.owner, identity: stored.identity
    }
}

fn open_file(cells: &Cells<'_>, stored: &RunningRow) -> OpenFileRow {
    row! {
        OpenFileRow from cells:
        eid time_ns agent agent_id pid process_eid name fd operation path bytes_read bytes_written;
        uid: stored.owner, identity: stored.identity
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Mark;
    use crate::record::Store;
    use crate::tables::{self, ColumnType};

    const IDENTITY: Identity = Identity {
        start_ns: 5,
        mark: Some(Mark { slot: 6, generation: u32::MAX }),
        main: true,
        id: u64::MAX,
        sent: 1,
        received: 2,
    };

    /// A row in which every cell that is a row's own has a value.
    fn full(table: &'static dyn tables::Table) -> RunningRow {
        let cell = |(place, column): (usize, &&tables::Column)| match (column.name, column.kind) {
            ("truncated" | "expected", _) => Value::Integer(1),
            ("endpoint_type", _) => "llm_api".into(),
            ("state", _) if table.info().name == "agent_connections" => "close_wait".into(),
            ("state", _) => "running".into(),
            ("how", _) => "adopted".into(),
            ("transport", _) => "tcp".into(),
            ("direction", _) => "inbound".into(),
            ("host_source", _) => "sni".into(),
            ("operation", _) => "truncate".into(),
            (_, ColumnType::Text) => format!("text {place}").into(),
            _ => Value::Integer(1_795_000_000_000_000_000 + i64::try_from(place).unwrap()),
        };
        let values = table.columns().iter().enumerate().map(cell).collect();
        RunningRow { values, owner: Some(1000), identity: IDENTITY }
    }

    #[test]
    fn rows_come_back_as_they_were() {
        for table in tables::all().into_iter().filter(|table| table.is_running()) {
            let (name, row) = (table.info().name, full(table));
            let columns: Vec<_> = table.columns().iter().map(|column| column.name).collect();
            let mut found = Found::default();
            found.add(table, &row, true);
            let store = Store::default();
            store.update(|state| {
                found.here.agents.iter().for_each(|row| state.live_agents.insert(1, row.clone()));
                found.here.processes.iter().for_each(|row| state.live_processes.insert(1, row.clone()));
                found.here.connections.iter().for_each(|row| state.live_connections.insert(1, row.clone()));
                found.here.open_files.iter().for_each(|row| state.open_files.insert(1, row.clone()));
            });
            let back = store.update(|state| table.running(state));
            let [back] = &back[..] else { panic!("{name}: {back:?}") };
            // Only what no row has a value in is not there.
            let missing = |(place, value): (usize, &Value)| (*value == Value::Null).then(|| columns[place]);
            let missing: Vec<_> = back.values.iter().enumerate().filter_map(missing).collect();
            let none = ["session_id", "tool_call_id", "max_rows"];
            assert!(missing.iter().any(|column| none.contains(column)), "{missing:?}");
            for (place, value) in back.values.iter().enumerate().filter(|(_, value)| **value != Value::Null) {
                let wanted = match columns[place] {
                    "time" => Value::Integer(seconds(&back.values, &columns)),
                    _ => row.values[place].clone(),
                };
                assert_eq!(*value, wanted, "{name}.{}", columns[place]);
            }
            let identity = if name == "ai_agents" { Identity::default() } else { IDENTITY };
            let owner = if ["ai_agents", "agent_processes"].contains(&name) {
                Some(1_795_000_000_000_000_000 + i64::try_from(place(&columns, "uid")).unwrap())
            } else {
                Some(1000)
            };
            assert_eq!((back.owner, back.identity), (owner, identity), "{name}");
        }
    }

    fn place(columns: &[&str], name: &str) -> usize {
        columns.iter().position(|column| *column == name).unwrap()
    }

    fn seconds(values: &[Value], columns: &[&str]) -> i64 {
        let Value::Integer(time_ns) = values[place(columns, "time_ns")] else { panic!("no time") };
        time_ns / 1_000_000_000
    }

    #[test]
    fn of_two_rows_of_one_key_none_is_lost() {
        let process = |eid, pid, start_ns| {
            let identity = Identity { start_ns, ..Identity::default() };
            ProcessRow { eid, pid, identity, ..ProcessRow::default() }
        };
        let connection = |eid, socket| ConnectionRow { eid, socket, ..ConnectionRow::default() };
        let file = |eid, fd| OpenFileRow { eid, fd, ..OpenFileRow::default() };
        let here = Rows {
            processes: vec![process(1, 10, 5), process(2, 10, 5), process(3, 10, 0), process(4, 10, 6)],
            connections: vec![connection(5, Some(1)), connection(6, Some(1)), connection(7, None)],
            open_files: vec![file(8, 3), file(9, 3), file(10, 4)],
            ..Rows::default()
        };
        let left = Again::new(Found { here, gone: Rows::default() }).left();
        let mut eids: Vec<_> = left.processes.iter().map(|row| row.eid).collect();
        eids.extend(left.connections.iter().map(|row| row.eid));
        eids.extend(left.open_files.iter().map(|row| row.eid));
        eids.sort_unstable();
        assert!(eids.into_iter().eq(1..=10));
    }
}
