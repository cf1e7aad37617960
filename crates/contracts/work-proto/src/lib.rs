//! Anthropic's work queue for self-hosted environments: what goes over the wire, and the rules of serving it as pure
//! machines. No I/O, no clock, no randomness: the time and the random numbers are arguments.
//!
//! ```text
//!   WorkItem ──> item_credential ──> who speaks for the item (its own token before the environment key)
//!   Lease        what to send as expected_last_heartbeat, when, and what an answer means
//!   Event    ──> Router    which tool calls to run, hold, leave alone or forget
//!            └─> IdleClock when a session has been idle for so long that the item is given up
//!   backoff      every pause between two tries, by the name of what is tried
//! ```
//!
//! Everything here is lenient in what it reads: fields that are not needed are not looked at, unknown names are a
//! variant of their own, null and absent are the same. What is needed is checked ([`omnirun_ids::ApiId`]).

pub mod backoff;
mod credential;
mod error;
mod event;
mod idle;
mod json;
mod lease;
mod router;
mod session;
mod work;

pub use credential::{Credential, CredentialSource, NoCredential, item_credential};
pub use error::{ApiError, ErrorBody, Verdict, verdict};
pub use event::{CallKind, Event, EventError, Permission, Stop, ToolUse, result_event};
pub use idle::IdleClock;
pub use json::mend_surrogates;
pub use lease::{Beat, Lease, LeaseEnd, LeaseRules, Lost};
pub use router::{History, Outstanding, Routed, Router, Skip};
pub use session::{Session, SessionStatus};
pub use work::{HeartbeatResponse, NO_HEARTBEAT, WorkData, WorkItem, WorkSecret, WorkState};

/// The value of `anthropic-version`.
pub const API_VERSION: &str = "2026-10-21";
/// The value of `anthropic-beta` on environments, work, sessions and events.
pub const API_BETA: &str = "managed-agents-2026-04-01";
