//! A guest that is no VM.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    thread::{self, JoinHandle},
};

use omnirun_guest_net::{GATEWAY_IP, GUEST_IP, GUEST_MAC, MTU, PREFIX, TAP};
use omnirun_sys::host::net;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    io::{read, write},
};

use crate::netlink::{Netlink, links::Change};

/// The guest's card.
const CARD: &str = "eth0";
/// More than a frame with its header, also one that the card is to cut into several.
const FRAME: usize = 66 << 10;

/// A namespace with a card that has the guest's addresses and leads to a sandbox's tap: what works or fails in it does so
/// in a guest. It is root's own there, and can also send whatever frames it likes.
#[derive(Debug)]
pub struct Guest {
    namespace: Arc<OwnedFd>,
    wire: Wire,
    stop: Arc<OwnedFd>,
    pumps: Vec<JoinHandle<()>>,
}

impl Guest {
    /// Puts a guest at the tap of `sandbox`, as long as no VMM is there.
    ///
    /// # Errors
    /// A system call failed.
    pub fn plug(sandbox: impl AsFd) -> io::Result<Self> {
        let wire = Wire::plug(sandbox)?;
        let (namespace, card) = net::in_new_namespace(|| {
            net::create_tap(CARD)?;
            let mut route = Netlink::route()?;
            let index = route.index(CARD)?;
            let change = Change {
                address: Some(GUEST_MAC),
                mtu: Some(MTU),
                up: true,
                ..Change::default()
            };
            route.change(index, &change)?;
            route.address(index, GUEST_IP, PREFIX)?;
            route.default_route(GATEWAY_IP, index)?;
            let lo = route.index("lo")?;
            route.change(
                lo,
                &Change {
                    up: true,
                    ..Change::default()
                },
            )?;
            let namespace = net::namespace()?;
            let card = net::attach_tap(&namespace, CARD)?;
            Ok::<_, io::Error>((namespace, card))
        })?;
        let card = Arc::new(card);
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let pump = |from: &Arc<OwnedFd>, to: &Arc<OwnedFd>| {
            let (from, to, stop) = (from.clone(), to.clone(), stop.clone());
            thread::spawn(move || pump(from.as_fd(), to.as_fd(), stop.as_fd()))
        };
        let pumps = vec![pump(&card, &wire.0), pump(&wire.0, &card)];
        Ok(Self {
            namespace: Arc::new(namespace),
            wire,
            stop,
            pumps,
        })
    }

    /// Runs `work` in the guest.
    ///
    /// # Errors
    /// What `work` returns, or the thread could not be had.
    ///
    /// # Panics
    /// If `work` does.
    pub fn run<T: Send, E: From<io::Error> + Send>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send,
    ) -> Result<T, E> {
        net::in_namespace(self.namespace.as_fd(), work)
    }

    /// The guest's own namespace.
    #[must_use]
    pub fn namespace(&self) -> Arc<OwnedFd> {
        self.namespace.clone()
    }

    /// The wire to the sandbox, for frames that the guest's kernel would not send.
    #[must_use]
    pub fn wire(&self) -> &Wire {
        &self.wire
    }
}

/// A sandbox's tap, in place of a VMM and the guest behind it.
#[derive(Debug)]
pub struct Wire(Arc<OwnedFd>);

impl Wire {
    /// Takes the tap of `sandbox`, as long as no VMM is there.
    ///
    /// # Errors
    /// It is in use, or a system call failed.
    pub fn plug(sandbox: impl AsFd) -> io::Result<Self> {
        Ok(Self(Arc::new(net::attach_tap(sandbox, TAP)?)))
    }

    /// Sends a frame, which may say anything.
    ///
    /// # Errors
    /// The tap does not take it.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // A virtio header that promises nothing.
        let mut bytes = vec![0; net::VNET_HEADER];
        bytes.extend(frame);
        write(&self.0, &bytes)?;
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Without it the threads would wait for ever, and hold both namespaces.
        let _ = write(&self.stop, &1_u64.to_ne_bytes());
        for pump in self.pumps.drain(..) {
            let _ = pump.join();
        }
    }
}

/// Carries frames until it is told to stop. What one side does not take is lost, as on any wire.
fn pump(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stop: BorrowedFd<'_>) {
    let mut buffer = vec![0; FRAME];
    loop {
        match read(from, &mut buffer) {
            Ok(length) => {
                let _ = write(to, &buffer[..length]);
            }
            Err(rustix::io::Errno::AGAIN) => {
                let mut wait = [
                    PollFd::from_borrowed_fd(from, PollFlags::IN),
                    PollFd::from_borrowed_fd(stop, PollFlags::IN),
                ];
                let waited = poll(&mut wait, None);
                if waited.is_err_and(|e| e != rustix::io::Errno::INTR)
                    || wait[1].revents().contains(PollFlags::IN)
                {
                    return;
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
