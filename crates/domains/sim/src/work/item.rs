//! One work item's life, as a pure machine: no I/O, no clock. Times are durations since the simulator's start.
//!
//! ```text
//!   queued --poll--> queued, pending --ack--> starting --first beat--> active --beat--> active
//!     ^                  |                       |                        |
//!     |   reclaim        |      a TTL without    |                        |
//!     +------------------+      a beat           |                        |
//!     +------------------------------------------+------------------------+
//!
//!   any of these --stop--> stopping --stop by force, or a TTL without a beat--> stopped
//! ```
//!
//! What gives the lease its meaning: a heartbeat names the value that the previous one returned, and going back to the
//! queue resets that value. So a holder that missed its TTL gets 412 whoever holds the item now, and the next holder can
//! begin with `NO_HEARTBEAT`.

use std::time::Duration;

/// The first beat's expectation.
pub const NO_HEARTBEAT: &str = "NO_HEARTBEAT";

/// Where an item is. Each phase carries what only it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting; `pending` since it was handed to a poller that has not acknowledged it.
    Queued {
        /// When it was handed out.
        pending: Option<Duration>,
    },
    /// Acknowledged, no beat yet; the lease runs from the acknowledgement.
    Starting {
        /// When it was acknowledged.
        since: Duration,
    },
    /// Held.
    Active {
        /// The latest beat.
        since: Duration,
    },
    /// Asked to stop; the holder learns it by its next beat.
    Stopping {
        /// The request, or the latest beat after it.
        since: Duration,
    },
    /// The end.
    Stopped,
}

impl Phase {
    /// The wire's word.
    pub fn name(&self) -> &'static str {
        match self {
            Phase::Queued { .. } => "queued",
            Phase::Starting { .. } => "starting",
            Phase::Active { .. } => "active",
            Phase::Stopping { .. } => "stopping",
            Phase::Stopped => "stopped",
        }
    }
}

/// A beat's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The lease was extended; the value to name next time.
    Extended(String),
    /// The item is stopping or stopped: nothing was compared or extended.
    Ending(&'static str),
    /// 412: another holder, or back in the queue.
    Moved {
        /// The item's state.
        state: &'static str,
        /// The value it has now.
        stored: Option<String>,
    },
}

/// Why an acknowledgement is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AckDenied {
    /// Not handed to anybody.
    #[error("the item was not handed out")]
    NotPending,
    /// Past that.
    #[error("the item is already {0}")]
    Already(&'static str),
}

/// A stop of a stopped item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the item has already stopped")]
pub struct AlreadyStopped;

/// The moments that the wire's work object tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Acknowledged.
    pub acknowledged: Option<Duration>,
    /// First beat.
    pub started: Option<Duration>,
    /// Latest beat.
    pub beat: Option<Duration>,
    /// First stop request.
    pub stop_requested: Option<Duration>,
    /// Stopped.
    pub stopped: Option<Duration>,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Item {
    phase: Phase,
    stored: Option<String>,
    ttl: Duration,
    times: Times,
}

impl Item {
    /// A queued item whose leases last `ttl`.
    pub fn new(ttl: Duration) -> Item {
        Item {
            phase: Phase::Queued { pending: None },
            stored: None,
            ttl,
            times: Times::default(),
        }
    }

    /// Where it is.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Its moments.
    pub fn times(&self) -> &Times {
        &self.times
    }

    /// Whether anything can still become of it.
    pub fn is_live(&self) -> bool {
        self.phase != Phase::Stopped
    }

    /// Whether a worker holds it.
    pub fn is_held(&self) -> bool {
        matches!(
            self.phase,
            Phase::Starting { .. } | Phase::Active { .. } | Phase::Stopping { .. }
        )
    }

    /// Hands it to a poller. False when it is not to be had: not queued, or with another poller for no longer than
    /// `reclaim`.
    pub fn offer(&mut self, now: Duration, reclaim: Duration) -> bool {
        match self.phase {
            Phase::Queued { pending: None } => {}
            Phase::Queued { pending: Some(since) } if now.saturating_sub(since) > reclaim => {}
            _ => return false,
        }
        self.phase = Phase::Queued { pending: Some(now) };
        true
    }

    /// Takes it off the queue.
    pub fn ack(&mut self, now: Duration) -> Result<(), AckDenied> {
        match self.phase {
            Phase::Queued { pending: Some(_) } => {
                self.phase = Phase::Starting { since: now };
                self.times.acknowledged = Some(now);
                Ok(())
            }
            Phase::Queued { pending: None } => Err(AckDenied::NotPending),
            _ => Err(AckDenied::Already(self.phase.name())),
        }
    }

    /// A heartbeat. `expected` is what the caller names (absent: nothing is compared), `fresh` the value to store.
    pub fn beat(&mut self, now: Duration, expected: Option<&str>, fresh: String) -> Beat {
        let state = self.phase.name();
        match self.phase {
            Phase::Stopped => return Beat::Ending(state),
            Phase::Stopping { .. } => {
                self.phase = Phase::Stopping { since: now };
                return Beat::Ending(state);
            }
            Phase::Queued { .. } => {
                return Beat::Moved {
                    state,
                    stored: self.stored.clone(),
                };
            }
            Phase::Starting { .. } | Phase::Active { .. } => {}
        }
        if expected.is_some_and(|e| e != self.stored.as_deref().unwrap_or(NO_HEARTBEAT)) {
            return Beat::Moved {
                state,
                stored: self.stored.clone(),
            };
        }
        self.phase = Phase::Active { since: now };
        self.times.started.get_or_insert(now);
        self.times.beat = Some(now);
        self.stored = Some(fresh.clone());
        Beat::Extended(fresh)
    }

    /// The value that the latest beat stored.
    pub fn stored(&self) -> Option<&str> {
        self.stored.as_deref()
    }

    /// Asks it to stop, or stops it.
    pub fn stop(&mut self, now: Duration, force: bool) -> Result<(), AlreadyStopped> {
        if self.phase == Phase::Stopped {
            return Err(AlreadyStopped);
        }
        self.times.stop_requested.get_or_insert(now);
        if force {
            self.end(now);
        } else if !matches!(self.phase, Phase::Stopping { .. }) {
            // An item that nobody holds has nobody to confirm; it expires like one whose holder is gone.
            self.phase = Phase::Stopping { since: now };
        }
        Ok(())
    }

    /// When its lease ends if nothing happens before.
    pub fn deadline(&self) -> Option<Duration> {
        match self.phase {
            Phase::Starting { since } | Phase::Active { since } | Phase::Stopping { since } => {
                Some(since + self.ttl)
            }
            Phase::Queued { .. } | Phase::Stopped => None,
        }
    }

    /// Lets an overdue lease end. True when that changed anything: held items go back to the queue, stopping ones stop.
    pub fn expire(&mut self, now: Duration) -> bool {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return false;
        }
        match self.phase {
            Phase::Stopping { .. } => self.end(now),
            _ => self.requeue(),
        }
        true
    }

    /// Puts a held item back into the queue, as an expired lease does.
    pub fn requeue(&mut self) {
        if matches!(self.phase, Phase::Starting { .. } | Phase::Active { .. }) {
            self.phase = Phase::Queued { pending: None };
            self.stored = None;
            self.times = Times::default();
        }
    }

    fn end(&mut self, now: Duration) {
        self.phase = Phase::Stopped;
        self.times.stopped = Some(now);
    }
}

#[cfg(test)]
mod tests;
