//! The service manager of Windows, asked for what the plan says.

use std::ffi::OsString;
use std::io;
use std::time::{Duration, Instant};

use windows_service::service::{
    ServiceAccess, ServiceAction, ServiceActionType, ServiceErrorControl, ServiceFailureActions,
    ServiceFailureResetPeriod, ServiceInfo, ServiceStartType, ServiceState, ServiceType,
};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};

use super::plan::Service;

/// <https://learn.microsoft.com/windows/win32/debug/system-error-codes--1000-1299->
const EXISTS: i32 = 1073;
const DOES_NOT_EXIST: i32 = 1060;

/// How long a service may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// Creates it; `false`: it was there, and is as the plan says now.
pub(super) fn create(service: &Service) -> io::Result<bool> {
    let access = ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE;
    let manager = ServiceManager::local_computer(None::<&str>, access).map_err(failed)?;
    let info = ServiceInfo {
        name: service.name.into(),
        display_name: service.display_name.into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: (&service.program).into(),
        launch_arguments: service.arguments.iter().map(OsString::from).collect(),
        dependencies: Vec::new(),
        // The system itself: events of the whole machine are told to nobody less.
        account_name: None,
        account_password: None,
    };
    // To restart it is a right that its actions need as well.
    let access = ServiceAccess::CHANGE_CONFIG | ServiceAccess::START;
    let (made, is_new) = match manager.create_service(&info, access).map_err(failed) {
        Err(error) if error.raw_os_error() == Some(EXISTS) => {
            let there = manager.open_service(service.name, access).map_err(failed)?;
            there.change_config(&info).map_err(failed)?;
            (there, false)
        }
        made => (made?, true),
    };
    made.set_description(service.description).map_err(failed)?;
    let restart =
        |seconds: &u64| ServiceAction { action_type: ServiceActionType::Restart, delay: Duration::from_secs(*seconds) };
    made.update_failure_actions(ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(Duration::from_secs(service.forgets)),
        reboot_msg: None,
        command: None,
        actions: Some(service.restarts.iter().map(restart).collect()),
    })
    .map_err(failed)?;
    // Also when it ends by itself with a failure.
    made.set_failure_actions_on_non_crash_failures(true).map_err(failed)?;
    Ok(is_new)
}

/// Whether there is one of that name.
pub(super) fn exists(name: &str) -> bool {
    let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT);
    manager.is_ok_and(|manager| manager.open_service(name, ServiceAccess::QUERY_STATUS).is_ok())
}

/// Ends it and takes it away.
pub(super) fn delete(name: &str) -> io::Result<()> {
    let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT).map_err(failed)?;
    let access = ServiceAccess::QUERY_STATUS | ServiceAccess::STOP | ServiceAccess::DELETE;
    let service = match manager.open_service(name, access).map_err(failed) {
        Err(error) if error.raw_os_error() == Some(DOES_NOT_EXIST) => return Ok(()),
        service => service?,
    };
    let state = || Ok::<_, io::Error>(service.query_status().map_err(failed)?.current_state);
    if state()? != ServiceState::Stopped {
        // One that ends already cannot be asked to.
        let _ = service.stop();
    }
    let began = Instant::now();
    while state()? != ServiceState::Stopped && began.elapsed() < ENDS_WITHIN {
        std::thread::sleep(Duration::from_millis(100));
    }
    service.delete().map_err(failed)
}

fn failed(error: windows_service::Error) -> io::Error {
    match error {
        windows_service::Error::Winapi(error) => error,
        error => io::Error::other(error),
    }
}
