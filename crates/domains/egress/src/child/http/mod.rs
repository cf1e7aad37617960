//! HTTP from a guest: every request of a connection is decided on by itself.
//!
//! ```text
//!   guest == connection ==> hyper server --- request: target, policy, name resolved, dialled --> hyper client ==> server
//!                             `- CONNECT, or an upgrade that the server agrees to: a tunnel      (one, kept for the next)
//! ```
//!
//! What a request means is read by `omnirun_egress_wire::http`, which refuses what has two readings. What is sent on is
//! written anew: the server sees the host that was decided on, in origin form, without what is for proxies.
//!
//! | answer | when |
//! | -- | -- |
//! | 403 | the policy does not allow it; the text says what |
//! | 400 | it has no one meaning; the connection is closed |
//! | 502, 504 | it is allowed, and the server cannot be reached, or not in time |

mod body;
mod replay;
mod request;
mod server;
mod tunnel;

pub(super) use replay::Replay;

use super::{accept::Place, flow::Flow, guest::Guest};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use omnirun_egress_policy::{Protocol, Reason};
use omnirun_egress_wire::http::Carrier;
use server::Server;
use std::{
    convert::Infallible,
    net::SocketAddrV4,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// For a head to be there, counted from when one could begin: also how long a connection is kept for the next.
const HEAD: Duration = Duration::from_secs(60);

/// How a connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// Redirected, from here.
    Redirected(SocketAddrV4),
    /// Through a tunnel to this port.
    Tunnelled(u16),
    /// To the explicit proxy.
    Explicit,
}

impl Came {
    fn carrier(self) -> Carrier {
        match self {
            Self::Redirected(to) => Carrier::Transparent { port: to.port() },
            Self::Tunnelled(port) => Carrier::Transparent { port },
            Self::Explicit => Carrier::Explicit,
        }
    }

    fn to(self) -> Option<SocketAddrV4> {
        match self {
            Self::Redirected(to) => Some(to),
            _ => None,
        }
    }
}

/// A guest's connection.
struct Connection {
    guest: Arc<Guest>,
    came: Came,
    /// The flow that the connection was so far: the first request's.
    first: Mutex<Option<Flow>>,
    /// Kept for the next request to the same server. Locked for moments.
    server: Mutex<Option<Server>>,
    /// A tunnel takes its share of it along.
    place: Arc<Place>,
}

impl Connection {
    fn take_first(&self) -> Option<Flow> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn take_server(&self) -> Option<Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn keep_server(&self, server: Server) {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
    }

    /// The flow of the next request.
    async fn flow(&self) -> Flow {
        match self.take_first() {
            Some(flow) => flow,
            None => Flow::begin(&self.guest, Protocol::Http, self.came.to(), 0).await,
        }
    }
}

/// [`serve`], for a connection within one: the two would be of one type without end.
fn serve_boxed(
    flow: Flow,
    stream: Replay,
    came: Came,
    place: Arc<Place>,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(serve(flow, stream, came, place))
}

/// Serves a connection to its end. `flow` is what was begun for it; without any request it is the line that is written.
pub(super) async fn serve(flow: Flow, stream: Replay, came: Came, place: Arc<Place>) {
    let guest = Arc::clone(flow.guest());
    flow.is(Protocol::Http);
    let connection = Arc::new(Connection {
        guest: Arc::clone(&guest),
        came,
        first: Mutex::new(Some(flow)),
        server: Mutex::default(),
        place,
    });
    let service = service_fn(|request| {
        let connection = Arc::clone(&connection);
        async move { Ok::<_, Infallible>(request::answer(&connection, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(server::MAX_BUFFER)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let served = async {
        tokio::pin!(served);
        let mut changes = guest.changes();
        loop {
            tokio::select! {
                served = &mut served => return served,
                // What is kept may lead to where nothing leads any more. Requests under way are cut by themselves.
                Ok(()) = changes.changed() => drop(connection.take_server()),
            }
        }
    };
    let result = tokio::select! {
        result = served => result,
        () = guest.end.cancelled() => Ok(()),
    };
    if let Some(flow) = connection.take_first() {
        flow.refuse(match result {
            Err(error) if error.is_timeout() => Reason::TimedOut,
            Err(_) => Reason::Malformed,
            Ok(()) => Reason::NoName,
        });
    }
}
