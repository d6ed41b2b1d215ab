//! A program on a terminal: keys go in, and what a person would see comes out.

#![allow(dead_code)]

use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Rows and columns.
const SIZE: (u16, u16) = (24, 100);

/// Long enough for a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// The running program.
pub struct Terminal {
    child: Child,
    keys: std::fs::File,
    seen: Arc<Mutex<Seen>>,
    started: Instant,
}

struct Seen {
    screen: vt100::Parser,
    /// All that came, as it came.
    bytes: Vec<u8>,
}

impl Terminal {
    /// Starts the program on a terminal of its own, the controlling one of its session.
    pub fn start(mut command: Command) -> Self {
        let size = libc::winsize { ws_row: SIZE.0, ws_col: SIZE.1, ws_xpixel: 0, ws_ypixel: 0 };
        let (mut ours, mut its) = (0, 0);
        // SAFETY: the descriptors and the size are valid; name and settings may be null.
        let opened = unsafe {
            libc::openpty(
                &raw mut ours,
                &raw mut its,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                (&raw const size).cast_mut(),
            )
        };
        assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: openpty gave it, to nobody else.
        let ours = unsafe { OwnedFd::from_raw_fd(ours) };
        // SAFETY: as above.
        let its = unsafe { OwnedFd::from_raw_fd(its) };
        // Another test's child must not hold it open.
        // SAFETY: an open descriptor.
        unsafe { libc::fcntl(ours.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
        command.env("TERM", "xterm").stdin(its.try_clone().unwrap()).stdout(its.try_clone().unwrap()).stderr(its);
        let own_session = || {
            // SAFETY: changes this process only.
            if unsafe { libc::setsid() } < 0 {
                return Err(std::io::Error::last_os_error());
            }
            // SAFETY: the terminal is the standard input.
            if unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        };
        // SAFETY: between fork and exec there are only system calls.
        unsafe { command.pre_exec(own_session) };
        let child = command.spawn().unwrap();
        drop(command);
        let keys = std::fs::File::from(ours);
        let [rows, columns] = [SIZE.0, SIZE.1].map(|count| NonZero::new(count).unwrap());
        let seen = Arc::new(Mutex::new(Seen { screen: vt100::Parser::new(rows, columns, 1000), bytes: Vec::new() }));
        let (mut output, mirror) = (keys.try_clone().unwrap(), Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read) = output.read(&mut buffer) {
                if read == 0 {
                    break;
                }
                let mut seen = mirror.lock().unwrap();
                seen.screen.process(&buffer[..read]);
                seen.bytes.extend_from_slice(&buffer[..read]);
            }
        });
        Self { child, keys, seen, started: Instant::now() }
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// What is on the screen, without what is empty.
    pub fn screen(&self) -> String {
        self.seen.lock().unwrap().screen.screen().contents()
    }

    /// All bytes so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.seen.lock().unwrap().bytes.clone()
    }

    /// Waits until the screen is as wanted.
    pub fn wait(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let screen = self.screen();
            if wanted(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "{what}\n--- the screen:\n{screen}\n---");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Presses keys and waits a while; false when the screen is not as wanted then.
    pub fn is_soon(&mut self, wanted: impl Fn(&str) -> bool, keys: &str) -> bool {
        assert!(self.started.elapsed() < 2 * DEADLINE, "{}", self.screen());
        self.press(keys);
        let deadline = Instant::now() + Duration::from_secs(3);
        while Instant::now() < deadline {
            if wanted(&self.screen()) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Waits until the last line is this one.
    pub fn wait_for_line(&self, line: &str) -> String {
        self.wait(line, |screen| screen.lines().next_back().is_some_and(|last| last.trim_end() == line.trim_end()))
    }

    /// Waits for the end of the program.
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it goes on\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether the program runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
