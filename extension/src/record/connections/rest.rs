//! The end of the side that closed first.
//!
//! The kernel keeps its addresses for a minute, so that late segments meet nobody else, and nobody tells when that is
//! over. So it is counted here.

use std::collections::VecDeque;

use crate::record::Store;
use crate::record::rows::ConnectionRow;

/// `TCP_TIMEWAIT_LEN` (`include/net/tcp.h`).
const LASTS_NS: u64 = 60_000_000_000;
/// More of them at once are closed before their time: a row in memory costs more than the kernel's socket.
const MOST: usize = 8192;

/// Rows in `time_wait`, those that came first in front, with the time since boot until which they are.
#[derive(Debug, Default)]
pub(super) struct Rest {
    rows: VecDeque<(u64, ConnectionRow)>,
    /// Those that came since the clock was looked at.
    new: Vec<ConnectionRow>,
}

impl Rest {
    /// A connection that ended now.
    pub(super) fn add(&mut self, row: ConnectionRow, store: &Store) {
        store.update(|state| state.live_connections.insert(row.eid, row.clone()));
        self.new.push(row);
    }

    /// Finishes those whose time is over.
    pub(super) fn end(&mut self, boot_ns: u64, store: &Store) {
        let until = boot_ns.saturating_add(LASTS_NS);
        self.rows.extend(self.new.drain(..).map(|row| (until, row)));
        let over = |rows: &VecDeque<(u64, ConnectionRow)>| rows.front().is_some_and(|(until, _)| *until <= boot_ns);
        while self.rows.len() > MOST || over(&self.rows) {
            self.finish_first(store);
        }
    }

    fn finish_first(&mut self, store: &Store) {
        if let Some((_, row)) = self.rows.pop_front() {
            store.update(|state| {
                // It may have learned something meanwhile.
                let row = state.live_connections.remove(row.eid).unwrap_or(row);
                state.end_connection(ConnectionRow { state: "closed", ..row });
            });
        }
    }
}
