//! The manager's side: what osqueryd serves to those who ask it, over the embedded engine.
//!
//! It takes no extensions: registrations are refused. Calls of plugins are for the tables alone, as an extension that
//! does not record itself passes them on.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::generated::{
    ExtensionManagerSyncHandler, ExtensionManagerSyncProcessor, ExtensionPluginRequest, ExtensionPluginResponse,
    ExtensionRegistry, ExtensionResponse, ExtensionRouteUUID, ExtensionStatus, ExtensionSyncHandler,
    InternalExtensionInfo, InternalExtensionList, InternalOptionInfo, InternalOptionList,
};
use super::plugin::{self, wire_row};
use super::turns::Turns;
use super::{Access, BindError, Server, Source, failure, reply, success};
use crate::record::Store;
use crate::shell::{Backend as _, Engine, Limits, Sink};
use crate::tables::Viewer;
use crate::value::Value;

/// Time for a query, and for one of a user who may not see everything.
const TIME: Duration = Duration::from_secs(60);
const TIME_OF_USER: Duration = Duration::from_secs(10);

/// Queries that run at a time, and those of users who may not see everything.
const AT_A_TIME: usize = 8;
const OF_USERS: usize = 4;

/// How long a query waits for its turn.
const WAIT: Duration = Duration::from_secs(10);

/// Text that a result may hold; there is no part of it before the whole of it.
const RESULT_BYTES: usize = 48 << 20;

/// Text that all results being made may hold together.
const RESULTS_BYTES: usize = 96 << 20;

/// What they hold now.
static RESULTS: AtomicUsize = AtomicUsize::new(0);

/// Serves the tables' SQL on a socket.
///
/// # Errors
/// When nothing can listen there.
pub fn serve(path: &Path, access: Access, store: Arc<Store>) -> Result<Server, BindError> {
    let options = path.to_string_lossy().into_owned();
    let source = Source::of(Arc::clone(&store));
    let turns = Turns::new(AT_A_TIME, OF_USERS);
    Server::start(path, access, move |viewer| {
        let (store, source, turns, path) = (Arc::clone(&store), source.clone(), turns.clone(), options.clone());
        ExtensionManagerSyncProcessor::new(Manager { store, source, turns, viewer, path })
    })
}

struct Manager {
    store: Arc<Store>,
    /// The same, as the plugins want it.
    source: Source,
    turns: Turns,
    viewer: Viewer,
    path: String,
}

impl Manager {
    fn engine(&self) -> Result<Engine, String> {
        let time = if self.viewer == Viewer::All { TIME } else { TIME_OF_USER };
        let limits = Limits { time: Some(time), memory_only: true };
        Engine::new(Arc::clone(&self.store), self.viewer, limits).map_err(|error| error.to_string())
    }

    fn rows(&self, sql: &str) -> Result<ExtensionPluginResponse, String> {
        let _turn = self.turns.wait(self.viewer, Instant::now() + WAIT).ok_or(plugin::BUSY)?;
        let mut collect = Collect::default();
        self.engine()?.run(sql, &mut collect).map_err(|error| error.to_string())?;
        Ok(std::mem::take(&mut collect.rows))
    }

    fn columns(&self, sql: &str) -> Result<ExtensionPluginResponse, String> {
        let columns = self.engine()?.columns(sql).map_err(|error| error.to_string())?;
        Ok(columns.into_iter().map(|column| BTreeMap::from([column])).collect())
    }
}

/// A result in memory: of the last statement, as osquery does.
#[derive(Default)]
struct Collect {
    columns: Vec<String>,
    rows: ExtensionPluginResponse,
    bytes: usize,
}

impl Sink for Collect {
    fn begin(&mut self, columns: &[String]) -> io::Result<()> {
        *self = Self { columns: columns.to_vec(), rows: Vec::new(), bytes: 0 }; // the one before is dropped, and counted so
        Ok(())
    }

    fn row(&mut self, cells: &[Value]) -> io::Result<()> {
        let row = wire_row(self.columns.iter().map(String::as_str).zip(cells.iter().cloned()));
        let bytes = row.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        self.bytes += bytes;
        let together = RESULTS.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if together > RESULTS_BYTES {
            let message = "the queries that run now have too large results together; ask again in a moment";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
        }
        if self.bytes > RESULT_BYTES {
            let message = "the result is larger than 48 MB; narrow the query, for example by time, or choose columns";
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        self.rows.push(row);
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Collect {
    fn drop(&mut self) {
        RESULTS.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl ExtensionSyncHandler for Manager {
    fn handle_ping(&self) -> thrift::Result<ExtensionStatus> {
        Ok(success(0))
    }

    /// What osquery asked of an extension that does not record itself.
    fn handle_call(
        &self,
        registry: String,
        item: String,
        request: ExtensionPluginRequest,
    ) -> thrift::Result<ExtensionResponse> {
        Ok(reply(plugin::answer(&self.source, self.viewer, None, &registry, &item, &request)))
    }

    fn handle_shutdown(&self) -> thrift::Result<()> {
        // osquery's manager does not end for whoever asks, either.
        Ok(())
    }
}

impl ExtensionManagerSyncHandler for Manager {
    fn handle_extensions(&self) -> thrift::Result<InternalExtensionList> {
        let info = InternalExtensionInfo::new(
            "core".to_owned(),
            env!("CARGO_PKG_VERSION").to_owned(),
            super::extension::SDK_VERSION.to_owned(),
            super::extension::MIN_SDK_VERSION.to_owned(),
        );
        Ok(BTreeMap::from([(0, info)]))
    }

    fn handle_options(&self) -> thrift::Result<InternalOptionList> {
        let socket = InternalOptionInfo::new(self.path.clone(), String::new(), "string".to_owned());
        Ok(BTreeMap::from([("extensions_socket".to_owned(), socket)]))
    }

    fn handle_register_extension(
        &self,
        _: InternalExtensionInfo,
        _: ExtensionRegistry,
    ) -> thrift::Result<ExtensionStatus> {
        Ok(failure("agentquery takes no extensions; register with osquery"))
    }

    fn handle_deregister_extension(&self, _: ExtensionRouteUUID) -> thrift::Result<ExtensionStatus> {
        Ok(failure("agentquery has no such extension"))
    }

    fn handle_query(&self, sql: String) -> thrift::Result<ExtensionResponse> {
        Ok(reply(self.rows(&sql)))
    }

    fn handle_get_query_columns(&self, sql: String) -> thrift::Result<ExtensionResponse> {
        Ok(reply(self.columns(&sql)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn results_together_are_bounded_and_given_back() {
        let manager = || Manager {
            store: fixture::store(1),
            source: Source::default(),
            turns: Turns::new(1, 1),
            viewer: Viewer::All,
            path: String::new(),
        };
        let large = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40) \
                     SELECT hex(zeroblob(500000)) AS t FROM n";
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..4).map(|_| scope.spawn(|| manager().rows(large))).collect();
            for query in running {
                if let Err(error) = query.join().unwrap() {
                    assert!(error.contains("ask again") || error.contains("MB of memory"), "{error}");
                }
            }
        });
        assert_eq!(manager().rows(large).unwrap().len(), 40);
        let too_large = manager().rows(&large.replace("< 40", "< 60")).unwrap_err();
        assert!(crate::shell::Error::Remote(too_large).asks_to_narrow());
        assert!(crate::shell::Error::Remote(plugin::BUSY.to_owned()).asks_to_wait());
    }
}
