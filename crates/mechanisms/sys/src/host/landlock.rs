//! Which files a confined program may open by itself, as a Landlock ruleset (landlock(7)).

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, Scope,
};
use std::path::PathBuf;

/// Where programs and libraries are.
const PROGRAMS: [&str; 7] = [
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/etc/ld.so.cache",
    "/nix/store",
    "/gnu/store",
];

/// A ruleset under which programs and libraries may be read and run, and so may `more`, as far as it is there: files, and
/// folders with all that is in them. Nothing is written. `network`: what may not be done with ports. More rules can be
/// added; as a descriptor it is `None` where the kernel has no Landlock.
///
/// # Errors
/// The kernel has Landlock and refuses.
pub fn ruleset(
    network: impl Into<BitFlags<AccessNet>>,
    more: impl IntoIterator<Item = PathBuf>,
) -> Result<RulesetCreated, RulesetError> {
    let abi = ABI::V6;
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(network)?
        .scope(Scope::from_all(abi))?
        .create()?;
    for path in PROGRAMS.iter().map(PathBuf::from).chain(more) {
        if let Ok(fd) = PathFd::new(&path) {
            let access = match path.is_dir() {
                true => AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute,
                false => AccessFs::ReadFile | AccessFs::Execute,
            };
            rules = rules.add_rule(PathBeneath::new(fd, access))?;
        }
    }
    Ok(rules)
}
