//! The explicit HTTP proxy: for programs that are told of one (`HTTP_PROXY`, `HTTPS_PROXY`).

use super::{
    accept::{self, Place},
    flow::Flow,
    guest::Guest,
    http::{self, Came, Replay},
};
use omnirun_egress_policy::Protocol;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};

/// Serves the listener.
pub(super) async fn serve(guest: Arc<Guest>, listener: TcpListener) {
    accept::each(&guest, &listener, connection).await;
}

async fn connection(guest: Arc<Guest>, stream: TcpStream, place: Place) {
    let port = stream.local_addr().map_or(0, |at| at.port());
    let flow = Flow::begin(&guest, Protocol::Http, None, port).await;
    let stream = Replay::new(Vec::new(), stream);
    http::serve(flow, stream, Came::Explicit, Arc::new(place)).await;
}
