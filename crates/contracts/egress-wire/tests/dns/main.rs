//! DNS queries, and the answers to them.

#![allow(clippy::unwrap_used)] // helpers of tests

mod answers;
mod properties;
mod queries;
mod wire;
