//! UNIX: a socket in the file system.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixListener;
pub(in super::super) use std::os::unix::net::UnixStream as Stream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{Access, BindError};

pub(in super::super) use super::peer::viewer;

/// The umask belongs to the whole process: one change at a time.
static UMASK: Mutex<()> = Mutex::new(());

/// Both ends see its end.
pub(in super::super) fn end(stream: &Stream) {
    // One that has ended already cannot be.
    let _ = stream.shutdown(Shutdown::Both);
}

/// Connects within that time, which holds for what is written later, too.
pub(in super::super) fn connect(path: &Path, time: Duration) -> io::Result<Stream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(time))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(OwnedFd::from(socket).into())
}

/// A socket that is listened on.
pub(in super::super) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens on the path. A socket that nobody answers on is replaced.
    pub(in super::super) fn bind(path: &Path, access: Access) -> Result<Self, BindError> {
        let failed = |source| BindError::Io { path: path.to_owned(), source };
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
            Ok(_) if Stream::connect(path).is_ok() => return Err(BindError::InUse(path.to_owned())),
            Ok(_) => std::fs::remove_file(path).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let _one = UMASK.lock().unwrap_or_else(PoisonError::into_inner);
        // Permissions set after bind would leave a moment in which anybody could connect.
        let mask = match access {
            Access::Own => 0o177,
            Access::Everybody => 0o111,
        };
        // SAFETY: umask has no preconditions.
        let before = unsafe { libc::umask(mask) };
        let listener = UnixListener::bind(path);
        // SAFETY: as above.
        unsafe { libc::umask(before) };
        listener.map_err(failed).map(|listener| Self { listener, path: path.to_owned() })
    }

    /// The next connection.
    pub(in super::super) fn accept(&self) -> io::Result<Stream> {
        self.listener.accept().map(|(stream, _)| stream)
    }

    /// Makes `accept` return, now and ever after.
    pub(in super::super) fn shut(&self) {
        let shut = self
            .listener
            .try_clone()
            .map(|copy| Stream::from(OwnedFd::from(copy)))
            .and_then(|socket| socket.shutdown(Shutdown::Both));
        if shut.is_err() {
            // Not all systems can shut a listening socket; a visitor wakes it, too.
            let _ = Stream::connect(&self.path);
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Two ends.
#[cfg(test)]
pub(in super::super) fn pair() -> (Stream, Stream) {
    Stream::pair().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn bind(path: &Path, access: Access) -> Result<Listener, BindError> {
        Listener::bind(path, access)
    }

    #[test]
    fn only_a_dead_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let first = bind(&path, Access::Own).unwrap();
        assert_eq!(mode(), 0o600);
        assert!(matches!(bind(&path, Access::Own), Err(BindError::InUse(_))));
        drop(first);
        bind(&path, Access::Everybody).unwrap();
        assert_eq!(mode(), 0o666);
        let file = directory.path().join("f");
        std::fs::write(&file, "precious").unwrap();
        assert!(matches!(bind(&file, Access::Own), Err(BindError::NotASocket(_))));
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    }

    #[test]
    fn who_takes_no_more_connections_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _deaf = UnixListener::bind(&path).unwrap();
        let address = SockAddr::unix(&path).unwrap();
        let knock = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.connect(&address).is_ok().then_some(socket)
        };
        let queue: Vec<_> = std::iter::from_fn(knock).collect();
        assert!(!queue.is_empty());
        let began = std::time::Instant::now();
        assert!(connect(&path, Duration::from_millis(100)).is_err());
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}
