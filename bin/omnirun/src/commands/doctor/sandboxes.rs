//! What sandboxes need.

use super::{
    production::{Driver, Image},
    report::Check,
};
use crate::Global;
use omnirun_ids::TemplateName;
use omnirun_images::ImageStore;
use omnirun_store::DataDir;
use omnirun_vmm::{
    Vmm, VmmError,
    accel::{self, Accel},
    qemu::Qemu,
};
use std::{error::Error, fs, path::PathBuf};

/// Below this an image or a snapshot cannot be made.
const DISK_NEEDED: u64 = 2 << 30;
/// Below this a few session disks fill the rest.
const DISK_ADVISED: u64 = 20 << 30;

/// What was found, also for the checklist of a production host.
#[derive(Default)]
pub struct Found {
    /// The checks.
    pub checks: Vec<Check>,
    /// The VMM that sandboxes would run on.
    pub driver: Driver,
    /// Programs and folders that nobody else may change.
    pub paths: Vec<PathBuf>,
    /// The newest image.
    pub image: Option<Image>,
}

/// Looks at all of it.
pub async fn look(global: &Global) -> Found {
    let found = Qemu::find().await;
    let mut seen = Found {
        driver: found
            .as_ref()
            .map(|q| Driver::from(q.facts()))
            .unwrap_or_default(),
        ..Found::default()
    };
    let mut checks = vec![qemu(&found), accelerator()];
    if let Ok(qemu) = &found {
        checks.extend([
            confinement(&qemu.facts().confinement),
            landlock(&qemu.facts().confinement),
        ]);
    }
    match DataDir::open(global.data_dir.clone()) {
        Err(error) => checks.push(Check::missing("data folder", chain(&error))),
        Ok(data) => {
            checks.push(Check::ok(
                "data folder",
                format!("{} on {}", data.root().display(), file_system(&data)),
            ));
            checks.push(disk(data.free_bytes().unwrap_or(0)));
            let (image, tools) = images(&data);
            checks.extend([image, tools, snapshots(&data)]);
            seen.paths.push(data.root().to_owned());
            seen.image = newest(&data);
        }
    }
    Found { checks, ..seen }
}

/// The image that was built last.
fn newest(data: &DataDir) -> Option<Image> {
    let store = ImageStore::open(data.root()).ok()?;
    let images = store.list().ok()?.into_iter();
    let manifests = images.filter_map(|listed| store.manifest(&listed.name).ok());
    let newest = manifests.max_by(|a, b| a.created.cmp(&b.created))?;
    Some(Image {
        kernel: newest.kernel.release,
        created: newest.created,
    })
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

fn sudo(command: &str) -> String {
    let prefix = if rustix::process::geteuid().is_root() {
        ""
    } else {
        "sudo "
    };
    format!("{prefix}{command}")
}

fn qemu(found: &Result<Qemu, VmmError>) -> Check {
    match found {
        Ok(qemu) => Check::ok("QEMU", qemu.facts().version.clone()),
        Err(error @ VmmError::Missing { install, .. }) => {
            let words = error.to_string();
            let words = words.split(';').next().unwrap_or_default().to_owned();
            Check::missing("QEMU", words).mend(sudo(install))
        }
        Err(error) => Check::missing("QEMU", chain(error)),
    }
}

fn accelerator() -> Check {
    match accel::detect() {
        Accel::Kvm => Check::ok("accelerator", "KVM, and its probe's guest ran as on hardware"),
        Accel::Emulation { reason } => {
            let check = Check::warn(
                "accelerator",
                format!("emulation: {reason}. Everything works, only slower"),
            );
            match (reason.contains("usermod"), module()) {
                (true, _) => check.mend(sudo("usermod -aG kvm $USER")),
                (false, Some(module)) if reason.starts_with("there is no") => {
                    check.mend(sudo(&format!("modprobe {module}")))
                }
                _ => check,
            }
        }
    }
}

/// The module that would give this CPU a `/dev/kvm`.
fn module() -> Option<&'static str> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let flags = info.lines().find(|l| l.starts_with("flags"))?;
    let has = |flag| flags.split_whitespace().any(|f| f == flag);
    if has("vmx") {
        Some("kvm_intel")
    } else {
        has("svm").then_some("kvm_amd")
    }
}

fn confinement(words: &str) -> Check {
    let text = format!("each QEMU process: {words}");
    if words.contains("Landlock") && !words.starts_with("the uid of the caller") {
        return Check::ok("confinement", text);
    }
    let check = Check::warn("confinement", text);
    if words.starts_with("the uid of the caller") && !rustix::process::geteuid().is_root() {
        return check.mend("sudo apt-get install --yes uidmap && sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER");
    }
    check
}

fn landlock(words: &str) -> Check {
    match words.contains("Landlock") {
        true => Check::ok(
            "Landlock",
            "in force: a QEMU process opens nothing of the data folder or of anybody's home",
        ),
        false => Check::warn(
            "Landlock",
            "not in this kernel, or switched off: needs Linux 5.13 and lsm=landlock,... when it boots",
        ),
    }
}

fn file_system(data: &DataDir) -> String {
    let magic = rustix::fs::statfs(data.root())
        .map(|s| s.f_type)
        .unwrap_or_default();
    match magic {
        0xef53 => "ext4".into(),
        0x5846_5342 => "XFS".into(),
        0x9123_683e => "Btrfs".into(),
        0x0102_1994 => "tmpfs: gone with the next boot".into(),
        0x794c_7630 => "overlayfs".into(),
        0x2fc1_2fc1 => "ZFS".into(),
        other => format!("a local file system (0x{other:x})"),
    }
}

fn disk(free: u64) -> Check {
    let text = format!(
        "{} free for images, snapshots and session disks",
        omnirun_ids::ByteSize(free)
    );
    match free {
        0..DISK_NEEDED => {
            Check::missing("disk", text).mend("omnirun clean; omnirun session ls; omnirun image gc")
        }
        DISK_NEEDED..DISK_ADVISED => Check::warn("disk", text),
        _ => Check::ok("disk", text),
    }
}

/// The image, and the tools to make one: these are needed only when there is none.
fn images(data: &DataDir) -> (Check, Check) {
    let opened = ImageStore::open(data.root());
    let listed = opened.and_then(|store| Ok((store.list()?, store)));
    let (image, have) = match listed {
        Err(error) => (Check::missing("image", chain(&error)), false),
        Ok((all, store)) => {
            // A manifest alone boots nothing: its files are looked at too.
            let names = all.into_iter().map(|listed| listed.name);
            let (good, bad): (Vec<_>, Vec<_>) = names.partition(|name| store.get(name).is_ok());
            let words = |names: &[TemplateName]| {
                let names: Vec<_> = names.iter().map(TemplateName::as_str).collect();
                names.join(", ")
            };
            let check = match (good.is_empty(), bad.is_empty()) {
                (false, true) => Check::ok("image", format!("built: {}", words(&good))),
                (false, false) => Check::warn(
                    "image",
                    format!("built: {}; damaged: {}", words(&good), words(&bad)),
                ),
                (true, true) => Check::missing("image", "none is built").mend("omnirun image build"),
                (true, false) => Check::missing("image", format!("damaged: {}", words(&bad)))
                    .mend(format!("omnirun image build --force {}", bad[0])),
            };
            (check, !good.is_empty())
        }
    };
    let name = "image tools";
    let missing = omnirun_images::missing_tools();
    let tools = match omnirun_images::check_host() {
        Ok(()) => Check::ok(
            name,
            "mmdebstrap, mkfs.erofs, mkfs.ext4, Debian's keyring, namespaces",
        ),
        Err(error) => {
            let check = if have {
                Check::warn(name, chain(&error))
            } else {
                Check::missing(name, chain(&error))
            };
            if missing.is_empty() {
                check
            } else {
                let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
                packages.sort_unstable();
                packages.dedup();
                let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
                Check {
                    found: format!("{} not found; needed to build images", names.join(", ")),
                    ..check
                }
                .mend(sudo(&format!("apt-get install --yes {}", packages.join(" "))))
            }
        }
    };
    (image, tools)
}

fn snapshots(data: &DataDir) -> Check {
    let folders = fs::read_dir(data.snapshots()).into_iter().flatten().flatten();
    let count = folders
        .filter(|e| e.path().is_dir() && !e.file_name().to_string_lossy().starts_with('.'))
        .count();
    match count {
        0 => Check::ok(
            "snapshot",
            "none yet: the first use of an image and size makes one, which takes some seconds",
        ),
        1 => Check::ok("snapshot", "1 is there"),
        _ => Check::ok("snapshot", format!("{count} are there")),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::report::Status, *};

    #[test]
    fn confinement_by_uid_and_landlock_is_what_is_wanted() {
        assert_eq!(
            confinement("a uid of its own per VM, seccomp, Landlock").status,
            Status::Ok
        );
        assert_eq!(
            confinement("a uid of its own per VM, seccomp").status,
            Status::Warn
        );
        assert_eq!(
            confinement("the uid of the caller, seccomp, Landlock").status,
            Status::Warn
        );
    }

    #[test]
    fn a_full_disk_is_said_with_what_to_do() {
        assert_eq!(disk(1 << 20).status, Status::Missing);
        assert!(disk(1 << 20).mend.is_some());
        assert_eq!(disk(5 << 30).status, Status::Warn);
        assert_eq!(disk(500 << 30).status, Status::Ok);
    }
}
