//! What was allowed, and no more: a tightened policy ends what is open.
//!
//! Each makes a connection while that is allowed, waits until our DNS no longer answers for a name (which is how a guest
//! can tell that the policy has changed), and then sends its nonce by that connection.

use omnirun_egress_policy::Reason;
use omnirun_guest_net::{GATEWAY_IP, PROXY_PORT};

use super::{Act, Expect, Phase, Table, hello::Hello};
use crate::{lab::STREAM, nonce::Nonce};

/// How long a guest waits for the change.
const PATIENCE: u32 = 30;

pub(super) fn fill(table: &mut Table<'_>) {
    let Some(early) = &table.world.early else { return };
    let live = |to: String, port, first: &[&[u8]], nonce: Nonce| Act::Live {
        to,
        port,
        first: first.iter().map(|piece| piece.to_vec().into()).collect(),
        then: nonce.hex().into(),
        until: early.site.name.clone(),
        seconds: PATIENCE,
    };
    let name = early.site.name.as_str();
    // With a nonce that nobody looks for: that of the attempt comes later.
    let hello = Hello::new(Nonce::random()).name(name).record();
    if table.open() {
        let what = format!("a connection to {}, which is denied meanwhile", early.address);
        table
            .add("live-address", &[16], what, |nonce| {
                live(early.address.to_string(), 8086, &[STREAM.as_bytes()], nonce)
            })
            .passes(&["denied", "denied-flow"])
            .phase(Phase::Early);
        let other = table.world.unlisted.address();
        let what = format!("a connection to {other}:443 past the proxy, which serves that port from now on");
        table
            .add("live-web", &[16], what, |nonce| {
                live(other.to_string(), 443, &[STREAM.as_bytes()], nonce)
            })
            .passes(&["web-past-proxy"])
            .phase(Phase::Early);
        return;
    }
    let changed = [Reason::Changed];
    let what = format!("a connection to {name}, which is taken off the list meanwhile");
    table
        .add("live-name", &[16], what, |nonce| {
            live(format!("@{name}"), 443, &[&hello], nonce)
        })
        .expect(Expect::Local)
        .named(name)
        .logged(&changed)
        .phase(Phase::Early);
    let what = format!(
        "a connection to {}:{}, which is taken off the list meanwhile",
        early.address, early.port
    );
    table
        .add("live-address", &[16], what, |nonce| {
            live(early.address.to_string(), early.port, &[STREAM.as_bytes()], nonce)
        })
        .expect(Expect::Local)
        .logged(&changed)
        .asked_for((early.address, early.port).into())
        .phase(Phase::Early);
    let what = format!("a connection to {name} through the HTTP proxy, taken off the list meanwhile");
    table
        .add("live-connect", &[16], what, |nonce| {
            let head = format!("CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n");
            live(
                GATEWAY_IP.to_string(),
                PROXY_PORT,
                &[head.as_bytes(), &hello],
                nonce,
            )
        })
        .expect(Expect::Local)
        .named(name)
        .logged(&changed)
        .phase(Phase::Early);
}
