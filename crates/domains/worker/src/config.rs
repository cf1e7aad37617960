//! What a worker is told.

use crate::observe::Observer;
use omnirun_ids::ApiId;
use omnirun_redact::Secret;
use omnirun_sessions::HandsFactory;
use omnirun_work_client::Client;
use omnirun_work_proto::LeaseRules;
use std::{sync::Arc, time::Duration};

/// How an item ends when it is asked to.
#[derive(Debug, Clone, Copy)]
pub struct WindDown {
    /// Whether a session that is in the middle of a turn is served on for `tool`, new calls included. Otherwise only
    /// the running call is waited for.
    pub serve_on: bool,
    /// How long the running tool (or the turn) may go on before it is cancelled.
    pub tool: Duration,
    /// How long trying to post the last result may take.
    pub post: Duration,
    /// After this time from the signal everything is stopped hard.
    pub total: Duration,
}

impl WindDown {
    /// For `omnirun worker`: everything within `grace`; the last third of it, at most 10 s, is kept for what has to be
    /// done after the tools (cancel, sync, post, forced stop).
    pub fn within(grace: Duration) -> Self {
        let reserve = (grace / 3).min(Duration::from_secs(10));
        Self {
            serve_on: true,
            tool: grace - reserve,
            post: reserve / 2,
            total: grace,
        }
    }

    /// For `omnirun spawn`: `ant` kills its script 30 s after it passed a signal on.
    pub fn under_ant() -> Self {
        Self {
            serve_on: false,
            tool: Duration::from_secs(12),
            post: Duration::from_secs(5),
            total: Duration::from_secs(28),
        }
    }
}

/// Times that are the worker's own choice. Tests make them small.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// The lease's figures.
    pub lease: LeaseRules,
    /// How an item ends when the server says `stopping`.
    pub stopping: WindDown,
    /// How long a cancelled call may take to bring its partial output.
    pub cancel: Duration,
    /// How long another process of this host that holds the session is waited for.
    pub held: Duration,
    /// Between two looks at whether it has let go.
    pub held_every: Duration,
    /// How long closing the hands may take when an item winds down; a session's memory may be written then.
    pub close: Duration,
    /// How long confirming an item's end may take.
    pub stop: Duration,
    /// Factor on every pause between two tries: 1, or less to follow a simulator whose clock runs faster.
    pub pace: f64,
}

impl Timing {
    /// A pause between two tries at this worker's pace.
    pub(crate) fn pause(&self, pause: Duration) -> Duration {
        pause.mul_f64(self.pace)
    }
}

impl Default for Timing {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            lease: LeaseRules::default(),
            stopping: WindDown {
                serve_on: false,
                tool: secs(20),
                post: secs(30),
                total: secs(90),
            },
            cancel: secs(10),
            held: secs(45),
            held_every: secs(1),
            close: secs(30),
            stop: secs(30),
            pace: 1.0,
        }
    }
}

/// What serving an item needs, whoever claimed it.
pub struct ItemConfig {
    /// The API.
    pub client: Client,
    /// The environment.
    pub environment: ApiId,
    /// The environment key; `spawn` can do without when the item brings a token.
    pub key: Option<Secret>,
    /// Opens the hands of sessions.
    pub hands: Arc<dyn HandsFactory>,
    /// After how much idleness an item is given up; nothing is never.
    pub max_idle: Option<Duration>,
    /// Times.
    pub timing: Timing,
    /// How an item ends when this process is asked to.
    pub wind_down: WindDown,
    /// Hears what happens.
    pub observer: Arc<dyn Observer>,
}

/// What polling needs beside that.
pub struct WorkerConfig {
    /// Shared by all items.
    pub item: Arc<ItemConfig>,
    /// The environment key.
    pub key: Secret,
    /// How this worker is called in the queue's statistics.
    pub worker_id: String,
    /// How many sessions at once.
    pub max_sessions: usize,
    /// Leave after the first empty poll, once the sessions are over.
    pub drain: bool,
}
