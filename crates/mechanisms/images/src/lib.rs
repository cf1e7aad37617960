//! Images: what a microVM boots from. Kernel, initramfs and base disk of a template, built from Debian packages of one
//! pinned suite, kept by digest in the data folder.
//!
//! ```text
//!   recipe (TOML)  ── build ──>  manifest ──names──> blobs        [recipe] [build] [manifest] [blobs]
//!   [ImageStore::get]  ──>  [Image]: its paths, their digests, the template's facts
//!   [ImageStore::session_disk_template]  ──>  an empty session disk to copy             [disk]
//! ```
//!
//! Three parts change for different reasons, so they are made apart: the base with the recipe's packages, the kernel
//! with the suite, the initramfs with the guest agent that this program carries. After an upgrade of `omnirun`,
//! [`ImageStore::get`] makes a new initramfs from what is there, in milliseconds; sessions keep the base that their
//! disks were made over.
//!
//! A build may be killed at any point ([`build`] says how), and [`sweep`] removes what a killed one left.

mod blobs;
mod build;
mod cpio;
mod disk;
mod error;
mod image;
mod initramfs;
mod manifest;
mod modules;
mod progress;
mod recipe;
mod store;
mod vmlinux;

pub use build::{check_host, look, missing_tools, sweep};
pub use disk::{copy_sparse, copy_sparse_into};
pub use error::ImageError;
pub use image::{Image, Template};
pub use manifest::{Base, Blob, Initramfs, Kernel, Manifest, Package, Source};
pub use progress::{Progress, Silent};
pub use recipe::{Recipe, known as known_recipes};
pub use store::{BuildOptions, Built, ImageStore, Listed, Removed};

/// `/template.conf` of a template, for fuzzing.
#[doc(hidden)]
pub fn fuzz_template_conf(template: &Template) -> String {
    initramfs::template_conf(template)
}

/// The ELF kernel of a bzImage, for fuzzing.
///
/// # Errors
/// Why there is none, in words.
#[doc(hidden)]
pub fn fuzz_bzimage(image: &[u8]) -> Result<Vec<u8>, String> {
    vmlinux::extract(image).map_err(|e| e.to_string())
}
