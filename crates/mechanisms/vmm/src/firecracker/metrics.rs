//! What Firecracker counts.
//!
//! It writes all its counters as one line of JSON into a pipe of its jail, every minute and when it ends by itself, also for
//! a system call that its filter forbids. The last line is kept; which of its counters tell of failures is said behind its
//! last words, for people. One that is killed writes no line at its end.

use crate::tail::Tail;
use serde_json::{Map, Value};
use std::os::fd::AsFd;
use tokio::{io::AsyncReadExt, net::unix::pipe, task::JoinHandle};

/// A line has some 16 KiB.
const MAX_LINE: usize = 128 << 10;
/// How many counters are said.
const MAX_SAID: usize = 16;
/// What is in the names of counters of failures.
const FAILURES: [&str; 4] = ["fail", "fault", "panic", "malformed"];

/// Reads what it counts until its log has ended. The pipe has no end of its own: our side is open for writing too, since
/// the process opens its side late.
pub(super) fn follow(mut pipe: pipe::Receiver, mut log: JoinHandle<()>, said: Tail) -> JoinHandle<()> {
    tokio::spawn(async move {
        let (mut lines, mut chunk) = (Lines::default(), vec![0u8; 4096]);
        loop {
            tokio::select! {
                read = pipe.read(&mut chunk) => match read {
                    Ok(count @ 1..) => lines.push(&chunk[..count]),
                    _ => break,
                },
                _ = &mut log => break,
            }
        }
        // What it wrote last is in the pipe already.
        while let Ok(count @ 1..) = rustix::io::read(pipe.as_fd(), &mut chunk) {
            lines.push(&chunk[..count]);
        }
        let failures = failures(&lines.last);
        if !failures.is_empty() {
            said.push(format!("\ncounted: {}", failures.join(", ")).as_bytes());
        }
    })
}

/// The last whole line of a stream that may never end.
#[derive(Debug, Default)]
struct Lines {
    last: Vec<u8>,
    next: Vec<u8>,
    too_long: bool,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.too_long |= self.next.len() + piece.len() > MAX_LINE;
            if !self.too_long {
                self.next.extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.next);
                if !std::mem::take(&mut self.too_long) {
                    self.last = line;
                }
            }
        }
    }
}

/// The counters of failures that are not zero.
fn failures(line: &[u8]) -> Vec<String> {
    let devices: Map<String, Value> = serde_json::from_slice(line).unwrap_or_default();
    let counters = devices.iter().flat_map(|(device, counters)| {
        let counters = counters.as_object().into_iter().flatten();
        counters.filter_map(move |(name, count)| {
            let count = count.as_u64().filter(|count| *count > 0)?;
            let telling = FAILURES.iter().any(|word| name.contains(word));
            // Whoever has taken the process over could name them anything.
            let plain =
                |word: &str| word.len() < 64 && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            (telling && plain(device) && plain(name)).then(|| format!("{device}.{name} {count}"))
        })
    });
    counters.take(MAX_SAID).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn failures_are_said_and_nothing_else() {
        let line = br#"{"utc_timestamp_ms":5,"block_base":{"execute_fails":0,"read_count":3},"seccomp":{"num_faults":1},
            "vcpu":{"failures":2,"exit_io_in":7},"odd\n":{"fails":1},"signals":{"fails":-1,"panic":"x"}}"#;
        assert_eq!(failures(line), ["seccomp.num_faults 1", "vcpu.failures 2"]);
        assert!(failures(b"").is_empty() && failures(b"[1]").is_empty() && failures(b"{\"a\":").is_empty());
    }

    proptest! {
        #[test]
        fn the_last_whole_line_is_kept_however_it_comes(lines in prop::collection::vec("[a-z]{0,40}", 1..6), piece in 1usize..50) {
            let whole = lines.join("\n") + "\n";
            let mut seen = Lines::default();
            [whole.as_bytes(), b"unended"].concat().chunks(piece).for_each(|chunk| seen.push(chunk));
            prop_assert_eq!(seen.last, format!("{}\n", lines[lines.len() - 1]).into_bytes());
        }
    }

    #[test]
    fn a_line_without_an_end_is_let_go() {
        let mut seen = Lines::default();
        seen.push(b"good\n");
        for _ in 0..1000 {
            seen.push(&[b'x'; 4096]);
        }
        assert!(seen.next.len() <= MAX_LINE);
        seen.push(b"\n");
        assert_eq!(seen.last, b"good\n");
        seen.push(b"better\n");
        assert_eq!(seen.last, b"better\n");
    }
}
