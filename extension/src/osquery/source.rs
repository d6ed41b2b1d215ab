//! Where the rows are: in this process, or with the recorder of the machine.
//!
//! That changes while the program runs. A front that asks another recorder becomes the recorder when that one ends, and
//! a question that was on its way is asked again where the rows are now.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::client::{Client, ClientError};
use super::turns::Turns;
use crate::os;
use crate::record::Store;
use crate::tables::{Got, Neighbours, Reads};

/// How long osquery's call waits for a recorder that is still starting, and for the next one when one has ended: while
/// it waits, the whole core does.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Between two questions while it waits.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers to calls that are made at a time: osquery asks for one, or for a few when its schedule and a user meet.
const AT_A_TIME: usize = 4;
/// And those of users who may not see everything.
const OF_USERS: usize = 2;

/// Who has the rows.
#[derive(Clone)]
pub enum Rows {
    /// This process.
    Here(Arc<Store>),
    /// The recorder on that socket.
    There(Client),
}

/// What is known of it: none while it starts.
type State = Option<Result<Rows, String>>;

/// Shared by the one that finds out and all that ask.
#[derive(Clone)]
pub struct Source(Arc<Inner>);

impl Default for Source {
    fn default() -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            changed: Condvar::new(),
            reads: Reads::default(),
            turns: Turns::new(AT_A_TIME, OF_USERS),
            neighbours: Neighbours::default(),
            got: Got::default(),
            reached: AtomicBool::new(false),
        }))
    }
}

struct Inner {
    state: Mutex<State>,
    changed: Condvar,
    /// What was read of a store that is here.
    reads: Reads,
    /// Whose call is answered.
    turns: Turns,
    /// Calls of readers that name themselves, and what readers got.
    neighbours: Neighbours,
    got: Got,
    /// Some recorder was there: one that is not is about to be followed by another.
    reached: AtomicBool,
}

impl Source {
    /// A store that is there.
    #[must_use]
    pub fn of(store: Arc<Store>) -> Self {
        let source = Self::default();
        source.set(Ok(Rows::Here(store)));
        source
    }

    /// Says where the rows are, or why there are none.
    pub fn set(&self, rows: Result<Rows, String>) {
        *self.0.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(rows);
        self.0.changed.notify_all();
    }

    /// The reads that calls share.
    pub(super) fn reads(&self) -> &Reads {
        &self.0.reads
    }

    /// Which calls are of one query.
    pub(super) fn neighbours(&self) -> &Neighbours {
        &self.0.neighbours
    }

    /// What readers got.
    pub(super) fn got(&self) -> &Got {
        &self.0.got
    }

    /// A bound on the calls that are answered at a time.
    pub(super) fn turns(&self) -> &Turns {
        &self.0.turns
    }

    /// A recorder is known to be there or to come: questions wait for it.
    pub fn expect_recorder(&self) {
        self.0.reached.store(true, Ordering::Relaxed);
    }

    /// Waits until it is known where the rows are.
    ///
    /// # Errors
    /// Why there are none.
    pub fn wait_until_known(&self) -> Result<(), String> {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.0.changed.wait_while(state, |state| state.is_none()).unwrap_or_else(PoisonError::into_inner);
        match &*state {
            Some(Err(why)) => Err(why.clone()),
            _ => Ok(()),
        }
    }

    /// Waits until rows can be asked for, with as much patience as [`Source::ask`].
    ///
    /// # Errors
    /// Why they cannot.
    pub fn wait_until_answered(&self, patience: Duration) -> Result<(), String> {
        self.wait_until_known()?;
        self.ask(patience, |_| Ok(()), Client::ping)
    }

    /// Where they are.
    fn get(&self, patience: Duration) -> Result<Rows, String> {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, _) = self
            .0
            .changed
            .wait_timeout_while(state, patience, |state| state.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        state.clone().unwrap_or_else(|| Err("agentquery is still starting; ask again in a moment".into()))
    }

    /// Asks where the rows are; again, when the recorder ended meanwhile, for as long as there is patience.
    ///
    /// # Errors
    /// When there are no rows, the question was refused, or no recorder answered for a while.
    pub fn ask<T>(
        &self,
        patience: Duration,
        here: impl FnOnce(&Arc<Store>) -> Result<T, String>,
        there: impl Fn(&Client) -> Result<T, ClientError>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + patience;
        loop {
            let client = match self.get(patience)? {
                Rows::Here(store) => return here(&store),
                Rows::There(client) => client,
            };
            let error = match there(&client) {
                Ok(answer) => {
                    self.expect_recorder();
                    return Ok(answer);
                }
                Err(ClientError::Refused(message)) => return Err(message),
                Err(error @ ClientError::Interrupted) => return Err(error.to_string()),
                Err(error) => error,
            };
            let follows = self.0.reached.load(Ordering::Relaxed) && Instant::now() < deadline;
            if !follows {
                return Err(match error {
                    ClientError::Connect { path, source } => {
                        let how = os::elevated("agentquery run");
                        format!("no recorder answers on {} ({source}): start one with {how}", path.display())
                    }
                    error => format!("the recorder did not answer: {error}"),
                });
            }
            std::thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn ask(source: &Source) -> Result<&'static str, String> {
        source.ask(PATIENCE, |_| Ok("here"), |client| client.query("SELECT 1").map(|_| "there"))
    }

    #[test]
    fn a_question_follows_the_recorder() {
        let folder = tempfile::tempdir().unwrap();
        let nobody = Rows::There(Client::new(&folder.path().join("nobody.em")));
        let source = Source::default();
        source.set(Ok(nobody.clone()));
        let error = ask(&source).unwrap_err();
        assert!(error.contains("nobody.em") && error.contains(&os::elevated("agentquery run")), "{error}");

        source.expect_recorder();
        let later = source.clone();
        let change = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            later.set(Ok(Rows::Here(fixture::store(1))));
        });
        assert_eq!(ask(&source), Ok("here"));
        change.join().unwrap();
    }

    #[test]
    fn what_failed_says_why() {
        let source = Source::default();
        source.set(Err("this kernel has no BTF".into()));
        assert_eq!(ask(&source), Err("this kernel has no BTF".into()));
    }
}
