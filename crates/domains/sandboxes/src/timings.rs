//! How long each phase of a sandbox took.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Phases and their durations, in the order in which they ended. Shared by the owner task and the handle.
#[derive(Debug, Clone, Default)]
pub(crate) struct Timings(Arc<Mutex<Vec<(&'static str, Duration)>>>);

impl Timings {
    /// Records a phase that began at `since` and ends now.
    pub(crate) fn since(&self, phase: &'static str, since: Instant) {
        self.push(phase, since.elapsed());
    }

    pub(crate) fn push(&self, phase: &'static str, took: Duration) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((phase, took));
    }

    pub(crate) fn all(&self) -> Vec<(&'static str, Duration)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
