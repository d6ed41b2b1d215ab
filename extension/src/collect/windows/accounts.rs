//! Names of users: of the accounts that have a profile on this machine.
//!
//! A user is known by the last number of its SID, as in osquery. The name of a domain's account may be asked for over the
//! network, which the recording thread must not wait for: a thread asks, and a name is there when the answer is.

use std::collections::{HashMap, HashSet};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use windows_sys::Win32::Foundation::{ERROR_SUCCESS, LocalFree};
use windows_sys::Win32::Security::Authorization::ConvertStringSidToSidW;
use windows_sys::Win32::Security::{GetLengthSid, LookupAccountSidW, PSID};
use windows_sys::Win32::System::Registry::{
    HKEY, HKEY_LOCAL_MACHINE, KEY_READ, RegCloseKey, RegEnumKeyExW, RegOpenKeyExW,
};

use super::cursor::{Sid, text};
use crate::os::wide;
use crate::value::Text;

/// The accounts that have logged on, by their SIDs.
const PROFILES: &str = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion\ProfileList";
/// Between two questions.
const PAUSE: Duration = Duration::from_secs(60);
/// Units of a name, and of a SID as text.
const NAME: usize = 260;

/// The names of users, as far as they are known by now.
#[derive(Debug, Default)]
pub struct Accounts {
    asked: Option<Instant>,
    names: Arc<Mutex<HashMap<u32, Text>>>,
}

impl Accounts {
    /// Those that are known; asks for the others.
    pub fn names(&mut self) -> HashMap<u32, Text> {
        if self.asked.is_none_or(|asked| asked.elapsed() > PAUSE) {
            self.asked = Some(Instant::now());
            let names = Arc::clone(&self.names);
            let ask = move || {
                let found = accounts();
                *names.lock().unwrap_or_else(PoisonError::into_inner) = found;
            };
            if let Err(error) = std::thread::Builder::new().name("accounts".to_owned()).spawn(ask) {
                tracing::warn!(%error, "names of users cannot be asked for");
            }
        }
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All of them. A number that two accounts have names none.
fn accounts() -> HashMap<u32, Text> {
    let mut names = HashMap::new();
    let mut twice = HashSet::new();
    for (uid, name) in profiles().iter().filter_map(|sid| account_of(sid)) {
        if names.insert(uid, Text::from(name)).is_some() {
            twice.insert(uid);
        }
    }
    names.retain(|uid, _| !twice.contains(uid));
    names
}

/// The SIDs of those that have a profile, each ended by NUL.
fn profiles() -> Vec<Vec<u16>> {
    let mut key: HKEY = ptr::null_mut();
    let path = wide(PROFILES);
    // SAFETY: the path ends with NUL, and the key's place is ours.
    let status = unsafe { RegOpenKeyExW(HKEY_LOCAL_MACHINE, path.as_ptr(), 0, KEY_READ, &raw mut key) };
    if status != ERROR_SUCCESS {
        return Vec::new();
    }
    let mut sids = Vec::new();
    for index in 0.. {
        let mut name = [0_u16; NAME];
        let mut length = u32::try_from(NAME).unwrap_or(0);
        let (none, nowhere) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the key is open, and there is as much room as is said.
        let status = unsafe {
            RegEnumKeyExW(key, index, name.as_mut_ptr(), &raw mut length, ptr::null(), none, nowhere, ptr::null_mut())
        };
        if status != ERROR_SUCCESS {
            break;
        }
        sids.push(name.iter().copied().take_while(|unit| *unit != 0).chain([0]).collect());
    }
    // SAFETY: it was opened, and is closed once.
    unsafe { RegCloseKey(key) };
    sids
}

/// A SID that the system made of text.
struct Owned(PSID);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the system made it for us, and it is freed once.
        unsafe { LocalFree(self.0) };
    }
}

fn account_of(sid: &[u16]) -> Option<(u32, String)> {
    let mut made: PSID = ptr::null_mut();
    // SAFETY: the text ends with NUL, and the SID's place is ours.
    let done = unsafe { ConvertStringSidToSidW(sid.as_ptr(), &raw mut made) };
    if done == 0 || made.is_null() {
        return None; // a profile that is kept under another name
    }
    let sid = Owned(made);
    // SAFETY: the system made it, so it is one.
    let length = usize::try_from(unsafe { GetLengthSid(sid.0) }).ok()?;
    // SAFETY: it has that many bytes, until it is freed.
    let bytes = unsafe { std::slice::from_raw_parts(sid.0.cast::<u8>(), length) };
    let uid = Sid::of(bytes)?.uid()?;
    let (mut name, mut domain) = ([0_u16; NAME], [0_u16; NAME]);
    let room = u32::try_from(NAME).ok()?;
    let (mut name_length, mut domain_length, mut kind) = (room, room, 0);
    // SAFETY: the SID is one, and there is as much room as is said.
    let done = unsafe {
        LookupAccountSidW(
            ptr::null(),
            sid.0,
            name.as_mut_ptr(),
            &raw mut name_length,
            domain.as_mut_ptr(),
            &raw mut domain_length,
            &raw mut kind,
        )
    };
    let name = name.get(..usize::try_from(name_length).ok()?).filter(|_| done != 0)?;
    Some((uid, text(name)))
}
