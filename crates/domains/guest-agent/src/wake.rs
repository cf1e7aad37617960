//! First stage of waking: nothing of a clone is like another's after it. Fails closed: whatever goes wrong, the agent goes
//! on refusing all that would run something.

use crate::{
    boot::{LAYER, Machine},
    reply::Failure,
    template::Template,
    users::User,
};
use omnirun_guest_proto::message::{ErrorKind, Wake};
use rustix::{
    fs::{Mode, OFlags},
    time::{ClockId, Timespec, clock_settime},
};
use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
};

/// Less entropy than this is no wake.
const MIN_ENTROPY: usize = 32;

/// The sandbox's own files in the overlay's upper lower layer, open for writing.
pub(crate) struct Names {
    hostname: OwnedFd,
    hosts: OwnedFd,
    machine_id: OwnedFd,
}

impl Names {
    /// Makes the layer: these files, and the folders that every sandbox has.
    pub(crate) fn open(user: &User, template: &Template) -> io::Result<Self> {
        rustix::mount::mount(
            "layer",
            LAYER,
            "tmpfs",
            rustix::mount::MountFlags::NOSUID,
            Some(c"mode=755,size=1m"),
        )?;
        for folder in [
            "proc",
            "sys",
            "dev",
            "etc",
            "mnt",
            "mnt/session",
            "mnt/session/outputs",
        ] {
            fs::create_dir(format!("{LAYER}/{folder}"))?;
        }
        let workdir = format!("{LAYER}{}", template.workdir);
        // A layer's folder hides the attributes of the base's: what the base has, stays the base's.
        if !fs::exists(format!("{}{}", crate::boot::BASE, template.workdir))? {
            fs::create_dir_all(&workdir)?;
            own(&workdir, user)?;
        }
        own(&format!("{LAYER}/mnt/session/outputs"), user)?;
        for (folder, mode) in [("tmp", 0o1777), ("run", 0o755), ("root", 0o700)] {
            let path = format!("{LAYER}/{folder}");
            if !fs::exists(format!("{}/{folder}", crate::boot::BASE))? {
                fs::create_dir(&path)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            }
        }
        let file = |name: &str| {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::open(format!("{LAYER}/etc/{name}"), flags, Mode::from_raw_mode(0o644))
        };
        Ok(Self {
            hostname: file("hostname")?,
            hosts: file("hosts")?,
            machine_id: file("machine-id")?,
        })
    }

    pub(crate) fn set_hostname(&self, name: &str) -> rustix::io::Result<()> {
        rustix::system::sethostname(name.as_bytes())?;
        replace(&self.hostname, format!("{name}\n").as_bytes())?;
        let hosts =
            format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {name}\n");
        replace(&self.hosts, hosts.as_bytes())
    }
}

fn own(path: &str, user: &User) -> io::Result<()> {
    std::os::unix::fs::chown(path, Some(user.identity.uid), Some(user.identity.gid))
}

fn replace(file: &OwnedFd, content: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::ftruncate(file, 0)?;
    rustix::io::pwrite(file, content, 0).map(drop)
}

pub(crate) fn set_clock(realtime_ns: u64) -> Result<(), Failure> {
    let time = Timespec {
        tv_sec: (realtime_ns / 1_000_000_000) as i64,
        tv_nsec: (realtime_ns % 1_000_000_000) as i64,
    };
    clock_settime(ClockId::Realtime, time).map_err(|e| Failure::of("cannot set the clock", e))
}

pub(crate) fn check_hostname(name: &str) -> Result<(), Failure> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(fine) {
        return Err(Failure::new(ErrorKind::Invalid, "not a host name"));
    }
    Ok(())
}

pub(crate) fn wake(machine: &Machine, wake: &Wake) -> Result<(), Failure> {
    if wake.entropy.len() < MIN_ENTROPY {
        return Err(Failure::new(ErrorKind::Invalid, "too little entropy"));
    }
    check_hostname(&wake.hostname)?;
    let hexadecimal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if wake.machine_id.len() != 32 || !wake.machine_id.bytes().all(hexadecimal) {
        return Err(Failure::new(ErrorKind::Invalid, "not a machine id"));
    }
    // Before all that could draw from the generator.
    omnirun_sys::guest::random::reseed(std::os::fd::AsFd::as_fd(&machine.random), &wake.entropy)
        .map_err(|e| Failure::of("cannot reseed the random generator", e))?;
    set_clock(wake.realtime_ns)?;
    machine
        .names
        .set_hostname(&wake.hostname)
        .map_err(|e| Failure::of("cannot set the host name", e))?;
    replace(
        &machine.names.machine_id,
        format!("{}\n", wake.machine_id).as_bytes(),
    )
    .map_err(|e| Failure::of("cannot set the machine id", e))
}
