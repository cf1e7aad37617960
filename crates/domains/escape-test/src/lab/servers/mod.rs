//! What answers in the lab.
//!
//! The sockets are opened inside the namespaces; all of them are served by one thread, which need not be in any. Whatever
//! arrives is searched for nonces and answered with [`MARK`], so that both ends know of an attempt that went through.

mod dns;
mod record;
mod tcp;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    thread::JoinHandle,
};

use omnirun_sys::host::net;
use tokio::sync::oneshot;

pub use self::{
    record::{Record, Records, Via},
    tcp::STREAM,
};
use super::{
    HOST_PORTS, LabError,
    wires::{DNS_PORT, TCP_PORT, UDP_PORT},
    zone::{self, Zone},
};

/// In every answer of a server of the lab, and nowhere else.
pub const MARK: &str = "omnirun-lab";

/// The running servers. Dropping it ends them.
#[derive(Debug)]
pub(super) struct Servers {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The sockets of one namespace.
struct Sockets {
    name: &'static str,
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
    dns_tcp: Option<TcpListener>,
    dns_udp: Option<UdpSocket>,
}

impl Servers {
    /// Opens the sockets and starts the thread.
    pub(super) fn start(
        host: &OwnedFd,
        internet: &OwnedFd,
        inside: &OwnedFd,
        records: &Records,
    ) -> Result<Self, LabError> {
        let step = |name: &str| LabError::step(format!("opening the servers' sockets in {name}"));
        let everything = |name, namespace: &OwnedFd| {
            net::in_namespace(namespace.as_fd(), || Sockets::everything(name)).map_err(step(name))
        };
        let all = [
            everything("internet", internet)?,
            everything("inside", inside)?,
            net::in_namespace(host.as_fd(), Sockets::host).map_err(step("host"))?,
        ];
        let names = [
            zone::LISTED,
            zone::SECOND,
            zone::BARE,
            zone::WILD,
            zone::UNLISTED,
            zone::COHOST,
        ];
        let tls = tcp::tls(names.map(|(name, _)| name.to_owned()).to_vec())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(LabError::step("making a runtime for the servers"))?;
        let (stop, stopped) = oneshot::channel();
        let records = records.clone();
        let thread = std::thread::Builder::new().name("lab".to_owned()).spawn(move || {
            runtime.block_on(async {
                let zone = Arc::new(Zone::new(records.flipped()));
                for sockets in all {
                    if let Err(error) = sockets.serve(&records, &tls, &zone) {
                        tracing::error!(%error, "a server of the lab did not start");
                    }
                }
                // Also when the sender is gone.
                let _ = stopped.await;
            });
        });
        let thread = thread.map_err(LabError::step("starting the servers' thread"))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Sockets {
    /// For a namespace where all packets are led to these.
    fn everything(name: &'static str) -> io::Result<Self> {
        Ok(Self {
            name,
            tcp: vec![listen(TCP_PORT)?],
            udp: vec![bind(UDP_PORT)?],
            dns_tcp: Some(listen(DNS_PORT)?),
            dns_udp: Some(bind(DNS_PORT)?),
        })
    }

    /// For the host, where some ports are served.
    fn host() -> io::Result<Self> {
        Ok(Self {
            name: "host",
            tcp: HOST_PORTS.into_iter().map(listen).collect::<Result<_, _>>()?,
            udp: HOST_PORTS.into_iter().map(bind).collect::<Result<_, _>>()?,
            dns_tcp: None,
            dns_udp: None,
        })
    }

    fn serve(self, records: &Records, tls: &tokio_rustls::TlsAcceptor, zone: &Arc<Zone>) -> io::Result<()> {
        for listener in self.tcp {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(tcp::serve(listener, self.name, records.clone(), tls.clone()));
        }
        for socket in self.udp {
            tokio::spawn(echo(
                tokio::net::UdpSocket::from_std(socket)?,
                self.name,
                records.clone(),
            ));
        }
        if let Some(socket) = self.dns_udp {
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            tokio::spawn(dns::udp(socket, self.name, records.clone(), zone.clone()));
        }
        if let Some(listener) = self.dns_tcp {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(dns::tcp(listener, self.name, records.clone(), zone.clone()));
        }
        Ok(())
    }
}

/// Answers every datagram with the mark and itself.
async fn echo(socket: tokio::net::UdpSocket, server: &'static str, records: Records) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        // An error tells of an earlier answer that was refused.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let datagram = buffer.get(..length).unwrap_or_default();
        records.look(datagram, server, None, Via::Udp);
        let answer = [MARK.as_bytes(), b" ", datagram].concat();
        let _ = socket.send_to(answer.get(..1200).unwrap_or(&answer), from).await;
    }
}

/// On all addresses of both families, or of the one that there is.
fn anywhere<T>(port: u16, open: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    open((Ipv6Addr::UNSPECIFIED, port).into()).or_else(|_| open((Ipv4Addr::UNSPECIFIED, port).into()))
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = anywhere(port, TcpListener::bind)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn bind(port: u16) -> io::Result<UdpSocket> {
    let socket = anywhere(port, UdpSocket::bind)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
