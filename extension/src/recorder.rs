//! The recording thread: collector in, rows out.
//!
//! One thread drains, records and gives the kernel its memory back, in this order, so that what the kernel may forget
//! is always in the store. Whether the collector loads is known when [`Recorder::start`] returns.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::collect::{self, Collector, DegradationReason, Interest, Syscalls};
use crate::identify::{Catalogue, INTERPRETERS};
use crate::record::{Boot, Engine, Store};

/// Between two looks while an agent lives: file events do not wake us.
const BUSY: Duration = Duration::from_millis(4);
/// And while none does.
const IDLE: Duration = Duration::from_millis(250);

/// What a recorder can be told.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// System calls are seen always, not only while an agent lives.
    pub syscalls_always: bool,
    /// Folders with signatures of one's own, which override the ones of the same name that are compiled in.
    pub signature_dirs: Vec<PathBuf>,
}

/// Why recording cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No collector.
    #[error("nothing can be recorded: {0}")]
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
}

impl Recorder {
    /// Loads the signatures and the collector and begins to record.
    ///
    /// # Errors
    /// When there is no collector for this machine; the message says what would be needed.
    pub fn start(settings: &Settings) -> Result<Self, Error> {
        let catalogue = Arc::new(Catalogue::load(&settings.signature_dirs));
        for row in catalogue.rows().iter().filter(|row| row.status != "loaded") {
            tracing::warn!(
                source = &*row.source,
                "a signature is left out: {}",
                row.message.as_deref().unwrap_or("no reason")
            );
        }
        let interest = Interest {
            literals: catalogue.literals(),
            interpreters: INTERPRETERS.iter().map(|name| (*name).to_owned()).collect(),
            every_exec: catalogue.needs_every_exec(),
        };
        let syscalls = if settings.syscalls_always { Syscalls::Always } else { Syscalls::OnDemand };
        let store = Arc::new(Store::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        let thread = {
            let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
            std::thread::Builder::new().name("recorder".into()).spawn(move || {
                // The collector is made in the thread that uses it: a thread born later would miss its mark as our own.
                let mut collector = match collect::start(&interest, syscalls) {
                    Ok(collector) => collector,
                    Err(reason) => {
                        let _ = ready.send(Err(reason));
                        return;
                    }
                };
                store.set_probe(collector.probe());
                let mut engine = Engine::new(store, catalogue, boot());
                engine.adopt(collect::boot_ns(), &mut *collector);
                let _ = ready.send(Ok(()));
                record(engine, collector, &stop);
            })
        };
        let thread = thread.map_err(Error::Thread)?;
        match started.recv() {
            Ok(Ok(())) => Ok(Self { store, stop, thread: Some(thread) }),
            Ok(Err(reason)) => Err(reason.into()),
            Err(_) => Err(Error::Collector(DegradationReason::Refused("the recording thread ended".into()))),
        }
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
    }
}

fn record(mut engine: Engine, mut collector: Box<dyn Collector>, stop: &AtomicBool) {
    let mut events = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let wait = if engine.agents_live() > 0 { BUSY } else { IDLE };
        if let Err(error) = collector.drain(wait, &mut events) {
            tracing::error!(%error, "recording ended");
            return;
        }
        engine.take(&mut events, collect::boot_ns(), &mut *collector);
        collector.commit(engine.discarded());
    }
}

fn boot() -> Boot {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/mnt").unwrap_or_default();
    let number = namespace.to_string_lossy().trim_start_matches("mnt:[").trim_end_matches(']').parse().unwrap_or(0);
    Boot { id: id.trim().to_owned(), mount_ns: number }
}
