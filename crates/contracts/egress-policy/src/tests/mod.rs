//! What all of it does together.

use crate::{
    AuditLine, IpNet, Mode, Name, NetFlag, NoPresets, Policy, PolicyError, PolicySpec, PresetSource,
    Protocol, Reason, Verdict,
};
use std::net::SocketAddr;

mod decisions;
mod learning;
mod properties;
mod written;

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

fn file(text: &str) -> Policy {
    Policy::from_toml(text, &NoPresets).unwrap()
}

fn list(entries: &[&str]) -> Policy {
    let entries: Vec<String> = entries.iter().map(|e| (*e).to_owned()).collect();
    Policy::allow(&entries, &NoPresets).unwrap()
}

fn to(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
