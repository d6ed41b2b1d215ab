//! A Thrift server: a thread for each connection, so that a ping never waits behind a query.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thrift::server::TProcessor;

use super::socket::{self, Access, BindError, Listener, Stream};
use super::transport::{Input, MessageLimits, Output, protocols};
use crate::tables::Viewer;

/// A query's text or context; an IN list of tens of thousands of values fits.
const REQUEST: MessageLimits = MessageLimits { bytes: 8 << 20, elements: 10_000, time: Duration::from_secs(30) };

/// And one of a user who may not see everything: what is read of it takes ten times that for a moment.
const REQUEST_OF_USER: MessageLimits = MessageLimits { bytes: 256 << 10, ..REQUEST };

/// Connections at a time. osquery holds two for each running query. One more costs the one that has been waited for
/// the longest its place, so that nobody keeps osquery out by just holding them.
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
    listener: Arc<Listener>,
    stopping: Arc<AtomicBool>,
    peers: Peers,
}

impl Server {
    /// Listens, and answers each connection with a processor made for whoever it comes from.
    pub(super) fn start<P: TProcessor + Send + 'static>(
        path: &Path,
        access: Access,
        processor: impl Fn(Viewer) -> P + Send + 'static,
    ) -> Result<Self, BindError> {
        let failed = |source| BindError::Io { path: path.to_owned(), source };
        let listener = Arc::new(Listener::bind(path, access)?);
        let accepting = Arc::clone(&listener);
        let stopping = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stopping);
        let peers = Peers::default();
        let served = peers.clone();
        std::thread::Builder::new()
            .name("accept".into())
            .spawn(move || accept(&accepting, &seen, &served, &processor))
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
        self.listener.shut();
        self.peers.end();
    }
}

/// A connection.
struct Peer {
    stream: Stream,
    viewer: Viewer,
    /// It is waited for, between messages or within one, and not worked for.
    waiting: Arc<AtomicBool>,
}

/// The connections, in the order of their last messages.
#[derive(Clone, Default)]
struct Peers(Arc<Mutex<Vec<Arc<Peer>>>>);

impl Peers {
    /// Takes it in; false when all whose place it could have are worked for. A user's connection takes the place of
    /// another one of that user, or of a user, and never that of one who sees all.
    fn admit(&self, peer: &Arc<Peer>) -> bool {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = peers.iter().filter(|other| other.viewer == peer.viewer).count();
        let too_many_own = peer.viewer != Viewer::All && own >= CONNECTIONS_OF_USER;
        if too_many_own || peers.len() >= CONNECTIONS {
            let may_go = |other: &Arc<Peer>| match peer.viewer {
                Viewer::All => true,
                own if too_many_own => other.viewer == own,
                Viewer::User(_) => other.viewer != Viewer::All,
            };
            let idlest = peers.iter().position(|other| may_go(other) && other.waiting.load(Ordering::SeqCst));
            let Some(index) = idlest else { return false };
            tracing::debug!("too many connections; the idlest ends");
            socket::end(&peers.remove(index).stream);
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
                socket::end(&peer.stream);
            }
        }
    }
}

fn accept<P: TProcessor + Send + 'static>(
    listener: &Listener,
    stopping: &AtomicBool,
    peers: &Peers,
    processor: &impl Fn(Viewer) -> P,
) {
    loop {
        let accepted = listener.accept();
        if stopping.load(Ordering::SeqCst) {
            return;
        }
        let started = accepted.map_err(thrift::Error::from).and_then(|stream| begin(stream, peers, processor));
        if let Err(error) = started {
            // Out of descriptors or threads, most likely; it passes when connections end.
            tracing::warn!(%error, "cannot serve a connection");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Serves a connection on a thread of its own.
fn begin<P: TProcessor + Send + 'static>(
    stream: Stream,
    peers: &Peers,
    processor: &impl Fn(Viewer) -> P,
) -> thrift::Result<()> {
    let viewer = socket::viewer(&stream)?;
    let limits = if viewer == Viewer::All { REQUEST } else { REQUEST_OF_USER };
    let (input, output) = protocols(&stream, limits)?;
    let peer = Arc::new(Peer { stream, viewer, waiting: input.transport.waiting() });
    if !peers.admit(&peer) {
        tracing::warn!(?viewer, "too many queries at a time; one is refused");
        return Ok(());
    }
    let (all, here, processor) = (peers.clone(), Arc::clone(&peer), processor(viewer));
    let run = move || {
        let served = || all.served(&here);
        if let Err(error) = serve(&here.stream, input, output, &processor, served) {
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
    stream: &Stream,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(viewer: Viewer, waiting: bool) -> Arc<Peer> {
        let (stream, _) = socket::pair();
        Arc::new(Peer { stream, viewer, waiting: Arc::new(AtomicBool::new(waiting)) })
    }

    #[test]
    fn no_user_keeps_the_others_out() {
        let peers = Peers::default();
        let count = |viewer| peers.0.lock().unwrap().iter().filter(|peer| peer.viewer == viewer).count();
        let (alice, bob) = (Viewer::User(1), Viewer::User(2));
        for _ in 0..CONNECTIONS_OF_USER {
            assert!(peers.admit(&peer(alice, false)));
        }
        assert!(!peers.admit(&peer(alice, false)), "all of hers are worked for");
        for _ in 0..100 {
            assert!(peers.admit(&peer(bob, true)));
        }
        assert_eq!((count(alice), count(bob)), (CONNECTIONS_OF_USER, CONNECTIONS_OF_USER));
        let all: Vec<_> = (0..CONNECTIONS - CONNECTIONS_OF_USER).map(|_| peer(Viewer::All, true)).collect();
        assert!(all.iter().all(|peer| peers.admit(peer)), "root takes the places of idle users");
        assert_eq!((count(alice), count(bob)), (CONNECTIONS_OF_USER, 0));
        assert!(!peers.admit(&peer(bob, true)), "a user takes none of root's");
        peers.leave(&all[0]);
        assert!(peers.admit(&peer(bob, true)));
    }
}
