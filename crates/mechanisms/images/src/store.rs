//! The store: who may ask for an image, and what is kept of it.
//!
//! ```text
//!   images/blobs/<sha256>        kernel, ELF kernel, modules archive, base, initramfs; read-only, never changed   [blobs]
//!   images/templates/NAME.json   manifest: what the template is made of                               [manifest]
//!   images/disks/<bytes>.ext4    empty session disks to copy                                          [disk]
//!   images/build.lock            held by the one build, removal or collection that runs
//!   images/publish.lock          held for the moment in which an initramfs is made and a manifest changes
//! ```
//!
//! Readers take no lock: a manifest is replaced whole, and after its blobs. What they name stays until it is removed by
//! hand (`image rm`, `image gc`), and both ask first whether a session is bound to it.

use crate::{
    Image, Template,
    blobs::{Blobs, private_folder},
    build::{self, DEFAULT_MIRROR, Host},
    error::{ImageError, file},
    initramfs,
    manifest::{Blob, Initramfs, Manifest, VERSION},
    progress::Progress,
    recipe::Recipe,
};
use omnirun_ids::{Digest, TemplateName};
use omnirun_store::{FileLock, write_atomic};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// How often somebody else's build is looked at.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// The images of a data folder.
#[derive(Debug, Clone)]
pub struct ImageStore {
    folder: PathBuf,
    tmp: PathBuf,
    recipes: PathBuf,
    blobs: Blobs,
    agent: &'static [u8],
    agent_digest: Digest,
}

/// How to build.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// Where packages come from; Debian's own mirrors if not given.
    pub mirror: Option<String>,
    /// Build even if the image is there.
    pub force: bool,
}

/// What a build came to.
#[derive(Debug, Clone)]
pub struct Built {
    /// The manifest.
    pub manifest: Manifest,
    /// Whether anything had to be built.
    pub fresh: bool,
}

impl ImageStore {
    /// Opens the images of a data folder, with the agent that this program carries.
    ///
    /// # Errors
    /// [`ImageError::File`] if its folders cannot be made.
    pub fn open(data_dir: &Path) -> Result<Self, ImageError> {
        // The digest was taken when the agent was embedded; one that is none cannot be, and hashing covers it.
        let digest = omnirun_guest_bin::GUEST_SHA256.parse();
        Self::with_agent(
            data_dir,
            omnirun_guest_bin::GUEST,
            digest.unwrap_or_else(|_| sha256(omnirun_guest_bin::GUEST)),
        )
    }

    #[cfg(test)]
    pub(crate) fn open_with(data_dir: &Path, agent: &'static [u8]) -> Result<Self, ImageError> {
        Self::with_agent(data_dir, agent, sha256(agent))
    }

    fn with_agent(data_dir: &Path, agent: &'static [u8], agent_digest: Digest) -> Result<Self, ImageError> {
        let folder = data_dir.join("images");
        private_folder(&folder.join("templates"))?;
        private_folder(&folder.join("disks"))?;
        Ok(Self {
            blobs: Blobs::open(folder.join("blobs"))?,
            folder,
            tmp: data_dir.join("tmp"),
            recipes: data_dir.join("templates"),
            agent,
            agent_digest,
        })
    }

    /// Where a user's own recipes are.
    pub fn recipes(&self) -> &Path {
        &self.recipes
    }

    pub(crate) fn disks(&self) -> PathBuf {
        self.folder.join("disks")
    }

    pub(crate) fn tmp(&self) -> &Path {
        &self.tmp
    }

    /// The image of a template, whole and with the agent of this program.
    ///
    /// # Errors
    /// [`ImageError::NoImage`] if it has not been built; [`ImageError::DamagedManifest`],
    /// [`ImageError::DamagedBlob`], [`ImageError::OlderManifest`], [`ImageError::NewerManifest`].
    pub fn get(&self, name: &TemplateName) -> Result<Image, ImageError> {
        let manifest = self.refreshed(self.manifest(name)?)?;
        self.image(&manifest)
    }

    /// The image of a template, but over a base that a session is bound to; the template may have been built anew
    /// since. Agent and kernel are the current ones.
    ///
    /// # Errors
    /// As [`Self::get`], and [`ImageError::NoBase`].
    pub fn get_over(&self, name: &TemplateName, base: &Digest) -> Result<Image, ImageError> {
        let mut image = self.get(name)?;
        if image.base_digest != *base {
            image.base = self.blobs.path(base);
            image.base_digest = base.clone();
            if !image.base.is_file() {
                return Err(ImageError::NoBase {
                    digest: base.to_string(),
                });
            }
        }
        Ok(image)
    }

    /// What a template's image was made of.
    ///
    /// # Errors
    /// [`ImageError::NoImage`], [`ImageError::DamagedManifest`], [`ImageError::OlderManifest`],
    /// [`ImageError::NewerManifest`].
    pub fn manifest(&self, name: &TemplateName) -> Result<Manifest, ImageError> {
        Manifest::read(name, &self.manifest_path(name))
    }

    /// Hashes every file of a template's image.
    ///
    /// # Errors
    /// [`ImageError::DamagedBlob`] with the first that is not what it was.
    pub fn verify(&self, manifest: &Manifest) -> Result<(), ImageError> {
        let mut blobs = manifest.blobs().into_iter();
        blobs.try_for_each(|(what, blob)| self.blobs.verify(&manifest.template.name, what, blob))
    }

    /// Builds a template's image, or finds that it is there. Waits for another build of this data folder.
    ///
    /// Cancel-safe: dropping the future ends everything it started and removes what it wrote.
    ///
    /// # Errors
    /// [`ImageError`]; the earlier image of the template is untouched then.
    pub async fn build(
        &self,
        recipe: &Recipe,
        options: &BuildOptions,
        progress: &dyn Progress,
    ) -> Result<Built, ImageError> {
        if let Some(built) = self.current(recipe, options)? {
            return Ok(built);
        }
        let host = Host::check()?;
        let _lock = self.build_lock(progress).await?;
        // Another build may have made it while this one waited.
        if let Some(built) = self.current(recipe, options)? {
            return Ok(built);
        }
        let mirror = options
            .mirror
            .as_deref()
            .unwrap_or(DEFAULT_MIRROR)
            .trim_end_matches('/');
        let known: Vec<Manifest> = self.list()?.into_iter().filter_map(|l| l.manifest.ok()).collect();
        let parts = build::parts(&host, &self.tmp, recipe, mirror, &known, &self.blobs, progress).await?;
        progress.step("writing the initramfs");
        let lock = self.publish_lock()?;
        let manifest = Manifest {
            version: VERSION,
            created: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            omnirun: env!("CARGO_PKG_VERSION").to_owned(),
            template: recipe.template.clone(),
            requested: recipe.packages.clone(),
            recipe: recipe.digest(),
            source: parts.source,
            initramfs: self.initramfs(&recipe.template, &parts.kernel.modules)?,
            kernel: parts.kernel,
            base: parts.base,
            tools: Host::tool_versions(),
        };
        self.publish(&manifest, &lock)?;
        Ok(Built {
            manifest,
            fresh: true,
        })
    }

    /// The image as it is, if it is what the recipe asks for. A recipe of which only the processes' side changed (user's
    /// environment, capabilities) needs a new initramfs, not a new base.
    fn current(&self, recipe: &Recipe, options: &BuildOptions) -> Result<Option<Built>, ImageError> {
        if options.force {
            return Ok(None);
        }
        let manifest = match self.manifest(&recipe.template.name) {
            Ok(manifest) => manifest,
            Err(newer @ ImageError::NewerManifest { .. }) => return Err(newer),
            Err(_) => return Ok(None),
        };
        let mirror_differs = options
            .mirror
            .as_ref()
            .is_some_and(|m| m.trim_end_matches('/') != manifest.source.mirror);
        if mirror_differs || manifest.base.recipe != recipe.base_digest() {
            return Ok(None);
        }
        let name = &manifest.template.name;
        let base = ("base disk", &manifest.base.image);
        if manifest
            .kernel
            .blobs()
            .into_iter()
            .chain([base])
            .any(|(what, blob)| self.blobs.check(name, what, blob).is_err())
        {
            return Ok(None);
        }
        if manifest.recipe == recipe.digest() {
            let manifest = self.refreshed(manifest)?;
            return Ok(Some(Built {
                manifest,
                fresh: false,
            }));
        }
        let lock = self.publish_lock()?;
        if self.manifest(name).ok().as_ref() != Some(&manifest) {
            // Somebody has published another just now.
            drop(lock);
            return self.current(recipe, options);
        }
        let manifest = Manifest {
            template: recipe.template.clone(),
            requested: recipe.packages.clone(),
            recipe: recipe.digest(),
            initramfs: self.initramfs(&recipe.template, &manifest.kernel.modules)?,
            ..manifest
        };
        self.publish(&manifest, &lock)?;
        Ok(Some(Built {
            manifest,
            fresh: true,
        }))
    }

    /// A manifest whose initramfs is whole and has this program's agent. After an upgrade of `omnirun` it is made
    /// anew from the parts that stay.
    fn refreshed(&self, manifest: Manifest) -> Result<Manifest, ImageError> {
        if self.is_fresh(&manifest) {
            return Ok(manifest);
        }
        // Under the lock and from the manifest as it is now: a build may have published another, which must not be
        // undone, and a collection must not take the new file before a manifest names it.
        let lock = self.publish_lock()?;
        let manifest = self.manifest(&manifest.template.name)?;
        if self.is_fresh(&manifest) {
            return Ok(manifest);
        }
        self.blobs.check(
            &manifest.template.name,
            "module archive",
            &manifest.kernel.modules,
        )?;
        let refreshed = Manifest {
            initramfs: self.initramfs(&manifest.template, &manifest.kernel.modules)?,
            ..manifest
        };
        self.publish(&refreshed, &lock)?;
        Ok(refreshed)
    }

    fn is_fresh(&self, manifest: &Manifest) -> bool {
        let (name, initramfs) = (&manifest.template.name, &manifest.initramfs);
        initramfs.agent == self.agent_digest && self.blobs.check(name, "initramfs", &initramfs.image).is_ok()
    }

    fn initramfs(&self, template: &Template, modules: &Blob) -> Result<Initramfs, ImageError> {
        Ok(Initramfs {
            image: self.composed(self.agent, template, &self.blobs.path(&modules.digest))?,
            agent: self.agent_digest.clone(),
        })
    }

    fn composed(&self, init: &[u8], template: &Template, modules: &Path) -> Result<Blob, ImageError> {
        let archive = fs::read(modules).map_err(file("read", modules))?;
        self.blobs
            .put_bytes(&initramfs::compose(init, template, &archive))
    }

    /// An initramfs for a template's kernel with another program as `/init`: what a benchmark's floor is measured with.
    ///
    /// # Errors
    /// [`ImageError::File`].
    pub fn compose_initramfs(&self, image: &Image, init: &[u8]) -> Result<PathBuf, ImageError> {
        let blob = self.composed(init, &image.template, &image.modules)?;
        Ok(self.blobs.path(&blob.digest))
    }

    fn image(&self, m: &Manifest) -> Result<Image, ImageError> {
        let name = &m.template.name;
        Ok(Image {
            kernel: self.blobs.check(name, "kernel", &m.kernel.image)?,
            vmlinux: self.blobs.check(name, "ELF kernel", &m.kernel.vmlinux)?,
            initramfs: self.blobs.check(name, "initramfs", &m.initramfs.image)?,
            base: self.blobs.check(name, "base disk", &m.base.image)?,
            modules: self.blobs.check(name, "module archive", &m.kernel.modules)?,
            kernel_digest: m.kernel.image.digest.clone(),
            initramfs_digest: m.initramfs.image.digest.clone(),
            base_digest: m.base.image.digest.clone(),
            agent_digest: m.initramfs.agent.clone(),
            kernel_release: m.kernel.release.clone(),
            template: m.template.clone(),
        })
    }

    fn manifest_path(&self, name: &TemplateName) -> PathBuf {
        self.folder.join("templates").join(format!("{name}.json"))
    }

    fn publish(&self, manifest: &Manifest, _lock: &FileLock) -> Result<(), ImageError> {
        write_atomic(&self.manifest_path(&manifest.template.name), &manifest.to_bytes())?;
        Ok(())
    }

    fn publish_lock(&self) -> Result<FileLock, ImageError> {
        Ok(FileLock::exclusive(&self.folder.join("publish.lock"))?)
    }

    async fn build_lock(&self, progress: &dyn Progress) -> Result<FileLock, ImageError> {
        let path = self.folder.join("build.lock");
        let mut said = false;
        loop {
            if let Some(lock) = FileLock::try_exclusive(&path)? {
                return Ok(lock);
            }
            if !said {
                progress.step("waiting for another build");
                said = true;
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::from(<[u8; 32]>::from(Sha256::digest(bytes)))
}

mod keep;
pub use keep::{Listed, Removed};

#[cfg(test)]
mod tests;
