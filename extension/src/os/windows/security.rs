//! Security identifiers and descriptors, as texts.

use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::OnceLock;

use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Security::Authorization::{
    ConvertSecurityDescriptorToStringSecurityDescriptorW, ConvertSidToStringSidW,
    ConvertStringSecurityDescriptorToSecurityDescriptorW, GetSecurityInfo, SDDL_REVISION_1, SE_FILE_OBJECT,
};
use windows_sys::Win32::Security::{
    CheckTokenMembership, CreateWellKnownSid, DACL_SECURITY_INFORMATION, GetTokenInformation,
    OWNER_SECURITY_INFORMATION, PROTECTED_DACL_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES,
    SECURITY_MAX_SID_SIZE, SetFileSecurityW, TOKEN_QUERY, TOKEN_USER, TokenUser, WinBuiltinAdministratorsSid,
};
use windows_sys::Win32::Storage::FileSystem::CreateDirectoryW;
use windows_sys::Win32::System::Com::CoTaskMemFree;
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

use super::{done, narrow, owned, wide};

/// Gives memory back that `Local...` functions gave.
unsafe fn free_local(memory: *mut c_void) {
    // SAFETY: as the caller promises.
    unsafe { LocalFree(memory) };
}

/// Gives memory back that the shell gave.
pub(super) unsafe fn free_task_memory(memory: *mut c_void) {
    // SAFETY: as the caller promises.
    unsafe { CoTaskMemFree(memory) };
}

/// Copies a text that the system made, and gives its memory back; none when there is none.
///
/// # Safety
/// The text ends with a zero, is nobody else's, and was made by what `free` belongs to.
pub(super) unsafe fn taken(text: *mut u16, free: unsafe fn(*mut c_void)) -> Option<String> {
    if text.is_null() {
        return None;
    }
    let (mut end, mut length) = (text, 0);
    // SAFETY: not beyond the zero.
    while unsafe { *end } != 0 {
        end = end.wrapping_add(1);
        length += 1;
    }
    // SAFETY: so many were looked at.
    let copy = narrow(unsafe { std::slice::from_raw_parts(text, length) });
    // SAFETY: as the caller promises; it is not used any more.
    unsafe { free(text.cast()) };
    Some(copy)
}

/// Whether this process has the rights of an administrator, which one that was not elevated has not.
#[must_use]
pub fn is_administrator() -> bool {
    let mut sid = [0_u8; SECURITY_MAX_SID_SIZE as usize];
    let mut length = SECURITY_MAX_SID_SIZE;
    let sid = sid.as_mut_ptr().cast();
    // SAFETY: the buffer is as large as any identifier.
    let made = unsafe { CreateWellKnownSid(WinBuiltinAdministratorsSid, null_mut(), sid, &raw mut length) };
    let mut member = 0;
    // SAFETY: no token means this thread's; the identifier is valid when it was made.
    made != 0 && unsafe { CheckTokenMembership(null_mut(), sid, &raw mut member) } != 0 && member != 0
}

/// The user that this process runs as, as text.
pub(super) fn user() -> io::Result<String> {
    static USER: OnceLock<String> = OnceLock::new();
    if let Some(user) = USER.get() {
        return Ok(user.clone());
    }
    let token = token()?;
    // A token's user is a pointer to an identifier behind it.
    let mut told = [0_u64; (size_of::<TOKEN_USER>() + SECURITY_MAX_SID_SIZE as usize).div_ceil(8)];
    let size = u32::try_from(size_of_val(&told)).map_err(io::Error::other)?;
    let mut length = 0;
    let into = told.as_mut_ptr().cast();
    // SAFETY: the buffer is of that size.
    done(unsafe { GetTokenInformation(token.as_raw_handle(), TokenUser, into, size, &raw mut length) })?;
    // SAFETY: that is what it has written there; the buffer is aligned for it.
    let user = unsafe { &*told.as_ptr().cast::<TOKEN_USER>() };
    let mut text = null_mut();
    // SAFETY: the identifier lies within the buffer.
    done(unsafe { ConvertSidToStringSidW(user.User.Sid, &raw mut text) })?;
    // SAFETY: made by LocalAlloc, for us.
    let text = unsafe { taken(text, free_local) }.ok_or(io::ErrorKind::InvalidData)?;
    Ok(USER.get_or_init(|| text).clone())
}

fn token() -> io::Result<OwnedHandle> {
    let mut token = null_mut();
    // SAFETY: takes no pointers.
    let process = unsafe { GetCurrentProcess() };
    // SAFETY: the pointer is for writing.
    done(unsafe { OpenProcessToken(process, TOKEN_QUERY, &raw mut token) })?;
    owned(token)
}

/// Who this process runs as, for a message.
#[must_use]
pub fn user_name() -> String {
    user().unwrap_or_else(|_| "unknown".to_owned())
}

/// Owner and access list of something open, as text.
pub(super) fn descriptor(open: &impl AsRawHandle) -> io::Result<String> {
    const WHAT: u32 = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;
    let mut found = Descriptor(null_mut());
    // SAFETY: the handle is open; the parts are not asked for by themselves.
    let error = unsafe {
        GetSecurityInfo(
            open.as_raw_handle(),
            SE_FILE_OBJECT,
            WHAT,
            null_mut(),
            null_mut(),
            null_mut(),
            null_mut(),
            &raw mut found.0,
        )
    };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(i32::try_from(error).unwrap_or(i32::MAX)));
    }
    let mut text = null_mut();
    // SAFETY: the descriptor is valid, and the length is not asked for.
    done(unsafe {
        ConvertSecurityDescriptorToStringSecurityDescriptorW(found.0, SDDL_REVISION_1, WHAT, &raw mut text, null_mut())
    })?;
    // SAFETY: made by LocalAlloc, for us.
    unsafe { taken(text, free_local) }.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Who may use what is made: the system, administrators and this user, and nobody by inheritance.
pub(crate) struct Descriptor(PSECURITY_DESCRIPTOR);

// SAFETY: memory that nobody changes.
unsafe impl Send for Descriptor {}
// SAFETY: as above.
unsafe impl Sync for Descriptor {}

impl Descriptor {
    /// Of a file or a pipe.
    pub(crate) fn of_file() -> io::Result<Self> {
        Self::with("")
    }

    /// Of a directory, and of all that is made in it.
    pub(super) fn of_folder() -> io::Result<Self> {
        Self::with("OICI")
    }

    fn with(flags: &str) -> io::Result<Self> {
        let user = user()?;
        let who = ["SY", "BA", &user].map(|who| format!("(A;{flags};FA;;;{who})"));
        let text = wide(format!("D:P{}", who.concat()));
        let mut descriptor = null_mut();
        // SAFETY: the text ends with a zero, and the length is not asked for.
        done(unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &raw mut descriptor,
                null_mut(),
            )
        })?;
        Ok(Self(descriptor))
    }

    /// As functions take it that make something; not to be used longer than this.
    pub(crate) fn attributes(&self) -> SECURITY_ATTRIBUTES {
        let length = u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap_or_default();
        SECURITY_ATTRIBUTES { nLength: length, lpSecurityDescriptor: self.0, bInheritHandle: 0 }
    }

    pub(super) fn create_directory(&self, directory: &Path) -> io::Result<()> {
        let (name, attributes) = (wide(directory), self.attributes());
        // SAFETY: the name ends with a zero, and the descriptor is valid.
        done(unsafe { CreateDirectoryW(name.as_ptr(), &raw const attributes) })
    }

    pub(super) fn put_on(&self, file: &Path) -> io::Result<()> {
        let name = wide(file);
        let what = DACL_SECURITY_INFORMATION | PROTECTED_DACL_SECURITY_INFORMATION;
        // SAFETY: the name ends with a zero, and the descriptor is valid.
        done(unsafe { SetFileSecurityW(name.as_ptr(), what, self.0) })
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by LocalAlloc, for us.
        unsafe { free_local(self.0) };
    }
}
