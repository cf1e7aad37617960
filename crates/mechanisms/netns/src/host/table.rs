//! The rules in the host's namespace: one table for each owner, whatever the number of its sandboxes.
//!
//! They match the sandboxes' links by the beginning of their names, so every owner's table holds for all owners'
//! sandboxes. That does no harm: they are the same rules, what one drops all would drop, and what is accepted in one is
//! still judged by the others. (The sandbox's own rules are stricter; these are what holds should a guest ever command
//! its namespace.)
//!
//! ```text
//!   before connection tracking, from omr*:  anything but IPv4 of 198.18.0.0/15, anything to an address of this host
//!                                           (whatever it is, also if a published port would lead it elsewhere), anything
//!                                           special                                               drop
//!   input, from omr*:                       all                                                   drop
//!   forward, from omr*:                     to omr*, to special addresses (after redirections)    drop
//!   forward, to omr*:                       what does not belong to a connection of theirs        drop
//!   forward, by an uplink that only we let forward: connections that are not for omr*             drop
//!   postrouting, of 198.18.0.0/15:          leaves with the host's address
//! ```
//!
//! The one before the last keeps a host that did not route from becoming a router for its neighbours (`uplink`). It
//! lets through what connections need that others on this host redirect or masquerade (containers, say).

use ipnet::Ipv4Net;

use super::link;

/// What the names of the tables begin with.
const TABLE_PREFIX: &str = "omnirun_";
/// The set of the uplinks that we let forward.
pub(crate) const OPENED: &str = "opened";

/// Name of an owner's table.
pub(crate) fn name(tag: &str) -> String {
    format!("{TABLE_PREFIX}{tag}")
}

/// Whose table it is, by its name.
pub(crate) fn owner(table: &str) -> Option<&str> {
    table.strip_prefix(TABLE_PREFIX)
}

/// The table of the owner `tag`, instead of what there may be of this name, with these elements of [`OPENED`].
pub(crate) fn table(tag: &str, special: &[Ipv4Net], opened: &[String]) -> String {
    let name = name(tag);
    let special: Vec<String> = special
        .iter()
        .map(ToString::to_string)
        .chain([link::NET.to_owned()])
        .collect();
    // An empty list is none for `nft`.
    let opened = match opened.is_empty() {
        true => String::new(),
        false => format!(" elements = {{ {} }};", opened.join(", ")),
    };
    format!(
        "define links = {}\n\
         table inet {name} {{}}\n\
         delete table inet {name}\n\
         table inet {name} {{\n  \
         set {OPENED} {{ type ifname;{opened} }}\n  \
         set special {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {} }}; }}\n\n\
         {}}}\n",
        link::NET,
        special.join(", "),
        include_str!("table.nft"),
    )
}

/// Adds elements of [`OPENED`].
pub(crate) fn open_more(tag: &str, opened: &[String]) -> String {
    if opened.is_empty() {
        return String::new();
    }
    format!(
        "add element inet {} {OPENED} {{ {} }}\n",
        name(tag),
        opened.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::golden;

    #[test]
    fn the_table_is_the_one_that_was_looked_at() {
        let special: Vec<Ipv4Net> = ["10.0.0.0/8", "127.0.0.0/8"]
            .map(|net| net.parse().unwrap())
            .to_vec();
        let opened = ["\"eth0\" comment \"not all were on\"".to_owned()];
        golden(
            "src/host/golden/table.nft",
            &table("0123abcd_owner", &special, &opened),
        );
        assert_eq!(owner(&name("0123abcd_owner")), Some("0123abcd_owner"));
        assert_eq!(owner("filter"), None);
    }
}
