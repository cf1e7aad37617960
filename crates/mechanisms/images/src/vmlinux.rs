//! The ELF kernel inside a bzImage, for a VMM that loads ELF alone.
//!
//! ```text
//!   0x1f1  setup_sects      the real-mode part is (setup_sects + 1) sectors of 512 bytes, 0 stands for 4
//!   0x1fe  55 aa
//!   0x202  "HdrS"
//!   0x206  version          2.08 and later have the two fields below
//!   0x248  payload_offset   from the end of the real-mode part
//!   0x24c  payload_length   compressed ELF, then its length without compression as u32
//! ```
//!
//! (`Documentation/arch/x86/boot.rst`.) Behind the ELF file the payload may have the kernel's table of relocations, of
//! which a loader of ELF sees nothing.

use std::io::Read;

/// A kernel is at most this large. Debian's cloud kernel has 55 MiB, its full one a few more.
const MAX_BYTES: u32 = 256 << 20;
/// What a decoder may take for its window.
const MAX_WINDOW_LOG: u32 = 27;
const MAX_DECODER_BYTES: u64 = 256 << 20;

const HEADER: usize = 0x250;
const ELF: &[u8] = b"\x7fELF";

/// Why there is no ELF kernel in these bytes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BzImageError {
    /// No boot sector, no header, or one that says nothing of a payload.
    #[error("it is not a bzImage of boot protocol 2.08 or later")]
    Header,
    /// The header names bytes that are not there.
    #[error("it ends before its payload does")]
    Truncated,
    /// Nothing here undoes this compression.
    #[error("its payload is compressed as {0}; only zstd and xz are supported")]
    Format(&'static str),
    /// The length that the payload names is beyond what any kernel has.
    #[error("its kernel would have {0} bytes; the limit is {MAX_BYTES}")]
    TooLarge(u32),
    /// The payload is damaged.
    #[error("its payload cannot be decompressed: {0}")]
    Payload(std::io::Error),
    /// It has more or fewer bytes than the length behind it says.
    #[error("its payload is not as long as it says")]
    Length,
    /// What came out is no kernel.
    #[error("its payload is not an x86-64 ELF kernel: {0}")]
    Elf(&'static str),
}

/// Takes the ELF kernel out.
pub(crate) fn extract(image: &[u8]) -> Result<Vec<u8>, BzImageError> {
    let payload = payload(image)?;
    let kernel = if payload.starts_with(ELF) {
        payload.to_vec()
    } else {
        decompressed(payload)?
    };
    check_elf(&kernel).map_err(BzImageError::Elf)?;
    Ok(kernel)
}

fn payload(image: &[u8]) -> Result<&[u8], BzImageError> {
    let header = image.first_chunk::<HEADER>().ok_or(BzImageError::Header)?;
    let version = u16::from_le_bytes([header[0x206], header[0x207]]);
    if header[0x1fe..0x200] != [0x55, 0xaa] || header[0x202..0x206] != *b"HdrS" || version < 0x208 {
        return Err(BzImageError::Header);
    }
    let sectors = match header[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let word = |at| u32_at(header, at).map_or(0, |word| word as usize);
    let start = (sectors + 1) * 512 + word(0x248);
    image
        .get(start..start + word(0x24c))
        .ok_or(BzImageError::Truncated)
}

fn decompressed(payload: &[u8]) -> Result<Vec<u8>, BzImageError> {
    let (compressed, length) = payload.split_last_chunk().ok_or(BzImageError::Truncated)?;
    let length = u32::from_le_bytes(*length);
    let decoder: Box<dyn Read> = match format(compressed)? {
        Format::Zstd => {
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(compressed).map_err(BzImageError::Payload)?;
            decoder
                .window_log_max(MAX_WINDOW_LOG)
                .map_err(BzImageError::Payload)?;
            Box::new(decoder)
        }
        Format::Xz => {
            let stream = xz2::stream::Stream::new_stream_decoder(MAX_DECODER_BYTES, 0)
                .map_err(|e| BzImageError::Payload(e.into()))?;
            Box::new(xz2::bufread::XzDecoder::new_stream(compressed, stream))
        }
    };
    if length > MAX_BYTES {
        return Err(BzImageError::TooLarge(length));
    }
    let mut kernel = Vec::new();
    // One more than there may be, so that too many are seen.
    decoder
        .take(u64::from(length) + 1)
        .read_to_end(&mut kernel)
        .map_err(BzImageError::Payload)?;
    if kernel.len() as u64 != u64::from(length) {
        return Err(BzImageError::Length);
    }
    Ok(kernel)
}

enum Format {
    Zstd,
    Xz,
}

/// By the magic bytes that Linux's own `scripts/extract-vmlinux` looks for.
fn format(payload: &[u8]) -> Result<Format, BzImageError> {
    const OTHERS: [(&[u8], &str); 5] = [
        (b"\x1f\x8b", "gzip"),
        (b"BZh", "bzip2"),
        (b"\x5d\0\0", "lzma"),
        (b"\x89LZO", "lzo"),
        (b"\x02\x21\x4c\x18", "lz4"),
    ];
    if payload.starts_with(b"\x28\xb5\x2f\xfd") {
        return Ok(Format::Zstd);
    }
    if payload.starts_with(b"\xfd7zXZ\0") {
        return Ok(Format::Xz);
    }
    let other = OTHERS.iter().find(|(magic, _)| payload.starts_with(magic));
    Err(BzImageError::Format(
        other.map_or("something unknown", |(_, name)| name),
    ))
}

/// What a loader relies on: a 64-bit x86 executable whose segments lie within the file.
fn check_elf(kernel: &[u8]) -> Result<(), &'static str> {
    const CLASS_64_LITTLE_ENDIAN: [u8; 2] = [2, 1];
    const X86_64: u16 = 62;
    const LOAD: u32 = 1;
    const ENTRY: usize = 56;

    if !kernel.starts_with(ELF) || kernel.get(4..6) != Some(&CLASS_64_LITTLE_ENDIAN) {
        return Err("it has another header");
    }
    if u16_at(kernel, 18) != Some(X86_64) {
        return Err("it is for another machine");
    }
    let table = u64_at(kernel, 32).and_then(|at| usize::try_from(at).ok());
    let entries = u16_at(kernel, 56).map_or(0, usize::from);
    let table = table
        .filter(|_| u16_at(kernel, 54).map(usize::from) == Some(ENTRY))
        .and_then(|at| kernel.get(at..at.checked_add(entries * ENTRY)?))
        .ok_or("its table of segments is not there")?;
    let mut segments = table
        .chunks_exact(ENTRY)
        .filter(|s| u32_at(s, 0) == Some(LOAD))
        .peekable();
    if segments.peek().is_none() {
        return Err("nothing of it is to be loaded");
    }
    let within = |segment: &[u8]| {
        let end = u64_at(segment, 8)?.checked_add(u64_at(segment, 32)?)?;
        (end <= kernel.len() as u64).then_some(())
    };
    if segments.all(|segment| within(segment).is_some()) {
        Ok(())
    } else {
        Err("a segment is not there")
    }
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests;
