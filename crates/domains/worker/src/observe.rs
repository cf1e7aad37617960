//! What happens, for whoever wants to show or measure it. Ids, names, times and exit codes; never content.

use omnirun_ids::ApiId;
use std::time::Duration;

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFate {
    /// Its result has reached the API.
    Posted,
    /// The API refused the result; the next history decides.
    Refused,
    /// The result could not be brought to the API in time.
    Unposted,
    /// It had an answer already, or its thread was over.
    NotDue,
    /// It did not end: the lease was lost, or the worker was stopped.
    Ended,
}

/// Something that happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum WorkerEvent<'a> {
    /// An item was claimed.
    Claimed {
        /// The item.
        work: &'a ApiId,
        /// Its session.
        session: &'a ApiId,
    },
    /// A call begins.
    CallStarted {
        /// The session.
        session: &'a ApiId,
        /// The call.
        call: &'a ApiId,
        /// The tool.
        tool: &'a str,
    },
    /// A call is over.
    CallFinished {
        /// The session.
        session: &'a ApiId,
        /// The call.
        call: &'a ApiId,
        /// The tool.
        tool: &'a str,
        /// The sandbox that ran it.
        sandbox: Option<&'a str>,
        /// Exit code, for `bash`.
        exit_code: Option<i32>,
        /// Whether the model sees an error.
        is_error: bool,
        /// How long it took by itself, without waiting for its turn.
        took: Duration,
        /// From the event's arrival to the moment at which its result's post began.
        until_post: Duration,
        /// The parts of that, as the hands measured them.
        timings: &'a [(&'static str, Duration)],
        /// What became of it.
        fate: CallFate,
    },
    /// An item is over.
    Ended {
        /// The item.
        work: &'a ApiId,
        /// Why, in a word or two.
        reason: &'static str,
    },
}

/// Hears what happens. Called from the tasks that serve, so it must not block.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn event(&self, event: &WorkerEvent<'_>);
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ignore;

impl Observer for Ignore {
    fn event(&self, _: &WorkerEvent<'_>) {}
}
