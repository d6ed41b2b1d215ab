//! A Thrift server: a thread for each connection, so that a ping never waits behind a query.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use thrift::server::TProcessor;

use super::socket::{self, BindError};
use super::transport::{MessageLimits, protocols};

/// A query's text or context; an IN list of tens of thousands of values fits.
const REQUEST: MessageLimits = MessageLimits { bytes: 8 << 20, elements: 10_000 };

/// Connections at a time. osquery holds two for each running query.
const CONNECTIONS: usize = 64;

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
    pub(super) fn start(path: &Path, processor: impl TProcessor + Send + Sync + 'static) -> Result<Self, BindError> {
        let failed = |source| BindError::Io { path: path.to_owned(), source };
        let listener = socket::bind(path)?;
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

/// One connection's place among the allowed ones.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taken: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(taken));
        (taken.fetch_add(1, Ordering::SeqCst) < CONNECTIONS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn accept(listener: &UnixListener, stopping: &AtomicBool, processor: &Arc<impl TProcessor + Send + Sync + 'static>) {
    let taken = Arc::new(AtomicUsize::new(0));
    loop {
        let accepted = listener.accept();
        if stopping.load(Ordering::SeqCst) {
            return;
        }
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely; it passes when connections end.
                tracing::warn!(%error, "cannot accept a connection");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let Some(place) = Place::take(&taken) else {
            tracing::warn!("more than {CONNECTIONS} connections; one is refused");
            continue;
        };
        let processor = Arc::clone(processor);
        let started = std::thread::Builder::new().name("connection".into()).spawn(move || {
            let _place = place;
            if let Err(error) = serve(&stream, &*processor) {
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
