//! The HTTP client of Anthropic's work queue: one method per endpoint that a worker needs.
//!
//! ```text
//!   Client ── queue:    poll, acknowledge            (environment key)
//!          ── item:     heartbeat, stop              (the item's credential)
//!          ── session:  get, list, send, stream      (the item's credential)
//!   every request ── Bearer only ── up to three tries (transport) ── bounded body ── Status | Transport | ...
//! ```
//!
//! What is decided here is how one request is made and tried again; what an answer means for the item is
//! `omnirun-work-proto`'s and the worker's. Ids enter paths as [`omnirun_ids::ApiId`] only. Errors and log lines carry
//! statuses, error types and request ids, never a credential or an event's content.

mod client;
mod error;
mod queue;
mod session;
mod sse;
mod transport;

pub use client::{BaseUrl, BaseUrlError, Client, ClientConfig, Limits};
pub use error::ClientError;
pub use queue::Stopped;
pub use session::{EventStream, Incoming, Page, SentEvent};
pub use sse::{Frame, SseParser};
