//! Packet sockets: whole Ethernet frames, as they are on the links.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, eth, recvfrom, socket_with, sockopt};

/// How much the kernel keeps for us until we read it. A burst must not go by unseen.
const BUFFER: usize = 16 << 20;

/// A socket for the frames of a network namespace: sees those of all links, in both directions, but for what was sent by
/// itself.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

/// A frame that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Its length. More than the buffer's if it did not fit.
    pub length: usize,
    /// Number of the link.
    pub link: u32,
    /// Whether it was sent from here, rather than received.
    pub outgoing: bool,
}

impl PacketSocket {
    /// One in the calling thread's namespace, in non-blocking mode. Sees frames from now on.
    ///
    /// # Errors
    /// We may not (that takes `CAP_NET_RAW`), or the kernel has no packet sockets.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(eth::ALL))?;
        // Beyond the limit for ordinary users. Without it there is less room, and `lost` tells.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER);
        Ok(Self(socket))
    }

    /// The next frame, or `WouldBlock`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Frame> {
        let flags = rustix::net::RecvFlags::TRUNC;
        let (_, length, from) = recvfrom(&self.0, buffer, flags)?;
        let from = from.ok_or(io::ErrorKind::InvalidData)?;
        let mut link = std::mem::MaybeUninit::<libc::sockaddr_ll>::zeroed();
        let size = (from.addr_len() as usize).min(size_of::<libc::sockaddr_ll>());
        // SAFETY: both are at least `size` bytes long: `from` is an address of `addr_len` bytes, and `link` a whole
        // `sockaddr_ll`; they do not overlap, being two variables.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr().cast::<u8>(), link.as_mut_ptr().cast::<u8>(), size);
        }
        // SAFETY: a structure of integers, for which the zeroes that it began with are valid, as are all others.
        let link = unsafe { link.assume_init() };
        if i32::from(link.sll_family) != libc::AF_PACKET {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Frame {
            length,
            link: link.sll_ifindex.cast_unsigned(),
            outgoing: link.sll_pkttype == libc::PACKET_OUTGOING,
        })
    }

    /// Sends a frame by the link of this number.
    ///
    /// # Errors
    /// There is no such link, it is down, or the frame is too long for it.
    pub fn send(&self, link: u32, frame: &[u8]) -> io::Result<()> {
        // SAFETY: a structure of integers, for which zeroes are valid.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as libc::c_ushort;
        to.sll_ifindex = link.cast_signed();
        // SAFETY: pointer and length are those of a whole `sockaddr_ll`, and of `frame`, which both outlive the call.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                libc::MSG_DONTWAIT,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// How many frames went by unread for want of room, since the last time this was asked.
    ///
    /// # Errors
    /// The kernel's.
    pub fn lost(&self) -> io::Result<u32> {
        // SAFETY: a structure of integers, for which zeroes are valid.
        let mut statistics: libc::tpacket_stats = unsafe { std::mem::zeroed() };
        let mut size = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: pointer and size are those of a whole `tpacket_stats`, which the kernel writes at most; it keeps
        // neither.
        let outcome = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut size,
            )
        };
        if outcome < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(statistics.tp_drops)
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::net;

    #[test]
    fn frames_are_seen_on_all_links_with_their_direction() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: takes root");
            return;
        }
        net::in_new_namespace(|| {
            net::create_tap("tap0")?;
            let up = std::process::Command::new("ip")
                .args(["link", "set", "tap0", "up"])
                .status()?;
            assert!(up.success());
            let namespace = net::namespace()?;
            let tap = net::attach_tap(&namespace, "tap0")?;
            let socket = PacketSocket::open()?;
            let link = rustix::net::netdevice::name_to_index(&socket, "tap0")?;
            let mut seen = Vec::new();
            let mut receive = || {
                let mut buffer = [0; 2048];
                // What the kernel itself has to say on a new link comes in between.
                while let Ok(frame) = socket.receive(&mut buffer) {
                    if buffer[12..14] == [0x88, 0xb5] {
                        assert_eq!((frame.length, frame.link), (60, link));
                        seen.push((buffer[14], frame.outgoing));
                    }
                }
                seen.clone()
            };
            // The kernel takes note of a new carrier a little later, and refuses or drops what is sent before that.
            let (other, begun) = (PacketSocket::open()?, std::time::Instant::now());
            while receive().is_empty() {
                assert!(begun.elapsed() < std::time::Duration::from_secs(60));
                let _ = other.send(link, &frame(1));
            }
            let mut written = [0; net::VNET_HEADER + 60];
            written[net::VNET_HEADER..].copy_from_slice(&frame(2));
            rustix::io::write(&tap, &written)?;
            assert_eq!(receive(), [(1, true), (2, false)]);
            assert_eq!(socket.lost()?, 0);
            Ok::<_, io::Error>(())
        })
        .unwrap();
    }

    fn frame(number: u8) -> [u8; 60] {
        let mut frame = [0; 60];
        frame[..6].fill(0xff);
        // An EtherType for experiments.
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        frame[14] = number;
        frame
    }
}
