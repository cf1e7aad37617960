//! The HTTP side: one accept loop, one entry for every request.
//!
//! ```text
//!   connection -> entry: classify -> fault before? -> credential -> handler -> fault after? -> log -> response
//! ```
//!
//! Connections are served with hyper directly, because a fault may be "no answer at all", which a service can only give
//! by failing its connection.

mod auth;
mod entry;
mod environments;
mod events;
mod fault;
mod reply;
mod route;
mod sessions;
mod stream;
mod work;

pub(crate) use auth::Credential;
pub(crate) use fault::FaultPlan;
pub use route::Endpoint;

use crate::shared::Shared;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::{net::TcpListener, task::JoinSet};

/// Accepts until the shutdown, then drops every connection.
pub(crate) async fn serve(shared: Arc<Shared>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            // Cancel-safe: accept loses no connection when dropped.
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = shared.shutdown.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or a peer that was gone at once: both pass.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        // Small frames must leave at once; without it the test is only slower.
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request| entry::entry(shared.clone(), request));
            // Ends with an error when a fault drops the connection or a client leaves.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
    connections.shutdown().await;
}
