//! Files as a process sees them, below its root directory: in another mount namespace a path is another file's.

#[cfg(target_os = "linux")]
use std::fs::File;
use std::path::{Path, PathBuf};

/// The root directory of a process.
#[must_use]
pub fn root_of(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join("root")
}

/// The mount namespace of a process, by its inode (`namespaces(7)`). `None` when the process has ended.
#[must_use]
pub fn mount_ns_of(pid: u32) -> Option<u32> {
    let link = std::fs::read_link(Path::new("/proc").join(pid.to_string()).join("ns/mnt")).ok()?;
    link.to_str()?.strip_prefix("mnt:[")?.strip_suffix(']')?.parse().ok()
}

/// Opens a file as a process does whose root directory this is (`openat2(2)`, Linux 5.6).
///
/// # Errors
/// When it cannot be opened.
#[cfg(target_os = "linux")]
pub fn open_in(root: &File, path: &Path, flags: i32) -> std::io::Result<File> {
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::os::unix::ffi::OsStrExt;

    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a structure of integers, of which zero is a valid value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from(flags.cast_unsigned());
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: an open descriptor, a string with its NUL, and a structure of the size that is said.
    let fd = unsafe {
        libc::syscall(libc::SYS_openat2, root.as_raw_fd(), path.as_ptr(), &raw const how, size_of::<libc::open_how>())
    };
    let fd = i32::try_from(fd).map_err(std::io::Error::other)?;
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just opened, and that nobody else has.
    Ok(unsafe { File::from_raw_fd(fd) })
}
