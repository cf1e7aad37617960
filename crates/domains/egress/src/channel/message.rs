//! The messages.

use omnirun_egress_policy::{AuditLine, Policy};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use crate::{Caps, Metrics};

/// From the owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// How names are resolved from now on. With a blob: a [`Resolution`].
    Resolve,
    /// Serve a guest. With the sockets for DNS over UDP and TCP, transparent TCP and the explicit proxy, in this order,
    /// and a blob: [`Blob`].
    Attach {
        /// Which.
        id: u64,
        /// The policy's number.
        serial: u64,
    },
    /// From now on another policy. With a blob: [`Blob`].
    Update {
        /// Which.
        id: u64,
        /// The policy's number.
        serial: u64,
    },
    /// Drop everything of a guest.
    Detach {
        /// Which.
        id: u64,
    },
    /// The addresses of [`Event::Answered`] are let through, or could not be.
    Answered {
        /// The request's number.
        request: u64,
        /// Whether they are.
        done: bool,
    },
    /// Tell what was counted.
    Measure {
        /// Of which.
        id: u64,
        /// The request's number.
        request: u64,
    },
}

/// From the child.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Event {
    /// It is confined and listens to orders.
    Ready,
    /// A policy is in force, for live connections too.
    InForce {
        /// Of which.
        id: u64,
        /// The policy's number.
        serial: u64,
    },
    /// An attachment or policy could not be taken.
    Failed {
        /// Which.
        id: u64,
        /// The policy's number.
        serial: u64,
        /// Why.
        why: String,
    },
    /// Nothing of it is left.
    Detached {
        /// Which.
        id: u64,
    },
    /// These addresses are about to be given to a guest.
    Answered {
        /// The request's number, for the answer.
        request: u64,
        /// To which.
        id: u64,
        /// The addresses.
        addresses: Vec<Ipv4Addr>,
        /// For so many seconds.
        ttl: u32,
    },
    /// What was let through and what was not.
    Audit {
        /// Of which attachment, and the line.
        lines: Vec<(u64, AuditLine)>,
    },
    /// What was counted.
    Measured {
        /// The request's number.
        request: u64,
        /// The numbers; nothing if there is no such attachment.
        metrics: Option<Metrics>,
    },
}

/// What comes with [`Order::Attach`] and [`Order::Update`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Blob<P = Policy> {
    pub(crate) policy: P,
    pub(crate) caps: Caps,
}

/// How names are resolved.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Resolution {
    pub(crate) servers: Vec<(IpAddr, u16)>,
    pub(crate) hosts: BTreeMap<String, Vec<Ipv4Addr>>,
}
