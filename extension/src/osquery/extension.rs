//! The extension's life with osquery.
//!
//! The core restarts, forgets its extensions, and keeps dead ones for seconds; each of that ends a session here, and
//! the next one registers anew. Recording goes on through all of it. The extension ends when it is told to, or when
//! the process that started it is gone.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::client::{Client, ClientError};
use super::generated::{ExtensionSyncProcessor, InternalExtensionInfo};
use super::plugin::{Plugin, registry};
use super::{BindError, Server, Source, Stop};

/// The interface of the core that is spoken.
pub(super) const SDK_VERSION: &str = "5.0.0";
/// The oldest core that understands it.
pub(super) const MIN_SDK_VERSION: &str = "1.8.0";

/// Time for a registration or a look at the list: these answer at once or never.
const CALL: Duration = Duration::from_secs(5);
/// Time to say goodbye; osquery kills an extension 4 seconds after SIGTERM.
const GOODBYE: Duration = Duration::from_secs(1);
/// Waits between registrations, growing.
const BACKOFF: [Duration; 5] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// What osquery passes on the command line.
#[derive(Debug, Clone)]
pub struct Options {
    /// The manager's socket.
    pub socket: PathBuf,
    /// How long the manager may take to appear.
    pub timeout: Duration,
    /// Time between two looks at the manager.
    pub interval: Duration,
}

/// Why the extension cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ExtensionError {
    /// The manager did not appear.
    #[error("{0}; is osquery running, with this as its --extensions_socket?")]
    NoManager(ClientError),
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("osquery does not know this extension any more")]
    Forgotten,
}

/// Serves the tables until it is told to stop or the process that started it is gone.
///
/// # Errors
/// When no manager was there from the start on, for as long as the options allow.
pub fn run(options: &Options, source: &Source, stop: &Stop) -> Result<(), ExtensionError> {
    let life = Life { options, source, stop, parent: std::os::unix::process::parent_id() };
    let started = Instant::now();
    let mut reached = false;
    let mut failures = 0;
    loop {
        let registered = Instant::now();
        match life.session(&mut reached) {
            Ok(()) => return Ok(()),
            Err(SessionEnd::Client(error @ ClientError::Connect { .. }))
                if !reached && started.elapsed() >= options.timeout =>
            {
                return Err(ExtensionError::NoManager(error));
            }
            Err(reason) => tracing::warn!(%reason, "not registered with osquery; trying again"),
        }
        // A session that held for a while was no failure to register.
        if registered.elapsed() > Duration::from_secs(30) {
            failures = 0;
        }
        let wait = BACKOFF.get(failures).copied().unwrap_or(CALL);
        failures += 1;
        if life.is_over(wait) {
            return Ok(());
        }
    }
}

struct Life<'a> {
    options: &'a Options,
    source: &'a Source,
    stop: &'a Stop,
    parent: u32,
}

impl Life<'_> {
    /// Waits; true when the end was asked for or the parent is gone.
    fn is_over(&self, wait: Duration) -> bool {
        if self.stop.wait(wait) {
            return true;
        }
        let orphaned = std::os::unix::process::parent_id() != self.parent;
        if orphaned {
            tracing::info!("the process that started this extension is gone");
        }
        orphaned
    }

    /// From a registration to its end; ok when all ends.
    fn session(&self, reached: &mut bool) -> Result<(), SessionEnd> {
        let client = Client::new(&self.options.socket).with_timeout(CALL);
        let info = InternalExtensionInfo::new(
            "agentquery".to_owned(),
            env!("CARGO_PKG_VERSION").to_owned(),
            SDK_VERSION.to_owned(),
            MIN_SDK_VERSION.to_owned(),
        );
        let result = client.register(info, registry());
        *reached |= !matches!(result, Err(ClientError::Connect { .. }));
        let uuid = result?;
        let held = self.hold(&client, uuid);
        if !matches!(held, Err(SessionEnd::Forgotten)) {
            // When the core is gone there is nobody to tell.
            let _ = client.with_timeout(GOODBYE).deregister(uuid);
        }
        held
    }

    fn hold(&self, client: &Client, uuid: i64) -> Result<(), SessionEnd> {
        let mut path = self.options.socket.clone().into_os_string();
        path.push(format!(".{uuid}"));
        let plugin = Plugin {
            uuid,
            source: self.source.clone(),
            reads: crate::tables::Reads::default(),
            stop: self.stop.clone(),
        };
        let _server = Server::start(&PathBuf::from(path), ExtensionSyncProcessor::new(plugin))?;
        tracing::info!(uuid, "registered with osquery");
        let mut missed = 0;
        loop {
            if self.is_over(self.options.interval) {
                return Ok(());
            }
            match client.extensions() {
                Ok(known) if !known.contains_key(&uuid) => return Err(SessionEnd::Forgotten),
                Ok(_) => missed = 0,
                // A busy core may miss one look.
                Err(error @ ClientError::Protocol { .. }) if missed == 0 => {
                    tracing::debug!(%error, "osquery did not answer");
                    missed += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
