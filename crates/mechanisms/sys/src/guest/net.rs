//! Interfaces of a guest: the loopback one, and the network card.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// How a card is set up.
#[derive(Debug, Clone, Copy)]
pub struct Card {
    /// Its address.
    pub address: Ipv4Addr,
    /// The length of its link's prefix.
    pub prefix: u8,
    /// Who everything is sent to.
    pub gateway: Ipv4Addr,
    /// And that one's hardware address, which is asked nobody for.
    pub gateway_mac: [u8; 6],
    /// Largest packet.
    pub mtu: u32,
}

/// Sets `lo` up. (The kernel gives it 127.0.0.1 and ::1 by itself.)
///
/// # Errors
/// There is no `lo`, or we may not.
pub fn loopback_up() -> io::Result<()> {
    up(&socket()?, "lo")
}

/// Sets a card up.
///
/// # Errors
/// There is no interface of this name, or we may not.
pub fn card_up(name: &str, card: &Card) -> io::Result<()> {
    let socket = socket()?;
    let mut request = named(name)?;
    request.ifr_ifru.ifru_addr = ip(card.address);
    ask(&socket, libc::SIOCSIFADDR, &request)?;
    let mask = u32::MAX.checked_shl(32 - u32::from(card.prefix)).unwrap_or(0);
    request.ifr_ifru.ifru_netmask = ip(Ipv4Addr::from(mask));
    ask(&socket, libc::SIOCSIFNETMASK, &request)?;
    request.ifr_ifru.ifru_mtu = card.mtu.cast_signed();
    ask(&socket, libc::SIOCSIFMTU, &request)?;
    up(&socket, name)?;

    // SAFETY: a structure of integers, arrays and one pointer, for which zeroes are valid.
    let mut neighbour: libc::arpreq = unsafe { std::mem::zeroed() };
    neighbour.arp_pa = ip(card.gateway);
    neighbour.arp_ha.sa_family = libc::ARPHRD_ETHER;
    for (to, from) in neighbour.arp_ha.sa_data.iter_mut().zip(card.gateway_mac) {
        *to = from.cast_signed();
    }
    neighbour.arp_flags = libc::ATF_COM | libc::ATF_PERM;
    for (to, from) in neighbour.arp_dev.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    ask(&socket, libc::SIOCSARP, &neighbour)?;

    // SAFETY: the same.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = ip(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = ip(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = ip(card.gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    ask(&socket, libc::SIOCADDRT, &route)
}

fn up(socket: &OwnedFd, name: &str) -> io::Result<()> {
    let mut request = named(name)?;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    ask(socket, libc::SIOCSIFFLAGS, &request)
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn named(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: a structure of integers, arrays and unions of such, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays the terminator.
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

/// An address as these calls take it: `sockaddr_in`, whose address comes behind two bytes of port.
fn ip(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(address.octets()) {
        *to = from.cast_signed();
    }
    libc::sockaddr {
        sa_family: libc::AF_INET as libc::sa_family_t,
        sa_data: data,
    }
}

/// `T` is what the request takes.
fn ask<T>(socket: &OwnedFd, request: libc::Ioctl, what: &T) -> io::Result<()> {
    // SAFETY: a whole structure of the request's type, with terminated names; the kernel keeps no pointer, and the one
    // name in a structure that is a pointer is null.
    if unsafe { libc::ioctl(socket.as_raw_fd(), request, std::ptr::from_ref(what)) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
