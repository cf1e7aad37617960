//! The kernel's random generator: crediting entropy and reseeding from it.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// `_IOW('R', 0x03, int[2])`
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
/// `_IO('R', 0x07)`
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
/// Longest entropy that is taken at once.
pub const MAX_ENTROPY: usize = 512;

#[repr(C)]
struct PoolInfo {
    entropy_bits: libc::c_int,
    bytes: libc::c_int,
    data: [u8; MAX_ENTROPY],
}

/// Mixes `entropy` in, credits all of its bits, and makes the generator draw a new key from it at once.
///
/// # Errors
/// The entropy is longer than [`MAX_ENTROPY`], or the kernel refuses (not privileged, not yet seeded).
pub fn reseed(random: BorrowedFd<'_>, entropy: &[u8]) -> io::Result<()> {
    if entropy.len() > MAX_ENTROPY {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut info = PoolInfo {
        entropy_bits: entropy.len() as libc::c_int * 8,
        bytes: entropy.len() as libc::c_int,
        data: [0; MAX_ENTROPY],
    };
    info.data[..entropy.len()].copy_from_slice(entropy);
    // SAFETY: the kernel reads `bytes` bytes behind the two integers; the structure has MAX_ENTROPY of them, which the
    // check above compares. It keeps no pointer.
    let added = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const info) };
    if added < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes no argument.
    if unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
