//! Takes terminal escape sequences out of a stream of bytes.

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;
/// Longest sequence that is taken for one. A longer one is output that happens to begin with ESC, and is kept.
const MAX_SEQUENCE: usize = 4096;

/// Where in a sequence the stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After ESC and intermediate bytes (character sets and the like).
    Intermediate,
    /// In a control sequence, `ESC [`.
    Control,
    /// In a string (title, hyperlink), `ESC ]` and its kind; ends with BEL or `ESC \`.
    String,
    /// After ESC in a string.
    StringEscape,
}

/// The stripper. Sequences may be split anywhere between two pushes.
#[derive(Debug, Default)]
pub(super) struct Stripper {
    place: Place,
    /// The bytes of the sequence so far: given back when it turns out to be none.
    pending: Vec<u8>,
}

impl Stripper {
    /// Appends `input` without its escape sequences to `out`.
    pub(super) fn push(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while let Some(&byte) = input.first() {
            if self.place == Place::Text {
                let plain = memchr::memchr(ESC, input).unwrap_or(input.len());
                out.extend_from_slice(&input[..plain]);
                input = &input[plain..];
                if !input.is_empty() {
                    self.pending.push(ESC);
                    self.place = Place::Escape;
                    input = &input[1..];
                }
                continue;
            }
            if self.step(byte, out) {
                input = &input[1..];
            }
        }
    }

    /// The stream is over: an unfinished sequence was none.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        self.give_back(out);
    }

    /// One byte within a sequence. Returns whether it was taken.
    fn step(&mut self, byte: u8, out: &mut Vec<u8>) -> bool {
        if self.pending.len() >= MAX_SEQUENCE {
            self.give_back(out);
            return false;
        }
        let next = match (self.place, byte) {
            (Place::Escape, b'[') => Place::Control,
            (Place::Escape, b']' | b'P' | b'X' | b'^' | b'_') => Place::String,
            (Place::Escape | Place::Intermediate, 0x20..=0x2f) => Place::Intermediate,
            (Place::Escape | Place::Intermediate, 0x30..=0x7e) => return self.drop_sequence(),
            (Place::Control, 0x20..=0x3f) => Place::Control,
            (Place::Control, 0x40..=0x7e) => return self.drop_sequence(),
            (Place::String, BEL) => return self.drop_sequence(),
            (Place::String | Place::StringEscape, ESC) => Place::StringEscape,
            (Place::StringEscape, b'\\') => return self.drop_sequence(),
            (Place::String | Place::StringEscape, _) => Place::String,
            _ => {
                self.give_back(out);
                return false;
            }
        };
        self.pending.push(byte);
        self.place = next;
        true
    }

    fn drop_sequence(&mut self) -> bool {
        self.pending.clear();
        self.place = Place::Text;
        true
    }

    fn give_back(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.pending);
        self.place = Place::Text;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn strip(parts: &[&[u8]]) -> Vec<u8> {
        let (mut stripper, mut out) = (Stripper::default(), Vec::new());
        for part in parts {
            stripper.push(part, &mut out);
        }
        stripper.finish(&mut out);
        out
    }

    #[test]
    fn colours_titles_and_links_go_and_text_stays() {
        let input = "\x1b[1;31mred\x1b[0m \x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ \x1b(Bb\x1b=c\x1b[?25l\u{e9}";
        assert_eq!(
            String::from_utf8(strip(&[input.as_bytes()])).unwrap(),
            "red alink bc\u{e9}"
        );
    }

    #[test]
    fn what_is_no_sequence_is_kept() {
        for input in [
            &b"\x1b"[..],
            b"a\x1b[12",
            b"\x1b]0;no end\nline",
            b"\x1b\nx",
            b"\x1b[1\x80m",
        ] {
            assert_eq!(strip(&[input]), input);
        }
        let long = [&b"\x1b]"[..], &[b'x'; 10_000]].concat();
        assert_eq!(strip(&[&long]), long);
    }

    proptest! {
        #[test]
        fn where_the_stream_is_split_does_not_matter(
            input in proptest::collection::vec(prop_oneof![Just(0x1bu8), Just(b'['), Just(b']'), Just(0x07), Just(b'm'), Just(b'\\'), any::<u8>()], 0..200),
            cut in 0usize..200,
        ) {
            let cut = cut.min(input.len());
            prop_assert_eq!(strip(&[&input]), strip(&[&input[..cut], &input[cut..]]));
        }
    }
}
