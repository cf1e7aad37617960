//! A lab of three network namespaces, all made by the test: a sandbox's, the host's in which the owner and the real child
//! run, and an internet with a DNS server and other servers. Nothing leaves it.
//!
//! ```text
//!   sandbox: clients -> nft redirect -> sockets of the proxy
//!   host:    owner, child     h0 9.9.9.254  ----- veth -----  i0 9.9.9.1 - 9.9.9.9, 9.9.9.53    :internet
//!            8.8.4.4 is its own                                    10.0.0.5, 169.254.169.254
//! ```
#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(clippy::unwrap_used, reason = "it is a test")]

pub mod servers;
pub mod tls;

use omnirun_egress::{
    Attachment, AttachmentId, Caps, EgressError, Host, Proxy, ProxyConfig, Resolvers, Sockets,
};
use omnirun_egress_policy::{AuditLine, NoPresets, Policy};
use omnirun_sys::host::net::{in_namespace, in_new_namespace, namespace};
use rustix::process::{Pid, Signal, kill_process};
use servers::Zone;
use std::{
    collections::BTreeMap,
    error::Error,
    fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::Notify,
    time::{Instant, timeout},
};

pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);
pub const EXPLICIT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(GATEWAY, 3128));
pub const DNS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(GATEWAY, 53));
/// The host's own.
pub const OWN: Ipv4Addr = Ipv4Addr::new(8, 8, 4, 4);
/// For everything in a test that is waited for.
pub const SOON: Duration = Duration::from_secs(20);

/// What the owner is asked for.
#[derive(Default)]
pub struct Owner {
    pub answered: Mutex<Vec<(u64, Vec<Ipv4Addr>, Duration)>>,
    pub refuses: AtomicBool,
    lines: Mutex<Vec<(u64, AuditLine)>>,
    more: Notify,
}

#[async_trait::async_trait]
impl Host for Owner {
    async fn answered(
        &self,
        id: AttachmentId,
        addresses: &[Ipv4Addr],
        ttl: Duration,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err("no".into());
        }
        self.answered
            .lock()
            .unwrap()
            .push((id.0, addresses.to_vec(), ttl));
        Ok(())
    }

    fn audit(&self, id: AttachmentId, line: AuditLine) {
        self.lines.lock().unwrap().push((id.0, line));
        self.more.notify_waiters();
    }
}

impl Owner {
    /// Takes out the first line that fits, when it is there.
    pub async fn line(&self, what: &str, fits: impl Fn(&AuditLine) -> bool) -> AuditLine {
        let waited = timeout(SOON, async {
            loop {
                let more = self.more.notified();
                tokio::pin!(more);
                more.as_mut().enable();
                {
                    let mut lines = self.lines.lock().unwrap();
                    if let Some(at) = lines.iter().position(|(_, line)| fits(line)) {
                        return lines.remove(at).1;
                    }
                }
                more.await;
            }
        });
        match waited.await {
            Ok(line) => line,
            Err(_) => panic!("no line {what}: {:#?}", self.lines.lock().unwrap()),
        }
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<AuditLine> {
        let lines = self.lines.lock().unwrap();
        lines.iter().map(|(_, line)| line.clone()).collect()
    }
}

pub struct Lab {
    pub host: OwnedFd,
    pub internet: OwnedFd,
    pub zone: Arc<Zone>,
    pub owner: Arc<Owner>,
    pub proxy: Arc<Proxy>,
    next: AtomicU64,
}

/// A sandbox that is attached.
pub struct Sandbox {
    pub namespace: OwnedFd,
    pub sockets: [OwnedFd; 4],
    pub attachment: Attachment,
}

/// Runs a test in a new lab; without root nothing is tested, and it says so.
pub fn run<F: Future<Output = ()>>(test: impl FnOnce(Lab) -> F + Send) {
    run_with(|_| {}, test);
}

/// The same, with the configuration changed.
pub fn run_with<F: Future<Output = ()>>(
    change: impl FnOnce(&mut ProxyConfig) + Send,
    test: impl FnOnce(Lab) -> F + Send,
) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("nothing tested: this takes root");
        return;
    }
    in_new_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let lab = Lab::new(change).await;
            let proxy = Arc::clone(&lab.proxy);
            test(lab).await;
            proxy.shutdown().await;
        });
        Ok::<_, io::Error>(())
    })
    .unwrap();
}

/// Runs a program in a namespace.
pub fn command(namespace: &OwnedFd, line: &str) {
    in_namespace(namespace.as_fd(), || {
        let mut words = line.split_whitespace();
        let output = Command::new(words.next().unwrap()).args(words).output()?;
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok::<_, io::Error>(())
    })
    .unwrap();
}

impl Lab {
    async fn new(change: impl FnOnce(&mut ProxyConfig)) -> Self {
        let host = namespace().unwrap();
        let internet: OwnedFd = in_new_namespace(namespace).unwrap();
        let path = {
            use std::os::fd::AsRawFd;
            format!("/proc/{}/fd/{}", std::process::id(), internet.as_raw_fd())
        };
        command(&host, "ip link set lo up");
        command(
            &host,
            &format!("ip link add h0 type veth peer name i0 netns {path}"),
        );
        command(&host, "ip addr add 9.9.9.254/24 dev h0");
        command(&host, &format!("ip addr add {OWN}/32 dev lo"));
        command(&host, "ip link set h0 up");
        for net in ["10.0.0.0/8", "169.254.0.0/16", "7.7.7.0/24"] {
            command(&host, &format!("ip route add {net} via 9.9.9.1"));
        }
        command(&internet, "ip link set lo up");
        command(&internet, "ip link set i0 up");
        for last in (1..10).chain([53]) {
            command(&internet, &format!("ip addr add 9.9.9.{last}/24 dev i0"));
        }
        for address in ["10.0.0.5", "169.254.169.254", "7.7.7.7"] {
            command(&internet, &format!("ip addr add {address}/32 dev lo"));
        }
        command(&internet, "ip route add 8.8.4.4 via 9.9.9.254");
        let zone = Arc::new(Zone::default());
        let dns = in_namespace(internet.as_fd(), || UdpSocket::bind("9.9.9.53:53")).unwrap();
        dns.set_nonblocking(true).unwrap();
        tokio::spawn(servers::dns(
            tokio::net::UdpSocket::from_std(dns).unwrap(),
            Arc::clone(&zone),
        ));
        let mut config = ProxyConfig {
            program: env!("CARGO_BIN_EXE_omnirun-egress-child").into(),
            arguments: vec!["omnirun-egress-child".into()],
            resolvers: Resolvers::Given {
                servers: vec!["9.9.9.53:53".parse().unwrap()],
                hosts: BTreeMap::new(),
            },
            ..ProxyConfig::default()
        };
        change(&mut config);
        let owner = Arc::new(Owner::default());
        let proxy = Proxy::start(config, Arc::clone(&owner) as Arc<dyn Host>)
            .await
            .unwrap();
        Self {
            host,
            internet,
            zone,
            owner,
            proxy,
            next: AtomicU64::new(1),
        }
    }

    /// A listener of the internet.
    pub fn listen(&self, port: u16) -> tokio::net::TcpListener {
        listen(&self.internet, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
    }

    /// A sandbox under a policy, given as a policy file.
    pub async fn sandbox(&self, policy: &str) -> Sandbox {
        self.try_sandbox(&file(policy)).await.unwrap()
    }

    pub async fn try_sandbox(&self, policy: &Policy) -> Result<Sandbox, EgressError> {
        let namespace: OwnedFd = in_new_namespace(namespace).unwrap();
        for line in [
            "ip link set lo up",
            "ip addr add 192.0.0.1/32 dev lo",
            "ip addr add 192.0.0.2/32 dev lo",
            "ip route add default dev lo src 192.0.0.2",
            "nft add table ip t",
            "nft add chain ip t out { type nat hook output priority -100 ; }",
            "nft add rule ip t out ip daddr != { 127.0.0.0/8, 192.0.0.0/29 } tcp dport != 53 redirect to :9000",
        ] {
            command(&namespace, line);
        }
        let sockets = in_namespace(namespace.as_fd(), || {
            Ok::<[OwnedFd; 4], io::Error>([
                UdpSocket::bind(DNS)?.into(),
                TcpListener::bind(DNS)?.into(),
                TcpListener::bind("0.0.0.0:9000")?.into(),
                TcpListener::bind(EXPLICIT)?.into(),
            ])
        })
        .unwrap();
        let id = AttachmentId(self.next.fetch_add(1, Ordering::SeqCst));
        let [dns_udp, dns_tcp, transparent, explicit] = sockets.each_ref().map(AsFd::as_fd);
        let handed = Sockets {
            dns_udp,
            dns_tcp,
            transparent,
            explicit,
        };
        let attachment = self.proxy.attach(id, handed, policy).await?;
        Ok(Sandbox {
            namespace,
            sockets,
            attachment,
        })
    }
}

/// A socket's address.
pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub fn file(policy: &str) -> Policy {
    Policy::from_toml(policy, &NoPresets).unwrap()
}

pub fn listen(namespace: &OwnedFd, at: SocketAddr) -> tokio::net::TcpListener {
    let listener = in_namespace(namespace.as_fd(), || TcpListener::bind(at)).unwrap();
    listener.set_nonblocking(true).unwrap();
    tokio::net::TcpListener::from_std(listener).unwrap()
}

impl Sandbox {
    /// A connection from inside the sandbox.
    pub async fn connect(&self, to: impl Into<SocketAddr>) -> TcpStream {
        let to = to.into();
        let stream = in_namespace(self.namespace.as_fd(), || {
            std::net::TcpStream::connect_timeout(&to, SOON)
        })
        .unwrap();
        stream.set_nonblocking(true).unwrap();
        TcpStream::from_std(stream).unwrap()
    }

    /// What our DNS answers: code and addresses.
    pub async fn resolve(&self, name: &str) -> (u8, Vec<Ipv4Addr>) {
        let answer = self.ask(name, 1).await;
        servers::read_answer(&answer)
    }

    /// A socket to our DNS.
    pub fn udp(&self) -> tokio::net::UdpSocket {
        let socket = in_namespace(self.namespace.as_fd(), || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(DNS)?;
            socket.set_nonblocking(true)?;
            Ok::<_, io::Error>(socket)
        })
        .unwrap();
        tokio::net::UdpSocket::from_std(socket).unwrap()
    }

    /// The answer to a query over UDP.
    pub async fn ask(&self, name: &str, kind: u16) -> Vec<u8> {
        let socket = self.udp();
        socket.send(&servers::query(name, kind)).await.unwrap();
        let mut answer = vec![0; 1500];
        let length = timeout(SOON, socket.recv(&mut answer))
            .await
            .expect("an answer")
            .unwrap();
        answer.truncate(length);
        answer
    }
}

/// Completes when it holds: a level, looked at again whenever something else has run.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn caps(change: impl FnOnce(&mut Caps)) -> impl FnOnce(&mut ProxyConfig) {
    |config| change(&mut config.caps)
}

/// Status and body of the next answer.
pub async fn answer(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> (u16, String) {
    let (head, body) = timeout(SOON, servers::read_message(stream, bytes))
        .await
        .expect("an answer in time")
        .expect("an answer");
    let status = head
        .split(' ')
        .nth(1)
        .expect("a status")
        .parse()
        .expect("a number");
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// One request on a connection of its own.
pub async fn ask(sandbox: &Sandbox, to: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = sandbox.connect(to).await;
    stream.write_all(request.as_bytes()).await.expect("sent");
    answer(&mut stream, &mut Vec::new()).await
}

/// A field of a process's status.
pub fn status(pid: u32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{field}:")))
        .unwrap();
    line.split_once(':').unwrap().1.trim().to_owned()
}

pub fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
}
