//! `omnirun-floor`: the least that an agent in a microVM can do, as PID 1 of an initramfs of its own. It exists to be
//! measured: what `omnirun bench` calls a floor is this program on the same kernel, devices and channel, with a
//! snapshot of its own. It has no protocol to speak of, no isolation and no error handling beyond ending the VM.
//!
//! ```text
//!   ping    -> pong
//!   mount   -> ok          mounts the session disk (second drive) and the overlay, and enters it
//!   run     -> exit CODE   forks and executes `sh -c true`, waits
//!   out N   -> N zero bytes, then ok
//! ```

mod port;

use port::Port;
use rustix::mount::{MountFlags, mount};
use std::{
    fs,
    os::fd::AsFd,
    process::{Command, Stdio},
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() {
    if let Err(error) = serve() {
        eprintln!("omnirun-floor: {error}");
    }
    // PID 1 ends: the kernel panics, the VM exits.
}

fn serve() -> Result<()> {
    for (source, target, kind) in [
        ("dev", "/dev", "devtmpfs"),
        ("sys", "/sys", "sysfs"),
        ("proc", "/proc", "proc"),
    ] {
        fs::create_dir_all(target)?;
        // The kernel may have mounted /dev already.
        let _ = mount(source, target, kind, MountFlags::empty(), None);
    }
    for module in fs::read_to_string("/modules.list").unwrap_or_default().lines() {
        let image = fs::read(module.trim())?;
        rustix::system::init_module(&image, c"")?;
    }
    for dir in ["/base", "/disk", "/root"] {
        fs::create_dir_all(dir)?;
    }
    mount("/dev/vda", "/base", "erofs", MountFlags::RDONLY, None)?;
    // What `run` will execute is in memory when the snapshot is taken, as it is in the agent's own.
    for file in [
        "bin/sh",
        "lib64/ld-linux-x86-64.so.2",
        "lib/x86_64-linux-gnu/libc.so.6",
    ] {
        let _ = fs::read(std::path::Path::new("/base/usr").join(file));
    }
    let mut port = Port::open()?;
    let uevents = uevents()?;
    let mut line = Vec::new();
    loop {
        port.read_line(&mut line)?;
        match std::str::from_utf8(&line)?
            .split_once(' ')
            .unwrap_or((std::str::from_utf8(&line)?, ""))
        {
            ("ping", _) => port.write(b"pong\n")?,
            ("mount", _) => {
                enter_overlay(&uevents)?;
                port.write(b"ok\n")?;
            }
            ("run", _) => {
                let status = Command::new("/bin/sh")
                    .args(["-c", "true"])
                    .stdin(Stdio::null())
                    .status()?;
                port.write(format!("exit {}\n", status.code().unwrap_or(-1)).as_bytes())?;
            }
            ("out", count) => {
                let out = port.stdio()?;
                Command::new("/usr/bin/head")
                    .args(["-c", count, "/dev/zero"])
                    .stdout(out)
                    .status()?;
                port.write(b"ok\n")?;
            }
            _ => port.write(b"what\n")?,
        }
    }
}

fn uevents() -> Result<rustix::fd::OwnedFd> {
    use rustix::net::{AddressFamily, SocketType, bind, netlink, socket};
    let fd = socket(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        Some(netlink::KOBJECT_UEVENT),
    )?;
    bind(&fd, &netlink::SocketAddrNetlink::new(0, 1))?;
    Ok(fd)
}

/// Waits until the second drive has the size of a real disk, mounts it and the overlay, and makes that the root.
fn enter_overlay(uevents: &impl AsFd) -> Result<()> {
    // The placeholder that every clone starts with is smaller than any session disk: 64 MiB, in sectors of 512 bytes.
    const SMALLEST: u64 = 64 << 11;
    while fs::read_to_string("/sys/block/vdb/size")?.trim().parse::<u64>()? < SMALLEST {
        let mut buffer = [0u8; 4096];
        rustix::io::read(uevents, &mut buffer)?;
    }
    mount("/dev/vdb", "/disk", "ext4", MountFlags::empty(), None)?;
    fs::create_dir_all("/disk/upper")?;
    fs::create_dir_all("/disk/work")?;
    mount(
        "overlay",
        "/root",
        "overlay",
        MountFlags::empty(),
        Some(c"lowerdir=/base,upperdir=/disk/upper,workdir=/disk/work"),
    )?;
    mount("/dev", "/root/dev", "", MountFlags::BIND, None)?;
    rustix::process::chroot("/root")?;
    rustix::process::chdir("/")?;
    Ok(())
}
