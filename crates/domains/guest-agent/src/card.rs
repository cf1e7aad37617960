//! The network card, if the machine has one: set up once, before the snapshot. Its addresses are the same in every
//! guest, so no clone has anything to do.

use crate::boot::{At, BootError};
use omnirun_guest_net::{GATEWAY_IP, GATEWAY_MAC, GUEST_IP, MTU, PREFIX};
use omnirun_sys::guest::net::{Card, card_up};
use std::{fs, io, path::Path};

/// What the kernel calls the first card.
const NAME: &str = "eth0";

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
    card_up(NAME, &card).at("set the network card up")?;
    Ok(true)
}
