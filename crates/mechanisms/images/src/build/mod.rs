//! Building an image.
//!
//! ```text
//!   recipe ─> package lists ─> kernel package ─> kernel, its ELF, modules archive ─┐
//!                 └──────────> mmdebstrap ─> tree ─> EROFS base                    ├─> manifest
//!                                agent + template's facts + modules archive ─> initramfs
//! ```
//!
//! Everything that is started runs in a namespace that dies with the build ([`namespace`]), everything that is written
//! before it is whole lies in the build's own folder ([`work`]). So a build may be killed at any point: what it started
//! is gone at once, what it wrote is removed by the next command.

mod apt;
mod apt_progress;
mod base;
mod host;
mod kernel;
mod namespace;
mod run;
mod work;

pub use host::{check_host, missing_tools};
pub use work::{look, sweep};

pub(crate) use apt::DEFAULT_MIRROR;
pub(crate) use host::{Host, find, install_command};
pub(crate) use run::Runner;
pub(crate) use work::BuildDir;

use crate::{
    blobs::Blobs,
    error::ImageError,
    manifest::{Base, Kernel, Manifest, Source},
    progress::Progress,
    recipe::Recipe,
};
use std::path::Path;

/// What a build makes before there is an initramfs.
pub(crate) struct Parts {
    pub(crate) source: Source,
    pub(crate) kernel: Kernel,
    pub(crate) base: Base,
}

/// Builds kernel and base. `known` are manifests whose kernels may be used again.
pub(crate) async fn parts(
    host: &Host,
    tmp: &Path,
    recipe: &Recipe,
    mirror: &str,
    known: &[Manifest],
    blobs: &Blobs,
    progress: &dyn Progress,
) -> Result<Parts, ImageError> {
    let dir = BuildDir::create(tmp)?;
    let mut runner = Runner {
        namespace: host.namespace.clone(),
        dir: &dir,
        env: Vec::new(),
    };
    let source = {
        let apt = apt::Apt::create(&runner, mirror, &host.keyring)?;
        apt.update(progress).await?
    };
    // Programs that honour this make nothing that depends on when they ran.
    runner
        .env
        .push(("SOURCE_DATE_EPOCH", source.release_date.to_string().into()));
    let apt = apt::Apt::create(&runner, mirror, &host.keyring)?;
    let resolved = kernel::resolve(&apt).await?;
    let same = known.iter().find(|m| {
        m.kernel.package == resolved.0
            && m.kernel
                .blobs()
                .into_iter()
                .all(|(what, blob)| blobs.check(&m.template.name, what, blob).is_ok())
    });
    let kernel = match same {
        Some(manifest) => manifest.kernel.clone(),
        None => kernel::build(&runner, &apt, resolved, blobs, progress).await?,
    };
    let base = base::build(&runner, &apt, recipe, &source, blobs, progress).await?;
    Ok(Parts { source, kernel, base })
}
