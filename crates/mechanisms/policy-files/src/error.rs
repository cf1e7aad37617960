//! Why a policy could not be had.

use omnirun_egress_policy::PolicyError;
use std::path::PathBuf;

/// Why a policy could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// A file or folder.
    #[error("cannot {step} {path}")]
    File {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// What is written there is no policy.
    #[error("the policy file {path}")]
    Policy {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: PolicyError,
    },
    /// What was given on the command line is none.
    #[error("the policy of --net")]
    Flag(#[source] PolicyError),
}
