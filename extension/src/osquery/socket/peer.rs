//! Who is at the other end of a connection: what the kernel says, never what the peer says.

use std::io;
use std::os::unix::net::UnixStream;

use super::GROUP;
use crate::os;
use crate::tables::Viewer;

/// In whose name a connection asks. Root, the group `agentquery` and whoever runs the server see all.
///
/// # Errors
/// When the system does not say who it is.
pub(in super::super) fn viewer(stream: &UnixStream) -> io::Result<Viewer> {
    let (uid, groups) = credentials(stream)?;
    if uid == 0 || uid == os::user() {
        return Ok(Viewer::All);
    }
    let groups_file = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let member = group_id(&groups_file, GROUP).is_some_and(|id| groups.contains(&id));
    Ok(if member { Viewer::All } else { Viewer::User(uid) })
}

/// The id of a group in a file of the format of `group(5)`. The file alone, as for users: a directory service could
/// make a connection wait for the network.
fn group_id(file: &str, name: &str) -> Option<u32> {
    let mut fields = file.lines().map(|line| line.split(':')).find_map(|mut fields| {
        let found = fields.next() == Some(name);
        found.then_some(fields)
    })?;
    fields.nth(1)?.parse().ok()
}

/// User and groups as they were when the peer connected: `SO_PEERCRED` and, since Linux 4.13, `SO_PEERGROUPS`.
#[cfg(target_os = "linux")]
fn credentials(stream: &UnixStream) -> io::Result<(u32, Vec<u32>)> {
    use std::os::fd::AsRawFd as _;

    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of_u32::<libc::ucred>();
    let fd = stream.as_raw_fd();
    // SAFETY: `peer` is valid for `length` bytes, and the descriptor is open.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut length) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // NGROUPS_MAX, include/uapi/linux/limits.h.
    let mut groups = vec![0_u32; 65536];
    let mut length = u32::try_from(groups.len() * size_of::<u32>()).unwrap_or(u32::MAX);
    // SAFETY: `groups` is valid for `length` bytes.
    let result = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERGROUPS, groups.as_mut_ptr().cast(), &raw mut length)
    };
    groups.truncate(if result == 0 { length as usize / size_of::<u32>() } else { 0 });
    groups.push(peer.gid);
    Ok((peer.uid, groups))
}

#[cfg(target_os = "linux")]
fn size_of_u32<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

/// User and first group, by `getpeereid(3)`.
#[cfg(not(target_os = "linux"))]
fn credentials(stream: &UnixStream) -> io::Result<(u32, Vec<u32>)> {
    use std::os::fd::AsRawFd as _;

    let (mut uid, mut gid) = (0, 0);
    // SAFETY: both are valid for writing, and the descriptor is open.
    if unsafe { libc::getpeereid(stream.as_raw_fd(), &raw mut uid, &raw mut gid) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((uid, vec![gid]))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_os = "linux")]
    use std::os::unix::fs::MetadataExt as _;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_tells_who_asks() {
        let (one, _other) = UnixStream::pair().unwrap();
        let own = std::fs::metadata("/proc/self").unwrap();
        let (uid, groups) = credentials(&one).unwrap();
        assert!(uid == own.uid() && groups.contains(&own.gid()), "{uid} {groups:?}");
        assert_eq!(viewer(&one).unwrap(), Viewer::All);
    }

    #[test]
    fn ids_of_groups() {
        let file = "root:x:0:\nbroken\nagentquery2:x:7:\nagentquery:x:991:alice,bob\n";
        assert_eq!(group_id(file, "agentquery"), Some(991));
        assert_eq!(group_id(file, "broken"), None);
        assert_eq!(group_id(file, "nobody"), None);
    }
}
