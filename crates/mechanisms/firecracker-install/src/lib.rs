//! Firecracker and its jailer, put in place: what `omnirun setup` does.
//!
//! ```text
//!   release   which version, what its files are called, what a maintainer has recorded of it   [release, pins.txt]
//!      |
//!   Staging   a folder of this setup's own, under the lock; gone with it                       [place]
//!      |  download: the checksum file, then the archive, hashed as it comes                    [fetch]
//!      |  or an archive or a folder that is here already
//!   Staged    the two programs and the licence out of it, bounded                              [archive]
//!      |  both say their version, the same one, and it is one that the driver works with       [staged]
//!   Tried     its folder, for whoever wants to see a jail and a guest with them first
//!      |  fsync, rename, then the name of the current version                                  [place]
//!   Installed
//! ```
//!
//! On disk, under the data folder:
//!
//! ```text
//!   firecracker/.lock           held by a setup for its life
//!   firecracker/current         the version in use, replaced whole
//!   firecracker/<version>/      firecracker, jailer, LICENSE, NOTICE, installed.json; appears by a rename, whole
//!   firecracker/.setup-<random> work of a setup
//! ```
//!
//! A version that is no longer current stays while any process owns VMs, since it may still start some, and goes with
//! the next [`sweep`] after that. The lock alone says whether a setup lives, so whatever a killed one left is known.
//!
//! What is trusted: a recorded or given SHA-256 of the archive. The release's own checksum file comes from where the
//! archive comes from, so it guards against damage and not against a forger; both are compared.

mod archive;
mod checksums;
mod error;
mod fetch;
mod place;
mod progress;
mod release;
mod staged;

pub use error::InstallError;
pub use place::{Installed, Record, Shelf, Staging, look, sweep};
pub use progress::Progress;
pub use release::{Mirror, Release};
pub use staged::{Staged, Tried};

use omnirun_ids::Digest;

/// The digest that the release's own checksum file gives for its archive. It proves no origin: for a maintainer's eyes.
///
/// # Errors
/// [`InstallError`] if it cannot be fetched, or has no such line.
pub async fn published(release: &Release, mirror: &Mirror) -> Result<Digest, InstallError> {
    fetch::Fetch::new(mirror, release)?
        .checksum(release, mirror)
        .await
}
