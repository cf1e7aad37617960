use super::*;

fn nets(nets: &[&str]) -> Vec<Ipv4Net> {
    nets.iter().map(|net| net.parse().unwrap()).collect()
}

/// First addresses, and ends.
fn ranges(given: &[&str]) -> Vec<(String, bool)> {
    let elements = intervals(&nets(given)).into_iter();
    elements
        .map(|element| {
            (
                Ipv4Addr::from(<[u8; 4]>::try_from(element.key).unwrap()).to_string(),
                element.end,
            )
        })
        .collect()
}

fn from(address: &str) -> (String, bool) {
    (address.to_owned(), false)
}

fn to(address: &str) -> (String, bool) {
    (address.to_owned(), true)
}

#[test]
fn intervals_are_merged_where_they_overlap_or_touch() {
    assert_eq!(ranges(&[]), []);
    assert_eq!(
        ranges(&["203.0.113.5/32"]),
        [from("203.0.113.5"), to("203.0.113.6")]
    );
    assert_eq!(
        ranges(&["10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8"]),
        [from("10.0.0.0"), to("11.0.0.0")]
    );
    assert_eq!(
        ranges(&["10.0.1.0/24", "10.0.0.0/24"]),
        [from("10.0.0.0"), to("10.0.2.0")]
    );
    let apart = [from("10.0.0.0"), to("10.0.1.0"), from("10.0.2.0"), to("10.0.3.0")];
    assert_eq!(ranges(&["10.0.2.0/24", "10.0.0.0/24"]), apart);
    // Bits of a host in it are none of it.
    assert_eq!(ranges(&["10.0.0.77/24"]), [from("10.0.0.0"), to("10.0.1.0")]);
}

#[test]
fn what_reaches_to_the_last_address_has_no_end() {
    assert_eq!(ranges(&["0.0.0.0/0"]), [from("0.0.0.0")]);
    assert_eq!(
        ranges(&["255.255.255.255/32", "240.0.0.0/4"]),
        [from("240.0.0.0")]
    );
}

#[test]
fn a_transaction_is_what_nft_would_send() {
    let transaction = Transaction::new("t")
        .clear("a")
        .add("b", &[Element::port(443)])
        .add("b", &[])
        .renew(
            "c",
            &[Element::address(
                Ipv4Addr::new(1, 2, 3, 4),
                Duration::from_secs(2),
            )],
        );
    let mut kinds = Vec::new();
    let mut rest = &transaction.bytes[..];
    while !rest.is_empty() {
        let length = u32::from_ne_bytes(rest[..4].try_into().unwrap()) as usize;
        assert_eq!(length % 4, 0);
        kinds.push(u16::from_ne_bytes(rest[4..6].try_into().unwrap()));
        rest = &rest[length..];
    }
    let (new, delete) = (NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM);
    assert_eq!(kinds, [NFNL_MSG_BATCH_BEGIN, delete, new, new, delete, new]);
    // table "t", set "c", elements: one, of a key and a timeout.
    let last = &transaction.bytes[transaction.bytes.len() - 56..];
    let expected = [
        &[6, 0, 1, 0, b't', 0, 0, 0, 6, 0, 2, 0, b'c', 0, 0, 0][..],
        &[32, 0, 3, 0x80, 28, 0, 1, 0x80],
        &[12, 0, 1, 0x80, 8, 0, 1, 0, 1, 2, 3, 4],
        &[12, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0x07, 0xd0],
    ]
    .concat();
    assert_eq!(last[last.len() - expected.len()..], expected);
}
