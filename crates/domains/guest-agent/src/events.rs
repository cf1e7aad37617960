//! What the kernel tells whoever listens: of devices, and of network links.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{AddressFamily, Protocol, SocketFlags, SocketType, bind, netlink, socket_with},
};
use std::{
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

/// A netlink socket that is listened to, for the moment of an event alone: what has happened is looked at where it did.
#[derive(Debug)]
pub(crate) struct Events {
    socket: OwnedFd,
}

impl Events {
    /// Devices that come and change.
    pub(crate) fn of_devices() -> Result<Self, Errno> {
        // lib/kobject_uevent.c: group 1 has the kernel's own.
        Self::open(Some(netlink::KOBJECT_UEVENT), 1)
    }

    /// Network links that do.
    pub(crate) fn of_links() -> Result<Self, Errno> {
        // rtnetlink(7): RTMGRP_LINK. NETLINK_ROUTE is 0, which is no protocol for a `Protocol`.
        Self::open(None, 1)
    }

    fn open(protocol: Option<Protocol>, groups: u32) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)?;
        bind(&socket, &netlink::SocketAddrNetlink::new(0, groups))?;
        Ok(Self { socket })
    }

    /// Waits for the next events; `false` if there were none by then.
    pub(crate) fn wait(&self, give_up: Instant) -> bool {
        let left = give_up.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let came = !matches!(poll(&mut fds, timeout.as_ref()), Ok(0));
        self.drain();
        came
    }

    fn drain(&self) {
        let mut buffer = [0; 2048];
        // Until there is nothing left. That some were lost to a full queue is one wake-up, too.
        while matches!(
            rustix::io::read(self.socket.as_fd(), &mut buffer),
            Ok(_) | Err(Errno::NOBUFS)
        ) {}
    }
}
