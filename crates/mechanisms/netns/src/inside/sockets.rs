//! The sockets that listen for a guest.

use std::{io, net::SocketAddrV4, os::fd::OwnedFd, time::Duration};

use omnirun_guest_net::{GATEWAY_IP, PROXY_PORT};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use super::rules::{DNS_PORT, TRANSPARENT_PORT};
use crate::NetError;

/// Connections that wait to be accepted, at most; the kernel's own limit (`somaxconn`) may be lower.
const BACKLOG: i32 = 1024;

/// Sockets on the gateway's address of one namespace, non-blocking, for the proxy to serve. They hold the namespace.
#[derive(Debug)]
pub struct Sockets {
    /// DNS queries, to whichever server the guest sends them.
    pub dns_udp: OwnedFd,
    /// The same by TCP; listens.
    pub dns_tcp: OwnedFd,
    /// Connections to permitted destinations; listens. `SO_ORIGINAL_DST`
    /// (`rustix::net::sockopt::ip_original_dst`) says where a connection was meant to go.
    pub transparent: OwnedFd,
    /// Connections to the gateway's HTTP proxy port; listens.
    pub explicit: OwnedFd,
}

impl Sockets {
    /// Opens them in the calling thread's namespace.
    pub(super) fn open() -> Result<Self, NetError> {
        let open = |name: &str, kind, port| {
            socket(kind, SocketAddrV4::new(GATEWAY_IP, port))
                .map_err(NetError::step(format!("opening the socket for {name}")))
        };
        Ok(Self {
            dns_udp: open("DNS over UDP", SocketType::DGRAM, DNS_PORT)?,
            dns_tcp: open("DNS over TCP", SocketType::STREAM, DNS_PORT)?,
            transparent: open("the transparent proxy", SocketType::STREAM, TRANSPARENT_PORT)?,
            explicit: open("the explicit proxy", SocketType::STREAM, PROXY_PORT)?,
        })
    }

    /// Further descriptors of the same sockets.
    ///
    /// # Errors
    /// This process has too many.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            dns_udp: self.dns_udp.try_clone()?,
            dns_tcp: self.dns_tcp.try_clone()?,
            transparent: self.transparent.try_clone()?,
            explicit: self.explicit.try_clone()?,
        })
    }
}

fn socket(kind: SocketType, address: SocketAddrV4) -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::INET,
        kind,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    if kind == SocketType::STREAM {
        // Accepted connections inherit these. A guest may vanish without a word (it is killed, or put to sleep).
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, Duration::from_secs(60))?;
        sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(15))?;
        sockopt::set_tcp_keepcnt(&socket, 4)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
    }
    bind(&socket, &address)?;
    if kind == SocketType::STREAM {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}
