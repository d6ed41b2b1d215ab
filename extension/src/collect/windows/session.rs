//! An ETW session: started, heard, asked what it lost, and stopped.
//!
//! By the system's own calls, for the crate ferrisetw gives the bytes of an event only through TDH, flushes once a second at
//! most, and does not tell what was lost. A session outlives who started it; so its name is fixed, and one that an ended
//! recorder left is stopped and begun anew. The system's own events of processes come to any session that is a system logger
//! (<https://learn.microsoft.com/en-us/windows/win32/etw/configuring-and-starting-a-systemtraceprovider-session>).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_ALREADY_EXISTS, ERROR_NO_SYSTEM_RESOURCES, ERROR_SUCCESS, WIN32_ERROR,
};
use windows_sys::Win32::System::Diagnostics::Etw::{
    CONTROLTRACE_HANDLE, CloseTrace, ControlTraceW, ENABLE_TRACE_PARAMETERS, ENABLE_TRACE_PARAMETERS_VERSION_2,
    EVENT_CONTROL_CODE_ENABLE_PROVIDER, EVENT_FILTER_DESCRIPTOR, EVENT_FILTER_TYPE_EVENT_ID,
    EVENT_HEADER_FLAG_32_BIT_HEADER, EVENT_RECORD, EVENT_TRACE_CONTROL, EVENT_TRACE_CONTROL_QUERY,
    EVENT_TRACE_CONTROL_STOP, EVENT_TRACE_FLAG_PROCESS, EVENT_TRACE_LOGFILEW, EVENT_TRACE_NO_PER_PROCESSOR_BUFFERING,
    EVENT_TRACE_PROPERTIES, EVENT_TRACE_REAL_TIME_MODE, EVENT_TRACE_SYSTEM_LOGGER_MODE, EnableTraceEx2, OpenTraceW,
    PROCESS_TRACE_MODE_EVENT_RECORD, PROCESS_TRACE_MODE_REAL_TIME, PROCESSTRACE_HANDLE, ProcessTrace, StartTraceW,
    TRACE_LEVEL_VERBOSE, WNODE_FLAG_TRACED_GUID,
};
use windows_sys::core::GUID;

use super::decode::{Header, Provider};
use crate::collect::DegradationReason;
use crate::os::wide;

/// `EVENT_TRACE_USE_MS_FLUSH_TIMER` of `evntrace.h`: the flush timer is in milliseconds.
const MS_FLUSH_TIMER: u32 = 0x10;
/// `ClientContext`: the clock of the processor's counter, whose times do not repeat. ETW gives them as system time.
const COUNTER: u32 = 1;
/// Units of a session's name, and of the name of a file that it has not.
const NAME: usize = 256;

/// What a session is to be.
pub(super) struct Plan {
    /// Its name, by which an orphan is known.
    pub name: &'static str,
    /// Its own GUID.
    pub guid: u128,
    /// Buffers that there are from the beginning, and at most, 32 KiB each.
    pub buffers: (u32, u32),
    /// Milliseconds until what is written is told.
    pub flush: u32,
    /// All processors write into the same buffers: in order, for a session that has little.
    pub ordered: bool,
    /// With the system's own events of processes.
    pub launches: bool,
    /// Who is to write into it.
    pub providers: &'static [Provider],
}

/// Who hears the events: on one thread of the session's own.
pub(super) type Listener = Box<dyn Fn(&Header, &[u8]) + Send + Sync>;

/// What a session lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Losses {
    /// Events for which there was no buffer.
    pub events: u32,
    /// Buffers that nobody took.
    pub buffers: u32,
}

/// A session that runs.
pub(super) struct Session {
    plan: &'static Plan,
    control: CONTROLTRACE_HANDLE,
    trace: PROCESSTRACE_HANDLE,
    thread: Option<JoinHandle<()>>,
    context: Arc<Context>,
    stopped: bool,
}

struct Context {
    listener: Listener,
    /// How the listening ended, and one more; 0 while it goes on.
    ended: AtomicU32,
}

/// The properties of a session, with the room behind them that the system wants for names.
#[repr(C)]
struct Properties {
    fixed: EVENT_TRACE_PROPERTIES,
    name: [u16; NAME],
    file: [u16; NAME],
}

impl Properties {
    fn new() -> Self {
        let mut properties = EVENT_TRACE_PROPERTIES::default();
        properties.Wnode.BufferSize = offset(size_of::<Self>());
        properties.Wnode.Flags = WNODE_FLAG_TRACED_GUID;
        properties.LoggerNameOffset = offset(std::mem::offset_of!(Self, name));
        Self { fixed: properties, name: [0; NAME], file: [0; NAME] }
    }

    /// For a question about one that runs.
    fn asking() -> Self {
        let mut asking = Self::new();
        asking.fixed.LogFileNameOffset = offset(std::mem::offset_of!(Self, file));
        asking
    }

    fn of(plan: &Plan, launches: bool) -> Self {
        let mut all = Self::new();
        let properties = &mut all.fixed;
        properties.Wnode.Guid = GUID::from_u128(plan.guid);
        properties.Wnode.ClientContext = COUNTER;
        properties.BufferSize = 32;
        (properties.MinimumBuffers, properties.MaximumBuffers) = plan.buffers;
        properties.FlushTimer = plan.flush;
        properties.LogFileMode = EVENT_TRACE_REAL_TIME_MODE | MS_FLUSH_TIMER;
        if plan.ordered {
            properties.LogFileMode |= EVENT_TRACE_NO_PER_PROCESSOR_BUFFERING;
        }
        if launches {
            properties.LogFileMode |= EVENT_TRACE_SYSTEM_LOGGER_MODE;
            properties.EnableFlags = EVENT_TRACE_FLAG_PROCESS;
        }
        all
    }

    fn as_mut_ptr(&mut self) -> *mut EVENT_TRACE_PROPERTIES {
        (&raw mut *self).cast()
    }

    fn losses(&self) -> Losses {
        Losses { events: self.fixed.EventsLost, buffers: self.fixed.RealTimeBuffersLost }
    }
}

fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(0)
}

impl Session {
    /// Starts it, in the place of one that was left behind.
    ///
    /// # Errors
    /// Why the system does not start it.
    pub(super) fn start(plan: &'static Plan, listener: Listener) -> Result<Self, DegradationReason> {
        let control = begin(plan, plan.launches)?;
        let context = Arc::new(Context { listener, ended: AtomicU32::new(0) });
        let mut session = Self {
            plan,
            control,
            trace: PROCESSTRACE_HANDLE { Value: u64::MAX },
            thread: None,
            context,
            stopped: false,
        };
        for provider in plan.providers {
            session.enable(*provider)?;
        }
        session.open()?;
        Ok(session)
    }

    /// Lets a provider write into it.
    fn enable(&self, provider: Provider) -> Result<(), DegradationReason> {
        let guid = GUID::from_u128(provider.guid());
        // EVENT_FILTER_EVENT_ID: whether those are wanted or the others, a byte of nothing, how many, and which.
        let ids = provider.ids();
        let count = u16::try_from(ids.len()).unwrap_or(0);
        let filter: Vec<u16> = [1, count].into_iter().chain(ids.iter().copied()).collect();
        let mut descriptor = EVENT_FILTER_DESCRIPTOR {
            Ptr: u64::try_from(filter.as_ptr().addr()).unwrap_or(0),
            Size: offset(size_of_val(filter.as_slice())),
            Type: EVENT_FILTER_TYPE_EVENT_ID,
        };
        let filtered = ENABLE_TRACE_PARAMETERS {
            Version: ENABLE_TRACE_PARAMETERS_VERSION_2,
            EnableFilterDesc: &raw mut descriptor,
            FilterDescCount: 1,
            ..ENABLE_TRACE_PARAMETERS::default()
        };
        let enable = |parameters: *const ENABLE_TRACE_PARAMETERS| {
            let code = EVENT_CONTROL_CODE_ENABLE_PROVIDER;
            let level = u8::try_from(TRACE_LEVEL_VERBOSE).unwrap_or(u8::MAX);
            // SAFETY: the session runs, and what is pointed to lives until the call returns.
            unsafe { EnableTraceEx2(self.control, &raw const guid, code, level, provider.keywords(), 0, 0, parameters) }
        };
        let mut status = enable(&raw const filtered);
        if status != ERROR_SUCCESS && status != ERROR_ACCESS_DENIED {
            // A system that cannot filter by ids tells more than is wanted.
            status = enable(ptr::null());
        }
        ok(self.plan.name, status)
    }

    /// Begins to listen.
    fn open(&mut self) -> Result<(), DegradationReason> {
        let mut name = wide(self.plan.name);
        let mut file = EVENT_TRACE_LOGFILEW {
            LoggerName: name.as_mut_ptr(),
            // Kept until the thread that calls back has ended.
            Context: Arc::as_ptr(&self.context).cast_mut().cast(),
            ..EVENT_TRACE_LOGFILEW::default()
        };
        file.Anonymous1.ProcessTraceMode = PROCESS_TRACE_MODE_REAL_TIME | PROCESS_TRACE_MODE_EVENT_RECORD;
        file.Anonymous2.EventRecordCallback = Some(on_event);
        // SAFETY: the name lives until the call returns, the context until the session ends.
        let trace = unsafe { OpenTraceW(&raw mut file) };
        // INVALID_PROCESSTRACE_HANDLE is -1, of whatever size.
        if trace.Value == u64::MAX || trace.Value == u64::from(u32::MAX) {
            let error = std::io::Error::last_os_error().raw_os_error().map_or(0, i32::cast_unsigned);
            return Err(refused(self.plan.name, error));
        }
        self.trace = trace;
        let (context, value) = (Arc::clone(&self.context), trace.Value);
        let listen = move || {
            let trace = PROCESSTRACE_HANDLE { Value: value };
            // SAFETY: the trace is open until this returns.
            let status = unsafe { ProcessTrace(&raw const trace, 1, ptr::null(), ptr::null()) };
            context.ended.store(status.saturating_add(1), Ordering::Release);
        };
        let thread = std::thread::Builder::new().name(self.plan.name.to_owned()).spawn(listen);
        self.thread = Some(thread.map_err(|error| DegradationReason::RefusedTrace(error.to_string()))?);
        Ok(())
    }

    /// How the listening ended, which it does when somebody stops the session; `None` while it goes on.
    pub(super) fn ended(&self) -> Option<u32> {
        self.context.ended.load(Ordering::Acquire).checked_sub(1)
    }

    /// What it lost until now.
    pub(super) fn losses(&self) -> Option<Losses> {
        control(self.control, None, EVENT_TRACE_CONTROL_QUERY)
    }

    /// Ends it: what is written by now is still told. Once: its number may be another session's afterwards.
    pub(super) fn stop(&mut self) -> Option<Losses> {
        if std::mem::replace(&mut self.stopped, true) {
            return None;
        }
        let losses = control(self.control, None, EVENT_TRACE_CONTROL_STOP);
        if let Some(thread) = self.thread.take() {
            // SAFETY: it was opened, and is closed once; the thread that listens ends with it.
            unsafe { CloseTrace(self.trace) };
            let _ = thread.join();
        }
        losses
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop();
    }
}

fn begin(plan: &Plan, launches: bool) -> Result<CONTROLTRACE_HANDLE, DegradationReason> {
    let name = wide(plan.name);
    // One that a recorder before us left behind.
    control(CONTROLTRACE_HANDLE { Value: 0 }, Some(&name), EVENT_TRACE_CONTROL_STOP);
    let mut handle = CONTROLTRACE_HANDLE { Value: 0 };
    let mut start = || {
        let mut properties = Properties::of(plan, launches);
        // SAFETY: the name ends with NUL, and the properties are as large as they say.
        unsafe { StartTraceW(&raw mut handle, name.as_ptr(), properties.as_mut_ptr()) }
    };
    let mut status = start();
    if status == ERROR_ALREADY_EXISTS {
        control(CONTROLTRACE_HANDLE { Value: 0 }, Some(&name), EVENT_TRACE_CONTROL_STOP);
        status = start();
    }
    ok(plan.name, status)?;
    // wine says that it did, and did not.
    if handle.Value == 0 {
        return Err(DegradationReason::RefusedTrace(format!("{}: there is no session", plan.name)));
    }
    Ok(handle)
}

/// What a session says of its losses when it is asked or stopped, by its handle or by its name.
fn control(handle: CONTROLTRACE_HANDLE, name: Option<&[u16]>, what: EVENT_TRACE_CONTROL) -> Option<Losses> {
    let mut properties = Properties::asking();
    let name = name.map_or(ptr::null(), <[u16]>::as_ptr);
    // SAFETY: the name, if there is one, ends with NUL, and the properties are as large as they say.
    let status = unsafe { ControlTraceW(handle, name, properties.as_mut_ptr(), what) };
    (status == ERROR_SUCCESS).then(|| properties.losses())
}

fn ok(name: &str, status: WIN32_ERROR) -> Result<(), DegradationReason> {
    if status == ERROR_SUCCESS { Ok(()) } else { Err(refused(name, status)) }
}

fn refused(name: &str, status: WIN32_ERROR) -> DegradationReason {
    let words = std::io::Error::from_raw_os_error(status.cast_signed());
    match status {
        ERROR_ACCESS_DENIED => DegradationReason::NotAdministrator,
        ERROR_NO_SYSTEM_RESOURCES => DegradationReason::RefusedTrace(format!(
            "{name}: all sessions that Windows has are in use: `logman query -ets` lists them, `logman stop NAME -ets` ends one"
        )),
        _ => DegradationReason::RefusedTrace(format!("{name}: {words}")),
    }
}

/// Called by the system with each event.
unsafe extern "system" fn on_event(record: *mut EVENT_RECORD) {
    // SAFETY: the system gives a record that lives until we return, or none.
    let Some(record) = (unsafe { record.as_ref() }) else { return };
    // SAFETY: the context is what `open` gave, which lives until the thread that we are on has ended.
    let Some(context) = (unsafe { record.UserContext.cast::<Context>().as_ref() }) else { return };
    let head = &record.EventHeader;
    let Some(provider) = Provider::of(guid_of(&head.ProviderId)) else { return };
    let id = match provider {
        Provider::Launch => u16::from(head.EventDescriptor.Opcode),
        _ => head.EventDescriptor.Id,
    };
    let header = Header {
        provider,
        id,
        version: head.EventDescriptor.Version,
        pid: head.ProcessId,
        time: head.TimeStamp.cast_unsigned(),
        wide: u32::from(head.Flags) & EVENT_HEADER_FLAG_32_BIT_HEADER == 0,
    };
    let bytes: &[u8] = if record.UserData.is_null() {
        &[]
    } else {
        // SAFETY: there are as many bytes as the record says, until we return.
        unsafe { std::slice::from_raw_parts(record.UserData.cast::<u8>(), record.UserDataLength.into()) }
    };
    // A panic must not unwind into the system.
    let _ = catch_unwind(AssertUnwindSafe(|| (context.listener)(&header, bytes)));
}

fn guid_of(guid: &GUID) -> u128 {
    u128::from(guid.data1) << 96
        | u128::from(guid.data2) << 80
        | u128::from(guid.data3) << 64
        | u128::from(u64::from_be_bytes(guid.data4))
}
