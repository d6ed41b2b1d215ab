//! One recorder a machine: whoever holds the lock of the state directory.
//!
//! The lock is the system's (`flock(2)`, `LockFileEx`): it ends with the process that holds it, however that ends, and cannot be left behind. What
//! stands in the file only says where the holder answers.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::os;
use crate::trust::TrustError;

/// Where a recorder keeps its state, and where it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The state directory: its owner's alone.
    pub state_dir: PathBuf,
    /// The socket.
    pub socket: PathBuf,
    /// Of a user who records for himself: where the machine's recorder answers, which knows more.
    pub machine: Option<PathBuf>,
}

/// The right to record, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File, // held: the lock goes with it
}

/// Who has the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Where it answers.
    pub socket: PathBuf,
}

/// Why the lock cannot be had, other than that somebody has it.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Others could change what is in the directory.
    #[error(transparent)]
    Untrusted(#[from] TrustError),
    /// The system refused.
    #[error("cannot use the state directory {}: {source}; choose another one with --state-dir", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Place {
    /// Takes the lock; none when somebody has it.
    ///
    /// # Errors
    /// When the state directory cannot be used.
    pub fn try_lock(&self) -> Result<Option<Lock>, LockError> {
        let file = self.open()?;
        match os::try_lock(&file) {
            Ok(()) => self.taken(file).map(Some),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(self.failed(source)),
        }
    }

    /// Waits for the lock, in a queue: who waits gets it before who comes later.
    ///
    /// # Errors
    /// When the state directory cannot be used.
    pub fn wait_for_lock(&self) -> Result<Lock, LockError> {
        let file = self.open()?;
        os::lock(&file).map_err(|source| self.failed(source))?;
        self.taken(file)
    }

    fn open(&self) -> Result<File, LockError> {
        make_private(&self.state_dir)?;
        open(&self.file()).map_err(|source| self.failed(source))
    }

    fn taken(&self, mut file: File) -> Result<Lock, LockError> {
        let holder = Holder { pid: std::process::id(), socket: self.socket.clone() };
        let text = serde_json::to_string(&holder).unwrap_or_default();
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()));
        written.map_err(|source| self.failed(source))?;
        Ok(Lock { _file: file })
    }

    fn failed(&self, source: io::Error) -> LockError {
        LockError::Io { path: self.file(), source }
    }

    /// Who wrote last that it has the lock. It may have ended since; none when that cannot be read.
    #[must_use]
    pub fn holder(&self) -> Option<Holder> {
        let mut text = String::new();
        File::open(self.file()).ok()?.take(64 << 10).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn file(&self) -> PathBuf {
        self.state_dir.join("lock")
    }
}

fn make_private(directory: &Path) -> Result<(), LockError> {
    os::make_private(directory).map_err(|source| LockError::Io { path: directory.into(), source })?;
    // One that was there keeps its mode, for it may be somebody's for more than this; what is put into it is private.
    Ok(crate::trust::directory(directory)?)
}

fn open(path: &Path) -> io::Result<File> {
    os::private(File::options().read(true).write(true).create(true).truncate(false)).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(folder: &Path) -> Place {
        Place { state_dir: folder.join("state"), socket: folder.join("agentquery.em"), machine: None }
    }

    #[test]
    fn one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        assert_eq!(place.holder(), None);
        let lock = place.try_lock().unwrap().unwrap();
        assert!(place.try_lock().unwrap().is_none());
        assert_eq!(place.holder(), Some(Holder { pid: std::process::id(), socket: place.socket.clone() }));
        let waiting = {
            let place = place.clone();
            std::thread::spawn(move || place.wait_for_lock().unwrap())
        };
        drop(lock);
        let lock = waiting.join().unwrap();
        assert!(place.try_lock().unwrap().is_none());
        drop(lock);
        assert!(place.try_lock().unwrap().is_some());
    }

    #[cfg(unix)]
    #[test]
    fn the_state_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let _lock = place.try_lock().unwrap();
        assert_eq!((mode(&place.state_dir), mode(&place.file())), (0o700, 0o600));
        std::fs::set_permissions(&place.state_dir, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(place.try_lock(), Err(LockError::Untrusted(_))));
    }
}
