//! Asking a manager: osqueryd, osqueryi, or `agentquery run`.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::generated::{
    ExtensionManagerSyncClient, ExtensionPluginResponse, ExtensionRegistry, ExtensionResponse, ExtensionStatus,
    InternalExtensionInfo, InternalExtensionList, TExtensionManagerSyncClient as _,
};
use super::transport::{Input, MessageLimits, Output, protocols};
use crate::shell::{Backend, Error, Interrupter, Sink};
use crate::value::Value;

/// A result: a hundred thousand rows of ordinary width are 36 MB.
const RESULT: MessageLimits = MessageLimits { bytes: 512 << 20, elements: 5_000_000 };

/// osquery's own timeout for a call.
const QUERY_TIME: Duration = Duration::from_secs(300);

/// A manager, by its socket. Each call has a connection of its own, so that there is none to lose.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
    timeout: Duration,
    waiting: Arc<Waiting>,
}

/// The call that is waited for.
#[derive(Debug, Default)]
struct Waiting {
    stream: Mutex<Option<UnixStream>>,
    /// Nobody wants its answer any more.
    interrupted: AtomicBool,
}

impl Waiting {
    fn hold(&self, stream: Option<UnixStream>) {
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = stream;
        if self.interrupted.load(Ordering::SeqCst) {
            self.end();
        }
    }

    /// A reader of the stream sees its end.
    fn end(&self) {
        if let Some(stream) = &*self.stream.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("cannot connect to {path}: {source}")]
    Connect {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What listens does not speak the protocol, or stopped doing so.
    #[error("{path} does not answer as osquery's manager does: {source}")]
    Protocol {
        /// Where.
        path: PathBuf,
        /// What went wrong.
        source: thrift::Error,
    },
    /// The manager refused.
    #[error("{0}")]
    Refused(String),
}

impl Client {
    /// A client of the manager on that socket.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), timeout: QUERY_TIME, waiting: Arc::default() }
    }

    /// The same, with this time for each call.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    fn call<T>(
        &self,
        ask: impl FnOnce(&mut ExtensionManagerSyncClient<Input, Output>) -> thrift::Result<T>,
    ) -> Result<T, ClientError> {
        let stream = UnixStream::connect(&self.path)
            .map_err(|source| ClientError::Connect { path: self.path.clone(), source })?;
        let answer = || {
            stream.set_read_timeout(Some(self.timeout))?;
            stream.set_write_timeout(Some(self.timeout))?;
            let (input, output) = protocols(&stream, RESULT)?;
            self.waiting.hold(Some(stream.try_clone()?));
            ask(&mut ExtensionManagerSyncClient::new(input, output))
        };
        let answer = answer();
        self.waiting.hold(None);
        answer.map_err(|source| ClientError::Protocol { path: self.path.clone(), source })
    }

    pub(super) fn extensions(&self) -> Result<InternalExtensionList, ClientError> {
        self.call(ExtensionManagerSyncClient::extensions)
    }

    /// The uuid under which the extension is known from now on.
    pub(super) fn register(
        &self,
        info: InternalExtensionInfo,
        registry: ExtensionRegistry,
    ) -> Result<i64, ClientError> {
        let status = self.call(|client| client.register_extension(info, registry))?;
        let uuid = status.uuid.unwrap_or_default();
        accepted(Some(status)).map(|()| uuid)
    }

    pub(super) fn deregister(&self, uuid: i64) -> Result<(), ClientError> {
        accepted(Some(self.call(|client| client.deregister_extension(uuid))?))
    }

    fn rows(response: ExtensionResponse) -> Result<ExtensionPluginResponse, ClientError> {
        accepted(response.status).map(|()| response.response.unwrap_or_default())
    }

    /// Names of a query's columns, in its order.
    ///
    /// # Errors
    /// When the manager does not answer or refuses the SQL.
    pub fn columns(&self, sql: &str) -> Result<Vec<String>, ClientError> {
        let rows = Self::rows(self.call(|client| client.get_query_columns(sql.to_owned()))?)?;
        Ok(rows.into_iter().flat_map(std::collections::BTreeMap::into_keys).collect())
    }

    /// Rows of a query, each by the names of its columns.
    ///
    /// # Errors
    /// When the manager does not answer or refuses the SQL.
    pub fn query(&self, sql: &str) -> Result<ExtensionPluginResponse, ClientError> {
        Self::rows(self.call(|client| client.query(sql.to_owned()))?)
    }
}

fn accepted(status: Option<ExtensionStatus>) -> Result<(), ClientError> {
    match status {
        Some(ExtensionStatus { code: Some(0), .. }) => Ok(()),
        Some(status) => Err(ClientError::Refused(status.message.unwrap_or_else(|| "refused without a reason".into()))),
        None => Err(ClientError::Refused("the answer has no status".into())),
    }
}

impl Backend for Client {
    fn run(&mut self, sql: &str, sink: &mut dyn Sink) -> Result<(), Error> {
        let waiting = Arc::clone(&self.waiting);
        waiting.interrupted.store(false, Ordering::SeqCst);
        let remote = |error: ClientError| {
            if waiting.interrupted.load(Ordering::SeqCst) {
                Error::Interrupted
            } else {
                Error::Remote(error.to_string())
            }
        };
        let columns = self.columns(sql).map_err(remote)?;
        let rows = self.query(sql).map_err(remote)?;
        sink.begin(&columns)?;
        for row in rows {
            // Under one name the protocol carries one value; a column that the row lacks is NULL.
            let cells: Vec<Value> = columns.iter().map(|name| row.get(name).cloned().into()).collect();
            sink.row(&cells)?;
        }
        Ok(sink.end()?)
    }

    fn interrupter(&self) -> Interrupter {
        let waiting = Arc::clone(&self.waiting);
        Arc::new(move || {
            waiting.interrupted.store(true, Ordering::SeqCst);
            waiting.end();
        })
    }
}
