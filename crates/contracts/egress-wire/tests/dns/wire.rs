//! Messages, written and read.

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query as Question},
    rr::{Name, RecordType},
};
use omnirun_egress_wire::dns::{Over, Query, Why, query};

/// A query as hickory writes it.
pub fn asked(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(Name::from_ascii(name).unwrap(), kind));
    message
}

pub fn wire(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap()
}

pub fn sound(bytes: &[u8]) -> Query {
    query(bytes, Over::Udp).unwrap()
}

pub fn why(bytes: &[u8]) -> Why {
    query(bytes, Over::Udp).unwrap_err().why
}

/// What hickory reads in an answer, which is no longer than a datagram may be.
pub fn read(bytes: &[u8]) -> Message {
    assert!(bytes.len() <= 512, "{}", bytes.len());
    Message::from_vec(bytes).unwrap()
}

/// By hand: a header of these counts, then the rest.
pub fn raw(flags: u16, counts: [u16; 4], rest: &[u8]) -> Vec<u8> {
    let mut out = vec![0x12, 0x34];
    out.extend(flags.to_be_bytes());
    out.extend(counts.into_iter().flat_map(u16::to_be_bytes));
    out.extend(rest);
    out
}

pub const NAME: &[u8] = b"\x06listed\x07example\0";

pub fn question(name: &[u8], kind: u16, class: u16) -> Vec<u8> {
    [name, &kind.to_be_bytes(), &class.to_be_bytes()].concat()
}

pub fn opt(version: u8, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u16).to_be_bytes();
    [&[0, 0, 41, 4, 208, 0, version, 0x80, 0][..], &length, data].concat()
}
