//! A sandbox without a VM.

use std::{
    collections::BTreeMap,
    error::Error,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd, OwnedFd},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use omnirun_egress::{Attachment, AttachmentId, Host, Proxy, ProxyConfig, Sockets};
use omnirun_egress_policy::{AuditLine, Mode, NoPresets, Policy, special, special_v4_nets};
use omnirun_escape_test::{
    Attacker, AttackerError, Patience, Report, Run, Sandbox, World,
    attempts::{Attempt, From},
    lab::{
        LINK, Lab,
        zone::{self, PERMITTED_PRIVATE},
    },
    world::Uplink,
};
use omnirun_guest_net::UPLINK;
use omnirun_netns::{Kind, Namespace, Networks, NetworksConfig, Ready, Special, testing::Guest};
use omnirun_sys::host::net;
use tokio::sync::{Mutex as AsyncMutex, mpsc};

/// The argument that makes this program the proxy's child.
pub const CHILD: &str = "egress-proxy";

/// Everything that a sandbox has but the VM.
pub struct Play<'a> {
    lab: &'a Lab,
    mode: Mode,
    networks: Arc<Networks>,
    pub namespace: Arc<Namespace>,
    proxy: Arc<Proxy>,
    attachment: AsyncMutex<Option<Attachment>>,
    log: Arc<Mutex<Vec<AuditLine>>>,
    guest: Guest,
    /// Another sandbox of the same owner.
    neighbour: Option<Namespace>,
    pub world: World,
    /// What is to be in force instead of what it begins with.
    tighter: Option<Policy>,
    /// Rules that were taken out and are shown as if nothing had met them.
    removed: Vec<String>,
}

/// The owner, as the proxy sees it.
struct Owner {
    namespace: Arc<Namespace>,
    log: Arc<Mutex<Vec<AuditLine>>>,
}

#[async_trait]
impl Host for Owner {
    async fn answered(
        &self,
        _: AttachmentId,
        addresses: &[Ipv4Addr],
        ttl: Duration,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(self.namespace.answered(addresses, ttl).await?)
    }

    fn audit(&self, _: AttachmentId, line: AuditLine) {
        self.log.lock().unwrap().push(line);
    }
}

/// Root in the namespace that plays the guest.
pub struct Native(Arc<OwnedFd>);

impl Native {
    /// In a namespace that has nothing.
    pub fn nowhere() -> Self {
        Self(Arc::new(net::in_new_namespace(net::namespace).unwrap()))
    }
}

#[async_trait]
impl Attacker for Native {
    async fn run(&self, script: &[u8], _: u32, said: mpsc::Sender<Vec<u8>>) -> Result<(), AttackerError> {
        let (namespace, script) = (self.0.clone(), script.to_vec());
        tokio::task::spawn_blocking(move || {
            let mut python = net::in_namespace(namespace.as_fd(), || {
                Command::new("python3")
                    .arg("-")
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
            })
            .unwrap();
            python.stdin.take().unwrap().write_all(&script).unwrap();
            let mut stdout = python.stdout.take().unwrap();
            let mut piece = vec![0; 1 << 16];
            loop {
                let length = stdout.read(&mut piece).unwrap();
                if length == 0 || said.blocking_send(piece[..length].to_vec()).is_err() {
                    break;
                }
            }
            // It ends by itself, as its plan says.
            python.wait().unwrap();
            Ok(())
        })
        .await
        .unwrap()
    }
}

#[async_trait]
impl Sandbox for Play<'_> {
    async fn rules(&self) -> Result<BTreeMap<String, u64>, String> {
        let mut rules: BTreeMap<String, u64> = BTreeMap::new();
        let inside = self.namespace.rules().await.map_err(|e| e.to_string())?;
        let outside = self.namespace.host_rules().await.map_err(|e| e.to_string())?;
        for rule in inside.into_iter().chain(outside) {
            *rules.entry(rule.name).or_default() += rule.packets;
        }
        for name in &self.removed {
            rules.entry(name.clone()).or_default();
        }
        Ok(rules)
    }

    async fn tighten(&self) -> Result<(), String> {
        let Some(policy) = &self.tighter else {
            return Ok(());
        };
        apply(&self.namespace, policy).await;
        let attachment = self.attachment.lock().await;
        let attachment = attachment.as_ref().ok_or("there is no attachment")?;
        attachment.update(policy).await.map_err(|e| e.to_string())
    }

    async fn audit(&self) -> Result<Vec<AuditLine>, String> {
        // So ends what is still open, and the proxy says of everything what became of it.
        let attachment = self.attachment.lock().await.take();
        if let Some(attachment) = attachment {
            attachment.detach().await.map_err(|e| e.to_string())?;
        }
        Ok(self.log.lock().unwrap().clone())
    }
}

fn policy(text: String) -> Policy {
    Policy::from_toml(&text, &NoPresets).unwrap()
}

/// Puts a policy's addresses into force. In an open network a private one is permitted besides, which no policy does.
async fn apply(namespace: &Namespace, policy: &Policy) {
    let mut permitted = policy.permitted();
    if namespace.kind() == Kind::Open {
        permitted.push(IpAddr::V4(PERMITTED_PRIVATE).into());
    }
    namespace
        .apply(&permitted, &policy.denied(), policy.proxies_web())
        .await
        .unwrap();
}

fn kinds() -> Vec<Special> {
    special_v4_nets()
        .into_iter()
        .map(|(name, nets)| Special {
            name: name.to_owned(),
            permittable: special(nets[0].network().into()).is_some_and(|special| special.listable),
            nets,
        })
        .collect()
}

impl<'a> Play<'a> {
    /// What the lab is made for.
    pub async fn begin(lab: &'a Lab, mode: Mode) -> Self {
        let open = mode == Mode::Open;
        let tighter = policy(World::lab_policy(open));
        let first = policy(World::lab_policy_at_first(open));
        Self::under(lab, mode, World::lab(), first, Some(tighter)).await
    }

    /// As if the lab were this host's own network.
    pub async fn begin_unaware(lab: &'a Lab, mode: Mode) -> Self {
        let site = zone::LISTED.0;
        let first = policy(World::real_policy(mode, site).unwrap());
        Self::under(lab, mode, World::real(site).unwrap(), first, None).await
    }

    async fn under(
        lab: &'a Lab,
        mode: Mode,
        mut world: World,
        policy: Policy,
        tighter: Option<Policy>,
    ) -> Self {
        let config = NetworksConfig {
            tag: format!("play_{}", std::process::id()),
            special: kinds(),
            ready: Ready::default(),
            host: None,
        };
        let networks = Networks::open(config).await.unwrap();
        let kind = if mode == Mode::Open {
            Kind::Open
        } else {
            Kind::Restricted
        };
        let namespace = Arc::new(networks.take(kind).await.unwrap());
        assert_eq!(policy.mode(), mode);
        apply(&namespace, &policy).await;
        let log = Arc::new(Mutex::new(Vec::new()));
        let owner = Owner {
            namespace: namespace.clone(),
            log: log.clone(),
        };
        let config = ProxyConfig {
            arguments: vec!["escape".to_owned(), CHILD.to_owned()],
            ..ProxyConfig::default()
        };
        let proxy = Proxy::start(config, Arc::new(owner)).await.unwrap();
        let sockets = namespace.sockets();
        let sockets = Sockets {
            dns_udp: sockets.dns_udp.as_fd(),
            dns_tcp: sockets.dns_tcp.as_fd(),
            transparent: sockets.transparent.as_fd(),
            explicit: sockets.explicit.as_fd(),
        };
        let attachment = proxy.attach(AttachmentId(1), sockets, &policy).await.unwrap();
        let guest = Guest::plug(namespace.descriptor()).unwrap();
        // Its vsock would be that of the machine that the tests run on.
        world.machine = false;
        world.uplink = Uplink::find(namespace.descriptor().as_fd()).unwrap();
        let mut neighbour = None;
        if mode == Mode::Open {
            world.permitted_private = world.lab.then_some(PERMITTED_PRIVATE);
            let other = networks.take(Kind::Open).await.unwrap();
            let uplink = Uplink::find(other.descriptor().as_fd()).unwrap().unwrap();
            world.sandboxes = vec![uplink.address];
            neighbour = Some(other);
        }
        Self {
            lab,
            mode,
            networks,
            namespace,
            proxy,
            attachment: AsyncMutex::new(Some(attachment)),
            log,
            guest,
            neighbour,
            world,
            tighter,
            removed: Vec::new(),
        }
    }

    pub async fn run(&self, only: Option<&(dyn Fn(&Attempt) -> bool + Sync)>) -> Report {
        let run = Run {
            mode: self.mode,
            world: &self.world,
            places: self.lab.places("omr"),
            records: self.world.lab.then(|| self.lab.records()),
            driver: "no VM".to_owned(),
            others: vec![
                (From::Namespace, self.namespace.descriptor(), UPLINK.to_owned()),
                (From::Internet, self.lab.internet(), LINK.to_owned()),
            ],
            patience: Patience {
                limit: 1.0,
                ..Patience::default()
            },
            only,
        };
        run.run(&Native(self.guest.namespace()), self).await.unwrap()
    }

    /// Takes a rule out. If it is to be `shown`, it seems to be there still, and to have met nothing.
    pub async fn remove(&mut self, rule: &str, shown: bool) {
        if rule.starts_with("host-") {
            self.namespace.remove_host_rule(rule).await.unwrap();
        } else {
            self.namespace.remove_rule(rule).await.unwrap();
        }
        if shown {
            self.removed.push(rule.to_owned());
        }
    }

    /// The names of all rules.
    pub async fn names(&self) -> Vec<String> {
        self.rules().await.unwrap().into_keys().collect()
    }

    pub async fn end(self) {
        drop(self.guest);
        self.proxy.shutdown().await;
        drop(self.proxy);
        drop((self.namespace, self.neighbour));
        self.networks.shutdown().await.unwrap();
    }
}

/// A sandbox of mode `none`.
struct Bare;

#[async_trait]
impl Sandbox for Bare {
    async fn rules(&self) -> Result<BTreeMap<String, u64>, String> {
        Ok(BTreeMap::new())
    }

    async fn tighten(&self) -> Result<(), String> {
        Ok(())
    }

    async fn audit(&self) -> Result<Vec<AuditLine>, String> {
        Ok(Vec::new())
    }
}

/// A run in mode `none`.
pub async fn without_card(lab: &Lab, attacker: &dyn Attacker) -> Report {
    let mut world = World::lab();
    world.machine = false;
    let run = Run {
        mode: Mode::None,
        world: &world,
        places: lab.places("omr"),
        records: Some(lab.records()),
        driver: "no VM".to_owned(),
        others: Vec::new(),
        patience: Patience::default(),
        only: None,
    };
    run.run(attacker, &Bare).await.unwrap()
}
