//! From what a session did to the policy that it would have needed.
//!
//! ```text
//!   a line of the audit log
//!     refused, or a query              -> a comment: refused
//!     by name, and nothing answered    -> a comment: did not answer (a name with a typo is no need)
//!     by name                          -> an entry: the name, with the port if it is neither 80 nor 443
//!       to a private address           -> an entry more: names lead there only if it is listed
//!     by address, listed               -> an entry: the address and port; and the name that it had been told for
//!     by address, let through          -> a comment, for a person to decide
//! ```
//!
//! No wildcard is made up, and what is in the file is names, addresses and numbers: nothing that a guest could write into
//! its log ends a string or a comment.

use crate::{
    AuditLine, Name, Protocol, Reason, Verdict,
    layer::MOST_ENTRIES,
    special,
    target::{Entry, Target},
};
use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    net::SocketAddr,
};

/// What is known of one destination.
#[derive(Debug, Default)]
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

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.connections == 1 { "" } else { "s" };
        write!(
            f,
            "{} connection{s}, {} bytes out, {} in",
            self.connections, self.bytes_up, self.bytes_down
        )
    }
}

/// What becomes of the lines.
#[derive(Debug, Default)]
struct Learnt {
    names: BTreeMap<String, Seen>,
    /// Where names led that is not public.
    private: BTreeMap<SocketAddr, Name>,
    listed: BTreeMap<SocketAddr, Seen>,
    by_address: BTreeMap<SocketAddr, Seen>,
    silent: BTreeMap<String, Reason>,
    refused: BTreeMap<(String, &'static str), u64>,
    nameless: u64,
}

impl Learnt {
    fn add(&mut self, line: &AuditLine) {
        let name = line.name.as_deref();
        let name = name.and_then(|name| Name::parse(name.as_bytes()).ok());
        let entry = |name: &Name| match line.port {
            80 | 443 => name.to_string(),
            port => format!("{name}:{port}"),
        };
        // That a name was asked for is no need; what is then connected to is.
        if line.verdict == Verdict::Deny || line.protocol == Protocol::Dns {
            let what = match (&name, line.to, line.protocol) {
                (Some(name), _, Protocol::Dns) => name.to_string(),
                (Some(name), ..) => entry(name),
                (None, Some(to), _) => to.to_string(),
                (None, None, _) => {
                    self.nameless += 1;
                    return;
                }
            };
            *self.refused.entry((what, line.reason.as_str())).or_default() += 1;
            return;
        }
        // Without the name it would not be told the address again.
        if let (Some(_), Some(to)) = (&name, line.to)
            && line.rule.as_deref().is_some_and(is_about_addresses)
            && can_be_listed(&to.to_string())
        {
            self.listed.entry(to).or_default().add(line);
        }
        match (name, line.to) {
            (Some(name), _) if matches!(line.reason, Reason::NoAddress | Reason::Unreachable) => {
                self.silent.insert(entry(&name), line.reason);
            }
            (Some(name), _) if can_be_listed(&entry(&name)) => {
                self.names.entry(entry(&name)).or_default().add(line);
                let private = |to: &SocketAddr| special(to.ip()).is_some() && can_be_listed(&to.to_string());
                if let Some(to) = line.dialled.filter(private) {
                    self.private.entry(to).or_insert(name);
                }
            }
            (None, Some(to)) if can_be_listed(&to.to_string()) => {
                let listed = line.verdict == Verdict::Allow && line.reason != Reason::Public;
                let seen = match listed {
                    true => &mut self.listed,
                    false => &mut self.by_address,
                };
                seen.entry(to).or_default().add(line);
            }
            _ => self.nameless += 1,
        }
    }

    fn file(mut self) -> String {
        self.silent.retain(|entry, _| !self.names.contains_key(entry));
        self.private.retain(|to, _| !self.listed.contains_key(to));
        let mut entries = Vec::new();
        for (entry, seen) in &self.names {
            entries.push(format!("    \"{entry}\", # {seen}\n"));
        }
        for (to, seen) in &self.listed {
            entries.push(format!(
                "    \"{to}\", # by its address, which was listed: {seen}\n"
            ));
        }
        for (to, name) in &self.private {
            entries.push(format!(
                "    \"{to}\", # where {name} led: a private address has to be listed as well\n"
            ));
        }
        let left_out = entries.len().saturating_sub(MOST_ENTRIES);
        entries.truncate(MOST_ENTRIES);

        let mut text =
            String::from("# What the session reached. Take out what it should not have.\nallow = [\n");
        text.extend(entries);
        text.push_str("]\n");
        let mut comment = |head: &str, lines: Vec<String>| {
            if !lines.is_empty() {
                let _ = writeln!(text, "\n# {head}\n#   {}", lines.join("\n#   "));
            }
        };
        comment(
            "Left out: reached by the address alone, so nobody can say who that is. To allow it, put the entry in:",
            self.by_address
                .iter()
                .map(|(to, seen)| format!("\"{to}\", # {seen}"))
                .collect(),
        );
        comment(
            "Left out: names that did not answer.",
            self.silent
                .iter()
                .map(|(entry, reason)| format!("{entry} ({reason})"))
                .collect(),
        );
        comment(
            "Left out: refused, also while the session was only logged.",
            self.refused
                .iter()
                .map(|((what, reason), times)| format!("{what} ({reason}, {times}x)"))
                .collect(),
        );
        let bound = format!("entries beyond the {MOST_ENTRIES} that a policy may have");
        let others = [
            (bound, left_out as u64),
            (
                "lines without a name or address that could be listed".to_owned(),
                self.nameless,
            ),
        ];
        let others = others.into_iter().filter(|(_, count)| *count > 0);
        comment(
            "Left out:",
            others.map(|(what, count)| format!("{what}: {count}")).collect(),
        );
        text
    }
}

/// Whether an entry is, not about names.
fn is_about_addresses(entry: &str) -> bool {
    Entry::parse(entry).is_ok_and(|parsed| matches!(parsed.target, Target::Net(_)))
}

/// The log is somebody's bytes: what is not to be listed does not make a file that cannot be read.
fn can_be_listed(entry: &str) -> bool {
    Entry::parse(entry).is_ok_and(|parsed| parsed.may_be_allowed(entry).is_ok())
}

/// The policy file that lets through what these lines let through; the module says how.
pub fn learn<'a>(lines: impl IntoIterator<Item = &'a AuditLine>) -> String {
    let mut learnt = Learnt::default();
    for line in lines {
        learnt.add(line);
    }
    learnt.file()
}
