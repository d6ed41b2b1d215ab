//! Retention: the oldest rows go, in steps that keep an append waiting for a moment only.
//!
//! The file does not shrink by it: the blocks are free for new rows after the next checkpoint. So its size is the most
//! that was ever needed, and what counts against the limit is what is in use.

use std::sync::atomic::Ordering;

use duckdb::OptionalExt as _;

use super::schema::Kept;
use super::{History, HistoryError};

/// Rows of a table that one step removes at most.
const STEP: usize = 20_000;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// For how many seconds.
    pub seconds: i64,
    /// In how many bytes of the file.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { seconds: 30 * 24 * 3600, bytes: 1 << 30 }
    }
}

/// What a step removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Rows.
    pub rows: usize,
    /// Whether there is more to remove.
    pub more: bool,
}

impl History {
    /// Bytes of the file that are in use. What was appended or removed since the last checkpoint is not in it yet.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn used_bytes(&self) -> Result<u64, HistoryError> {
        let sql = "SELECT CAST(block_size * used_blocks AS BIGINT) FROM pragma_database_size()";
        let bytes = self.connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        bytes.map(|bytes| u64::try_from(bytes).unwrap_or(0)).map_err(|error| HistoryError::of(&self.path, &error))
    }

    /// Removes some of what is too old at the second `now`, or too much. To be called again, between appends, while
    /// there is more.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn prune(&mut self, retention: &Retention, now: i64) -> Result<Pruned, HistoryError> {
        let oldest = now.saturating_sub(retention.seconds).saturating_mul(1_000_000_000);
        let cut = self.cut.map_or(oldest, |cut| cut.max(oldest));
        let mut pruned = Pruned::default();
        for kept in &*self.kept {
            let rows = self.remove(kept, cut).map_err(|error| HistoryError::of(&self.path, &error))?;
            pruned.rows += rows;
        }
        if pruned.rows > 0 {
            return Ok(Pruned { more: true, ..pruned });
        }
        // What was freed shows only after a checkpoint.
        if self.cut.take().is_some() {
            self.checkpoint()?;
        }
        if self.used_bytes()? > retention.bytes {
            self.cut = self.later(cut).map_err(|error| HistoryError::of(&self.path, &error))?;
        }
        Ok(Pruned { rows: 0, more: self.cut.is_some() })
    }

    /// A time before which a twentieth of the rows are, so that all tables reach back to the same time.
    fn later(&self, before: i64) -> duckdb::Result<Option<i64>> {
        let rows = |kept: &&Kept| kept.extent.rows.load(Ordering::Relaxed);
        let Some(kept) = self.kept.iter().max_by_key(rows) else { return Ok(None) };
        // Rows lie in about the order of time.
        let sql = format!(
            "SELECT {} FROM {} LIMIT 1 OFFSET (SELECT count(*) // 20 FROM {1})",
            kept.nanoseconds(),
            kept.name()
        );
        let time: Option<i64> = self.connection.query_row(&sql, [], |row| row.get(0)).optional()?.flatten();
        Ok(time.map(|time| time.max(before).saturating_add(1)))
    }

    /// Removes rows from before that time, the oldest first, at most as many as a step has; says how many.
    fn remove(&self, kept: &Kept, before: i64) -> duckdb::Result<usize> {
        let (name, key, time_ns) = (kept.name(), kept.key, kept.nanoseconds());
        // By blocks, where eids tell the time.
        let delays = kept.extent.delays.get().filter(|_| kept.is_in_order_of_time());
        let eids = delays.map_or_else(String::new, |(_, most)| format!(" AND {key} < {}", before.saturating_add(most)));
        let old = format!("{time_ns} < {before}{eids}");
        let sql = format!("SELECT max({key}) FROM (SELECT {key} FROM {name} WHERE {old} ORDER BY {key} LIMIT {STEP})");
        let Some(last) = self.connection.query_row(&sql, [], |row| row.get::<_, Option<i64>>(0))? else { return Ok(0) };
        let removed = self.connection.execute(&format!("DELETE FROM {name} WHERE {key} <= {last} AND {old}"), [])?;
        kept.extent.rows.fetch_sub(i64::try_from(removed).unwrap_or(0), Ordering::Relaxed);
        Ok(removed)
    }
}
