//! What each system has in a way of its own and several modules need: who runs this process, what is this user's alone,
//! who may change a file, a lock on a file, and a wish that it ends.
//!
//! The modules for UNIX and for Windows have the same names; which one it is is chosen here and nowhere else.

#[cfg(any(windows, test))]
mod access;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub use unix::*;
#[cfg(windows)]
pub use windows::*;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn what_is_private_is_this_users_alone() {
        let top = tempfile::tempdir().unwrap();
        let directory = top.path().join("a/b");
        make_private(&directory).unwrap();
        make_private(&directory).unwrap();
        assert!(only_ours_to_read(&directory).unwrap() && only_ours_to_read(&top.path().join("a")).unwrap());
        let file = directory.join("file");
        private(File::options().write(true).create(true)).open(&file).unwrap();
        assert!(is_own(&file).unwrap());
        protect(&file).unwrap();
        assert!(only_ours_to_read(&file).unwrap());
        assert!(is_own(&directory.join("nothing")).is_err());
    }

    #[test]
    fn a_locked_file_can_be_read() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("lock");
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let held = open();
        try_lock(&held).unwrap();
        std::io::Write::write_all(&mut &held, b"who").unwrap();
        assert!(matches!(try_lock(&open()), Err(std::fs::TryLockError::WouldBlock)));
        assert_eq!(std::fs::read(&path).unwrap(), b"who");
        let waiting = std::thread::spawn({
            let other = open();
            move || lock(&other)
        });
        drop(held);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn a_folder_is_held_until_it_is_let_go() {
        let top = tempfile::tempdir().unwrap();
        let folder = top.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        assert!(!is_held(&folder));
        let held = hold(&folder).unwrap();
        assert!(is_held(&folder));
        drop(held);
        assert!(!is_held(&folder));
    }

    #[test]
    fn whoever_started_this_process_is_there() {
        assert!(!Parent::of_this_process().is_gone());
        assert!(!host_name().is_empty());
    }
}
