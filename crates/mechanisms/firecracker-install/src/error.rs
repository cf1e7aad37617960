//! What can go wrong with a setup. Each variant names the step; where a command mends it, the message has the command.

use omnirun_ids::Digest;
use omnirun_store::StoreError;
use omnirun_vmm::VmmError;
use std::{io, path::PathBuf};

/// Why Firecracker could not be put in place. What was there before is still there then.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Another setup is at work.
    #[error("another omnirun setup is at work in {}; wait for it to end", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// The address of a mirror cannot be used.
    #[error("{url:?} cannot be used as a mirror: {reason}")]
    Mirror {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A download without a digest that it could be held against.
    #[error(
        "no SHA-256 of {archive} is recorded in this omnirun, and a checksum from where the archive comes from would \
         not show a forged one. Give the one that you trust with --sha256 HEX (the release publishes {checksums}), or \
         an archive that you have with --from FILE"
    )]
    NoPin {
        /// The archive's name.
        archive: String,
        /// Where its checksum is published.
        checksums: String,
    },
    /// The digest that was given is not the recorded one.
    #[error("--sha256 says {given}, but {pinned} is recorded in this omnirun for {archive}")]
    PinDiffers {
        /// The archive's name.
        archive: String,
        /// The digest given.
        given: Digest,
        /// The digest recorded.
        pinned: Digest,
    },
    /// The HTTP client could not be made.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
    /// The server could not be reached, or went silent.
    #[error("cannot download {url}")]
    Transport {
        /// The address.
        url: String,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// The server answered something else than the file.
    #[error("{url} answers {status}")]
    Status {
        /// The address.
        url: String,
        /// The HTTP status.
        status: reqwest::StatusCode,
    },
    /// A file that is larger than it can rightly be.
    #[error("{what} is larger than {limit} bytes, which no release is")]
    TooLarge {
        /// The file.
        what: String,
        /// The bound.
        limit: u64,
    },
    /// A checksum file that does not have the archive.
    #[error("{from} has no single SHA-256 for {name}")]
    Checksums {
        /// The checksum file.
        from: String,
        /// The file looked for in it.
        name: String,
    },
    /// The bytes are not the ones that were promised.
    #[error("{what} has SHA-256 {found}, but {by} says {expected}")]
    Digest {
        /// What was hashed.
        what: String,
        /// Its digest.
        found: Digest,
        /// The digest it should have.
        expected: Digest,
        /// Who says so.
        by: String,
    },
    /// An archive that is no release.
    #[error("{what} is no Firecracker release: {reason}")]
    NotARelease {
        /// The archive or folder.
        what: String,
        /// Why not.
        reason: String,
    },
    /// The archive could not be read.
    #[error("cannot read the archive {what}")]
    Archive {
        /// The archive.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A program that does not start here, or is none of a release that may be used.
    #[error("the new programs cannot be used")]
    Program(#[from] VmmError),
    /// The name of the current version cannot be read.
    #[error("{} is damaged ({reason}); put Firecracker in place anew with: omnirun setup --force", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file or folder could not be used.
    #[error("cannot {step} {}", path.display())]
    File {
        /// What was being done.
        step: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The data folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread of the setup ended without a result.
    #[error("a thread of the setup panicked")]
    Thread,
}

/// Turns an I/O error into one that names step and path.
pub(crate) fn file(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.into();
    move |source| InstallError::File { step, path, source }
}
