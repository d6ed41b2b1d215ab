//! The glue to Endpoint Security: a client on a thread of its own, and a handler that copies.
//!
//! A client must be given back by the thread that made it, so that it has one, which does nothing else. The handler runs
//! on a queue of the library's, one message after another; it hands a copy of what is wanted to the [`Inbox`] and never waits.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use endpoint_sec::sys::{NewClientError, es_auth_result_t, es_event_type_t};
use endpoint_sec::{
    Action, ActionResult, AuditToken, Client, Event as Told, EventCreateDestinationFile, EventExec,
    EventRenameDestinationFile, File as EsFile, Message as EsMessage, Process as EsProcess,
};

use super::decode::Decoder;
use super::look::unix_peers;
use super::message::{Destination, Event, Exec, File, Kind, Message, Name, Process, bounded};
use super::refusal::{Refusal, supported};
use super::source::{EndpointSource, Head, Inbox, open};
use crate::collect::linux::abi::AQ_ARGV_MAX;
use crate::collect::{Interest, sysinfo};
use crate::event::escape;

/// What is asked for.
const EVENTS: [es_event_type_t; Kind::ALL.len()] = [
    es_event_type_t::ES_EVENT_TYPE_NOTIFY_FORK,
    es_event_type_t::ES_EVENT_TYPE_NOTIFY_EXEC,
    es_event_type_t::ES_EVENT_TYPE_NOTIFY_EXIT,
    es_event_type_t::ES_EVENT_TYPE_NOTIFY_OPEN,
    es_event_type_t::ES_EVENT_TYPE_NOTIFY_CLOSE,
    es_event_type_t::ES_EVENT_TYPE_NOTIFY_DUP,
    es_event_type_t::ES_EVENT_TYPE_NOTIFY_CREATE,
    es_event_type_t::ES_EVENT_TYPE_NOTIFY_UNLINK,
    es_event_type_t::ES_EVENT_TYPE_NOTIFY_RENAME,
    es_event_type_t::ES_EVENT_TYPE_NOTIFY_LINK,
    es_event_type_t::ES_EVENT_TYPE_NOTIFY_CLONE,
    es_event_type_t::ES_EVENT_TYPE_NOTIFY_SETMODE,
    es_event_type_t::ES_EVENT_TYPE_NOTIFY_SETOWNER,
    es_event_type_t::ES_EVENT_TYPE_NOTIFY_TRUNCATE,
    es_event_type_t::ES_EVENT_TYPE_NOTIFY_UIPC_CONNECT,
];

/// A client that lives: dropped, no more comes.
pub struct Subscription {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // what it may have panicked of was told
        }
    }
}

/// Whether Endpoint Security would let us listen.
///
/// # Errors
/// Why it would not.
pub fn trial() -> Result<(), Refusal> {
    know_version()?;
    // It is made and given back by this thread.
    Client::new(|_: &mut Client<'_>, _: EsMessage| {}).map(drop).map_err(refusal)
}

fn know_version() -> Result<(), Refusal> {
    let (major, minor, patch) = supported(&::sysinfo::System::os_version().unwrap_or_default())?;
    endpoint_sec::version::set_runtime_version(major, minor, patch);
    Ok(())
}

/// Listens to the machine.
///
/// # Errors
/// Why Endpoint Security does not let us.
pub fn listen(interest: &Interest) -> Result<EndpointSource<Subscription>, Refusal> {
    know_version()?;
    let link = |path: &str| Some(escape(std::fs::read_link(path).ok()?.as_os_str().as_bytes()));
    open(Decoder::new(sysinfo::boot_ns_at, link), unix_peers, interest, subscribe)
}

fn subscribe(inbox: Inbox) -> Result<Subscription, Refusal> {
    let (stop, stopped) = channel::<()>();
    let (ready, answer) = channel();
    let run = move || {
        // Nothing of ours is left behind in it when it panics: counters and a queue.
        let inbox = AssertUnwindSafe(inbox);
        let handler = move |_: &mut Client<'_>, message: EsMessage| {
            let AssertUnwindSafe(inbox) = &inbox;
            handle(inbox, &message);
        };
        let client = Client::new(handler).map_err(refusal).and_then(|mut client| {
            begin(&mut client)?;
            Ok(client)
        });
        match client {
            Ok(client) => {
                let _ = ready.send(Ok(()));
                let _ = stopped.recv(); // until the other end is dropped
                if let Err(error) = client.delete() {
                    tracing::warn!(%error, "the client of Endpoint Security cannot be given back");
                }
            }
            Err(refusal) => drop(ready.send(Err(refusal))),
        }
    };
    let thread = std::thread::Builder::new().name("endpoint-security".into()).spawn(run);
    let thread = thread.map_err(|error| Refusal::Other(error.to_string()))?;
    let subscription = Subscription { stop: Some(stop), thread: Some(thread) };
    answer.recv().unwrap_or_else(|_| Err(Refusal::Other("its thread ended".into())))?;
    Ok(subscription)
}

/// Leaves ourselves out, and asks for the rest.
fn begin(client: &mut Client<'_>) -> Result<(), Refusal> {
    // What we start is told; the collector knows whose it is.
    let own = libc::pid_t::try_from(std::process::id()).map_err(|error| Refusal::Other(error.to_string()))?;
    match AuditToken::from_pid(own) {
        Ok(token) => {
            if let Err(error) = client.mute_process(&token) {
                tracing::warn!(%error, "what this process does cannot be left out early");
            }
        }
        Err(code) => tracing::warn!(code, "what this process does cannot be left out early"),
    }
    client.subscribe(&EVENTS).map_err(|error| Refusal::Other(error.to_string()))
}

fn refusal(error: NewClientError) -> Refusal {
    match error {
        NewClientError::NotEntitled => Refusal::NotEntitled,
        NewClientError::NotPermitted => Refusal::NotPermitted,
        NewClientError::NotPrivileged => Refusal::NotPrivileged,
        NewClientError::TooManyClients => Refusal::TooManyClients,
        other => Refusal::Other(other.to_string()),
    }
}

fn handle(inbox: &Inbox, message: &EsMessage) {
    let Some(kind) = kind_of(message.event_type()) else { return };
    let head = Head {
        kind,
        pid: pid_of(&message.process()),
        number: message.seq_num(),
        global: message.global_seq_num(),
        refused: is_refused(message),
    };
    inbox.take(head, |markers| copy(message, markers));
}

fn kind_of(event_type: es_event_type_t) -> Option<Kind> {
    EVENTS.iter().position(|known| *known == event_type).and_then(|place| Kind::ALL.get(place).copied())
}

/// Another client has forbidden it. Of an open flags are told instead, which it had, or were allowed: that says nothing sure.
fn is_refused(message: &EsMessage) -> bool {
    let denied = ActionResult::Auth(es_auth_result_t::ES_AUTH_RESULT_DENY);
    message.action() == Some(Action::Notify(denied))
}

fn pid_of(process: &EsProcess<'_>) -> u32 {
    u32::try_from(process.audit_token().pid()).unwrap_or(0)
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The message in our own memory; `None` when it is of a version that does not tell the start of processes.
fn copy(message: &EsMessage, markers: &[String]) -> Option<Message> {
    let process = process(&message.process());
    process.start?;
    let event = match message.event()? {
        Told::NotifyFork(fork) => Event::Fork(self::process(&fork.child())),
        Told::NotifyExec(told) => Event::Exec(Box::new(exec(&told, markers))),
        Told::NotifyExit(exit) => Event::Exit(exit.stat()),
        Told::NotifyOpen(open) => Event::Open { flags: open.fflag(), file: file(&open.file()) },
        Told::NotifyClose(close) => Event::Close { modified: close.modified(), file: file(&close.target()) },
        Told::NotifyDup(dup) => Event::Dup(file(&dup.target())),
        Told::NotifyCreate(create) => Event::Create(match create.destination()? {
            EventCreateDestinationFile::ExistingFile { file: made, .. } => Destination::Existing(file(&made)),
            EventCreateDestinationFile::NewPath { directory, filename, .. } => {
                Destination::New(name(&directory, filename))
            }
            _ => return None,
        }),
        Told::NotifyUnlink(unlink) => Event::Unlink(file(&unlink.target())),
        Told::NotifyRename(rename) => Event::Rename {
            source: file(&rename.source()),
            destination: match rename.destination()? {
                EventRenameDestinationFile::ExistingFile { file: replaced, .. } => {
                    Destination::Existing(file(&replaced))
                }
                EventRenameDestinationFile::NewPath { directory, filename, .. } => {
                    Destination::New(name(&directory, filename))
                }
                _ => return None,
            },
        },
        Told::NotifyLink(link) => {
            Event::Link { source: file(&link.source()), target: name(&link.target_dir(), link.target_filename()) }
        }
        Told::NotifyClone(clone) => {
            Event::Clone { source: file(&clone.source()), target: name(&clone.target_dir(), clone.target_name()) }
        }
        Told::NotifySetMode(mode) => Event::SetMode { mode: mode.mode().into(), target: file(&mode.target()) },
        Told::NotifySetOwner(owner) => Event::SetOwner(file(&owner.target())),
        Told::NotifyTruncate(truncate) => Event::Truncate(file(&truncate.target())),
        Told::NotifyUipcConnect(connect) => Event::UipcConnect {
            file: file(&connect.file()),
            domain: connect.domain(),
            socket_type: connect.type_(),
            protocol: connect.protocol(),
        },
        _ => return None,
    };
    Some(Message { time: since_1970(message.time()), process, event })
}

fn process(process: &EsProcess<'_>) -> Process {
    let token = process.audit_token();
    Process {
        pid: pid_of(process),
        parent: u32::try_from(process.ppid()).unwrap_or(0),
        start: process.start_time().map(since_1970),
        uid: token.ruid(),
        gid: token.rgid(),
    }
}

fn bytes(text: &OsStr) -> Vec<u8> {
    text.as_bytes().to_vec()
}

fn file(file: &EsFile<'_>) -> File {
    let stat = file.stat();
    File {
        path: bytes(file.path()),
        truncated: file.path_truncated(),
        device: u64::from(stat.st_dev.cast_unsigned()),
        inode: stat.st_ino,
        mode: stat.st_mode.into(),
    }
}

fn name(directory: &EsFile<'_>, name: &OsStr) -> Name {
    Name { directory: file(directory), name: bytes(name) }
}

fn exec(exec: &EventExec<'_>, markers: &[String]) -> Exec {
    let target = exec.target();
    let most = usize::try_from(AQ_ARGV_MAX).unwrap_or(usize::MAX);
    let (arguments, truncated) = bounded(exec.args().map(OsStr::as_bytes), most);
    let is_marker = |variable: &[u8]| {
        let name = variable.split(|byte| *byte == b'=').next().unwrap_or_default();
        markers.iter().any(|marker| marker.as_bytes() == name)
    };
    Exec {
        target: process(&target),
        program: file(&target.executable()),
        tty: target.tty().map(|tty| bytes(tty.path())),
        script: exec.script().as_ref().map(file),
        cwd: exec.cwd().as_ref().map(file),
        passed: exec.dyld_exec_path().map(bytes),
        arguments,
        truncated,
        // Few agents set them, and nothing else of the environment is looked at.
        markers: if markers.is_empty() {
            Vec::new()
        } else {
            exec.envs().map(OsStr::as_bytes).filter(|variable| is_marker(variable)).map(<[u8]>::to_vec).collect()
        },
    }
}
