//! The jail of one VM.
//!
//! ```text
//!   RUN_DIR/firecracker/ID/root/       what the jailer pivots into       [folder]
//!       firecracker                    the jailer's copy of what it starts       [starter]
//!       bin/firecracker                Firecracker, mounted read-only
//!       run/api.sock, run/agent.sock   made by Firecracker
//!       dev/                           made by the jailer
//!       log, metrics                   pipes that the owner reads
//!       base, memory, state, ...       mounted read-only, in the process's own mount namespace
//!       session                        a hard link to the session disk, once there is one
//!   /sys/fs/cgroup/omnirun/ID          limits                           [cgroup, io]
//! ```
//!
//! The jail is inside the VM's run folder, so whoever removes that removes all of it; no mount is ever in the host's
//! namespace. Shared files are mounted rather than linked for two reasons: read-only is then the kernel's word and not
//! the file's mode, and a link would change the file's ctime, by which the owner of a snapshot sees that somebody touched
//! it.
//!
//! The process writes in its jail, so what it may have left there is never trusted: the owner opens nothing by a name
//! that the process could have made a link of.

pub(super) mod cgroup;
pub(super) mod command_line;
mod folder;
mod io;
pub(super) mod starter;

pub(super) use folder::{Jail, path_of};
pub(super) use io::limit as io_limit;

/// A VM's name as Firecracker and its jailer take it: they know no underscore, and a sandbox's id has no hyphen.
pub(super) fn name(sandbox: &str) -> String {
    sandbox.replace('_', "-")
}
