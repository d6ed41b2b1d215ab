//! From the handler of messages to the recorder: a queue that never makes the kernel wait, and what is counted on the way.
//!
//! The handler runs on a queue of the system's, and copies ([`Inbox::take`]); the recording thread decodes
//! ([`EndpointSource`]). Whatever the queue has no room for is lost and counted, as is what the kernel has dropped before.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::decode::Decoder;
use super::message::{Event, Kind, Message};
use super::sequence::{Missing, Sequences};
use crate::collect::latency::Latency;
use crate::collect::watched::{Source, Told, Tracked};
use crate::collect::{self, CollectError, Interest, boot_ns};
use crate::record::Probe;
use crate::record::rows::CollectorRow;
use crate::value::{Text, whole};

/// Messages that wait: some hundred bytes each, but for programs with long arguments.
const QUEUE: usize = 32_768;
/// Most that are decoded at once.
const BATCH: usize = 4_096;
/// Between two looks at connections by libproc while an agent lives.
const LOOK: Duration = Duration::from_millis(500);

/// What of a kind came and went.
#[derive(Debug, Default)]
struct Counts {
    /// Put into the queue.
    submitted: AtomicU64,
    /// Of no agent, or refused by another client.
    filtered: AtomicU64,
    /// The queue was full.
    full: AtomicU64,
    /// Of a version that does not say enough.
    old: AtomicU64,
    /// Dropped by the kernel.
    dropped: AtomicU64,
    /// Taken from the queue.
    received: AtomicU64,
}

/// What more than one thread looks at.
#[derive(Debug, Default)]
struct Shared {
    counts: [Counts; Kind::ALL.len()],
    /// Dropped by the kernel, of all kinds.
    dropped: AtomicU64,
    discarded: AtomicU64,
    latency: Latency,
    /// Variables that are copied from the environment of programs.
    markers: RwLock<Vec<String>>,
}

impl Shared {
    fn of(&self, kind: Kind) -> &Counts {
        static NONE: Counts = Counts {
            submitted: AtomicU64::new(0),
            filtered: AtomicU64::new(0),
            full: AtomicU64::new(0),
            old: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            received: AtomicU64::new(0),
        };
        self.counts.get(kind as usize).unwrap_or(&NONE)
    }
}

fn add(count: &AtomicU64, more: u64) {
    if more > 0 {
        count.fetch_add(more, Ordering::Relaxed);
    }
}

/// What the handler needs to know of a message before anything of it is copied.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// What it tells of.
    pub kind: Kind,
    /// Who did it.
    pub pid: u32,
    /// `seq_num`, of messages of version 2 and later.
    pub number: Option<u64>,
    /// `global_seq_num`, of messages of version 4 and later.
    pub global: Option<u64>,
    /// Another client has refused it: it was not done
    /// ([`es_result_t`](https://developer.apple.com/documentation/endpointsecurity/es_result_t)).
    pub refused: bool,
}

/// The handler's side.
#[derive(Debug)]
pub struct Inbox {
    sender: SyncSender<Message>,
    sequences: Mutex<Sequences>,
    tracked: Arc<Tracked>,
    shared: Arc<Shared>,
}

impl Inbox {
    /// A message came. `copy` copies it, if it is of an agent, or may be, with those of these variables that a program begins
    /// with. Never waits.
    pub fn take(&self, head: Head, copy: impl FnOnce(&[String]) -> Option<Message>) {
        let counts = self.shared.of(head.kind);
        let Missing { of_kind, of_all } =
            self.sequences.lock().unwrap_or_else(PoisonError::into_inner).take(head.kind, head.number, head.global);
        add(&counts.dropped, of_kind);
        add(&self.shared.dropped, of_all);
        if head.refused || !(head.kind.is_of_life() || self.tracked.contains(head.pid)) {
            return add(&counts.filtered, 1);
        }
        let message = copy(&self.shared.markers.read().unwrap_or_else(PoisonError::into_inner));
        let Some(message) = message else { return add(&counts.old, 1) };
        // Before it is on its way: whoever takes it decides about it.
        match &message.event {
            Event::Fork(child) => self.tracked.begin(child.pid),
            Event::Exec(exec) => self.tracked.begin(exec.target.pid),
            _ => {}
        }
        let sent = self.sender.try_send(message).is_ok();
        add(if sent { &counts.submitted } else { &counts.full }, 1);
    }
}

/// Which paths a process is connected to by UNIX sockets; `None` when it cannot be asked.
pub type Peers = fn(u32) -> Option<Vec<String>>;

/// The recorder's side.
pub struct EndpointSource<C> {
    receiver: Receiver<Message>,
    decoder: Decoder,
    peers: Peers,
    looked: Instant,
    tracked: Arc<Tracked>,
    shared: Arc<Shared>,
    /// Ends with us.
    client: C,
}

/// Both ends of the queue. `client` begins to tell with what the handler needs, and is kept as long as there is anybody to listen.
///
/// # Errors
/// Those of the client.
pub fn open<C, E>(
    decoder: Decoder,
    peers: Peers,
    interest: &Interest,
    client: impl FnOnce(Inbox) -> Result<C, E>,
) -> Result<EndpointSource<C>, E> {
    let (sender, receiver) = sync_channel(QUEUE);
    let shared = Arc::new(Shared { markers: RwLock::new(interest.markers.clone()), ..Shared::default() });
    let tracked = Arc::<Tracked>::default();
    let inbox =
        Inbox { sender, sequences: Mutex::default(), tracked: Arc::clone(&tracked), shared: Arc::clone(&shared) };
    let client = client(inbox)?;
    Ok(EndpointSource { receiver, decoder, peers, looked: Instant::now(), tracked, shared, client })
}

impl<C> EndpointSource<C> {
    /// What keeps the messages coming.
    pub fn client(&self) -> &C {
        &self.client
    }

    fn decode(&mut self, message: &Message, told: &mut Vec<Told>) {
        let counts = self.shared.of(message.event.kind());
        add(&counts.received, 1);
        let before = told.len();
        if !self.decoder.decode(message, told) {
            add(&counts.old, 1);
        }
        if let Some(told) = told.get(before) {
            self.shared.latency.add(boot_ns().saturating_sub(told.boot_ns));
        }
    }

    /// Looks for connections that have ended.
    fn look(&mut self, told: &mut Vec<Told>) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        for process in self.decoder.connected() {
            let now = boot_ns();
            if let Some(paths) = (self.peers)(process.pid) {
                self.decoder.looked(process, &paths, now, told);
            }
        }
    }
}

impl<C> Source for EndpointSource<C> {
    fn receive(&mut self, wait: Duration, told: &mut Vec<Told>) -> Result<(), CollectError> {
        match self.receiver.recv_timeout(wait) {
            Ok(message) => {
                self.decode(&message, told);
                for _ in 1..BATCH {
                    let Ok(message) = self.receiver.try_recv() else { break };
                    self.decode(&message, told);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let source = std::io::Error::other("its client has ended");
                return Err(CollectError { what: "Endpoint Security tells nothing more", source });
            }
        }
        self.decoder.settle(boot_ns(), told);
        self.look(told);
        Ok(())
    }

    fn probe(&self) -> Arc<dyn Probe> {
        Arc::new(EndpointProbe { shared: Arc::clone(&self.shared) })
    }

    fn tracked(&self) -> Arc<Tracked> {
        Arc::clone(&self.tracked)
    }

    fn looks_at_connections(&self) -> Option<Duration> {
        Some(LOOK)
    }

    /// There are no bytes, neither of files nor of connections.
    fn counts(&self) -> collect::Counts {
        collect::Counts { files: true, bytes: false }
    }

    fn set_interest(&mut self, interest: &Interest) {
        self.shared.markers.write().unwrap_or_else(PoisonError::into_inner).clone_from(&interest.markers);
    }

    fn discarded(&mut self, events: u64) {
        self.shared.discarded.store(events, Ordering::Relaxed);
    }
}

struct EndpointProbe {
    shared: Arc<Shared>,
}

impl EndpointProbe {
    fn row(event: &'static str) -> CollectorRow {
        CollectorRow {
            collector: "macos".into(),
            mode: "endpoint security".into(),
            event: event.into(),
            ..CollectorRow::default()
        }
    }

    fn kind(&self, kind: Kind) -> CollectorRow {
        let counts = self.shared.of(kind);
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        // What was taken is never more than what was put.
        let received = count(&counts.received);
        let submitted = count(&counts.submitted).max(received);
        let [filtered, dropped, full] = [&counts.filtered, &counts.dropped, &counts.full].map(count);
        let microseconds = |share| self.shared.latency.percentile(share).map(|ns| whole(ns / 1000));
        let message = (dropped > 0).then(|| Text::from(format!("{dropped} of them were dropped by macOS")));
        CollectorRow {
            seen: whole(submitted + filtered + dropped + full),
            submitted: whole(submitted),
            filtered: whole(filtered),
            ring_full: whole(dropped + full),
            unsupported_abi: whole(count(&counts.old)),
            received: whole(received),
            in_flight: whole(submitted - received),
            discarded: whole(count(&self.shared.discarded)),
            latency_p50_us: microseconds(0.5),
            latency_p95_us: microseconds(0.95),
            latency_p99_us: microseconds(0.99),
            message,
            ..Self::row(kind.name())
        }
    }

    /// Dropped messages of which no later one of their kind has told yet.
    fn of_no_kind(&self) -> Option<CollectorRow> {
        let of_kinds: u64 = self.shared.counts.iter().map(|counts| counts.dropped.load(Ordering::Relaxed)).sum();
        let rest = self.shared.dropped.load(Ordering::Relaxed).saturating_sub(of_kinds);
        let message = Text::from("dropped by macOS; of which kind is not known");
        let lost = whole(rest);
        (rest > 0).then(|| CollectorRow { seen: lost, ring_full: lost, message: Some(message), ..Self::row("unknown") })
    }

    fn blind_spot() -> CollectorRow {
        let message = "Endpoint Security tells nothing of connections by IP: what libproc lists every 500 ms while an agent \
                       lives is recorded, without bytes, errors and names of peers; nor does it tell bytes of files";
        CollectorRow {
            blind_spot: Some("connections".into()),
            message: Some(message.into()),
            ..Self::row("blind_spot")
        }
    }
}

impl Probe for EndpointProbe {
    fn collector(&self) -> Vec<CollectorRow> {
        Kind::ALL.map(|kind| self.kind(kind)).into_iter().chain(self.of_no_kind()).chain([Self::blind_spot()]).collect()
    }

    fn open_bytes(&self) -> HashMap<u64, (u64, u64)> {
        HashMap::new()
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Exec, File, Process};
    use super::*;
    use crate::collect::Collector as _;
    use crate::collect::polling::tests::{Machine, told};
    use crate::collect::watched::{WatchedCollector, What, Who};
    use crate::event::ProcessKey;

    fn nanoseconds(unix: Duration) -> u64 {
        u64::try_from(unix.as_nanos()).unwrap()
    }

    fn process(pid: u32) -> Process {
        Process { pid, parent: 1, start: Some(Duration::from_nanos(u64::from(pid))), uid: 501, gid: 20 }
    }

    fn key(pid: u32) -> ProcessKey {
        ProcessKey { pid, start_ns: pid.into() }
    }

    fn setup() -> (Arc<Inbox>, EndpointSource<Arc<Inbox>>) {
        let interest = Interest { markers: vec!["ONE".into()], ..Interest::default() };
        let decoder = Decoder::new(nanoseconds, |_| None);
        let source = open(decoder, |_| Some(Vec::new()), &interest, |inbox| Ok::<_, CollectError>(Arc::new(inbox)));
        let source = source.unwrap();
        (Arc::clone(source.client()), source)
    }

    fn head(kind: Kind, pid: u32, number: u64) -> Head {
        Head { kind, pid, number: Some(number), global: None, refused: false }
    }

    fn say(inbox: &Inbox, pid: u32, number: u64, event: Event) {
        let message = Message { time: Duration::from_nanos(50), process: process(pid), event };
        inbox.take(head(message.event.kind(), pid, number), |_| Some(message));
    }

    fn open_of(path: &str) -> Event {
        Event::Open { flags: 1, file: File { path: path.into(), mode: 0o10_0644, ..File::default() } }
    }

    fn received(source: &mut EndpointSource<Arc<Inbox>>) -> Vec<Told> {
        let mut told = Vec::new();
        source.receive(Duration::ZERO, &mut told).unwrap();
        told
    }

    fn row(source: &EndpointSource<Arc<Inbox>>, event: &str) -> CollectorRow {
        let rows = source.probe().collector();
        rows.into_iter().find(|row| &*row.event == event).unwrap_or_else(|| panic!("no row {event}"))
    }

    #[test]
    fn of_those_who_are_not_tracked_only_life_is_copied() {
        let (inbox, mut source) = setup();
        inbox.take(head(Kind::Open, 7, 0), |_| panic!("it is nobody's"));
        say(&inbox, 1, 0, Event::Fork(process(7)));
        say(&inbox, 7, 1, open_of("/f"));
        let refused = Head { refused: true, ..head(Kind::Open, 7, 2) };
        inbox.take(refused, |_| panic!("it was not done"));
        let told = received(&mut source);
        assert_eq!(told[0].what, What::Begin { parent: 1, program: None });
        assert_eq!((told[1].process, told.len()), (Who::Key(key(7)), 2));
        let row = row(&source, "open");
        assert_eq!((row.seen, row.filtered, row.submitted, row.received, row.in_flight), (3, 2, 1, 1, 0));
    }

    #[test]
    fn what_is_lost_is_counted_wherever_it_was() {
        let (inbox, mut source) = setup();
        source.tracked().begin(7);
        say(&inbox, 7, 10, open_of("/f"));
        say(&inbox, 7, 13, open_of("/g"));
        assert_eq!(received(&mut source).len(), 2);
        for number in 14..14 + QUEUE as u64 + 3 {
            say(&inbox, 7, number, open_of("/h"));
        }
        inbox.take(head(Kind::Open, 7, 14 + QUEUE as u64 + 3), |_| None);
        let all = i64::try_from(QUEUE).unwrap() + 2;
        let told = row(&source, "open");
        assert_eq!(
            (told.seen, told.submitted, told.ring_full),
            (all + 5, all, 5),
            "three for want of room, two before"
        );
        assert_eq!((told.received, told.in_flight, told.unsupported_abi), (2, all - 2, 1));
        assert_eq!(told.message.as_deref(), Some("2 of them were dropped by macOS"));
        assert_eq!(received(&mut source).len(), BATCH, "a bounded batch");
        assert_eq!(told.seen, told.submitted + told.filtered + told.ring_full + told.oversized + told.throttled);
    }

    #[test]
    fn what_was_dropped_of_an_unknown_kind_has_a_row() {
        let (inbox, source) = setup();
        let take = |kind, number, global| {
            inbox.take(Head { global: Some(global), ..head(kind, 7, number) }, |_| None);
        };
        take(Kind::Close, 0, 0);
        assert!(source.probe().collector().iter().all(|row| &*row.event != "unknown"));
        take(Kind::Close, 1, 4);
        assert_eq!((row(&source, "unknown").seen, row(&source, "unknown").ring_full), (3, 3));
        take(Kind::Open, 0, 5);
        take(Kind::Open, 4, 6);
        assert!(source.probe().collector().iter().all(|row| &*row.event != "unknown"), "they were opens");
        assert_eq!(row(&source, "open").ring_full, 3);
    }

    #[test]
    fn old_messages_are_counted_and_begin_nothing() {
        let (inbox, mut source) = setup();
        say(&inbox, 1, 0, Event::Fork(Process { start: None, ..process(8) }));
        assert_eq!((received(&mut source), row(&source, "fork").unsupported_abi), (Vec::new(), 1));
    }

    #[test]
    fn connections_by_unix_sockets_end_when_they_are_not_listed() {
        let (inbox, mut source) = setup();
        source.tracked().begin(7);
        let file = File { path: b"/s".to_vec(), ..File::default() };
        say(&inbox, 7, 0, Event::UipcConnect { file, domain: 1, socket_type: 1, protocol: 0 });
        assert_eq!(received(&mut source).len(), 1);
        source.looked = Instant::now().checked_sub(LOOK).unwrap();
        assert_eq!(received(&mut source).len(), 1);
        assert_eq!(source.decoder.connected(), []);
    }

    #[test]
    fn a_client_that_ended_is_an_error() {
        let decoder = Decoder::new(nanoseconds, |_| None);
        let source = open(decoder, |_| None, &Interest::default(), |_| Ok::<_, CollectError>(()));
        let error = source.unwrap().receive(Duration::from_secs(9), &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "Endpoint Security tells nothing more: its client has ended");
    }

    /// Messages of an agent that a shell starts, up to what the recorder takes.
    #[test]
    fn what_an_agent_does_is_told_by_the_collector() {
        let (inbox, source) = setup();
        let (tracked, machine) = (source.tracked(), Machine::default());
        machine.run(10, 1, 10, 1);
        let mut collector = WatchedCollector::new(source, machine);
        assert_eq!(told(&collector.running()), [("exec", 10)]);
        let mut drain = || {
            let mut events = Vec::new();
            collector.drain(Duration::ZERO, &mut events).unwrap();
            let marks: Vec<_> = events.iter().map(|event| collector.confirm(event.mark)).collect();
            (told(&events), marks)
        };
        let runs = |pid: u32, parent: u32, path: &str| {
            let target = Process { parent, ..process(pid) };
            let program = File { path: path.into(), ..File::default() };
            Event::Exec(Box::new(Exec { target, program, ..Exec::default() }))
        };
        say(&inbox, 10, 0, Event::Fork(process(20)));
        say(&inbox, 20, 0, runs(20, 10, "/opt/homebrew/bin/agent"));
        say(&inbox, 20, 0, open_of("/a"));
        assert_eq!(drain(), (vec![("exec", 20), ("open", 20)], vec![true, true]));
        // It is an agent's from now on; the shell is not, and does not become one by what it starts.
        say(&inbox, 10, 1, open_of("/of/the/shell"));
        say(&inbox, 20, 1, Event::Fork(process(21)));
        say(&inbox, 21, 1, runs(21, 20, "/bin/sh"));
        say(&inbox, 21, 2, open_of("/b"));
        let close = Event::Close { modified: false, file: File { path: b"/b".to_vec(), ..File::default() } };
        say(&inbox, 21, 0, close);
        let all = [("fork", 21), ("exec", 21), ("open", 21), ("close", 21)];
        assert_eq!(drain().0, all);
        assert!(tracked.contains(20) && tracked.contains(21) && !tracked.contains(10));
    }

    #[test]
    fn variables_are_those_of_the_signatures_that_hold() {
        let (inbox, mut source) = setup();
        let expect = |names: &[&str]| {
            inbox.take(head(Kind::Exit, 7, 0), |markers| {
                assert_eq!(markers, names);
                None
            });
        };
        expect(&["ONE"]);
        source.set_interest(&Interest { markers: vec!["OTHER".into()], ..Interest::default() });
        expect(&["OTHER"]);
    }

    #[test]
    fn the_blind_spot_is_told() {
        let (_inbox, source) = setup();
        assert_eq!(row(&source, "blind_spot").blind_spot.as_deref(), Some("connections"));
        assert!(source.counts().files && !source.counts().bytes && source.looks_at_connections() == Some(LOOK));
    }
}
