//! One entry of a list: a name, all names below one, an address or a CIDR; each with or without a port.

use crate::{BadName, Name, PolicyError, special::special_net};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// What a name without a port is about: HTTP and TLS.
pub(crate) const WEB: [u16; 2] = [80, 443];

/// What an entry is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Target {
    /// This name.
    Name(Name),
    /// All names below it.
    Below(Name),
    /// These addresses.
    Net(IpNet),
}

/// An entry's target and port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) target: Target,
    pub(crate) port: Option<u16>,
}

impl Entry {
    /// Reads one. Whether it may be allowed is not looked at.
    pub(crate) fn parse(text: &str) -> Result<Self, PolicyError> {
        let wrong = |what: &str| PolicyError::entry(text, what);
        let trimmed = text.trim();
        if trimmed.contains("://") {
            return Err(wrong(
                "it is a URL; write the host name alone, with :PORT if it is neither 80 nor 443",
            ));
        }
        let (host, port) =
            split_port(trimmed).ok_or_else(|| wrong("its port is no number from 1 to 65535"))?;
        if let Some(net) = as_net(host) {
            let target = Target::Net(canonical(net));
            return Ok(Self { target, port });
        }
        if host.contains('/') {
            return Err(wrong(
                "it is no CIDR, and a name has no slash; paths cannot be told apart inside TLS",
            ));
        }
        let (below, name) = match host.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, host),
        };
        if name.contains('*') {
            return Err(wrong(
                "a * stands for whole labels at the beginning: *.example.net",
            ));
        }
        let name = Name::written(name).map_err(|why| match why {
            BadName::Address => {
                wrong("an address is four decimal numbers, or IPv6 in brackets if a port follows")
            }
            why => PolicyError::Name {
                entry: text.to_owned(),
                why,
            },
        })?;
        let target = if below {
            Target::Below(name)
        } else {
            Target::Name(name)
        };
        Ok(Self { target, port })
    }

    /// The same, its network in the one form that is compared.
    pub(crate) fn canonical(mut self) -> Self {
        if let Target::Net(net) = &mut self.target {
            *net = canonical(*net);
        }
        self
    }

    /// The ports of a name that is allowed.
    pub(crate) fn name_ports(&self) -> &[u16] {
        match &self.port {
            Some(_) => self.port.as_slice(),
            None => &WEB,
        }
    }

    /// Whether it is about addresses of a special purpose, and those alone.
    pub(crate) fn is_private(&self) -> bool {
        matches!(self.target, Target::Net(net) if special_net(net).is_some())
    }

    /// Refuses to allow what is never reached.
    pub(crate) fn may_be_allowed(&self, text: &str) -> Result<(), PolicyError> {
        let Target::Net(net) = self.target else {
            return Ok(());
        };
        match special_net(net) {
            Some(what) if !what.listable => Err(PolicyError::Never {
                entry: text.to_owned(),
                why: what.what,
            }),
            _ => Ok(()),
        }
    }
}

/// Without host bits, and IPv4 where it is IPv4 in IPv6's clothes.
fn canonical(net: IpNet) -> IpNet {
    let net = net.trunc();
    let IpNet::V6(v6) = net else {
        return net;
    };
    let mapped = v6.network().to_ipv4_mapped();
    let length = v6.prefix_len().checked_sub(96);
    mapped
        .zip(length)
        .and_then(|(v4, length)| IpNet::new(v4.into(), length).ok())
        .unwrap_or(net)
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`, and a bare IPv6 address or CIDR. None: there is a port that is none.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let port = |digits: &str| {
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|port| plain && *port != 0)
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        return match after.strip_prefix(':') {
            Some(digits) => Some((host, Some(port(digits)?))),
            None => after.is_empty().then_some((host, None)),
        };
    }
    match text.split_once(':') {
        // More than one colon: IPv6.
        Some((_, rest)) if rest.contains(':') => Some((text, None)),
        Some((host, digits)) => Some((host, Some(port(digits)?))),
        None => Some((text, None)),
    }
}

fn as_net(host: &str) -> Option<IpNet> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(IpNet::from(address));
    }
    host.parse::<IpNet>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_as_people_write_them() {
        let name = |n: &str| Name::parse(n.as_bytes()).unwrap();
        for (text, target, port) in [
            ("PyPI.org", Target::Name(name("pypi.org")), None),
            (
                " db.example.com:5432 ",
                Target::Name(name("db.example.com")),
                Some(5432),
            ),
            ("*.example.net", Target::Below(name("example.net")), None),
            (
                "*.example.net:8443",
                Target::Below(name("example.net")),
                Some(8443),
            ),
            ("10.1.2.3", Target::Net("10.1.2.3/32".parse().unwrap()), None),
            (
                "10.1.2.3/24:443",
                Target::Net("10.1.2.0/24".parse().unwrap()),
                Some(443),
            ),
            (
                "2001:db9::/32",
                Target::Net("2001:db9::/32".parse().unwrap()),
                None,
            ),
            (
                "::ffff:10.1.2.3",
                Target::Net("10.1.2.3/32".parse().unwrap()),
                None,
            ),
            (
                "[2001:db9::1]:443",
                Target::Net("2001:db9::1/128".parse().unwrap()),
                Some(443),
            ),
        ] {
            assert_eq!(Entry::parse(text).unwrap(), Entry { target, port }, "{text}");
        }
        for (text, says) in [
            ("", "empty"),
            ("https://pypi.org/simple", "URL"),
            ("pypi.org/simple", "slash"),
            ("a.*.b", "whole labels"),
            ("*", "whole labels"),
            ("*.", "empty"),
            ("a:0", "port"),
            ("a:+1", "port"),
            ("a:65536", "port"),
            ("a:b", "port"),
            ("10.0.0.0/33", "CIDR"),
            ("127.1", "four decimal numbers"),
            ("010.1.2.3", "four decimal numbers"),
            ("１２７.0.0.1", "four decimal numbers"),
            ("a b", "byte"),
        ] {
            let error = Entry::parse(text).unwrap_err();
            let words = format!("{error}");
            assert!(words.contains(says), "{text}: {words}");
        }
    }

    #[test]
    fn what_is_never_reached_cannot_be_allowed() {
        let allowed = |text: &str| Entry::parse(text).unwrap().may_be_allowed(text);
        for text in [
            "169.254.169.254",
            "127.0.0.0/8",
            "127.0.0.1:80",
            "::1",
            "224.0.0.1",
            "0.0.0.0/8",
            "100.100.100.200",
            "::ffff:127.0.0.1",
            "::ffff:169.254.0.0/112",
        ] {
            assert!(matches!(allowed(text), Err(PolicyError::Never { .. })), "{text}");
        }
        for text in [
            "10.0.0.0/8",
            "192.168.1.1",
            "100.64.0.0/10",
            "9.9.9.9",
            "0.0.0.0/0",
            "example.net",
        ] {
            assert_eq!(allowed(text), Ok(()), "{text}");
        }
    }
}
