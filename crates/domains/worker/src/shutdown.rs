//! The two doors out: winding down, and hard.

use omnirun_work_proto::backoff::{SignalMeans, Signals};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Whether and how this process is asked to end. Clones are the same doors.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    wind_down: CancellationToken,
    hard: CancellationToken,
}

impl Shutdown {
    /// Nobody has asked yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks: let running calls end, then leave.
    pub fn wind_down(&self) {
        self.wind_down.cancel();
    }

    /// Insists: leave now.
    pub fn hard(&self) {
        self.wind_down.cancel();
        self.hard.cancel();
    }

    /// The token of the first door.
    pub fn winding_down(&self) -> &CancellationToken {
        &self.wind_down
    }

    /// The token of the second door.
    pub fn stopping_hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// Opens the doors by SIGTERM and SIGINT for as long as the handle lives: the first signal winds down, one that
    /// comes a second or more later stops hard, and so does `total` after the first.
    pub fn on_signals(&self, total: Duration) -> std::io::Result<AbortOnDropHandle<()>> {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let shutdown = self.clone();
        let listen = async move {
            let mut signals = Signals::default();
            let mut deadline = None::<tokio::time::Instant>;
            loop {
                let timer = async {
                    match deadline {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                // All arms only wait; a dropped one loses nothing.
                let name = tokio::select! {
                    _ = term.recv() => "SIGTERM",
                    _ = int.recv() => "SIGINT",
                    () = timer => {
                        tracing::warn!("the grace is over; stopping hard");
                        shutdown.hard();
                        return;
                    }
                };
                let now = tokio::time::Instant::now();
                match signals.on_signal(now.into_std()) {
                    SignalMeans::Drain => {
                        tracing::info!(signal = name, grace = ?total, "winding down; a second signal stops at once");
                        deadline = Some(now + total);
                        shutdown.wind_down();
                    }
                    SignalMeans::Same => {}
                    SignalMeans::Now => {
                        tracing::warn!(signal = name, "stopping hard");
                        shutdown.hard();
                        return;
                    }
                }
            }
        };
        Ok(AbortOnDropHandle::new(tokio::spawn(listen)))
    }
}
