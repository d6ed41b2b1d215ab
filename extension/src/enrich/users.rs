//! Names of users, from the passwd file alone; on Windows those of the accounts that have a profile.
//!
//! The C library would ask whatever `nsswitch.conf` names, perhaps over the network, and the recording thread must not
//! wait for that. Users of a directory service have no name here; osquery's `users` has them for a JOIN. On macOS all
//! but the system's own are in its directory service, on the machine: there it is asked, once for each user.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::value::Text;

/// The passwd file, read again when it changed.
#[derive(Debug)]
pub struct Users {
    file: PathBuf,
    read: Option<SystemTime>,
    names: HashMap<u32, Text>,
    /// Asked for by a thread of their own, for one of them may be a domain's.
    #[cfg(windows)]
    accounts: crate::collect::windows::accounts::Accounts,
    /// Of those who are not in it.
    #[cfg(target_os = "macos")]
    asked: HashMap<u32, Option<Text>>,
}

impl Default for Users {
    fn default() -> Self {
        Self::new("/etc/passwd".into())
    }
}

impl Users {
    /// Users of this file, in the format of `passwd(5)`.
    #[must_use]
    pub fn new(file: PathBuf) -> Self {
        Self {
            file,
            read: None,
            names: HashMap::new(),
            #[cfg(windows)]
            accounts: crate::collect::windows::accounts::Accounts::default(),
            #[cfg(target_os = "macos")]
            asked: HashMap::new(),
        }
    }

    /// The name of a user id.
    pub fn name(&mut self, uid: u32) -> Option<Text> {
        if !self.names.contains_key(&uid) {
            self.refresh();
        }
        #[cfg(target_os = "macos")]
        if !self.names.contains_key(&uid) {
            return self.asked.entry(uid).or_insert_with(|| directory_name(uid)).clone();
        }
        self.names.get(&uid).cloned()
    }

    fn refresh(&mut self) {
        #[cfg(windows)]
        self.names.extend(self.accounts.names());
        let changed = std::fs::metadata(&self.file).and_then(|metadata| metadata.modified()).ok();
        if changed.is_none() || changed == self.read {
            return;
        }
        self.read = changed;
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let entry = |line: &str| {
            let mut fields = line.split(':');
            let (name, uid) = (fields.next()?, fields.nth(1)?.parse().ok()?);
            Some((uid, Text::from(name)))
        };
        // The first entry of a uid is its name, as getpwuid has it.
        self.names = text.lines().rev().filter_map(entry).collect();
    }
}

/// The name of a user as the directory service has it.
#[cfg(target_os = "macos")]
fn directory_name(uid: u32) -> Option<Text> {
    let mut entry = std::mem::MaybeUninit::<libc::passwd>::zeroed();
    let mut found = std::ptr::null_mut();
    let mut texts = [0; 4096];
    // SAFETY: the entry and the room for its texts live as long as what is read of them, and are as large as is said.
    let error = unsafe { libc::getpwuid_r(uid, entry.as_mut_ptr(), texts.as_mut_ptr(), texts.len(), &raw mut found) };
    if error != 0 || found.is_null() {
        return None;
    }
    // SAFETY: without an error and with an entry it is whole.
    let entry = unsafe { entry.assume_init() };
    // SAFETY: a name that ends in a zero, in the room above.
    let name = unsafe { std::ffi::CStr::from_ptr(entry.pw_name) };
    Some(Text::from(crate::event::escape(name.to_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_of_a_uid_counts_and_bad_lines_do_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "root:x:0:0::/root:/bin/sh\nbroken\ntoor:x:0:0:::\nu:x:7:7:::\n").unwrap();
        let mut users = Users::new(file.path().into());
        assert_eq!(users.name(0).as_deref(), Some("root"));
        assert_eq!(users.name(7).as_deref(), Some("u"));
        assert_eq!(users.name(8), None);
    }
}
