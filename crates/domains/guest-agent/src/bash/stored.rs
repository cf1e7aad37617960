//! The state of a saved shell, on the session disk, outside the tree that tools see.

use crate::sandbox::Sandbox;
use omnirun_guest_proto::limits::MAX_SHELL_STATE;
use omnirun_guest_tools::bash::ShellState;
use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};

const STATE: &str = "shell";
const STATE_NEW: &str = "shell.new";

/// The next shell starts anew.
pub(super) fn forget(sandbox: &Sandbox) {
    if let Some(claimed) = sandbox.claimed() {
        let _ = rustix::fs::unlinkat(&claimed.state, STATE, AtFlags::empty());
    }
}

/// The saved state. The disk is hostile: what is no state is none.
pub(super) fn load(sandbox: &Sandbox) -> Option<ShellState> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&sandbox.claimed()?.state, STATE, flags, Mode::empty()).ok()?;
    let size = usize::try_from(rustix::fs::fstat(&file).ok()?.st_size).ok()?;
    if size > MAX_SHELL_STATE {
        return None;
    }
    let mut bytes = vec![0; size];
    let mut done = 0;
    while done < size {
        match rustix::io::read(&file, &mut bytes[done..]) {
            Ok(0) | Err(_) => return None,
            Ok(count) => done += count,
        }
    }
    ShellState::from_bytes(bytes)
}

/// Replaces the saved state, atomically. It is durable with the call's `syncfs`. What stands in the new file's place is
/// removed, not opened: an earlier call may have put anything there.
pub(super) fn store(sandbox: &Sandbox, state: &ShellState) -> Result<(), Errno> {
    let Some(claimed) = sandbox.claimed() else {
        return Ok(());
    };
    match rustix::fs::unlinkat(&claimed.state, STATE_NEW, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&claimed.state, STATE_NEW, flags, Mode::from_raw_mode(0o600))?;
    let mut rest = state.as_bytes();
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(&file, rest)?..];
    }
    rustix::fs::renameat(&claimed.state, STATE_NEW, &claimed.state, STATE)
}
