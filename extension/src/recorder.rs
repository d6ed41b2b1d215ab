//! The recording thread: collector in, rows out.
//!
//! One thread drains, records and gives the kernel its memory back, in this order, so that what the kernel may forget
//! is always in the store. Whether the collector loads is known when [`Recorder::start`] returns.

mod reload;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::collect::{self, CollectError, Collector, DegradationReason, Kept, Wanted};
use crate::history;
use crate::inside::Mounts;
use crate::record::{Boot, Engine, Store};
use reload::{Loaded, Sources, Watch};

/// Between two looks while an agent lives: file events do not wake us.
const BUSY: Duration = Duration::from_millis(4);
/// And while none does.
const IDLE: Duration = Duration::from_millis(250);

/// What a recorder can be told.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What collects, and how.
    pub collector: Wanted,
    /// Folders with signatures of one's own, which override the ones of the same name that are compiled in.
    pub signature_dirs: Vec<PathBuf>,
    /// Where packs of signatures were installed, which hold between those that are compiled in and one's own.
    pub packs: Option<PathBuf>,
    /// Set to have signatures and rules read anew, whether their files look changed or not.
    pub reload: Arc<AtomicBool>,
    /// Where finished rows are kept, and for how long; none to hold them in memory alone.
    pub history: Option<history::Settings>,
    /// Folder in a BPF file system where the collector is kept for the next recorder; none to end it with this one.
    pub pins: Option<PathBuf>,
    /// What was wrong with the settings, for `agent_collector` to tell.
    pub faults: Vec<String>,
}

/// Why recording cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No collector.
    #[error(transparent)]
    Collector(#[from] DegradationReason),
    /// No thread.
    #[error("the recording thread cannot be started: {0}")]
    Thread(std::io::Error),
}

/// A running recorder; it stops when this is dropped.
pub struct Recorder {
    store: Arc<Store>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    writer: Option<history::Writer>,
    _watch: Watch,
}

impl Recorder {
    /// Loads the signatures and the collector and begins to record.
    ///
    /// # Errors
    /// When there is no collector for this machine; the message says what would be needed.
    pub fn start(settings: &Settings) -> Result<Self, Error> {
        let sources = Sources { packs: settings.packs.clone(), dirs: settings.signature_dirs.clone() };
        let seen = sources.look();
        let loaded = sources.load(&Loaded::default());
        let watch = Watch::start(sources, (loaded.clone(), seen), Arc::clone(&settings.reload));
        let (watch, changes) = watch.map_err(Error::Thread)?;
        let (wanted, pins) = (settings.collector, settings.pins.clone());
        let store = Arc::new(Store::default());
        store.update(|state| state.faults.clone_from(&settings.faults));
        let boot = boot();
        let writer = settings.history.clone().map(|at| history::Writer::start(at, &boot.id, Arc::clone(&store)));
        let (writer, floor) = match writer {
            Some(started) => started.map(|(writer, floor)| (Some(writer), floor)).map_err(Error::Thread)?,
            None => (None, 0),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        let thread = {
            let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
            std::thread::Builder::new().name("recorder".into()).spawn(move || {
                go_first();
                // The collector is made in the thread that uses it: a thread born later would miss its mark as our own.
                let durable = store.durable().unwrap_or_default();
                let kept = pins.as_deref().map(|folder| Kept { folder, durable });
                let mut collector = match collect::start(&loaded.interest(), wanted, kept) {
                    Ok(collector) => collector,
                    Err(reason) => {
                        let _ = ready.send(Err(reason));
                        return;
                    }
                };
                store.set_probe(collector.probe());
                let Loaded { catalogue, meaning } = loaded;
                let mut engine = Engine::new(Arc::clone(&store), catalogue, meaning, boot).above(floor);
                engine = engine.counting(collector.counts());
                {
                    let _whole = store.whole();
                    if collector.resumes() {
                        engine.go_on(collect::boot_ns());
                    } else {
                        engine.adopt(collect::boot_ns(), &mut *collector);
                    }
                }
                let _ = ready.send(Ok(()));
                tell_end(&store, || record(&store, engine, collector, &changes, &stop));
            })
        };
        let thread = thread.map_err(Error::Thread)?;
        match started.recv() {
            Ok(Ok(())) => Ok(Self { store, stop, thread: Some(thread), writer, _watch: watch }),
            Ok(Err(reason)) => Err(reason.into()),
            Err(_) => Err(Error::Collector(DegradationReason::Refused("the recording thread ended".into()))),
        }
    }

    /// Whether it still records.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// The rows.
    #[must_use]
    pub fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // After the last row.
        drop(self.writer.take());
    }
}

/// Records to the end. One that nobody asked for is told: the tables would look as if nothing happened any more.
fn tell_end(store: &Store, record: impl FnOnce() -> Result<(), CollectError>) {
    let why = match catch_unwind(AssertUnwindSafe(record)) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "an error in agentquery; its log has more".to_owned(),
    };
    tracing::error!("recording ended: {why}");
    store.set_ended(&format!("recording ended: {why}; it is started again"));
}

fn record(
    store: &Store,
    mut engine: Engine,
    mut collector: Box<dyn Collector>,
    changes: &Receiver<Loaded>,
    stop: &AtomicBool,
) -> Result<(), CollectError> {
    let mut events = Vec::new();
    let mut leftovers = collector.resumes();
    while !stop.load(Ordering::Relaxed) {
        let wait = if engine.agents_live() > 0 && collector.is_fed() { BUSY } else { IDLE };
        collector.drain(wait, &mut events)?;
        if leftovers && events.is_empty() {
            collector.keep_marks(&engine.marks());
            leftovers = false;
        }
        {
            let _whole = store.whole();
            engine.take(&mut events, collect::boot_ns(), &mut *collector);
            if let Ok(loaded) = changes.try_recv() {
                // What begins from now on is told, and after that it is asked for what runs.
                collector.set_interest(&loaded.interest());
                engine.reload(loaded.catalogue, loaded.meaning, collect::boot_ns(), &mut *collector);
            }
            store.update(|state| state.place = collector.place());
        }
        collector.commit(engine.discarded(), store.durable());
    }
    Ok(())
}

/// Lets this thread run before others: agents start as many compilers as the machine has cores and more, and a recorder
/// that waits its turn among them loses what they do. It works some milliseconds a second.
fn go_first() {
    #[cfg(target_os = "linux")]
    {
        const NICE: libc::c_int = -10;
        // SAFETY: changes the scheduling of this thread only (0 is the caller, and Linux has a nice value a thread).
        if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0 {
            tracing::debug!("the recording thread keeps its priority");
        }
    }
}

fn boot() -> Boot {
    Boot { id: collect::boot_id(), mounts: Mounts::find() }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::record::Probe;
    use crate::record::rows::CollectorRow;

    struct OneRow;

    impl Probe for OneRow {
        fn collector(&self) -> Vec<CollectorRow> {
            vec![CollectorRow::default()]
        }

        fn open_bytes(&self) -> HashMap<u64, (u64, u64)> {
            HashMap::new()
        }
    }

    fn reason(record: impl FnOnce() -> Result<(), CollectError>) -> Option<String> {
        let store = Store::default();
        store.set_probe(Arc::new(OneRow));
        tell_end(&store, record);
        let rows = store.collector();
        rows.iter().next().unwrap().degradation_reason.as_deref().map(str::to_owned)
    }

    #[test]
    fn an_end_that_nobody_asked_for_is_in_the_collectors_table() {
        let failed = || Err(CollectError { what: "the ring", source: std::io::Error::other("is gone") });
        assert_eq!(reason(|| Ok(())), None);
        assert_eq!(reason(failed).as_deref(), Some("recording ended: the ring: is gone; it is started again"));
        assert!(reason(|| panic!("a mistake")).unwrap().contains("an error in agentquery"));
    }
}
