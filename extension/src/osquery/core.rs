//! Which scheduled query the core is running.
//!
//! osquery's own tables of events find it in the core's database, where an extension can look as well: `executing_query`
//! is the query's name, and empty when none is run, as for a query of a person; `timestamp.NAME` is when it began, and
//! so what tells one run from the next (`Config::recordQueryStart`, `osquery/config/config.cpp`). What came of the last one
//! is told by what osquery counts of its results (`Query::addNewEvents`, `osquery/core/query.cpp`, 5.x).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::client::{Client, ClientError};
use crate::history::Counted;
use crate::tables::RunningQuery;

/// Time for a look into the database: the core waits for an answer of ours meanwhile.
const LOOK: Duration = Duration::from_secs(2);

/// Where the core keeps settings that survive it (`kPersistentSettings`), and what it logged (`kQueries`).
const SETTINGS: &str = "configurations";
const QUERIES: &str = "queries";

/// The core whose calls are answered.
#[derive(Clone)]
pub(super) struct Core {
    client: Client,
    /// Its database was read once: that it cannot be read is not for want of one.
    told: Arc<AtomicBool>,
}

impl Core {
    pub(super) fn new(socket: &Path) -> Self {
        Self { client: Client::new(socket).with_timeout(LOOK), told: Arc::default() }
    }

    /// The scheduled query that is being run; none when it is another one that asks.
    ///
    /// # Errors
    /// When it cannot be found out now. Not, when this core never told: then queries are taken for a person's.
    pub(super) fn running(&self) -> Result<Option<RunningQuery>, ClientError> {
        let name = match self.get(SETTINGS, "executing_query") {
            Err(_) if !self.told.load(Ordering::Relaxed) => return Ok(None),
            told => told?.filter(|name| !name.is_empty()),
        };
        self.told.store(true, Ordering::Relaxed);
        let Some(name) = name else { return Ok(None) };
        let Some(began) = self.get(SETTINGS, &format!("timestamp.{name}"))? else { return Ok(None) };
        // Of a query whose results are logged as snapshots nothing is counted.
        let counts = self.get(QUERIES, &format!("query.{name}"))?.is_some();
        let count = |what: &str| Ok::<_, ClientError>(self.get(QUERIES, &format!("{name}{what}"))?.unwrap_or_default());
        let counted = if counts { Some(Counted(format!("{}/{}", count("counter")?, count("epoch")?))) } else { None };
        // Two runs of one second differ by what was counted between them.
        let number = format!("{began} {}", counted.as_ref().map_or("", |counted| &counted.0));
        Ok(Some(RunningQuery { scheduled: Some(name), number, counted }))
    }

    /// A value of the core's database; none where there is none.
    fn get(&self, domain: &str, key: &str) -> Result<Option<String>, ClientError> {
        let request = [("action", "get"), ("domain", domain), ("key", key)];
        let request = request.map(|(name, value)| (name.to_owned(), value.to_owned()));
        match self.client.call_plugin("database", "", BTreeMap::from(request)) {
            Ok(rows) => Ok(rows.into_iter().next().and_then(|mut row| row.remove("v"))),
            Err(ClientError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
