//! What a handle and an owner task say to each other.

use super::suspend::Written;
use crate::{
    Egress, EngineError,
    sandbox::{Begun, First},
    spec::ClaimSpec,
};
use futures::future::BoxFuture;
use omnirun_guest_client::{GuestClient, message::Claimed};
use omnirun_vmm::VmmError;
use tokio::sync::oneshot;

/// A claim to be made as soon as the clone is awake, with what to run first. It is prepared while the VMM starts, and
/// its requests go out with the wake's: a fresh clone has to be scheduled once. The agent serves them in order, and
/// refuses the rest when one fails.
pub(crate) struct Claim {
    pub(crate) spec: BoxFuture<'static, Result<ClaimSpec, EngineError>>,
    pub(crate) first: First,
}

/// What a prepared clone is to become, and where it says that it is awake, or why it never will be.
pub(crate) struct Order {
    pub(crate) purpose: String,
    pub(crate) claim: Option<Claim>,
    /// What it may reach as soon as it runs; a claim can bring it as well.
    pub(crate) egress: Option<Egress>,
    pub(crate) ready: oneshot::Sender<Result<Woken, EngineError>>,
}

/// What a claim brings.
pub(crate) type ClaimAnswer = Result<(Claimed, Begun), EngineError>;

/// A request to the owner task.
pub(crate) enum Msg {
    /// Make the sandbox somebody's.
    Claim {
        spec: ClaimSpec,
        first: Box<First>,
        reply: oneshot::Sender<ClaimAnswer>,
    },
    /// How much memory the VMM has: proportional and private bytes.
    Memory {
        reply: oneshot::Sender<Result<(u64, u64), VmmError>>,
    },
    /// Write it to files, and end.
    Suspend {
        reply: oneshot::Sender<Result<Written, EngineError>>,
    },
    /// What the console said last.
    Console { reply: oneshot::Sender<String> },
}

/// What a clone is once it is awake.
pub(crate) struct Woken {
    pub(crate) guest: GuestClient,
    pub(crate) claimed: Option<(Claimed, Begun)>,
}
