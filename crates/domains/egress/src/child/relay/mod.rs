//! Moving bytes between two sockets, both ways, until both have said that there are no more.
//!
//! Bytes go through a pipe by `splice(2)` and never come into this process; where no pipe is to be had they are copied
//! through a small buffer ([`step`]).

mod pipes;
mod step;

pub(super) use pipes::Pipes;

use super::{flow::Flow, meter::Way};
use omnirun_egress_policy::Reason;
use socket2::SockRef;
use std::{io, net::Shutdown, time::Duration};
use step::Stepped;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::coop::consume_budget,
    time::{sleep, timeout},
};

/// What a step takes of the budget that tokio gives a task, which is 128: so much, and one for so many bytes. It makes the
/// turn of a guest that moves much a few hundred microseconds long ([`super::lanes`]).
const SHARE: usize = 3;
const SHARE_FOR: usize = 16 << 10;
/// For what was read before there was a connection to be taken by it.
const EARLY: Duration = Duration::from_secs(30);

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Both ends said that there was no more.
    Closed,
    /// One of them broke off.
    Broken,
    /// Nothing moved for too long.
    Idle,
    /// No bytes are left to it.
    Spent,
    /// The policy does not allow it any more.
    Cut,
}

/// Relays until the end, notes it, and closes both. `early`: what was read of either already, and is sent first.
pub(super) async fn relay(flow: &Flow, guest: TcpStream, mut server: TcpStream, early: Early) -> End {
    let mut guest = guest;
    let end = tokio::select! {
        // Dropped, it leaves both sockets as they are, which are closed below.
        end = both(flow, &mut guest, &mut server, early) => end,
        () = idle(flow) => End::Idle,
        () = flow.cut() => End::Cut,
    };
    match end {
        End::Closed => {}
        End::Broken | End::Cut => abort(&guest, &server),
        End::Idle => {
            flow.note(Reason::TimedOut);
            abort(&guest, &server);
        }
        End::Spent => {
            flow.note(Reason::Limit);
            abort(&guest, &server);
        }
    }
    end
}

/// What was read before there was anybody to send it to.
#[derive(Debug, Default)]
pub(super) struct Early {
    pub(super) up: Vec<u8>,
    pub(super) down: Vec<u8>,
}

/// So that closing tells the other side that something is missing.
fn abort(guest: &TcpStream, server: &TcpStream) {
    reset(guest);
    reset(server);
}

/// Makes the close of a socket a reset.
pub(super) fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

async fn both(flow: &Flow, guest: &mut TcpStream, server: &mut TcpStream, early: Early) -> End {
    for (way, bytes, to) in [
        (Way::Up, &early.up, &mut *server),
        (Way::Down, &early.down, &mut *guest),
    ] {
        if bytes.is_empty() {
            continue;
        }
        if flow.ask(way, bytes.len() as u64).is_err() {
            return End::Spent;
        }
        if !matches!(timeout(EARLY, to.write_all(bytes)).await, Ok(Ok(()))) {
            return End::Broken;
        }
        flow.spend(way, bytes.len() as u64);
    }
    let (guest, server) = (&*guest, &*server);
    let done = tokio::try_join!(
        one(flow, Way::Up, guest, server),
        one(flow, Way::Down, server, guest)
    );
    match done {
        Ok(_) => End::Closed,
        Err(end) => end,
    }
}

/// One way, until its end.
async fn one(flow: &Flow, way: Way, from: &TcpStream, to: &TcpStream) -> Result<(), End> {
    loop {
        from.readable().await.map_err(broken)?;
        let most = loop {
            match flow.ask(way, step::MOST).map_err(|_| End::Spent)? {
                Ok(most) => break most,
                Err(wait) => sleep(wait).await,
            }
        };
        match step::step(flow, from, to, most as usize).await.map_err(broken)? {
            Stepped::Moved(count) => {
                flow.spend(way, count as u64);
                for _ in 0..SHARE + count / SHARE_FOR {
                    consume_budget().await;
                }
            }
            Stepped::Nothing => {}
            Stepped::Ended => {
                // The other may have broken off just then.
                let _ = SockRef::from(to).shutdown(Shutdown::Write);
                return Ok(());
            }
        }
    }
}

fn broken(_: io::Error) -> End {
    End::Broken
}

/// Completes when nothing has moved for a while; between one and two times as long as that is.
async fn idle(flow: &Flow) {
    let while_ = Duration::from_secs(flow.guest().caps.idle_seconds.into());
    let mut before = flow.moved();
    loop {
        sleep(while_).await;
        let now = flow.moved();
        if now == before {
            return;
        }
        before = now;
    }
}
