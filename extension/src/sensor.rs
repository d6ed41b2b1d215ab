//! One recorder a machine, and every front either it or a client of it.
//!
//! Whoever starts first takes the lock, records and answers on the socket. Every other one finds the lock taken and asks
//! on that socket. All of them try the lock again and again: when the recorder ends, however it ends, the next one is the
//! recorder, and questions that were on their way find it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use crate::lock::{Holder, Lock, LockError, Place};
use crate::osquery::client::Client;
use crate::osquery::{self, Access, Rows, Source, Stop};
use crate::recorder::{Recorder, Settings};

/// Time that a recorder gets to end when the program is told to.
const GOODBYE: Duration = Duration::from_secs(2);

/// Before a recorder that failed is started again: at first, and at most.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
const AFTER_FAILURES: Duration = Duration::from_secs(60);

/// Between two looks at who records, and at whether the own recorder still does.
const LOOK: Duration = Duration::from_millis(250);

/// What becomes of a front when the recorder that it asks has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standby {
    /// It waits in the queue for the lock, and takes over within a second: a service, an extension.
    Ready,
    /// It looks from time to time whether nobody else does: a shell, a query.
    Reluctant,
}

/// Between two looks of a reluctant one.
const RELUCTANT: Duration = Duration::from_secs(1);

/// This program's part in the machine's recording; it ends when this is dropped.
pub struct Sensor {
    source: Source,
    stop: Stop,
    ended: Receiver<()>,
}

impl Sensor {
    /// Records, or asks whoever records, on a thread of its own: osquery gives an extension three seconds to register.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(settings: Settings, place: Place, standby: Standby) -> std::io::Result<Self> {
        let (source, stop) = (Source::default(), Stop::default());
        let (end, ended) = std::sync::mpsc::channel();
        let sensing = Sensing { settings, place, standby, source: source.clone(), stop: stop.clone() };
        std::thread::Builder::new().name("sensor".into()).spawn(move || {
            // Dropped, and so heard of, when this thread ends in whatever way.
            let _end: std::sync::mpsc::Sender<()> = end;
            sensing.run();
        })?;
        Ok(Self { source, stop, ended })
    }

    /// Where the rows are.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        self.stop.request();
        // A recorder that hangs in the kernel must not keep anybody waiting.
        let _ = self.ended.recv_timeout(GOODBYE);
    }
}

struct Sensing {
    settings: Settings,
    place: Place,
    standby: Standby,
    source: Source,
    stop: Stop,
}

impl Sensing {
    fn run(&self) {
        if let Some(client) = self.machine() {
            self.source.set(Ok(Rows::There(client)));
            return;
        }
        let mut pause = AFTER_FAILURE;
        loop {
            let ended = match self.lock() {
                Ok(Some(lock)) => self.record(lock),
                Ok(None) => return,
                Err(error) => Err(error.to_string()),
            };
            let Err(reason) = ended else { return };
            match self.standby {
                Standby::Ready => tracing::error!(%reason, "nothing is recorded"),
                // Its question says so.
                Standby::Reluctant => tracing::debug!(%reason, "nothing is recorded"),
            }
            self.source.set(Err(format!("agentquery records nothing: {reason}")));
            if self.stop.wait(pause) {
                return;
            }
            pause = (pause * 2).min(AFTER_FAILURES);
        }
    }

    /// The machine's recorder, for one who asks and could record its own processes alone.
    fn machine(&self) -> Option<Client> {
        let client = Client::new(self.place.machine.as_deref().filter(|_| self.standby == Standby::Reluctant)?);
        client.answers().then_some(client)
    }

    /// The lock, as soon as it is free; until then whoever has it is asked. None when the program ends.
    fn lock(&self) -> Result<Option<Lock>, LockError> {
        let mut lock = self.place.try_lock()?;
        let in_line = lock.is_none() && self.standby == Standby::Ready;
        let queued = in_line.then(|| queue(self.place.clone()));
        let mut told = None;
        while lock.is_none() {
            self.ask_holder(&mut told);
            if self.stop.wait(if in_line { LOOK } else { RELUCTANT }) {
                return Ok(None);
            }
            lock = match queued.as_ref().map(Receiver::try_recv) {
                Some(Ok(result)) => Some(result?),
                Some(Err(TryRecvError::Empty)) => None,
                // Not in line, or without a thread to wait on: it is tried from time to time.
                Some(Err(TryRecvError::Disconnected)) | None => self.place.try_lock()?,
            };
        }
        Ok(lock)
    }

    fn ask_holder(&self, told: &mut Option<Holder>) {
        let holder = self.place.holder();
        let socket = holder.as_ref().map_or(&self.place.socket, |holder| &holder.socket);
        self.source.expect_recorder();
        self.source.set(Ok(Rows::There(Client::new(socket))));
        if holder != *told {
            let pid = holder.as_ref().map(|holder| holder.pid);
            tracing::info!(?pid, socket = %socket.display(), "another process records; asking it");
            *told = holder;
        }
    }

    /// Records until the program ends, or says why it cannot.
    fn record(&self, lock: Lock) -> Result<(), String> {
        let recorder = Recorder::start(&self.settings).map_err(|error| error.to_string())?;
        let store = recorder.store();
        let server = osquery::manager::serve(&self.place.socket, Access::Everybody, Arc::clone(&store))
            .map_err(|error| error.to_string())?;
        self.source.set(Ok(Rows::Here(store)));
        tracing::info!(socket = %server.path().display(), "recording, and answering");
        while !self.stop.wait(LOOK) {
            if !recorder.is_recording() {
                // What was recorded is answered until it starts again; agent_collector says why it ended.
                let stopping = self.stop.wait(AFTER_FAILURE);
                return if stopping { Ok(()) } else { Err("the recording thread ended; it is started again".into()) };
            }
        }
        // The socket goes before the lock: the next recorder makes its own of the same name.
        drop(server);
        drop(recorder);
        drop(lock);
        Ok(())
    }
}

/// Waits for the lock on a thread of its own: `flock` waits without an end. When the program ends first, so does it.
fn queue(place: Place) -> Receiver<Result<Lock, LockError>> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let started = std::thread::Builder::new().name("lock".into()).spawn(move || {
        let _ = sender.send(place.wait_for_lock());
    });
    if let Err(error) = started {
        tracing::warn!(%error, "cannot wait for the lock");
    }
    receiver
}
