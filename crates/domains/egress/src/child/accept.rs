//! Accepting connections, for as long as their guest is served.

use super::guest::Guest;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
    time::sleep,
};

/// After a failure that has nothing to do with the connection: no descriptors, no memory. Nothing says when there are
/// some again.
const PAUSE: Duration = Duration::from_millis(50);

/// What a connection takes up, of the guest's and of all.
pub(super) struct Place {
    _guests: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

/// Serves each connection in the guest's lanes, until the guest is let go. A connection that there is no room for stays with the kernel, which holds
/// some and then answers no more.
pub(super) async fn each<F>(
    guest: &Arc<Guest>,
    listener: &TcpListener,
    serve: impl Fn(Arc<Guest>, TcpStream, Place) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let accept = async {
        loop {
            let Ok(_guests) = Arc::clone(&guest.connections).acquire_owned().await else {
                return;
            };
            let Ok(_all) = Arc::clone(&guest.process.connections).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    guest
                        .lanes
                        .spawn(serve(Arc::clone(guest), stream, Place { _guests, _all }));
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(_) => sleep(PAUSE).await,
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = guest.end.cancelled() => {}
    }
}

fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
