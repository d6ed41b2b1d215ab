//! The rows, as the recorder keeps them. Which columns they become is declared in [`crate::tables`].
//!
//! Fields are named as their columns; what they mean is said once, in the column's description.
#![allow(missing_docs)]

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::log::Weigh;
use crate::collect::Counts;
use crate::enrich::endpoints::EndpointType;
use crate::enrich::files::{Category, Sensitivity};
use crate::event::Mark;
use crate::value::Text;

/// What the collector knows a thing by that still runs: the next recorder goes on with its row. No column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// Start of the process, or of a connection's owner, nanoseconds since boot. With the pid, which process it is.
    pub start_ns: u64,
    /// Of a process.
    pub mark: Option<Mark>,
    /// Of a process: it is the agent itself.
    pub main: bool,
    /// Of a connection or of an open.
    pub id: u64,
    /// Of a connection: bytes that went before the collector began to count.
    pub sent: u64,
    /// The same of those received.
    pub received: u64,
}

#[derive(Debug, Clone, Default)]
pub struct AgentRow {
    pub agent_id: i64,
    pub agent: Text,
    pub display_name: Text,
    pub vendor: Option<Text>,
    pub category: Option<Text>,
    pub version: Option<Text>,
    pub role: Text,
    pub pid: i64,
    pub parent: Option<i64>,
    pub parent_agent_id: Option<i64>,
    pub process_eid: i64,
    pub name: Text,
    pub path: Text,
    pub cmdline: Text,
    pub cwd: Option<Text>,
    pub project: Option<Text>,
    pub uid: i64,
    pub gid: i64,
    pub username: Option<Text>,
    pub tty: Option<Text>,
    pub launched_by: Option<Text>,
    pub container_id: Option<Text>,
    pub permission_mode: Option<Text>,
    pub state: Option<Text>,
    pub confidence: i64,
    pub evidence: Text,
    pub start_time: i64,
    pub end_time: Option<i64>,
    pub start_gap_ms: Option<i64>,
    pub exit_code: Option<i64>,
    pub time_ns: i64,
    pub processes: i64,
    pub processes_total: i64,
    pub connections_total: i64,
    pub unexpected_connections: Option<i64>,
    pub bytes_sent: Option<i64>,
    pub bytes_received: Option<i64>,
    pub files_read: Option<i64>,
    pub files_written: Option<i64>,
    pub files_created: Option<i64>,
    pub files_deleted: Option<i64>,
    pub ns_pid: Option<i64>,
}

/// Adds to a count; one that is not kept stays unknown.
pub fn add(count: &mut Option<i64>, more: i64) {
    if let Some(count) = count {
        *count += more;
    }
}

impl AgentRow {
    /// A row in which what is counted begins with nothing.
    #[must_use]
    pub fn counting(counts: Counts) -> Self {
        let (bytes, files) = (counts.bytes.then_some(0), counts.files.then_some(0));
        Self {
            bytes_sent: bytes,
            bytes_received: bytes,
            files_read: files,
            files_written: files,
            files_created: files,
            files_deleted: files,
            ..Self::default()
        }
    }

    /// Where its own files lie: the repository, or else the directory that it was started in.
    #[must_use]
    pub fn home(&self) -> Option<&Text> {
        self.project.as_ref().or(self.cwd.as_ref())
    }
}

#[derive(Debug, Clone, Default)]
pub struct ProcessRow {
    pub eid: i64,
    pub time_ns: i64,
    pub agent: Text,
    pub agent_id: i64,
    pub pid: i64,
    pub parent: Option<i64>,
    pub parent_eid: Option<i64>,
    pub depth: i64,
    pub name: Text,
    pub path: Option<Text>,
    pub exec_path: Option<Text>,
    pub cmdline: Option<Text>,
    pub cwd: Option<Text>,
    pub uid: Option<i64>,
    pub gid: Option<i64>,
    pub username: Option<Text>,
    pub tty: Option<Text>,
    pub start_time: i64,
    pub end_time: Option<i64>,
    pub duration_ms: Option<i64>,
    pub exit_code: Option<i64>,
    pub signal: Option<i64>,
    pub state: &'static str,
    pub how: &'static str,
    pub container_id: Option<Text>,
    pub ns_pid: Option<i64>,
    pub truncated: bool,
    /// No column.
    pub identity: Identity,
}

#[derive(Debug, Clone, Default)]
pub struct ConnectionRow {
    pub eid: i64,
    pub time_ns: i64,
    pub agent: Text,
    pub agent_id: i64,
    pub pid: i64,
    pub process_eid: i64,
    pub name: Text,
    pub fd: Option<i64>,
    pub socket: Option<i64>,
    pub family: i64,
    pub protocol: i64,
    pub transport: &'static str,
    pub direction: &'static str,
    pub local_address: Option<Text>,
    pub local_port: Option<i64>,
    pub remote_address: Option<Text>,
    pub remote_port: Option<i64>,
    pub remote_host: Option<Text>,
    pub host_source: Option<&'static str>,
    pub path: Option<Text>,
    pub remote_pid: Option<i64>,
    pub endpoint_type: Option<EndpointType>,
    pub service: Option<Text>,
    pub expected: Option<bool>,
    pub state: &'static str,
    pub error: Option<Text>,
    pub start_time: i64,
    pub end_time: Option<i64>,
    pub bytes_sent: Option<i64>,
    pub bytes_received: Option<i64>,
    pub net_namespace: Option<Text>,
    pub container_id: Option<Text>,
    /// Of the process; no column, but whose row it is.
    pub uid: Option<i64>,
    /// No column.
    pub identity: Identity,
}

impl ConnectionRow {
    /// Address and port of the peer.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        let port = self.remote_port.and_then(|port| u16::try_from(port).ok())?;
        Some(SocketAddr::new(self.remote_address.as_ref()?.parse().ok()?, port))
    }
}

#[derive(Debug, Clone, Default)]
pub struct FileOpRow {
    pub eid: i64,
    pub time_ns: i64,
    pub agent: Text,
    pub agent_id: i64,
    pub pid: i64,
    pub process_eid: i64,
    pub name: Text,
    pub operation: &'static str,
    pub path: Text,
    pub dest_path: Option<Text>,
    pub path_source: &'static str,
    pub mode: Option<Text>,
    pub category: Option<Category>,
    pub sensitivity: Option<Sensitivity>,
    pub in_project: Option<bool>,
    pub uid: Option<i64>,
    pub open_eid: Option<i64>,
    pub bytes_read: Option<i64>,
    pub bytes_written: Option<i64>,
    pub mmap_write: Option<bool>,
    pub close_source: Option<&'static str>,
    pub container_id: Option<Text>,
    pub truncated: bool,
}

#[derive(Debug, Clone, Default)]
pub struct OpenFileRow {
    pub eid: i64,
    pub time_ns: i64,
    pub agent: Text,
    pub agent_id: i64,
    pub pid: i64,
    pub process_eid: i64,
    pub name: Text,
    pub fd: i64,
    pub operation: &'static str,
    pub path: Text,
    pub bytes_read: Option<i64>,
    pub bytes_written: Option<i64>,
    /// Who opened it; no column, but whose row it is.
    pub uid: Option<i64>,
    /// No column.
    pub identity: Identity,
}

#[derive(Debug, Clone, Default)]
pub struct EventRow {
    pub eid: i64,
    pub time_ns: i64,
    pub event_type: &'static str,
    pub agent: Option<Text>,
    pub agent_id: Option<i64>,
    pub pid: Option<i64>,
    pub process_eid: Option<i64>,
    pub subject_eid: Option<i64>,
    pub summary: Text,
    pub details: Text,
    /// Whose it is; no column.
    pub uid: Option<i64>,
}

/// An event: one of its own, or an operation on a file, where that is held.
#[derive(Debug, Clone)]
pub enum Happened {
    Told(Arc<EventRow>),
    File(Arc<Vec<FileOpRow>>, usize),
}

#[derive(Debug, Clone, Default)]
pub struct SignatureRow {
    pub agent: Text,
    pub display_name: Text,
    pub vendor: Option<Text>,
    pub category: Option<Text>,
    /// File that the signature was read from; `builtin:NAME` for the ones compiled in.
    pub source: Text,
    /// `loaded`, or `refused` with the reason in `message`.
    pub status: &'static str,
    pub message: Option<Text>,
    /// 1 when the kernel can tell a candidate by a literal, 0 when it is recognised late.
    pub early: bool,
    pub rules: i64,
}

#[derive(Debug, Clone, Default)]
pub struct CollectorRow {
    pub collector: Text,
    pub mode: Text,
    pub degradation_reason: Option<Text>,
    pub blind_spot: Option<Text>,
    pub event: Text,
    pub seen: i64,
    pub submitted: i64,
    pub filtered: i64,
    pub ring_full: i64,
    pub oversized: i64,
    pub throttled: i64,
    pub unsupported_abi: i64,
    pub recursion_misses: i64,
    pub received: i64,
    pub in_flight: i64,
    pub discarded: i64,
    pub evicted: i64,
    pub latency_p50_us: Option<i64>,
    pub latency_p95_us: Option<i64>,
    pub latency_p99_us: Option<i64>,
    pub message: Option<Text>,
    /// Whom the message is about; no column, but whose row it is. None for all others.
    pub uid: Option<i64>,
}

/// What an allocation of text costs besides the text: the counts of its owners, and the allocator's share.
const ALLOCATION: usize = 32;

fn texts<'a>(texts: impl IntoIterator<Item = Option<&'a Text>>) -> usize {
    texts.into_iter().flatten().map(|text| ALLOCATION + text.len()).sum()
}

// Texts that rows share, such as an agent's name, are not counted.

impl Weigh for AgentRow {
    fn weight(&self) -> usize {
        size_of::<Self>() + texts([Some(&self.path), Some(&self.cmdline), Some(&self.evidence), self.cwd.as_ref()])
    }
}

impl Weigh for ProcessRow {
    fn weight(&self) -> usize {
        let own = [&self.path, &self.exec_path, &self.cmdline, &self.cwd];
        // A fork's texts are its parent's.
        size_of::<Self>() + if self.how == "fork" { 0 } else { texts(own.map(Option::as_ref)) }
    }
}

impl Weigh for ConnectionRow {
    fn weight(&self) -> usize {
        size_of::<Self>()
            + texts([
                self.local_address.as_ref(),
                self.remote_address.as_ref(),
                self.path.as_ref(),
                self.remote_host.as_ref(),
                self.net_namespace.as_ref(),
            ])
    }
}

impl Weigh for Happened {
    fn weight(&self) -> usize {
        let own = |row: &EventRow| ALLOCATION + size_of::<EventRow>() + texts([Some(&row.summary), Some(&row.details)]);
        size_of::<Self>() + if let Self::Told(row) = self { own(row) } else { 0 }
    }
}

impl Weigh for FileOpRow {
    fn weight(&self) -> usize {
        // A close has its open's path.
        let own = if self.open_eid.is_none() { Some(&self.path) } else { None };
        size_of::<Self>() + texts([own, self.dest_path.as_ref(), self.mode.as_ref()])
    }
}
