//! Where the shell remembers what was entered: `$XDG_STATE_HOME/agentquery/history`, for its user alone.

use std::path::{Path, PathBuf};

/// The history's file, made when it is not there. None where there is no home that is this user's own: with `sudo` and a
/// kept `$HOME`, root would else leave its files in another's home.
pub(super) fn file() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let directory = match variable("XDG_STATE_HOME") {
        Some(state) => state,
        None => variable("HOME").filter(|home| is_own(home))?.join(".local/state"),
    };
    make(&directory.join("agentquery"))
}

#[cfg(unix)]
fn make(directory: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).ok()?;
    let file = directory.join("history");
    let found = std::fs::symlink_metadata(&file).map(|found| found.is_file() && is_own(&file));
    match found {
        Ok(true) => Some(file),
        Ok(false) => None,
        Err(_) if !is_own(directory) => None,
        Err(_) => {
            std::fs::OpenOptions::new().append(true).create_new(true).mode(0o600).open(&file).ok()?;
            Some(file)
        }
    }
}

#[cfg(not(unix))]
fn make(directory: &Path) -> Option<PathBuf> {
    std::fs::create_dir_all(directory).ok()?;
    Some(directory.join("history"))
}

#[cfg(unix)]
fn is_own(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    // SAFETY: geteuid has no preconditions and cannot fail.
    let own = unsafe { libc::geteuid() };
    std::fs::metadata(path).is_ok_and(|found| found.uid() == own)
}

#[cfg(not(unix))]
fn is_own(path: &Path) -> bool {
    path.exists()
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
