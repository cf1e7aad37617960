//! The connection to a server, and requests over it.

use super::{
    super::{dial::NoDial, guest::Guest},
    body::Metered,
};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use omnirun_egress_wire::Host;
use std::net::{SocketAddr, SocketAddrV4};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};

/// What a head may have at most, with what is read along with it.
pub(super) const MAX_BUFFER: usize = 64 << 10;

/// A connection to a server. Dropped, it is closed.
pub(super) struct Server {
    to: (Host, u16),
    /// Where it really leads.
    pub(super) address: Option<SocketAddrV4>,
    sender: SendRequest<Metered>,
    _end: DropGuard,
}

/// A request that was not answered.
pub(super) enum Unsent {
    /// The connection had been closed before it was sent: it may go by another one.
    Back(Box<Request<Metered>>),
    /// It may have been read.
    Lost,
}

impl Server {
    pub(super) async fn new(guest: &Guest, to: (Host, u16), stream: TcpStream) -> Result<Self, NoDial> {
        let address = match stream.peer_addr() {
            Ok(SocketAddr::V4(address)) => Some(address),
            _ => None,
        };
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_BUFFER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| NoDial::Unreachable)?;
        let end = CancellationToken::new();
        let ended = end.clone();
        guest.lanes.spawn(async move {
            tokio::select! {
                // Ends with the sender, or the server; whoever waits for an answer is told of a failure.
                _ = connection.with_upgrades() => {}
                () = ended.cancelled() => {}
            }
        });
        Ok(Self {
            to,
            address,
            sender,
            _end: end.drop_guard(),
        })
    }

    /// Whether it leads there, and can take another request.
    pub(super) async fn serves(&mut self, to: &(Host, u16)) -> bool {
        self.to == *to && self.sender.ready().await.is_ok()
    }

    pub(super) async fn send(&mut self, request: Request<Metered>) -> Result<Response<Incoming>, Unsent> {
        self.sender
            .try_send_request(request)
            .await
            .map_err(|mut error| match error.take_message() {
                Some(request) => Unsent::Back(Box::new(request)),
                None => Unsent::Lost,
            })
    }
}
