//! With an uplink.

use std::{
    io::{ErrorKind, Read, Write},
    net::UdpSocket,
};

use omnirun_guest_net::MTU;

use super::{
    lab::{Lab, ip, listen, shell, uplink_address, within},
    *,
};
use crate::testing::Guest;

/// Sends a few bytes to and fro.
pub(super) fn talk(client: &mut TcpStream, server: &mut TcpStream) -> io::Result<()> {
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

pub(super) fn within_time(address: &str) -> io::Result<TcpStream> {
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
