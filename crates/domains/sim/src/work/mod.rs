//! Work items: the pure machine of one item ([`item`]), and what the queue keeps about it.

pub mod item;
mod queue;

pub(crate) use queue::{Claim, Environment, WorkItem, WorkKind};
