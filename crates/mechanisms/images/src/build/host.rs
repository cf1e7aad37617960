//! What a build needs of the host, all named at once with the command that installs it.

use super::namespace::{Namespace, PATH};
use crate::error::ImageError;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

/// Programs and the packages (of Debian and Ubuntu alike) that have them.
const TOOLS: [(&str, &str); 9] = [
    ("apt-get", "apt"),
    ("depmod", "kmod"),
    ("dpkg-deb", "dpkg"),
    ("flock", "util-linux"),
    ("gpgv", "gpgv"),
    ("mkfs.erofs", "erofs-utils"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mmdebstrap", "mmdebstrap"),
    ("unshare", "util-linux"),
];

/// What only an ordinary user's build needs.
const USER_TOOLS: [(&str, &str); 2] = [("newuidmap", "uidmap"), ("newgidmap", "uidmap")];

/// Where Debian's keys are. Ubuntu has them in a package that is not installed by default.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// Debian's name of the one supported architecture.
pub(crate) const ARCHITECTURE: &str = "amd64";

/// A host that can build.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) namespace: Namespace,
    pub(crate) keyring: PathBuf,
}

/// Finds a program in the folders that a build uses.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    PATH.split(':')
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.is_file())
}

/// What is missing on this host for `omnirun image build`: names, and the packages that have them.
pub fn missing_tools() -> Vec<(&'static str, &'static str)> {
    let root = rustix::process::geteuid().is_root();
    let mut missing: Vec<_> = TOOLS
        .iter()
        .chain(USER_TOOLS.iter().filter(|_| !root))
        .filter(|(program, _)| find(program).is_none())
        .copied()
        .collect();
    if keyring().is_none() {
        missing.push(("Debian's archive keys", "debian-archive-keyring"));
    }
    missing
}

fn keyring() -> Option<PathBuf> {
    KEYRINGS.iter().map(PathBuf::from).find(|path| path.is_file())
}

/// The command that installs packages.
pub(crate) fn install_command(packages: &[&str]) -> String {
    let mut packages = packages.to_vec();
    packages.sort_unstable();
    packages.dedup();
    let sudo = if rustix::process::geteuid().is_root() {
        ""
    } else {
        "sudo "
    };
    format!("{sudo}apt-get install --yes {}", packages.join(" "))
}

/// Why this user cannot build images on this host, if so: programs, keys, namespaces.
///
/// # Errors
/// [`ImageError::Architecture`], [`ImageError::MissingTools`], [`ImageError::Namespace`].
pub fn check_host() -> Result<(), ImageError> {
    Host::check().map(|_| ())
}

impl Host {
    pub(crate) fn check() -> Result<Self, ImageError> {
        if std::env::consts::ARCH != "x86_64" {
            return Err(ImageError::Architecture {
                arch: std::env::consts::ARCH,
            });
        }
        let missing = missing_tools();
        let (Some(keyring), true) = (keyring(), missing.is_empty()) else {
            let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
            let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
            return Err(ImageError::MissingTools {
                missing: names.join(", "),
                install: install_command(&packages),
            });
        };
        Ok(Self {
            namespace: Namespace::detect()?,
            keyring,
        })
    }

    /// Versions of the packages that the tools are from. A tool that dpkg does not know has none.
    pub(crate) fn tool_versions() -> BTreeMap<String, String> {
        let packages: Vec<_> = TOOLS.iter().map(|(_, package)| *package).collect();
        let output = Command::new("dpkg-query")
            .args(["--show", "--showformat=${Package} ${Version}\n"])
            .args(packages)
            .env_clear()
            .env("PATH", PATH)
            .output();
        let Ok(output) = output else {
            return BTreeMap::new();
        };
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_install_line_names_each_package_once() {
        let line = install_command(&["uidmap", "erofs-utils", "uidmap"]);
        assert!(
            line.ends_with("apt-get install --yes erofs-utils uidmap"),
            "{line}"
        );
    }
}
