//! The client against a double of the API.
//!
//! ```text
//!   calls      what is asked, in Firecracker's words
//!   recorded   every answer that was recorded from a real one
//!   wire       answers that are slow, cut, garbled, endless, or to nothing that was asked
//! ```

mod calls;
mod recorded;
mod wire;

use super::*;
use std::future::Future;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A client, and what the other side saw and did.
async fn with<F>(side: impl FnOnce(UnixStream) -> F + Send + 'static) -> (Client, tokio::task::JoinHandle<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let side = tokio::spawn(side(theirs));
    (Client::new(ours).await.expect("connected"), side)
}

/// Reads one request whole: head and, as its length says, body.
async fn request(stream: &mut UnixStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|l| {
            let (name, value) = l.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().ok())?
        });
        if body.len() >= length.unwrap_or(0) {
            return Some((head.lines().next()?.to_owned(), body.to_owned()));
        }
    }
}

/// Answers every request with the same bytes.
async fn answering(mut stream: UnixStream, answer: Vec<u8>) {
    while request(&mut stream).await.is_some() {
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

fn with_body(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nServer: Firecracker API\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn good() -> Vec<u8> {
    b"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n".to_vec()
}
