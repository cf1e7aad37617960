//! Time: monotonic for decisions, told to clients as wall-clock stamps.

use std::time::Duration;
use tokio::time::Instant;

/// The simulator's clock.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    start: Instant,
    wall: jiff::Timestamp,
    scale: f64,
}

impl Clock {
    pub(crate) fn new(scale: f64) -> Clock {
        Clock {
            start: Instant::now(),
            wall: jiff::Timestamp::now(),
            scale,
        }
    }

    /// Time since the start.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// A moment since the start as the clock's instant.
    pub(crate) fn instant(&self, at: Duration) -> Instant {
        self.start + at
    }

    /// How long a scripted wait really is.
    pub(crate) fn scaled(&self, wait: Duration) -> Duration {
        wait.div_f64(self.scale)
    }

    /// The stamp that clients see, with microseconds.
    pub(crate) fn stamp(&self, at: Duration) -> String {
        let delta = jiff::SignedDuration::try_from(at).unwrap_or_default();
        let time = self.wall.checked_add(delta).unwrap_or(self.wall);
        format!("{time:.6}")
    }
}
