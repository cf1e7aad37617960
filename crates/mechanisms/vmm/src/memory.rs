//! Guest memory on its way to and from files.
//!
//! A machine that boots runs on a memfd of its owner's. A snapshot copies what is not zero from there into a sparse
//! file: it is the owner that writes, so a VMM needs no access to the place where snapshots are kept.
//!
//! A clone maps the snapshot privately. QEMU before 8.2 opens the file for writing even then, so there it gets a sealed
//! memfd (nothing can write to it again) with the file's data; a later one opens the file itself, for reading.

use crate::VmmError;
use rustix::{
    fs::{MemfdFlags, SealFlags, SeekFrom, fcntl_add_seals, ftruncate, memfd_create, seek},
    io::{Errno, pread, pwrite},
};
use std::{
    fs::File,
    io,
    ops::Range,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

const PAGE: usize = 4096;
const CHUNK: usize = 1 << 20;

/// Memory for a machine to boot on.
pub(crate) fn fresh(bytes: u64) -> io::Result<OwnedFd> {
    let fd = memfd_create("omnirun-ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&fd, bytes)?;
    // A VMM that a guest took over could otherwise grow it without end.
    fcntl_add_seals(&fd, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(fd)
}

/// A sealed copy of a file's data.
pub(crate) fn sealed(file: &OwnedFd) -> io::Result<OwnedFd> {
    let bytes = rustix::fs::fstat(file)?.st_size.unsigned_abs();
    let fd = memfd_create(
        "omnirun-snapshot",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?;
    ftruncate(&fd, bytes)?;
    for range in data(file.as_fd(), bytes) {
        let mut range = range?;
        seek(&fd, SeekFrom::Start(range.start))?;
        while range.start < range.end {
            let count = usize::try_from(range.end - range.start)
                .unwrap_or(usize::MAX)
                .min(1 << 30);
            match rustix::fs::sendfile(&fd, file, Some(&mut range.start), count) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the file became shorter",
                    ));
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    fcntl_add_seals(
        &fd,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(fd)
}

/// Copies what is not zero, page by page, into a new file of the same size.
pub(crate) fn save(memory: impl AsFd, file: &OwnedFd) -> io::Result<()> {
    let memory = memory.as_fd();
    let bytes = rustix::fs::fstat(memory)?.st_size.unsigned_abs();
    ftruncate(file, bytes)?;
    let mut buffer = vec![0u8; CHUNK];
    for range in data(memory, bytes) {
        let Range { mut start, end } = range?;
        while start < end {
            let want = usize::try_from(end - start).unwrap_or(CHUNK).min(CHUNK);
            let count = pread(memory, &mut buffer[..want], start)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            save_pages(file, &buffer[..count], start)?;
            start += count as u64;
        }
    }
    Ok(())
}

fn save_pages(file: &OwnedFd, bytes: &[u8], at: u64) -> io::Result<()> {
    let is_zero = |page: &[u8]| page.iter().fold(0, |all, b| all | b) == 0;
    let mut offset = 0;
    // Runs of pages alike in being zero or not.
    for run in bytes
        .chunks(PAGE)
        .collect::<Vec<_>>()
        .chunk_by(|a, b| is_zero(a) == is_zero(b))
    {
        let len: usize = run.iter().map(|p| p.len()).sum();
        if !is_zero(run[0]) {
            let mut done = 0;
            while done < len {
                done += pwrite(
                    file,
                    &bytes[offset + done..offset + len],
                    at + (offset + done) as u64,
                )?;
            }
        }
        offset += len;
    }
    Ok(())
}

/// Whether a file has no data at all: it stands for memory that nothing was written to.
pub(crate) fn is_empty(file: &OwnedFd) -> io::Result<bool> {
    let bytes = rustix::fs::fstat(file)?.st_size.unsigned_abs();
    Ok(data(file.as_fd(), bytes).next().transpose()?.is_none())
}

/// Makes a file that only its owner may write, and nobody through it once it is closed.
pub(crate) fn create(path: &Path) -> Result<OwnedFd, VmmError> {
    // Readable for a VMM that opens a clone's memory by itself; who may come near is up to the folder.
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o444)
        .open(path);
    file.map(OwnedFd::from).map_err(|source| VmmError::File {
        step: "create",
        path: path.to_owned(),
        source,
    })
}

/// The ranges of a sparse file that hold data.
fn data(file: BorrowedFd<'_>, bytes: u64) -> impl Iterator<Item = io::Result<Range<u64>>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= bytes {
            return None;
        }
        let found =
            seek(file, SeekFrom::Data(at)).and_then(|start| Ok(start..seek(file, SeekFrom::Hole(start))?));
        match found {
            Ok(range) => {
                at = range.end;
                Some(Ok(range))
            }
            Err(Errno::NXIO) => None,
            Err(error) => {
                at = bytes;
                Some(Err(error.into()))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(fd: &OwnedFd, len: usize) -> Vec<u8> {
        let mut all = vec![0u8; len];
        let mut at = 0;
        while at < len {
            let count = pread(fd, &mut all[at..], at as u64).expect("read");
            assert_ne!(count, 0);
            at += count;
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn there_and_back_is_the_same(writes in prop::collection::vec((0usize..700, 1usize..9000, 0u8..3), 0..20)) {
            let len = 3 << 20;
            let memory = fresh(len as u64).expect("memory");
            for (page, count, byte) in writes {
                let at = page * PAGE;
                let count = count.min(len - at);
                pwrite(&memory, &vec![byte; count], at as u64).expect("written");
            }
            let file = OwnedFd::from(tempfile::tempfile().expect("a file"));
            save(&memory, &file).expect("saved");
            let back = sealed(&file).expect("loaded");
            prop_assert!(read(&memory, len) == read(&back, len));
        }
    }

    #[test]
    fn what_a_clone_gets_cannot_be_written() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(1 << 20).expect("sized");
        let fd = sealed(&file.into()).expect("sealed");
        assert!(pwrite(&fd, b"x", 0).is_err());
        assert!(ftruncate(&fd, 0).is_err() && ftruncate(&fd, 2 << 20).is_err());
        // By another way in as well.
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
        let again = File::options().write(true).open(path);
        assert!(again.is_err() || pwrite(again.expect("opened"), b"x", 0).is_err());
    }
}
