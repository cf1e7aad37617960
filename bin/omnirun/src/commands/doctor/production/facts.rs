//! What is read of a host. A file that is missing, unreadable or odd is a fact that is missing; nothing here fails. All
//! of it is read in a thread of its own and against a clock, since a driver may let a read of its file in /sys hang.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

/// For all of it. It takes some milliseconds.
const BOUND: Duration = Duration::from_secs(3);
/// What is read of a file.
const FILE: u64 = 256 << 10;
/// What is read of a folder's names.
const NAMES: usize = 1024;

/// What is known of a host; texts are as the kernel writes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// As Rust names it.
    pub arch: &'static str,
    /// The kernel's release, `6.12.48+deb13-cloud-amd64`.
    pub kernel: Option<String>,
    /// `/proc/version`, which has the date of the kernel's build.
    pub version: Option<String>,
    /// The kernel's command line.
    pub cmdline: Option<String>,
    /// `/proc/sys/kernel/printk`.
    pub printk: Option<String>,
    /// `/proc/consoles`.
    pub consoles: Option<String>,
    /// Whether a package asked for a reboot.
    pub reboot_required: bool,
    /// `/proc/cpuinfo`, its start.
    pub cpuinfo: Option<String>,
    /// What the kernel says of each known vulnerability.
    pub vulnerabilities: BTreeMap<String, String>,
    /// `smt/active`.
    pub smt: Option<String>,
    /// Folders of microcode updates that are installed.
    pub microcode: Vec<&'static str>,
    /// Whether the module `kvm` is there.
    pub kvm: bool,
    /// Its parameter `min_timer_period_us`.
    pub kvm_timer: Option<String>,
    /// Its parameter `nx_huge_pages`.
    pub kvm_nx: Option<String>,
    /// `/proc/self/mounts`.
    pub mounts: Option<String>,
    /// Controllers of the unified hierarchy's root.
    pub controllers: Option<String>,
    /// `/proc/swaps`.
    pub swaps: Option<String>,
    /// Of swap devices that are device-mapper ones: their UUID, which has their kind.
    pub swap_mappings: BTreeMap<String, String>,
    /// `ksm/run`.
    pub ksm: Option<String>,
    /// `ksm/pages_shared`.
    pub ksm_pages: Option<String>,
    /// Memory controllers that report errors.
    pub edac: usize,
    /// SMBIOS structures of memory arrays (type 16).
    pub memory_arrays: Vec<Vec<u8>>,
    /// Owner and mode of the programs, the data folder, and every folder above.
    pub paths: Vec<Owned>,
    /// The guest kernel and the day of its image, if one is built.
    pub image: Option<Image>,
}

/// Whose a path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// The path.
    pub path: PathBuf,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its mode, with the file type.
    pub mode: u32,
}

/// What the newest image boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The guest kernel's release.
    pub kernel: String,
    /// When the image was built, RFC 3339.
    pub created: String,
}

impl Facts {
    /// Reads this host. `programs` and folders are those whose owners matter.
    pub fn read(paths: Vec<PathBuf>, image: Option<Image>) -> Self {
        let (send, receive) = mpsc::channel();
        let spawned = std::thread::Builder::new()
            .name("host-facts".into())
            .spawn(move || {
                // Nobody listens any more if it took too long.
                let _ = send.send(Self::read_below(Path::new("/"), &paths));
            });
        let read = spawned.ok().and_then(|_| receive.recv_timeout(BOUND).ok());
        Self {
            image,
            ..read.unwrap_or_else(|| {
                tracing::warn!("this host's /proc and /sys could not be read in time");
                Self {
                    arch: std::env::consts::ARCH,
                    ..Self::default()
                }
            })
        }
    }

    /// Reads a host whose root is this folder.
    pub(super) fn read_below(root: &Path, paths: &[PathBuf]) -> Self {
        let file = |path: &str| text(&root.join(path));
        let swaps = file("proc/swaps");
        Self {
            arch: std::env::consts::ARCH,
            kernel: file("proc/sys/kernel/osrelease"),
            version: file("proc/version"),
            cmdline: file("proc/cmdline"),
            printk: file("proc/sys/kernel/printk"),
            consoles: file("proc/consoles"),
            reboot_required: root.join("run/reboot-required").exists(),
            cpuinfo: file("proc/cpuinfo"),
            vulnerabilities: folder(&root.join("sys/devices/system/cpu/vulnerabilities")),
            smt: file("sys/devices/system/cpu/smt/active"),
            microcode: ["intel-ucode", "amd-ucode"]
                .into_iter()
                .filter(|name| !names(&root.join("lib/firmware").join(name)).is_empty())
                .collect(),
            kvm: root.join("sys/module/kvm").is_dir(),
            kvm_timer: file("sys/module/kvm/parameters/min_timer_period_us"),
            kvm_nx: file("sys/module/kvm/parameters/nx_huge_pages"),
            mounts: file("proc/self/mounts"),
            controllers: file("sys/fs/cgroup/cgroup.controllers"),
            swap_mappings: swap_devices(swaps.as_deref().unwrap_or_default())
                .filter_map(|device| {
                    let name = device.strip_prefix("/dev/")?;
                    let uuid = file(&format!("sys/class/block/{name}/dm/uuid"))?;
                    Some((device.to_owned(), uuid))
                })
                .collect(),
            swaps,
            ksm: file("sys/kernel/mm/ksm/run"),
            ksm_pages: file("sys/kernel/mm/ksm/pages_shared"),
            edac: names(&root.join("sys/devices/system/edac/mc"))
                .iter()
                .filter(|n| n.strip_prefix("mc").is_some_and(|n| n.parse::<u16>().is_ok()))
                .count(),
            memory_arrays: names(&root.join("sys/firmware/dmi/entries"))
                .iter()
                .filter(|n| n.starts_with("16-"))
                .filter_map(|n| bytes(&root.join("sys/firmware/dmi/entries").join(n).join("raw")))
                .collect(),
            paths: owners(paths),
            image: None,
        }
    }

    /// Whether the host is a virtual machine itself.
    pub fn virtual_machine(&self) -> bool {
        self.cpu_flag("hypervisor")
    }

    /// Whether the CPU has a flag.
    pub fn cpu_flag(&self, flag: &str) -> bool {
        let lines = self.cpuinfo.as_deref().unwrap_or_default().lines();
        let mut flags = lines.filter_map(|l| l.strip_prefix("flags")?.split_once(':'));
        flags
            .next()
            .is_some_and(|(_, all)| all.split_whitespace().any(|f| f == flag))
    }

    /// Major and minor of the kernel.
    pub fn kernel_version(&self) -> Option<(u32, u32)> {
        let mut parts = self.kernel.as_deref()?.split(|c: char| !c.is_ascii_digit());
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    /// Words of the kernel's command line.
    pub fn boot_words(&self) -> impl Iterator<Item = &str> {
        // What follows `--` is for init.
        let words = self.cmdline.as_deref().unwrap_or_default().split_whitespace();
        words.take_while(|word| *word != "--")
    }
}

/// Devices and files that are swapped to.
pub(super) fn swap_devices(swaps: &str) -> impl Iterator<Item = &str> {
    swaps.lines().skip(1).filter_map(|l| l.split_whitespace().next())
}

fn bytes(path: &Path) -> Option<Vec<u8>> {
    // A pipe or a terminal that somebody put there would be waited for.
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(FILE).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn text(path: &Path) -> Option<String> {
    let bytes = bytes(path)?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .take(NAMES)
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn folder(folder: &Path) -> BTreeMap<String, String> {
    let all = names(folder).into_iter();
    all.filter_map(|name| Some((name.clone(), text(&folder.join(&name))?)))
        .collect()
}

fn owners(paths: &[PathBuf]) -> Vec<Owned> {
    let mut all: Vec<&Path> = paths.iter().flat_map(|p| p.ancestors()).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter()
        .filter_map(|path| {
            let meta = fs::metadata(path).ok()?;
            Some(Owned {
                path: path.to_owned(),
                uid: meta.uid(),
                gid: meta.gid(),
                mode: meta.mode(),
            })
        })
        .collect()
}
