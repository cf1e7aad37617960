//! A lab: a host with an internet, a neighbourhood and a metadata service around it, all of them network namespaces.
//!
//! ```text
//!                         uplink                                    inner
//!   internet  10.77.0.1 ---------- 10.77.0.2  host  192.168.77.2 ---------- 192.168.77.1  inside
//!     every public address,                    |                              every private address,
//!     the host's resolver                      |                              metadata services
//!                                        the sandboxes
//! ```
//!
//! *host* is where the owner process runs, with its proxies, VMs and sandboxes ([`enter`]). *internet* and *inside* have
//! every address there is: whatever is sent to them is accepted, recorded ([`Records`]) and answered, by a server for all
//! TCP ports (which also speaks TLS and HTTP), one for all UDP ports, one for DNS, and the kernel for ICMP. So an attempt
//! that gets out really arrives, whatever it aimed at, and nothing ever leaves the lab: it has no link to anything else.
//!
//! No namespace has a name. They are held by descriptors of this process, so that the kernel removes all of it when the
//! process is gone, however it went.
//!
//! ```text
//!   enter      runs this program again inside a host of its own
//!   wires      links, addresses, routes
//!   servers    what answers in `internet` and `inside`, and on the host itself
//!   zone       the names
//! ```

pub mod enter;
mod servers;
mod wires;
pub mod zone;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    sync::Arc,
};

use omnirun_sys::host::net;

use self::servers::Servers;
pub use self::servers::{MARK, Record, Records, STREAM, Via};
use crate::capture::Place;

/// The host's address on its uplink: a private one, as behind most routers.
pub const HOST_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Another address of the host's on its uplink: a public one, which no list of special addresses has.
pub const HOST_PUBLIC_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 112, 2);
/// The router on the uplink, which is also the host's resolver.
pub const ROUTER_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Another machine on the uplink.
pub const NEIGHBOUR_IP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
/// The host's address on its inner link.
pub const INNER_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
/// The host's IPv6 address.
pub const HOST_IP6: Ipv6Addr = Ipv6Addr::new(0x2600, 0x77, 0, 0, 0, 0, 0, 2);
/// Hardware address of the host's uplink.
pub const HOST_MAC: [u8; 6] = [0x02, 0x4f, 0x52, 0x00, 0x77, 0x02];
/// Name of the internet's link to the host.
pub const LINK: &str = wires::UPLINK;
/// Ports on which somebody listens on the host, on all its addresses: remote login, a container engine, an API.
pub const HOST_PORTS: [u16; 3] = [22, 2375, 8300];

/// Why there is no lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// This process's namespace has links, so it is a real one.
    #[error("a lab is built in a namespace of its own, and this one has links: {0}")]
    NotInside(String),
    /// A step failed.
    #[error("building the lab: {step}")]
    Step {
        /// Which.
        step: String,
        /// Why.
        source: io::Error,
    },
    /// A program is missing or failed.
    #[error("building the lab: {program} failed: {message}")]
    Program {
        /// Which.
        program: &'static str,
        /// What it said.
        message: String,
    },
    /// No certificate could be made.
    #[error("building the lab: a certificate")]
    Certificate(#[from] rcgen::Error),
    /// No TLS server could be made.
    #[error("building the lab: a TLS server")]
    Tls(#[from] rustls::Error),
}

impl LabError {
    fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Step { step, source }
    }
}

/// The lab around this process. Dropping it ends the servers; the namespaces go with the last descriptor.
#[derive(Debug)]
pub struct Lab {
    host: Arc<OwnedFd>,
    internet: Arc<OwnedFd>,
    inside: Arc<OwnedFd>,
    records: Records,
    _servers: Servers,
}

impl Lab {
    /// Builds it around this process, which must be inside already ([`enter::inside`]): its namespace becomes the lab's
    /// host.
    ///
    /// # Errors
    /// [`LabError`]. Nothing is left behind that would outlive this process.
    pub fn build() -> Result<Self, LabError> {
        let host = Arc::new(net::namespace().map_err(LabError::step("opening the host's namespace"))?);
        let links = wires::links().map_err(LabError::step("listing the links"))?;
        if links.iter().any(|name| name != "lo") {
            return Err(LabError::NotInside(links.join(", ")));
        }
        let new = |what: &str| {
            let namespace = net::in_new_namespace(net::namespace);
            namespace
                .map(Arc::new)
                .map_err(LabError::step(format!("making the namespace {what}")))
        };
        let (internet, inside) = (new("internet")?, new("inside")?);
        wires::lay(&internet, &inside)?;
        let records = Records::default();
        let servers = Servers::start(&host, &internet, &inside, &records)?;
        Ok(Self {
            host,
            internet,
            inside,
            records,
            _servers: servers,
        })
    }

    /// The namespace of the host.
    #[must_use]
    pub fn host(&self) -> Arc<OwnedFd> {
        self.host.clone()
    }

    /// The namespace of the internet.
    #[must_use]
    pub fn internet(&self) -> Arc<OwnedFd> {
        self.internet.clone()
    }

    /// What the servers saw.
    #[must_use]
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// All that is outside of sandboxes. `threshold` begins the names of the links that lead out of them.
    #[must_use]
    pub fn places(&self, threshold: &str) -> Vec<Place> {
        let place = |name: &str, namespace: &Arc<OwnedFd>| Place {
            name: name.to_owned(),
            namespace: namespace.clone(),
            threshold: Some(threshold.to_owned()),
        };
        vec![
            place("host", &self.host),
            place("internet", &self.internet),
            place("inside", &self.inside),
        ]
    }

    /// The addresses that the host has.
    #[must_use]
    pub fn host_addresses(&self) -> Vec<IpAddr> {
        vec![
            HOST_IP.into(),
            HOST_PUBLIC_IP.into(),
            INNER_IP.into(),
            HOST_IP6.into(),
            Ipv4Addr::LOCALHOST.into(),
        ]
    }
}
