//! The project that an agent works in: the root of the repository around its working directory.

use std::path::{Path, PathBuf};

use crate::identify::windows;

/// The nearest directory at or above this one that holds `.git`, a directory or, in a work tree, a file.
/// `seen` tells where that is from here.
#[must_use]
pub fn root(directory: &str, seen: impl Fn(&Path) -> PathBuf) -> Option<String> {
    let found = Path::new(directory).ancestors().find(|above| seen(&above.join(".git")).symlink_metadata().is_ok());
    found.map(|path| path.to_string_lossy().into_owned())
}

/// Whether a path lies at or below a directory.
#[must_use]
pub fn contains(directory: &str, path: &str) -> bool {
    if windows::is(path) {
        return windows::is(directory) && is_below(&windows::with_ending(directory), &windows::with_ending(path));
    }
    is_below(directory, path)
}

fn is_below(directory: &str, path: &str) -> bool {
    let directory = directory.trim_end_matches('/');
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_found_from_below() {
        let top = tempfile::tempdir().unwrap();
        let below = top.path().join("a/b");
        std::fs::create_dir_all(&below).unwrap();
        let below = below.to_str().unwrap();
        let git = top.path().join("a/.git");
        let root = |below| root(below, Path::to_path_buf);
        assert_ne!(root(below).as_deref(), top.path().join("a").to_str());
        std::fs::write(git, "gitdir: elsewhere").unwrap();
        assert_eq!(root(below).as_deref(), top.path().join("a").to_str());
    }

    #[test]
    fn a_directory_does_not_contain_its_namesakes() {
        assert!(contains("/a", "/a/b"));
        assert!(contains("/a", "/a"));
        assert!(!contains("/a", "/ab"));
        assert!(contains("/", "/x"));
        assert!(contains(r"C:\Users\X\app", r"c:\users\x\app\src\main.rs"));
        assert!(contains(r"C:\", r"c:\x") && contains(r"\\s\share", r"\\S\Share\x"));
        assert!(!contains(r"C:\app", r"C:\application\x") && !contains("/app", r"C:\app"));
    }
}
