//! Whom agents talk to, in total: the connections of `agent_connections`, counted for each host and port.

use std::collections::HashMap;

use super::constraint::{Constraint, Op};
use super::{
    Asked, Declaration, Example, Info, ScanError, Source, Viewer, agent_connections, bigint, integer, max_rows, scan,
    text,
};
use crate::record::Store;
use crate::record::log::Snapshot;
use crate::value::{Text, Value};

/// What the connections to one peer come to.
#[derive(Debug, Clone, Default)]
pub(super) struct EndpointRow {
    peer: Peer,
    endpoint_type: Option<Text>,
    service: Option<Text>,
    expected: Option<i64>,
    connections: i64,
    failures: i64,
    bytes_sent: Option<i64>,
    bytes_received: Option<i64>,
    first_seen: i64,
    last_seen: i64,
}

/// What tells one row from another. The address only of a peer without a name: a service has many, and new ones each day.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Peer {
    agent: Text,
    uid: Option<i64>,
    host: Option<Text>,
    address: Option<Text>,
    port: Option<i64>,
    transport: Text,
    path: Option<Text>,
}

pub(super) static TABLE: Declaration<EndpointRow> = Declaration {
    info: Info {
        name: "agent_endpoints",
        description: "One row for each agent, user, host and port that processes of the agent connected to: the connections of agent_connections in total. Of a peer without a name the address stands for the host.",
        platforms: &["linux"],
        event_based: false,
        examples: &[
            Example {
                question: "Whom did agents talk to that their signatures do not expect?",
                sql: "SELECT agent, remote_host, connections, bytes_sent FROM agent_endpoints WHERE expected = 0",
            },
            Example {
                question: "Where did most of the data go, ever?",
                sql: "SELECT agent, coalesce(remote_host, remote_address) AS peer, service, bytes_sent FROM agent_endpoints WHERE last_seen > 0 ORDER BY bytes_sent DESC LIMIT 10",
            },
        ],
    },
    rows: Source::Made(totals),
    ended: |_| None,
    owner: |row| row.peer.uid.into(),
    finished: None,
    running: None,
    fields: &[
        text("agent", "Agent, by the name of its signature", |row| (&row.peer.agent).into()),
        bigint("uid", "User id of its processes", |row| row.peer.uid.into()),
        text("remote_host", "Name of the peer", |row| (&row.peer.host).into()),
        text("remote_address", "Address of the peer, where it has no name", |row| (&row.peer.address).into()),
        integer("remote_port", "Port of the peer", |row| row.peer.port.into()),
        text("transport", "tcp, udp or unix", |row| (&row.peer.transport).into()),
        text("path", "Path of a UNIX socket", |row| (&row.peer.path).into()),
        text("endpoint_type", "What the peer is, as in agent_connections", |row| (&row.endpoint_type).into()),
        text("service", "Service that the peer belongs to", |row| (&row.service).into()),
        integer(
            "expected",
            "1 when the signature expects this peer, 0 when not, NULL without a name to judge by",
            |row| row.expected.into(),
        ),
        bigint("connections", "Connections and flows, the failed ones too", |row| row.connections.into()),
        bigint("failures", "Those of them that failed", |row| row.failures.into()),
        bigint("bytes_sent", "Bytes sent", |row| row.bytes_sent.into()),
        bigint("bytes_received", "Bytes received", |row| row.bytes_received.into()),
        bigint("first_seen", "Start of the first one, UNIX seconds", |row| row.first_seen.into()),
        bigint(
            "last_seen",
            "Start of the last one, UNIX seconds. Without a constraint on this or first_seen the connections of the last 24 hours are counted, with one all that are known",
            |row| row.last_seen.into(),
        ),
        max_rows(),
    ],
};

/// The columns of a connection that are read here.
struct Columns(HashMap<&'static str, usize>);

impl Columns {
    const READ: [&str; 14] = [
        "agent",
        "direction",
        "remote_host",
        "remote_address",
        "remote_port",
        "transport",
        "path",
        "endpoint_type",
        "service",
        "expected",
        "state",
        "bytes_sent",
        "bytes_received",
        "start_time",
    ];

    fn new() -> Self {
        let columns = agent_connections::TABLE.fields.iter().enumerate();
        let read = columns.map(|(place, field)| (field.column.name, place));
        Self(read.filter(|(name, _)| Self::READ.contains(name)).collect())
    }

    fn value(&self, scan: &scan::Scan, name: &str) -> Value {
        self.0.get(name).map_or(Value::Null, |place| scan.value(*place))
    }

    fn text(&self, scan: &scan::Scan, name: &str) -> Option<Text> {
        if let Value::Text(text) = self.value(scan, name) { Some(text) } else { None }
    }

    fn number(&self, scan: &scan::Scan, name: &str) -> Option<i64> {
        if let Value::Integer(number) = self.value(scan, name) { Some(number) } else { None }
    }
}

/// The peers, that of the oldest last connection first.
fn totals(store: &Store, asked: &Asked) -> Result<Snapshot<EndpointRow>, ScanError> {
    let ever = Constraint::new("time", Op::GreaterOrEqual, "0");
    let constraints = if asked.since.is_some() { Vec::new() } else { vec![ever] };
    let columns = Columns::new();
    let used: Vec<_> = columns.0.values().copied().collect();
    let mut peers: HashMap<Peer, EndpointRow> = HashMap::new();
    // Whose they are is looked at when the totals are shown.
    let mut scan =
        scan::open(store, Viewer::All, &agent_connections::TABLE, &constraints, Some(&used)).until(asked.deadline);
    while scan.advance() {
        add(&mut peers, &columns, &scan);
    }
    if let Some(error) = scan.error() {
        return Err(error.clone());
    }
    let mut rows: Vec<_> = peers.into_values().collect();
    rows.sort_by(|a, b| {
        (a.last_seen, &a.peer.host, &a.peer.address).cmp(&(b.last_seen, &b.peer.host, &b.peer.address))
    });
    Ok(Snapshot::of(rows))
}

/// Counts a connection. Rows come newest first.
fn add(peers: &mut HashMap<Peer, EndpointRow>, columns: &Columns, scan: &scan::Scan) {
    let text = |name| columns.text(scan, name);
    let number = |name| columns.number(scan, name);
    let transport = text("transport").unwrap_or_default();
    let (sent, received) = (number("bytes_sent"), number("bytes_received"));
    // A datagram socket that was connected and never used: how getaddrinfo looks for a route.
    let unused = &*transport == "udp" && (sent, received) == (Some(0), Some(0));
    if text("direction").as_deref() != Some("outbound") || unused {
        return;
    }
    let host = text("remote_host");
    let address = text("remote_address").filter(|_| host.is_none());
    let peer = Peer {
        agent: text("agent").unwrap_or_default(),
        uid: scan.uid(),
        host,
        address,
        port: number("remote_port"),
        transport,
        path: text("path"),
    };
    let start = number("start_time").unwrap_or(0);
    let row = peers.entry(peer).or_insert_with_key(|peer| EndpointRow {
        peer: peer.clone(),
        endpoint_type: text("endpoint_type"),
        service: text("service"),
        expected: number("expected"),
        first_seen: start,
        last_seen: start,
        ..EndpointRow::default()
    });
    row.connections += 1;
    row.failures += i64::from(text("state").as_deref() == Some("failed"));
    row.first_seen = row.first_seen.min(start);
    row.last_seen = row.last_seen.max(start);
    let more = |so_far: Option<i64>, bytes: Option<i64>| match (so_far, bytes) {
        (so_far, None) => so_far,
        (so_far, Some(bytes)) => Some(so_far.unwrap_or(0).saturating_add(bytes)),
    };
    row.bytes_sent = more(row.bytes_sent, sent);
    row.bytes_received = more(row.bytes_received, received);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::endpoints::EndpointType;
    use crate::record::clock::unix_seconds;
    use crate::record::rows::ConnectionRow;
    use crate::tables::{Request, Rows, find};

    const DAY: i64 = 24 * 3600;

    fn connection(agent: &str, host: Option<&str>, ago: i64) -> ConnectionRow {
        let start = unix_seconds() - ago;
        ConnectionRow {
            eid: start * 1_000_000_000,
            time_ns: start * 1_000_000_000,
            agent: agent.into(),
            remote_host: host.map(Into::into),
            remote_address: Some("203.0.113.7".into()),
            remote_port: Some(443),
            endpoint_type: Some(EndpointType::LlmApi),
            transport: "tcp",
            direction: "outbound",
            state: "closed",
            start_time: start,
            end_time: Some(start),
            uid: Some(1000),
            ..ConnectionRow::default()
        }
    }

    fn rows(connections: Vec<ConnectionRow>, request: &Request) -> Vec<Vec<String>> {
        let store = Store::default();
        store.update(|state| connections.into_iter().for_each(|row| state.connections.push(row)));
        let table = find("agent_endpoints").unwrap();
        let Rows { rows, .. } = scan::scan(&store, table, request).unwrap();
        let text = |value: &Value| match value {
            Value::Null => "-".to_owned(),
            Value::Integer(number) => number.to_string(),
            Value::Double(number) => number.to_string(),
            Value::Text(text) => text.to_string(),
        };
        rows.iter().map(|row| row.iter().map(text).collect()).collect()
    }

    fn request(viewer: Viewer, constraints: &[Constraint], columns: &[&str]) -> Request {
        Request {
            constraints: constraints.to_vec(),
            columns: Some(columns.iter().map(|name| (*name).to_owned()).collect()),
            ..Request::of(viewer)
        }
    }

    #[test]
    fn connections_are_counted_by_whom_they_are_with() {
        let by = |row: ConnectionRow| {
            vec![
                row.clone(),
                ConnectionRow { remote_address: Some("203.0.113.8".into()), start_time: row.start_time - 60, ..row },
                ConnectionRow { state: "failed", remote_port: Some(80), ..connection("a", Some("x.example"), 5) },
                connection("a", None, 7),
                connection("b", Some("x.example"), 9),
                ConnectionRow { uid: Some(1001), ..connection("a", Some("x.example"), 11) },
                ConnectionRow { direction: "inbound", ..connection("a", Some("x.example"), 1) },
                ConnectionRow { direction: "listen", ..connection("a", None, 1) },
            ]
        };
        let columns = ["agent", "uid", "remote_host", "remote_address", "remote_port", "connections", "failures"];
        let all = by(connection("a", Some("x.example"), 3));
        let got = rows(all.clone(), &request(Viewer::All, &[], &columns));
        let wanted = [
            ["a", "1000", "x.example", "-", "443", "2", "0"],
            ["a", "1000", "x.example", "-", "80", "1", "1"],
            ["a", "1000", "-", "203.0.113.7", "443", "1", "0"],
            ["b", "1000", "x.example", "-", "443", "1", "0"],
            ["a", "1001", "x.example", "-", "443", "1", "0"],
        ];
        assert_eq!(got, wanted);
        let own = rows(all.clone(), &request(Viewer::User(1001), &[], &["agent", "uid"]));
        assert_eq!(own, [["a", "1001"]]);
        let named = [Constraint::new("remote_host", Op::Equal, "x.example"), Constraint::new("agent", Op::Equal, "b")];
        assert_eq!(rows(all, &request(Viewer::All, &named, &["connections"])), [["1"]]);
    }

    #[test]
    fn what_is_older_than_a_day_counts_when_it_is_asked_for() {
        let seen = |constraints: &[Constraint]| {
            let connections = vec![connection("a", Some("x.example"), 3 * DAY), connection("a", Some("x.example"), 5)];
            let rows =
                rows(connections, &request(Viewer::All, constraints, &["connections", "first_seen", "last_seen"]));
            let number = |text: &String| text.parse::<i64>().unwrap();
            rows.iter().map(|row| (number(&row[0]), number(&row[2]) - number(&row[1]))).collect::<Vec<_>>()
        };
        assert_eq!(seen(&[]), [(1, 0)]);
        assert_eq!(seen(&[Constraint::new("last_seen", Op::Greater, "0")]), [(2, 3 * DAY - 5)]);
    }
}
