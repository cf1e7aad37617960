//! The first bytes of a connection.

use omnirun_egress_policy::Reason;
use omnirun_egress_wire::hello::{self, ClientHello, Hello};
use std::{io, time::Duration};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

/// For a client to speak first, where it need not.
const WINDOW: Duration = Duration::from_millis(300);

/// What the first bytes look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looks {
    /// TLS.
    Tls,
    /// An HTTP request.
    Http,
    /// Something else, or nothing so far.
    Other,
}

/// Looks at the first bytes and leaves them where they are. An error if there will be none.
pub(super) async fn looks(stream: &TcpStream) -> io::Result<Looks> {
    let mut bytes = [0; 8];
    match timeout(WINDOW, stream.peek(&mut bytes)).await {
        Err(_) => Ok(Looks::Other),
        Ok(Err(error)) => Err(error),
        Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(Ok(count)) => Ok(look(&bytes[..count])),
    }
}

/// What these look like.
pub(super) fn look(bytes: &[u8]) -> Looks {
    const METHODS: [&[u8]; 8] = [
        b"GET ",
        b"HEAD ",
        b"POST ",
        b"PUT ",
        b"DELETE ",
        b"OPTIONS ",
        b"PATCH ",
        b"TRACE ",
    ];
    match bytes {
        [0x16, ..] => Looks::Tls,
        _ if METHODS.iter().any(|method| bytes.starts_with(method)) => Looks::Http,
        _ => Looks::Other,
    }
}

/// Reads a whole ClientHello behind what `bytes` has already; they keep all that was read.
pub(super) async fn read_hello(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
    within: Duration,
) -> Result<ClientHello, Reason> {
    let until = Instant::now() + within;
    loop {
        match hello::parse(bytes) {
            Hello::Found(hello) => return Ok(hello),
            Hello::Bad(_) => return Err(Reason::Malformed),
            Hello::NeedMore if bytes.len() >= hello::MAX => return Err(Reason::Malformed),
            Hello::NeedMore => {}
        }
        let room = (hello::MAX - bytes.len()).min(4 << 10);
        bytes.reserve(room);
        let mut more = (&mut *stream).take(room as u64);
        match timeout_at(until, more.read_buf(bytes)).await {
            Err(_) => return Err(Reason::TimedOut),
            // Whoever says nothing says no name.
            Ok(Ok(0)) if bytes.is_empty() => return Err(Reason::NoName),
            Ok(Ok(0) | Err(_)) => return Err(Reason::Malformed),
            Ok(Ok(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell() {
        assert_eq!(look(b"\x16\x03\x01"), Looks::Tls);
        assert_eq!(look(b"GET / HT"), Looks::Http);
        for other in [&b"SSH-2.0-"[..], b"GETX", b"", b"\x00"] {
            assert_eq!(look(other), Looks::Other);
        }
    }
}
