//! Second stage of waking: the session's disk, environment and user.

use crate::{
    machine::Machine,
    paths::{BASE, DISK, LAYER},
    reply::Failure,
    sandbox::{Claimed, Sandbox},
    wake,
};
use omnirun_guest_proto::message::{Claim, ErrorKind};
use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create,
        fsconfig_set_string, fsmount, fsopen, mount, move_mount,
    },
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

/// The host attaches the disk before or right after it claims.
const DISK_WAIT: Duration = Duration::from_secs(10);

pub(crate) fn claim(machine: &Machine, sandbox: &mut Sandbox, claim: &Claim) -> Result<bool, Failure> {
    wake::set_clock(claim.realtime_ns)?;
    if !claim.hostname.is_empty() {
        wake::check_hostname(&claim.hostname)?;
        machine
            .names
            .set_hostname(&claim.hostname)
            .map_err(|e| Failure::of("cannot set the host name", e))?;
    }
    wait_for_disk(machine, claim.disk_bytes)?;
    let disk_failure = |e: Errno| Failure {
        kind: ErrorKind::Disk,
        ..Failure::of("the session disk cannot be mounted", e)
    };
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    mount("/dev/vdb", DISK, "ext4", flags, Some(c"errors=remount-ro")).map_err(disk_failure)?;
    let fresh = make_folders().map_err(disk_failure)?;
    let claimed = enter_overlay(sandbox).map_err(disk_failure)?;
    sandbox.claim(claimed, claim)?;
    Ok(fresh)
}

/// Waits until the second drive has the size of the session's disk. The kernel tells by an event; the size is looked at
/// first, since it may have come already.
fn wait_for_disk(machine: &Machine, bytes: u64) -> Result<(), Failure> {
    let give_up = Instant::now() + DISK_WAIT;
    loop {
        let mut text = [0; 32];
        let length = rustix::io::pread(&machine.disk_size, &mut text, 0)
            .map_err(|e| Failure::of("cannot read the session disk's size", e))?;
        let sectors = text[..length].iter().take_while(|b| b.is_ascii_digit());
        let sectors = sectors.fold(0u64, |n, b| n.wrapping_mul(10).wrapping_add(u64::from(b - b'0')));
        if sectors.saturating_mul(512) == bytes {
            return Ok(());
        }
        if !machine.uevents.wait(give_up) {
            return Err(Failure::new(ErrorKind::Disk, "the session disk did not appear"));
        }
    }
}

/// The folders of a session disk; whether it had none.
fn make_folders() -> Result<bool, Errno> {
    let mut fresh = false;
    // Hostile: an earlier call may have written to the raw disk. `mkdir` follows no link at the end, and what is no
    // folder makes the mount fail.
    for name in ["upper", "work", "state"] {
        match rustix::fs::mkdir(format!("{DISK}/{name}"), Mode::from_raw_mode(0o755)) {
            Ok(()) => fresh = true,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(fresh)
}

/// Mounts the overlay over the root of the sandbox's namespace, and the prepared parts into it.
fn enter_overlay(sandbox: &mut Sandbox) -> Result<Claimed, Errno> {
    let folder = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let disk = rustix::fs::open(DISK, folder, Mode::empty())?;
    let state = rustix::fs::openat(&disk, "state", folder, Mode::empty())?;
    for name in ["upper", "work"] {
        // A link here would take the overlay somewhere else.
        rustix::fs::openat(&disk, name, folder, Mode::empty())?;
    }
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [
        ("lowerdir", format!("{LAYER}:{BASE}")),
        ("upperdir", format!("{DISK}/upper")),
        ("workdir", format!("{DISK}/work")),
    ] {
        fsconfig_set_string(overlay.as_fd(), key, value)?;
    }
    fsconfig_create(overlay.as_fd())?;
    let root = fsmount(
        overlay.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?;
    let Some(skeleton) = sandbox.skeleton() else {
        return Err(Errno::INVAL);
    };
    move_into_link_name_space(skeleton.mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
    let moved = move_in(&root, &skeleton.parts);
    // Whatever became of it, we do not stay there.
    move_into_link_name_space(skeleton.home.as_fd(), Some(LinkNameSpaceType::Mount))?;
    moved?;
    Ok(Claimed { root, disk, state })
}

fn move_in(root: &OwnedFd, parts: &[(&'static str, OwnedFd)]) -> Result<(), Errno> {
    let from_fd = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(root, "", CWD, "/", from_fd)?;
    for (name, part) in parts {
        move_mount(part, "", root, *name, from_fd)?;
    }
    Ok(())
}

/// The boot id, drawn at its first reading. Never before a wake.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}
