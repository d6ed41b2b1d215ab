//! The extension's life with osquery.
//!
//! The core restarts, hangs, forgets its extensions, and keeps dead ones for seconds. So its list of extensions is
//! looked at all the time, and only the list decides: who is not in it registers, and who cannot see it goes on serving
//! what is registered, for a core that hangs may come back and remember. Recording goes on through all of it. The
//! extension ends when it is told to, or when the process that started it is gone.
//!
//! Tables are to be back within five seconds of the core's return. That is the sum of what can lie between: a look that
//! went out before (`CALL`), the wait for the next one (the last of `WAITS`), and a registration of the dead that
//! is in the way. A core that comes back on a new socket is seen by the socket.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use super::client::{Client, ClientError};
use super::core::Core;
use super::generated::{ExtensionSyncProcessor, InternalExtensionInfo};
use super::plugin::{Plugin, registry};
use super::{Access, BindError, Server, Source, Stop};
use crate::os::Parent;

/// The interface of the core that is spoken.
pub(super) const SDK_VERSION: &str = "5.0.0";
/// The oldest core that understands it.
pub(super) const MIN_SDK_VERSION: &str = "1.8.0";

/// What this extension is called in the core's list.
const NAME: &str = "agentquery";

/// Time for a registration or a look at the list: these answer at once or never.
const CALL: Duration = Duration::from_secs(2);
/// Time to say goodbye; osquery kills an extension 4 seconds after SIGTERM.
const GOODBYE: Duration = Duration::from_millis(1500);
/// Waits between attempts, growing.
const WAITS: [Duration; 3] = [Duration::from_millis(200), Duration::from_millis(500), Duration::from_secs(1)];
/// How long after its registration an extension serves, at the latest.
const LATE: Duration = Duration::from_millis(600);
/// Between two glances at what ends a wait.
const GLANCE: Duration = Duration::from_millis(250);
/// The same while a call is under way.
const GLANCE_IN_CALL: Duration = Duration::from_millis(20);

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

/// Why the tables are not with the core, or not known to be.
#[derive(Debug, thiserror::Error)]
enum Apart {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("osquery did not answer within {} s", CALL.as_secs())]
    Silent,
    #[error("osquery's socket was replaced")]
    Replaced,
    #[error("it is time to end")]
    Over,
    #[error("no thread to ask osquery: {0}")]
    Thread(std::io::Error),
}

impl Apart {
    /// Somebody was there.
    fn is_an_answer(&self) -> bool {
        matches!(
            self,
            Self::Client(ClientError::Protocol { .. } | ClientError::Refused(_)) | Self::Silent | Self::Bind(_)
        )
    }
}

/// Serves the tables until it is told to stop or the process that started it is gone.
///
/// # Errors
/// When no manager was there from the start on, for as long as the options allow.
pub fn run(options: &Options, source: &Source, stop: &Stop) -> Result<(), ExtensionError> {
    let parent = Parent::of_this_process();
    let mut life = Life { options, source, stop, parent, place: None, dead: None, held: None };
    let started = Instant::now();
    let mut reached = false;
    let mut failures = 0;
    let (mut last, mut told) = (String::new(), String::new());
    while !life.is_over() {
        let wait = match life.look() {
            Ok(()) => {
                reached = true;
                last.clear();
                told.clear();
                options.interval
            }
            Err(Apart::Client(error @ ClientError::Connect { .. }))
                if !reached && started.elapsed() >= options.timeout =>
            {
                return Err(ExtensionError::NoManager(error));
            }
            Err(reason) => {
                reached |= reason.is_an_answer();
                let reason = reason.to_string();
                // What is new is tried again soon, and told once. A core that is busy may miss one look.
                failures = if reason == last { failures + 1 } else { 0 };
                if reason != told && (life.held.is_none() || failures > 0) {
                    tracing::warn!(reason, "not sure to be registered with osquery; trying again");
                    told.clone_from(&reason);
                }
                last = reason;
                WAITS.get(failures).or(WAITS.last()).copied().unwrap_or(GLANCE)
            }
        };
        life.rest(wait);
    }
    if let Some(held) = life.held.take() {
        // When the core is gone there is nobody to tell.
        let _ = life.ask_until(GOODBYE, |_| None, move |client| client.deregister(held.uuid));
    }
    Ok(())
}

/// A registration, and what serves it.
struct Held {
    uuid: i64,
    _server: Server,
}

/// A socket's file; another one under the same name differs in something.
#[cfg(unix)]
type Place = (u64, u64, i64, i64);

/// A pipe has none: to look at it is to connect. A core that has ended is seen at the next look at its list.
#[cfg(not(unix))]
type Place = ();

#[cfg(unix)]
fn place_of(socket: &Path) -> Option<Place> {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::metadata(socket).ok()?;
    Some((found.dev(), found.ino(), found.ctime(), found.ctime_nsec()))
}

#[cfg(not(unix))]
fn place_of(_socket: &Path) -> Option<Place> {
    None
}

struct Life<'a> {
    options: &'a Options,
    source: &'a Source,
    stop: &'a Stop,
    parent: Parent,
    /// The manager's socket when it was last looked at.
    place: Option<Place>,
    /// An extension of our name that the core knows and that nobody serves, and since when.
    dead: Option<(i64, Instant)>,
    held: Option<Held>,
}

impl Life<'_> {
    fn is_over(&self) -> bool {
        let orphaned = self.parent.is_gone();
        if orphaned {
            tracing::info!("the process that started this extension is gone");
        }
        orphaned || self.stop.wait(Duration::ZERO)
    }

    fn place(&self) -> Option<Place> {
        place_of(&self.options.socket)
    }

    /// Another socket is there: the core is a new one.
    fn is_replaced(&self) -> bool {
        self.place().is_some_and(|place| Some(place) != self.place)
    }

    /// Waits, but not when there is something to do.
    fn rest(&self, wait: Duration) {
        let end = Instant::now() + wait;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stop.wait(left.min(GLANCE)) || self.is_over() || self.is_replaced() {
                return;
            }
        }
    }

    /// Asks the manager on a thread of its own: neither the end nor a new socket waits for one that hangs.
    fn ask<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, Apart> {
        let reason = |life: &Self| match () {
            () if life.is_over() => Some(Apart::Over),
            () if life.is_replaced() => Some(Apart::Replaced),
            () => None,
        };
        self.ask_until(CALL, reason, call)
    }

    fn ask_until<T: Send + 'static>(
        &self,
        time: Duration,
        reason: impl Fn(&Self) -> Option<Apart>,
        call: impl FnOnce(&Client) -> Result<T, ClientError> + Send + 'static,
    ) -> Result<T, Apart> {
        let client = Client::new(&self.options.socket).with_timeout(time);
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name("ask".into())
            .spawn(move || answer.send(call(&client)))
            .map_err(Apart::Thread)?;
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match answered.recv_timeout(left.min(GLANCE_IN_CALL)) {
                Ok(result) => return Ok(result?),
                Err(_) if left.is_zero() => return Err(Apart::Silent),
                Err(RecvTimeoutError::Disconnected) => return Err(Apart::Silent),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(reason) = reason(self) {
                return Err(reason);
            }
        }
    }

    /// Looks whether the core knows this extension, and registers when it does not.
    fn look(&mut self) -> Result<(), Apart> {
        self.place = self.place();
        // Also before the first registration: when nobody answers this, nobody is sent one, which might be carried out
        // later, with nobody left to serve it.
        let known = self.ask(Client::extensions)?;
        let ours: Vec<i64> =
            known.iter().filter(|(_, info)| info.name.as_deref() == Some(NAME)).map(|(uuid, _)| *uuid).collect();
        if let Some(held) = &self.held {
            if ours.contains(&held.uuid) {
                return Ok(());
            }
            tracing::warn!("osquery does not know this extension any more; registering again");
            self.held = None;
        }
        let info = InternalExtensionInfo::new(
            NAME.to_owned(),
            env!("CARGO_PKG_VERSION").to_owned(),
            SDK_VERSION.to_owned(),
            MIN_SDK_VERSION.to_owned(),
        );
        let register = |life: &Self, info| life.ask(move |client| client.register(info, registry()));
        let mut registered = register(self, info.clone());
        if matches!(registered, Err(Apart::Client(ClientError::Refused(_)))) && self.bury(&ours) {
            registered = register(self, info);
        }
        let uuid = registered?;
        self.dead = None;
        let (source, stop, core) = (self.source.clone(), self.stop.clone(), Core::new(&self.options.socket));
        let serve = move |viewer| {
            let (source, stop, core) = (source.clone(), stop.clone(), core.clone());
            ExtensionSyncProcessor::new(Plugin { uuid, source, core, viewer, stop })
        };
        match Server::start(&self.socket_of(uuid), Access::Own, serve) {
            Ok(server) => self.held = Some(Held { uuid, _server: server }),
            Err(error) => {
                let _ = self.ask(move |client| client.deregister(uuid));
                return Err(error.into());
            }
        }
        tracing::info!(uuid, "registered with osquery");
        Ok(())
    }

    fn socket_of(&self, uuid: i64) -> PathBuf {
        let mut path = self.options.socket.clone().into_os_string();
        path.push(format!(".{uuid}"));
        path.into()
    }

    /// Takes a dead extension of our name off the core's list, which the core itself does seconds later: one that was
    /// killed, or a registration of ours whose answer never came. It must be found dead twice, for one that is just
    /// registering has no socket yet. True when it did.
    fn bury(&mut self, ours: &[i64]) -> bool {
        let nobody_serves = |uuid: &&i64| {
            let found = Client::new(&self.socket_of(**uuid)).with_timeout(GLANCE).ping();
            let Err(ClientError::Connect { source, .. }) = found else { return false };
            matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
        };
        let Some(uuid) = ours.iter().find(nobody_serves).copied() else {
            self.dead = None;
            return false;
        };
        match self.dead {
            Some((dead, since)) if dead == uuid && since.elapsed() >= LATE => {
                tracing::info!(uuid, "osquery still knows an extension of this name that is gone; deregistering it");
                self.dead = None;
                self.ask(move |client| client.deregister(uuid)).is_ok()
            }
            Some((dead, _)) if dead == uuid => false,
            _ => {
                self.dead = Some((uuid, Instant::now()));
                false
            }
        }
    }
}
