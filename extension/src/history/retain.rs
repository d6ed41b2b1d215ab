//! Retention: the oldest rows go, in steps that keep an append waiting for a moment only.
//!
//! The file does not shrink by it: the blocks are free for new rows after the next checkpoint. So its size is the most
//! that was ever needed, and what counts against the limit is what is in use.

use duckdb::params;

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
        let failed = |error: duckdb::Error| HistoryError::of(&self.path, &error);
        let oldest = now.saturating_sub(retention.seconds).saturating_mul(1_000_000_000);
        let mut pruned = Pruned::default();
        for kept in &*self.kept {
            let (rows, more) = self.remove(kept, Some(oldest), STEP).map_err(failed)?;
            pruned.rows += rows;
            pruned.more |= more;
        }
        if pruned.rows > 0 || self.used_bytes()? <= retention.bytes {
            return Ok(pruned);
        }
        // Too much: a twentieth of each table, so that all reach back to about the same time. What that freed shows only
        // after a checkpoint.
        for kept in &*self.kept {
            let count = format!("SELECT count(*) // 20 + 1 FROM {}", kept.name());
            let share: i64 = self.connection.query_row(&count, [], |row| row.get(0)).map_err(failed)?;
            let mut left = usize::try_from(share).unwrap_or(STEP);
            while left > 0 {
                let (rows, _) = self.remove(kept, None, left.min(STEP)).map_err(failed)?;
                pruned.rows += rows;
                if rows == 0 {
                    break;
                }
                left = left.saturating_sub(rows);
            }
        }
        self.checkpoint()?;
        pruned.more = pruned.rows > 0 && self.used_bytes()? > retention.bytes;
        Ok(pruned)
    }

    /// Removes the oldest rows, at most so many; says how many, and whether more are as old.
    fn remove(&self, kept: &Kept, oldest: Option<i64>, limit: usize) -> duckdb::Result<(usize, bool)> {
        let (name, key, time_ns) = (kept.name(), kept.key, kept.nanoseconds());
        let sql = format!(
            "SELECT max({key}), count(*) FROM (SELECT {key} FROM {name} WHERE {time_ns} < ? ORDER BY {key} LIMIT {limit})"
        );
        let before = oldest.unwrap_or(i64::MAX);
        let (last, rows): (Option<i64>, i64) =
            self.connection.query_row(&sql, [before], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let Some(last) = last else { return Ok((0, false)) };
        let delete = format!("DELETE FROM {name} WHERE {key} <= ? AND {time_ns} < ?");
        let removed = self.connection.execute(&delete, params![last, before])?;
        Ok((removed, usize::try_from(rows).is_ok_and(|rows| rows >= limit)))
    }
}
