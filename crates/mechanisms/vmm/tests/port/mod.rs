//! Where a card of these tests leads: a network namespace whose tap has the gateway's addresses, and a socket in there.

use omnirun_guest_net::{GATEWAY_IP, GATEWAY_MAC, GUEST_IP, GUEST_MAC, MTU, PREFIX, TAP};
use omnirun_sys::host::net;
use omnirun_vmm::Nic;
use std::{
    fs, io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};
use tokio::net::UdpSocket;

/// Where the tests' guest sends to, and from.
pub const PORT: u16 = 7000;
/// For a datagram, on a machine under heavy load.
const SOON: Duration = Duration::from_secs(60);

/// One end of a card.
pub struct Port {
    namespace: Arc<OwnedFd>,
}

impl Port {
    /// Makes one; `None`, with a word, where it cannot be.
    pub fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
            eprintln!("SKIPPED: a network card takes root and /dev/net/tun");
            return None;
        }
        let namespace = net::in_new_namespace(|| {
            // No packet of the kernel's own.
            let _ = fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            net::create_tap(TAP)?;
            let colons = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
            let (ours, theirs) = (colons(GATEWAY_MAC), colons(GUEST_MAC));
            ip(&format!("link set {TAP} address {ours} mtu {MTU} up"))?;
            ip(&format!("address add {GATEWAY_IP}/{PREFIX} dev {TAP}"))?;
            ip(&format!(
                "neighbour add {GUEST_IP} lladdr {theirs} nud permanent dev {TAP}"
            ))?;
            net::namespace()
        });
        match namespace {
            Ok(namespace) => Some(Self {
                namespace: Arc::new(namespace),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                eprintln!("SKIPPED: there is no `ip`");
                None
            }
            Err(error) => panic!("a namespace with a tap: {error}"),
        }
    }

    /// For a machine.
    pub fn nic(&self) -> Nic {
        Nic {
            namespace: Arc::clone(&self.namespace),
        }
    }

    /// How many frames have come out of the card.
    pub fn frames(&self) -> u64 {
        let text = net::in_namespace(self.namespace.as_fd(), || {
            fs::read_to_string("/proc/thread-self/net/dev")
        });

        let text = text.expect("its interfaces");
        let line = text.lines().find_map(|l| l.trim().strip_prefix("tap0:"));
        let count = line.and_then(|l| l.split_whitespace().nth(1));
        count.expect("the tap").parse().expect("a number")
    }

    /// Whether nobody has the tap open.
    pub fn is_free(&self) -> bool {
        net::attach_tap(&self.namespace, TAP).is_ok()
    }

    /// Whether a process is in there.
    pub fn has(&self, pid: u32) -> bool {
        let inode = rustix::fs::fstat(&self.namespace).expect("it is open").st_ino;
        let its = fs::read_link(format!("/proc/{pid}/ns/net")).expect("it lives");
        its.to_string_lossy() == format!("net:[{inode}]")
    }

    /// A socket at the gateway's address.
    pub fn socket(&self) -> Socket {
        let bound = net::in_namespace(self.namespace.as_fd(), || {
            let socket = std::net::UdpSocket::bind((GATEWAY_IP, PORT))?;
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(socket)
        });
        Socket(UdpSocket::from_std(bound.expect("bound")).expect("a socket"))
    }
}

/// The gateway's socket.
pub struct Socket(UdpSocket);

impl Socket {
    /// Waits for a datagram of the guest's, and answers it.
    pub async fn answer(&self, answer: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 2048];
        let came = tokio::time::timeout(SOON, self.0.recv_from(&mut bytes)).await;
        let (len, from) = came.expect("in time").expect("received");
        assert_eq!(from, SocketAddr::from((GUEST_IP, PORT)));
        self.0.send_to(answer, from).await.expect("sent");
        bytes.truncate(len);
        bytes
    }

    /// Whether nothing has come.
    pub fn is_quiet(&self) -> bool {
        let got = self.0.try_recv(&mut [0; 2048]);
        matches!(got, Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

fn ip(words: &str) -> io::Result<()> {
    let output = Command::new("ip").args(words.split(' ')).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )),
    }
}
