//! Asking a manager: osqueryd, osqueryi, or `agentquery run`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::generated::{
    ExtensionManagerSyncClient, ExtensionPluginRequest, ExtensionPluginResponse, ExtensionRegistry, ExtensionResponse,
    ExtensionStatus, InternalExtensionInfo, InternalExtensionList, TExtensionManagerSyncClient as _,
    TExtensionSyncClient as _,
};
use super::socket::{self, Stream};
use super::transport::{Input, MessageLimits, Output, protocols};
use crate::shell::{Backend, Error, Interrupter, Sink};
use crate::value::Value;

/// A result: a hundred thousand rows of ordinary width are 36 MB.
const RESULT: MessageLimits = MessageLimits { bytes: 512 << 20, elements: 5_000_000, time: QUERY_TIME };

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
    stream: Mutex<Option<Stream>>,
    /// Nobody wants its answer any more.
    interrupted: AtomicBool,
}

impl Waiting {
    fn hold(&self, stream: Option<Stream>) {
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = stream;
        if self.interrupted.load(Ordering::SeqCst) {
            self.end();
        }
    }

    /// A reader of the stream sees its end.
    fn end(&self) {
        if let Some(stream) = &*self.stream.lock().unwrap_or_else(PoisonError::into_inner) {
            socket::end(stream);
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
    /// Somebody stopped the call, by [`Backend::interrupter`].
    #[error("stopped")]
    Interrupted,
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

    /// The same, with this time for each call. What stops calls of the one does not stop those of the other.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, waiting: Arc::default(), ..self }
    }

    fn call<T>(
        &self,
        ask: impl FnOnce(&mut ExtensionManagerSyncClient<Input, Output>) -> thrift::Result<T>,
    ) -> Result<T, ClientError> {
        let stream = socket::connect(&self.path, self.timeout)
            .map_err(|source| ClientError::Connect { path: self.path.clone(), source })?;
        let answer = || {
            stream.set_read_timeout(Some(self.timeout))?;
            let (input, output) = protocols(&stream, MessageLimits { time: self.timeout, ..RESULT })?;
            self.waiting.hold(Some(stream.try_clone()?));
            ask(&mut ExtensionManagerSyncClient::new(input, output))
        };
        let answer = answer();
        self.waiting.hold(None);
        answer.map_err(|source| {
            if self.waiting.interrupted.load(Ordering::SeqCst) {
                return ClientError::Interrupted;
            }
            ClientError::Protocol { path: self.path.clone(), source }
        })
    }

    /// Whether somebody answers there.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.ping().is_ok()
    }

    pub(super) fn ping(&self) -> Result<(), ClientError> {
        accepted(Some(self.call(ExtensionManagerSyncClient::ping)?))
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

    /// What a plugin answers to a call.
    ///
    /// # Errors
    /// When the manager does not answer or refuses the call.
    pub(super) fn call_plugin(
        &self,
        registry: &str,
        item: &str,
        request: ExtensionPluginRequest,
    ) -> Result<ExtensionPluginResponse, ClientError> {
        Self::rows(self.call(|client| client.call(registry.to_owned(), item.to_owned(), request))?)
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

/// A whole result.
pub struct Answer {
    columns: Vec<String>,
    rows: ExtensionPluginResponse,
}

impl Answer {
    /// Hands it on.
    ///
    /// # Errors
    /// When it cannot be taken.
    pub fn write(self, sink: &mut dyn Sink) -> io::Result<()> {
        sink.begin(&self.columns)?;
        for row in self.rows {
            // Under one name the protocol carries one value; a column that the row lacks is NULL.
            let cells: Vec<Value> = self.columns.iter().map(|name| row.get(name).cloned().into()).collect();
            sink.row(&cells)?;
        }
        sink.end()
    }
}

impl Client {
    /// Columns and rows of a query.
    ///
    /// # Errors
    /// When the manager does not answer or refuses the SQL.
    pub fn answer(&self, sql: &str) -> Result<Answer, ClientError> {
        self.waiting.interrupted.store(false, Ordering::SeqCst);
        Ok(Answer { columns: self.columns(sql)?, rows: self.query(sql)? })
    }
}

impl Backend for Client {
    fn run(&mut self, sql: &str, sink: &mut dyn Sink) -> Result<(), Error> {
        let answer = self.answer(sql).map_err(|error| match error {
            ClientError::Interrupted => Error::Interrupted,
            error => Error::Remote(error.to_string()),
        })?;
        Ok(answer.write(sink)?)
    }

    fn interrupter(&self) -> Interrupter {
        let waiting = Arc::clone(&self.waiting);
        Arc::new(move || {
            waiting.interrupted.store(true, Ordering::SeqCst);
            waiting.end();
        })
    }
}
