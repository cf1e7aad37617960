//! Which files a QEMU process may open by itself, as a Landlock ruleset.

use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, Scope,
};
use std::{
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

/// Where programs, libraries and firmware are.
const READABLE: [&str; 9] = [
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/etc/ld.so.cache",
    "/nix/store",
    "/gnu/store",
    "/dev/urandom",
    "/sys/devices/system",
];

/// The ruleset for a program and files that it is to read. `None` where the kernel has no Landlock.
pub(super) fn ruleset(program: &Path, readable: &[BorrowedFd<'_>]) -> Result<Option<OwnedFd>, RulesetError> {
    let abi = ABI::V6;
    let read = AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?;
    // QEMU outside the system's folders has its firmware in ../share.
    let own = program
        .parent()
        .map(|bin| bin.parent().unwrap_or(bin))
        .filter(|p| p.parent().is_some());
    for path in READABLE.iter().map(Path::new).chain(own) {
        if let Ok(fd) = PathFd::new(path) {
            let access = if path.is_dir() {
                read
            } else {
                AccessFs::ReadFile.into()
            };
            rules = rules.add_rule(PathBeneath::new(fd, access))?;
        }
    }
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
