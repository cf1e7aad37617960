//! What an attempt carries, so that it is known again wherever it turns up.

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, MatchKind};
use data_encoding::BASE32_NOPAD;
use std::fmt;

/// Eight random bytes. One packet in 2^64 has them by chance at a given place, so to find them is proof.
///
/// Eight is also what fits in the smallest fragment of an IP packet, so that a nonce is in one piece there too.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nonce([u8; Nonce::LENGTH]);

impl Nonce {
    /// Its length in bytes.
    pub const LENGTH: usize = 8;

    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(std::array::from_fn(|_| fastrand::u8(..)))
    }

    /// As it is in a packet.
    #[must_use]
    pub fn raw(&self) -> [u8; Self::LENGTH] {
        self.0
    }

    /// As it is in text.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// As a tunnel through DNS would have it in a label.
    #[must_use]
    pub fn base32(&self) -> String {
        BASE32_NOPAD.encode(&self.0)
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

/// Finds nonces in bytes: as they are, in hexadecimal, in base32, the last two in any case of letters.
///
/// `None` is a search that was not to be had (of more patterns than there is memory for): it finds nothing, which a
/// capture notices, since it does not find what was planted either.
#[derive(Debug, Clone)]
pub struct Needles(Option<AhoCorasick>);

/// Ways in which a nonce is written.
const FORMS: usize = 3;

impl Needles {
    /// For these nonces. What is found is told by its place among them.
    #[must_use]
    pub fn new(nonces: &[Nonce]) -> Self {
        let patterns = nonces.iter().flat_map(|nonce| {
            [
                nonce.raw().to_vec(),
                nonce.hex().into_bytes(),
                nonce.base32().into_bytes(),
            ]
        });
        let automaton = AhoCorasickBuilder::new()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .build(patterns);
        Self(automaton.ok())
    }

    /// The nonces in `bytes`, each once.
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Vec<usize> {
        let matches = self
            .0
            .iter()
            .flat_map(|automaton| automaton.find_overlapping_iter(bytes));
        let mut found: Vec<usize> = matches.map(|found| found.pattern().as_usize() / FORMS).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_found_in_every_form_it_is_sent_in() {
        let nonces = [Nonce::random(), Nonce::random(), Nonce::random()];
        let needles = Needles::new(&nonces);
        let around = |middle: &[u8]| [b"\x00\xffabc", middle, b"xyz"].concat();
        for (index, nonce) in nonces.iter().enumerate() {
            for form in [
                nonce.raw().to_vec(),
                nonce.hex().into_bytes(),
                nonce.hex().to_uppercase().into_bytes(),
                nonce.base32().into_bytes(),
                nonce.base32().to_lowercase().into_bytes(),
            ] {
                assert_eq!(needles.find(&around(&form)), [index]);
            }
        }
        let both = [around(&nonces[2].raw()), around(nonces[0].hex().as_bytes())].concat();
        assert_eq!(needles.find(&both), [0, 2]);
        assert_eq!(needles.find(&around(&Nonce::random().raw())), [0; 0]);
    }
}
