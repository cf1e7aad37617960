//! Which QEMU is there.

use crate::{VmmError, ask::excerpt};
use std::path::PathBuf;

/// The package that has it, for Debian and Ubuntu.
pub(super) const INSTALL: &str = "apt-get install --no-install-recommends qemu-system-x86";

/// Major and minor version; what the driver decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Release(pub(super) u32, pub(super) u32);

/// Opening a snapshot's memory for reading only came with this one.
pub(super) const READONLY_MEMORY: Release = Release(8, 2);

/// The oldest that the driver's command line is right for (`blockdev-reopen` became stable in 6.1).
pub(super) const OLDEST: Release = Release(6, 1);

/// A QEMU program.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    /// As it says itself: `7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`.
    pub(super) version: String,
    pub(super) release: Release,
}

impl Program {
    /// Where it is: `OMNIRUN_QEMU`, else the search path.
    pub(super) fn path() -> Result<PathBuf, VmmError> {
        let name = "qemu-system-x86_64";
        let given = std::env::var_os("OMNIRUN_QEMU").map(PathBuf::from);
        let path = match &given {
            Some(path) => Some(path.clone()).filter(|p| p.is_absolute() && p.is_file()),
            None => {
                let dirs = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin".into());
                std::env::split_paths(&dirs)
                    .map(|d| d.join(name))
                    .find(|p| p.is_absolute() && p.is_file())
            }
        };
        path.ok_or_else(|| VmmError::Missing {
            // Who named one wants to hear which was looked for.
            program: given.map_or_else(
                || name.to_owned(),
                |path| format!("OMNIRUN_QEMU={}", path.display()),
            ),
            install: INSTALL,
        })
    }

    /// From what it said when it was asked for its version.
    pub(super) fn from_said(path: PathBuf, said: &str) -> Result<Self, VmmError> {
        let unusable = |reason: String| VmmError::Unusable {
            program: path.display().to_string(),
            what: "QEMU",
            reason,
        };
        let (version, release) = parse(said)
            .ok_or_else(|| unusable(format!("asked for its version, it says {:?}", excerpt(said))))?;
        if release < OLDEST {
            return Err(unusable(format!(
                "version {version} is too old; {}.{} or later is needed",
                OLDEST.0, OLDEST.1
            )));
        }
        Ok(Self {
            path,
            version,
            release,
        })
    }
}

/// Whole version and release. Other lines, a warning of the linker's for example, are passed over.
fn parse(said: &str) -> Option<(String, Release)> {
    let version = said
        .lines()
        .find_map(|line| line.strip_prefix("QEMU emulator version "))?
        .trim();
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let release = Release(numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some((version.to_owned(), release))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_qemu_says() {
        let said = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c)\n";
        assert_eq!(
            parse(said),
            Some(("7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)".into(), Release(7, 2)))
        );
        assert_eq!(
            parse("QEMU emulator version 10.0.8\n").map(|p| p.1),
            Some(Release(10, 0))
        );
        assert!(parse("QEMU emulator version 10.0.8\n").map(|p| p.1) > Some(READONLY_MEMORY));
        assert!(parse("ld.so: a warning\nQEMU emulator version 7.2.1\n").is_some());
        for other in ["", "QEMU emulator version x.y", "bash: not found"] {
            assert_eq!(parse(other), None);
        }
    }
}
