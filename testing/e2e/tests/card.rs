//! Guests with a network card, in the namespaces that sandboxes have: set up before the snapshot, and of use in every
//! clone without another word.

use omnirun_e2e::{
    machines::{Machines, bounded, end, output},
    text,
};
use omnirun_guest_client::GuestClient;
use omnirun_netns::{Kind, Namespace, Networks, NetworksConfig, Ready};
use omnirun_vmm::{AttachDisk, CloneSpec, Nic, Vm};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};

/// What the kernel knows of its card, and the sandbox of names.
const LOOK: &str = "cat /etc/resolv.conf; ls /sys/class/net; cd /sys/class/net/eth0; cat address mtu operstate \
                    /proc/sys/net/ipv6/conf/eth0/disable_ipv6; tail -n +2 /proc/net/route; tail -n +2 /proc/net/arp";
/// How much is moved each way.
const MUCH: usize = 3 << 20;

/// `None`, with a word, where namespaces cannot be had.
async fn networks() -> Option<Arc<Networks>> {
    let config = NetworksConfig {
        tag: format!("card_{}", std::process::id()),
        special: Vec::new(),
        ready: Ready::default(),
        host: None,
    };
    match Networks::open(config).await {
        Ok(networks) => Some(networks),
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            None
        }
    }
}

/// Where one card leads.
struct Port {
    namespace: Namespace,
    proxy: TcpListener,
    dns: UdpSocket,
}

impl Port {
    async fn new(networks: &Networks) -> Self {
        let namespace = networks.take(Kind::Restricted).await.expect("a namespace");
        let sockets = namespace.sockets().try_clone().expect("descriptors");
        Self {
            namespace,
            proxy: TcpListener::from_std(sockets.explicit.into()).expect("a listener"),
            dns: UdpSocket::from_std(sockets.dns_udp.into()).expect("a socket"),
        }
    }

    fn nic(&self) -> Option<Nic> {
        let namespace = self.namespace.descriptor();
        Some(Nic { namespace })
    }

    /// Takes a connection of the guest's, its first line, and so much; says a word, and so much.
    async fn serve(&self, word: &str) -> String {
        let (mut stream, peer) = self.proxy.accept().await.expect("a connection");
        assert_eq!(peer.ip(), omnirun_guest_net::GUEST_IP);
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.push(stream.read_u8().await.expect("a line"));
        }
        let mut sent = vec![0; MUCH];
        stream.read_exact(&mut sent).await.expect("what it sends");
        assert!(sent.iter().all(|byte| *byte == 0));
        stream
            .write_all(format!("{word}\n").as_bytes())
            .await
            .expect("written");
        stream.write_all(&vec![b'.'; MUCH]).await.expect("written");
        text(&line)
    }

    /// Answers one name with an address.
    async fn resolve(&self) -> String {
        let mut query = vec![0; 512];
        let (len, from) = self.dns.recv_from(&mut query).await.expect("a query");
        query.truncate(len);
        let question = query.get(12..len).expect("a question").to_vec();
        let name: Vec<u8> = question
            .iter()
            .skip(1)
            .take_while(|b| **b > 13)
            .copied()
            .collect();
        // No more than the header and the question; an A record with an address and 4 s to live.
        let question = &question[..name.len() + 2 + 5 + 4];
        let answer = [
            &query[..2],
            &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0],
            question,
            &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 4, 0, 4, 192, 0, 2, 7],
        ]
        .concat();
        self.dns.send_to(&answer, from).await.expect("sent");
        text(&name)
    }

    /// What has come by its rules, to whatever end.
    async fn seen(&self) -> Vec<String> {
        let rules = self.namespace.rules().await.expect("its rules");
        let hit = rules.into_iter().filter(|rule| rule.packets > 0);
        hit.map(|rule| format!("{}: {}", rule.name, rule.packets))
            .collect()
    }
}

/// A clone with its own gateway.
struct Clone {
    vm: Box<dyn Vm>,
    guest: GuestClient,
    port: Port,
    disk: Option<AttachDisk>,
    name: String,
}

impl Clone {
    async fn talks(&self) {
        let Self {
            guest, port, name, ..
        } = self;
        let line = format!(
            "bash -c 'exec 3<>/dev/tcp/192.0.0.1/3128; echo {name} >&3; head -c {MUCH} /dev/zero >&3; read word <&3; \
             echo $word; cat <&3 | wc -c'"
        );
        let word = format!("{name} is served");
        let (said, served) = tokio::join!(output(guest, &line), bounded("a connection", port.serve(&word)));
        assert_eq!(text(&said), format!("{word}\n{MUCH}\n"));
        assert_eq!(served, format!("{name}\n"));
        let line = format!("getent ahostsv4 {name}.test | head -n 1");
        let (said, asked) = tokio::join!(output(guest, &line), bounded("a query", port.resolve()));
        assert!(text(&said).starts_with("192.0.2.7 "), "{}", text(&said));
        assert_eq!(asked, *name);
    }

    /// Nothing has come here that was meant for another.
    async fn is_alone(&self) {
        let soon = Duration::from_millis(1);
        assert!(
            tokio::time::timeout(soon, self.port.proxy.accept())
                .await
                .is_err()
        );
        let mut byte = [0];
        let came: Result<Result<(usize, SocketAddr), _>, _> =
            tokio::time::timeout(soon, self.port.dns.recv_from(&mut byte)).await;
        assert!(came.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_of_a_guest_with_a_card_reach_their_own_gateways_and_go_on_elsewhere() {
    let Some(networks) = networks().await else { return };
    let machines = Machines::new().await;
    let first = Port::new(&networks).await;
    let (vm, guest) = machines.boot(first.nic()).await;
    drop(guest);
    let files = machines.save(&*vm).await;
    end(vm).await;
    assert_eq!(first.seen().await, [""; 0], "a guest says nothing by itself");

    let mut clones = Vec::new();
    for name in ["alpha", "beta-with-a-longer-name"] {
        let port = Port::new(&networks).await;
        let (vm, guest, _) = machines.restore(machines.clone_of(&files, port.nic())).await;
        let disk = machines.claim(&*vm, &guest).await;
        clones.push(Clone {
            vm,
            guest,
            port,
            disk: Some(disk),
            name: name.to_owned(),
        });
    }
    for clone in &clones {
        let seen = output(&clone.guest, LOOK).await;
        let words: Vec<String> = text(&seen).split_whitespace().map(str::to_owned).collect();
        let wanted = "nameserver 192.0.0.1 eth0 lo 02:4f:52:00:00:02 1500 up 1 \
                      eth0 00000000 010000C0 0003 0 0 0 00000000 0 0 0 \
                      eth0 000000C0 00000000 0001 0 0 0 F8FFFFFF 0 0 0 \
                      192.0.0.1 0x1 0x6 02:4f:52:00:00:01 * eth0";
        // Firecracker's card does not say whether its other end is there.
        let words = words.join(" ").replace(" unknown ", " up ");
        assert_eq!(words, wanted.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    for _ in 0..2 {
        let [one, other] = &clones[..] else { panic!("two") };
        tokio::join!(one.talks(), other.talks());
        one.is_alone().await;
        other.is_alone().await;
    }

    // One of them is saved with what it has on its disk, and goes on elsewhere.
    let other = clones.pop().expect("two");
    let Some(Clone {
        vm,
        guest,
        port,
        disk,
        name,
    }) = clones.pop()
    else {
        panic!("two")
    };
    drop(guest);
    let files = machines.save(&*vm).await;
    end(vm).await;
    drop(port);
    let port = Port::new(&networks).await;
    let spec = CloneSpec {
        disk,
        ..machines.clone_of(&files, port.nic())
    };
    let (vm, guest, _) = machines.restore(spec).await;
    let resumed = Clone {
        vm,
        guest,
        port,
        disk: None,
        name,
    };
    tokio::join!(resumed.talks(), other.talks());
    for clone in [resumed, other] {
        clone.is_alone().await;
        end(clone.vm).await;
    }
    drop(first);
    networks.shutdown().await.expect("nothing is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_without_a_card_has_loopback_alone() {
    let machines = Machines::new().await;
    let (vm, guest) = machines.boot(None).await;
    machines.claim(&*vm, &guest).await;
    let seen = output(
        &guest,
        "ls /sys/class/net; cat /etc/resolv.conf; tail -n +2 /proc/net/route",
    )
    .await;
    assert_eq!(text(&seen), "lo\n");
    end(vm).await;
}
