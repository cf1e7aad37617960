//! What an open network does to the host, and what the host does to it.

use super::{
    lab::{Lab, ip, listen, nft, shell, uplink_address, within, write},
    open::{talk, within_time},
    *,
};
use crate::{NetError, testing::Guest};

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
