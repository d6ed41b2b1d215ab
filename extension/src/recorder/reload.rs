//! Signatures and rules that change while recording goes on.
//!
//! Their files are looked at every half second and not watched by the kernel: a directory that is not there yet, a link
//! that is turned to another one, and any file system are seen alike, and what is looked at is a few names. A change
//! counts when it has rested for one look, so that a file is not read while it is written.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::collect::Interest;
use crate::enrich::Meaning;
use crate::identify::{Catalogue, INTERPRETERS};
use crate::packs;
use crate::record::EDITORS;

/// Between two looks.
const EVERY: Duration = Duration::from_millis(500);

/// Looks take at most one part of so many of the time.
const SHARE: u32 = 100;

/// Where signatures and rules are.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    pub packs: Option<PathBuf>,
    pub dirs: Vec<PathBuf>,
}

/// Signatures and rules that were loaded.
#[derive(Debug, Clone, Default)]
pub(super) struct Loaded {
    pub catalogue: Arc<Catalogue>,
    pub meaning: Arc<Meaning>,
}

impl Sources {
    fn directories(&self) -> Vec<PathBuf> {
        packs::with_own(self.packs.as_deref(), &self.dirs)
    }

    /// What is there, when this was loaded before.
    pub fn load(&self, before: &Loaded) -> Loaded {
        let dirs = self.directories();
        let loaded = Loaded {
            catalogue: Arc::new(Catalogue::load_after(&dirs, &before.catalogue)),
            meaning: Arc::new(Meaning::load_after(&dirs, &before.meaning)),
        };
        let rows = loaded.catalogue.rows().into_iter().chain(loaded.meaning.rows());
        for row in rows.filter(|row| row.status != "loaded") {
            let message = row.message.as_deref().unwrap_or("no reason");
            tracing::warn!(source = &*row.source, status = row.status, "a file has a mistake: {message}");
        }
        loaded
    }

    /// A number that is another one when a file has changed.
    pub fn look(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for dir in self.directories() {
            stamp(&dir, &mut hasher);
            let files = std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path());
            let mut files: Vec<PathBuf> = files.collect();
            files.sort_unstable();
            for file in files {
                stamp(&file, &mut hasher);
            }
        }
        hasher.finish()
    }
}

/// Which file it is, and when it was changed.
fn stamp(path: &Path, hasher: &mut DefaultHasher) {
    path.hash(hasher);
    let Ok(metadata) = std::fs::metadata(path) else { return };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        (metadata.dev(), metadata.ino(), metadata.len(), metadata.mode(), metadata.uid(), changed).hash(hasher);
    }
    #[cfg(not(unix))]
    (metadata.len(), metadata.modified().ok()).hash(hasher);
}

impl Loaded {
    /// What the collector has to know of them.
    pub fn interest(&self) -> Interest {
        Interest {
            literals: self.catalogue.literals(),
            names: self.catalogue.names(),
            interpreters: INTERPRETERS.iter().chain(EDITORS).map(|name| (*name).to_owned()).collect(),
            markers: self.catalogue.markers(),
            every_exec: self.catalogue.needs_every_exec(),
        }
    }
}

/// A thread that looks; it ends when this is dropped.
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Looks whether the files are still those that were loaded, which is told with what was seen before that, and loads
    /// them anew when they are not, or when it is asked to.
    pub fn start(
        sources: Sources,
        (loaded, of_loaded): (Loaded, u64),
        asked: Arc<AtomicBool>,
    ) -> std::io::Result<(Self, Receiver<Loaded>)> {
        let (sender, receiver) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let look = move || {
            let (mut loaded, mut of_loaded) = (loaded, of_loaded);
            let (mut last, mut rest) = (of_loaded, EVERY);
            while !stopped.load(Ordering::Relaxed) {
                std::thread::park_timeout(rest);
                let started = Instant::now();
                let now = sources.look();
                rest = EVERY.max(started.elapsed() * SHARE);
                let rested = std::mem::replace(&mut last, now) == now;
                if !asked.swap(false, Ordering::Relaxed) && (!rested || now == of_loaded) {
                    continue;
                }
                // Before it is loaded: what changes meanwhile is seen by the next look.
                of_loaded = now;
                loaded = sources.load(&loaded);
                tracing::info!("signatures and rules were loaded anew");
                if sender.send(loaded.clone()).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("signatures".into()).spawn(look)?;
        Ok((Self { stop, thread: Some(thread) }, receiver))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
