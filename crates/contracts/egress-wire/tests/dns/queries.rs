//! Queries: recorded ones, those that hickory makes, and those that somebody who wants to get through would.

use crate::{
    properties::agree,
    wire::{NAME, asked, opt, question, raw, sound, why, wire},
};
use hickory_proto::{
    op::Edns,
    rr::{RecordType, rdata::opt::EdnsOption},
};
use omnirun_egress_wire::dns::{Kind, MAX_TCP, MAX_UDP, Over, Tunnel, Why, query};
use std::{fs, path::Path};

#[test]
fn recorded_queries_and_each_of_their_prefixes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/dns");
    let mut count = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let file = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let bytes = fs::read(&path).unwrap();
        let kind = file.rsplit('-').next().unwrap().parse::<u16>().unwrap();
        let host = match file.split('-').next().unwrap() {
            "c" => "node.example.com",
            "go" if kind == 33 => "_https._tcp.go.example.com",
            "go" => "go.example.com",
            _ => "glibc.example.com",
        };
        let found = sound(&bytes);
        assert_eq!((found.name(), found.kind()), (host, kind.into()), "{file}");
        assert_eq!(found.tunnel(), None);
        assert_eq!(found.host().unwrap().as_str(), host);
        for at in 0..bytes.len() {
            assert!(query(&bytes[..at], Over::Udp).is_err(), "{file}, {at}");
        }
        for at in 0..bytes.len() {
            for mask in [1, 2, 0x20, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= mask;
                agree(&changed);
            }
        }
        count += 1;
    }
    assert_eq!(count, 8);
}

#[test]
fn queries_that_others_write() {
    let plain = asked("Listed.EXAMPLE.", RecordType::A);
    let found = sound(&wire(&plain));
    assert_eq!(
        (found.name(), found.kind(), found.over()),
        ("listed.example", Kind::A, Over::Udp)
    );
    // As dig asks: authentic data wanted, a cookie, and padding.
    let mut dig = plain.clone();
    dig.metadata.authentic_data = true;
    let mut edns = Edns::new();
    edns.set_max_payload(1232).set_dnssec_ok(true);
    edns.options_mut().insert(EdnsOption::Unknown(10, vec![7; 8]));
    edns.options_mut().insert(EdnsOption::Unknown(12, vec![0; 60]));
    dig.set_edns(edns);
    assert_eq!(sound(&wire(&dig)).name(), "listed.example");
    // As musl asks: the same without EDNS. And the root, which resolvers ask for.
    assert_eq!(
        sound(&raw(0x0120, [1, 0, 0, 0], &question(NAME, 28, 1))).kind(),
        Kind::Aaaa
    );
    assert_eq!(sound(&raw(0, [1, 0, 0, 0], &question(b"\0", 2, 1))).name(), "");
    for (number, kind) in [
        (64, Kind::Svcb),
        (65, Kind::Https),
        (16, Kind::Other(16)),
        (255, Kind::Other(255)),
    ] {
        assert_eq!(
            sound(&raw(0, [1, 0, 0, 0], &question(NAME, number, 1))).kind(),
            kind
        );
    }
}

#[test]
fn only_what_is_one_question() {
    let one = question(NAME, 1, 1);
    let two = [&one[..], &one].concat();
    assert_eq!(why(&raw(0, [2, 0, 0, 0], &two)), Why::Sections);
    assert_eq!(why(&raw(0, [0, 0, 0, 0], &[])), Why::Sections);
    assert_eq!(why(&raw(0, [1, 1, 0, 0], &one)), Why::Sections);
    assert_eq!(why(&raw(0, [1, 0, 1, 0], &one)), Why::Sections);
    assert_eq!(
        why(&raw(
            0,
            [1, 0, 0, 2],
            &[&one[..], &opt(0, b""), &opt(0, b"")].concat()
        )),
        Why::Sections
    );
    assert_eq!(why(&raw(0, [1, 0, 0, 0], &two)), Why::Additional);
    assert_eq!(
        why(&raw(0, [1, 0, 0, 0], &[&one[..], b"\0"].concat())),
        Why::Additional
    );
    assert_eq!(why(&raw(0, [1, 0, 0, 0], &one[..one.len() - 1])), Why::Sections);
    assert_eq!(why(&raw(0, [1, 0, 0, 0], &question(NAME, 1, 3))), Why::Class);
    assert_eq!(why(&raw(0, [1, 0, 0, 0], &question(NAME, 1, 255))), Why::Class);
    for opcode in 1..16 {
        assert_eq!(why(&raw(opcode << 11, [1, 0, 0, 0], &one)), Why::Opcode);
    }
    let with = |rest: &[u8]| why(&raw(0, [1, 0, 0, 1], &[&one[..], rest].concat()));
    assert_eq!(with(&opt(1, b"")), Why::EdnsVersion);
    assert_eq!(with(&[&opt(0, b"")[..], b"\0"].concat()), Why::Additional);
    assert_eq!(with(&opt(0, b"abc")[..13]), Why::Additional);
    assert_eq!(with(b""), Why::Additional);
    // No name but the root, no type but OPT.
    assert_eq!(with(&[b"\x01a", &opt(0, b"")[..]].concat()), Why::Additional);
    assert_eq!(with(&[b"\xc0\x0c", &opt(0, b"")[1..]].concat()), Why::Additional);
    assert_eq!(with(&[b"\0\0\x01", &opt(0, b"")[3..]].concat()), Why::Additional);
}

#[test]
fn names_have_one_reading() {
    let with =
        |name: &[u8]| query(&raw(0, [1, 0, 0, 0], &question(name, 1, 1)), Over::Udp).map_err(|bad| bad.why);
    for wrong in [
        &b"\x0elisted.example\0"[..],
        b"\x06listed\x08example\0\0",
        b"\x07listed\0\x07example\0",
        b"\x07listed \x07example\0",
        b"\x01*\x07example\0",
        b"\x02\xc3\xae\x07example\0",
        b"\x03a\\b\0",
        b"\xc0\x0c",
        b"\x01a\xc0\x0c",
        b"\x41\x10",
        b"\x80",
    ] {
        assert_eq!(with(wrong), Err(Why::Name), "{wrong:?}");
    }
    let labels = |sizes: &[usize]| {
        let labels = sizes
            .iter()
            .flat_map(|s| [&[*s as u8][..], &vec![b'a'; *s]].concat());
        labels.chain([0]).collect::<Vec<u8>>()
    };
    assert_eq!(with(&labels(&[63, 63, 63, 61])).unwrap().name().len(), 253);
    assert_eq!(with(&labels(&[63, 63, 63, 62])), Err(Why::Name));
    assert_eq!(with(&labels(&[1; 127])).unwrap().name().len(), 253);
    assert_eq!(with(&labels(&[1; 128])), Err(Why::Name));
    assert_eq!(with(&labels(&[64])), Err(Why::Name));
}

#[test]
fn names_that_carry_data() {
    let sign = |name: &str| sound(&wire(&asked(name, RecordType::A))).tunnel();
    for host in [
        "docker-images-prod.6aa30f8b08e16409b46e0173d6de2f56.r2.cloudflarestorage.com",
        "productionresultssa0.blob.core.windows.net",
        "a-rather-long-name-of-a-bucket-in-use.s3.dualstack.us-east-1.amazonaws.com",
        "example.com",
    ] {
        assert_eq!(sign(host), None);
    }
    let long = |size: usize| "a".repeat(size);
    assert_eq!(sign(&format!("{}.example.com", long(48))), None);
    assert_eq!(sign(&format!("{}.example.com", long(49))), Some(Tunnel::Label));
    assert_eq!(sign(&format!("{0}.{0}.{1}.com", long(40), long(34))), None);
    assert_eq!(
        sign(&format!("{0}.{0}.{1}.com", long(40), long(35))),
        Some(Tunnel::Name)
    );
    assert_eq!(sign(&["a"; 10].join(".")), None);
    assert_eq!(sign(&["a"; 11].join(".")), Some(Tunnel::Labels));
}

#[test]
fn lengths() {
    let query_of = |length: usize, over| {
        let rest = length - 12 - question(NAME, 1, 1).len() - opt(0, b"").len();
        let rest = [question(NAME, 1, 1), opt(0, &vec![0; rest])].concat();
        query(&raw(0, [1, 0, 0, 1], &rest), over).map_err(|bad| bad.why)
    };
    assert!(query_of(MAX_UDP, Over::Udp).is_ok());
    assert_eq!(query_of(MAX_UDP + 1, Over::Udp), Err(Why::Length));
    assert!(query_of(MAX_TCP, Over::Tcp).is_ok());
}
