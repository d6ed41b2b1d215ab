//! The program's own log: on stderr, for stdout is for results.
//!
//! A line has its time, or below systemd its priority: there stderr is the journal, which takes the time itself and reads
//! `<N>` at a line's beginning (sd-daemon(3)). That needs no second way to the journal, and serves any other manager that
//! knows the prefix. What is in a message reaches no terminal unescaped, and each is one line.
//!
//! The same message again and again must not fill a disk. Each place in the code may write ten lines a minute; how many
//! more there were is told afterwards. What was asked for with `debug` or `trace` is not held back.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::shell::escape::visible;

/// The variable that says how much is logged, as a level or as `module=level,...`.
pub const VARIABLE: &str = "AGENTQUERY_LOG";

/// Lines of one place in the code in a minute.
const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);

/// Characters of a message that are shown when it is told how often it came.
const SAMPLE: usize = 200;

/// Tells at the end what was left out.
#[must_use = "what was left out is told when this is dropped"]
pub struct Log(Lines);

/// Begins to log: as much as `level` says, else [`VARIABLE`], else `otherwise`.
pub fn start(level: Option<LevelFilter>, otherwise: LevelFilter) -> Log {
    let variable = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty() && level.is_none());
    let asked = variable.map(EnvFilter::try_new);
    let wrong = asked.as_ref().and_then(|asked| asked.as_ref().err().map(ToString::to_string));
    let filter = asked
        .and_then(Result::ok)
        .unwrap_or_else(|| EnvFilter::default().add_directive(level.unwrap_or(otherwise).into()));
    let lines = Lines { journal: to_journal(), limit: Arc::default() };
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(io::stderr)
        .event_format(lines.clone())
        .finish();
    // A second start, which there is not, would change nothing.
    let _ = tracing::subscriber::set_global_default(started);
    if let Some(wrong) = wrong {
        tracing::warn!("{VARIABLE} is not understood and not used: {wrong}");
    }
    Log(lines)
}

impl Drop for Log {
    fn drop(&mut self) {
        let mut text = String::new();
        if self.0.told(&mut text, None).is_ok() {
            eprint!("{text}");
        }
    }
}

/// Whether stderr is the journal: systemd says device and inode of what it connected it to (systemd.exec(5)).
#[cfg(unix)]
fn to_journal() -> bool {
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::MetadataExt as _;
    let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() else { return false };
    let Ok(file) = std::fs::File::from(stderr).metadata() else { return false };
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| is_stream(&stream, file.dev(), file.ino()))
}

#[cfg(not(unix))]
fn to_journal() -> bool {
    false
}

#[cfg(any(unix, test))]
fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    stream.split_once(':').is_some_and(|(d, i)| d.parse() == Ok(device) && i.parse() == Ok(inode))
}

/// syslog's number of a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Writes an event as a line, when its place may write one.
#[derive(Clone)]
struct Lines {
    journal: bool,
    limit: Arc<Mutex<Limit>>,
}

impl Lines {
    fn limit(&self) -> MutexGuard<'_, Limit> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, out: &mut impl fmt::Write, level: Level, target: &str, text: &str) -> fmt::Result {
        if self.journal {
            write!(out, "<{}>", priority(level))?;
        } else {
            SystemTime.format_time(&mut Writer::new(out))?;
            write!(out, " {level:>5} ")?;
        }
        writeln!(out, "{target}: {}", visible(text))
    }

    /// How many lines were left out of minutes that are over at this time; of all minutes when there is none.
    fn told(&self, out: &mut impl fmt::Write, now: Option<Instant>) -> fmt::Result {
        for Told { meta, left_out, sample } in self.limit().ended(now) {
            self.line(out, *meta.level(), meta.target(), &format!("{left_out} more like this left out: {sample}"))?;
        }
        Ok(())
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let now = Instant::now();
        self.told(&mut out, Some(now))?;
        let meta = event.metadata();
        let limited = *meta.level() <= Level::INFO;
        if limited && !self.limit().admits(meta, now) {
            return Ok(());
        }
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        if limited {
            self.limit().sample(meta, &text);
        }
        self.line(&mut out, *meta.level(), meta.target(), &text)
    }
}

/// What each place has written.
#[derive(Default)]
struct Limit(HashMap<Identifier, Site>);

struct Site {
    meta: &'static Metadata<'static>,
    since: Instant,
    lines: u32,
    left_out: u64,
    sample: String,
}

/// What a place was not let write.
struct Told {
    meta: &'static Metadata<'static>,
    left_out: u64,
    sample: String,
}

impl Limit {
    fn admits(&mut self, meta: &'static Metadata<'static>, now: Instant) -> bool {
        let site = self.0.entry(meta.callsite()).or_insert(Site {
            meta,
            since: now,
            lines: 0,
            left_out: 0,
            sample: String::new(),
        });
        let admitted = site.lines < LINES;
        if admitted {
            site.lines += 1;
        } else {
            site.left_out += 1;
        }
        admitted
    }

    fn sample(&mut self, meta: &Metadata<'_>, text: &str) {
        if let Some(site) = self.0.get_mut(&meta.callsite()) {
            site.sample = text.chars().take(SAMPLE).collect();
        }
    }

    /// Forgets the places whose minute is over, and gives those that had more to say.
    fn ended(&mut self, now: Option<Instant>) -> Vec<Told> {
        let is_over = |site: &Site| now.is_none_or(|now| now.saturating_duration_since(site.since) >= WINDOW);
        let over = self.0.extract_if(|_, site| is_over(site)).map(|(_, site)| site);
        over.filter(|site| site.left_out > 0)
            .map(|Site { meta, left_out, sample, .. }| Told { meta, left_out, sample })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What the work logs, and what is told at its end.
    fn logged(journal: bool, level: Level, work: impl FnOnce(&Lines)) -> Vec<String> {
        let (written, lines) = (Written::default(), Lines { journal, limit: Arc::default() });
        let sink = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(move || sink.clone())
            .event_format(lines.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || work(&lines));
        let mut text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        lines.told(&mut text, None).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Makes the minutes of all places be over.
    fn wait_a_minute(lines: &Lines) {
        for site in lines.limit().0.values_mut() {
            site.since = site.since.checked_sub(WINDOW).unwrap();
        }
    }

    #[test]
    fn a_storm_is_ten_lines_and_a_count() {
        let lines = logged(true, Level::INFO, |_| {
            for number in 0..1000 {
                tracing::warn!(number, "again");
                if number == 500 {
                    tracing::error!("another place is heard");
                }
            }
        });
        assert_eq!(lines.len(), 12, "{lines:?}");
        assert_eq!(lines[9], "<4>agentquery::log::tests: again number=9");
        assert_eq!(lines[10], "<3>agentquery::log::tests: another place is heard");
        assert_eq!(lines[11], "<4>agentquery::log::tests: 990 more like this left out: again number=9");
    }

    #[test]
    fn after_a_minute_there_is_room_again() {
        let lines = logged(true, Level::INFO, |lines| {
            for number in 0..25 {
                tracing::info!(number, "again");
                if number == 19 {
                    wait_a_minute(lines);
                }
            }
        });
        let tail = ["left out: again number=9", "number=20", "number=21", "number=22", "number=23", "number=24"];
        assert_eq!(lines.len(), 10 + tail.len(), "{lines:?}");
        assert!(lines.iter().skip(10).zip(tail).all(|(line, end)| line.ends_with(end)), "{lines:?}");
        assert!(lines[10].contains(": 10 more like this"));
    }

    #[test]
    fn what_was_asked_for_is_not_held_back() {
        let lines = logged(true, Level::DEBUG, |_| (0..50).for_each(|_| tracing::debug!("step")));
        assert_eq!(lines.len(), 50);
        assert_eq!(lines[0], "<7>agentquery::log::tests: step");
    }

    #[test]
    fn a_line_for_people_has_its_time_and_nothing_hidden() {
        let lines = logged(false, Level::INFO, |_| tracing::error!(path = %"/a\u{1b}[2J\nb", "cannot\nread"));
        let [line] = &lines[..] else { panic!("{lines:?}") };
        assert!(line.starts_with("20") && line.contains("Z ERROR agentquery::log::tests: cannot"), "{line}");
        assert!(line.chars().all(|c| !c.is_control()), "{line:?}");
        assert!(line.contains("cannot\\nread path=/a"), "{line}");
    }

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        assert!(is_stream("9:1234", 9, 1234));
        for other in ["9:1235", "8:1234", "", "9", "9:", "x:y", "9:1234:5"] {
            assert!(!is_stream(other, 9, 1234), "{other}");
        }
    }
}
