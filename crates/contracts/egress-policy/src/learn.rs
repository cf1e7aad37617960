//! From what a session did to the policy that it would have needed.

use crate::{AuditLine, Name, Protocol, Verdict};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::SocketAddr,
};

/// What is known of one destination.
#[derive(Default)]
struct Seen {
    connections: u64,
    bytes_up: u64,
    bytes_down: u64,
}

impl Seen {
    fn add(&mut self, line: &AuditLine) {
        self.connections += 1;
        self.bytes_up = self.bytes_up.saturating_add(line.bytes_up);
        self.bytes_down = self.bytes_down.saturating_add(line.bytes_down);
    }
}

/// The policy file that lets through what these lines let through, by exact names: no wildcard is made up. What has no
/// name is there as a comment, for a person to decide.
pub fn learn(lines: &[AuditLine]) -> String {
    let mut names: BTreeMap<String, Seen> = BTreeMap::new();
    let mut addresses: BTreeMap<SocketAddr, Seen> = BTreeMap::new();
    let mut refused: BTreeSet<String> = BTreeSet::new();
    for line in lines {
        let name = line
            .name
            .as_deref()
            .and_then(|name| Name::parse(name.as_bytes()).ok());
        match (line.verdict, name, line.to) {
            (Verdict::Deny, name, to) => {
                let what = name
                    .map(|name| name.to_string())
                    .or_else(|| to.map(|to| to.to_string()));
                refused.extend(what.map(|what| format!("{what} ({})", line.reason)));
            }
            // That it was asked for is no need; what was then connected to is.
            _ if line.protocol == Protocol::Dns => {}
            (_, Some(name), _) => {
                let entry = match line.port {
                    80 | 443 => name.to_string(),
                    port => format!("{name}:{port}"),
                };
                names.entry(entry).or_default().add(line);
            }
            (_, None, Some(to)) => addresses.entry(to).or_default().add(line),
            (_, None, None) => {}
        }
    }
    let mut text = String::from("# What the session reached. Take out what it should not have.\nallow = [\n");
    let counts = |seen: &Seen| {
        format!(
            "{} connections, {} bytes out, {} in",
            seen.connections, seen.bytes_up, seen.bytes_down
        )
    };
    for (entry, seen) in &names {
        let _ = writeln!(text, "    \"{entry}\", # {}", counts(seen));
    }
    for (to, seen) in &addresses {
        let _ = writeln!(text, "    # \"{to}\", # by address alone: {}", counts(seen));
    }
    text.push_str("]\n");
    if !refused.is_empty() {
        text.push_str("\n# Refused, and not in the list:\n");
        for what in refused {
            let _ = writeln!(text, "#   {what}");
        }
    }
    text
}
