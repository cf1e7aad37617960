//! What must work: on a dead network every attempt would fail.

use omnirun_guest_net::{GATEWAY_IP, PROXY_PORT};

use super::{Act, Expect, Phase, Table, hello};
use crate::nonce::Nonce;

/// A request for a page, with the nonce in its path.
pub(super) fn request(host: &str, nonce: Nonce) -> String {
    format!(
        "GET /{} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n",
        nonce.hex()
    )
}

/// A page over TLS, from where the name leads.
fn page(name: &str, again: u32, nonce: Nonce) -> Act {
    Act::Https {
        to: format!("@{name}"),
        port: 443,
        before: Vec::new().into(),
        sni: Some(name.to_owned()),
        request: request(name, nonce).into(),
        again,
    }
}

/// Seconds until a flood is forgotten: connections that nobody ended are for a minute.
const FORGOTTEN: u32 = 75;

pub(super) fn fill(table: &mut Table<'_>) {
    let (world, open) = (table.world, table.open());
    let site = world.listed.clone();
    // Elsewhere a site may have more addresses than we were told of.
    let there = Expect::Allowed(if world.lab { site.all() } else { Vec::new() });
    // Rules of the way that a connection by name takes.
    let web: &[&str] = match (open, world.proxies_web) {
        (false, _) => &["answered", "redirect-answered", "input-transparent", "answer"],
        (true, true) => &["redirect-web", "input-transparent", "answer"],
        (true, false) => &[
            "outward",
            "inward",
            "masquerade",
            "host-inward",
            "host-masquerade",
        ],
    };
    table
        .add(
            "control-dns",
            &[],
            format!("ask the gateway for {}, by UDP", site.name),
            |_| Act::dns(GATEWAY_IP, hello::query(&site.name, hello::kind::A)),
        )
        .expect(Expect::Allowed(Vec::new()))
        .passes(&["dns-at-gateway", "redirect-dns-udp", "input-dns-udp", "answer"])
        .phase(Phase::Before);
    table
        .add(
            "control-dns-tcp",
            &[],
            format!("ask the gateway for {}, by TCP", site.name),
            |_| Act::Dns {
                to: GATEWAY_IP.into(),
                tcp: true,
                fast: false,
                queries: vec![hello::query(&site.name, hello::kind::A).into()],
            },
        )
        .expect(Expect::Allowed(Vec::new()))
        .passes(&["dns-at-gateway", "redirect-dns-tcp", "input-dns-tcp"])
        .phase(Phase::Before);
    table
        .add(
            "control-tls",
            &[],
            format!("get a page of {} by TLS", site.name),
            |nonce| page(&site.name, 0, nonce),
        )
        .expect(there.clone())
        .passes(web)
        .phase(Phase::Before);
    table
        .add(
            "control-http",
            &[],
            format!("get a page of {} by plain HTTP", site.name),
            |nonce| Act::tcp(format!("@{}", site.name), 80, request(&site.name, nonce)),
        )
        .expect(there.clone())
        .passes(web)
        .phase(Phase::Before);
    table
        .add(
            "control-connect",
            &[],
            format!("get a page of {} through the HTTP proxy", site.name),
            |nonce| Act::Https {
                to: GATEWAY_IP.to_string(),
                port: PROXY_PORT,
                before: format!("CONNECT {0}:443 HTTP/1.1\r\nHost: {0}:443\r\n\r\n", site.name).into(),
                sni: Some(site.name.clone()),
                request: request(&site.name, nonce).into(),
                again: 0,
            },
        )
        .expect(there.clone())
        .passes(&["proxy-at-gateway", "to-gateway", "input-proxy"])
        .phase(Phase::Before);
    if open {
        direct(table);
    } else {
        listed(table);
    }
    let what = format!(
        "get a page of {} by TLS, after all the floods",
        table.world.listed.name
    );
    let name = table.world.listed.name.clone();
    table
        .add("control-after", &[18], what, |nonce| {
            page(&name, FORGOTTEN, nonce)
        })
        .expect(there)
        .phase(Phase::After);
}

/// What mode `allow` has by rules of its own.
fn listed(table: &mut Table<'_>) {
    if let Some((site, port)) = table.world.bare.clone() {
        table
            .add(
                "control-port",
                &[],
                format!("talk to {}:{port}, which the policy lists", site.name),
                |nonce| Act::tcp(format!("@{}", site.name), port, nonce.hex()),
            )
            .expect(Expect::Allowed(site.all()))
            .phase(Phase::Before);
    }
    if let Some((address, port)) = table.world.permitted {
        table
            .add(
                "control-address",
                &[],
                format!("talk to {address}:{port}, which the policy lists"),
                |nonce| Act::tcp(address, port, nonce.hex()),
            )
            .expect(Expect::Allowed(vec![address.into()]))
            .passes(&["permitted", "redirect-permitted", "input-transparent"])
            .phase(Phase::Before);
    }
}

/// What mode `open` lets through.
fn direct(table: &mut Table<'_>) {
    let address = table.world.unlisted.address();
    let there = Expect::Allowed(vec![address.into()]);
    let way = [
        "outward",
        "inward",
        "masquerade",
        "host-inward",
        "host-masquerade",
    ];
    if table.world.lab {
        table
            .add(
                "control-tcp",
                &[],
                format!("talk to {address}:8081, as mode open allows"),
                |nonce| Act::tcp(address, 8081, nonce.hex()),
            )
            .expect(there.clone())
            .passes(&way)
            .phase(Phase::Before);
        table
            .add(
                "control-udp",
                &[],
                format!("send a datagram to {address}, as mode open allows"),
                |nonce| Act::Udp {
                    to: address.into(),
                    port: 8082,
                    send: vec![nonce.raw().to_vec().into()],
                },
            )
            .expect(there.clone())
            .passes(&way)
            .phase(Phase::Before);
    }
    // In a lab, we know that it does.
    let answers = if table.world.lab {
        there
    } else {
        Expect::Led(vec![address.into()])
    };
    table
        .add(
            "control-ping",
            &[],
            format!("ping {address}, as mode open allows"),
            |nonce| Act::Ping {
                to: address,
                payload: nonce.raw().to_vec().into(),
            },
        )
        .expect(answers)
        .passes(&way)
        .phase(Phase::Before);
}
