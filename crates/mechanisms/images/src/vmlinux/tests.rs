use super::*;
use proptest::prelude::*;
use std::io::Write;

/// An ELF file with one segment to load: `body`, right behind the headers.
fn elf(body: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend(2u16.to_le_bytes()); // executable
    bytes.extend(62u16.to_le_bytes()); // x86-64
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(0x100_0000u64.to_le_bytes()); // entry
    bytes.extend(64u64.to_le_bytes()); // segments
    bytes.extend([0; 12]);
    for half in [64u16, 56, 1, 0, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    assert_eq!(bytes.len(), 64);
    bytes.extend(1u32.to_le_bytes()); // to load
    bytes.extend(5u32.to_le_bytes());
    for long in [
        120,
        0x100_0000,
        0x100_0000,
        body.len() as u64,
        body.len() as u64,
        4096,
    ] {
        bytes.extend(u64::to_le_bytes(long));
    }
    bytes.extend(body);
    bytes
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = xz2::write::XzEncoder::new(Vec::new(), 6);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 3).unwrap()
}

/// As the kernel's makefile does it: `compressed`, its length before, and whatever follows the payload.
fn bzimage(setup_sects: u8, offset: u32, compressed: &[u8], length: u32) -> Vec<u8> {
    let sectors = if setup_sects == 0 {
        4
    } else {
        usize::from(setup_sects)
    };
    let mut image = vec![0x90; (sectors + 1) * 512 + offset as usize];
    image[0x1f1] = setup_sects;
    image[0x1fe..0x206].copy_from_slice(b"\x55\xaa\xeb\x6aHdrS");
    image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    image[0x248..0x24c].copy_from_slice(&offset.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(compressed.len() as u32 + 4).to_le_bytes());
    image.extend(compressed);
    image.extend(length.to_le_bytes());
    image.extend(b"the rest of the decompressor");
    image
}

fn message(image: &[u8]) -> String {
    extract(image).unwrap_err().to_string()
}

proptest! {
    #[test]
    fn what_went_in_comes_out(
        body in prop::collection::vec(any::<u8>(), 0..5000),
        relocations in prop::collection::vec(any::<u8>(), 0..50),
        // The header fills more than one sector.
        setup_sects in prop_oneof![Just(0u8), 1..60u8],
        offset in 0..2000u32,
        with_xz: bool,
    ) {
        let kernel = [elf(&body), relocations].concat();
        let compressed = if with_xz { xz(&kernel) } else { zstd(&kernel) };
        let image = bzimage(setup_sects, offset, &compressed, kernel.len() as u32);
        prop_assert_eq!(extract(&image).unwrap(), kernel);
    }

    /// (With a checksum, as xz has one, and the kernel's zstd.)
    #[test]
    fn damage_is_found_or_harmless(at in 0..4096usize, mask in 1..=255u8, cut: bool) {
        let kernel = elf(b"the kernel");
        let mut image = bzimage(1, 8, &xz(&kernel), kernel.len() as u32);
        let at = at % image.len();
        if cut {
            image.truncate(at);
        } else {
            image[at] ^= mask;
        }
        if let Ok(found) = extract(&image) {
            prop_assert_eq!(found, kernel);
        }
    }
}

#[test]
fn a_payload_without_compression_is_taken_as_it_is() {
    let kernel = elf(b"k");
    let image = bzimage(1, 0, &kernel, kernel.len() as u32);
    assert!(extract(&image).unwrap().starts_with(&kernel));
}

#[test]
fn a_compression_that_is_not_undone_is_named() {
    for (magic, name) in [
        (&b"\x1f\x8b\x08\0rest"[..], "gzip"),
        (b"\x02\x21\x4c\x18rest", "lz4"),
        (b"BZh91AY", "bzip2"),
        (b"what", "something unknown"),
    ] {
        let error = message(&bzimage(1, 0, magic, 100));
        assert!(error.contains(name) && error.contains("zstd and xz"), "{error}");
    }
}

#[test]
fn what_a_header_claims_is_checked() {
    let kernel = elf(b"k");
    let compressed = zstd(&kernel);
    let length = kernel.len() as u32;
    let good = bzimage(1, 0, &compressed, length);
    assert!(extract(&good).is_ok());

    assert!(message(b"MZ").contains("not a bzImage"));
    let mut old = good.clone();
    old[0x206] = 0x07;
    assert!(message(&old).contains("2.08"));
    let mut beyond = good.clone();
    beyond[0x24c..0x250].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(message(&beyond).contains("ends before"));
    let mut none = good;
    none[0x24c..0x250].copy_from_slice(&3u32.to_le_bytes());
    assert!(message(&none).contains("ends before"));

    for wrong in [length - 1, length + 1, 0] {
        assert!(message(&bzimage(1, 0, &compressed, wrong)).contains("not as long"));
    }
    assert!(message(&bzimage(1, 0, &compressed, u32::MAX)).contains("limit"));
    let damaged = bzimage(1, 0, &compressed[..compressed.len() / 2], length);
    assert!(message(&damaged).contains("cannot be decompressed"));
}

#[test]
fn only_a_kernel_that_can_be_loaded_is_one() {
    let reason = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut kernel = elf(b"body");
        change(&mut kernel);
        message(&bzimage(1, 0, &zstd(&kernel), kernel.len() as u32))
    };
    assert!(reason(&|k| k[0] = 0).contains("another header"));
    assert!(reason(&|k| k[4] = 1).contains("another header"));
    assert!(reason(&|k| k[18] = 183).contains("another machine"));
    assert!(reason(&|k| k[39] = 0xff).contains("table of segments"));
    assert!(reason(&|k| k[56] = 200).contains("table of segments"));
    assert!(reason(&|k| k[56] = 0).contains("nothing of it"));
    assert!(reason(&|k| k.truncate(121)).contains("a segment is not there"));
    assert!(reason(&|k| k.truncate(20)).contains("table of segments"));
}

/// Zeroes compress well: a small file must not make us fill memory.
#[test]
fn no_more_is_unpacked_than_was_announced() {
    let bomb = zstd(&vec![0; 64 << 20]);
    assert!(bomb.len() < 64 << 10);
    assert!(message(&bzimage(1, 0, &bomb, 4096)).contains("not as long"));
}
