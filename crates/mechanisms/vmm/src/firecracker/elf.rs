//! How a program is linked. The jailer's chroot has no loader and no libraries, so a program that asks for a loader
//! starts here and fails there.

/// What a file is to the jailer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linkage {
    /// An ELF program that needs nothing else.
    Static,
    /// An ELF program that names a loader.
    Dynamic,
    /// No 64-bit little-endian ELF program.
    Other,
}

/// `PT_INTERP`: the program header that names a loader.
const PT_INTERP: u32 = 3;

/// Reads the start of a file (64 KiB are plenty).
pub fn linkage(head: &[u8]) -> Linkage {
    parse(head).unwrap_or(Linkage::Other)
}

fn parse(head: &[u8]) -> Option<Linkage> {
    if head.get(..6)? != [0x7f, b'E', b'L', b'F', 2, 1] {
        return None;
    }
    let u16_at = |at: usize| Some(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?));
    let offset = usize::try_from(u64::from_le_bytes(head.get(32..40)?.try_into().ok()?)).ok()?;
    let (size, count) = (usize::from(u16_at(54)?), usize::from(u16_at(56)?));
    for index in 0..count {
        let at = offset.checked_add(index.checked_mul(size)?)?;
        let kind = head.get(at..at.checked_add(4)?)?;
        if u32::from_le_bytes(kind.try_into().ok()?) == PT_INTERP {
            return Some(Linkage::Dynamic);
        }
    }
    (count > 0).then_some(Linkage::Static)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(kinds: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 64 + kinds.len() * 56];
        bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = kinds.len() as u8;
        for (index, kind) in kinds.iter().enumerate() {
            bytes[64 + index * 56..][..4].copy_from_slice(&kind.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn a_loader_is_seen() {
        assert_eq!(linkage(&elf(&[1, 2])), Linkage::Static);
        assert_eq!(linkage(&elf(&[6, 3, 1])), Linkage::Dynamic);
        assert_eq!(linkage(b"#!/bin/sh\n"), Linkage::Other);
        // This test itself is one or the other.
        let me = std::fs::read("/proc/self/exe").unwrap();
        assert_ne!(linkage(&me), Linkage::Other);
    }

    #[test]
    fn no_prefix_and_no_odd_number_panics() {
        let whole = elf(&[1, 3]);
        for end in 0..whole.len() {
            linkage(&whole[..end]);
        }
        for end in 0..64 + 4 {
            assert_eq!(linkage(&elf(&[1])[..end]), Linkage::Other, "{end}");
        }
        for at in [32, 39, 54, 55, 56, 57] {
            let mut odd = whole.clone();
            odd[at] = 0xff;
            linkage(&odd);
        }
    }
}
