//! A service of Windows: the service manager starts `agentquery run --service`, is told how it goes, and says when to stop.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentquery::osquery::Stop;
use agentquery::{os, places};
use anyhow::Context as _;
use windows_service::service::{
    ServiceControl, ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{self, ServiceControlHandlerResult, ServiceStatusHandle};
use windows_service::{define_windows_service, service_dispatcher};

/// Its name, for the service manager.
const NAME: &str = "agentquery";

/// How long the service manager is to wait for the end.
const END: Duration = Duration::from_secs(10);

/// Bytes of the log, and of the one before it.
const LOG: u64 = 1 << 20;

type Work = Box<dyn FnOnce(&Stop) -> anyhow::Result<()> + Send>;

/// What the service does. The service manager calls a function without a context.
static WORK: Mutex<Option<Work>> = Mutex::new(None);

/// How it ended.
static RESULT: Mutex<Option<anyhow::Result<()>>> = Mutex::new(None);

/// Set when signatures and rules are to be read anew.
static RELOAD: Mutex<Option<Arc<AtomicBool>>> = Mutex::new(None);

fn put<T>(place: &Mutex<Option<T>>, value: T) {
    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
}

fn take<T>(place: &Mutex<Option<T>>) -> Option<T> {
    place.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Has the service manager set this when its parameters change.
pub(super) fn reload_by(flag: &Arc<AtomicBool>) {
    put(&RELOAD, Arc::clone(flag));
}

/// Does the work as a service, until the service manager says that it is to end.
pub(super) fn run(work: impl FnOnce(&Stop) -> anyhow::Result<()> + Send + 'static) -> anyhow::Result<()> {
    put(&WORK, Box::new(work) as Work);
    service_dispatcher::start(NAME, service_main)
        .context("--service is for the service manager: sc start agentquery; without it the program runs here")?;
    take(&RESULT).unwrap_or(Ok(()))
}

define_windows_service!(service_main, serve);

/// The service, on a thread that the service manager has made.
fn serve(_: Vec<std::ffi::OsString>) {
    // Nobody reads what a service writes.
    if let Err(error) = log_to_file() {
        tracing::warn!(%error, "the service has no log");
    }
    let stop = Stop::default();
    let stopping = stop.clone();
    let heard = move |control| match control {
        ServiceControl::Stop | ServiceControl::Shutdown | ServiceControl::Preshutdown => {
            stopping.request();
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::ParamChange => {
            if let Some(reload) = &*RELOAD.lock().unwrap_or_else(PoisonError::into_inner) {
                reload.store(true, Ordering::Relaxed);
            }
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        _ => ServiceControlHandlerResult::NotImplemented,
    };
    let result = service_control_handler::register(NAME, heard).map_err(anyhow::Error::from).and_then(|manager| {
        tell(manager, ServiceState::Running, 0);
        let result = take(&WORK).map_or(Ok(()), |work| {
            let ending = end_soon(manager, &stop);
            let result = work(&stop);
            stop.request();
            let _ = ending.map(std::thread::JoinHandle::join);
            result
        });
        if let Err(error) = &result {
            tracing::error!("{error:#}");
        }
        tell(manager, ServiceState::Stopped, u32::from(result.is_err()));
        result
    });
    put(&RESULT, result);
}

/// Tells that it ends, as soon as it is to: what it does then takes its time.
fn end_soon(manager: ServiceStatusHandle, stop: &Stop) -> Option<std::thread::JoinHandle<()>> {
    let stop = stop.clone();
    let wait = move || {
        stop.wait_for_it();
        tell(manager, ServiceState::StopPending, 0);
    };
    std::thread::Builder::new().name("service".into()).spawn(wait).ok()
}

fn tell(manager: ServiceStatusHandle, state: ServiceState, failed: u32) {
    let running = state == ServiceState::Running;
    let controls = ServiceControlAccept::STOP | ServiceControlAccept::SHUTDOWN | ServiceControlAccept::PARAM_CHANGE;
    let status = ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state: state,
        controls_accepted: if running { controls } else { ServiceControlAccept::empty() },
        exit_code: if failed == 0 { ServiceExitCode::NO_ERROR } else { ServiceExitCode::ServiceSpecific(failed) },
        checkpoint: 0,
        wait_hint: if state == ServiceState::StopPending { END } else { Duration::ZERO },
        process_id: None,
    };
    if let Err(error) = manager.set_service_status(status) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

/// What is logged goes to `service.log` in the state directory.
fn log_to_file() -> std::io::Result<()> {
    let folder = places::state();
    os::make_private(&folder)?;
    agentquery::trust::directory(&folder).map_err(std::io::Error::other)?;
    let file = folder.join("service.log");
    if std::fs::metadata(&file).is_ok_and(|log| log.len() > LOG) {
        std::fs::rename(&file, folder.join("service.log.1"))?;
    }
    os::errors_to(os::private(File::options().append(true).create(true)).open(&file)?)
}
