//! The guest's DNS server.
//!
//! | asked for | answer |
//! | -- | -- |
//! | the IPv4 addresses of a name that the policy allows on some port | those that such a name may lead to, for 60 s at most; after the owner has let them through |
//! | anything else of such a name (IPv6, HTTPS and SVCB records, text) | empty, and nobody is asked |
//! | any other name | no such name, and nobody is asked |
//! | a name that looks like data, under a wildcard | refused |
//!
//! `No such name` and not `refused`, since resolvers take the latter for a broken server, and ask the next one, or the
//! same one again. In mode `open` every public name is allowed that is not denied.
//!
//! What comes too fast is dropped over UDP and waits over TCP.

use super::{
    accept::{self, Place},
    answers::GRACE,
    dial,
    flow::Flow,
    guest::Guest,
    meter,
    upstream::NotFound,
};
use omnirun_egress_policy::{IpNet, Mode, Name, Policy, Protocol, Reason, Verdict, special};
use omnirun_egress_wire::dns::{self, Answer, Kind, MAX_ADDRESSES, MAX_TTL, MIN_TTL, Over, Query};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{sleep, timeout},
};

const PORT: u16 = 53;
/// For a question on a connection, and for an answer to be taken.
const IDLE: Duration = Duration::from_secs(10);
/// For an answer to be found. Programs ask again after five.
const PATIENCE: Duration = Duration::from_secs(9);
/// After a failure to read, which is none of one datagram.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves the datagram socket.
pub(super) async fn udp(guest: Arc<Guest>, socket: Arc<UdpSocket>) {
    // One byte more than is looked at, so that what is too long shows.
    let mut buffer = [0; dns::MAX_UDP + 1];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(_) => {
                sleep(PAUSE).await;
                continue;
            }
        };
        // What there is no room for is dropped: it is asked again.
        if !guest.may_query() {
            continue;
        }
        let Ok(permit) = Arc::clone(&guest.lookups).try_acquire_owned() else {
            continue;
        };
        let (guest, socket) = (Arc::clone(&guest), Arc::clone(&socket));
        let message = buffer[..length].to_vec();
        let lanes = Arc::clone(&guest);
        lanes.lanes.spawn(async move {
            let answered = answer(&guest, &message, Over::Udp);
            tokio::select! {
                answer = answered => if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, from).await;
                },
                () = guest.end.cancelled() => {}
            }
            drop(permit);
        });
    }
}

/// Serves the listener.
pub(super) async fn tcp(guest: Arc<Guest>, listener: TcpListener) {
    accept::each(&guest, &listener, connection).await;
}

async fn connection(guest: Arc<Guest>, stream: TcpStream, _place: Place) {
    tokio::select! {
        () = queries(&guest, stream) => {}
        () = guest.end.cancelled() => {}
    }
}

async fn queries(guest: &Arc<Guest>, mut stream: TcpStream) {
    while let Ok(Some(message)) = timeout(IDLE, read(&mut stream)).await {
        meter::one(&guest.queries).await;
        let Ok(_permit) = guest.lookups.acquire().await else {
            return;
        };
        let Some(answer) = answer(guest, &message, Over::Tcp).await else {
            return;
        };
        let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
        framed.extend(answer);
        if !matches!(timeout(IDLE, stream.write_all(&framed)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// The next message; nothing at the end, or when it is longer than a query can be.
async fn read(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = stream.read_u16().await.ok()?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await.ok()?;
    Some(message)
}

/// What to send back, if anything.
async fn answer(guest: &Arc<Guest>, message: &[u8], over: Over) -> Option<Vec<u8>> {
    let query = match dns::query(message, over) {
        Ok(query) => query,
        Err(bad) => return bad.answer().map(<[u8]>::to_vec),
    };
    let Ok(name) = Name::parse(query.name().as_bytes()) else {
        return Some(dns::answer(&query, Answer::NoSuchName));
    };
    let with = match timeout(PATIENCE, decide(guest, &query, &name)).await {
        Ok(Ok((addresses, ttl))) => {
            return Some(dns::answer(&query, Answer::Addresses(&addresses, ttl)));
        }
        Ok(Err(with)) => with,
        Err(_) => Answer::Failed,
    };
    Some(dns::answer(&query, with))
}

/// Addresses, or what to say instead.
async fn decide(
    guest: &Arc<Guest>,
    query: &Query,
    name: &Name,
) -> Result<(Vec<Ipv4Addr>, u32), Answer<'static>> {
    let policy = guest.policy();
    let decision = policy.resolve(name);
    let refuse = async |reason, with| {
        let flow = Flow::begin(guest, Protocol::Dns, None, PORT).await;
        flow.says(name);
        flow.refuse(reason);
        flow.by(decision.rule.clone());
        Err(with)
    };
    if !decision.allows() {
        return refuse(decision.reason, Answer::NoSuchName).await;
    }
    // A name that stands in the policy as it is cannot be made to carry anything; and where every name is answered there
    // are wider ways out than this.
    let by_wildcard = policy.mode() == Mode::Allow
        && decision.verdict == Verdict::Allow
        && !decision
            .rule
            .as_deref()
            .is_some_and(|rule| is_entry_for(rule, name));
    if by_wildcard && query.tunnel().is_some() {
        return refuse(Reason::Refused, Answer::Refused).await;
    }
    if query.kind() != Kind::A {
        return Err(Answer::Empty);
    }
    let found = guest.names.find(name).await.map_err(|why| match why {
        NotFound::NoSuchName => Answer::NoSuchName,
        NotFound::NoAddress => Answer::Empty,
        NotFound::Failed => Answer::Failed,
    })?;
    let addresses: Vec<_> = found
        .addresses
        .iter()
        .copied()
        .filter(|address| may_be_told(&policy, *address))
        .take(MAX_ADDRESSES)
        .collect();
    if addresses.is_empty() {
        return refuse(Reason::SpecialAddress, Answer::Refused).await;
    }
    let left = found.until.saturating_duration_since(Instant::now());
    let ttl = (left.as_secs() as u32).clamp(MIN_TTL, MAX_TTL);
    if !guest.answers.note(name, &addresses, found.until) {
        return refuse(Reason::Busy, Answer::Failed).await;
    }
    // In mode `open` it is the kernel that forwards, whatever was asked.
    if policy.mode() == Mode::Allow {
        let through = ttl + GRACE.as_secs() as u32;
        let events = &guest.process.events;
        if !events.let_through(guest.id, addresses.clone(), through).await {
            return Err(Answer::Failed);
        }
    }
    Ok((addresses, ttl))
}

/// Whether an address may be told. On which port it will be used is not known yet: [`dial`] looks again.
fn may_be_told(policy: &Policy, address: Ipv4Addr) -> bool {
    let listed_as_special =
        |net: &IpNet| net.contains(&IpAddr::V4(address)) && special(net.network()).is_some();
    match special(address.into()) {
        Some(what) => what.listable && policy.permitted().iter().any(listed_as_special),
        None => dial::may_lead_to(policy, SocketAddrV4::new(address, 443)),
    }
}

/// Whether an entry is this name itself, be it with a port.
fn is_entry_for(rule: &str, name: &Name) -> bool {
    let host = rule.split(':').next().unwrap_or_default();
    Name::parse(host.as_bytes()).is_ok_and(|entry| entry == *name)
}
