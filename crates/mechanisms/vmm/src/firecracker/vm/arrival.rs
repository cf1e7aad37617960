//! From the jailer's start to an API that answers.

use crate::{
    VmmError,
    firecracker::{
        api::Client,
        jail::{self, Jail},
    },
    process::Process,
};
use omnirun_sys::host::ready::Readable;
use rustix::fs::inotify;
use std::{io, sync::Arc, time::Duration};
use tokio::net::UnixStream;

/// How long it may take. It takes 5 ms; nested, under emulation and load seconds.
const READY: Duration = Duration::from_secs(30);
/// Between two attempts at a socket that has its name and does not listen yet, which takes microseconds.
const RETRY: Duration = Duration::from_millis(1);

/// News of names in the folder of sockets.
pub(super) struct Arrivals(Readable);

impl Arrivals {
    pub(super) fn watch(jail: &Jail) -> io::Result<Self> {
        let news = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&news, jail::path_of(&jail.run()), inotify::WatchFlags::CREATE)?;
        Ok(Self(Readable::new(Arc::new(news))?))
    }

    /// Waits for the first.
    async fn wait(self) {
        let _ = self.0.wait().await;
        // To close it waits for every CPU of the host, 10 ms and more; nobody waits for that.
        drop(tokio::task::spawn_blocking(move || drop(self)));
    }
}

/// Connects to the API of a process that is starting.
pub(super) async fn connect(jail: &Jail, process: &Process, news: Arrivals) -> Result<Client, VmmError> {
    let step = "starting Firecracker";
    let attempts = async {
        news.wait().await;
        loop {
            let stream = match jail.api_socket() {
                Ok(socket) => UnixStream::connect(jail::path_of(&socket)).await,
                Err(error) => Err(error),
            };
            match stream {
                Ok(stream) => return Ok(stream),
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
                    ) =>
                {
                    tokio::time::sleep(RETRY).await;
                }
                Err(source) => return Err(VmmError::Io { step, source }),
            }
        }
    };
    let stream = tokio::select! {
        // Both only wait: whichever is dropped has changed nothing.
        stream = tokio::time::timeout(READY, attempts) => match stream {
            Ok(stream) => stream?,
            Err(_) => return Err(VmmError::Timeout { step, seconds: READY.as_secs() }),
        },
        exit = process.wait() => return Err(VmmError::Gone { step, tail: exit.stderr_tail }),
    };
    match Client::new(stream).await {
        Ok(client) => Ok(client),
        Err(error) => Err(error.during(step, process).await),
    }
}
