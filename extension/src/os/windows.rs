//! Windows: users by their security identifiers, files by their access lists.

mod console;
mod security;

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::windows::fs::OpenOptionsExt as _;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::path::{Path, PathBuf};

use windows_sys::Win32::Foundation::{
    ERROR_IO_PENDING, ERROR_LOCK_VIOLATION, FILETIME, HANDLE, INVALID_HANDLE_VALUE, WAIT_OBJECT_0,
};
use windows_sys::Win32::Storage::FileSystem::{
    DELETE, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_DELETE_ON_CLOSE, FILE_FLAG_OPEN_REPARSE_POINT, FILE_GENERIC_WRITE,
    LOCKFILE_EXCLUSIVE_LOCK, LOCKFILE_FAIL_IMMEDIATELY, LockFileEx, READ_CONTROL,
};
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, PROCESSENTRY32W, Process32FirstW, Process32NextW, TH32CS_SNAPPROCESS,
};
use windows_sys::Win32::System::IO::OVERLAPPED;
use windows_sys::Win32::System::Registry::{HKEY_LOCAL_MACHINE, RRF_RT_REG_SZ, RegGetValueW};
use windows_sys::Win32::System::SystemInformation::{ComputerNamePhysicalDnsHostname, GetComputerNameExW};
use windows_sys::Win32::System::Threading::{
    GetProcessTimes, OpenProcess, PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE, WaitForSingleObject,
};
use windows_sys::Win32::UI::Shell::{FOLDERID_LocalAppData, FOLDERID_ProgramData, SHGetKnownFolderPath};

use super::access;
pub use console::{Key, errors_to, on_key};
pub(crate) use security::Descriptor;
pub use security::{is_administrator, user_name};

/// A text as the system's functions take it.
pub(crate) fn wide(text: impl AsRef<std::ffi::OsStr>) -> Vec<u16> {
    use std::os::windows::ffi::OsStrExt as _;
    text.as_ref().encode_wide().chain([0]).collect()
}

/// A text as they give it.
fn narrow(wide: &[u16]) -> String {
    String::from_utf16_lossy(wide.split(|unit| *unit == 0).next().unwrap_or_default())
}

/// What a function returned that says by a number whether it went well.
pub(crate) fn done(result: i32) -> io::Result<()> {
    if result == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The handle that a function gave, which is ours now.
pub(crate) fn owned(handle: HANDLE) -> io::Result<OwnedHandle> {
    if handle.is_null() || handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nobody else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// Makes a directory and those above it; what is new is for this user, administrators and the system alone. One that is
/// there stays as it is.
///
/// # Errors
/// When it cannot be made.
pub fn make_private(directory: &Path) -> io::Result<()> {
    let directory = std::path::absolute(directory)?;
    let descriptor = Descriptor::of_folder()?;
    let missing: Vec<_> = directory.ancestors().take_while(|above| !above.exists()).collect();
    for directory in missing.iter().rev() {
        match descriptor.create_directory(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
    }
    if directory.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// A link is not followed. Who may read a new file is inherited from its directory.
pub fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags(FILE_FLAG_OPEN_REPARSE_POINT)
}

/// A path without links and steps back, as other programs take it too: without the prefix `\\?\` where it is a drive's.
///
/// # Errors
/// When it leads nowhere.
pub fn real_path(path: &Path) -> io::Result<PathBuf> {
    let real = path.canonicalize()?;
    let text = real.to_string_lossy();
    let plain = text.strip_prefix(r"\\?\").filter(|plain| plain.as_bytes().get(1) == Some(&b':'));
    Ok(plain.map_or_else(|| real.clone(), PathBuf::from))
}

/// From now on the file is for this user, administrators and the system alone.
///
/// # Errors
/// When it cannot be changed.
pub fn protect(file: &Path) -> io::Result<()> {
    Descriptor::of_file()?.put_on(file)
}

/// Opens what is there to look at its descriptor; a link is taken for itself.
fn look_at(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .access_mode(READ_CONTROL)
        .custom_flags(FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT)
        .open(path)
}

/// Whether a file or directory is this user's, or of administrators when this user is one; a link is taken for itself.
///
/// # Errors
/// When it cannot be looked at.
pub fn is_own(path: &Path) -> io::Result<bool> {
    let descriptor = security::descriptor(&look_at(path)?)?;
    let owner = access::owner(&descriptor).unwrap_or_default();
    // What an administrator makes belongs to all of them.
    Ok(owner == security::user()? || (is_administrator() && matches!(owner, "BA" | "SY" | "LA")))
}

/// Whether nobody but administrators may read it.
#[cfg(test)]
pub(super) fn only_ours_to_read(path: &Path) -> io::Result<bool> {
    Ok(!access::others_may(&security::descriptor(&look_at(path)?)?, &security::user()?, access::READ))
}

/// Opens a file to be looked at.
///
/// # Errors
/// When it cannot be opened.
pub fn open_to_read(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(FILE_FLAG_OPEN_REPARSE_POINT).open(path)
}

/// Whether nobody but the system, administrators and this user can change an open file.
///
/// # Errors
/// When it cannot be looked at.
pub fn only_ours_to_change(file: &File) -> io::Result<bool> {
    Ok(!access::others_may(&security::descriptor(file)?, &security::user()?, access::CHANGE))
}

/// Whether nobody else can change what is in a directory.
///
/// # Errors
/// When it cannot be looked at.
pub fn only_ours_to_fill(directory: &Path) -> io::Result<bool> {
    only_ours_to_change(&look_at(directory)?)
}

/// Whether nobody else can put another file or directory in the place of one in this directory.
///
/// # Errors
/// When it cannot be looked at.
pub fn only_ours_to_rename_in(directory: &Path) -> io::Result<bool> {
    Ok(!access::others_may(&security::descriptor(&look_at(directory)?)?, &security::user()?, access::RENAME_IN))
}

/// What to say of a command that needs more rights.
#[must_use]
pub fn elevated(command: &str) -> String {
    format!("{command} (as administrator)")
}

/// How to have a file believed.
#[must_use]
pub fn how_to_trust(file: &Path) -> String {
    // The names of groups are translated, their identifiers are not.
    format!(
        "icacls \"{0}\" /setowner *S-1-5-32-544 && icacls \"{0}\" /inheritance:r /grant *S-1-5-32-544:F *S-1-5-18:F",
        file.display()
    )
}

/// A byte beyond the end of any file: a lock keeps readers out of what is locked, and the text of a lock's file is for
/// everybody to read.
fn lock_beyond(file: &File, flags: u32) -> io::Result<()> {
    // SAFETY: a struct of numbers and a pointer, for which zero is a value.
    let mut place: OVERLAPPED = unsafe { std::mem::zeroed() };
    place.Anonymous.Anonymous.OffsetHigh = 0x7fff_ffff;
    // SAFETY: the handle is open and was opened to wait, so that `place` is not used afterwards.
    done(unsafe { LockFileEx(file.as_raw_handle(), flags, 0, 1, 0, &raw mut place) })
}

/// Takes the lock of a file, which ends with the process.
///
/// # Errors
/// When somebody has it, or it cannot be had.
pub fn try_lock(file: &File) -> Result<(), TryLockError> {
    lock_beyond(file, LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY).map_err(|error| {
        let held = [ERROR_LOCK_VIOLATION, ERROR_IO_PENDING].map(|code| i32::try_from(code).ok());
        if held.contains(&error.raw_os_error()) { TryLockError::WouldBlock } else { TryLockError::Error(error) }
    })
}

/// Waits for the lock of a file.
///
/// # Errors
/// When it cannot be had.
pub fn lock(file: &File) -> io::Result<()> {
    lock_beyond(file, LOCKFILE_EXCLUSIVE_LOCK)
}

/// The file beside a folder that is there for as long as somebody holds the folder.
fn hold_of(folder: &Path) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// Says that a folder is in use, for as long as this process lives and keeps what is returned.
///
/// # Errors
/// When that cannot be said.
pub fn hold(folder: &Path) -> io::Result<File> {
    // A directory cannot be locked. The system deletes this file with its last handle, however that ends.
    OpenOptions::new()
        .access_mode(FILE_GENERIC_WRITE | DELETE)
        .write(true)
        .create_new(true)
        .custom_flags(FILE_FLAG_DELETE_ON_CLOSE)
        .open(hold_of(folder))
}

/// Whether somebody holds a folder.
#[must_use]
pub fn is_held(folder: &Path) -> bool {
    hold_of(folder).exists()
}

/// The process that started this one; none when it had ended before it was looked for.
#[derive(Debug)]
pub struct Parent(Option<OwnedHandle>);

impl Parent {
    /// As it is now.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self(parent().ok().flatten())
    }

    /// It has ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let Some(process) = &self.0 else { return false };
        // SAFETY: the handle is open.
        unsafe { WaitForSingleObject(process.as_raw_handle(), 0) == WAIT_OBJECT_0 }
    }
}

fn parent() -> io::Result<Option<OwnedHandle>> {
    // SAFETY: takes no pointers.
    let snapshot = owned(unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0) })?;
    // SAFETY: a struct of numbers and texts, for which zero is a value.
    let mut entry: PROCESSENTRY32W = unsafe { std::mem::zeroed() };
    entry.dwSize = u32::try_from(size_of::<PROCESSENTRY32W>()).map_err(io::Error::other)?;
    // SAFETY: the snapshot is open, and the entry says its size.
    let mut found = unsafe { Process32FirstW(snapshot.as_raw_handle(), &raw mut entry) };
    while found != 0 && entry.th32ProcessID != std::process::id() {
        // SAFETY: as above.
        found = unsafe { Process32NextW(snapshot.as_raw_handle(), &raw mut entry) };
    }
    done(found)?;
    let process = open_process(entry.th32ParentProcessID)?;
    // A pid is used again: who began after this process did not start it.
    let own = open_process(std::process::id()).and_then(|own| began(&own))?;
    Ok(if began(&process)? <= own { Some(process) } else { None })
}

fn open_process(pid: u32) -> io::Result<OwnedHandle> {
    // SAFETY: takes no pointers.
    owned(unsafe { OpenProcess(PROCESS_SYNCHRONIZE | PROCESS_QUERY_LIMITED_INFORMATION, 0, pid) })
}

/// When a process began, in units of 100 ns.
fn began(process: &OwnedHandle) -> io::Result<u64> {
    let [mut created, mut exited, mut kernel, mut user] = [FILETIME { dwLowDateTime: 0, dwHighDateTime: 0 }; 4];
    // SAFETY: the handle is open, and all are valid for writing.
    done(unsafe {
        GetProcessTimes(process.as_raw_handle(), &raw mut created, &raw mut exited, &raw mut kernel, &raw mut user)
    })?;
    Ok(u64::from(created.dwHighDateTime) << 32 | u64::from(created.dwLowDateTime))
}

/// Has a process that this one started end. There is no signal to ask it by: it is ended, which a recorder stands.
///
/// # Errors
/// When it is not there.
pub fn ask_to_end(child: &mut std::process::Child) -> io::Result<()> {
    child.kill()
}

/// The name of this machine; empty when it has none.
#[must_use]
pub fn host_name() -> String {
    let mut name = [0_u16; 256];
    let mut length = 256;
    // SAFETY: the buffer is of that length.
    let told = unsafe { GetComputerNameExW(ComputerNamePhysicalDnsHostname, name.as_mut_ptr(), &raw mut length) };
    if told == 0 { String::new() } else { narrow(&name) }
}

/// What tells this machine from others that are called the same; empty when there is nothing.
#[must_use]
pub fn machine_id() -> String {
    let (key, value) = (wide(r"SOFTWARE\Microsoft\Cryptography"), wide("MachineGuid"));
    let mut id = [0_u16; 64];
    let mut bytes = 128;
    // SAFETY: the names end with a zero, and the buffer is of that many bytes.
    let error = unsafe {
        RegGetValueW(
            HKEY_LOCAL_MACHINE,
            key.as_ptr(),
            value.as_ptr(),
            RRF_RT_REG_SZ,
            std::ptr::null_mut(),
            id.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    if error == 0 { narrow(&id) } else { String::new() }
}

/// Where programs keep what is the whole machine's: `C:\ProgramData`.
#[must_use]
pub fn program_data() -> Option<PathBuf> {
    known_folder(&FOLDERID_ProgramData)
}

/// Where programs keep what is this user's: `%LOCALAPPDATA%`.
#[must_use]
pub fn local_app_data() -> Option<PathBuf> {
    known_folder(&FOLDERID_LocalAppData)
}

/// Asked of the system: the environment could be another user's.
fn known_folder(id: &windows_sys::core::GUID) -> Option<PathBuf> {
    let mut text = std::ptr::null_mut();
    // SAFETY: the id is valid, and the pointer is for writing.
    let failed = unsafe { SHGetKnownFolderPath(id, 0, std::ptr::null_mut(), &raw mut text) } != 0;
    // SAFETY: a text that ends with a zero, when it is there, and nobody else's.
    let folder = unsafe { security::taken(text, security::free_task_memory) };
    folder.filter(|_| !failed).map(PathBuf::from)
}
