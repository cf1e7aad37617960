//! The network card, if the machine has one: set up once, before the snapshot. Its addresses are the same in every
//! guest, so no clone has anything to do.

use crate::{
    boot::{At, BootError},
    events::Events,
};
use omnirun_guest_net::{GATEWAY_IP, GATEWAY_MAC, GUEST_IP, MTU, PREFIX};
use omnirun_sys::guest::net::{Card, card_up};
use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

/// What the kernel calls the first card.
const NAME: &str = "eth0";
/// For the other end of the link. The kernel looks at most once a second.
const LINK_WAIT: Duration = Duration::from_secs(3);

/// Sets it up; says whether there is one.
pub(crate) fn set_up() -> Result<bool, BootError> {
    if !Path::new("/sys/class/net").join(NAME).exists() {
        return Ok(false);
    }
    // There is nobody to talk to with it. Before the card is up, or it would be tried.
    match fs::write(format!("/proc/sys/net/ipv6/conf/{NAME}/disable_ipv6"), "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("switch IPv6 off")?,
        _ => {}
    }
    let card = Card {
        address: GUEST_IP,
        prefix: PREFIX,
        gateway: GATEWAY_IP,
        gateway_mac: GATEWAY_MAC,
        mtu: MTU,
    };
    let links = Events::of_links().at("listen to network links")?;
    card_up(NAME, &card).at("set the network card up")?;
    wait_for_link(&links)?;
    Ok(true)
}

/// Waits until the kernel has seen that the link has another end. It looks at that in a work of its own, some time after
/// the card is up (net/core/link_watch.c): a snapshot from before that would have every clone begin with a link that is
/// down by all accounts, for programs that ask. A link without another end stays as it is; that is not our failure.
fn wait_for_link(links: &Events) -> Result<(), BootError> {
    let state = format!("/sys/class/net/{NAME}/operstate");
    let give_up = Instant::now() + LINK_WAIT;
    while fs::read_to_string(&state).at("read the link's state")?.trim() == "down" && links.wait(give_up) {}
    Ok(())
}
