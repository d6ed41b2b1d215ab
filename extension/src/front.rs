//! A query of this program's user, wherever the rows are.
//!
//! They are with this process, with another one that records, or in a file that nobody has open: a history of before, or
//! one of another machine. Such a file is opened for reading, by the same tables over a store in which nothing lives.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::history::{FoundRow, History, HistoryError};
use crate::lock::Place;
use crate::osquery::client::{Answer, Client};
use crate::osquery::{Rows, Source};
use crate::record::Store;
use crate::record::found;
use crate::shell::{Backend, Engine, Error, Interrupter, Limits, Sink};
use crate::tables::Viewer;

/// How long a query waits for a recorder that starts, or for the next one. A shell takes over itself in that time.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Asks this process' own rows through the embedded engine, and another recorder through its socket.
pub struct Front {
    source: Source,
    running: Arc<Running>,
    /// The file, when it is only read.
    _file: Option<History>,
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
        Self { source, running: Arc::default(), _file: None }
    }

    /// A front of a history: of the file itself, or, when the recorder of that place has it, of that recorder.
    ///
    /// # Errors
    /// When the file cannot be read, or another process has it.
    pub fn of_file(file: &Path, place: &Place) -> Result<Self, HistoryError> {
        match History::open_existing(file) {
            Ok(history) => {
                let store = Arc::new(Store::default());
                show_running(&history, &store)?;
                store.set_history(Some(history.readers()));
                Ok(Self { _file: Some(history), ..Self::new(Source::of(store)) })
            }
            Err(HistoryError::InUse { holder, .. }) if is_recorder(&holder, place) => Ok(Self::new(recorder(place))),
            Err(error) => Err(error),
        }
    }

    /// A front for what does not record: of the recorder that runs, else of the file that it would have.
    ///
    /// # Errors
    /// When there is neither.
    pub fn reading(file: Option<&Path>, place: &Place) -> Result<Self, String> {
        let source = recorder(place);
        let Err(why) = source.wait_until_answered(PATIENCE) else { return Ok(Self::new(source)) };
        match file.filter(|file| file.exists()) {
            Some(file) => Self::of_file(file, place).map_err(|error| error.to_string()),
            None => Err(why),
        }
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

/// What ran when the recorder of that file ended, as it was then: nobody closed it yet.
fn show_running(history: &History, store: &Store) -> Result<(), HistoryError> {
    let mut found = found::Found::default();
    for FoundRow { table, row, .. } in history.running()? {
        found.add(table, &row, true);
    }
    let rows = found.here;
    store.update(|state| {
        rows.agents.into_iter().for_each(|row| state.live_agents.insert(row.process_eid, row));
        rows.processes.into_iter().for_each(|row| state.live_processes.insert(row.eid, row));
        rows.connections.into_iter().for_each(|row| state.live_connections.insert(row.eid, row));
        rows.open_files.into_iter().for_each(|row| state.open_files.insert(row.eid, row));
    });
    Ok(())
}

/// The recorder of that place.
fn recorder(place: &Place) -> Source {
    let source = Source::default();
    if let Some(client) = place.machine.as_deref().map(Client::new).filter(Client::answers) {
        source.set(Ok(Rows::There(client)));
        return source;
    }
    let socket = place.holder().map_or_else(|| place.socket.clone(), |holder| holder.socket);
    source.set(Ok(Rows::There(Client::new(&socket))));
    source
}

/// Whether it is the recorder of that place who has a history open.
fn is_recorder(holder: &str, place: &Place) -> bool {
    place.holder().is_some_and(|recorder| holder == format!("process {}", recorder.pid))
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
