//! What is in the journal of calls, for tests that wait for a moment in a session's life.

use crate::wait_until;
use omnirun_store::{
    DataDir, Db,
    sessions::{CallRow, CallState, Durability, SessionRow, Sessions},
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// For a machine under heavy load; nothing waits for it to pass.
const BOUND: Duration = Duration::from_secs(120);

/// The sessions and their journals, as another process of this host sees them.
pub struct Journal(Sessions);

impl Journal {
    /// Of a data folder.
    pub fn open(data: &Path) -> Self {
        let dir = DataDir::open(Some(data.to_owned())).expect("the data folder");
        let db = Db::open(&dir).expect("the database");
        Self(Sessions::new(&db, &dir, Durability::default()).expect("the sessions"))
    }

    /// A session by the end of its name.
    pub fn session(&self, name: &str) -> Option<SessionRow> {
        let rows = self.0.list().expect("a list");
        rows.into_iter()
            .find(|r| r.key.session.as_str().ends_with(&format!("_{name}")))
    }

    /// A session's calls.
    pub fn calls(&self, name: &str) -> Vec<CallRow> {
        self.session(name)
            .map_or_else(Vec::new, |row| self.0.calls(&row.hash).expect("calls"))
    }

    /// The disk of a session.
    pub fn disk(&self, row: &SessionRow) -> PathBuf {
        self.0.disk_path(&row.hash)
    }

    /// How many calls have come at least so far.
    pub fn at_least(&self, name: &str, state: CallState) -> usize {
        let rank = |s: CallState| match s {
            CallState::Started => 0,
            CallState::Finished => 1,
            CallState::Posted => 2,
        };
        self.calls(name)
            .iter()
            .filter(|c| rank(c.state) >= rank(state))
            .count()
    }

    /// Waits for so many.
    pub fn wait(&self, name: &str, state: CallState, count: usize) {
        wait_until(&format!("{count} calls of {name} {state:?}"), BOUND, || {
            self.at_least(name, state) >= count
        });
    }
}
