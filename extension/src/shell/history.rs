//! Where the shell remembers what was entered: `$XDG_STATE_HOME/agentquery/history`, on Windows
//! `%LOCALAPPDATA%\agentquery\history`, for its user alone.

use std::path::{Path, PathBuf};

use crate::{os, places};

/// The history's file, made when it is not there. None where there is no home that is this user's own: with `sudo` and a
/// kept `$HOME`, root would else leave its files in another's home.
pub(super) fn file() -> Option<PathBuf> {
    make(&places::own_folder(is_own)?.join("agentquery"))
}

fn make(directory: &Path) -> Option<PathBuf> {
    os::make_private(directory).ok()?;
    let file = directory.join("history");
    let found = std::fs::symlink_metadata(&file).map(|found| found.is_file() && is_own(&file));
    match found {
        Ok(true) => Some(file),
        Ok(false) => None,
        Err(_) if !is_own(directory) => None,
        Err(_) => {
            os::private(std::fs::OpenOptions::new().append(true).create_new(true)).open(&file).ok()?;
            Some(file)
        }
    }
}

fn is_own(path: &Path) -> bool {
    path.canonicalize().is_ok_and(|real| os::is_own(&real).unwrap_or(false))
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_file_is_its_users_alone() {
        let top = tempfile::tempdir().unwrap();
        let directory = top.path().join("state/agentquery");
        let file = make(&directory).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(&directory)), (0o600, 0o700));
        assert_eq!(make(&directory), Some(file), "found again");
    }

    #[test]
    fn what_is_no_file_is_left_alone() {
        let top = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", top.path().join("history")).unwrap();
        assert_eq!(make(top.path()), None);
        assert_eq!(make(Path::new("/proc/nothing")), None);
    }
}
