//! Elements of nftables sets, in transactions.
//!
//! The rules of a namespace are given to `nft` once, when it is made; afterwards only the elements of its sets change.
//! That happens before every clone resumes and before every answer to a DNS query, so it is done here, with some 20 µs
//! for a transaction, where a run of `nft` takes 3 ms (measured). The numbers are those of `linux/netfilter/nf_tables.h`.

use std::{io, net::Ipv4Addr, time::Duration};

use ipnet::Ipv4Net;

use super::Netlink;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWSETELEM: u16 = (NFNL_SUBSYS_NFTABLES << 8) | 12;
const NFT_MSG_DELSETELEM: u16 = (NFNL_SUBSYS_NFTABLES << 8) | 14;
const NFPROTO_IPV4: u8 = 2;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_DATA_VALUE: u16 = 1;
const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLA_F_NESTED: u16 = 1 << 15;

/// Elements in one message: the length of their list must fit 16 bits, and one element takes at most 40 bytes.
const PER_MESSAGE: usize = 1024;

/// One element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    key: Vec<u8>,
    end: bool,
    timeout: Option<Duration>,
}

impl Element {
    /// A port.
    pub(crate) fn port(port: u16) -> Self {
        Self {
            key: port.to_be_bytes().to_vec(),
            end: false,
            timeout: None,
        }
    }

    /// An address, for some time.
    pub(crate) fn address(address: Ipv4Addr, timeout: Duration) -> Self {
        Self {
            key: address.octets().to_vec(),
            end: false,
            timeout: Some(timeout),
        }
    }
}

/// The elements of a set of intervals that hold `nets`: merged, since intervals may not overlap; each a first address
/// and, unless it reaches to the last of all, the one after its last.
pub(crate) fn intervals(nets: &[Ipv4Net]) -> Vec<Element> {
    let mut ranges: Vec<(u32, u32)> = nets
        .iter()
        .map(|net| (net.network().to_bits(), net.broadcast().to_bits()))
        .collect();
    ranges.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    let element = |key: u32, end| Element {
        key: key.to_be_bytes().to_vec(),
        end,
        timeout: None,
    };
    let ends = |(first, last): (u32, u32)| {
        [
            Some(element(first, false)),
            last.checked_add(1).map(|after| element(after, true)),
        ]
    };
    merged.into_iter().flat_map(ends).flatten().collect()
}

/// Changes to the sets of one table, which happen all at once or not at all.
#[derive(Debug)]
pub(crate) struct Transaction<'a> {
    table: &'a str,
    bytes: Vec<u8>,
    sequence: u32,
}

impl<'a> Transaction<'a> {
    /// To the table `table` of family `ip`.
    pub(crate) fn new(table: &'a str) -> Self {
        let mut this = Self {
            table,
            bytes: Vec::new(),
            sequence: 0,
        };
        this.message(NFNL_MSG_BATCH_BEGIN, 0, (0, NFNL_SUBSYS_NFTABLES), |_| {});
        this
    }

    /// Takes all elements out of `set`.
    pub(crate) fn clear(mut self, set: &str) -> Self {
        self.elements(NFT_MSG_DELSETELEM, 0, set, &[]);
        self
    }

    /// Puts `elements` into `set`; those that are there stay as they are.
    pub(crate) fn add(mut self, set: &str, elements: &[Element]) -> Self {
        for some in elements.chunks(PER_MESSAGE) {
            self.elements(NFT_MSG_NEWSETELEM, NLM_F_CREATE, set, some);
        }
        self
    }

    /// Puts `elements` into `set` with their timeouts, also if they are there with others. Before Linux 6.12 an element
    /// keeps its timeout when it is added again, and removing one that is not there fails; so each is added, removed,
    /// and added, in one transaction.
    pub(crate) fn renew(self, set: &str, elements: &[Element]) -> Self {
        let mut this = self.add(set, elements);
        for some in elements.chunks(PER_MESSAGE) {
            this.elements(NFT_MSG_DELSETELEM, 0, set, some);
        }
        this.add(set, elements)
    }

    /// Does it.
    pub(crate) fn commit(mut self, netlink: &mut Netlink) -> io::Result<()> {
        if self.sequence == 1 {
            return Ok(());
        }
        self.message(NFNL_MSG_BATCH_END, 0, (0, NFNL_SUBSYS_NFTABLES), |_| {});
        netlink.transaction(&self.bytes)
    }

    fn elements(&mut self, kind: u16, flags: u16, set: &str, elements: &[Element]) {
        let table = self.table;
        self.message(kind, NLM_F_ACK | flags, (NFPROTO_IPV4, 0), |bytes| {
            text(bytes, NFTA_SET_ELEM_LIST_TABLE, table);
            text(bytes, NFTA_SET_ELEM_LIST_SET, set);
            if elements.is_empty() {
                return;
            }
            attribute(bytes, NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED, |bytes| {
                for element in elements {
                    attribute(bytes, NFTA_LIST_ELEM | NLA_F_NESTED, |bytes| element.emit(bytes));
                }
            });
        });
    }

    /// Appends a message: netlink's header, netfilter's, attributes.
    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        (family, resource): (u8, u16),
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.bytes.len();
        self.sequence += 1;
        let bytes = &mut self.bytes;
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend([family, 0]);
        bytes.extend(resource.to_be_bytes());
        body(bytes);
        let length = u32::try_from(bytes.len() - start).unwrap_or(u32::MAX);
        bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

impl Element {
    fn emit(&self, bytes: &mut Vec<u8>) {
        attribute(bytes, NFTA_SET_ELEM_KEY | NLA_F_NESTED, |bytes| {
            attribute(bytes, NFTA_DATA_VALUE, |bytes| bytes.extend(&self.key));
        });
        if self.end {
            attribute(bytes, NFTA_SET_ELEM_FLAGS, |bytes| {
                bytes.extend(NFT_SET_ELEM_INTERVAL_END.to_be_bytes())
            });
        }
        if let Some(timeout) = self.timeout {
            let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            attribute(bytes, NFTA_SET_ELEM_TIMEOUT, |bytes| {
                bytes.extend(milliseconds.to_be_bytes())
            });
        }
    }
}

fn text(bytes: &mut Vec<u8>, kind: u16, text: &str) {
    attribute(bytes, kind, |bytes| {
        bytes.extend(text.as_bytes());
        bytes.push(0);
    });
}

/// Appends an attribute: its length, its kind, its value, padded to four bytes.
fn attribute(bytes: &mut Vec<u8>, kind: u16, value: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend([0; 2]);
    bytes.extend(kind.to_ne_bytes());
    value(bytes);
    let length = u16::try_from(bytes.len() - start).unwrap_or(u16::MAX);
    bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests;
