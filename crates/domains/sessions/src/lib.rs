//! Sessions: every tool call of an agent in a microVM, on a disk that is the session's own.
//!
//! ```text
//!   worker -- Hands::call --> [session]
//!                               | journal: known already? its stored result, and nothing runs     (omnirun_store)
//!                               | input against the schema: refused before a sandbox is spent
//!                               v
//!                             a clone: woken -> disk attached -> claimed                            [prepare]
//!                               | journal: started            durable before the tool runs
//!                               v
//!                             tool -> result -> content blocks                                      [run, outcome]
//!                               | journal: finished           durable before it is returned
//!                               v
//!   worker <- CallOutcome ------'     mode `call`: the clone is killed while the worker posts
//! ```
//!
//! What holds, whatever dies when:
//!
//! - A tool runs at most once for a tool use id. A call that was started and has no result is answered as an error,
//!   never run again; a clone that fails before the start is replaced.
//! - A result is returned only after it is durable, and after the guest has said that the call's files are on the
//!   session disk. If it could not, the result says so.
//! - A session disk is attached to one VM at most: the lease lets one process serve a session, and the lock on the
//!   open disk outlives that process until its VMM is dead as well.
//! - A session stays on the base that its disk was made over. A newer image is for new sessions.
//! - The host never looks into a session disk; what goes in or out goes through the agent of a clone ([`pack`], [`unpack`]).
//!
//! | | mode `call` | mode `session` |
//! | -- | -- | -- |
//! | VM | a fresh clone for each call | one from the first call to the close |
//! | shell | saved on the session disk, restored | lives on |
//! | background processes | ended with the call, and the result says so | live on |
//! | memory | never kept | suspended at the close, resumed at the next item's first call ([`memory`]) |
//!
//! [`Platform`] is the seam to sandboxes and images; the tests put a fake behind it.

mod config;
mod copy;
mod engine;
mod factory;
mod hands;
mod memory;
mod network;
mod outcome;
pub mod pack;
mod platform;
mod prepare;
mod run;
mod session;
pub mod unpack;
mod warm;

pub use config::{Isolation, SessionsConfig, default_floor};
pub use copy::CopyError;
pub use engine::EnginePlatform;
pub use factory::{SessionFactory, SessionsError, isolation_group};
pub use hands::{CallOutcome, Hands, HandsError, HandsFactory, Release, ToolCall};
pub use network::{Allowed, NETWORK_KEY};
pub use platform::{
    Answer, BoxError, ClaimFailure, DynPool, DynSandbox, Platform, SandboxFailure, SandboxPool,
    SessionSandbox,
};

/// The content blocks that a tool's result becomes, as JSON, for fuzzing.
#[doc(hidden)]
pub fn fuzz_tool_result(result: omnirun_guest_proto::message::ToolResult, isolation: Isolation) -> String {
    outcome::of_tool(result, isolation, true, Vec::new())
        .content
        .into_inner()
}

#[cfg(test)]
mod tests;
