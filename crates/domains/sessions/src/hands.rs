//! The contract between a worker, which knows the queue protocol, and the sessions, which know microVMs.
//!
//! A worker opens the hands of a session when it has claimed a work item, hands over one tool call after the other, and
//! says of each result whether it has been posted. What happens in between (clones, disks, the journal) is not its
//! business. Tests of the worker put a fake behind this trait; the real one is this crate's session.

use async_trait::async_trait;
use omnirun_ids::{ApiId, SessionKey};
use omnirun_redact::Guest;
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};
use tokio_util::sync::CancellationToken;

/// One tool call of an agent.
#[derive(Debug, Clone)]
pub struct ToolCall {
    /// The id of the `agent.tool_use` event.
    pub id: ApiId,
    /// The tool's name, one of the six.
    pub name: String,
    /// Its input, as it came; not yet checked against the schema.
    pub input: Guest<String>,
}

/// How a call ended. Durable before it is returned.
#[derive(Debug, Clone, PartialEq)]
pub struct CallOutcome {
    /// Whether the model is to see an error.
    pub is_error: bool,
    /// The content blocks, in the API's JSON form.
    pub content: Guest<String>,
    /// The sandbox that ran it; none if no sandbox did (bad input, a stored result, an interrupted call).
    pub sandbox: Option<String>,
    /// Exit code of the command, for `bash`.
    pub exit_code: Option<i32>,
    /// From the call's arrival to this outcome (`total`), and its parts, for the log and the bench: `take` a clone,
    /// `claim` it, `seed` it, record the `start`, `guest` (from each request written to its reply read), `record`.
    pub timings: Vec<(&'static str, Duration)>,
}

impl CallOutcome {
    /// The content as JSON: an array of blocks.
    pub fn content_json(&self) -> Value {
        serde_json::from_str(&self.content.0).unwrap_or_else(|_| Value::Array(Vec::new()))
    }
}

/// What becomes of a session when a worker lets go of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// The item is over, the session may come back: keep its disk for the retention time.
    Keep,
    /// The session is terminated or deleted: remove its disk.
    Remove,
    /// The lease was lost: another worker may be serving it already. Kill at once, write nothing more, keep the disk.
    Lost,
}

/// Why the hands of a session could not be opened, or a call could not be brought to an outcome.
#[derive(Debug, thiserror::Error)]
pub enum HandsError {
    /// Another live process of this host holds the session's disk.
    #[error("session {session} is held by another process of this host")]
    Held {
        /// The session.
        session: String,
    },
    /// The work was cancelled before the tool began: nothing has run.
    #[error("the call was cancelled")]
    Cancelled,
    /// The journal says that the result of this call has been posted already (and forgotten). There is nothing to run
    /// and nothing to post.
    #[error("call {call} has been answered already")]
    Answered {
        /// The call.
        call: String,
    },
    /// The call has run, or has been cut off, and that could not be made durable.
    #[error("the outcome of the call could not be recorded")]
    Unrecorded(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// OmniRun's own failure, before anything has run: no image, no space, a VMM that does not start.
    #[error("{step}")]
    Failed {
        /// What was being done.
        step: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Opens the hands of sessions.
#[async_trait]
pub trait HandsFactory: Send + Sync {
    /// Takes the session's lease on this host and prepares its disk. `metadata` is the session's own.
    async fn open(
        &self,
        key: &SessionKey,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Box<dyn Hands>, HandsError>;

    /// A session of this key was claimed and will be opened in a moment: a hint to start its first clone now.
    fn warm(&self, _key: &SessionKey) {}

    /// The session is terminated or deleted, and nothing is to run any more: removes what this host keeps of it, and
    /// says what that was.
    async fn forget(&self, key: &SessionKey) -> Result<Vec<String>, HandsError> {
        self.open(key, &BTreeMap::new())
            .await?
            .close(Release::Remove)
            .await
    }

    /// The names of the tools that it serves.
    fn tools(&self) -> &'static [&'static str] {
        &["bash", "read", "write", "edit", "glob", "grep"]
    }
}

/// The hands of one session. Calls are serial: `&mut self`.
#[async_trait]
pub trait Hands: Send {
    /// Runs a call, or returns what the journal has of it. Whatever it returns is durable. When `cancel` fires, the
    /// running tool is ended and the outcome holds its partial output. A worker that must end it at once (a lost lease)
    /// drops the future; only [`Hands::close`] follows then, which ends what still runs.
    async fn call(&mut self, call: &ToolCall, cancel: CancellationToken) -> Result<CallOutcome, HandsError>;

    /// The result of a call has reached the API: the journal may forget its content. A good time to make the next
    /// clone ready.
    async fn posted(&mut self, call: &ApiId) -> Result<(), HandsError>;

    /// Lets go of the session and says what was removed.
    async fn close(self: Box<Self>, release: Release) -> Result<Vec<String>, HandsError>;
}
