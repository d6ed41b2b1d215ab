//! Windows: a named pipe.
//!
//! A file's own reads and writes have no limit on their time, and cannot be ended from elsewhere. So each is begun
//! overlapped, and waited for together with what ends it
//! (<https://learn.microsoft.com/windows/win32/ipc/synchronous-and-overlapped-input-and-output>).
//!
//! Nobody else can pretend to be the server: the first instance of a pipe must be the first, and whoever may not connect may
//! not add another one. There is always one that waits, until the server ends, and with it the name. What a name is that
//! somebody else had first cannot be said; that is an error.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::windows::fs::OpenOptionsExt as _;
use std::os::windows::io::{AsRawHandle as _, OwnedHandle};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_BROKEN_PIPE, ERROR_IO_PENDING, ERROR_NO_DATA, ERROR_PIPE_BUSY, ERROR_PIPE_CONNECTED,
    HANDLE, WAIT_OBJECT_0, WAIT_TIMEOUT,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, PIPE_ACCESS_DUPLEX, ReadFile, SECURITY_IDENTIFICATION,
    WriteFile,
};
use windows_sys::Win32::System::IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED};
use windows_sys::Win32::System::Pipes::{
    ConnectNamedPipe, CreateNamedPipeW, DisconnectNamedPipe, PIPE_READMODE_BYTE, PIPE_REJECT_REMOTE_CLIENTS,
    PIPE_TYPE_BYTE, PIPE_UNLIMITED_INSTANCES, PIPE_WAIT, WaitNamedPipeW,
};
use windows_sys::Win32::System::Threading::{CreateEventW, INFINITE, SetEvent, WaitForMultipleObjects};

use super::{Access, BindError};
use crate::os::{self, done, owned};
use crate::tables::Viewer;

/// What a local pipe's name begins with.
const NAMES: &str = r"\\.\pipe\";

/// Bytes of a pipe's buffer, each way, and of a write: one is begun again when as many were taken.
const BUFFER: u32 = 64 << 10;

/// Between two looks whether a pipe is to be had.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a name may still be in use by connections of a server that has ended.
const LEAVING: Duration = Duration::from_secs(1);

/// Something that happens once.
#[derive(Debug)]
struct Event(OwnedHandle);

impl Event {
    fn new() -> io::Result<Self> {
        // SAFETY: neither attributes nor a name are given.
        owned(unsafe { CreateEventW(std::ptr::null(), 1, 0, std::ptr::null()) }).map(Self)
    }

    fn set(&self) {
        // SAFETY: the handle is open.
        unsafe { SetEvent(self.0.as_raw_handle()) };
    }
}

fn is(error: &io::Error, codes: &[u32]) -> bool {
    error.raw_os_error().and_then(|code| u32::try_from(code).ok()).is_some_and(|code| codes.contains(&code))
}

fn milliseconds(time: Option<Duration>) -> u32 {
    // Rounded up: less than the smallest is not nothing.
    let rounded = |time: Duration| u32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(INFINITE - 1);
    time.map_or(INFINITE, |time| rounded(time).min(INFINITE - 1))
}

/// Begins something on a pipe and waits until it is done, for as long as there is time and nobody has ended it. The number
/// of its bytes is returned.
///
/// What is begun must use memory that outlives this call: nothing uses it afterwards.
fn complete(
    pipe: &OwnedHandle,
    ended: &Event,
    time: Option<Duration>,
    begin: impl FnOnce(HANDLE, *mut OVERLAPPED) -> i32,
) -> io::Result<usize> {
    let finished = Event::new()?;
    // SAFETY: a struct of numbers and pointers, for which zero is a value.
    let mut operation: OVERLAPPED = unsafe { std::mem::zeroed() };
    operation.hEvent = finished.0.as_raw_handle();
    let pipe = pipe.as_raw_handle();
    if let Err(error) = done(begin(pipe, &raw mut operation))
        && !is(&error, &[ERROR_IO_PENDING])
    {
        return Err(error);
    }
    let events = [finished.0.as_raw_handle(), ended.0.as_raw_handle()];
    // SAFETY: two handles, both open.
    let waited = unsafe { WaitForMultipleObjects(2, events.as_ptr(), 0, milliseconds(time)) };
    if waited != WAIT_OBJECT_0 {
        // SAFETY: both are valid. It may be done by now: that is told below.
        unsafe { CancelIoEx(pipe, &raw const operation) };
    }
    let mut bytes = 0;
    // SAFETY: all are valid; it waits until the system uses none of the memory any more.
    let result = done(unsafe { GetOverlappedResult(pipe, &raw const operation, &raw mut bytes, 1) });
    match (result, waited) {
        (Ok(()), _) => Ok(bytes as usize),
        (Err(_), WAIT_TIMEOUT) => Err(io::ErrorKind::TimedOut.into()),
        (Err(error), WAIT_OBJECT_0) => Err(error),
        (Err(_), _) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// A connection.
#[derive(Debug, Clone)]
pub(in super::super) struct Stream(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    pipe: OwnedHandle,
    ended: Event,
    times: Mutex<Times>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Times {
    read: Option<Duration>,
    write: Option<Duration>,
}

impl Stream {
    fn new(pipe: OwnedHandle) -> io::Result<Self> {
        Ok(Self(Arc::new(Connection { pipe, ended: Event::new()?, times: Mutex::default() })))
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.0.times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same connection.
    #[allow(clippy::unnecessary_wraps)] // a socket's can fail
    pub(in super::super) fn try_clone(&self) -> io::Result<Self> {
        Ok(self.clone())
    }

    /// How long a read may take.
    #[allow(clippy::unnecessary_wraps)] // as above
    pub(in super::super) fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        self.times().read = time;
        Ok(())
    }

    /// How long a write of a piece may take.
    #[allow(clippy::unnecessary_wraps)] // as above
    pub(in super::super) fn set_write_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        self.times().write = time;
        Ok(())
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let (to, length) = (buffer.as_mut_ptr(), u32::try_from(buffer.len()).unwrap_or(u32::MAX));
        let time = self.times().read;
        let read = complete(&self.0.pipe, &self.0.ended, time, |pipe, operation| {
            // SAFETY: the buffer is of that length, and nobody else's until the operation is complete.
            unsafe { ReadFile(pipe, to, length, std::ptr::null_mut(), operation) }
        });
        match read {
            // The other side has left, or this one was ended.
            Err(error) if is(&error, &[ERROR_BROKEN_PIPE]) => Ok(0),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(0),
            read => read,
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0); // it would be read as an end
        }
        let (from, length) = (bytes.as_ptr(), u32::try_from(bytes.len()).unwrap_or(BUFFER).min(BUFFER));
        let time = self.times().write;
        complete(&self.0.pipe, &self.0.ended, time, |pipe, operation| {
            // SAFETY: there are so many bytes, and they stay until the operation is complete.
            unsafe { WriteFile(pipe, from, length, std::ptr::null_mut(), operation) }
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Its readers and writers on this side see its end; the other side does when they have left.
pub(in super::super) fn end(stream: &Stream) {
    stream.0.ended.set();
}

/// In whose name a connection asks: only who may see all can connect.
#[allow(clippy::unnecessary_wraps)] // a socket's can fail
pub(in super::super) fn viewer(_: &Stream) -> io::Result<Viewer> {
    Ok(Viewer::All)
}

/// A pipe's name. What is no pipe of this machine would be opened, and written to, as well.
fn name(path: &Path) -> io::Result<Vec<u16>> {
    let text = path.to_string_lossy().to_ascii_lowercase();
    match text.strip_prefix(NAMES) {
        Some(rest) if !rest.is_empty() && !rest.contains(['\\', '/', '\0']) => Ok(os::wide(path)),
        _ => {
            let why = format!("{} is no name of a pipe, as {NAMES}osquery.em is", path.display());
            Err(io::Error::new(io::ErrorKind::InvalidInput, why))
        }
    }
}

/// Connects within that time, which holds for what is written later, too.
pub(in super::super) fn connect(path: &Path, time: Duration) -> io::Result<Stream> {
    let name = name(path)?;
    let end = Instant::now() + time;
    let mut options = OpenOptions::new();
    // The server may learn who asks, and not act in its name.
    options.read(true).write(true).custom_flags(FILE_FLAG_OVERLAPPED).security_qos_flags(SECURITY_IDENTIFICATION);
    loop {
        match options.open(path) {
            Ok(pipe) => {
                let stream = Stream::new(pipe.into())?;
                stream.set_write_timeout(Some(time))?;
                return Ok(stream);
            }
            Err(error) if !is(&error, &[ERROR_PIPE_BUSY]) => return Err(error),
            Err(_) if Instant::now() >= end => return Err(io::ErrorKind::TimedOut.into()),
            Err(_) => {
                let left = end.saturating_duration_since(Instant::now()).min(PAUSE);
                // SAFETY: the name ends with a zero. Whether one is free is seen at the next attempt.
                unsafe { WaitNamedPipeW(name.as_ptr(), milliseconds(Some(left)).max(1)) };
            }
        }
    }
}

/// A pipe that is listened on.
pub(in super::super) struct Listener {
    name: Vec<u16>,
    descriptor: os::Descriptor,
    /// The instance that waits for a client; none when it is over.
    waiting: Mutex<Option<OwnedHandle>>,
    ended: Event,
}

impl Listener {
    /// Listens on a pipe of that name. One that is left over there is not: it ends with its server.
    pub(in super::super) fn bind(path: &Path, _: Access) -> Result<Self, BindError> {
        let in_use = |error: &io::Error| is(error, &[ERROR_ACCESS_DENIED, ERROR_PIPE_BUSY]);
        let end = Instant::now() + LEAVING;
        let made = || {
            let (name, descriptor) = (name(path)?, os::Descriptor::of_file()?);
            loop {
                // That it must be the first is for the moment between the look and this; and wine 8 does not know it.
                let taken = || Err(io::Error::from_raw_os_error(ERROR_PIPE_BUSY.cast_signed()));
                let first =
                    if is_there(&name) { taken() } else { instance(&name, &descriptor, FILE_FLAG_FIRST_PIPE_INSTANCE) };
                match first {
                    Err(error) if in_use(&error) && Instant::now() < end => std::thread::sleep(PAUSE),
                    first => {
                        let waiting = Mutex::new(Some(first?));
                        return Ok(Self { name, descriptor, waiting, ended: Event::new()? });
                    }
                }
            }
        };
        made().map_err(|source: io::Error| {
            let path = PathBuf::from(path);
            if in_use(&source) { BindError::InUse(path) } else { BindError::Io { path, source } }
        })
    }

    /// The next connection.
    pub(in super::super) fn accept(&self) -> io::Result<Stream> {
        let mut place = self.place();
        loop {
            let waiting = place.as_ref().ok_or(io::ErrorKind::ConnectionAborted)?;
            let connected = complete(waiting, &self.ended, None, |pipe, operation| {
                // SAFETY: both are valid.
                unsafe { ConnectNamedPipe(pipe, operation) }
            });
            match connected {
                Ok(_) => {}
                Err(error) if is(&error, &[ERROR_PIPE_CONNECTED]) => {}
                // It came and left.
                Err(error) if is(&error, &[ERROR_NO_DATA]) => {
                    disconnect(waiting);
                    continue;
                }
                Err(error) => return Err(error),
            }
            // Before the connection is let go: without one that waits, the name would be anybody's.
            let next = instance(&self.name, &self.descriptor, 0).inspect_err(|_| disconnect(waiting))?;
            return place.replace(next).ok_or_else(|| io::ErrorKind::ConnectionAborted.into()).and_then(Stream::new);
        }
    }

    fn place(&self) -> MutexGuard<'_, Option<OwnedHandle>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `accept` return, now and ever after.
    pub(in super::super) fn shut(&self) {
        self.ended.set();
        // Whoever waited on it has left, or is about to.
        self.place().take();
    }
}

/// The instance is for the next client.
fn disconnect(pipe: &OwnedHandle) {
    // SAFETY: the handle is open.
    unsafe { DisconnectNamedPipe(pipe.as_raw_handle()) };
}

/// One more instance of a pipe.
fn instance(name: &[u16], descriptor: &os::Descriptor, first: u32) -> io::Result<OwnedHandle> {
    let attributes = descriptor.attributes();
    // SAFETY: the name ends with a zero, and the descriptor is valid.
    owned(unsafe {
        CreateNamedPipeW(
            name.as_ptr(),
            PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | first,
            PIPE_TYPE_BYTE | PIPE_READMODE_BYTE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS,
            PIPE_UNLIMITED_INSTANCES,
            BUFFER,
            BUFFER,
            0,
            &raw const attributes,
        )
    })
}

/// Whether a pipe has that name; it is not connected to.
fn is_there(name: &[u16]) -> bool {
    // SAFETY: the name ends with a zero.
    let free = done(unsafe { WaitNamedPipeW(name.as_ptr(), 1) });
    !free.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Two ends.
#[cfg(test)]
pub(in super::super) fn pair() -> (Stream, Stream) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = PathBuf::from(format!("{NAMES}agentquery-test-{}-{number}", std::process::id()));
    let listener = Listener::bind(&path, Access::Own).unwrap();
    let one = connect(&path, Duration::from_secs(20)).unwrap();
    (one, listener.accept().unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pipe_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        for path in [&file, Path::new(r"\\other\pipe\osquery.em"), Path::new(NAMES), Path::new(r"\\.\pipe\..\C:")] {
            assert_eq!(connect(path, Duration::ZERO).err().unwrap().kind(), io::ErrorKind::InvalidInput);
            assert!(matches!(Listener::bind(path, Access::Own), Err(BindError::Io { .. })));
        }
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    }

    #[test]
    fn who_takes_no_more_connections_is_not_waited_for() {
        let path = PathBuf::from(format!("{NAMES}agentquery-deaf-{}", std::process::id()));
        let _deaf = Listener::bind(&path, Access::Own).unwrap();
        let _first = connect(&path, Duration::from_secs(20)).unwrap();
        let began = Instant::now();
        let error = connect(&path, Duration::from_millis(100)).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn who_came_and_left_keeps_nobody_out() {
        let path = PathBuf::from(format!("{NAMES}agentquery-left-{}", std::process::id()));
        let listener = Listener::bind(&path, Access::Own).unwrap();
        drop(connect(&path, Duration::from_secs(20)).unwrap());
        let second = std::thread::spawn({
            let path = path.clone();
            move || (&connect(&path, Duration::from_secs(20)).unwrap()).write_all(b"here")
        });
        let mut heard = String::new();
        while heard.is_empty() {
            // The first one may have been taken for one that lives.
            (&listener.accept().unwrap()).read_to_string(&mut heard).unwrap();
        }
        second.join().unwrap().unwrap();
        assert_eq!(heard, "here");
    }
}
