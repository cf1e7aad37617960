//! Which Firecracker is there, and whether it may be used.

use super::{
    SUPPORTED,
    elf::{self, Linkage},
};
use crate::{VmmError, ask, ask::excerpt};
use omnirun_sys::host::spawn::{CORE, NEW_IPC, NEW_NETWORK, Spawn, SpawnError, spawn};
use std::{
    ffi::{CString, OsString},
    fmt, fs,
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

/// How to get them, for people.
const INSTALL: &str = "omnirun setup";

/// A release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Release(u32, u32, u32);

/// Releases, first and last, that nobody should run untrusted guests on, and why.
const REFUSED: [(&str, &[(Release, Release)]); 3] = [
    (
        "its vsock is dead after every restore (firecracker#5969)",
        &[(Release(1, 16, 0), Release(1, 16, 0))],
    ),
    (
        "CVE-2026-5747: a guest writes out of bounds through virtio-pci",
        &[
            (Release(1, 13, 0), Release(1, 14, 3)),
            (Release(1, 15, 0), Release(1, 15, 0)),
        ],
    ),
    (
        "CVE-2026-1386: its jailer follows links and overwrites files of the host",
        &[
            (Release(0, 0, 0), Release(1, 13, 1)),
            (Release(1, 14, 0), Release(1, 14, 0)),
        ],
    ),
];

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Release {
    /// From what a program says of itself: `Firecracker v1.16.1`. Anything behind the numbers makes it another release.
    fn said(by: &str, said: &str) -> Option<Self> {
        let version = said
            .lines()
            .find_map(|line| line.strip_prefix(by)?.strip_prefix(" v"))?;
        let mut numbers = version.trim().split('.').map(|n| n.parse().ok());
        let release = Self(numbers.next()??, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then_some(release)
    }

    /// Whether it may be used; else why not.
    fn check(self) -> Result<(), String> {
        if SUPPORTED.contains(&&*self.to_string()) {
            return Ok(());
        }
        let reasons: Vec<&str> = REFUSED
            .iter()
            .filter(|(_, ranges)| {
                ranges
                    .iter()
                    .any(|(first, last)| (*first..=*last).contains(&self))
            })
            .map(|(reason, _)| *reason)
            .collect();
        let reasons = match reasons.is_empty() {
            true => "it is not a release that OmniRun has been tested with".to_owned(),
            false => reasons.join("; "),
        };
        let [pinned, before] = SUPPORTED;
        Err(format!(
            "version {self} is refused: {reasons}; {pinned} and {before} are supported"
        ))
    }
}

/// The two programs.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    /// Where Firecracker really is: the jailer names its copy and its folder after the last part of this.
    pub(super) firecracker: PathBuf,
    pub(super) jailer: PathBuf,
    pub(super) release: Release,
    /// Whether it is built for the GNU C library, so that its own filter lets everything through.
    pub(super) is_gnu: bool,
}

impl Programs {
    /// Finds them and asks for their versions. Blocks for some milliseconds.
    pub(super) fn find(installed: Option<&Path>) -> Result<Self, VmmError> {
        Self::asked(
            &path("firecracker", "FIRECRACKER_BIN", installed)?,
            path("jailer", "JAILER_BIN", installed)?,
        )
    }

    /// Those of this folder and no others. Blocks for some milliseconds.
    pub(super) fn in_folder(folder: &Path) -> Result<Self, VmmError> {
        let folder = folder.canonicalize().map_err(|source| VmmError::File {
            step: "resolve",
            path: folder.to_owned(),
            source,
        })?;
        Self::asked(&folder.join("firecracker"), folder.join("jailer"))
    }

    fn asked(firecracker: &Path, jailer: PathBuf) -> Result<Self, VmmError> {
        let firecracker = firecracker.canonicalize().map_err(|source| VmmError::File {
            step: "resolve",
            path: firecracker.to_owned(),
            source,
        })?;
        let release = release(&firecracker, "Firecracker")?;
        let jailers = release_of_any(&jailer, "Jailer")?;
        if jailers != release {
            return Err(VmmError::Unusable {
                program: jailer.display().to_string(),
                what: "the jailer",
                reason: format!("its version is {jailers}, Firecracker's is {release}; they belong together"),
            });
        }
        // It is mounted in the jail, where its VM's user runs it.
        if fs::metadata(&firecracker).is_ok_and(|meta| meta.mode() & 0o005 != 0o005) {
            return Err(VmmError::Unusable {
                program: firecracker.display().to_string(),
                what: "Firecracker",
                reason: "other users than its owner may not run it; a VM's process is one (chmod 755)".into(),
            });
        }
        // In the jail there is nothing but what is put there.
        if is_dynamic(&firecracker).unwrap_or(false) {
            return Err(VmmError::Unusable {
                program: firecracker.display().to_string(),
                what: "Firecracker",
                reason: "it is linked dynamically, and there are no libraries in a jail".into(),
            });
        }
        Ok(Self {
            // What cannot be read is not trusted to filter.
            is_gnu: is_gnu(&firecracker).unwrap_or(true),
            firecracker,
            jailer,
            release,
        })
    }

    /// Programs that nobody has asked anything.
    #[cfg(test)]
    pub(super) fn unasked(firecracker: PathBuf, jailer: PathBuf) -> Self {
        Self {
            firecracker,
            jailer,
            release: Release(1, 16, 1),
            is_gnu: false,
        }
    }

    /// What the jailer calls Firecracker.
    pub(super) fn name(&self) -> Option<&str> {
        self.firecracker.file_name()?.to_str()
    }
}

/// Whether both programs are there.
pub(super) fn are_there(installed: Option<&Path>) -> bool {
    path("firecracker", "FIRECRACKER_BIN", installed).is_ok()
        && path("jailer", "JAILER_BIN", installed).is_ok()
}

/// Where a program is: as the environment says, else where it was installed, else on the search path.
fn path(name: &str, variable: &str, installed: Option<&Path>) -> Result<PathBuf, VmmError> {
    let given = std::env::var_os(variable).filter(|v| !v.is_empty());
    let dirs = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin"));
    let found = match &given {
        Some(path) => Some(PathBuf::from(path)).filter(|p| is_program(p)),
        None => installed
            .map(Path::to_owned)
            .into_iter()
            .chain(std::env::split_paths(&dirs))
            .map(|dir| dir.join(name))
            .find(|p| is_program(p)),
    };
    found.ok_or_else(|| VmmError::Missing {
        // Who named one wants to hear which was looked for.
        program: given.map_or_else(
            || name.to_owned(),
            |path| format!("{variable}={}", path.display()),
        ),
        install: INSTALL,
    })
}

fn is_program(path: &Path) -> bool {
    path.is_absolute() && path.is_file()
}

fn release(program: &Path, by: &'static str) -> Result<Release, VmmError> {
    let release = release_of_any(program, by)?;
    release
        .check()
        .map(|()| release)
        .map_err(|reason| VmmError::Unusable {
            program: program.display().to_string(),
            what: by,
            reason,
        })
}

fn release_of_any(program: &Path, by: &'static str) -> Result<Release, VmmError> {
    let said = ask::said(program, by, |fds| {
        let invalid = |e: std::ffi::NulError| SpawnError {
            step: "naming the program",
            source: io::Error::new(io::ErrorKind::InvalidInput, e),
        };
        let path = CString::new(program.as_os_str().as_bytes()).map_err(invalid)?;
        spawn(&Spawn {
            program: &path,
            args: &[path.clone(), c"--version".to_owned()],
            fds,
            limits: &[(CORE, 0, 0)],
            oom_score_adj: None,
            user_namespace: None,
            network_namespace: None,
            unshare: NEW_NETWORK | NEW_IPC,
            mounts: &[],
            cgroup: None,
            credentials: None,
            landlock: None,
        })
    })?;
    Release::said(by, &said).ok_or_else(|| VmmError::Unusable {
        program: program.display().to_string(),
        what: by,
        reason: format!("asked for its version, it says {:?}", excerpt(&said)),
    })
}

/// Whether an ELF program names an interpreter. Of a file that is none nothing is said.
fn is_dynamic(program: &Path) -> io::Result<bool> {
    Ok(elf::linkage(&head(program)?) == Linkage::Dynamic)
}

/// Whether a program has the note by which the GNU C library's start code names the oldest kernel that it runs on.
/// Programs built with musl have none.
fn is_gnu(program: &Path) -> io::Result<bool> {
    // Name and description have lengths of 4 and 16, the kind is 1.
    const ABI_TAG: &[u8] = b"\x04\0\0\0\x10\0\0\0\x01\0\0\0GNU\0";
    Ok(head(program)?.windows(ABI_TAG.len()).any(|w| w == ABI_TAG))
}

/// The beginning of a program, with its headers and notes.
fn head(program: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    fs::File::open(program)?.take(64 << 10).read_to_end(&mut head)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_programs_say() {
        let said = "Firecracker v1.16.1\n\nSupported snapshot data format versions: v8.0.0\n";
        assert_eq!(Release::said("Firecracker", said), Some(Release(1, 16, 1)));
        assert_eq!(
            Release::said("Jailer", "Jailer v1.15.1\n"),
            Some(Release(1, 15, 1))
        );
        for other in [
            "",
            "Jailer v1.16.1",
            "Firecracker v1.16",
            "Firecracker v1.17.0-dev",
            "Firecracker v1.16.1.2",
        ] {
            assert_eq!(Release::said("Firecracker", other), None, "{other}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_with_its_number_and_the_reason() {
        for good in SUPPORTED {
            let good = Release::said("Firecracker", &format!("Firecracker v{good}")).expect("a release");
            assert_eq!(good.check(), Ok(()));
        }
        let said = |release: Release| release.check().expect_err("refused");
        assert!(said(Release(1, 16, 0)).contains("version 1.16.0 is refused: its vsock is dead"));
        assert!(said(Release(1, 15, 0)).contains("CVE-2026-5747"));
        let both = said(Release(1, 14, 0));
        assert!(
            both.contains("CVE-2026-5747") && both.contains("CVE-2026-1386"),
            "{both}"
        );
        assert!(!said(Release(1, 14, 4)).contains("CVE"));
        assert!(said(Release(0, 25, 2)).contains("CVE-2026-1386"));
        assert!(said(Release(2, 0, 0)).contains("tested with; 1.16.1 and 1.15.1 are supported"));
    }

    #[test]
    fn tells_a_program_of_the_gnu_library_from_others() {
        assert!(is_gnu(&std::env::current_exe().expect("ours")).expect("read"));
        let other = tempfile::NamedTempFile::new().expect("a file");
        fs::write(other.path(), b"\x7fELF\x02\x01 and no note").expect("written");
        assert!(!is_gnu(other.path()).expect("read"));
    }
}
