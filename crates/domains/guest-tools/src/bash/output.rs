//! Collects what a command prints.

use super::ansi::Stripper;

/// So many bytes of a command's output reach the model: the last ones.
pub const OUTPUT_LIMIT: usize = 102_400;
/// So many bytes are kept for the file that holds the rest, the last ones again. Bounds what a command that prints
/// gigabytes costs the agent.
pub const SPILL_LIMIT: usize = 4 << 20;

/// The output so far, escape sequences taken out: the end of it, and how much there was.
#[derive(Debug, Default)]
pub struct Output {
    stripper: Stripper,
    /// At least the last [`SPILL_LIMIT`] bytes, at most about twice that.
    kept: Vec<u8>,
    /// Bytes that have been dropped at the front.
    dropped: u64,
}

impl Output {
    /// Takes what was read from the pipe.
    pub fn push(&mut self, bytes: &[u8]) {
        // In pieces, so that one large push does not make `kept` large.
        for piece in bytes.chunks(SPILL_LIMIT) {
            self.stripper.push(piece, &mut self.kept);
            if self.kept.len() > 2 * SPILL_LIMIT {
                self.trim();
            }
        }
    }

    /// Nothing more comes: what looked like the beginning of an escape sequence was none.
    pub fn finish(&mut self) {
        self.stripper.finish(&mut self.kept);
        self.trim();
    }

    fn trim(&mut self) {
        let excess = self.kept.len().saturating_sub(SPILL_LIMIT);
        self.kept.drain(..excess);
        self.dropped += excess as u64;
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.dropped + self.kept.len() as u64
    }

    /// Whether the model does not see all of it.
    pub fn is_cut(&self) -> bool {
        self.total() > OUTPUT_LIMIT as u64
    }

    /// What to put into a file when the output is cut: as much of its end as was kept.
    pub fn spill(&self) -> &[u8] {
        &self.kept[self.kept.len().saturating_sub(SPILL_LIMIT)..]
    }

    /// Whether the file holds all of the output.
    pub fn spill_is_whole(&self) -> bool {
        self.total() == self.spill().len() as u64
    }

    /// What the model sees: UTF-8, at most [`OUTPUT_LIMIT`] bytes from the end.
    pub fn text(&self) -> String {
        let mut start = self.kept.len().saturating_sub(OUTPUT_LIMIT);
        if start > 0 {
            // Not in the middle of a character.
            start += self.kept[start..]
                .iter()
                .take(3)
                .take_while(|byte| **byte & 0xc0 == 0x80)
                .count();
        }
        let mut text = String::from_utf8_lossy(&self.kept[start..]).into_owned();
        // Invalid bytes grow threefold.
        if text.len() > OUTPUT_LIMIT {
            let cut = (text.len() - OUTPUT_LIMIT..text.len()).find(|at| text.is_char_boundary(*at));
            text.drain(..cut.unwrap_or(0));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn collect(parts: &[&[u8]]) -> Output {
        let mut output = Output::default();
        parts.iter().for_each(|part| output.push(part));
        output.finish();
        output
    }

    #[test]
    fn the_end_is_kept_and_all_is_counted() {
        let mut output = Output::default();
        let line = [b'x'; 1 << 16];
        for _ in 0..1000 {
            output.push(&line);
        }
        output.push(b"the end");
        output.finish();
        assert!(output.kept.capacity() <= 4 * SPILL_LIMIT);
        assert_eq!(output.total(), (1000 << 16) + 7);
        assert!(output.is_cut() && !output.spill_is_whole());
        assert_eq!(output.spill().len(), SPILL_LIMIT);
        assert_eq!(output.text().len(), OUTPUT_LIMIT);
        assert!(output.text().ends_with("the end"));
    }

    #[test]
    fn exactly_the_limit_is_whole() {
        let output = collect(&[&[b'x'; OUTPUT_LIMIT]]);
        assert!(!output.is_cut());
        assert!(collect(&[&[b'x'; OUTPUT_LIMIT], b"y"]).is_cut());
    }

    #[test]
    fn a_character_at_the_cut_goes_whole() {
        let output = collect(&["\u{20ac}".repeat(OUTPUT_LIMIT / 2).as_bytes()]);
        assert!(output.text().chars().all(|c| c == '\u{20ac}'));
    }

    proptest! {
        #[test]
        fn any_bytes_become_bounded_text(input in proptest::collection::vec(any::<u8>(), 0..300), repeat in 1usize..2000) {
            let output = collect(&[&input.repeat(repeat)]);
            prop_assert!(output.text().len() <= OUTPUT_LIMIT);
        }
    }
}
