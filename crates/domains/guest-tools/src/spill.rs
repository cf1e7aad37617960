//! Keeps the whole of a long output where the sandbox's own shell can look into it.

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags},
    io::Errno,
};
use std::{ffi::CString, os::fd::OwnedFd};

/// On the session disk, unlike what may be in memory (`/tmp`): in isolation mode `call` the next command runs in
/// another clone.
const FOLDER: &str = "/var/tmp/omnirun";
/// So many outputs are kept; each is bounded by [`crate::bash::SPILL_LIMIT`].
const KEEP: usize = 8;

/// Writes an output into a new file and returns its path; the oldest go. Called in the helper process, with the
/// sandbox's root as its own.
pub fn save_output(bytes: &[u8]) -> Result<String, Errno> {
    save_in(FOLDER, bytes)
}

fn save_in(folder: &str, bytes: &[u8]) -> Result<String, Errno> {
    match rustix::fs::mkdir(folder, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder_fd = rustix::fs::open(folder, flags, Mode::empty())?;
    remove_oldest(&folder_fd)?;
    let mut random = [0u8; 4];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let name = format!("output-{:08x}.txt", u32::from_ne_bytes(random));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&folder_fd, &name, flags, Mode::from_raw_mode(0o600))?;
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(&file, rest) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::INTR) => {}
            Err(error) => {
                let _ = rustix::fs::unlinkat(&folder_fd, &name, AtFlags::empty());
                return Err(error);
            }
        }
    }
    Ok(format!("{folder}/{name}"))
}

/// Makes room for one more.
fn remove_oldest(folder: &OwnedFd) -> Result<(), Errno> {
    let mut files: Vec<(i64, u64, CString)> = Vec::new();
    // Bounded: who fills this folder with other things only keeps the oldest outputs alive.
    for entry in Dir::read_from(folder)?.take(1000) {
        let name = entry?.file_name().to_owned();
        if name.to_bytes().starts_with(b"output-")
            && let Ok(stat) = rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW)
        {
            #[allow(clippy::unnecessary_cast)]
            files.push((stat.st_mtime as i64, stat.st_mtime_nsec as u64, name));
        }
    }
    files.sort();
    let excess = (files.len() + 1).saturating_sub(KEEP);
    for (_, _, name) in files.into_iter().take(excess) {
        rustix::fs::unlinkat(folder, &name, AtFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("o");
        let folder = folder.to_str().unwrap();
        let paths: Vec<String> = (0..12)
            .map(|index| save_in(folder, format!("{index}").as_bytes()).unwrap())
            .collect();
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), KEEP);
        assert_eq!(std::fs::read_to_string(&paths[11]).unwrap(), "11");
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("o");
        std::os::unix::fs::symlink("/", &folder).unwrap();
        assert!(save_in(folder.to_str().unwrap(), b"x").is_err());
    }
}
