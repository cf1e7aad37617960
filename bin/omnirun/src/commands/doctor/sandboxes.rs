//! What sandboxes need.

use super::{
    drivers::{self, Drivers},
    production::{Driver, Image},
    report::Check,
};
use crate::{Global, host::DriverArgs};
use omnirun_ids::TemplateName;
use omnirun_images::ImageStore;
use omnirun_store::DataDir;
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
pub async fn look(global: &Global, driver: DriverArgs) -> Found {
    let data = DataDir::open(global.data_dir.clone());
    let Drivers { mut checks, facts } = drivers::look(driver, data.as_ref().ok()).await;
    let mut seen = Found {
        driver: facts.as_ref().map(Driver::from).unwrap_or_default(),
        ..Found::default()
    };
    match data {
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

pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

pub(super) fn sudo(command: &str) -> String {
    let prefix = if rustix::process::geteuid().is_root() {
        ""
    } else {
        "sudo "
    };
    format!("{prefix}{command}")
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
    fn a_full_disk_is_said_with_what_to_do() {
        assert_eq!(disk(1 << 20).status, Status::Missing);
        assert!(disk(1 << 20).mend.is_some());
        assert_eq!(disk(5 << 30).status, Status::Warn);
        assert_eq!(disk(500 << 30).status, Status::Ok);
    }
}
