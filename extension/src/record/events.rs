//! What happened, as one stream: each start and end of an agent, a program or a connection as a row of its own.
//!
//! The other tables tell how something is by now; whoever forwards changes wants each of them once, and never changed
//! afterwards. So [`State`] writes an event wherever a row begins or ends, and nobody can do the one without the other.
//! Operations on files are events already: they are not held twice, but shown as both ([`Happened`]).

use std::io::{self, Write as _};
use std::sync::Arc;

use serde::Serialize as _;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};

use super::State;
use super::log::Snapshot;
use super::rows::{AgentRow, ConnectionRow, EventRow, FileOpRow, Happened, ProcessRow};
use crate::enrich::endpoints::EndpointType;
use crate::enrich::files::{Category, Sensitivity};
use crate::value::{Text, Value};

/// Control characters as `DuckDB` writes them, so that a row in memory and the same in the history are alike.
struct UpperCase;

impl Formatter for UpperCase {
    fn write_char_escape<W: ?Sized + io::Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        match escape {
            CharEscape::AsciiControl(byte) => write!(writer, "\\u{byte:04X}"),
            other => CompactFormatter.write_char_escape(writer, other),
        }
    }
}

/// An object of what is known, its keys in alphabetical order. Each program that an agent runs has some: they are written
/// down without a map of them.
fn details(cells: &[(&str, Value)]) -> Text {
    let mut text = Vec::with_capacity(512);
    let written = write_details(cells, &mut text);
    // It is in memory, and there is nothing in it that JSON cannot say.
    if written.is_ok() { String::from_utf8_lossy(&text).into() } else { "{}".into() }
}

fn write_details(cells: &[(&str, Value)], text: &mut Vec<u8>) -> io::Result<()> {
    text.push(b'{');
    for (key, value) in cells.iter().filter(|(_, value)| *value != Value::Null) {
        let comma = if text.len() > 1 { "," } else { "" };
        write!(text, "{comma}\"{key}\":")?;
        value.serialize(&mut Serializer::with_formatter(&mut *text, UpperCase))?;
    }
    text.push(b'}');
    Ok(())
}

/// A number that JSON's readers may not hold exactly.
fn id(eid: Option<i64>) -> Value {
    eid.map(|eid| eid.to_string()).into()
}

fn of_agent(row: &AgentRow, event_type: &'static str, time_ns: i64, summary: String, details: Text) -> EventRow {
    EventRow {
        time_ns,
        event_type,
        agent: Some(row.agent.clone()),
        agent_id: Some(row.agent_id),
        pid: Some(row.pid),
        process_eid: Some(row.process_eid),
        subject_eid: Some(row.process_eid),
        summary: summary.into(),
        details,
        uid: Some(row.uid),
        ..EventRow::default()
    }
}

fn of_process(row: &ProcessRow, event_type: &'static str, time_ns: i64, summary: Text, details: Text) -> EventRow {
    EventRow {
        time_ns,
        event_type,
        agent: Some(row.agent.clone()),
        agent_id: Some(row.agent_id),
        pid: Some(row.pid),
        process_eid: Some(row.eid),
        subject_eid: Some(row.eid),
        summary,
        details,
        uid: row.uid,
        ..EventRow::default()
    }
}

fn program(row: &ProcessRow) -> Text {
    details(&[
        ("cmdline", (&row.cmdline).into()),
        ("container_id", (&row.container_id).into()),
        ("cwd", (&row.cwd).into()),
        ("exec_path", (&row.exec_path).into()),
        ("name", (&row.name).into()),
        ("parent", row.parent.into()),
        ("parent_eid", id(row.parent_eid)),
        ("path", (&row.path).into()),
        ("tty", (&row.tty).into()),
        ("username", (&row.username).into()),
    ])
}

/// The other side of a connection, by the best name that there is; of what listens, its own.
fn peer(row: &ConnectionRow) -> String {
    let (address, port) = match row.direction {
        "listen" => (row.local_address.as_ref(), row.local_port),
        _ => (row.remote_host.as_ref().or(row.remote_address.as_ref()), row.remote_port),
    };
    let name = address.or(row.path.as_ref()).map_or("", |name| &**name);
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    format!("{} {} {name}{port}", row.transport, row.direction)
}

fn of_connection(row: &ConnectionRow, event_type: &'static str, time_ns: i64) -> EventRow {
    let ended = row.end_time.is_some();
    EventRow {
        time_ns,
        event_type,
        agent: Some(row.agent.clone()),
        agent_id: Some(row.agent_id),
        pid: Some(row.pid),
        process_eid: Some(row.process_eid),
        subject_eid: Some(row.eid),
        summary: if ended { format!("{} {}", peer(row), row.state).into() } else { peer(row).into() },
        details: details(&[
            ("bytes_received", row.bytes_received.filter(|_| ended).into()),
            ("bytes_sent", row.bytes_sent.filter(|_| ended).into()),
            ("container_id", (&row.container_id).into()),
            ("direction", row.direction.into()),
            ("endpoint_type", row.endpoint_type.map(EndpointType::as_str).into()),
            ("error", (&row.error).into()),
            ("expected", row.expected.into()),
            ("host_source", row.host_source.into()),
            ("local_address", (&row.local_address).into()),
            ("local_port", row.local_port.into()),
            ("name", (&row.name).into()),
            ("path", (&row.path).into()),
            ("remote_address", (&row.remote_address).into()),
            ("remote_host", (&row.remote_host).into()),
            ("remote_pid", row.remote_pid.into()),
            ("remote_port", row.remote_port.into()),
            ("service", (&row.service).into()),
            ("state", row.state.into()),
            ("transport", row.transport.into()),
        ]),
        uid: row.uid,
        ..EventRow::default()
    }
}

/// What happened to a file, for people. `tables/agent_events.rs` says this, what it is called and the details in SQL too, of
/// rows that are in the history.
fn file_summary(row: &FileOpRow) -> Text {
    let to = row.dest_path.as_ref().map(|dest| format!(" -> {dest}")).unwrap_or_default();
    format!("{} {}{to}", row.operation, row.path).into()
}

fn file_details(row: &FileOpRow) -> Text {
    details(&[
        ("bytes_read", row.bytes_read.into()),
        ("bytes_written", row.bytes_written.into()),
        ("category", row.category.map(Category::as_str).into()),
        ("close_source", row.close_source.into()),
        ("container_id", (&row.container_id).into()),
        ("dest_path", (&row.dest_path).into()),
        ("in_project", row.in_project.into()),
        ("mmap_write", row.mmap_write.into()),
        ("mode", (&row.mode).into()),
        ("name", (&row.name).into()),
        ("open_eid", id(row.open_eid)),
        ("path", (&row.path).into()),
        ("path_source", row.path_source.into()),
        ("sensitivity", row.sensitivity.map(Sensitivity::as_str).into()),
        ("truncated", row.truncated.into()),
    ])
}

impl Happened {
    /// The operations on files as events, and the events of their own, in one order.
    pub(super) fn all(file_ops: Snapshot<FileOpRow>, events: &Snapshot<Self>) -> Snapshot<Self> {
        let file =
            |segment: Arc<Vec<FileOpRow>>| (0..segment.len()).map(move |row| Self::File(Arc::clone(&segment), row));
        let files = file_ops.into_segments().into_iter().flat_map(file);
        let mut all: Vec<_> = files.chain(events.iter().cloned()).collect();
        all.sort_by_key(Self::eid); // two runs that are in order
        Snapshot::of(all)
    }

    fn of<T: Default>(&self, told: impl Fn(&EventRow) -> T, file: impl Fn(&FileOpRow) -> T) -> T {
        match self {
            Self::Told(row) => told(row),
            Self::File(segment, row) => segment.get(*row).map(file).unwrap_or_default(),
        }
    }

    /// Its number.
    #[must_use]
    pub fn eid(&self) -> i64 {
        self.of(|row| row.eid, |row| row.eid)
    }

    /// When it was, UNIX nanoseconds.
    #[must_use]
    pub fn time_ns(&self) -> i64 {
        self.of(|row| row.time_ns, |row| row.time_ns)
    }

    /// What it is called.
    #[must_use]
    pub fn event_type(&self) -> Text {
        self.of(|row| row.event_type.into(), |row| format!("file_{}", row.operation).into())
    }

    /// Whose it is.
    #[must_use]
    pub fn uid(&self) -> Option<i64> {
        self.of(|row| row.uid, |row| row.uid)
    }

    /// Agent, by the name of its signature.
    #[must_use]
    pub fn agent(&self) -> Option<Text> {
        self.of(|row| row.agent.clone(), |row| Some(row.agent.clone()))
    }

    /// The running instance of the agent.
    #[must_use]
    pub fn agent_id(&self) -> Option<i64> {
        self.of(|row| row.agent_id, |row| Some(row.agent_id))
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> Option<i64> {
        self.of(|row| row.pid, |row| Some(row.pid))
    }

    /// The process that did it.
    #[must_use]
    pub fn process_eid(&self) -> Option<i64> {
        self.of(|row| row.process_eid, |row| Some(row.process_eid))
    }

    /// The row that it is about.
    #[must_use]
    pub fn subject_eid(&self) -> Option<i64> {
        self.of(|row| row.subject_eid, |row| Some(row.eid))
    }

    /// What happened, for people.
    #[must_use]
    pub fn summary(&self) -> Text {
        self.of(|row| row.summary.clone(), file_summary)
    }

    /// What is known of it, as a JSON object.
    #[must_use]
    pub fn details(&self) -> Text {
        self.of(|row| row.details.clone(), file_details)
    }
}

impl State {
    /// Something happened. Its number is given here.
    fn tell(&mut self, event: EventRow) {
        let eid = self.eids.next(event.time_ns);
        self.events.push(Happened::Told(Arc::new(EventRow { eid, ..event })));
    }

    /// An agent began; its row comes when it is known how.
    pub fn begin_agent(&mut self, row: &AgentRow) {
        let what = details(&[
            ("cmdline", (&row.cmdline).into()),
            ("confidence", row.confidence.into()),
            ("container_id", (&row.container_id).into()),
            ("cwd", (&row.cwd).into()),
            ("evidence", (&row.evidence).into()),
            ("launched_by", (&row.launched_by).into()),
            ("parent", row.parent.into()),
            ("parent_agent_id", id(row.parent_agent_id)),
            ("path", (&row.path).into()),
            ("permission_mode", (&row.permission_mode).into()),
            ("project", (&row.project).into()),
            ("role", (&row.role).into()),
            ("tty", (&row.tty).into()),
            ("username", (&row.username).into()),
            ("version", (&row.version).into()),
        ]);
        let version = row.version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
        let summary = format!("{}{version} started", row.display_name);
        self.tell(of_agent(row, "agent_start", row.time_ns, summary, what));
        if let Some(gap) = row.start_gap_ms.filter(|gap| *gap > 0) {
            let summary = format!("files and connections of the first {gap} ms were not seen");
            self.tell(of_agent(row, "gap", row.time_ns, summary, details(&[("gap_ms", gap.into())])));
        }
    }

    /// An agent ended.
    pub fn end_agent(&mut self, row: AgentRow) {
        let what = details(&[
            ("bytes_received", row.bytes_received.into()),
            ("bytes_sent", row.bytes_sent.into()),
            ("connections_total", row.connections_total.into()),
            ("exit_code", row.exit_code.into()),
            ("files_created", row.files_created.into()),
            ("files_deleted", row.files_deleted.into()),
            ("files_read", row.files_read.into()),
            ("files_written", row.files_written.into()),
            ("processes_total", row.processes_total.into()),
            ("state", (&row.state).into()),
        ]);
        let code = row.exit_code.map(|code| format!(" with code {code}")).unwrap_or_default();
        let summary = format!("{} ended{code}", row.display_name);
        self.tell(of_agent(&row, "agent_end", row.time_ns, summary, what));
        self.agents.push(row);
    }

    /// A row of a program begins.
    pub fn begin_process(&mut self, row: ProcessRow) {
        let began = row.time_ns;
        self.tell_program(row, "process_start", began);
    }

    /// A fork's row becomes that of the program that the process runs from now on.
    pub fn become_program(&mut self, row: ProcessRow, time_ns: i64) {
        self.tell_program(row, "process_exec", time_ns);
    }

    fn tell_program(&mut self, row: ProcessRow, event_type: &'static str, time_ns: i64) {
        let summary = row.cmdline.clone().unwrap_or_else(|| row.name.clone());
        self.tell(of_process(&row, event_type, time_ns, summary, program(&row)));
        self.live_processes.insert(row.eid, row);
    }

    /// A row of a program ends.
    pub fn end_process(&mut self, row: ProcessRow, time_ns: i64) {
        let how = match (row.exit_code, row.signal) {
            (Some(code), _) => format!(" with code {code}"),
            (None, Some(signal)) if signal > 0 => format!(" by signal {signal}"),
            _ => String::new(),
        };
        let what = details(&[
            ("duration_ms", row.duration_ms.into()),
            ("exit_code", row.exit_code.into()),
            ("name", (&row.name).into()),
            ("signal", row.signal.into()),
            ("state", row.state.into()),
        ]);
        let summary = format!("{} {}{how}", row.name, row.state);
        self.tell(of_process(&row, "process_end", time_ns, summary.into(), what));
        self.processes.push(row);
    }

    /// A connection begins.
    pub fn begin_connection(&mut self, row: ConnectionRow) {
        self.tell(of_connection(&row, "connection_start", row.time_ns));
        self.live_connections.insert(row.eid, row);
    }

    /// A connection ends that began before. One whose end is not known was missed now.
    pub fn end_connection(&mut self, row: ConnectionRow) {
        let time_ns = row.end_time.map_or(self.eids.last(), |end| end.saturating_mul(1_000_000_000)).max(row.time_ns);
        self.tell(of_connection(&row, "connection_end", time_ns));
        self.connections.push(row);
    }

    /// A connection was refused before there was any.
    pub fn refuse_connection(&mut self, row: ConnectionRow) {
        self.tell(of_connection(&row, "connection_start", row.time_ns));
        self.end_connection(row);
    }

    /// Nothing was recorded from the one time to the other, in UNIX nanoseconds.
    pub fn tell_gap(&mut self, (ended, began): (i64, i64)) {
        let [from, to] = [ended, began].map(|time_ns| time_ns.div_euclid(1_000_000_000));
        self.tell(EventRow {
            time_ns: began,
            event_type: "gap",
            summary: format!("nothing was recorded from {from} to {to} (UNIX seconds)").into(),
            details: details(&[("from", from.into()), ("to", to.into())]),
            ..EventRow::default()
        });
    }
}
