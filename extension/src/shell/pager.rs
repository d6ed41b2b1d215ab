//! Output that is longer than the screen goes through a pager.
//!
//! The output streams: what fits is written to the terminal; with the first line that does not, the pager starts, and
//! gets all from the beginning. When the user leaves the pager, the query has nobody to answer and is stopped.

use std::io::{self, BufWriter, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Interrupter;
use super::pretty::width;

/// How long output is kept back while it is not known whether it fits.
const PATIENCE: Duration = Duration::from_millis(200);

/// How long output for the pager is collected.
const FLUSH: Duration = Duration::from_millis(50);

/// Long lines are cut, and seen by the arrow keys; the screen is left as it is.
const LESS: &str = "RSX";

/// The terminal's size in columns and rows.
fn screen() -> (usize, usize) {
    terminal_size::terminal_size().map_or((80, 24), |(columns, rows)| (columns.0.into(), rows.0.into()))
}

/// The pager that the user wants; `less` when nothing is said.
fn command() -> Option<Command> {
    let mut command = match std::env::var("PAGER") {
        Ok(pager) if pager.trim().is_empty() || pager.trim() == "cat" => return None,
        Ok(pager) if cfg!(unix) => {
            let mut command = Command::new("sh");
            command.arg("-c").arg(pager);
            command
        }
        Ok(pager) => Command::new(pager),
        Err(_) => Command::new("less"),
    };
    if std::env::var_os("LESS").is_none() {
        command.env("LESS", LESS);
    }
    command.stdin(Stdio::piped());
    Some(command)
}

/// Output to a terminal.
pub(super) struct Paged<W: Write> {
    out: W,
    /// None: everything goes to the terminal.
    command: Option<Command>,
    screen: (usize, usize),
    stop: Interrupter,
    /// All output so far, while it may have to be shown by a pager.
    held: Vec<u8>,
    /// How much of it is on the screen.
    shown: usize,
    since: Option<Instant>,
    rows: usize,
    /// Columns of the last line.
    line: Vec<u8>,
    pager: Option<Running>,
}

struct Running {
    input: BufWriter<ChildStdin>,
    flushed: Instant,
    left: Arc<AtomicBool>,
    waiter: JoinHandle<()>,
}

impl<W: Write> Paged<W> {
    /// Output to `out`, which is the terminal, for a query that `stop` ends.
    pub(super) fn new(out: W, paging: bool, stop: Interrupter) -> Self {
        let command = if paging { command() } else { None };
        Self::with(out, command, screen(), stop)
    }

    fn with(out: W, command: Option<Command>, screen: (usize, usize), stop: Interrupter) -> Self {
        Self {
            out,
            command,
            screen,
            stop,
            held: Vec::new(),
            shown: 0,
            since: None,
            rows: 0,
            line: Vec::new(),
            pager: None,
        }
    }

    /// Whether there is more than the screen takes, with a line for the prompt.
    fn overflows(&mut self, bytes: &[u8]) -> bool {
        let columns = self.screen.0.max(1);
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let wide = width(String::from_utf8_lossy(&self.line).trim_end());
                self.rows += wide.div_ceil(columns).max(1);
                self.line.clear();
            }
        }
        self.rows + 1 > self.screen.1
    }

    fn start(&mut self, mut command: Command) -> io::Result<()> {
        let Ok(mut child) = command.spawn() else {
            // No pager, then.
            return self.show();
        };
        let Some(input) = child.stdin.take() else { return self.show() };
        let left = Arc::new(AtomicBool::new(false));
        let waiter = wait(child, Arc::clone(&left), Arc::clone(&self.stop))?;
        let mut running = Running { input: BufWriter::new(input), flushed: Instant::now(), left, waiter };
        let written = running.write(&std::mem::take(&mut self.held));
        self.pager = Some(running);
        written
    }

    fn show(&mut self) -> io::Result<()> {
        self.out.write_all(self.held.get(self.shown..).unwrap_or_default())?;
        self.shown = self.held.len();
        if self.command.is_none() {
            self.held.clear();
            self.shown = 0;
        }
        self.out.flush()
    }

    /// Shows the rest and waits until the user has seen enough. True when that was before the end.
    pub(super) fn finish(mut self) -> io::Result<bool> {
        let Some(Running { input, left, waiter, .. }) = self.pager.take() else {
            self.show()?;
            return Ok(false);
        };
        let left = left.load(Ordering::SeqCst);
        // The rest is written and the pipe closed: the pager sees the end.
        let written = input.into_inner().map(drop).is_ok();
        let _ = waiter.join();
        Ok(left || !written)
    }
}

fn wait(mut child: Child, left: Arc<AtomicBool>, stop: Interrupter) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("pager".into()).spawn(move || {
        let _ = child.wait();
        left.store(true, Ordering::SeqCst);
        stop();
    })
}

impl Running {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.input.write_all(bytes)?;
        if self.flushed.elapsed() >= FLUSH {
            self.input.flush()?;
            self.flushed = Instant::now();
        }
        Ok(())
    }
}

impl<W: Write> Write for Paged<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(pager) = &mut self.pager {
            pager.write(bytes)?;
            return Ok(bytes.len());
        }
        self.held.extend_from_slice(bytes);
        if self.command.is_some() && self.overflows(bytes) {
            // Taken once: after a failure everything goes to the terminal.
            if let Some(command) = self.command.take() {
                self.start(command)?;
            }
        } else if self.command.is_none() || self.since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
            self.show()?;
        }
        Ok(bytes.len())
    }

    /// Does nothing: [`Paged::finish`] does, when it is known how much there is.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped());
        command
    }

    /// What went to the terminal and whether the pager was left early.
    fn written(pager: Option<Command>, lines: usize) -> (String, io::Result<()>, bool) {
        let mut out = Vec::new();
        let mut screen = Paged::with(&mut out, pager, (10, 5), Arc::new(|| ()));
        let result = (0..lines).try_for_each(|line| writeln!(screen, "{line}"));
        let left = screen.finish().unwrap();
        (String::from_utf8(out).unwrap(), result, left)
    }

    #[test]
    fn what_fits_needs_no_pager() {
        assert_eq!(written(Some(shell("exit 1")), 4).0, "0\n1\n2\n3\n");
        assert_eq!(written(None, 6).0, "0\n1\n2\n3\n4\n5\n");
    }

    #[test]
    fn what_does_not_fit_goes_to_the_pager_from_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("seen");
        let (out, result, left) = written(Some(shell(&format!("cat > {}", file.display()))), 2000);
        assert!(result.is_ok() && !left);
        assert_eq!(out, "");
        let seen = std::fs::read_to_string(file).unwrap();
        assert_eq!(seen.lines().count(), 2000);
        assert!(seen.starts_with("0\n1\n") && seen.ends_with("1999\n"));
    }

    #[test]
    fn a_long_line_takes_more_than_one_row() {
        let mut out = Vec::new();
        let mut paged = Paged::with(&mut out, Some(shell("cat >/dev/null")), (10, 5), Arc::new(|| ()));
        writeln!(paged, "{}", "x".repeat(45)).unwrap();
        assert!(paged.pager.is_some());
        paged.finish().unwrap();
    }

    #[test]
    fn leaving_the_pager_stops_the_query() {
        let stopped = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stopped);
        let mut out = Vec::new();
        let stop: Interrupter = Arc::new(move || seen.store(true, Ordering::SeqCst));
        let mut paged = Paged::with(&mut out, Some(shell("head -n 1 >/dev/null")), (10, 5), stop);
        for line in 0..10 {
            // A pager that is gone already is an error here.
            let _ = writeln!(paged, "{line}");
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while !stopped.load(Ordering::SeqCst) && Instant::now() < deadline {
            let _ = writeln!(paged, "more");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(stopped.load(Ordering::SeqCst));
        assert!(paged.finish().unwrap());
    }

    #[test]
    fn a_pager_that_is_not_there_is_none() {
        let mut command = Command::new("/nothing/less");
        command.stdin(Stdio::piped());
        let (out, result, left) = written(Some(command), 10);
        assert!(result.is_ok() && !left);
        assert_eq!(out.lines().count(), 10);
    }
}
