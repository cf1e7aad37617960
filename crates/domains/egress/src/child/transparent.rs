//! Connections that the guest made to somewhere, and that its namespace redirected here.
//!
//! | destination | how it is known where to |
//! | -- | -- |
//! | an address that an entry lists | dialled as it is; what is said is not looked at |
//! | port 443 | the server name of a whole ClientHello |
//! | port 80 | the host of each request ([`super::http`]) |
//! | another port | TLS and HTTP as above if the first bytes are such; else the name, listed with this port, that the guest was last told has this address |
//!
//! Where no name is to be had, what remains is the address: let through in mode `open` and when only logging. A
//! connection that goes nowhere is reset.

use super::{
    accept::{self, Place},
    dial::{self, NoDial},
    flow::{Flow, Subject},
    guest::Guest,
    http::{self, Came, Replay},
    peek::{self, Looks},
    relay::{self, Early},
};
use omnirun_egress_policy::{Name, Protocol, Reason, Verdict};
use omnirun_egress_wire::hello::ClientHello;
use socket2::SockRef;
use std::{net::SocketAddrV4, sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream};

/// Serves the listener.
pub(super) async fn serve(guest: Arc<Guest>, listener: TcpListener) {
    accept::each(&guest, &listener, connection).await;
}

async fn connection(guest: Arc<Guest>, stream: TcpStream, place: Place) {
    let Some(to) = original_destination(&stream) else {
        // It connected to this socket itself: there is nothing that it could mean.
        relay::reset(&stream);
        return;
    };
    let mut flow = Flow::begin(&guest, Protocol::Tcp, Some(to), to.port()).await;
    flow.sets_up().await;
    let by_address = guest.policy().address(to.into());
    if by_address.reason == Reason::Listed && by_address.verdict == Verdict::Allow {
        // It decides nothing: it is for whoever reads the log, or learns from it.
        if let Some(told) = guest.answers.of(*to.ip()).first() {
            flow.says(told);
        }
        return by_the_address(flow, stream, to, Unsaid::Listed, Vec::new()).await;
    }
    match to.port() {
        80 => plain(flow, stream, to, place).await,
        443 => tls(flow, stream, to).await,
        _ => other(&guest, flow, stream, to, place).await,
    }
}

/// Where the guest connected to, before it was redirected.
fn original_destination(stream: &TcpStream) -> Option<SocketAddrV4> {
    let to = SockRef::from(stream).original_dst_v4().ok()?.as_socket_ipv4()?;
    let here = stream.local_addr().ok()?;
    (here != to.into()).then_some(to)
}

/// HTTP: each request is a flow of its own.
async fn plain(mut flow: Flow, stream: TcpStream, to: SocketAddrV4, place: Place) {
    flow.is_set_up();
    let stream = Replay::new(Vec::new(), stream);
    http::serve(flow, stream, Came::Redirected(to), Arc::new(place)).await;
}

async fn tls(mut flow: Flow, mut stream: TcpStream, to: SocketAddrV4) {
    flow.is(Protocol::Tls);
    let guest = Arc::clone(flow.guest());
    let mut bytes = Vec::new();
    let within = Duration::from_secs(guest.caps.hello_seconds.into());
    let hello = tokio::select! {
        hello = peek::read_hello(&mut stream, &mut bytes, within) => hello,
        () = guest.end.cancelled() => Err(Reason::Changed),
    };
    let unsaid = match hello {
        Ok(ClientHello {
            name: Some(name),
            ech,
            ..
        }) => {
            return match flow.admit(Subject::Name(name.clone(), to.port())) {
                Ok(()) => to_name(flow, stream, &name, to, bytes).await,
                // It is the outer name; whatever is within could not be seen either.
                Err(Reason::NotListed | Reason::PortNotListed) if ech => {
                    refuse(&flow, &stream, Reason::EncryptedName);
                }
                Err(why) => refuse(&flow, &stream, why),
            };
        }
        Ok(ClientHello { name: None, .. }) | Err(Reason::NoName) => Unsaid::NoName,
        Err(Reason::Malformed) => Unsaid::Malformed,
        Err(why) => return refuse(&flow, &stream, why),
    };
    by_the_address(flow, stream, to, unsaid, bytes).await;
}

/// Neither of the ports that say what they are.
async fn other(guest: &Arc<Guest>, mut flow: Flow, stream: TcpStream, to: SocketAddrV4, place: Place) {
    let looks = tokio::select! {
        looks = peek::looks(&stream) => looks,
        () = guest.end.cancelled() => return refuse(&flow, &stream, Reason::Changed),
    };
    match looks {
        Ok(Looks::Tls) => return tls(flow, stream, to).await,
        Ok(Looks::Http) => return plain(flow, stream, to, place).await,
        Ok(Looks::Other) => {}
        Err(_) => return refuse(&flow, &stream, Reason::NoName),
    }
    let policy = guest.policy();
    let answered = guest.answers.of(*to.ip());
    let listed = |name: &&Name| {
        let decision = policy.name(name, to.port());
        decision.verdict == Verdict::Allow && decision.reason == Reason::Listed
    };
    match answered.iter().find(listed) {
        Some(name) => match flow.admit(Subject::Name(name.clone(), to.port())) {
            Ok(()) => to_name(flow, stream, name, to, Vec::new()).await,
            Err(why) => refuse(&flow, &stream, why),
        },
        None => {
            let unsaid = match answered.first() {
                Some(name) => {
                    flow.says(name);
                    Unsaid::NoName
                }
                None => Unsaid::NotResolved,
            };
            by_the_address(flow, stream, to, unsaid, Vec::new()).await;
        }
    }
}

/// To a name that was let through.
async fn to_name(flow: Flow, stream: TcpStream, name: &Name, to: SocketAddrV4, up: Vec<u8>) {
    let dialled = dial::name(&flow, name, to.port(), Some(*to.ip()));
    go(unless_cut(&flow, dialled).await, flow, stream, up).await;
}

/// Why there is only an address to go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unsaid {
    /// It is all that is asked for.
    Listed,
    NoName,
    Malformed,
    NotResolved,
}

/// To the address, if the policy has it so.
async fn by_the_address(mut flow: Flow, stream: TcpStream, to: SocketAddrV4, unsaid: Unsaid, up: Vec<u8>) {
    let subject = match unsaid {
        Unsaid::Listed => Subject::Address(to),
        _ => Subject::Unnamed(to),
    };
    if let Err(why) = flow.admit(subject) {
        let why = match (why, unsaid) {
            (Reason::NoName, Unsaid::Malformed) => Reason::Malformed,
            (Reason::NoName, Unsaid::NotResolved) => Reason::NotResolved,
            (why, _) => why,
        };
        return refuse(&flow, &stream, why);
    }
    let dialled = dial::address(&flow, to);
    go(unless_cut(&flow, dialled).await, flow, stream, up).await;
}

/// Gives up dialling when the flow is cut.
pub(super) async fn unless_cut<T>(
    flow: &Flow,
    dialled: impl Future<Output = Result<T, NoDial>>,
) -> Result<T, NoDial> {
    tokio::select! {
        dialled = dialled => dialled,
        () = flow.cut() => Err(NoDial::Late),
    }
}

async fn go(dialled: Result<TcpStream, NoDial>, mut flow: Flow, stream: TcpStream, up: Vec<u8>) {
    flow.is_set_up();
    match dialled {
        Ok(server) => {
            let early = Early {
                up,
                ..Early::default()
            };
            relay::relay(&flow, stream, server, early).await;
        }
        Err(why) => {
            failed(&flow, why);
            relay::reset(&stream);
        }
    }
}

/// Notes why there is no connection.
pub(super) fn failed(flow: &Flow, why: NoDial) {
    match why {
        NoDial::Forbidden => flow.refuse(why.reason()),
        why => flow.note(why.reason()),
    }
}

/// Refuses a connection.
pub(super) fn refuse(flow: &Flow, stream: &TcpStream, why: Reason) {
    flow.refuse(why);
    relay::reset(stream);
}
