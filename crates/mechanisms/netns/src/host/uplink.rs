//! Forwarding, link by link.
//!
//! The kernel forwards a packet if the link that it came in by may forward. So the sandboxes' links are not enough: the
//! answers come in by the host's own uplink. Forwarding is switched on there, and only there; `net.ipv4.ip_forward`,
//! which would do so for every link and for those to come, stays as it is.
//!
//! An uplink whose forwarding we switched on is in the set `opened` of the owner's table, and of those of all owners that
//! came later and rely on it. Whoever goes switches it off unless another owner's table has it; a dead owner's table is
//! as good as a live one's until it is swept. The table has it before it happens, so that no death in between leaves a
//! change of which nobody knows.
//!
//! Should somebody have switched on forwarding everywhere in the meantime (Docker does), it stays on here as well. That
//! is why each element says how things were (`comment`).

use std::{collections::BTreeMap, fs, io};

use omnirun_guest_net::MTU;

use super::{link, table};
use crate::{NetError, netlink::Netlink, nft::Nft};

/// A link by which packets to anywhere leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Uplink {
    /// Tells a link from a later one of the same name.
    index: u32,
    name: String,
    mtu: u32,
}

/// The owners that count on a link whose forwarding we switched on, and how it was for the others then.
#[derive(Debug, Default)]
pub(super) struct Opened {
    pub(super) tags: Vec<String>,
    pub(super) all: bool,
}

/// Finds the uplinks.
pub(super) fn find(route: &mut Netlink) -> Result<Vec<Uplink>, NetError> {
    let indexes = route.uplinks().map_err(NetError::step("reading the routes"))?;
    let links = route.links().map_err(NetError::step("reading the links"))?;
    let uplinks: Vec<Uplink> = links
        .into_iter()
        .filter(|link| indexes.contains(&link.index) && !link.name.starts_with(link::PREFIX))
        .map(|link| Uplink {
            index: link.index,
            name: link.name,
            mtu: link.mtu,
        })
        .collect();
    if uplinks.is_empty() {
        Err(NetError::NoUplink)
    } else {
        Ok(uplinks)
    }
}

/// What the smallest of them lets through, and no more than a guest's own link does.
pub(super) fn mtu(uplinks: &[Uplink]) -> u32 {
    // What IPv4 demands of any link.
    uplinks
        .iter()
        .map(|uplink| uplink.mtu)
        .fold(MTU, u32::min)
        .max(576)
}

/// What all owners' tables say, by link.
pub(super) fn opened(nft: &Nft) -> Result<BTreeMap<String, Opened>, NetError> {
    let mut opened = BTreeMap::<String, Opened>::new();
    for tag in tags(nft)? {
        for entry in nft.list(
            "list a set",
            &["list", "set", "inet", &table::name(&tag), table::OPENED],
        )? {
            for element in entry.set.into_iter().flat_map(|set| set.elem) {
                let Some(name) = element.pointer("/elem/val").and_then(|name| name.as_str()) else {
                    continue;
                };
                let this = opened.entry(name.to_owned()).or_default();
                this.tags.push(tag.clone());
                this.all |= element.pointer("/elem/comment").and_then(|all| all.as_str()) == Some(ALL);
            }
        }
    }
    Ok(opened)
}

/// All owners of whom there is a table.
pub(super) fn tags(nft: &Nft) -> Result<Vec<String>, NetError> {
    let tables = nft.list("list the tables", &["list", "tables", "inet"])?;
    let names = tables.into_iter().filter_map(|entry| Some(entry.table?.name));
    Ok(names
        .filter_map(|name| table::owner(&name).map(str::to_owned))
        .collect())
}

/// Comment of an element: forwarding was on for all links when we switched it on for this one.
const ALL: &str = "all were on";
/// The opposite.
const NOT_ALL: &str = "not all were on";

/// What is to be done so that packets can come back by all uplinks.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// To be in the owner's set [`table::OPENED`], before
    pub(super) elements: Vec<String>,
    /// these are switched on.
    pub(super) switch: Vec<String>,
}

/// Plans for the owner `tag` to have `uplinks` forward, `opened` being what all tables say. A link that forwards is none of
/// ours, unless one of those owners had it do so. What is in the owner's table stays there.
pub(super) fn plan(
    tag: &str,
    uplinks: &[Uplink],
    opened: &BTreeMap<String, Opened>,
) -> Result<Plan, NetError> {
    let element = |name: &str, all| format!("\"{name}\" comment \"{}\"", if all { ALL } else { NOT_ALL });
    let mut plan = Plan::default();
    for (name, opened) in opened {
        let needed = uplinks.iter().any(|uplink| uplink.name == *name);
        if needed || opened.tags.iter().any(|owner| owner == tag) {
            plan.elements.push(element(name, opened.all));
        }
    }
    for Uplink { name, .. } in uplinks {
        if forwarding(name)? {
            continue;
        }
        if !opened.contains_key(name) {
            plan.elements.push(element(name, forwarding("all")?));
        }
        plan.switch.push(name.clone());
    }
    Ok(plan)
}

impl Plan {
    /// Does the second half, when the first has been done.
    pub(super) fn switch_on(&self) -> Result<(), NetError> {
        self.switch.iter().try_for_each(|name| switch(name, true))
    }
}

/// Switches forwarding off at `name`, which was `opened` by owners who are all gone.
pub(super) fn restore(name: &str, opened: &Opened) -> Result<(), NetError> {
    if !opened.all && forwarding("all")? {
        return Ok(());
    }
    match switch(name, false) {
        // The link is gone.
        Err(NetError::Step { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

fn file(name: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{name}/forwarding")
}

fn forwarding(name: &str) -> Result<bool, NetError> {
    let file = file(name);
    let text = fs::read_to_string(&file).map_err(NetError::step(format!("reading {file}")))?;
    Ok(text.trim() != "0")
}

fn switch(name: &str, on: bool) -> Result<(), NetError> {
    let file = file(name);
    fs::write(&file, if on { "1" } else { "0" }).map_err(NetError::step(format!("writing {file}")))
}
