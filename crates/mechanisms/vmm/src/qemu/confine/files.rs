//! Which files a QEMU process may open by itself, as a Landlock ruleset.

use ::landlock::{ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, RulesetCreatedAttr, RulesetError};
use omnirun_sys::host::landlock;
use std::{
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// What it reads beside programs, libraries and firmware.
const READABLE: [&str; 2] = ["/dev/urandom", "/sys/devices/system"];

/// The ruleset for a program and files that it is to read. `None` where the kernel has no Landlock.
pub(super) fn ruleset(program: &Path, readable: &[BorrowedFd<'_>]) -> Result<Option<OwnedFd>, RulesetError> {
    // A link is followed when the program is run, and it looks for its files where it is really.
    let resolved = program.canonicalize().unwrap_or_else(|_| program.to_owned());
    let more = READABLE.iter().map(PathBuf::from).chain(own_files(&resolved));
    let mut rules = landlock::ruleset(AccessNet::from_all(ABI::V6), more)?;
    // It probes for locks on the one and runs guests through the other.
    for device in ["/dev/null", "/dev/kvm"] {
        if let Ok(fd) = PathFd::new(device) {
            let access = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
            rules = rules.add_rule(PathBeneath::new(fd, access))?;
        }
    }
    for fd in readable {
        rules = rules.add_rule(PathBeneath::new(*fd, AccessFs::ReadFile))?;
    }
    Ok(rules.into())
}

/// What a QEMU outside the system's folders needs: itself, its libraries and its firmware. Not the folder that it is in,
/// nor the one above: with a program in `~/bin` that would be somebody's home.
fn own_files(program: &Path) -> Vec<PathBuf> {
    let mut files = vec![program.to_owned()];
    if let Some(prefix) = program.parent().and_then(Path::parent) {
        let parts = ["lib", "lib64", "share/qemu", "share/seabios"];
        files.extend(parts.map(|part| prefix.join(part)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_in_a_home_opens_no_home() {
        let files = own_files(Path::new("/home/me/bin/qemu-system-x86_64"));
        assert!(files.contains(&"/home/me/share/qemu".into()));
        for home in ["/home/me", "/home/me/bin", "/home", "/home/me/share"] {
            assert!(!files.contains(&home.into()), "{home}");
        }
        assert_eq!(own_files(Path::new("/qemu")), [PathBuf::from("/qemu")]);
    }
}
