//! Making a connection for a guest. What is checked is the very address that is connected to.

use super::{flow::Flow, upstream::NotFound};
use omnirun_egress_policy::{Name, Policy, Reason, special};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket},
    time::Duration,
};
use tokio::{net::TcpStream, time::timeout};

/// At most so many addresses of a name are tried.
const TRIES: usize = 4;

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoDial {
    /// The name has no address.
    NoAddress,
    /// It could not be resolved.
    Unresolved,
    /// None of its addresses may be reached.
    Forbidden,
    /// Nobody answers there.
    Unreachable,
    /// It takes too long.
    Late,
}

impl NoDial {
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::NoAddress => Reason::NoAddress,
            Self::Unresolved => Reason::Failed,
            Self::Forbidden => Reason::SpecialAddress,
            Self::Unreachable => Reason::Unreachable,
            Self::Late => Reason::TimedOut,
        }
    }
}

/// Connects to a name. `chosen`: the address that the guest connected to, which is tried first if it is one of the name's,
/// so that a guest that was told several stays where it meant to go.
pub(super) async fn name(
    flow: &Flow,
    name: &Name,
    port: u16,
    chosen: Option<Ipv4Addr>,
) -> Result<TcpStream, NoDial> {
    let guest = flow.guest();
    let in_all = Duration::from_secs(guest.caps.dial_seconds.into());
    let dialled = async {
        let found = guest.names.find(name).await.map_err(|why| match why {
            NotFound::NoSuchName | NotFound::NoAddress => NoDial::NoAddress,
            NotFound::Failed => NoDial::Unresolved,
        })?;
        let policy = guest.policy();
        let mut all: Vec<_> = found
            .addresses
            .iter()
            .map(|address| SocketAddrV4::new(*address, port))
            .collect();
        all.sort_by_key(|to| Some(*to.ip()) != chosen);
        let may: Vec<_> = all
            .into_iter()
            .filter(|to| may_lead_to(&policy, *to))
            .take(TRIES)
            .collect();
        let each = in_all / may.len().max(1) as u32;
        let mut last = NoDial::Forbidden;
        for to in may {
            match connect(flow, to, each).await {
                Ok(stream) => return Ok(stream),
                Err(why) => last = why,
            }
        }
        Err(last)
    };
    match timeout(in_all, dialled).await {
        Ok(result) => result,
        Err(_) => Err(NoDial::Late),
    }
}

/// Connects to an address that the policy lets the guest choose.
pub(super) async fn address(flow: &Flow, to: SocketAddrV4) -> Result<TcpStream, NoDial> {
    let guest = flow.guest();
    let policy = guest.policy();
    // Asked again here, next to the connecting, whatever was decided before.
    if !policy.address(to.into()).allows() || special_and_unlisted(&policy, to) {
        return Err(NoDial::Forbidden);
    }
    let in_all = Duration::from_secs(guest.caps.dial_seconds.into());
    connect(flow, to, in_all).await
}

/// Whether an allowed name may lead there.
pub(super) fn may_lead_to(policy: &Policy, to: SocketAddrV4) -> bool {
    let by_address = policy.address(to.into());
    let denied = by_address.reason == Reason::Denied && !by_address.allows();
    policy.may_lead_to(to.into()) && !denied && !special_and_unlisted(policy, to)
}

/// Whether it is special, or of this host, and no entry lists it. A name, or the public internet, never means the host
/// itself.
fn special_and_unlisted(policy: &Policy, to: SocketAddrV4) -> bool {
    let listed = policy.address(to.into()).reason == Reason::Listed;
    match special(IpAddr::V4(*to.ip())) {
        Some(what) => !what.listable || !listed,
        None => !listed && is_own(to),
    }
}

/// Whether an address is one of this host: what is sent to those comes from them, too. A UDP socket is asked, which sends
/// nothing. If that fails, there is no way there either.
fn is_own(to: SocketAddrV4) -> bool {
    let source = || -> io::Result<IpAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(to)?;
        Ok(socket.local_addr()?.ip())
    };
    source().is_ok_and(|source| source == IpAddr::V4(*to.ip()))
}

async fn connect(flow: &Flow, to: SocketAddrV4, within: Duration) -> Result<TcpStream, NoDial> {
    flow.dials(to);
    match timeout(within, TcpStream::connect(to)).await {
        Ok(Ok(stream)) => {
            // Nothing is held back for more to come.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(_)) => Err(NoDial::Unreachable),
        Err(_) => Err(NoDial::Late),
    }
}
