//! What is in a hello.

use crate::{
    bad, found, name,
    parts::{Parts, message, records, server_names, vector},
};
use omnirun_egress_wire::hello::{Bad, Hello, MAX_EXTENSIONS, MAX_PROTOCOLS, parse};

#[test]
fn versions() {
    for (version, fine) in [
        (0x0300, false),
        (0x0301, true),
        (0x0303, true),
        (0x0304, false),
        (0xfefd, false),
    ] {
        let stream = Parts {
            version,
            ..Parts::sample()
        }
        .stream();
        match parse(&stream) {
            Hello::Found(_) => assert!(fine, "{version:x}"),
            other => assert!(!fine && other == Hello::Bad(Bad::Version), "{version:x}"),
        }
    }
}

#[test]
fn one_name_exactly() {
    let with = |data: Vec<u8>| parse(&Parts::named(Some(data)).stream());
    let listed: (u8, &[u8]) = (0, b"listed.example");
    let other: (u8, &[u8]) = (0, b"other.example");
    assert_eq!(
        name(&Parts::named(Some(server_names(&[listed]))).stream()).as_deref(),
        Some("listed.example")
    );
    assert_eq!(name(&Parts::named(None).stream()), None);
    for wrong in [
        server_names(&[listed, other]),
        server_names(&[listed, listed]),
        server_names(&[(1, b"x"), listed]),
        server_names(&[listed, (1, b"x")]),
        server_names(&[(255, b"listed.example")]),
        server_names(&[(0, b"")]),
        server_names(&[]),
        Vec::new(),
        vec![0],
        [server_names(&[listed]), vec![0]].concat(),
        vector(2, b"\0\0\x10listed.example"),
        vector(2, b"\0\0\x0dlisted.example"),
        b"\0\x05\0\0\x0elisted.example".to_vec(),
    ] {
        assert_eq!(with(wrong.clone()), Hello::Bad(Bad::ServerNames), "{wrong:?}");
    }
}

#[test]
fn names_have_one_reading() {
    let with = |name: &[u8]| parse(&Parts::named(Some(server_names(&[(0, name)]))).stream());
    for wrong in [
        &b"listed.example\0.other.example"[..],
        b"listed.example\0",
        b"\0",
        b"listed.example.",
        b".listed.example",
        b"listed..example",
        b"listed.example\n",
        b" listed.example",
        b"listed.example ",
        b"listed\t.example",
        b"listed.example:443",
        b"a@listed.example",
        b"*.listed.example",
        b"listed.example/",
        b"192.0.2.1",
        b"0x7f.1",
        b"2130706433",
        b"[::1]",
        b"::1",
        b".",
        b"l\xc3\xaested.example",
        "lısted.example".as_bytes(),
        "listed。example".as_bytes(),
        &[b'a'; 64],
        &b"a.".repeat(127),
        &[b"a.".repeat(126), b"ab".to_vec()].concat(),
        &[b'a'; 65_000],
    ] {
        assert_eq!(
            with(wrong),
            Hello::Bad(Bad::ServerName),
            "{:?}",
            wrong.escape_ascii().to_string()
        );
    }
    for (written, read) in [
        (&b"LISTED.Example"[..], "listed.example"),
        (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
        (
            &[b"a.".repeat(126), b"a".to_vec()].concat(),
            &["a"; 127].join("."),
        ),
    ] {
        let stream = Parts::named(Some(server_names(&[(0, written)]))).stream();
        assert_eq!(name(&stream).as_deref(), Some(read));
    }
}

#[test]
fn an_extension_twice() {
    for kind in [0, 16, 43, 0xfe0d, 0x0a0a, 999] {
        let mut parts = Parts::named(None);
        parts.extensions.retain(|e| e.0 != kind);
        let data = match kind {
            0 => server_names(&[(0, b"listed.example")]),
            16 => vector(2, &vector(1, b"h2")),
            _ => vec![1, 2],
        };
        parts.extensions.push((kind, data.clone()));
        assert!(matches!(parse(&parts.stream()), Hello::Found(_)), "{kind}");
        parts.extensions.insert(0, (kind, data));
        assert_eq!(bad(&parts.stream()), Bad::Duplicate, "{kind}");
    }
}

#[test]
fn encrypted_hellos_are_told() {
    for kind in [0xfe0d, 0xffce, 0xfe08, 0xfe0a, 0xff02, 0xfd00, 0xda09] {
        let mut parts = Parts::sample();
        assert!(!found(&parts.stream()).ech);
        parts.extensions.push((kind, Vec::new()));
        assert!(found(&parts.stream()).ech, "{kind:x}");
    }
}

#[test]
fn extensions_fill_their_block() {
    let whole = Parts::sample().message();
    // A byte after the block, a block that is said to be shorter or longer, none.
    let body = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut body = whole[4..].to_vec();
        change(&mut body);
        records(&message(&body), &[])
    };
    let at = whole.len()
        - 4
        - Parts::sample()
            .extensions
            .iter()
            .map(|e| 4 + e.1.len())
            .sum::<usize>()
        - 2;
    assert_eq!(bad(&body(&|b| b.push(0))), Bad::Extensions);
    assert_eq!(bad(&body(&|b| b[at + 1] -= 1)), Bad::Extensions);
    assert_eq!(bad(&body(&|b| b[at + 1] += 1)), Bad::Extensions);
    assert_eq!(bad(&body(&|b| b.truncate(at + 1))), Bad::Extensions);
    assert_eq!(name(&body(&|b| b.truncate(at))), None);
    assert_eq!(bad(&body(&|b| b.truncate(at - 1))), Bad::Fields);
    assert_eq!(bad(&body(&|b| b.clear())), Bad::Fields);
    // Three bytes at its end that are no extension.
    assert_eq!(
        bad(&body(&|b| {
            b[at + 1] += 3;
            b.extend([0; 3]);
        })),
        Bad::Extensions
    );
}

#[test]
fn fields_within_bounds() {
    let sample = Parts::sample;
    for wrong in [
        Parts {
            session: vec![0; 33],
            ..sample()
        },
        Parts {
            suites: Vec::new(),
            ..sample()
        },
        Parts {
            suites: vec![0; 3],
            ..sample()
        },
        Parts {
            compressions: Vec::new(),
            ..sample()
        },
    ] {
        assert_eq!(bad(&wrong.stream()), Bad::Fields);
    }
    let mut parts = sample();
    for kind in parts.extensions.len()..MAX_EXTENSIONS {
        parts.extensions.push((10_000 + kind as u16, Vec::new()));
    }
    assert!(matches!(parse(&parts.stream()), Hello::Found(_)));
    parts.extensions.push((20_000, Vec::new()));
    assert_eq!(bad(&parts.stream()), Bad::Extensions);
}

#[test]
fn protocols() {
    let with = |data: Vec<u8>| {
        let mut parts = Parts::sample();
        parts.extensions.retain(|e| e.0 != 16);
        parts.extensions.push((16, data));
        parse(&parts.stream())
    };
    let list = |count: usize| vector(2, &vector(1, b"h2").repeat(count));
    assert!(matches!(with(list(MAX_PROTOCOLS)), Hello::Found(_)));
    for wrong in [
        Vec::new(),
        vector(2, b""),
        vector(2, &vector(1, b"")),
        vector(2, b"\x03h2"),
        [list(1), vec![0]].concat(),
        list(MAX_PROTOCOLS + 1),
    ] {
        assert_eq!(with(wrong), Hello::Bad(Bad::Alpn));
    }
}
