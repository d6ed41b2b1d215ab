//! The manager's side: what osqueryd serves to those who ask it, over the embedded engine.
//!
//! It has no extensions of its own: registrations are refused, and so are calls of plugins.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::generated::{
    ExtensionManagerSyncHandler, ExtensionManagerSyncProcessor, ExtensionPluginRequest, ExtensionPluginResponse,
    ExtensionRegistry, ExtensionResponse, ExtensionRouteUUID, ExtensionStatus, ExtensionSyncHandler,
    InternalExtensionInfo, InternalExtensionList, InternalOptionInfo, InternalOptionList,
};
use super::plugin::wire_row;
use super::socket::BindError;
use super::{Server, Source, failure, reply, success};
use crate::shell::{Backend as _, Engine, Limits, Sink};
use crate::value::Value;

/// Time for a query.
const TIME: Duration = Duration::from_secs(60);

/// Text that a result may hold; there is no part of it before the whole of it.
const RESULT_BYTES: usize = 48 << 20;

/// Serves the tables' SQL on a socket.
///
/// # Errors
/// When nothing can listen there.
pub fn serve(path: &Path, source: Source) -> Result<Server, BindError> {
    let options = path.to_string_lossy().into_owned();
    Server::start(path, ExtensionManagerSyncProcessor::new(Manager { source, path: options }))
}

struct Manager {
    source: Source,
    path: String,
}

impl Manager {
    fn engine(&self) -> Result<Engine, String> {
        Engine::new(self.source.get()?, Limits { time: Some(TIME) }).map_err(|error| error.to_string())
    }

    fn rows(&self, sql: &str) -> Result<ExtensionPluginResponse, String> {
        let mut collect = Collect::default();
        self.engine()?.run(sql, &mut collect).map_err(|error| error.to_string())?;
        Ok(collect.rows)
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
        *self = Self { columns: columns.to_vec(), ..Self::default() };
        Ok(())
    }

    fn row(&mut self, cells: &[Value]) -> io::Result<()> {
        let row = wire_row(self.columns.iter().map(String::as_str).zip(cells.iter().cloned()));
        self.bytes += row.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
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

impl ExtensionSyncHandler for Manager {
    fn handle_ping(&self) -> thrift::Result<ExtensionStatus> {
        Ok(success(0))
    }

    fn handle_call(&self, _: String, _: String, _: ExtensionPluginRequest) -> thrift::Result<ExtensionResponse> {
        Ok(reply(Err("agentquery serves no plugins here; ask by query".into())))
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
