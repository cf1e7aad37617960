//! What is kept of what a VMM or its guest says.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    task::JoinHandle,
};

/// The last bytes of a stream that may never end. Shared between the reader and whoever asks.
#[derive(Debug, Clone)]
pub(crate) struct Tail {
    bytes: Arc<Mutex<VecDeque<u8>>>,
    limit: usize,
}

impl Tail {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            bytes: Arc::default(),
            limit,
        }
    }

    /// Takes what was read.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.limit)..];
        let mut held = self.bytes.lock().unwrap_or_else(|e| e.into_inner());
        let excess = (held.len() + bytes.len()).saturating_sub(self.limit);
        held.drain(..excess);
        held.extend(bytes);
    }

    /// As text that is safe to print: a guest writes here, and a terminal obeys control characters.
    pub(crate) fn text(&self) -> String {
        let mut held = self.bytes.lock().unwrap_or_else(|e| e.into_inner());
        let text = String::from_utf8_lossy(held.make_contiguous());
        let printable = text
            .trim_end()
            .chars()
            .filter(|c| *c == '\n' || *c == '\t' || !c.is_control());
        printable.collect()
    }

    /// Reads a stream to its end. What is not kept is thrown away, so that its writer never has to wait.
    pub(crate) fn follow(&self, mut stream: impl AsyncRead + Unpin + Send + 'static) -> JoinHandle<()> {
        let tail = self.clone();
        tokio::spawn(async move {
            let mut chunk = vec![0u8; 4096];
            while let Ok(count @ 1..) = stream.read(&mut chunk).await {
                tail.push(&chunk[..count]);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tail_keeps_the_end_and_nothing_a_terminal_obeys() {
        let tail = Tail::new(16);
        let endless = [b"\x1b[2J".repeat(50_000).as_slice(), b"the\x07 very\r\n end\n"].concat();
        tail.follow(std::io::Cursor::new(endless)).await.expect("read");
        assert_eq!(tail.text(), "the very\n end");
        tail.push(&[b'x'; 100]);
        assert_eq!(tail.text(), "x".repeat(16));
    }
}
