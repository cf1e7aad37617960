//! Sessions: isolation modes, session disks, the call journal.

mod hands;

pub use hands::{CallOutcome, Hands, HandsError, HandsFactory, Release, ToolCall};
