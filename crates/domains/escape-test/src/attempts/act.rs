//! What is done. A guest reads these from its plan (`guest/*.py` has a function for each).

use std::net::{IpAddr, Ipv4Addr};

use serde::{Serialize, Serializer};

/// Bytes, in hexadecimal for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(&self.0))
    }
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Act {
    /// Nothing: what is to be seen is seen from outside.
    Nothing,
    /// Send frames by the card, as they are.
    Frames {
        /// Which.
        frames: Vec<Bytes>,
        /// How many times all of them.
        times: u32,
        /// What an answer would have in it.
        nonce: Bytes,
        /// How many seconds to wait for one.
        wait: u32,
    },
    /// Send IP packets by a raw socket, as they are.
    Packets {
        /// Which way.
        to: Ipv4Addr,
        /// Which.
        packets: Vec<Bytes>,
        /// What an answer would have in it.
        nonce: Bytes,
        /// How many seconds to wait for one.
        wait: u32,
    },
    /// Send an echo request.
    Ping {
        /// Where to.
        to: Ipv4Addr,
        /// With what in it.
        payload: Bytes,
    },
    /// Open connections without end.
    Flood {
        /// Where to.
        to: Ipv4Addr,
        /// Which port.
        port: u16,
        /// How many at most.
        count: u32,
        /// For how many seconds at most.
        seconds: u32,
        /// How many in a second at most: no more than what lies between guest and sandbox carries.
        rate: u32,
        /// How many of them to end when all are sent.
        end: u32,
    },
    /// Connect, send, and read what comes.
    Tcp {
        /// An address, or `@NAME`: what the gateway's DNS says of it.
        to: String,
        /// Which port.
        port: u16,
        /// What to send, each by itself.
        send: Vec<Bytes>,
        /// Milliseconds between two of them.
        gap: u32,
        /// For how many seconds to try again if it does not work.
        again: u32,
    },
    /// Send datagrams, and read one.
    Udp {
        /// Where to.
        to: IpAddr,
        /// Which port.
        port: u16,
        /// What.
        send: Vec<Bytes>,
    },
    /// Ask a DNS server.
    Dns {
        /// Which.
        to: IpAddr,
        /// Whether by TCP.
        tcp: bool,
        /// Whether not to wait for answers.
        fast: bool,
        /// What.
        queries: Vec<Bytes>,
    },
    /// Make a TLS connection, and a request in it.
    Https {
        /// An address, or `@NAME`.
        to: String,
        /// Which port.
        port: u16,
        /// What to say before (to an HTTP proxy).
        before: Bytes,
        /// The server name; none: no such extension.
        sni: Option<String>,
        /// The request.
        request: Bytes,
        /// For how many seconds to try again if it does not work.
        again: u32,
    },
    /// Connect, and try to go on once the policy has been tightened.
    Live {
        /// An address, or `@NAME`.
        to: String,
        /// Which port.
        port: u16,
        /// What to send at first, each by itself.
        first: Vec<Bytes>,
        /// What to send then.
        then: Bytes,
        /// A name that our DNS answers for until then.
        until: String,
        /// How many seconds to wait for it.
        seconds: u32,
    },
    /// Connect by vsock.
    Vsock {
        /// To whom.
        cid: u32,
        /// To which ports.
        ports: Vec<u32>,
    },
    /// Look for links and ways.
    Links {
        /// Ways to these.
        ways: Vec<IpAddr>,
    },
    /// Make many connections and keep them.
    Crowd {
        /// An address, or `@NAME`.
        to: String,
        /// Which port.
        port: u16,
        /// How many.
        count: u32,
        /// For how many seconds to try.
        seconds: u32,
    },
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<String> for Bytes {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl Act {
    /// Connect, send all of it at once, and read.
    pub(super) fn tcp(to: impl ToString, port: u16, send: impl Into<Bytes>) -> Self {
        Self::Tcp {
            to: to.to_string(),
            port,
            send: vec![send.into()],
            gap: 0,
            again: 0,
        }
    }

    /// Ask one thing of a DNS server over UDP.
    pub(super) fn dns(to: impl Into<IpAddr>, query: Vec<u8>) -> Self {
        Self::Dns {
            to: to.into(),
            tcp: false,
            fast: false,
            queries: vec![query.into()],
        }
    }
}

impl Act {
    /// How many packets it is, where that is known from the start.
    pub(crate) fn packets(&self) -> u32 {
        match self {
            Self::Frames { frames, times, .. } => u32::try_from(frames.len())
                .unwrap_or(u32::MAX)
                .saturating_mul(*times),
            Self::Packets { packets, .. } => u32::try_from(packets.len()).unwrap_or(u32::MAX),
            _ => 0,
        }
    }

    /// The frames that it is, if it is frames.
    pub(crate) fn frames(&self) -> Vec<&[u8]> {
        match self {
            Self::Frames { frames, .. } => frames.iter().map(|frame| &*frame.0).collect(),
            _ => Vec::new(),
        }
    }
}
