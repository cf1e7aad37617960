//! Somebody else's rules that drop what this host is to forward.
//!
//! Docker sets the policy of iptables' `FORWARD` chain to drop and admits its own links; firewalld ends its chain with a
//! rule that rejects. What our table accepts does not matter then: a drop anywhere is final. So this looks at every chain
//! at the hook and says whose it is and what to do, rather than leave a sandbox without answers.
//!
//! A chain counts as an obstacle if its end drops, and it, or a chain that it leads to, has no rule that accepts by a
//! name of our links. That is no proof that such a rule is reached; it is what a user who followed the advice has.

use std::{collections::BTreeSet, path::Path, process::Command};

use serde_json::Value;

use super::link;
use crate::{
    NetError,
    nft::{Chain, Entry, Nft, Rule},
};

/// Looks at the calling thread's namespace.
pub(super) fn look(nft: &Nft) -> Result<(), NetError> {
    let listing = nft.list("list the rules", &["list", "ruleset"])?;
    match find(&listing).or_else(legacy) {
        None => Ok(()),
        Some((by, hint)) => Err(NetError::ForwardDrop { by, hint }),
    }
}

/// The first obstacle in a listing: whose, and what to do.
fn find(listing: &[Entry]) -> Option<(String, String)> {
    let chains = || listing.iter().filter_map(|entry| entry.chain.as_ref());
    chains()
        .filter(|chain| chain.hook.as_deref() == Some("forward") && matches!(&*chain.family, "ip" | "inet"))
        .filter(|chain| super::table::owner(&chain.table).is_none())
        .find(|chain| drops_at_its_end(chain, listing) && !admits_us(chain, listing))
        .map(|chain| advice(chain, listing))
}

fn rules<'a>(
    listing: &'a [Entry],
    family: &'a str,
    table: &'a str,
    chain: &'a str,
) -> impl Iterator<Item = &'a Rule> {
    listing
        .iter()
        .filter_map(|entry| entry.rule.as_ref())
        .filter(move |rule| rule.family == family && rule.table == table && rule.chain == chain)
}

fn drops_at_its_end(chain: &Chain, listing: &[Entry]) -> bool {
    if chain.policy.as_deref() == Some("drop") {
        return true;
    }
    let last = rules(listing, &chain.family, &chain.table, &chain.name).last();
    // Its last rule is nothing but a verdict (and perhaps a counter or a log).
    last.is_some_and(|rule| {
        let is = |expression: &Value, what: &[&str]| what.iter().any(|what| expression.get(what).is_some());
        rule.expr
            .iter()
            .any(|expression| is(expression, &["drop", "reject"]))
            && rule
                .expr
                .iter()
                .all(|e| is(e, &["drop", "reject", "counter", "log", "limit"]))
    })
}

/// Whether the chain, or one that it jumps or goes to, accepts something by a name of our links.
fn admits_us(chain: &Chain, listing: &[Entry]) -> bool {
    let mut seen = BTreeSet::new();
    let mut next = vec![chain.name.as_str()];
    while let Some(name) = next.pop() {
        if !seen.insert(name) {
            continue;
        }
        for rule in rules(listing, &chain.family, &chain.table, name) {
            if names_our_links(rule)
                && rule
                    .expr
                    .iter()
                    .any(|e| leads_on(e).is_some() || e.get("accept").is_some())
            {
                return true;
            }
            next.extend(rule.expr.iter().filter_map(leads_on));
        }
    }
    false
}

/// The chain that an expression jumps or goes to.
fn leads_on(expression: &Value) -> Option<&str> {
    let verdict = expression.get("jump").or_else(|| expression.get("goto"))?;
    verdict.get("target")?.as_str()
}

fn names_our_links(rule: &Rule) -> bool {
    rule.expr.iter().any(|expression| {
        let key = expression.pointer("/match/left/meta/key").and_then(Value::as_str);
        let right = expression.pointer("/match/right");
        matches!(key, Some("iifname" | "oifname"))
            && right.is_some_and(|right| right.to_string().contains(&format!("\"{}", link::PREFIX)))
    })
}

/// Whose chain it is, and how it is made to let our links through.
fn advice(chain: &Chain, listing: &[Entry]) -> (String, String) {
    let has = |name: &str| {
        listing
            .iter()
            .filter_map(|entry| entry.chain.as_ref())
            .any(|other| other.family == chain.family && other.table == chain.table && other.name == name)
    };
    let name = format!(
        "chain {} of nftables table {} {}",
        chain.name, chain.family, chain.table
    );
    if chain.table == "firewalld" {
        return (format!("firewalld ({name})"), FIREWALLD.to_owned());
    }
    if chain.name == "FORWARD" && chain.family == "ip" {
        return if has("DOCKER-USER") {
            (format!("Docker ({name})"), iptables("iptables", "DOCKER-USER"))
        } else if has("ufw-user-forward") {
            (format!("ufw ({name})"), iptables("iptables", "ufw-user-forward"))
        } else {
            (format!("iptables ({name})"), iptables("iptables", "FORWARD"))
        };
    }
    let (family, table, chain_name) = (&chain.family, &chain.table, &chain.name);
    let p = link::PREFIX;
    let insert = |side| format!("nft insert rule {family} {table} {chain_name} {side} '\"{p}*\"' accept");
    (name, format!("{} && {}", insert("oifname"), insert("iifname")))
}

const FIREWALLD: &str =
    "firewall-cmd --permanent --zone=trusted --add-interface=omr+ && firewall-cmd --reload";

fn iptables(program: &str, chain: &str) -> String {
    let p = link::PREFIX;
    format!("{program} -I {chain} -i {p}+ -j ACCEPT && {program} -I {chain} -o {p}+ -j ACCEPT")
}

/// The older kind of tables, which `nft` does not show.
fn legacy() -> Option<(String, String)> {
    // Only there if the kernel has such tables in this namespace.
    let tables = std::fs::read_to_string("/proc/net/ip_tables_names").ok()?;
    if !tables.lines().any(|table| table == "filter") {
        return None;
    }
    let program = [
        "/usr/sbin/iptables-legacy",
        "/sbin/iptables-legacy",
        "/usr/sbin/iptables",
    ]
    .into_iter()
    .find(|program| Path::new(program).is_file())?;
    let output = Command::new(program).arg("-S").env_clear().output().ok()?;
    legacy_obstacle(program, &String::from_utf8_lossy(&output.stdout))
}

/// The same question to the output of `iptables -S`.
fn legacy_obstacle(program: &str, listing: &str) -> Option<(String, String)> {
    let drops = listing.lines().any(|line| line == "-P FORWARD DROP");
    let ours = |line: &str| {
        line.split_whitespace().any(|word| {
            word.strip_prefix(link::PREFIX)
                .is_some_and(|rest| rest.ends_with('+'))
        }) && line.ends_with("-j ACCEPT")
    };
    if !drops || listing.lines().any(ours) {
        return None;
    }
    let docker = listing.lines().any(|line| line == "-N DOCKER-USER");
    let chain = if docker { "DOCKER-USER" } else { "FORWARD" };
    let by = if docker { "Docker" } else { "iptables" };
    Some((
        format!("{by} (chain FORWARD of iptables' older tables)"),
        iptables(program, chain),
    ))
}

#[cfg(test)]
mod tests;
