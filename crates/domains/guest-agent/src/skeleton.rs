//! The sandbox's namespaces and the parts of its root, before there is a root.

use crate::{
    boot::{At, BootError},
    paths::{CGROUP, open},
};
use omnirun_sys::guest::{
    own,
    spawn::{self, Child, Namespaces},
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, makedev},
    mount::{MountFlags, MountPropagationFlags, OpenTreeFlags, mount, mount_change, open_tree},
    thread::{
        LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
    },
};
use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
};

/// Where the parts are mounted in the sandbox's namespace until they are taken.
const SKELETON: &str = "/skeleton";

/// The namespaces, and detached mounts for the root that is to come.
pub(crate) struct Skeleton {
    /// PID 1 of the sandbox. It ends with the VM.
    pub(crate) init: Child,
    /// Our own mount namespace.
    pub(crate) home: OwnedFd,
    /// The sandbox's.
    pub(crate) mounts: OwnedFd,
    /// The cgroup that processes are born in.
    pub(crate) cgroup: OwnedFd,
    /// `proc`, `sys` and `dev`, by name.
    pub(crate) parts: Vec<(&'static str, OwnedFd)>,
}

impl Skeleton {
    pub(crate) fn build() -> Result<Self, BootError> {
        let cgroup = open(CGROUP, OFlags::RDONLY | OFlags::DIRECTORY).at(CGROUP)?;
        enter_cgroup_namespace(&cgroup).at("make a cgroup namespace")?;
        let (ready, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).at("make a pipe")?;
        let Some(init) = spawn::fork(Namespaces::PidsAndMounts, None).at("make the sandbox's namespaces")?
        else {
            be_init(&tell)
        };
        drop(tell);
        let mut word = [0];
        if rustix::io::read(&ready, &mut word).at("wait for the sandbox's init")? != 1 {
            return Err(io::Error::other("it said on the console why")).at("prepare the sandbox's root");
        }
        let home = open("/proc/self/ns/mnt", OFlags::RDONLY).at("open our mount namespace")?;
        let mounts = open(&format!("/proc/{}/ns/mnt", init.pid), OFlags::RDONLY).at("open the sandbox's")?;
        // For our children; we ourselves stay where we are.
        move_into_thread_name_spaces(init.pidfd.as_fd(), ThreadNameSpaceType::PROCESS_ID)
            .at("enter the sandbox's pid namespace")?;
        let parts = take_parts(&home, &mounts).at("take the parts of the sandbox's root")?;
        Ok(Self {
            init,
            home,
            mounts,
            cgroup,
            parts,
        })
    }
}

/// A cgroup mount in the sandbox shall show the sandbox's cgroup as its root. A namespace's root is the cgroup of who makes
/// it, so somebody who lives there does, and we follow.
fn enter_cgroup_namespace(cgroup: &OwnedFd) -> io::Result<()> {
    let (ready, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let Some(child) = spawn::fork(Namespaces::Ours, Some(cgroup.as_fd()))? else {
        if own::new_cgroup_namespace().is_ok() {
            let _ = rustix::io::write(&tell, &[1]);
        }
        // Until PID 1 has entered it.
        own::reap_and_wait_for_ever()
    };
    drop(tell);
    let mut word = [0];
    let entered = match rustix::io::read(&ready, &mut word)? {
        1 => move_into_thread_name_spaces(child.pidfd.as_fd(), ThreadNameSpaceType::CONTROL_GROUP),
        _ => Err(rustix::io::Errno::PERM),
    };
    rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL)?;
    omnirun_sys::guest::wait::wait_any()?;
    Ok(entered?)
}

/// The sandbox's init: prepares what only it can (a `/proc` belongs to who mounts it), then reaps.
fn be_init(tell: &OwnedFd) -> ! {
    match prepare() {
        Ok(()) => {
            let _ = rustix::io::write(tell, &[1]);
        }
        Err(error) => {
            eprintln!("omnirun-guest: cannot prepare the sandbox's root: {error}");
            own::exit_now(1);
        }
    }
    // A sandbox's root may attach a debugger to it: nothing is to be had there.
    if own::give_up_capabilities().is_err() {
        own::exit_now(1);
    }
    let _ = own::close_from(3);
    own::reap_and_wait_for_ever()
}

fn prepare() -> io::Result<()> {
    // A kernel out of memory has others to choose from.
    fs::write("/proc/self/oom_score_adj", "-1000")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (name, kind, flags, options) in [
        ("proc", "proc", quiet, None),
        ("sys", "sysfs", quiet, None),
        ("dev", "tmpfs", MountFlags::NOSUID, Some(c"mode=755,size=1m")),
    ] {
        let target = format!("{SKELETON}/{name}");
        fs::create_dir_all(&target)?;
        mount(kind, &*target, kind, flags, options)?;
    }
    let dev = |name: &str| format!("{SKELETON}/dev/{name}");
    for (name, minor, major) in [
        ("null", 3, 1),
        ("zero", 5, 1),
        ("full", 7, 1),
        ("random", 8, 1),
        ("urandom", 9, 1),
        ("tty", 0, 5),
    ] {
        let everyone = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(
            CWD,
            dev(name),
            FileType::CharacterDevice,
            everyone,
            makedev(major, minor),
        )?;
        // The umask is not for these.
        rustix::fs::chmod(dev(name), everyone)?;
    }
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        rustix::fs::symlink(target, dev(name))?;
    }
    for (name, kind, options) in [
        ("pts", "devpts", c"newinstance,ptmxmode=0666,mode=620,gid=5"),
        ("shm", "tmpfs", c"mode=1777"),
    ] {
        fs::create_dir(dev(name))?;
        mount(
            kind,
            &*dev(name),
            kind,
            MountFlags::NOSUID | MountFlags::NOEXEC,
            Some(options),
        )?;
    }
    Ok(())
}

fn take_parts(home: &OwnedFd, mounts: &OwnedFd) -> rustix::io::Result<Vec<(&'static str, OwnedFd)>> {
    move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let mut parts = Vec::new();
    for name in ["proc", "sys", "dev"] {
        parts.push((name, open_tree(CWD, format!("{SKELETON}/{name}"), flags)?));
    }
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Mount))?;
    Ok(parts)
}
