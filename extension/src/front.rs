//! A query of this program's user, wherever the rows are.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::osquery::Source;
use crate::osquery::client::Answer;
use crate::record::Store;
use crate::shell::{Backend, Engine, Error, Interrupter, Limits, Sink};
use crate::tables::Viewer;

/// How long a query waits for a recorder that starts, or for the next one. A shell takes over itself in that time.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Asks this process' own rows through the embedded engine, and another recorder through its socket.
pub struct Front {
    source: Source,
    running: Arc<Running>,
}

/// The query that runs.
#[derive(Default)]
struct Running {
    stop: Mutex<Option<Interrupter>>,
    stopped: AtomicBool,
}

impl Running {
    fn hold(&self, stop: Option<Interrupter>) {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = stop;
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        if let Some(stop) = &*self.stop.lock().unwrap_or_else(PoisonError::into_inner) {
            stop();
        }
    }
}

impl Front {
    /// A front of that source.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self { source, running: Arc::default() }
    }

    fn find(&self, sql: &str) -> Result<Found, Error> {
        let found = self.source.ask(
            PATIENCE,
            |store| Ok(Ok(Found::Here(Arc::clone(store)))),
            |client| {
                // A mistake is found here, where its place can be shown.
                if let Err(error) =
                    Engine::new(Arc::default(), Viewer::All, Limits::default()).and_then(|engine| engine.check(sql))
                {
                    return Ok(Err(error));
                }
                self.running.hold(Some(client.interrupter()));
                // Whole before the first row is written, so that it can be asked again when the recorder ends meanwhile.
                client.answer(sql).map(|answer| Ok(Found::There(answer)))
            },
        );
        found.map_err(|message| {
            if self.running.stopped.load(Ordering::SeqCst) { Error::Interrupted } else { Error::Remote(message) }
        })?
    }
}

enum Found {
    Here(Arc<Store>),
    There(Answer),
}

impl Backend for Front {
    fn run(&mut self, sql: &str, sink: &mut dyn Sink) -> Result<(), Error> {
        self.running.stopped.store(false, Ordering::SeqCst);
        let found = self.find(sql);
        let result = match found {
            // Whoever runs the recorder sees what it records.
            Ok(Found::Here(store)) => Engine::new(store, Viewer::All, Limits::default()).and_then(|mut engine| {
                self.running.hold(Some(engine.interrupter()));
                engine.run(sql, sink)
            }),
            Ok(Found::There(answer)) => answer.write(sink).map_err(Error::Write),
            Err(error) => Err(error),
        };
        self.running.hold(None);
        result
    }

    fn interrupter(&self) -> Interrupter {
        let running = Arc::clone(&self.running);
        Arc::new(move || running.stop())
    }
}
