//! Connections that stop being HTTP: CONNECT, and upgrades.
//!
//! What goes through a tunnel is looked at once more. On port 80 it is HTTP, and each request is decided on as if it had
//! come by itself. On port 443, or if it begins like TLS, its server name has to be the one that was asked for, or one
//! that is listed itself. (A tunnel to an address that an entry lists is let through as it is.)

use super::{
    super::{
        flow::{Flow, Subject},
        peek::{self, Looks},
        relay::{self, Early},
        transparent::refuse,
    },
    Came, Connection, Replay,
    request::{Answer, dial, unreachable},
    server::Server,
};
use http_body_util::{Either, Full};
use hyper::{
    Response,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use omnirun_egress_policy::{Name, Reason};
use omnirun_egress_wire::{hello::ClientHello, http::Target};
use std::{io, sync::Arc, time::Duration};
use tokio::{net::TcpStream, time::timeout};

/// Between the answer that agrees and the connection.
const SWITCH: Duration = Duration::from_secs(10);

/// Answers a CONNECT that was let through.
pub(super) async fn connect(
    connection: &Arc<Connection>,
    mut flow: Flow,
    upgrade: OnUpgrade,
    target: &Target,
    subject: Subject,
) -> Answer {
    let came = Came::Tunnelled(target.port);
    // Each request of an HTTP connection is dialled for by itself.
    let server = match (&subject, target.port) {
        (Subject::Name(..), 80) => None,
        _ => {
            flow.sets_up().await;
            let dialled = dial(&flow, &subject, connection.came).await;
            flow.is_set_up();
            match dialled {
                Ok(server) => Some(server),
                Err(why) => return unreachable(target, why),
            }
        }
    };
    let place = Arc::clone(&connection.place);
    connection.guest.lanes.spawn(async move {
        let Some((early, stream)) = switched(&flow, upgrade).await else {
            return;
        };
        match server {
            None => super::serve_boxed(flow, Replay::new(early, stream), came, place).await,
            Some(server) => tunnel(flow, subject, early, stream, server).await,
        }
    });
    Response::new(Either::Right(Full::default()))
}

/// Relays what both sides have agreed on.
pub(super) fn upgraded(
    connection: &Connection,
    flow: Arc<Flow>,
    guests: OnUpgrade,
    servers: OnUpgrade,
    server: Server,
) {
    let place = Arc::clone(&connection.place);
    connection.guest.lanes.spawn(async move {
        let (guests, servers) = tokio::join!(switched(&flow, guests), switched(&flow, servers));
        // Its task has given the connection away.
        drop(server);
        if let (Some((up, guest)), Some((down, server))) = (guests, servers) {
            relay::relay(&flow, guest, server, Early { up, down }).await;
        }
        drop(place);
    });
}

/// The connection under an upgrade, and what was read of it already.
async fn switched(flow: &Flow, upgrade: OnUpgrade) -> Option<(Vec<u8>, TcpStream)> {
    let upgraded = tokio::select! {
        upgraded = timeout(SWITCH, upgrade) => upgraded.ok()?.ok()?,
        () = flow.cut() => return None,
    };
    under(upgraded).ok()
}

fn under(upgraded: Upgraded) -> io::Result<(Vec<u8>, TcpStream)> {
    let other = |_| io::Error::other("not a connection of ours");
    let upgraded = match upgraded.downcast::<TokioIo<Replay>>() {
        Ok(parts) => {
            let (early, stream) = parts.io.into_inner().into_parts();
            // What hyper has read comes before what it has not.
            let mut bytes = parts.read_buf.to_vec();
            bytes.extend(early);
            return Ok((bytes, stream));
        }
        Err(upgraded) => upgraded,
    };
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().map_err(other)?;
    Ok((parts.read_buf.to_vec(), parts.io.into_inner()))
}

async fn tunnel(flow: Flow, subject: Subject, early: Vec<u8>, mut stream: TcpStream, server: TcpStream) {
    let mut up = early;
    if let Subject::Name(name, port) = &subject {
        let looked = tokio::select! {
            looked = look_inside(&flow, name, *port, &mut stream, &mut up) => looked,
            () = flow.cut() => Err(Reason::Changed),
        };
        if let Err(why) = looked {
            return refuse(&flow, &stream, why);
        }
    }
    let early = Early {
        up,
        ..Early::default()
    };
    relay::relay(&flow, stream, server, early).await;
}

/// Whether what the tunnel is used for is what it was asked for.
async fn look_inside(
    flow: &Flow,
    name: &Name,
    port: u16,
    stream: &mut TcpStream,
    up: &mut Vec<u8>,
) -> Result<(), Reason> {
    let guest = flow.guest();
    let policy = guest.policy();
    if policy.log_only() {
        return Ok(());
    }
    let looks = match (port, up.is_empty()) {
        (443, _) => Looks::Tls,
        (_, false) => peek::look(up),
        (_, true) => peek::looks(stream).await.map_err(|_| Reason::NoName)?,
    };
    if looks != Looks::Tls {
        return Ok(());
    }
    let within = Duration::from_secs(guest.caps.hello_seconds.into());
    let ClientHello { name: said, ech, .. } = peek::read_hello(stream, up, within).await?;
    let said = said.ok_or(Reason::NoName)?;
    if said == *name {
        return Ok(());
    }
    let decision = policy.name(&said, port);
    if decision.allows() {
        return Ok(());
    }
    flow.says(&said);
    Err(match ech {
        true => Reason::EncryptedName,
        false => decision.reason,
    })
}
