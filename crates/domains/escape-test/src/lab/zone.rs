//! The names of the lab, and where they lead.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{
            A, AAAA, CNAME, HTTPS, SVCB, TXT,
            svcb::{EchConfigList, SvcParamKey, SvcParamValue},
        },
    },
};

/// A name that the policy lists, and its address.
pub const LISTED: (&str, Ipv4Addr) = ("listed.example", Ipv4Addr::new(203, 0, 112, 10));
/// Another.
pub const SECOND: (&str, Ipv4Addr) = ("second.example", Ipv4Addr::new(203, 0, 112, 11));
/// One that is listed for a port whose protocol names nobody.
pub const BARE: (&str, Ipv4Addr) = ("bare.example", Ipv4Addr::new(203, 0, 112, 12));
/// That port.
pub const BARE_PORT: u16 = 5432;
/// Names below this are listed by a wildcard.
pub const WILD: (&str, Ipv4Addr) = ("wild.example", Ipv4Addr::new(203, 0, 112, 13));
/// Names below [`WILD`] that each have an address of their own.
#[must_use]
pub fn numbered(number: u8) -> (String, Ipv4Addr) {
    (
        format!("n{number}.{}", WILD.0),
        Ipv4Addr::new(203, 0, 115, number),
    )
}
/// A name that is not listed.
pub const UNLISTED: (&str, Ipv4Addr) = ("unlisted.example", Ipv4Addr::new(203, 0, 112, 20));
/// A name that is not listed, on the address of one that is: the neighbour at a content network.
pub const COHOST: (&str, Ipv4Addr) = ("cohost.example", LISTED.1);
/// A name that is denied.
pub const DENIED: (&str, Ipv4Addr) = ("denied.example", Ipv4Addr::new(203, 0, 112, 67));
/// Below this is the attacker's own zone: its server reads what is asked for.
pub const ATTACKER: &str = "attacker.example";
/// An address that the policy denies.
pub const DENIED_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 112, 66);
/// A name that is listed until the policy is tightened.
pub const EARLY: (&str, Ipv4Addr) = ("early.example", Ipv4Addr::new(203, 0, 112, 15));
/// An address that is permitted, or not denied, until then.
pub const EARLY_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 112, 31);
/// Here no server listens: the machine says so.
pub const CLOSED_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 112, 97);
/// The way to here is narrow: the router says so.
pub const NARROW_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 112, 98);
/// There is no way to here: the router, whose address is private, says so.
pub const UNREACHABLE_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 112, 99);
/// An address that a rule of the policy permits.
pub const PERMITTED_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 112, 30);
/// The port that it is permitted for.
pub const PERMITTED_PORT: u16 = 7777;
/// A private address that a rule of the policy permits.
pub const PERMITTED_PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 9);

/// Listed names that lead where no name may lead, and what they lead to.
pub const REBINDING: [(&str, IpAddr); 8] = [
    ("private.rebind.example", v4(192, 168, 77, 5)),
    ("metadata.rebind.example", v4(169, 254, 169, 254)),
    ("loopback.rebind.example", v4(127, 0, 0, 1)),
    ("carrier.rebind.example", v4(100, 64, 77, 5)),
    ("host.rebind.example", v4(10, 77, 0, 2)),
    ("zero.rebind.example", v4(0, 0, 0, 0)),
    ("gateway.rebind.example", v4(192, 0, 0, 1)),
    ("sandbox.rebind.example", v4(198, 18, 0, 2)),
];
/// A listed name that is another name for a private one.
pub const ALIAS: (&str, &str, Ipv4Addr) = (
    "alias.rebind.example",
    "inner.example",
    Ipv4Addr::new(10, 99, 0, 5),
);
/// A listed name that answers with a public address once, and then with a private one.
pub const FLIP: (&str, Ipv4Addr, Ipv4Addr) = (
    "flip.rebind.example",
    Ipv4Addr::new(203, 0, 112, 14),
    Ipv4Addr::new(10, 99, 0, 6),
);

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// How long an answer is good for: no longer than it takes to use it, so that whoever asks again gets what is true then.
const TTL: u32 = 0;

/// The server of all zones.
#[derive(Debug)]
pub(super) struct Zone {
    flipped: Arc<AtomicBool>,
}

impl Zone {
    /// One in which the name of [`FLIP`] leads to its first address until this is true.
    pub(super) fn new(flipped: Arc<AtomicBool>) -> Self {
        Self { flipped }
    }

    /// The answer to a query; nothing to what is none.
    pub(super) fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let query = Message::from_vec(query).ok()?;
        if query.metadata.message_type != MessageType::Query {
            return None;
        }
        let question = query.queries.first()?.clone();
        let mut answer = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        answer.metadata.recursion_desired = query.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        let name = question.name().clone();
        match self.records(
            &name.to_ascii().trim_end_matches('.').to_ascii_lowercase(),
            question.query_type(),
        ) {
            Some(records) => {
                let mut owner = name;
                for data in records {
                    let next = if let RData::CNAME(to) = &data {
                        Some(to.0.clone())
                    } else {
                        None
                    };
                    answer.add_answer(Record::from_rdata(owner.clone(), TTL, data));
                    owner = next.unwrap_or(owner);
                }
            }
            None => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        answer.add_query(question);
        answer.to_vec().ok()
    }

    /// The records of a name, if it exists.
    fn records(&self, name: &str, kind: RecordType) -> Option<Vec<RData>> {
        let below = |zone: &str| name.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.'));
        let attacker = name == ATTACKER || below(ATTACKER);
        if attacker && kind == RecordType::TXT {
            return Some(vec![RData::TXT(TXT::new(vec![super::MARK.to_owned()]))]);
        }
        if name == ALIAS.0 {
            let target = Name::from_ascii(format!("{}.", ALIAS.1)).ok()?;
            return Some(vec![RData::CNAME(CNAME(target)), RData::A(A(ALIAS.2))]);
        }
        if name == LISTED.0 && kind == RecordType::HTTPS {
            // Keys for an encrypted ClientHello. A guest that got them could hide a name from the proxy.
            let keys = SvcParamValue::EchConfigList(EchConfigList(vec![0xfe; 64]));
            let binding = SVCB::new(1, Name::root(), vec![(SvcParamKey::EchConfigList, keys)]);
            return Some(vec![RData::HTTPS(HTTPS(binding))]);
        }
        let exact = [LISTED, SECOND, BARE, EARLY, UNLISTED, COHOST, DENIED]
            .into_iter()
            .find(|(own, _)| *own == name);
        let own = name
            .strip_suffix(WILD.0)
            .and_then(|rest| rest.strip_prefix('n')?.strip_suffix('.')?.parse().ok());
        let address = if let Some((_, address)) = exact {
            address.into()
        } else if let Some(number) = own {
            numbered(number).1.into()
        } else if name == WILD.0 || below(WILD.0) {
            WILD.1.into()
        } else if attacker {
            UNLISTED.1.into()
        } else if name == FLIP.0 {
            let flipped = kind == RecordType::A && self.flipped.fetch_or(true, Ordering::Relaxed);
            IpAddr::V4(if flipped { FLIP.2 } else { FLIP.1 })
        } else {
            REBINDING.iter().find(|(own, _)| *own == name)?.1
        };
        Some(match (address, kind) {
            (IpAddr::V4(address), RecordType::A) => vec![RData::A(A(address))],
            (IpAddr::V6(address), RecordType::AAAA) => vec![RData::AAAA(AAAA(address))],
            _ => Vec::new(),
        })
    }
}
