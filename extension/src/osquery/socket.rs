//! The socket that a server listens on.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

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

/// The umask belongs to the whole process: one change at a time.
static UMASK: Mutex<()> = Mutex::new(());

/// Who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The user that runs the server, and root.
    Own,
    /// Everybody on the machine. What each gets to see is another matter.
    Everybody,
}

/// Listens on the path. A socket that nobody answers on is replaced.
pub(super) fn bind(path: &Path, access: Access) -> Result<UnixListener, BindError> {
    let failed = |source| BindError::Io { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(BindError::InUse(path.to_owned())),
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
    listener.map_err(failed)
}

/// Makes `accept` return, now and ever after.
pub(super) fn shut(listener: &UnixListener, path: &Path) {
    let shut = listener
        .try_clone()
        .map(|copy| UnixStream::from(OwnedFd::from(copy)))
        .and_then(|socket| socket.shutdown(std::net::Shutdown::Both));
    if shut.is_err() {
        // Not all systems can shut a listening socket; a visitor wakes it, too.
        let _ = UnixStream::connect(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

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
}
