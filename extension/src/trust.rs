//! Files that a recorder with all rights may believe: nobody but root (on Windows administrators and the system), or the
//! user that it runs as, can have written them.
//!
//! Configuration and signatures decide what is seen and what is not; the state directory holds what was seen. Who may
//! change them is therefore looked at on the file that was opened, and on every directory above it: whoever may rename
//! a directory may put another file in the place of ours.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::os;

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It could not be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Read {
        /// The file or directory.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a regular file.
    #[error("{}: not a regular file; replace it by one", file.display())]
    NotAFile {
        /// The file.
        file: PathBuf,
    },
    /// It is too large.
    #[error("{}: larger than {} MiB", file.display(), limit >> 20)]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// Bytes that are read at most.
        limit: u64,
    },
    /// Somebody else could change it.
    #[error("{}: others can change it, so it is not trusted; run: {}", file.display(), os::how_to_trust(file))]
    Untrusted {
        /// The file, or the directory above it that is not safe.
        file: PathBuf,
    },
}

/// Reads a file of at most `limit` bytes that nobody else can have changed.
///
/// # Errors
/// When it cannot be read or is not to be trusted.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, TrustError> {
    let (file, real) = open_file(path)?;
    if !os::only_ours_to_change(&file).map_err(|source| TrustError::Read { file: path.into(), source })? {
        return Err(TrustError::Untrusted { file: path.into() });
    }
    if let Some(above) = real.parent() {
        directories(above)?;
    }
    bytes(path, file, limit)
}

/// Reads a file of at most `limit` bytes, whoever may have changed it: for what is only looked at.
///
/// # Errors
/// When it cannot be read.
pub fn read_any(path: &Path, limit: u64) -> Result<Vec<u8>, TrustError> {
    bytes(path, open_file(path)?.0, limit)
}

/// A regular file, and its real path.
fn open_file(path: &Path) -> Result<(File, PathBuf), TrustError> {
    let failed = |source| TrustError::Read { file: path.into(), source };
    let real = path.canonicalize().map_err(failed)?;
    // Windows would say that it has no right to open it.
    if real.is_dir() {
        return Err(TrustError::NotAFile { file: path.into() });
    }
    // A link in its place by now is not followed.
    let file = os::open_to_read(&real).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(TrustError::NotAFile { file: path.into() });
    }
    Ok((file, real))
}

fn bytes(path: &Path, file: File, limit: u64) -> Result<Vec<u8>, TrustError> {
    let failed = |source| TrustError::Read { file: path.into(), source };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(TrustError::TooLarge { file: path.into(), limit });
    }
    Ok(bytes)
}

/// Looks at a directory whose files are to be believed.
///
/// # Errors
/// When others could change what is in it.
pub fn directory(path: &Path) -> Result<(), TrustError> {
    let failed = |source| TrustError::Read { file: path.into(), source };
    let real = path.canonicalize().map_err(failed)?;
    if !os::only_ours_to_fill(&real).map_err(failed)? {
        return Err(TrustError::Untrusted { file: path.into() });
    }
    real.parent().map_or(Ok(()), directories)
}

/// A directory and all above it: others may write only where they are kept from renaming ours.
fn directories(path: &Path) -> Result<(), TrustError> {
    for directory in path.ancestors() {
        let failed = |source| TrustError::Read { file: directory.into(), source };
        if !os::only_ours_to_rename_in(directory).map_err(failed)? {
            return Err(TrustError::Untrusted { file: directory.into() });
        }
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn what_others_can_change_is_refused_by_name() {
        let mode = |path: &Path, mode: u32| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("file");
        std::fs::write(&file, "text").unwrap();
        assert_eq!(read(&file, 4).unwrap(), b"text");
        directory(&folder).unwrap();

        let refused = |path: &Path| read(&file, 4).unwrap_err().to_string().starts_with(&path.display().to_string());
        for bits in [0o666, 0o620, 0o602] {
            mode(&file, bits);
            assert!(refused(&file), "{bits:o}");
        }
        mode(&file, 0o644);
        mode(&folder, 0o777);
        let real = folder.canonicalize().unwrap();
        assert!(refused(&real));
        assert!(matches!(directory(&folder), Err(TrustError::Untrusted { .. })));
        mode(&folder, 0o1777);
        read(&file, 4).unwrap();
        mode(&folder, 0o755);

        let link = root.path().join("link");
        symlink(&file, &link).unwrap();
        read(&link, 4).unwrap();
        mode(&file, 0o666);
        assert!(matches!(read(&link, 4), Err(TrustError::Untrusted { .. })), "a link is as good as its target");
    }

    #[test]
    fn only_regular_files_of_some_size() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(read(folder.path(), 4), Err(TrustError::NotAFile { .. })));
        let file = folder.path().join("file");
        assert!(matches!(read(&file, 4), Err(TrustError::Read { .. })));
        std::fs::write(&file, "12345").unwrap();
        assert!(matches!(read(&file, 4), Err(TrustError::TooLarge { .. })));
    }
}
