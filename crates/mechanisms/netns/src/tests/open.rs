//! With an uplink.

use std::{
    io::{ErrorKind, Read, Write},
    net::UdpSocket,
};

use omnirun_guest_net::MTU;

use super::{
    lab::{Lab, ip, listen, nft, shell, uplink_address, within, write},
    *,
};
use crate::{NetError, testing::Guest};

/// Sends a few bytes to and fro.
fn talk(client: &mut TcpStream, server: &mut TcpStream) -> io::Result<()> {
    let mut bytes = [0; 4];
    client.write_all(b"ping")?;
    server.read_exact(&mut bytes)?;
    server.write_all(b"pong")?;
    client.read_exact(&mut bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_internet_is_reached_and_what_is_private_is_not() {
    if !may() {
        return;
    }
    let lab = Lab::new();
    let networks = networks("public", Some(lab.host.clone())).await;
    let namespace = networks.take(Kind::Open).await.unwrap();
    let other = networks.take(Kind::Open).await.unwrap();
    let guest = Guest::plug(namespace.descriptor()).unwrap();

    let server = listen(&lab.internet, "5.5.5.5:7777");
    let mut client = guest.run(|| connect("5.5.5.5:7777")).unwrap();
    let mut connection = accept(&server);
    talk(&mut client, &mut connection).unwrap();
    // Everybody outside sees the host's address.
    assert_eq!(connection.peer_addr().unwrap().ip().to_string(), "203.0.113.2");

    let question = within(&lab.internet, || UdpSocket::bind("5.5.5.5:5000")).unwrap();
    question.set_read_timeout(Some(LONG)).unwrap();
    let client = guest.run(|| udp("5.5.5.5:5000")).unwrap();
    client.send(b"ping").unwrap();
    let (length, from) = question.recv_from(&mut [0; 8]).unwrap();
    question.send_to(b"pong", from).unwrap();
    assert_eq!((length, client.recv(&mut [0; 8]).unwrap()), (4, 4));
    // DNS is ours, whoever is asked.
    let client = guest.run(|| udp("5.5.5.5:53")).unwrap();
    client.send(b"question").unwrap();
    let dns = UdpSocket::from(namespace.sockets().dns_udp.try_clone().unwrap());
    dns.set_nonblocking(false).unwrap();
    dns.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(dns.recv(&mut [0; 16]).unwrap(), 8);

    let servers = [
        listen(&lab.internet, "10.1.2.3:7777"),
        listen(&lab.internet, "169.254.169.254:7777"),
        // The host, by whichever of its addresses.
        listen(&lab.host, "0.0.0.0:7777"),
    ];
    let neighbour = format!("{}:53", uplink_address(&other));
    for private in [
        "10.1.2.3:7777",
        "169.254.169.254:7777",
        "203.0.113.2:7777",
        "203.0.114.2:7777",
        "10.0.0.1:7777",
        "198.18.0.1:7777",
        &neighbour,
    ] {
        assert!(guest.run(|| within_time(private)).is_err(), "{private}");
    }
    assert!(servers.iter().all(silent));
    // Both addresses of it that are not special in themselves.
    lab.until_met("host-address", 2);
    // Nor do their rules alone hold: the host's do, should a guest command its namespace.
    let inside = namespace.descriptor();
    shell(&inside, "nft flush ruleset");
    for (private, rule) in [("10.1.2.3:7777", "host-special"), (&*neighbour, "host-special")] {
        let before = lab.met(rule);
        assert!(within(&inside, || within_time(private)).is_err());
        lab.until_met(rule, before + 1);
    }
    assert!(servers.iter().all(silent));
    networks.shutdown().await.unwrap();
}

fn within_time(address: &str) -> io::Result<TcpStream> {
    super::within(address, SHORT)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tightened_policy_ends_live_flows_in_both_directions() {
    if !may() {
        return;
    }
    let lab = Lab::new();
    let networks = networks("tighter", Some(lab.host.clone())).await;
    let namespace = networks.take(Kind::Open).await.unwrap();
    let guest = Guest::plug(namespace.descriptor()).unwrap();
    let none = [];
    let (denied, web) = (
        listen(&lab.internet, "5.5.5.5:7777"),
        listen(&lab.internet, "5.5.5.5:80"),
    );
    let mut flows = [("5.5.5.5:7777", &denied), ("5.5.5.5:80", &web)].map(|(address, server)| {
        let mut client = guest.run(|| connect(address)).unwrap();
        let mut connection = accept(server);
        talk(&mut client, &mut connection).unwrap();
        (client, connection)
    });

    namespace.apply(&none, &none, true).await.unwrap();
    let (client, connection) = &mut flows[1];
    client.write_all(b"too late").unwrap();
    until_met(&namespace, "web-past-proxy").await;
    connection.write_all(b"too late").unwrap();
    assert!(silent(&*client) && silent(&*connection));
    // A new one goes to the proxy.
    let _client = guest.run(|| connect("5.5.5.5:80")).unwrap();
    accept(&namespace.sockets().transparent);
    assert!(silent(&web));
    // The other flow is none of this.
    let (client, connection) = &mut flows[0];
    talk(client, connection).unwrap();

    namespace
        .apply(&none, &["5.5.5.0/24".parse().unwrap()], false)
        .await
        .unwrap();
    connection.write_all(b"too late").unwrap();
    until_met(&namespace, "denied-flow").await;
    client.write_all(b"too late").unwrap();
    until_met(&namespace, "denied").await;
    assert!(silent(&*client) && silent(&*connection));
    networks.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permitted_private_address_is_the_proxys_to_reach() {
    if !may() {
        return;
    }
    let lab = Lab::new();
    let networks = networks("permitted", Some(lab.host.clone())).await;
    let namespace = networks.take(Kind::Open).await.unwrap();
    let guest = Guest::plug(namespace.descriptor()).unwrap();
    namespace
        .apply(&["10.1.2.3/32".parse().unwrap()], &[], false)
        .await
        .unwrap();
    let server = listen(&lab.internet, "10.1.2.3:7777");
    let _client = guest.run(|| connect("10.1.2.3:7777")).unwrap();
    accept(&namespace.sockets().transparent);
    assert!(silent(&server));
    networks.shutdown().await.unwrap();
}

/// What routers and servers have to say about a flow, and nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn errors_come_back_where_they_help_and_none_from_private_routers() {
    if !may() {
        return;
    }
    let lab = Lab::new();
    let networks = networks("errors", Some(lab.host.clone())).await;
    let namespace = networks.take(Kind::Open).await.unwrap();
    let guest = Guest::plug(namespace.descriptor()).unwrap();
    let closed = guest.run(|| udp("5.5.5.5:9")).unwrap();
    closed.send(b"anybody?").unwrap();
    assert_eq!(
        closed.recv(&mut [0; 8]).unwrap_err().kind(),
        ErrorKind::ConnectionRefused
    );
    until_met(&namespace, "inward-unreachable").await;

    // Too large for the link to the far end, and not to be cut: the guest learns how large it may be.
    let large = guest.run(|| udp("6.6.6.6:9")).unwrap();
    let _ = large.send(&[0; 1400]);
    until_met(&namespace, "inward-too-big").await;

    let server = listen(&lab.far, "6.6.6.6:7777");
    let mut client = guest.run(|| connect("6.6.6.6:7777")).unwrap();
    let mut connection = accept(&server);
    talk(&mut client, &mut connection).unwrap();
    let (mut sender, mut bytes) = (client.try_clone().unwrap(), vec![0; 100_000]);
    let sending = std::thread::spawn(move || sender.write_all(&[7; 100_000]));
    connection.read_exact(&mut bytes).unwrap();
    sending.join().unwrap().unwrap();

    // The second router's own address is private: it is not told, as in a trace of the route.
    let hops = guest.run(|| udp("6.6.6.6:10")).unwrap();
    hops.set_ttl(3).unwrap();
    hops.send(b"hop").unwrap();
    until_met(&namespace, "inward-special").await;
    networks.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_are_no_larger_than_the_uplink_takes() {
    if !may() {
        return;
    }
    let lab = Lab::new();
    ip(&lab.host, &["link set uplink mtu 1380"]);
    let networks = networks("mtu", Some(lab.host.clone())).await;
    let namespace = networks.take(Kind::Open).await.unwrap();
    let mtu = |namespace: &OwnedFd, name: &str| {
        let links = within(namespace, || crate::netlink::Netlink::route()?.links()).unwrap();
        links.into_iter().find(|link| link.name == name).unwrap().mtu
    };
    assert_eq!(mtu(&namespace.descriptor(), "up0"), 1380);
    assert_eq!(mtu(&namespace.descriptor(), "tap0"), MTU);
    assert_eq!(mtu(&lab.host, namespace.host_link().unwrap()), 1380);
    networks.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_is_on_where_it_is_needed_while_anybody_needs_it() {
    if !may() {
        return;
    }
    let lab = Lab::new();
    let [first, second] = [
        networks("first", Some(lab.host.clone())).await,
        networks("second", Some(lab.host.clone())).await,
    ];
    assert!(!lab.forwarding("uplink"));
    let one = first.take(Kind::Open).await.unwrap();
    let on = |link: &str| lab.forwarding(link);
    assert!(on("uplink") && on(one.host_link().unwrap()));
    assert!(!on("all") && !on("default") && !on("spare"));
    let two = second.take(Kind::Open).await.unwrap();
    assert_eq!(
        lab.tables(),
        [
            crate::host::table::name(&tag("first")),
            crate::host::table::name(&tag("second"))
        ]
    );

    // Two owners do not get into each other's way, nor does one that goes.
    let server = listen(&lab.internet, "5.5.5.5:7777");
    let guests = [&one, &two].map(|namespace| Guest::plug(namespace.descriptor()).unwrap());
    let both = || {
        for guest in &guests {
            let mut client = guest.run(|| connect("5.5.5.5:7777")).unwrap();
            talk(&mut client, &mut accept(&server)).unwrap();
        }
    };
    both();
    let [_, guest] = &guests;
    first.shutdown().await.unwrap();
    assert!(on("uplink"));
    let mut client = guest.run(|| connect("5.5.5.5:7777")).unwrap();
    talk(&mut client, &mut accept(&server)).unwrap();
    assert_eq!(lab.links(), [two.host_link().unwrap()]);
    second.shutdown().await.unwrap();
    assert!(!on("uplink"));
    assert_eq!(lab.tables(), Vec::<String>::new());
    assert_eq!(lab.links(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_that_others_switched_on_stays() {
    if !may() {
        return;
    }
    let lab = Lab::new();
    // Of this link, before us.
    write(&lab.host, "ipv4/conf/uplink/forwarding", "1");
    let networks = networks("before", Some(lab.host.clone())).await;
    drop(networks.take(Kind::Open).await.unwrap());
    networks.shutdown().await.unwrap();
    assert!(lab.forwarding("uplink"));
    write(&lab.host, "ipv4/conf/uplink/forwarding", "0");

    // Of all links, while we were there.
    let networks = super::networks("meanwhile", Some(lab.host.clone())).await;
    drop(networks.take(Kind::Open).await.unwrap());
    write(&lab.host, "ipv4/ip_forward", "1");
    networks.shutdown().await.unwrap();
    assert!(lab.forwarding("uplink"));

    // Of all but this one, before us.
    write(&lab.host, "ipv4/conf/uplink/forwarding", "0");
    let networks = super::networks("exception", Some(lab.host.clone())).await;
    drop(networks.take(Kind::Open).await.unwrap());
    assert!(lab.forwarding("uplink"));
    networks.shutdown().await.unwrap();
    assert!(!lab.forwarding("uplink"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_does_not_become_a_router() {
    if !may() {
        return;
    }
    let lab = Lab::new();
    // A neighbour of the host's on its second link, to which somebody on the first would like to be forwarded.
    ip(&lab.internet, &["route add 203.0.116.1/32 via 203.0.113.2"]);
    ip(
        &lab.host,
        &[
            "route add 203.0.116.1/32 dev lo",
            "route del 203.0.116.1/32 dev lo",
            "route add 203.0.116.1/32 via 203.0.114.1 dev spare",
        ],
    );
    let networks = networks("router", Some(lab.host.clone())).await;
    let namespace = networks.take(Kind::Open).await.unwrap();
    let asked = |to: &str| within(&lab.internet, || within_time(to)).is_err();
    assert!(asked("203.0.116.1:80"));
    lab.until_met("host-not-a-router", 1);
    // And nobody outside begins a connection with a sandbox.
    ip(&lab.internet, &["route add 198.18.0.0/15 via 203.0.113.2"]);
    assert!(asked(&format!("{}:53", uplink_address(&namespace))));
    lab.until_met("host-inward-new", 1);
    networks.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_way_out_is_followed() {
    if !may() {
        return;
    }
    let lab = Lab::new();
    let networks = networks("moved", Some(lab.host.clone())).await;
    let namespace = networks.take(Kind::Open).await.unwrap();
    let guest = Guest::plug(namespace.descriptor()).unwrap();
    let server = listen(&lab.internet, "5.5.5.5:7777");
    ip(&lab.host, &["route replace default via 203.0.114.1"]);
    let deadline = std::time::Instant::now() + LONG;
    while !lab.forwarding("spare") {
        assert!(std::time::Instant::now() < deadline);
    }
    let mut client = guest.run(|| connect("5.5.5.5:7777")).unwrap();
    let mut connection = accept(&server);
    talk(&mut client, &mut connection).unwrap();
    assert_eq!(connection.peer_addr().unwrap().ip().to_string(), "203.0.114.2");
    networks.shutdown().await.unwrap();
    assert!(!lab.forwarding("uplink") && !lab.forwarding("spare"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_one_is_cut_off_though_a_vmm_still_holds_it() {
    if !may() {
        return;
    }
    let lab = Lab::new();
    let networks = networks("cut", Some(lab.host.clone())).await;
    let namespace = networks.take(Kind::Open).await.unwrap();
    let server = listen(&lab.internet, "5.5.5.5:7777");
    let guest = Guest::plug(namespace.descriptor()).unwrap();
    guest.run(|| connect("5.5.5.5:7777")).unwrap();
    accept(&server);
    namespace.close().await.unwrap();
    assert!(guest.run(|| within_time("5.5.5.5:7777")).is_err());
    assert!(silent(&server));
    drop(guest);
    let deadline = std::time::Instant::now() + LONG;
    while !lab.links().is_empty() {
        assert!(
            std::time::Instant::now() < deadline,
            "the kernel has not removed it"
        );
    }
    networks.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_way_out_is_said_so() {
    if !may() {
        return;
    }
    let lab = Lab::new();
    ip(&lab.host, &["route del default"]);
    let networks = networks("nowhere", Some(lab.host.clone())).await;
    assert!(matches!(networks.take(Kind::Open).await, Err(NetError::NoUplink)));
    // A restricted one does not mind.
    networks.take(Kind::Restricted).await.unwrap();
    ip(&lab.host, &["route add default via 203.0.113.1"]);
    networks.take(Kind::Open).await.unwrap();
    networks.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_firewall_that_drops_is_named_and_the_advice_helps() {
    if !may() {
        return;
    }
    let lab = Lab::new();
    let docker = "table ip filter {
        chain DOCKER-USER { counter return; }
        chain FORWARD { type filter hook forward priority 0; policy drop; counter jump DOCKER-USER; }
    }";
    nft(&lab.host, docker);
    let networks = networks("docker", Some(lab.host.clone())).await;
    let Err(NetError::ForwardDrop { by, hint }) = networks.take(Kind::Open).await else {
        panic!("a chain that drops was not seen");
    };
    assert!(by.starts_with("Docker"), "{by}");
    assert_eq!(
        hint,
        "iptables -I DOCKER-USER -i omr+ -j ACCEPT && iptables -I DOCKER-USER -o omr+ -j ACCEPT"
    );
    // What that command does, without iptables.
    nft(
        &lab.host,
        "insert rule ip filter DOCKER-USER iifname \"omr*\" counter accept",
    );
    nft(
        &lab.host,
        "insert rule ip filter DOCKER-USER oifname \"omr*\" counter accept",
    );
    works(&lab, &networks).await;

    // Anybody else's.
    nft(&lab.host, "flush ruleset");
    networks.shutdown().await.unwrap();
    let networks = super::networks("other", Some(lab.host.clone())).await;
    nft(
        &lab.host,
        "table inet mine { chain passing { type filter hook forward priority 5; policy drop; }; }",
    );
    let Err(NetError::ForwardDrop { by, hint }) = networks.take(Kind::Open).await else {
        panic!("a chain that drops was not seen");
    };
    assert_eq!(by, "chain passing of nftables table inet mine");
    shell(&lab.host, &hint);
    works(&lab, &networks).await;
    networks.shutdown().await.unwrap();
}

async fn works(lab: &Lab, networks: &Networks) {
    let namespace = networks.take(Kind::Open).await.unwrap();
    let guest = Guest::plug(namespace.descriptor()).unwrap();
    let server = listen(&lab.internet, "5.5.5.5:7777");
    let mut client = guest.run(|| connect("5.5.5.5:7777")).unwrap();
    talk(&mut client, &mut accept(&server)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_rules_are_counted_and_can_be_taken_out() {
    if !may() {
        return;
    }
    let lab = Lab::new();
    let networks = networks("host_rules", Some(lab.host.clone())).await;
    let namespace = networks.take(Kind::Open).await.unwrap();
    let names = |rules: Vec<crate::RuleState>| rules.into_iter().map(|rule| rule.name).collect::<Vec<_>>();
    let before = names(namespace.host_rules().await.unwrap());
    assert!(before.contains(&"host-special".to_owned()), "{before:?}");
    assert!(before.iter().all(|name| name.starts_with("host-")));
    namespace.remove_host_rule("host-special").await.unwrap();
    let after = names(namespace.host_rules().await.unwrap());
    assert_eq!(after.len() + 1, before.len());
    assert!(!after.contains(&"host-special".to_owned()));
    drop(namespace);
    networks.shutdown().await.unwrap();
    let none = restricted().await.host_rules().await.unwrap();
    assert_eq!(none, []);
}
