//! Manifests: what an image was made of, one JSON file per template.
//!
//! ```text
//!   images/templates/NAME.json   replaced whole; names blobs by digest
//! ```

use crate::{Template, error::ImageError};
use omnirun_ids::{Digest, TemplateName};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, io::ErrorKind, path::Path};

/// Version of the format. The first had neither an ELF kernel nor the modules for a VMM without PCI, the second none for a
/// network card: such an image is built anew, since its kernel's package is no longer at hand.
pub(crate) const VERSION: u64 = 3;

/// A file of the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// SHA-256 of its bytes; its name.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
}

/// A Debian package and where its bytes can be found again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the `.deb`, from the signed package list.
    pub sha256: Digest,
}

/// Where packages came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The suite.
    pub suite: String,
    /// The mirror.
    pub mirror: String,
    /// Date of the suite's release file, in seconds since 1970: no file of the base is younger.
    pub release_date: u64,
}

/// The kernel and its modules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// The package.
    pub package: Package,
    /// What `uname -r` prints.
    pub release: String,
    /// The bzImage.
    pub image: Blob,
    /// The ELF kernel that is in it.
    pub vmlinux: Blob,
    /// The archive with the modules.
    pub modules: Blob,
    /// The modules in load order.
    pub module_files: Vec<String>,
}

impl Kernel {
    /// Its files, and what each is.
    pub(crate) fn blobs(&self) -> [(&'static str, &Blob); 3] {
        [
            ("kernel", &self.image),
            ("ELF kernel", &self.vmlinux),
            ("module archive", &self.modules),
        ]
    }
}

/// The base disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The EROFS image.
    pub image: Blob,
    /// Digest of what of the recipe went into it.
    pub recipe: Digest,
    /// Every package in it.
    pub packages: Vec<Package>,
}

/// The initramfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initramfs {
    /// The archive.
    pub image: Blob,
    /// Digest of the agent in it.
    pub agent: Digest,
}

/// What an image was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub version: u64,
    /// When it was built, RFC 3339.
    pub created: String,
    /// Version of `omnirun`.
    pub omnirun: String,
    /// What the recipe says about processes.
    pub template: Template,
    /// Packages that the recipe names.
    pub requested: Vec<String>,
    /// Digest of the recipe.
    pub recipe: Digest,
    /// Where packages came from.
    pub source: Source,
    /// The kernel.
    pub kernel: Kernel,
    /// The base disk.
    pub base: Base,
    /// The initramfs.
    pub initramfs: Initramfs,
    /// Versions of the programs that built it.
    pub tools: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// [`ImageError::NoImage`] if there is none; what [`Self::parse`] finds.
    pub(crate) fn read(template: &TemplateName, path: &Path) -> Result<Self, ImageError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(ImageError::NoImage {
                    template: template.clone(),
                });
            }
            Err(source) => {
                return Err(ImageError::File {
                    step: "read",
                    path: path.to_owned(),
                    source,
                });
            }
        };
        Self::parse(template, &bytes, path)
    }

    /// Reads the bytes of a manifest; `path` names it in errors.
    ///
    /// # Errors
    /// [`ImageError::DamagedManifest`], [`ImageError::OlderManifest`], [`ImageError::NewerManifest`].
    pub fn parse(template: &TemplateName, bytes: &[u8], path: &Path) -> Result<Self, ImageError> {
        let damaged = |reason: String| ImageError::DamagedManifest {
            template: template.clone(),
            path: path.to_owned(),
            reason,
        };
        // The version first: another format may not parse as this one.
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        let Versioned { version } = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
        if version > VERSION {
            return Err(ImageError::NewerManifest {
                path: path.to_owned(),
                found: version,
                known: VERSION,
            });
        }
        if version < VERSION {
            return Err(ImageError::OlderManifest {
                template: template.clone(),
                found: version,
            });
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
        if manifest.template.name != *template {
            return Err(damaged(format!("it is that of {}", manifest.template.name)));
        }
        Ok(manifest)
    }

    /// The bytes to write.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// All blobs that it names, and what each is.
    pub fn blobs(&self) -> [(&'static str, &Blob); 5] {
        let [kernel, vmlinux, modules] = self.kernel.blobs();
        [
            kernel,
            vmlinux,
            modules,
            ("base disk", &self.base.image),
            ("initramfs", &self.initramfs.image),
        ]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../golden/manifest-3.json");

    fn digest(byte: u8) -> Digest {
        Digest::from([byte; 32])
    }

    fn blob(byte: u8) -> Blob {
        Blob {
            digest: digest(byte),
            bytes: u64::from(byte),
        }
    }

    pub(crate) fn sample() -> Manifest {
        let package = |name: &str, byte| Package {
            name: name.to_owned(),
            version: "1.0-1".to_owned(),
            sha256: digest(byte),
        };
        Manifest {
            version: VERSION,
            created: "2026-11-24T16:00:00Z".to_owned(),
            omnirun: "0.1.0".to_owned(),
            template: Template {
                name: "default".parse().unwrap(),
                user: "root".to_owned(),
                env: [("LANG".to_owned(), "C.UTF-8".to_owned())].into(),
                workdir: "/workspace".to_owned(),
                keep_capabilities: false,
            },
            requested: vec!["git".to_owned()],
            recipe: digest(1),
            source: Source {
                suite: "trixie".to_owned(),
                mirror: "http://deb.debian.org/debian".to_owned(),
                release_date: 1_795_252_662,
            },
            kernel: Kernel {
                package: package("linux-image-6.12.1-cloud-amd64", 2),
                release: "6.12.1-cloud-amd64".to_owned(),
                image: blob(3),
                vmlinux: blob(10),
                modules: blob(4),
                module_files: vec!["virtio_blk.ko".to_owned()],
            },
            base: Base {
                image: blob(5),
                recipe: digest(6),
                packages: vec![package("git", 7)],
            },
            initramfs: Initramfs {
                image: blob(8),
                agent: digest(9),
            },
            tools: [("mmdebstrap".to_owned(), "1.3.5-7".to_owned())].into(),
        }
    }

    #[test]
    fn the_format_is_that_of_the_golden_file() {
        assert_eq!(String::from_utf8(sample().to_bytes()).unwrap(), GOLDEN);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("default.json");
        fs::write(&path, GOLDEN).unwrap();
        assert_eq!(
            Manifest::read(&"default".parse().unwrap(), &path).unwrap(),
            sample()
        );
    }

    #[test]
    fn what_cannot_be_read_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.json");
        let name: TemplateName = "default".parse().unwrap();
        assert!(matches!(
            Manifest::read(&name, &path),
            Err(ImageError::NoImage { .. })
        ));
        fs::write(&path, &GOLDEN[..GOLDEN.len() / 2]).unwrap();
        let error = Manifest::read(&name, &path).unwrap_err();
        assert!(
            error.to_string().contains("omnirun image build --force default"),
            "{error}"
        );
        fs::write(&path, "{\"version\": 4, \"new\": true}").unwrap();
        assert!(matches!(
            Manifest::read(&name, &path),
            Err(ImageError::NewerManifest { found: 4, .. })
        ));
        fs::write(&path, "{\"version\": 2, \"old\": true}").unwrap();
        let error = Manifest::read(&name, &path).unwrap_err();
        assert!(matches!(error, ImageError::OlderManifest { found: 2, .. }));
        assert!(
            error.to_string().ends_with("omnirun image build default"),
            "{error}"
        );
        fs::write(&path, GOLDEN).unwrap();
        let other = Manifest::read(&"other".parse().unwrap(), &path);
        assert!(matches!(other, Err(ImageError::DamagedManifest { .. })));
    }
}
