//! The sandbox's own files in the overlay's upper lower layer: who it is, and the folders that every sandbox has.

use crate::{
    paths::{BASE, LAYER},
    template::Template,
    users::User,
};
use omnirun_guest_net::GATEWAY_IP;
use rustix::fs::{Mode, OFlags};
use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
};

/// Those that waking writes.
pub(crate) struct Names {
    hostname: OwnedFd,
    hosts: OwnedFd,
    machine_id: OwnedFd,
}

impl Names {
    /// Makes the layer: these files, the one that says who resolves names where there is a network `card`, and the folders
    /// that every sandbox has.
    pub(crate) fn open(user: &User, template: &Template, card: bool) -> io::Result<Self> {
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
        if !fs::exists(format!("{}{}", BASE, template.workdir))? {
            fs::create_dir_all(&workdir)?;
            own(&workdir, user)?;
        }
        own(&format!("{LAYER}/mnt/session/outputs"), user)?;
        for (folder, mode) in [("tmp", 0o1777), ("run", 0o755), ("root", 0o700)] {
            let path = format!("{LAYER}/{folder}");
            if !fs::exists(format!("{}/{folder}", BASE))? {
                fs::create_dir(&path)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            }
        }
        let file = |name: &str| {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::open(format!("{LAYER}/etc/{name}"), flags, Mode::from_raw_mode(0o644))
        };
        if card {
            replace(
                &file("resolv.conf")?,
                format!("nameserver {GATEWAY_IP}\n").as_bytes(),
            )?;
        }
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

    pub(crate) fn set_machine_id(&self, id: &str) -> rustix::io::Result<()> {
        replace(&self.machine_id, format!("{id}\n").as_bytes())
    }
}

fn own(path: &str, user: &User) -> io::Result<()> {
    std::os::unix::fs::chown(path, Some(user.identity.uid), Some(user.identity.gid))
}

fn replace(file: &OwnedFd, content: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::ftruncate(file, 0)?;
    rustix::io::pwrite(file, content, 0).map(drop)
}
