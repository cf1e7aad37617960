//! A double of Anthropic's side of self-hosted environments: work queue with leases, sessions, event log and stream.
//!
//! ```text
//!   scenario (YAML) --+--> script per session ----+
//!                     |                           v
//!   HTTP requests ----+--> entry, faults --> shared state --> report
//!                                              |   ^
//!                                       watch counter: "look again"
//! ```
//!
//! - [`scenario`]: what agents do, what they expect, what goes wrong. Data only.
//! - [`work`]: one work item's life as a pure machine; the queue's records.
//! - `session`: a session's log, calls and status; the script that drives it.
//! - `server`: credentials, endpoints, event streams, fault injection.
//! - [`report`]: what a run showed.
//!
//! It is faithful where the protocol is published and says in `docs/simulator.md` what it decided where it is not. All
//! state is behind one lock that is never held across an await; whoever waits for something waits for the change
//! counter and looks again, so nothing polls and nothing is missed.

mod audit;
mod clock;
mod handle;
pub mod report;
pub mod scenario;
mod server;
mod session;
mod shared;
pub mod work;

pub use audit::{Rule, Violation};
pub use handle::{Sim, SimHandle, StartError};
pub use report::Report;
pub use scenario::{Scenario, ScenarioError};
pub use server::Endpoint;
