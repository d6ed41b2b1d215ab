//! A Thrift server: a thread for each connection, so that a ping never waits behind a query.

use std::collections::HashMap;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thrift::server::TProcessor;

use super::peer;
use super::socket::{self, Access, BindError};
use super::transport::{MessageLimits, protocols};
use crate::tables::Viewer;

/// A query's text or context; an IN list of tens of thousands of values fits.
const REQUEST: MessageLimits = MessageLimits { bytes: 8 << 20, elements: 10_000 };

/// Connections at a time. osquery holds two for each running query.
const CONNECTIONS: usize = 64;

/// And of one user who may not see everything: no user keeps the others out.
const CONNECTIONS_OF_USER: usize = 16;

/// How long a connection may rest between two messages.
const IDLE: Duration = Duration::from_secs(300);

/// How long a peer may take over the next bytes of a message, and over taking its reply.
const WITHIN_MESSAGE: Duration = Duration::from_secs(10);

/// A running server. It ends, and its socket goes, when it is dropped.
pub struct Server {
    path: PathBuf,
    listener: UnixListener,
    stopping: Arc<AtomicBool>,
}

impl Server {
    /// Listens, and answers each connection with a processor made for whoever it comes from.
    pub(super) fn start<P: TProcessor>(
        path: &Path,
        access: Access,
        processor: impl Fn(Viewer) -> P + Send + Sync + 'static,
    ) -> Result<Self, BindError> {
        let failed = |source| BindError::Io { path: path.to_owned(), source };
        let listener = socket::bind(path, access)?;
        let accepting = listener.try_clone().map_err(failed)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stopping);
        std::thread::Builder::new()
            .name("accept".into())
            .spawn(move || accept(&accepting, &seen, &Arc::new(processor)))
            .map_err(failed)?;
        Ok(Self { path: path.to_owned(), listener, stopping })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        socket::shut(&self.listener, &self.path);
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The connections that there are, by whom they come from.
#[derive(Default)]
struct Places(Mutex<HashMap<Viewer, usize>>);

/// One connection's place among the allowed ones.
struct Place {
    places: Arc<Places>,
    viewer: Viewer,
}

impl Place {
    fn take(places: &Arc<Places>, viewer: Viewer) -> Option<Self> {
        let mut taken = places.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.get(&viewer).copied().unwrap_or_default();
        if all >= CONNECTIONS || (viewer != Viewer::All && own >= CONNECTIONS_OF_USER) {
            return None;
        }
        taken.insert(viewer, own + 1);
        Some(Self { places: Arc::clone(places), viewer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.viewer) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.viewer);
            }
        }
    }
}

fn accept<P: TProcessor>(
    listener: &UnixListener,
    stopping: &AtomicBool,
    processor: &Arc<impl Fn(Viewer) -> P + Send + Sync + 'static>,
) {
    let places = Arc::new(Places::default());
    loop {
        let accepted = listener.accept();
        if stopping.load(Ordering::SeqCst) {
            return;
        }
        let peer = accepted.and_then(|(stream, _)| peer::viewer(&stream).map(|viewer| (stream, viewer)));
        let (stream, viewer) = match peer {
            Ok(peer) => peer,
            Err(error) => {
                // Out of descriptors, most likely; it passes when connections end.
                tracing::warn!(%error, "cannot accept a connection");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let Some(place) = Place::take(&places, viewer) else {
            tracing::warn!(?viewer, "too many connections; one is refused");
            continue;
        };
        let processor = Arc::clone(processor);
        let started = std::thread::Builder::new().name("connection".into()).spawn(move || {
            let _place = place;
            if let Err(error) = serve(&stream, &processor(viewer)) {
                tracing::debug!(%error, "a connection ended");
            }
        });
        if let Err(error) = started {
            tracing::warn!(%error, "cannot serve a connection");
        }
    }
}

fn serve(stream: &UnixStream, processor: &impl TProcessor) -> thrift::Result<()> {
    stream.set_write_timeout(Some(WITHIN_MESSAGE))?;
    let (mut input, mut output) = protocols(stream, REQUEST)?;
    loop {
        stream.set_read_timeout(Some(IDLE))?;
        if !input.transport.next_message()? {
            return Ok(());
        }
        stream.set_read_timeout(Some(WITHIN_MESSAGE))?;
        processor.process(&mut input, &mut output)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_keeps_the_others_out() {
        let places = Arc::new(Places::default());
        let mut alice: Vec<_> = std::iter::from_fn(|| Place::take(&places, Viewer::User(1))).take(100).collect();
        assert_eq!(alice.len(), CONNECTIONS_OF_USER);
        let _bob = Place::take(&places, Viewer::User(2)).unwrap();
        let root: Vec<_> = std::iter::from_fn(|| Place::take(&places, Viewer::All)).take(100).collect();
        assert_eq!(root.len(), CONNECTIONS - CONNECTIONS_OF_USER - 1);
        alice.pop();
        assert!(Place::take(&places, Viewer::All).is_some());
        drop((alice, root));
        assert_eq!(places.0.lock().unwrap().len(), 1);
    }
}
