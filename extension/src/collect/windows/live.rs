//! Asking a process that runs: when it began, whose it is, what it was started with.

use std::ptr;

use windows_sys::Wdk::System::Threading::{NtQueryInformationProcess, ProcessBasicInformation};
use windows_sys::Win32::Foundation::{CloseHandle, FILETIME, HANDLE};
use windows_sys::Win32::Security::{GetTokenInformation, TOKEN_QUERY, TokenUser};
use windows_sys::Win32::System::Diagnostics::Debug::ReadProcessMemory;
use windows_sys::Win32::System::Threading::{
    GetProcessTimes, OpenProcess, OpenProcessToken, PROCESS_BASIC_INFORMATION, PROCESS_QUERY_LIMITED_INFORMATION,
    PROCESS_VM_READ,
};

use super::cursor::Sid;
use super::parameters::{LENGTH, MOST, PARAMETERS, Parameters, Place, directory_of, text_of, variables_of};
use super::processes::Live;

/// What is closed when it is not used any more.
struct Handle(HANDLE);

impl Handle {
    fn of(handle: HANDLE) -> Option<Self> {
        (!handle.is_null()).then_some(Self(handle))
    }

    fn process(pid: u32, rights: u32) -> Option<Self> {
        // SAFETY: it takes numbers alone.
        Self::of(unsafe { OpenProcess(rights, 0, pid) })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: it is ours, open, and closed once.
        unsafe { CloseHandle(self.0) };
    }
}

/// When a process began, 100 nanoseconds since 1601, as its start's event tells it.
#[must_use]
pub fn created(pid: u32) -> Option<u64> {
    created_of(&Handle::process(pid, PROCESS_QUERY_LIMITED_INFORMATION)?)
}

fn created_of(process: &Handle) -> Option<u64> {
    let none = FILETIME { dwLowDateTime: 0, dwHighDateTime: 0 };
    let [mut created, mut exited, mut kernel, mut user] = [none; 4];
    // SAFETY: the handle is open, and the times are ours.
    let done = unsafe { GetProcessTimes(process.0, &raw mut created, &raw mut exited, &raw mut kernel, &raw mut user) };
    (done != 0).then(|| u64::from(created.dwHighDateTime) << 32 | u64::from(created.dwLowDateTime))
}

/// The user that a process runs as, as osquery numbers users.
#[must_use]
pub fn user(pid: u32) -> Option<u32> {
    user_of(&Handle::process(pid, PROCESS_QUERY_LIMITED_INFORMATION)?)
}

fn user_of(process: &Handle) -> Option<u32> {
    let mut token = ptr::null_mut();
    // SAFETY: the handle is open, and the token's place is ours.
    let opened = unsafe { OpenProcessToken(process.0, TOKEN_QUERY, &raw mut token) };
    let token = Handle::of(token).filter(|_| opened != 0)?;
    // A TOKEN_USER, and behind it the SID that it points to; aligned as its pointer must be.
    let mut answer = [0_u64; 32];
    let mut length = 0;
    let room = u32::try_from(size_of_val(&answer)).ok()?;
    // SAFETY: there is as much room as is said.
    let told = unsafe { GetTokenInformation(token.0, TokenUser, answer.as_mut_ptr().cast(), room, &raw mut length) };
    let bytes: Vec<u8> = answer.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let begin = answer.as_ptr().addr();
    let at = usize::try_from(u64::from_ne_bytes(*bytes.first_chunk()?)).ok()?.checked_sub(begin)?;
    bytes.get(at..).filter(|_| told != 0).and_then(Sid::of)?.uid()
}

/// What a process was started with, if it is the one that began then.
#[must_use]
pub fn ask(pid: u32, since: u64, markers: &[String]) -> Live {
    let readable = Handle::process(pid, PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_VM_READ);
    // Of a protected process a little is told nevertheless.
    let Some(process) = readable.or_else(|| Handle::process(pid, PROCESS_QUERY_LIMITED_INFORMATION)) else {
        return Live::default();
    };
    if created_of(&process) != Some(since) {
        return Live::default();
    }
    let uid = user_of(&process);
    let Some(parameters) = parameters_of(&process) else { return Live { uid, ..Live::default() } };
    let some = |place: Place| read(&process, place).filter(|bytes| !bytes.is_empty());
    let environment = if markers.is_empty() { None } else { some(parameters.environment) };
    Live {
        command_line: some(parameters.command_line).map(|bytes| text_of(&bytes)),
        directory: some(parameters.directory).map(|bytes| directory_of(&bytes)),
        markers: environment.map(|bytes| variables_of(&bytes, markers)).unwrap_or_default(),
        uid,
    }
}

/// Of a 64-bit process, and of a 32-bit one, which has a 64-bit block too.
fn parameters_of(process: &Handle) -> Option<Parameters> {
    if size_of::<usize>() != 8 {
        return None; // this program's pointers are not the ones that are looked for
    }
    let mut basic = PROCESS_BASIC_INFORMATION::default();
    let room = u32::try_from(size_of_val(&basic)).ok()?;
    // SAFETY: the handle is open, and there is as much room as is said.
    let status = unsafe {
        NtQueryInformationProcess(process.0, ProcessBasicInformation, (&raw mut basic).cast(), room, ptr::null_mut())
    };
    let block = u64::try_from(basic.PebBaseAddress.addr()).ok().filter(|block| status == 0 && *block != 0)?;
    let pointer = read(process, Place { address: block.checked_add(PARAMETERS)?, length: 8 })?;
    let address = u64::from_le_bytes(*pointer.first_chunk()?);
    Parameters::of(&read(process, Place { address, length: LENGTH })?)
}

fn read(process: &Handle, place: Place) -> Option<Vec<u8>> {
    let mut bytes = vec![0; place.length.min(MOST)];
    let address = ptr::without_provenance(usize::try_from(place.address).ok()?);
    let mut length = 0;
    // SAFETY: there is as much room as is said; whatever address it is, it is the other process' and checked by the kernel.
    let done =
        unsafe { ReadProcessMemory(process.0, address, bytes.as_mut_ptr().cast(), bytes.len(), &raw mut length) };
    bytes.truncate(length);
    (done != 0).then_some(bytes)
}
