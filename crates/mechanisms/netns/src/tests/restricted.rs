//! Without an uplink.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use omnirun_guest_net::{GUEST_IP, TAP};
use omnirun_sys::host::net;
use rustix::net::sockopt::ip_original_dst;

use super::*;
use crate::testing::Guest;

#[tokio::test(flavor = "multi_thread")]
async fn a_permitted_connection_arrives_at_the_proxy_and_says_where_it_meant_to_go() {
    if !may() {
        return;
    }
    let namespace = restricted().await;
    let guest = Guest::plug(namespace.descriptor()).unwrap();
    // Nothing is permitted from the start.
    let refused = guest.run(|| connect("203.0.113.5:8443")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    namespace
        .apply(&["203.0.113.4/31".parse().unwrap()], &[], false)
        .await
        .unwrap();
    namespace
        .answered(&[Ipv4Addr::new(198, 51, 100, 9)], LONG)
        .await
        .unwrap();
    for address in ["203.0.113.5:8443", "198.51.100.9:443"] {
        let mut client = guest.run(|| connect(address)).unwrap();
        let mut server = accept(&namespace.sockets().transparent);
        assert_eq!(ip_original_dst(&server).unwrap(), at(address));
        assert_eq!(server.peer_addr().unwrap().ip(), GUEST_IP);
        client.write_all(b"hello").unwrap();
        let mut bytes = [0; 5];
        server.read_exact(&mut bytes).unwrap();
        server.write_all(&bytes).unwrap();
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
    }
    for address in ["203.0.113.6:8443", "198.51.100.10:443"] {
        let refused = guest.run(|| connect(address)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
    until_met_often(&namespace, "unlisted-tcp", 3).await;

    // A changed policy replaces the one before.
    namespace
        .apply(&["203.0.113.6/32".parse().unwrap()], &[], false)
        .await
        .unwrap();
    guest.run(|| connect("203.0.113.6:8443")).unwrap();
    assert!(guest.run(|| connect("203.0.113.5:8443")).is_err());
    // What was answered stays until it is forgotten.
    guest.run(|| connect("198.51.100.9:443")).unwrap();
    namespace.forget_answers().await.unwrap();
    assert!(guest.run(|| connect("198.51.100.9:443")).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_is_ours_and_the_answer_comes_from_whom_was_asked() {
    if !may() {
        return;
    }
    let namespace = restricted().await;
    let guest = Guest::plug(namespace.descriptor()).unwrap();
    let dns = UdpSocket::from(namespace.sockets().dns_udp.try_clone().unwrap());
    dns.set_nonblocking(false).unwrap();
    dns.set_read_timeout(Some(LONG)).unwrap();
    for server in ["192.0.0.1:53", "8.8.8.8:53", "203.0.113.1:53"] {
        // A connected socket takes nothing from anybody else.
        let client = guest.run(|| udp(server)).unwrap();
        client.send(b"question").unwrap();
        let mut bytes = [0; 16];
        let (length, from) = dns.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..length], from.ip()), (&b"question"[..], GUEST_IP.into()));
        dns.send_to(b"answer", from).unwrap();
        let length = client.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"answer");

        let _client = guest.run(|| connect(server)).unwrap();
        let connection = accept(&namespace.sockets().dns_tcp);
        assert_eq!(connection.peer_addr().unwrap().ip(), GUEST_IP);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_gateway_only_the_proxy_port_is_there() {
    if !may() {
        return;
    }
    let namespace = restricted().await;
    let guest = Guest::plug(namespace.descriptor()).unwrap();
    let _client = guest.run(|| connect("192.0.0.1:3128")).unwrap();
    accept(&namespace.sockets().explicit);
    // Also with everything permitted: the transparent one is not for who asks by number.
    namespace
        .apply(&["0.0.0.0/0".parse().unwrap()], &[], false)
        .await
        .unwrap();
    for port in [1, 22, 3129, 8080] {
        let error = guest
            .run(|| within(&format!("192.0.0.1:{port}"), SHORT))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
    // And the proxy port elsewhere is another address like any.
    let _client = guest.run(|| connect("203.0.113.5:3128")).unwrap();
    let connection = accept(&namespace.sockets().transparent);
    assert_eq!(ip_original_dst(&connection).unwrap(), at("203.0.113.5:3128"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_special_takes_a_rule_and_metadata_is_never_reached() {
    if !may() {
        return;
    }
    let namespace = restricted().await;
    let guest = Guest::plug(namespace.descriptor()).unwrap();
    let every = "0.0.0.0/0".parse().unwrap();
    namespace
        .answered(&[Ipv4Addr::new(10, 0, 0, 5)], LONG)
        .await
        .unwrap();
    assert!(guest.run(|| within("10.0.0.5:80", SHORT)).is_err());
    until_met(&namespace, "special-private").await;
    namespace.apply(&[every], &[], false).await.unwrap();
    guest.run(|| connect("10.0.0.5:80")).unwrap();
    for never in ["169.254.169.254:80", "100.100.100.200:80", "168.63.129.16:80"] {
        assert!(guest.run(|| within(never, SHORT)).is_err());
    }
    until_met(&namespace, "special-link-local").await;
    until_met_often(&namespace, "special-metadata", 2).await;
    namespace
        .apply(&[every], &["203.0.113.0/24".parse().unwrap()], false)
        .await
        .unwrap();
    assert!(guest.run(|| within("203.0.113.9:80", SHORT)).is_err());
    until_met(&namespace, "denied").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_address_ends_a_live_connection() {
    if !may() {
        return;
    }
    let namespace = restricted().await;
    let guest = Guest::plug(namespace.descriptor()).unwrap();
    let net = ["203.0.113.0/24".parse().unwrap()];
    namespace.apply(&net, &[], false).await.unwrap();
    let mut client = guest.run(|| connect("203.0.113.9:80")).unwrap();
    let server = accept(&namespace.sockets().transparent);
    namespace.apply(&net, &net, false).await.unwrap();
    client.write_all(b"too late").unwrap();
    until_met(&namespace, "denied").await;
    assert!(silent(&server));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_expire_and_are_prolonged_but_never_shortened() {
    if !may() {
        return;
    }
    let namespace = restricted().await;
    let guest = Guest::plug(namespace.descriptor()).unwrap();
    let [brief, prolonged, long] = [1, 2, 3].map(|last| Ipv4Addr::new(198, 51, 100, last));
    let short = Duration::from_millis(1200);
    namespace.answered(&[brief, prolonged], short).await.unwrap();
    namespace.answered(&[prolonged, long], LONG).await.unwrap();
    namespace.answered(&[long], short).await.unwrap();
    let start = Instant::now();
    guest.run(|| connect("198.51.100.1:443")).unwrap();
    while guest.run(|| connect("198.51.100.1:443")).is_ok() {
        // Or there would soon be no room for more.
        accept(&namespace.sockets().transparent);
        assert!(start.elapsed() < LONG);
    }
    assert!(
        start.elapsed() > Duration::from_millis(900),
        "{:?}",
        start.elapsed()
    );
    for address in ["198.51.100.2:443", "198.51.100.3:443"] {
        guest.run(|| connect(address)).unwrap();
    }
    // And again: it has left the set by itself.
    namespace.answered(&[brief], LONG).await.unwrap();
    guest.run(|| connect("198.51.100.1:443")).unwrap();
}

/// After redirection both connections are between the same two addresses, and must not be of the same two ports.
#[tokio::test(flavor = "multi_thread")]
async fn two_connections_from_one_port_are_two() {
    if !may() {
        return;
    }
    let namespace = restricted().await;
    let guest = Guest::plug(namespace.descriptor()).unwrap();
    namespace
        .apply(&["203.0.113.0/24".parse().unwrap()], &[], false)
        .await
        .unwrap();
    let from_one_port = |to: &str| {
        guest.run(|| {
            let socket = rustix::net::socket(
                rustix::net::AddressFamily::INET,
                rustix::net::SocketType::STREAM,
                None,
            )?;
            rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &at("0.0.0.0:40000"))?;
            rustix::net::connect(&socket, &at(to))?;
            std::io::Result::Ok(TcpStream::from(socket))
        })
    };
    let clients = ["203.0.113.1:443", "203.0.113.2:443"].map(|to| (to, from_one_port(to).unwrap()));
    for (to, mut client) in clients {
        let mut server = accept(&namespace.sockets().transparent);
        assert_eq!(ip_original_dst(&server).unwrap(), at(to));
        client.write_all(to.as_bytes()).unwrap();
        let mut bytes = vec![0; to.len()];
        server.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, to.as_bytes());
    }
}

/// Whoever serves the sockets may be taken over by a guest, and gets nowhere with them.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_begins_inside() {
    if !may() {
        return;
    }
    let namespace = restricted().await;
    let guest = Guest::plug(namespace.descriptor()).unwrap();
    let listener = guest.run(|| UdpSocket::bind("0.0.0.0:4000")).unwrap();
    let dns = UdpSocket::from(namespace.sockets().dns_udp.try_clone().unwrap());
    assert!(dns.send_to(b"unasked", (GUEST_IP, 4000)).is_err());
    assert!(dns.send_to(b"unasked", "203.0.113.1:53").is_err());
    assert!(silent(&listener));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_has_a_tap_that_one_vmm_may_have_and_no_other_way() {
    if !may() {
        return;
    }
    let namespace = restricted().await;
    assert_eq!(namespace.kind(), Kind::Restricted);
    let tap = net::attach_tap(namespace.descriptor(), TAP).unwrap();
    assert!(net::attach_tap(namespace.descriptor(), TAP).is_err());
    drop(tap);
    let links = lab::within(&namespace.descriptor(), || {
        let mut route = crate::netlink::Netlink::route()?;
        assert_eq!(route.uplinks()?, Vec::<u32>::new());
        route.links()
    });
    let names: Vec<String> = links.unwrap().into_iter().map(|link| link.name).collect();
    assert!(
        names.contains(&"lo".to_owned()) && names.contains(&TAP.to_owned()),
        "{names:?}"
    );
    assert!(!names.iter().any(|name| name == "up0"), "{names:?}");
    let off = |file: &str| {
        let file = format!("/proc/sys/net/{file}");
        lab::within(&namespace.descriptor(), || std::fs::read_to_string(&file)).unwrap()
    };
    assert_eq!(off("ipv4/conf/tap0/forwarding"), "0\n");
    assert_eq!(off("ipv4/ip_forward"), "0\n");
    assert_eq!(off("ipv6/conf/tap0/disable_ipv6"), "1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_may_be_long() {
    if !may() {
        return;
    }
    let namespace = restricted().await;
    let guest = Guest::plug(namespace.descriptor()).unwrap();
    let long: Vec<ipnet::IpNet> = (0..20_000_u32)
        .map(|number| {
            format!("{}/32", Ipv4Addr::from_bits(0x0505_0000 + 2 * number))
                .parse()
                .unwrap()
        })
        .collect();
    namespace.apply(&long, &long[1..2], false).await.unwrap();
    guest.run(|| connect("5.5.0.0:80")).unwrap();
    let refused = guest.run(|| connect("5.5.0.1:80")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    namespace.apply(&[], &[], false).await.unwrap();
    guest.run(|| connect("5.5.0.0:80")).unwrap_err();
}
