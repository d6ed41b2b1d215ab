//! What the console tells a program: keys, and that it has to end.
//!
//! A function of ours is called on a thread of its own, so that it may do what a handler of a signal may not.

use std::fs::File;
use std::io;
use std::os::windows::io::IntoRawHandle as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use windows_sys::Win32::System::Console::{
    CTRL_BREAK_EVENT, CTRL_C_EVENT, STD_ERROR_HANDLE, SetConsoleCtrlHandler, SetStdHandle,
};

use super::done;

/// What was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-Break, a console that is closed, the end of the session or of the system.
    End,
}

/// Does something about a key; false when it is for the next one.
type Action = Box<dyn FnMut(Key) -> bool + Send>;

static ACTIONS: Mutex<Vec<Action>> = Mutex::new(Vec::new());

/// Longer than the system waits before it ends the process by itself.
const AT_THE_END: Duration = Duration::from_secs(60);

/// From now on keys are for `act`, before whoever was there; it returns false for what it does not want. Without anybody
/// who wants it a key ends the process.
///
/// # Errors
/// When the system does not tell.
pub fn on_key(act: impl FnMut(Key) -> bool + Send + 'static) -> io::Result<()> {
    let mut actions = ACTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    if actions.is_empty() {
        // SAFETY: the function is there for as long as the process.
        done(unsafe { SetConsoleCtrlHandler(Some(handler), 1) })?;
    }
    actions.push(Box::new(act));
    Ok(())
}

/// What is written to stderr goes to a file from now on.
///
/// # Errors
/// When the system refuses.
pub fn errors_to(file: File) -> io::Result<()> {
    // SAFETY: the handle is open, and is not closed.
    done(unsafe { SetStdHandle(STD_ERROR_HANDLE, file.into_raw_handle()) })
}

unsafe extern "system" fn handler(told: u32) -> i32 {
    let key = if told == CTRL_C_EVENT { Key::Interrupt } else { Key::End };
    let mut actions = ACTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = actions.iter_mut().rev().any(|act| act(key));
    drop(actions);
    // After a closed console and the like the process is ended as soon as this returns: it ends by itself before that.
    if wanted && told != CTRL_C_EVENT && told != CTRL_BREAK_EVENT {
        std::thread::sleep(AT_THE_END);
    }
    i32::from(wanted)
}
