//! A query of this program's user, wherever the rows are.

use std::sync::Arc;

use crate::osquery::Source;
use crate::osquery::client::Answer;
use crate::record::Store;
use crate::shell::{Backend, Engine, Error, Limits, Sink};
use crate::tables::Viewer;

/// Asks this process' own rows through the embedded engine, and another recorder through its socket.
pub struct Front(Source);

impl Front {
    /// A front of that source.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self(source)
    }
}

enum Found {
    Here(Arc<Store>),
    There(Answer),
}

impl Backend for Front {
    fn run(&mut self, sql: &str, sink: &mut dyn Sink) -> Result<(), Error> {
        let found = self.0.ask(
            |store| Ok(Found::Here(Arc::clone(store))),
            // Whole before the first row is written, so that it can be asked again when the recorder ends meanwhile.
            |client| client.answer(sql).map(Found::There),
        );
        match found.map_err(Error::Remote)? {
            // Whoever runs the recorder sees what it records.
            Found::Here(store) => Engine::new(store, Viewer::All, Limits::default())?.run(sql, sink),
            Found::There(answer) => Ok(answer.write(sink)?),
        }
    }
}
