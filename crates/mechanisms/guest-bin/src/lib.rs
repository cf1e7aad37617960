//! The two programs that run inside a microVM, as bytes: built statically by this crate's build script and embedded, so
//! that one file, `omnirun`, is all that is installed, and an image always gets the agent that its host speaks to.

/// `omnirun-guest`, the agent: `/init` of every sandbox.
pub const GUEST: &[u8] = include_bytes!(env!("OMNIRUN_GUEST"));
/// SHA-256 of [`GUEST`].
pub const GUEST_SHA256: &str = env!("OMNIRUN_GUEST_SHA256");
/// `omnirun-floor`, the minimal agent that `omnirun bench` measures floors with.
pub const FLOOR: &[u8] = include_bytes!(env!("OMNIRUN_FLOOR"));

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether an ELF file names a program interpreter (`PT_INTERP`), which a static one does not.
    fn is_dynamic(elf: &[u8]) -> bool {
        let at = |offset: usize, len: usize| {
            elf[offset..offset + len]
                .iter()
                .rev()
                .fold(0usize, |n, b| n << 8 | usize::from(*b))
        };
        let (table, size, count) = (at(32, 8), at(54, 2), at(56, 2));
        (0..count).any(|i| at(table + i * size, 4) == 3)
    }

    #[test]
    fn both_are_static_elf_programs() {
        for program in [GUEST, FLOOR] {
            assert!(program.starts_with(b"\x7fELF\x02\x01"));
            assert!(!is_dynamic(program));
        }
    }
}
