//! UNIX: users by their ids, files by their modes.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The user that this process runs as.
#[must_use]
pub fn user() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

/// Whether it may do everything.
#[must_use]
pub fn is_administrator() -> bool {
    user() == 0
}

/// Who that is, for a message.
#[must_use]
pub fn user_name() -> String {
    format!("uid {}", user())
}

/// Makes a directory and those above it; what is new is this user's alone. One that is there stays as it is.
///
/// # Errors
/// When it cannot be made.
pub fn make_private(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// A file that is made is this user's alone, and a link is not followed.
pub fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
}

/// A path without links and steps back.
///
/// # Errors
/// When it leads nowhere.
pub fn real_path(path: &Path) -> io::Result<PathBuf> {
    path.canonicalize()
}

/// From now on the file is this user's alone.
///
/// # Errors
/// When it cannot be changed.
pub fn protect(file: &Path) -> io::Result<()> {
    std::fs::set_permissions(file, Permissions::from_mode(0o600))
}

/// Whether a file or directory is this user's; a link is taken for itself.
///
/// # Errors
/// When it cannot be looked at.
pub fn is_own(path: &Path) -> io::Result<bool> {
    Ok(std::fs::symlink_metadata(path)?.uid() == user())
}

/// Whether nobody else may read it.
#[cfg(test)]
pub(super) fn only_ours_to_read(path: &Path) -> io::Result<bool> {
    Ok(std::fs::metadata(path)?.mode().trailing_zeros() >= 6 && is_own(path)?)
}

/// The mode of what root or this user owns.
fn own_mode(metadata: &Metadata) -> Option<u32> {
    let trusted = metadata.uid() == 0 || metadata.uid() == user();
    trusted.then(|| metadata.mode())
}

/// Opens a file to be looked at.
///
/// # Errors
/// When it cannot be opened.
pub fn open_to_read(path: &Path) -> io::Result<File> {
    // A FIFO must not make the start wait.
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path)
}

/// Whether nobody but root and this user can change an open file.
///
/// # Errors
/// When it cannot be looked at.
pub fn only_ours_to_change(file: &File) -> io::Result<bool> {
    Ok(own_mode(&file.metadata()?).is_some_and(|mode| mode & 0o022 == 0))
}

/// Whether nobody else can change what is in a directory.
///
/// # Errors
/// When it cannot be looked at.
pub fn only_ours_to_fill(directory: &Path) -> io::Result<bool> {
    Ok(own_mode(&std::fs::metadata(directory)?).is_some_and(|mode| mode & 0o022 == 0))
}

/// Whether nobody else can put another file or directory in the place of one in this directory: others may write only
/// where the sticky bit keeps them from renaming ours.
///
/// # Errors
/// When it cannot be looked at.
pub fn only_ours_to_rename_in(directory: &Path) -> io::Result<bool> {
    Ok(own_mode(&std::fs::metadata(directory)?).is_some_and(|mode| mode & 0o022 == 0 || mode & 0o1000 != 0))
}

/// What to say of a command that needs more rights.
#[must_use]
pub fn elevated(command: &str) -> String {
    format!("sudo {command}")
}

/// How to have a file believed.
#[must_use]
pub fn how_to_trust(file: &Path) -> String {
    format!("chown root {0} && chmod go-w {0}", file.display())
}

/// Takes the lock of a file, which ends with the process.
///
/// # Errors
/// When somebody has it, or it cannot be had.
pub fn try_lock(file: &File) -> Result<(), TryLockError> {
    file.try_lock()
}

/// Waits for the lock of a file.
///
/// # Errors
/// When it cannot be had.
pub fn lock(file: &File) -> io::Result<()> {
    file.lock()
}

/// Says that a folder is in use, for as long as this process lives and keeps what is returned.
///
/// # Errors
/// When that cannot be said.
pub fn hold(folder: &Path) -> io::Result<File> {
    let folder = File::open(folder)?;
    folder.lock().map(|()| folder)
}

/// Whether somebody holds a folder.
#[must_use]
pub fn is_held(folder: &Path) -> bool {
    !File::open(folder).is_ok_and(|folder| folder.try_lock().is_ok())
}

/// The process that started this one.
#[derive(Debug)]
pub struct Parent(u32);

impl Parent {
    /// As it is now.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self(std::os::unix::process::parent_id())
    }

    /// It has ended: somebody else is the parent now.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        std::os::unix::process::parent_id() != self.0
    }
}

/// Has a process that this one started end in its own way.
///
/// # Errors
/// When it is not there.
pub fn ask_to_end(child: &mut std::process::Child) -> io::Result<()> {
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    // SAFETY: our own child, which is not waited for yet.
    if unsafe { libc::kill(pid, libc::SIGTERM) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The name of this machine; empty when it has none.
#[must_use]
pub fn host_name() -> String {
    let mut name = [0_u8; 256];
    // SAFETY: the buffer is of that length.
    let failed = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len()) } != 0;
    let name = name.split(|byte| *byte == 0).next().filter(|_| !failed);
    crate::event::escape(name.unwrap_or_default())
}

/// What tells this machine from others that are called the same; empty when there is nothing.
#[must_use]
pub fn machine_id() -> String {
    std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned()
}
