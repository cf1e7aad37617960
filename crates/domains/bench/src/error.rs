//! Why a bench could not be run.

use std::path::PathBuf;

/// Why a bench could not be run. Each variant names the step.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The engine failed.
    #[error("the sandbox engine failed")]
    Engine(#[from] omnirun_sandboxes::EngineError),
    /// The VMM failed.
    #[error("the VMM failed")]
    Vmm(#[from] omnirun_vmm::VmmError),
    /// There is no usable image.
    #[error("the image cannot be used")]
    Image(#[from] omnirun_images::ImageError),
    /// The guest failed a call.
    #[error("the guest failed a call")]
    Guest(#[from] omnirun_guest_client::ClientError),
    /// Sessions could not be set up.
    #[error("sessions cannot be set up")]
    Sessions(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A session failed a call.
    #[error("a session failed")]
    Session(#[from] omnirun_sessions::HandsError),
    /// The minimal agent did not answer as it should.
    #[error("the floor agent failed at {asked:?}: {why}")]
    Floor {
        /// What it was asked.
        asked: String,
        /// What happened.
        why: String,
    },
    /// A command in a sandbox ended otherwise than it should.
    #[error("a measured command ended with {0}")]
    Command(String),
    /// A file could not be used.
    #[error("cannot {step} {}", path.display())]
    File {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A policy was malformed.
    #[error("a policy is malformed")]
    Policy(#[from] omnirun_egress_policy::PolicyError),
    /// An id was malformed.
    #[error("a name is malformed")]
    Id(#[from] omnirun_ids::IdError),
    /// The reference worker could not be run.
    #[error("the reference worker failed: {0}")]
    Reference(String),
}
