//! The worker: claims work items from Anthropic's queue and serves each to its end, with hands that it was given.
//!
//! ```text
//!   worker (one task)                      item (one task each; `spawn` runs exactly one)
//!     poll ── while there is room            heartbeat task ── the lease, told through a watch
//!     acknowledge                            feed task ─────── stream first, then history; reconnects
//!     start an item ───────────────────────> desk: router, idle clock, winding down ── one call at a time
//!     stop polling on a signal or                 └─> hands.call ── post ── hands.posted
//!     a permanent refusal; wait for items    teardown: hands.close, forced stop unless the lease is lost
//! ```
//!
//! Who may do what: only an item's own task touches its hands; the heartbeat and feed tasks send and never act. A call
//! is run by one future that the item's task polls beside everything that may end it, so ending it at once means to
//! drop that future and close the hands.
//!
//! Three ways to end that are not the session's own: *winding down* (a signal, or the server's `stopping`) lets the
//! running call end within a time, cancels it then and posts its partial output; *lost* (412, or no heartbeat for a
//! whole lease time) kills at once, posts nothing and stops nothing; *hard* (a second signal) does the same, and leaves
//! the item to come back when its lease has run out.
//!
//! Exactly once is the journal's work, behind [`omnirun_sessions::Hands`]: a call that comes again gets its recorded
//! result. What this crate adds is that a result is posted again only while nobody knows whether it arrived, with the
//! same bytes.

mod config;
mod desk;
mod feed;
mod heartbeat;
mod item;
mod observe;
mod post;
mod shutdown;
mod turns;
mod worker;

pub use config::{ItemConfig, Timing, WindDown, WorkerConfig};
pub use item::{End, serve};
pub use observe::{CallFate, Ignore, Observer, WorkerEvent};
pub use shutdown::Shutdown;
pub use worker::{Exit, run};
