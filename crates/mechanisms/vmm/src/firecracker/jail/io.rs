//! What a VM's process may read from and write to the host's disk, the session disk and all else in its jail together.
//!
//! The drive has a rate of its own; this one is for what goes past it: the snapshot's memory, a file in the jail. The kernel
//! takes such a limit for a whole disk only, so there is none where the run folder's file system is not on one (a tmpfs, an
//! overlay, btrfs). Shares of a busy disk need no limit: groups that have the controller have equal ones, where the disk's
//! scheduler knows shares at all.

use crate::DiskRate;
use rustix::fs::{major, minor, stat};
use std::{fs, path::Path};

/// Above the drive's own rate, so that it slows no snapshot down that is read from the disk for the first time.
const TIMES: u64 = 2;

/// The line for `io.max`, if the folder is on a disk.
pub(in crate::firecracker) fn limit(folder: &Path, rate: DiskRate) -> Option<String> {
    let device = stat(folder).ok()?.st_dev;
    let disk = disk_of(Path::new("/sys/dev/block"), major(device), minor(device))?;
    let (bytes, operations) = (rate.bytes * TIMES, rate.operations * TIMES);
    Some(format!(
        "{disk} rbps={bytes} wbps={bytes} riops={operations} wiops={operations}"
    ))
}

/// The number of the disk that this device is, or is a partition of.
fn disk_of(devices: &Path, major: u32, minor: u32) -> Option<String> {
    let device = devices.join(format!("{major}:{minor}")).canonicalize().ok()?;
    let disk = match device.join("partition").exists() {
        true => device.parent()?,
        false => &device,
    };
    fs::read_to_string(disk.join("dev"))
        .ok()
        .map(|number| number.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_partition_counts_as_its_disk() {
        let sys = tempfile::tempdir().expect("a folder");
        let disk = sys.path().join("devices/sda");
        fs::create_dir_all(disk.join("sda1")).expect("made");
        fs::write(disk.join("dev"), "8:0\n").expect("written");
        fs::write(disk.join("sda1/dev"), "8:1\n").expect("written");
        fs::write(disk.join("sda1/partition"), "1\n").expect("written");
        let devices = sys.path().join("dev");
        fs::create_dir(&devices).expect("made");
        symlink("../devices/sda", devices.join("8:0")).expect("made");
        symlink("../devices/sda/sda1", devices.join("8:1")).expect("made");
        assert_eq!(disk_of(&devices, 8, 0).as_deref(), Some("8:0"));
        assert_eq!(disk_of(&devices, 8, 1).as_deref(), Some("8:0"));
        assert_eq!(disk_of(&devices, 0, 27), None);
    }

    #[test]
    fn what_is_on_no_disk_has_no_limit() {
        assert_eq!(limit(Path::new("/proc"), DiskRate::default()), None);
        assert_eq!(limit(Path::new("/nowhere"), DiskRate::default()), None);
    }
}
