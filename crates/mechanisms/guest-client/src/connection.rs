//! The task that owns the stream, and the preface before it.

use crate::{error::ClientError, shared::Shared};
use omnirun_guest_proto::{
    host::HostEnd,
    preface::{self, Scanner},
};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Read at once. A frame and its head fit.
const READ: usize = 128 * 1024;

/// Offers, and waits for the answer.
pub(crate) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<HostEnd, ClientError> {
    let mut nonce = [0; 16];
    let mut filled = 0;
    while filled < nonce.len() {
        let got = rustix::rand::getrandom(&mut nonce[filled..], rustix::rand::GetRandomFlags::empty());
        filled += got.map_err(|_| ClientError::Closed)?;
    }
    stream
        .write_all(&preface::offer(nonce))
        .await
        .map_err(|_| ClientError::Closed)?;
    stream.flush().await.map_err(|_| ClientError::Closed)?;
    let mut scanner = Scanner::new(nonce);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = stream.read(&mut buffer).await.map_err(|_| ClientError::Closed)?;
        if length == 0 {
            return Err(ClientError::Closed);
        }
        if let Some((_, rest)) = scanner
            .push(&buffer[..length])
            .map_err(|e| ClientError::Protocol(e.into()))?
        {
            return Ok(HostEnd::new(&rest));
        }
    }
}

/// Serves the stream until it ends, the guest breaks the protocol, or the last client is gone.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, shared: Arc<Shared>) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reading = async {
        let mut buffer = vec![0; READ];
        loop {
            let length = reader.read(&mut buffer).await.unwrap_or(0);
            if length == 0 {
                return ClientError::Closed;
            }
            if let Err(error) = shared.receive(&buffer[..length]) {
                return error;
            }
        }
    };
    let writing = async {
        // `Notify` keeps one permit, so what was put in before the first wait is written, too.
        loop {
            let out = { std::mem::take(&mut shared.lock().end.out) };
            if out.is_empty() {
                shared.write.notified().await;
            } else if writer.write_all(&out).await.is_err() || writer.flush().await.is_err() {
                return ClientError::Closed;
            }
        }
    };
    // A guest that neither reads nor writes keeps both of them waiting.
    let closed = async {
        let _ = shared.closed.subscribe().wait_for(|closed| *closed).await;
        ClientError::Closed
    };
    // Dropping either half is safe: the connection is over then, whatever it held.
    let why = tokio::select! {
        why = reading => why,
        why = writing => why,
        why = closed => why,
    };
    if let ClientError::Protocol(violation) = &why {
        tracing::warn!(error = %violation, "guest.protocol_violation");
    }
    shared.finish(why);
}
