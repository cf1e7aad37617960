//! What namespaces do, seen from a guest that is no VM, with real packets. Nothing leaves namespaces that the tests make.

mod host;
mod lab;
mod met;
mod open;
mod orphans;
mod pool;
mod restricted;

use std::{
    io,
    net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use omnirun_sys::host::net;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{Kind, Namespace, Networks, NetworksConfig, Ready, Special, check::permitted};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(10);
/// How long one waits for what is not to come.
const SHORT: Duration = Duration::from_millis(300);

/// Whether this process may do what is tested; says so if not.
fn may() -> bool {
    let outcome = permitted().and_then(|()| crate::nft::Nft::find().map(drop));
    if let Err(error) = &outcome {
        eprintln!("nothing tested: {error}");
    }
    outcome.is_ok()
}

fn special() -> Vec<Special> {
    let special = |name: &str, permittable, nets: &[&str]| Special {
        name: name.to_owned(),
        nets: nets.iter().map(|net| net.parse().unwrap()).collect(),
        permittable,
    };
    vec![
        special("metadata", false, &["100.100.100.200/32", "168.63.129.16/32"]),
        special("link-local", false, &["169.254.0.0/16"]),
        special("loopback", false, &["0.0.0.0/8", "127.0.0.0/8"]),
        special(
            "private",
            true,
            &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"],
        ),
        special("shared", true, &["100.64.0.0/10"]),
        special("protocol", false, &["192.0.0.0/24"]),
        special("benchmark", false, &["198.18.0.0/15"]),
        special("multicast", false, &["224.0.0.0/4"]),
        special("reserved", false, &["240.0.0.0/4"]),
    ]
}

/// A tag of no other test's.
fn tag(name: &str) -> String {
    format!("test_{}_{name}", std::process::id())
}

async fn networks(name: &str, host: Option<Arc<OwnedFd>>) -> Arc<Networks> {
    let config = NetworksConfig {
        tag: tag(name),
        special: special(),
        ready: Ready::default(),
        host,
    };
    Networks::open(config).await.unwrap()
}

async fn restricted() -> Namespace {
    // Made in a namespace that stands for the host, of which a restricted one needs nothing.
    let host = Arc::new(net::in_new_namespace(net::namespace).unwrap());
    networks("restricted", Some(host))
        .await
        .take(Kind::Restricted)
        .await
        .unwrap()
}

fn at(address: &str) -> SocketAddrV4 {
    address.parse().unwrap()
}

fn connect(address: &str) -> io::Result<TcpStream> {
    within(address, LONG)
}

fn within(address: &str, time: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::V4(at(address)), time)?;
    stream.set_read_timeout(Some(LONG))?;
    Ok(stream)
}

/// The next connection of a listener, which may be non-blocking.
fn accept(listener: &OwnedFd) -> TcpStream {
    let mut wait = [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
    let timeout = Timespec::try_from(LONG).unwrap();
    assert_eq!(poll(&mut wait, Some(&timeout)).unwrap(), 1, "no connection came");
    let (stream, _) = TcpListener::from(listener.try_clone().unwrap()).accept().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// Whether nothing can be read from a socket for a short time.
fn silent(socket: impl AsFd) -> bool {
    let mut wait = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
    let timeout = Timespec::try_from(SHORT).unwrap();
    poll(&mut wait, Some(&timeout)).unwrap() == 0
}

fn udp(to: &str) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(LONG))?;
    Ok(socket)
}

/// How often a rule was met.
async fn met(namespace: &Namespace, name: &str) -> u64 {
    let rules = namespace.rules().await.unwrap();
    rules
        .iter()
        .find(|rule| rule.name == name)
        .unwrap_or_else(|| panic!("no rule {name}"))
        .packets
}

/// Waits until a rule has been met: packets take their time through the pump.
async fn until_met(namespace: &Namespace, name: &str) {
    until_met_often(namespace, name, 1).await;
}

async fn until_met_often(namespace: &Namespace, name: &str, often: u64) {
    let deadline = std::time::Instant::now() + LONG;
    while met(namespace, name).await < often {
        assert!(
            std::time::Instant::now() < deadline,
            "{name} was not met {often} times"
        );
    }
}
