//! One line of the audit log: a connection that ended, or something that was refused.

use crate::{Reason, Verdict};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// What it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// A DNS query that was not answered with addresses.
    Dns,
    /// TLS, by its server name.
    Tls,
    /// HTTP, by its host.
    Http,
    /// A tunnel through the explicit proxy.
    Connect,
    /// Another TCP connection.
    Tcp,
}

/// One line. The field names are stable; times are milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditLine {
    /// When it ended, since the Unix epoch.
    pub time_ms: i64,
    /// The sandbox.
    #[serde(default)]
    pub sandbox: String,
    /// The session, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// What it was.
    pub protocol: Protocol,
    /// The name that it asked for; where an entry lists the address, and no name is asked for, the one that the sandbox
    /// was last told has it. Guest data: printable ASCII, bounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The address that the guest chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<SocketAddr>,
    /// The address that was dialled for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialled: Option<SocketAddr>,
    /// The port.
    pub port: u16,
    /// Whether it went through.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The entry that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Bytes from the sandbox.
    pub bytes_up: u64,
    /// Bytes to it.
    pub bytes_down: u64,
    /// How long it was open.
    pub duration_ms: u64,
}
