//! The host's side of networks with an uplink.
//!
//! ```text
//!   table      the rules, one table for each owner
//!   link       the pair of links to a namespace
//!   uplink     forwarding, switched on for the links that packets leave by, and off again
//!   watch      follows the way out when it becomes another one
//!   obstacle   somebody else's rules that would drop what is forwarded
//!   sweep      what dead owners left
//!   lock       one process at a time
//! ```
//!
//! It begins with the first network that has an uplink, and ends with [`crate::Networks::shutdown`]; if the owner dies
//! without that, a later one finds its table, its links (by their labels) and what it switched on (in the table).

pub(crate) mod link;
mod lock;
mod obstacle;
mod sweep;
pub(crate) mod table;
mod uplink;
pub(crate) mod watch;

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use ipnet::Ipv4Net;
use omnirun_sys::host::net;

pub(crate) use self::sweep::sweep;
use self::uplink::Uplink;
use crate::{NetError, netlink::Netlink, nft::Nft};

/// The host's side of one owner's networks.
#[derive(Debug)]
pub(crate) struct Host {
    namespace: Arc<OwnedFd>,
    nft: Nft,
    tag: String,
    /// To the links of the host's namespace.
    route: Mutex<Netlink>,
    /// What is known of the way out.
    uplinks: Mutex<Vec<Uplink>>,
    mtu: AtomicU32,
}

/// Whether the calling thread's namespace has a way out, and nothing that bars it.
pub(crate) fn look(nft: &Nft) -> Result<(), NetError> {
    let mut route = Netlink::route().map_err(NetError::step("opening a netlink socket"))?;
    uplink::find(&mut route)?;
    obstacle::look(nft)
}

impl Host {
    /// Sets it up in `namespace`: table, forwarding. What a former owner of this tag left is replaced.
    pub(crate) fn open(
        namespace: Arc<OwnedFd>,
        nft: Nft,
        tag: &str,
        special: &[Ipv4Net],
    ) -> Result<Self, NetError> {
        let (route, uplinks) = net::in_namespace(namespace.as_fd(), || {
            let lock = lock::take()?;
            let mut route = Netlink::route().map_err(NetError::step("opening a netlink socket"))?;
            let uplinks = uplink::find(&mut route)?;
            obstacle::look(&nft)?;
            let plan = uplink::plan(tag, &uplinks, &uplink::opened(&nft)?)?;
            nft.run_locked(
                &lock,
                "make the host's table",
                &table::table(tag, special, &plan.elements),
            )?;
            plan.switch_on()?;
            Ok::<_, NetError>((route, uplinks))
        })?;
        let mtu = AtomicU32::new(uplink::mtu(&uplinks));
        let (route, uplinks) = (Mutex::new(route), Mutex::new(uplinks));
        Ok(Self {
            namespace,
            nft,
            tag: tag.to_owned(),
            route,
            uplinks,
            mtu,
        })
    }

    /// News about routes in the host's namespace.
    pub(crate) fn news(&self) -> Result<OwnedFd, NetError> {
        net::in_namespace(self.namespace.as_fd(), || {
            Netlink::route_news().map_err(NetError::step("listening for changed routes"))
        })
    }

    /// Looks whether the way out is another one by now, and if so, switches forwarding on there.
    pub(crate) fn refresh(&self) -> Result<(), NetError> {
        let uplinks = match uplink::find(&mut self.route()) {
            // Without a way out, sandboxes get none either; with a new one, all of them do.
            Err(NetError::NoUplink) => return Ok(()),
            uplinks => uplinks?,
        };
        let mut known = self.uplinks.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == uplinks {
            return Ok(());
        }
        net::in_namespace(self.namespace.as_fd(), || {
            let lock = lock::take()?;
            let plan = uplink::plan(&self.tag, &uplinks, &uplink::opened(&self.nft)?)?;
            self.nft.run_locked(
                &lock,
                "note an uplink",
                &table::open_more(&self.tag, &plan.elements),
            )?;
            plan.switch_on()
        })?;
        self.mtu.store(uplink::mtu(&uplinks), Ordering::Relaxed);
        *known = uplinks;
        Ok(())
    }

    /// Removes everything of this owner's.
    pub(crate) fn close(&self) -> Result<(), NetError> {
        net::in_namespace(self.namespace.as_fd(), || {
            sweep::remove(&self.nft, &|tag| tag != self.tag).map(drop)
        })
    }

    pub(crate) fn route(&self) -> MutexGuard<'_, Netlink> {
        self.route.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Largest packet that leaves by the uplinks, and so by a sandbox's.
    pub(crate) fn mtu(&self) -> u32 {
        self.mtu.load(Ordering::Relaxed)
    }

    pub(crate) fn namespace(&self) -> Arc<OwnedFd> {
        self.namespace.clone()
    }

    /// Name of the owner's table.
    pub(crate) fn table(&self) -> String {
        table::name(&self.tag)
    }

    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }
}
