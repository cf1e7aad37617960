//! Removing what owners left in the host's namespace.

use std::os::fd::BorrowedFd;

use omnirun_sys::host::net;

use super::{link, lock, table, uplink};
use crate::{NetError, netlink::Netlink, nft::Nft};

/// Removes tables, links and forwarding of the owners that are not `alive`; returns their tags.
pub(crate) fn sweep(
    namespace: BorrowedFd<'_>,
    nft: &Nft,
    alive: &(dyn Fn(&str) -> bool + Sync),
) -> Result<Vec<String>, NetError> {
    net::in_namespace(namespace, || remove(nft, alive))
}

/// The same, in the calling thread's namespace.
///
/// First the links, since something may still hold a namespace whose only protection on this side is the table; the
/// table last, since it is what a next sweep would find.
pub(super) fn remove(nft: &Nft, alive: &(dyn Fn(&str) -> bool + Sync)) -> Result<Vec<String>, NetError> {
    let lock = lock::take()?;
    let mut gone: Vec<String> = uplink::tags(nft)?.into_iter().filter(|tag| !alive(tag)).collect();
    let mut route = Netlink::route().map_err(NetError::step("opening a netlink socket"))?;
    for link in route.links().map_err(NetError::step("reading the links"))? {
        let Some(tag) = link.alias.as_deref().and_then(link::owner) else {
            continue;
        };
        if !link.name.starts_with(link::PREFIX) || alive(tag) {
            continue;
        }
        match route.remove(&link.name) {
            // Gone with its namespace just now.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {}
            outcome => outcome.map_err(NetError::step(format!("removing {}", link.name)))?,
        }
        if !gone.iter().any(|known| known == tag) {
            gone.push(tag.to_owned());
        }
    }
    for (name, opened) in uplink::opened(nft)? {
        if opened.tags.iter().all(|tag| gone.contains(tag)) {
            uplink::restore(&name, &opened)?;
        }
    }
    for tag in &gone {
        let table = table::name(tag);
        // Making it first, since deleting what is not there fails.
        nft.run_locked(
            &lock,
            "remove a table",
            &format!("table inet {table} {{}}\ndelete table inet {table}\n"),
        )?;
    }
    Ok(gone)
}
