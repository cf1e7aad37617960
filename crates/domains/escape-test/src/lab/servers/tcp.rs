//! All of TCP: plain bytes, HTTP, and either within TLS.

use std::{
    io,
    net::{SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use rcgen::CertifiedKey;
use rustix::net::sockopt;
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::{LabError, MARK, Records, Via};

/// How long a connection may last.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Who says this is answered without end.
pub const STREAM: &str = "omnirun-stream";
/// First byte of a TLS handshake.
const HANDSHAKE: u8 = 0x16;
/// Bytes that are kept from one read to the next: a nonce may come in two pieces.
const OVERLAP: usize = 64;

/// A TLS server that nobody has a reason to trust.
pub(super) fn tls(names: Vec<String>) -> Result<TlsAcceptor, LabError> {
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names)?;
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

pub(super) async fn serve(listener: TcpListener, server: &'static str, records: Records, tls: TlsAcceptor) {
    loop {
        let Some(stream) = accept(&listener).await else {
            return;
        };
        let (records, tls) = (records.clone(), tls.clone());
        tokio::spawn(tokio::time::timeout(PATIENCE, async move {
            // Whatever goes wrong is of the attempt's making.
            let _ = session(stream, server, &records, &tls).await;
        }));
    }
}

/// The next connection; none if the listener is of no use any more.
pub(super) async fn accept(listener: &TcpListener) -> Option<TcpStream> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Some(stream),
            // It was gone before we looked, or this process has too many: others end.
            Err(error) if error.raw_os_error().is_some() => tokio::task::yield_now().await,
            Err(_) => return None,
        }
    }
}

/// Where a connection was meant to go.
pub(super) fn destination(stream: &TcpStream) -> Option<SocketAddr> {
    // Of a socket for both families, the first works for IPv4 too.
    sockopt::ip_original_dst(stream)
        .map(|address: SocketAddrV4| address.into())
        .or_else(|_| sockopt::ipv6_original_dst(stream).map(SocketAddr::V6))
        .or_else(|_| stream.local_addr())
        .ok()
}

async fn session(stream: TcpStream, server: &str, records: &Records, tls: &TlsAcceptor) -> io::Result<()> {
    let at = destination(&stream);
    let mut first = [0; 2048];
    let length = stream.peek(&mut first).await?;
    let first = first.get(..length).unwrap_or_default();
    if first.first() != Some(&HANDSHAKE) {
        return converse(stream, server, at, records, Via::Tcp).await;
    }
    // What the handshake itself carries is not seen again.
    records.look(first, server, at, Via::Tcp);
    let stream = tls.accept(stream).await?;
    converse(stream, server, at, records, Via::Tls).await
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    server: &str,
    at: Option<SocketAddr>,
    records: &Records,
    via: Via,
) -> io::Result<()> {
    let mut window = Vec::new();
    let mut buffer = vec![0; 1 << 14];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return stream.shutdown().await;
        }
        window.extend_from_slice(buffer.get(..length).unwrap_or_default());
        records.look(&window, server, at, via);
        let http = window.windows(5).any(|part| part == b"HTTP/");
        let body = format!("{MARK} {server}\n");
        let answer = if http {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        } else {
            body.clone()
        };
        stream.write_all(answer.as_bytes()).await?;
        if window.windows(STREAM.len()).any(|part| part == STREAM.as_bytes()) {
            return pour(&mut stream, &body).await;
        }
        window.drain(..window.len().saturating_sub(OVERLAP));
    }
}

/// Says the same again and again, for as long as somebody may be there.
async fn pour(stream: &mut (impl AsyncWrite + Unpin), body: &str) -> io::Result<()> {
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
        stream.write_all(body.as_bytes()).await?;
    }
}
