//! Server-sent events: bytes in, frames out. No I/O.
//!
//! Lines end in LF, CR or CRLF, wherever the bytes are cut; several `data:` lines join with LF; comments and unknown
//! fields are skipped; bytes that are no UTF-8 become U+FFFD. An event holds at most so many bytes: a larger one is
//! thrown away as it comes, up to the blank line that ends it, and reported as [`Frame::TooLarge`].

use std::collections::VecDeque;

/// One event as it was on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// An event with data.
    Event {
        /// The `event:` line, if there was one.
        name: Option<String>,
        /// The `data:` lines.
        data: String,
    },
    /// An event of more bytes than are allowed.
    TooLarge,
}

/// The parser.
#[derive(Debug)]
pub struct SseParser {
    limit: usize,
    line: Vec<u8>,
    name: Option<String>,
    data: Option<Vec<u8>>,
    after_cr: bool,
    at_start: bool,
    oversize: bool,
    ready: VecDeque<Frame>,
}

const BOM: &[u8] = b"\xef\xbb\xbf";

impl SseParser {
    /// A parser for events of at most so many bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            name: None,
            data: None,
            after_cr: false,
            at_start: true,
            oversize: false,
            ready: VecDeque::new(),
        }
    }

    /// The next whole frame.
    #[allow(clippy::should_implement_trait)] // An iterator that ends and goes on again would surprise its users.
    pub fn next(&mut self) -> Option<Frame> {
        self.ready.pop_front()
    }

    /// Takes the next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            match bytes.iter().position(|b| matches!(b, b'\n' | b'\r')) {
                Some(end) => {
                    self.extend(&bytes[..end]);
                    self.after_cr = bytes[end] == b'\r';
                    bytes = &bytes[end + 1..];
                    self.end_line();
                }
                None => {
                    self.extend(bytes);
                    return;
                }
            }
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        let held = self.line.len() + self.data.as_ref().map_or(0, Vec::len);
        if self.oversize || held + bytes.len() > self.limit {
            // Whether the line is empty is all that still matters.
            self.oversize |= !bytes.is_empty();
            self.data = None;
            if self.line.is_empty() {
                self.line.extend_from_slice(&bytes[..bytes.len().min(1)]);
            }
            self.line.truncate(1);
            self.line.shrink_to(1024);
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self) {
        let mut line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.at_start) && line.starts_with(BOM) {
            line.drain(..BOM.len());
        }
        if line.is_empty() {
            let (name, data) = (self.name.take(), self.data.take());
            if std::mem::take(&mut self.oversize) {
                self.ready.push_back(Frame::TooLarge);
            } else if let Some(data) = data.filter(|d| !d.is_empty()) {
                let data = match String::from_utf8(data) {
                    Ok(text) => text,
                    Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
                };
                self.ready.push_back(Frame::Event { name, data });
            }
        } else if !self.oversize {
            let colon = line.iter().position(|b| *b == b':').unwrap_or(line.len());
            let value = line.get(colon + 1..).unwrap_or_default();
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &line[..colon] {
                b"data" => match &mut self.data {
                    Some(data) => {
                        data.push(b'\n');
                        data.extend_from_slice(value);
                    }
                    None => self.data = Some(value.to_vec()),
                },
                b"event" => self.name = Some(String::from_utf8_lossy(value).into_owned()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(chunks: &[&[u8]], limit: usize) -> Vec<Frame> {
        let mut parser = SseParser::new(limit);
        chunks.iter().for_each(|c| parser.push(c));
        std::iter::from_fn(|| parser.next()).collect()
    }

    fn event(name: &str, data: &str) -> Frame {
        Frame::Event {
            name: Some(name.into()).filter(|n: &String| !n.is_empty()),
            data: data.into(),
        }
    }

    const RECORDED: &[u8] = b": connected\n\nevent: ping\ndata: {}\n\nevent: agent.tool_use\ndata: {\"type\":\"agent.tool_use\"}\n\n\
        id: 7\r\nretry: 10\r\nevent:session.status_idle\r\ndata:a\r\ndata:  b\r\n\r\ndata\r\rdata: last\r\r: \xff\n\ndata: \xc3\x28\n\n";

    fn recorded() -> Vec<Frame> {
        vec![
            event("ping", "{}"),
            event("agent.tool_use", "{\"type\":\"agent.tool_use\"}"),
            event("session.status_idle", "a\n b"),
            event("", "last"),
            event("", "\u{fffd}("),
        ]
    }

    #[test]
    fn a_recorded_stream() {
        assert_eq!(frames(&[RECORDED], 1 << 20), recorded());
        assert_eq!(frames(&[b"\xef\xbb\xbfdata: x\n\n"], 100), [event("", "x")]);
    }

    #[test]
    fn every_prefix_gives_a_prefix_and_every_cut_gives_the_same() {
        for cut in 0..=RECORDED.len() {
            let (a, b) = RECORDED.split_at(cut);
            assert_eq!(frames(&[a, b], 1 << 20), recorded(), "cut at {cut}");
            let prefix = frames(&[a], 1 << 20);
            assert_eq!(prefix, recorded()[..prefix.len()], "prefix of {cut}");
        }
    }

    #[test]
    fn a_huge_event_is_thrown_away_and_the_next_one_is_read() {
        let huge = vec![b'x'; 1000];
        for chunks in [
            &[b"data: ".as_slice(), &huge, b"\n\ndata: y\n\n"][..],
            &[
                b"data: 1\ndata: ",
                &huge[..90],
                b"\ndata: 2\ndata: ",
                &huge[..20],
                b"\n\ndata: y\n\n",
            ],
        ] {
            assert_eq!(frames(chunks, 100), [Frame::TooLarge, event("", "y")]);
        }
        let mut parser = SseParser::new(100);
        for _ in 0..10_000 {
            parser.push(&huge);
        }
        assert!(parser.line.capacity() <= 1024 && parser.data.is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces(bytes in prop::collection::vec(prop_oneof![
            Just(b'\n'), Just(b'\r'), Just(b':'), Just(b' '), Just(b'd'), Just(b'a'), Just(b't'), any::<u8>()
        ], 0..300), cuts in prop::collection::vec(0usize..300, 0..6)) {
            let whole = frames(&[&bytes], 64);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            prop_assert_eq!(frames(&pieces, 64), whole);
        }

        #[test]
        fn what_is_written_is_read(lines in prop::collection::vec("[^\r\n]{0,20}", 1..5), end in prop::sample::select(vec!["\n", "\r", "\r\n"])) {
            let mut text = format!("event: e{end}");
            lines.iter().for_each(|l| text.push_str(&format!("data: {l}{end}")));
            text.push_str(end);
            let data = lines.join("\n");
            let expected: Vec<Frame> = if data.is_empty() { vec![] } else { vec![event("e", &data)] };
            prop_assert_eq!(frames(&[text.as_bytes()], 1 << 20), expected);
        }
    }
}
