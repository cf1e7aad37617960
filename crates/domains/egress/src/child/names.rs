//! Names and their addresses, for one guest.
//!
//! The cache is the guest's own. One that all share would tell each guest, by the time that an answer takes, what others
//! have asked for lately. (The host's own resolver, if it caches, still does so.) What is asked for by several at once is
//! asked for once.

use super::{
    process::Process,
    upstream::{Found, NotFound},
};
use omnirun_egress_policy::Name;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// At most so many names.
const MOST: usize = 1024;
/// An address is asked for anew after so long at the latest, and not before so long.
const LONGEST: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_secs(1);
/// So long it is believed that there is none.
const NEGATIVE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
struct Known {
    answer: Result<Found, NotFound>,
    until: Instant,
}

/// Locked while somebody asks.
type Cell = Arc<tokio::sync::Mutex<Option<Known>>>;

/// See the module.
#[derive(Debug)]
pub(super) struct Names {
    process: Arc<Process>,
    cells: Mutex<HashMap<Name, Cell>>,
}

impl Names {
    pub(super) fn new(process: Arc<Process>) -> Self {
        Self {
            process,
            cells: Mutex::default(),
        }
    }

    /// The addresses of a name, as the host resolves it. What they are is not looked at.
    pub(super) async fn find(&self, name: &Name) -> Result<Found, NotFound> {
        let cell = self.cell(name);
        let mut known = cell.lock().await;
        let now = Instant::now();
        if let Some(known) = known.as_ref().filter(|known| known.until > now) {
            return known.answer.clone();
        }
        let mut answer = self.process.upstream().find(name).await;
        let now = Instant::now();
        let until = match &mut answer {
            Ok(found) => {
                found.until = found.until.clamp(now + SHORTEST, now + LONGEST);
                found.until
            }
            // Nobody could say: asked anew by whoever asks next.
            Err(NotFound::Failed) => now,
            Err(_) => now + NEGATIVE,
        };
        *known = Some(Known {
            answer: answer.clone(),
            until,
        });
        answer
    }

    /// Forgets everything: it is resolved otherwise now.
    pub(super) fn forget(&self) {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn cell(&self, name: &Name) -> Cell {
        let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = cells.get(name) {
            return Arc::clone(cell);
        }
        if cells.len() >= MOST {
            let now = Instant::now();
            // Whoever holds one still has it; it is only not found by others any more.
            cells.retain(|_, cell| {
                cell.try_lock()
                    .is_ok_and(|known| known.as_ref().is_some_and(|known| known.until > now))
            });
            if cells.len() >= MOST {
                cells.clear();
            }
        }
        Arc::clone(cells.entry(name.clone()).or_default())
    }
}
