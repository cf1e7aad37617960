//! Kernels of a few bytes.

use std::io::Write;

/// With zstd, with xz, and not compressed.
pub(super) fn bzimages() -> Vec<Vec<u8>> {
    let kernel = elf();
    let length = kernel.len() as u8;
    // One frame of known length with one block, stored.
    let mut zstd = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, length];
    zstd.extend((u32::from(length) << 3 | 1).to_le_bytes().iter().take(3));
    zstd.extend(&kernel);
    let mut xz = xz2::write::XzEncoder::new(Vec::new(), 0);
    xz.write_all(&kernel).unwrap();
    let xz = xz.finish().unwrap();
    let images = [&zstd, &xz, &kernel];
    images
        .into_iter()
        .map(|payload| bzimage(payload, length))
        .collect()
}

fn bzimage(payload: &[u8], length: u8) -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1f1] = 1;
    image[0x1fe..0x208].copy_from_slice(b"\x55\xaa\0\0HdrS\x0f\x02");
    image[0x24c] = payload.len() as u8 + 4;
    image.extend(payload);
    image.extend([length, 0, 0, 0]);
    image
}

/// For x86-64, with one segment of four bytes behind the headers.
fn elf() -> Vec<u8> {
    let mut elf = vec![0; 120];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    for (at, byte) in [(16, 2), (18, 62), (20, 1), (32, 64), (52, 64), (54, 56), (56, 1)] {
        elf[at] = byte;
    }
    for (at, byte) in [(64, 1), (68, 5), (72, 120), (96, 4), (104, 4)] {
        elf[at] = byte;
    }
    elf.extend(b"\xf4\xeb\xfd\xcc");
    elf
}
