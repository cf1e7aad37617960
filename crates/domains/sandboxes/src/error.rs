//! Why a sandbox could not be had, used or ended. Each variant names the step.

use crate::{snapshot::SnapshotError, spec::SizeError};
use omnirun_guest_client::ClientError;
use omnirun_ids::SandboxId;
use omnirun_redact::Guest;
use omnirun_store::StoreError;
use omnirun_vm_machine::{Denial, Why};
use omnirun_vmm::VmmError;

/// Why a sandbox could not be had, used or ended.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no machine of this size.
    #[error(transparent)]
    Size(#[from] SizeError),
    /// The data folder or its database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No snapshot could be made or used.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The VMM.
    #[error("sandbox {sandbox}: cannot {step}")]
    Vmm {
        /// Which.
        sandbox: SandboxId,
        /// What was being done.
        step: &'static str,
        /// The cause.
        #[source]
        source: VmmError,
    },
    /// The guest agent answered with an error, with garbage, or not at all.
    #[error("sandbox {sandbox}: the guest agent failed to {step}")]
    Guest {
        /// Which.
        sandbox: SandboxId,
        /// What it was asked.
        step: &'static str,
        /// The cause.
        #[source]
        source: ClientError,
    },
    /// The guest agent took too long.
    #[error("sandbox {sandbox}: the guest agent did not {step} within {seconds} s")]
    Timeout {
        /// Which.
        sandbox: SandboxId,
        /// What it was asked.
        step: &'static str,
        /// The bound.
        seconds: u64,
    },
    /// A file of the sandbox.
    #[error("sandbox {sandbox}: cannot {step}")]
    File {
        /// Which.
        sandbox: SandboxId,
        /// What was being done, with the path.
        step: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The network of the sandbox.
    #[error("sandbox {sandbox}: the network failed to {step}")]
    Network {
        /// Which.
        sandbox: SandboxId,
        /// What was being done.
        step: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A disk of nobody's could not be made.
    #[error("cannot make a disk at {path}")]
    Disk {
        /// Where.
        path: std::path::PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The sandbox is gone.
    #[error("sandbox {sandbox} ended: {why}")]
    Ended {
        /// Which.
        sandbox: SandboxId,
        /// Why.
        why: Why,
        /// What its console said last, for people. Empty if nothing.
        console: Guest<String>,
    },
    /// This is not to be done now.
    #[error("sandbox {sandbox}")]
    Denied {
        /// Which.
        sandbox: SandboxId,
        /// Why not.
        #[source]
        source: Denial,
    },
    /// The host's random generator.
    #[error("cannot draw random bytes")]
    Random(#[source] std::io::Error),
    /// The process ends; nothing new begins.
    #[error("no new sandbox: this process is shutting down")]
    ShuttingDown,
}

impl EngineError {
    /// What the sandbox's console said last, if the error is that it died.
    pub fn console(&self) -> Option<&str> {
        match self {
            Self::Ended { console, .. } if !console.0.is_empty() => Some(&console.0),
            Self::Snapshot(SnapshotError::Boot { source, .. }) => source.console(),
            _ => None,
        }
    }

    /// Whether the VM is at fault rather than what it was given: another clone may do better.
    pub fn is_vm_failure(&self) -> bool {
        matches!(self, Self::Vmm { .. } | Self::Timeout { .. } | Self::Ended { .. })
            || matches!(self, Self::Guest { source, .. } if !matches!(source, ClientError::Guest { .. }))
    }
}

/// An error in words, with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
