//! A Thrift server: a thread for each connection, so that a ping never waits behind a query.

use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thrift::server::TProcessor;

use super::socket::{self, BindError};
use super::transport::{Input, MessageLimits, Output, protocols};

/// A query's text or context; an IN list of tens of thousands of values fits.
const REQUEST: MessageLimits = MessageLimits { bytes: 8 << 20, elements: 10_000, time: Duration::from_secs(30) };

/// Connections at a time. osquery holds two for each running query. One more costs the one that has been waited for
/// the longest its place, so that nobody keeps osquery out by just holding them.
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
    peers: Peers,
}

impl Server {
    pub(super) fn start(path: &Path, processor: impl TProcessor + Send + Sync + 'static) -> Result<Self, BindError> {
        let failed = |source| BindError::Io { path: path.to_owned(), source };
        let listener = socket::bind(path)?;
        let accepting = listener.try_clone().map_err(failed)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stopping);
        let peers = Peers::default();
        let served = peers.clone();
        std::thread::Builder::new()
            .name("accept".into())
            .spawn(move || accept(&accepting, &seen, &served, &Arc::new(processor)))
            .map_err(failed)?;
        Ok(Self { path: path.to_owned(), listener, stopping, peers })
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
        self.peers.end();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A connection.
struct Peer {
    stream: UnixStream,
    /// It is waited for, between messages or within one, and not worked for.
    waiting: Arc<AtomicBool>,
}

/// The connections, in the order of their last messages.
#[derive(Clone, Default)]
struct Peers(Arc<Mutex<Vec<Arc<Peer>>>>);

impl Peers {
    /// Takes it in; false when all others are worked for.
    fn admit(&self, peer: &Arc<Peer>) -> bool {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= CONNECTIONS {
            let Some(index) = peers.iter().position(|peer| peer.waiting.load(Ordering::SeqCst)) else { return false };
            tracing::debug!("more than {CONNECTIONS} connections; the idlest ends");
            let _ = peers.remove(index).stream.shutdown(Shutdown::Both);
        }
        peers.push(Arc::clone(peer));
        true
    }

    /// It had an answer.
    fn served(&self, peer: &Arc<Peer>) {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = peers.iter().position(|other| Arc::ptr_eq(other, peer)) {
            let peer = peers.remove(index);
            peers.push(peer);
        }
    }

    fn leave(&self, peer: &Arc<Peer>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| !Arc::ptr_eq(other, peer));
    }

    /// Ends those that are waited for; the others get their replies.
    fn end(&self) {
        for peer in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if peer.waiting.load(Ordering::SeqCst) {
                let _ = peer.stream.shutdown(Shutdown::Both);
            }
        }
    }
}

fn accept(
    listener: &UnixListener,
    stopping: &AtomicBool,
    peers: &Peers,
    processor: &Arc<impl TProcessor + Send + Sync + 'static>,
) {
    loop {
        let accepted = listener.accept();
        if stopping.load(Ordering::SeqCst) {
            return;
        }
        let started = accepted.map_err(thrift::Error::from).and_then(|(stream, _)| begin(stream, peers, processor));
        if let Err(error) = started {
            // Out of descriptors or threads, most likely; it passes when connections end.
            tracing::warn!(%error, "cannot serve a connection");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Serves a connection on a thread of its own.
fn begin(
    stream: UnixStream,
    peers: &Peers,
    processor: &Arc<impl TProcessor + Send + Sync + 'static>,
) -> thrift::Result<()> {
    let (input, output) = protocols(&stream, REQUEST)?;
    let peer = Arc::new(Peer { stream, waiting: input.transport.waiting() });
    if !peers.admit(&peer) {
        tracing::warn!("more than {CONNECTIONS} queries at a time; one is refused");
        return Ok(());
    }
    let (all, here, processor) = (peers.clone(), Arc::clone(&peer), Arc::clone(processor));
    let run = move || {
        let served = || all.served(&here);
        if let Err(error) = serve(&here.stream, input, output, &*processor, served) {
            tracing::debug!(%error, "a connection ended");
        }
        all.leave(&here);
    };
    if let Err(error) = std::thread::Builder::new().name("connection".into()).spawn(run) {
        peers.leave(&peer);
        return Err(error.into());
    }
    Ok(())
}

fn serve(
    stream: &UnixStream,
    mut input: Input,
    mut output: Output,
    processor: &impl TProcessor,
    served: impl Fn(),
) -> thrift::Result<()> {
    stream.set_write_timeout(Some(WITHIN_MESSAGE))?;
    loop {
        stream.set_read_timeout(Some(IDLE))?;
        if !input.transport.next_message()? {
            return Ok(());
        }
        stream.set_read_timeout(Some(WITHIN_MESSAGE))?;
        processor.process(&mut input, &mut output)?;
        served();
    }
}
