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

/// The mount namespaces whose files can be had without a process that may end meanwhile: our own, and the machine's.
///
/// They differ for a service that is confined, as ours for systemd is: homes are hidden from it, and other directories
/// are not the ones that agents see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mounts {
    own: u32,
    machine: u32,
    /// A process of the machine's that lives as long as the machine runs.
    lasting: u32,
}

impl Mounts {
    /// Those of this process and of init. Where init is not to be looked into, the kernel's threads tell, unless their
    /// root is still the one that the machine was booted from.
    #[must_use]
    pub fn find() -> Self {
        let own = mount_ns_of(std::process::id()).unwrap_or(0);
        let machine = [1, 2].into_iter().find_map(|pid| {
            let has_proc = seen_from_here(Path::new("/proc/self"), Some(pid)).symlink_metadata().is_ok();
            Some((mount_ns_of(pid).filter(|_| has_proc)?, pid))
        });
        let (machine, lasting) = machine.unwrap_or((own, std::process::id()));
        Self { own, machine, lasting }
    }

    /// As if they were these; this process is in both.
    #[cfg(all(test, unix))]
    pub(crate) fn new(own: u32, machine: u32) -> Self {
        Self { own, machine, lasting: std::process::id() }
    }

    /// Below whose root directory the files of a process in this namespace are to be looked for; `None` where the paths
    /// are ours.
    #[must_use]
    pub fn way(self, mount_ns: u32, pid: u32) -> Option<u32> {
        match mount_ns {
            own if own == self.own => None,
            machine if machine == self.machine => Some(self.lasting),
            _ => Some(pid),
        }
    }

    /// That of the machine.
    #[must_use]
    pub fn machine(self) -> u32 {
        self.machine
    }

    /// Whether it is one of these two.
    #[must_use]
    pub fn has(self, mount_ns: u32) -> bool {
        mount_ns == self.own || mount_ns == self.machine
    }
}

/// A path by which we come to a file that is found in this [way](Mounts::way). Links with a whole path lead astray: the
/// path is to be a real one.
#[must_use]
pub fn seen_from_here(path: &Path, way: Option<u32>) -> PathBuf {
    way.map_or_else(|| path.into(), |pid| root_of(pid).join(path.strip_prefix("/").unwrap_or(path)))
}

/// The real path of a file, from the root directory below which it is looked for.
#[cfg(target_os = "linux")]
#[must_use]
pub fn real_below(root: &File, path: &Path) -> Option<PathBuf> {
    use std::os::fd::AsRawFd;

    let found = open_in(root, path, libc::O_PATH | libc::O_CLOEXEC).ok()?;
    let real = std::fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).ok()?;
    let deleted = real.as_os_str().as_encoded_bytes().ends_with(b" (deleted)");
    (real.is_absolute() && !deleted).then_some(real)
}

/// The root directory of a process, open.
#[cfg(target_os = "linux")]
#[must_use]
pub fn open_root_of(pid: u32) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;

    File::options().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(root_of(pid)).ok()
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
