//! What is too large for a message: a sealed file in memory.

use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Serialize, de::DeserializeOwned};
use std::{fs::File, io, os::fd::OwnedFd, os::unix::fs::FileExt};

/// At most so many bytes are read. A policy of 10,000 names has under 2 MiB.
pub(crate) const MAX_BLOB: u64 = 16 << 20;

/// Writes a value into a new memory file that nobody can change any more.
pub(crate) fn write(value: &impl Serialize) -> io::Result<OwnedFd> {
    let bytes = serde_json::to_vec(value)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::NOEXEC_SEAL;
    let file = match rustix::fs::memfd_create("omnirun-egress", flags) {
        // Kernels before 6.3.
        Err(rustix::io::Errno::INVAL) => {
            rustix::fs::memfd_create("omnirun-egress", flags - MemfdFlags::NOEXEC_SEAL)?
        }
        made => made?,
    };
    let file = File::from(file);
    file.write_all_at(&bytes, 0)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// Reads a value back.
pub(crate) fn read<T: DeserializeOwned>(file: OwnedFd) -> io::Result<T> {
    let length = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(u64::MAX);
    if length > MAX_BLOB {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = vec![0; length as usize];
    File::from(file).read_exact_at(&mut bytes, 0)?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_and_cannot_be_changed() {
        let value: Vec<String> = (0..10_000).map(|n| format!("host-{n}.example.net")).collect();
        let file = write(&value).unwrap();
        assert!(
            File::from(file.try_clone().unwrap())
                .write_all_at(b"x", 0)
                .is_err()
        );
        assert_eq!(read::<Vec<String>>(file).unwrap(), value);
    }
}
