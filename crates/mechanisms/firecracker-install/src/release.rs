//! Which release, what its files are called, and what is recorded of it.

use crate::{InstallError, checksums};
use omnirun_ids::Digest;
use omnirun_vmm::firecracker::PINNED;

/// Where releases are published.
const PUBLISHED: &str = "https://github.com/firecracker-microvm/firecracker/releases/download";

/// Digests that a maintainer has recorded.
const PINS: &str = include_str!("../pins.txt");

/// A release for an architecture, as Rust and Firecracker name it (`x86_64`, `aarch64`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    version: String,
    arch: &'static str,
}

impl Release {
    /// The pinned one, for this machine.
    pub fn pinned() -> Self {
        Self {
            version: PINNED.to_owned(),
            arch: std::env::consts::ARCH,
        }
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The architecture.
    pub fn arch(&self) -> &str {
        self.arch
    }

    /// Name of its archive.
    pub fn archive(&self) -> String {
        format!("firecracker-v{}-{}.tgz", self.version, self.arch)
    }

    /// The archive's SHA-256, if a maintainer has recorded one.
    pub fn pin(&self) -> Option<Digest> {
        checksums::find(PINS, &self.archive())
    }

    /// The digest to hold a download against: the recorded one, else the one given. On a mirror of the user's own the
    /// one given counts alone, since it may have builds of its own.
    ///
    /// # Errors
    /// [`InstallError::NoPin`] if there is neither; [`InstallError::PinDiffers`] if they contradict each other.
    pub fn expected(&self, given: Option<Digest>, mirror: &Mirror) -> Result<Digest, InstallError> {
        expected(self, self.pin(), given, mirror)
    }
}

fn expected(
    release: &Release,
    pinned: Option<Digest>,
    given: Option<Digest>,
    mirror: &Mirror,
) -> Result<Digest, InstallError> {
    let own = *mirror != Mirror::default();
    match (pinned, given) {
        (_, Some(given)) if own => Ok(given),
        (Some(pinned), Some(given)) if pinned != given => Err(InstallError::PinDiffers {
            archive: release.archive(),
            given,
            pinned,
        }),
        (Some(digest), _) | (None, Some(digest)) => Ok(digest),
        (None, None) => Err(InstallError::NoPin {
            archive: release.archive(),
            checksums: mirror.checksums(release),
        }),
    }
}

/// Where releases come from: a folder of folders `v<version>`, as the project itself publishes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror(String);

impl Default for Mirror {
    fn default() -> Self {
        Self(PUBLISHED.to_owned())
    }
}

impl std::str::FromStr for Mirror {
    type Err = InstallError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |reason: String| InstallError::Mirror {
            url: text.to_owned(),
            reason,
        };
        let url = reqwest::Url::parse(text).map_err(|e| wrong(e.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("it must begin with https:// or http://".into()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            // It would be in every message.
            return Err(InstallError::Mirror {
                url: url.host_str().unwrap_or_default().to_owned(),
                reason: "it must not hold a name or a password".into(),
            });
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("it must end with a path".into()));
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

impl Mirror {
    /// Address of a release's archive.
    pub fn archive(&self, release: &Release) -> String {
        format!("{}/v{}/{}", self.0, release.version, release.archive())
    }

    /// Address of its checksum file.
    pub fn checksums(&self, release: &Release) -> String {
        format!("{}.sha256.txt", self.archive(release))
    }
}

/// A version as releases have them, `1.16.1`: three numbers, nothing else, so it can be the name of a folder.
pub(crate) fn is_version(text: &str) -> bool {
    let parts: Vec<_> = text.split('.').collect();
    parts.len() == 3
        && parts
            .iter()
            .all(|p| (1..=4).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use omnirun_vmm::firecracker::SUPPORTED;

    fn release() -> Release {
        Release {
            version: "1.16.1".into(),
            arch: "x86_64",
        }
    }

    #[test]
    fn addresses_are_the_projects_own() {
        let mirror = Mirror::default();
        assert_eq!(
            mirror.checksums(&release()),
            "https://github.com/firecracker-microvm/firecracker/releases/download/v1.16.1/firecracker-v1.16.1-x86_64.tgz.sha256.txt"
        );
        let mirror: Mirror = "http://127.0.0.1:81/fc/".parse().unwrap();
        assert_eq!(
            mirror.archive(&release()),
            "http://127.0.0.1:81/fc/v1.16.1/firecracker-v1.16.1-x86_64.tgz"
        );
    }

    #[test]
    fn a_mirror_is_a_plain_address() {
        for text in [
            "",
            "ftp://h/x",
            "file:///x",
            "h/x",
            "http://h/?a=b",
            "https://h/#x",
        ] {
            assert!(text.parse::<Mirror>().is_err(), "{text}");
        }
        let error = "https://me:secret@h/x".parse::<Mirror>().unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn a_download_needs_a_digest_and_a_recorded_one_wins() {
        let (a, b): (Digest, Digest) = ("a".repeat(64).parse().unwrap(), "b".repeat(64).parse().unwrap());
        let expected = |pinned: Option<&Digest>, given: Option<&Digest>| {
            expected(&release(), pinned.cloned(), given.cloned(), &Mirror::default())
        };
        assert_eq!(expected(None, Some(&a)).unwrap(), a);
        assert_eq!(expected(Some(&a), None).unwrap(), a);
        assert_eq!(expected(Some(&a), Some(&a)).unwrap(), a);
        let error = expected(Some(&a), Some(&b)).unwrap_err();
        assert!(matches!(error, InstallError::PinDiffers { .. }), "{error}");
        let error = expected(None, None).unwrap_err().to_string();
        assert!(
            error.contains("--sha256") && error.contains(".tgz.sha256.txt"),
            "{error}"
        );

        let mirror: Mirror = "https://mirror.example/fc".parse().unwrap();
        let on_it = |given: Option<&Digest>| {
            super::expected(&release(), Some(a.clone()), given.cloned(), &mirror).unwrap()
        };
        assert_eq!((on_it(None), on_it(Some(&b))), (a.clone(), b.clone()));
    }

    #[test]
    fn what_is_recorded_can_be_read() {
        let lines = PINS
            .lines()
            .filter(|l| !l.starts_with('#') && !l.trim().is_empty());
        for line in lines {
            let name = line.rsplit(' ').next().unwrap();
            assert!(checksums::find(PINS, name).is_some(), "{line}");
        }
    }

    #[test]
    fn versions_are_three_numbers() {
        assert!(SUPPORTED.iter().all(|v| is_version(v)));
        for text in [
            "",
            "1.16",
            "1.16.1.2",
            "1..1",
            "v1.16.1",
            "1.16.1-dev",
            "../1.1",
            "1.16.x",
        ] {
            assert!(!is_version(text), "{text}");
        }
    }
}
