//! What a server listens on, and what a connection is: a socket of UNIX, or a named pipe of Windows.
//!
//! The two modules have the same names; which one it is is chosen here. A stream can be read and written by several at a
//! time, has limits on the time of both, and is ended from another thread, which its reader then sees.

use std::io;
use std::path::PathBuf;

#[cfg(unix)]
mod peer;
#[cfg(windows)]
mod pipe;
#[cfg(unix)]
mod unix;

#[cfg(all(test, windows))]
pub(super) use pipe::pair;
#[cfg(windows)]
pub(super) use pipe::{Listener, Stream, connect, end, viewer};
#[cfg(all(test, unix))]
pub(super) use unix::pair;
#[cfg(unix)]
pub(super) use unix::{Listener, Stream, connect, end, viewer};

/// The group whose members may see everything.
pub const GROUP: &str = "agentquery";

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error("{0} is in use by a running server; stop it, or choose another path with --socket")]
    InUse(PathBuf),
    /// Something else is there, and is left alone.
    #[error("{0} exists and is not a socket; remove it, or choose another path with --socket")]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot listen on {path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Who may connect. To a pipe only its user, administrators and the system may, either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The user that runs the server, and root.
    Own,
    /// Everybody on the machine. What each gets to see is another matter.
    Everybody,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::path::Path;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    /// A name of a socket for a test.
    pub(in super::super) fn name(folder: &Path) -> PathBuf {
        crate::places::socket_of(folder)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn bytes_go_both_ways_until_one_side_leaves() {
        let (one, two) = pair();
        (&one).write_all(b"ping").unwrap();
        let mut heard = [0; 4];
        (&two).read_exact(&mut heard).unwrap();
        (&two).write_all(b"pong and the rest").unwrap();
        (&one).read_exact(&mut heard).unwrap();
        drop(two);
        let mut rest = String::new();
        (&one).read_to_string(&mut rest).unwrap();
        assert_eq!((&heard, rest.as_str()), (b"pong", " and the rest"), "what was written is read, and then the end");
    }

    #[test]
    fn much_is_written_at_once_while_it_is_read() {
        let (one, two) = pair();
        let much: Vec<u8> = (0..4 << 20).map(|n: u32| n.to_le_bytes()[n as usize % 3]).collect();
        let sent = much.clone();
        let writing = std::thread::spawn(move || (&one).write_all(&sent));
        let mut heard = Vec::new();
        (&two).read_to_end(&mut heard).unwrap();
        writing.join().unwrap().unwrap();
        assert!(heard == much);
    }

    #[test]
    fn neither_a_silent_peer_nor_a_deaf_one_is_waited_for() {
        let (one, _two) = pair();
        let began = Instant::now();
        one.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!((&one).read(&mut [0; 8]).is_err());
        one.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!((&one).write_all(&vec![0; 16 << 20]).is_err());
        assert!(began.elapsed() >= Duration::from_millis(100) && began.elapsed() < LONG);
    }

    #[test]
    fn a_connection_is_ended_from_elsewhere() {
        let (one, two) = pair();
        let reader = one.try_clone().unwrap();
        let reading = std::thread::spawn(move || (&reader).read(&mut [0; 8]));
        let writer = two.try_clone().unwrap();
        let writing = std::thread::spawn(move || (&writer).write_all(&vec![0; 16 << 20]));
        end(&one);
        end(&two);
        // What was written before is read before the end, or not: neither thread waits any longer.
        let _ = reading.join().unwrap();
        assert!(writing.join().unwrap().is_err());
        assert!((&one).write_all(&vec![0; 16 << 20]).is_err(), "it is over");
    }

    #[test]
    fn a_stop_wakes_who_accepts() {
        let folder = tempfile::tempdir().unwrap();
        let path = name(folder.path());
        let listener = Arc::new(Listener::bind(&path, Access::Own).unwrap());
        let accepting = std::thread::spawn({
            let listener = Arc::clone(&listener);
            move || listener.accept().map(drop).and_then(|()| listener.accept().map(drop))
        });
        drop(connect(&path, LONG).unwrap());
        listener.shut();
        // Not all systems tell it from a visitor, which the server looks at itself.
        let _ = accepting.join().unwrap();
        drop(listener);
        let gone = connect(&path, LONG).unwrap_err();
        assert!(matches!(gone.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused), "{gone}");
        Listener::bind(&path, Access::Own).unwrap();
    }

    #[test]
    fn several_connect_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = name(folder.path());
        let listener = Listener::bind(&path, Access::Everybody).unwrap();
        let echo = std::thread::spawn(move || {
            for _ in 0..12 {
                let stream = listener.accept().unwrap();
                assert_eq!(viewer(&stream).unwrap(), crate::tables::Viewer::All);
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        std::thread::scope(|scope| {
            for n in 0..12_u8 {
                let path = &path;
                scope.spawn(move || {
                    let stream = connect(path, LONG).unwrap();
                    let mut heard = [0; 1000];
                    (&stream).write_all(&[n; 1000]).unwrap();
                    (&stream).read_exact(&mut heard).unwrap();
                    assert_eq!(heard, [n; 1000]);
                });
            }
        });
        echo.join().unwrap();
    }

    #[test]
    fn a_server_is_not_replaced_while_it_lives() {
        let folder = tempfile::tempdir().unwrap();
        let path = name(folder.path());
        let first = Listener::bind(&path, Access::Own).unwrap();
        assert!(matches!(Listener::bind(&path, Access::Own), Err(BindError::InUse(_))));
        drop(first);
        Listener::bind(&path, Access::Everybody).unwrap();
    }
}
