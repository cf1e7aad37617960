//! ClientHellos: recorded ones, and those that somebody who wants to get through would make.

mod support;

use omnirun_egress_wire::hello::{
    Bad, ClientHello, Hello, MAX, MAX_EXTENSIONS, MAX_PROTOCOLS, MAX_RECORDS, parse,
};
use std::{fs, path::Path};
use support::{Parts, SAMPLE, message, records, server_names, vector};

fn found(bytes: &[u8]) -> ClientHello {
    match parse(bytes) {
        Hello::Found(hello) => hello,
        other => panic!("{other:?}"),
    }
}

fn name(bytes: &[u8]) -> Option<String> {
    found(bytes).name.map(|name| name.as_str().to_owned())
}

fn bad(bytes: &[u8]) -> Bad {
    match parse(bytes) {
        Hello::Bad(bad) => bad,
        other => panic!("{other:?}"),
    }
}

/// File, name, ECH, first ALPN.
const SAMPLES: [(&str, Option<&str>, bool, &str); 16] = [
    ("curl-7.88", Some("curl.example.com"), false, "h2"),
    ("curl-7.88-address", None, false, "h2"),
    ("git-gnutls", Some("git.example.com"), false, "h2"),
    ("go-1.26", Some("go.example.com"), false, "h2"),
    ("go-1.26-ech", Some("outer.example.com"), true, "h2"),
    ("java", Some("java.example.com"), false, ""),
    ("node-20", Some("node.example.com"), false, ""),
    ("openssl-3.0", Some("openssl.example.com"), false, ""),
    ("openssl-3.0-noname", None, false, ""),
    ("openssl-3.0-tls12", Some("openssl.example.com"), false, ""),
    ("python-3.11", Some("python.example.com"), false, ""),
    ("rustls-0.23-ech-grease", Some("rustls.example.com"), true, "h2"),
    (
        "rustls-0.23-post-quantum",
        Some("rustls.example.com"),
        false,
        "h2",
    ),
    (
        "rustls-0.23-post-quantum-fragments",
        Some("rustls.example.com"),
        false,
        "h2",
    ),
    ("rustls-0.23-ring", Some("rustls.example.com"), false, "h2"),
    ("wget-gnutls", Some("localhost"), false, ""),
];

#[test]
fn recorded_hellos_and_each_of_their_prefixes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/hello");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), SAMPLES.len());
    for (file, expected, ech, alpn) in SAMPLES {
        let mut bytes = fs::read(folder.join(format!("{file}.bin"))).unwrap();
        let hello = found(&bytes);
        assert_eq!(hello.name.as_ref().map(|n| n.as_str()), expected, "{file}");
        assert_eq!(hello.ech, ech, "{file}");
        assert_eq!(
            hello.alpn.first().map_or(&b""[..], |p| p),
            alpn.as_bytes(),
            "{file}"
        );
        assert_eq!(hello.length, bytes.len(), "{file}");
        for at in 0..bytes.len() {
            assert_eq!(parse(&bytes[..at]), Hello::NeedMore, "{file}, {at}");
        }
        // What comes in records of its own, early data or an attack, changes nothing.
        bytes.extend([23, 3, 3, 0, 1, 0]);
        assert_eq!(found(&bytes), hello, "{file}");
    }
}

#[test]
fn a_changed_byte_gives_no_other_reading_than_rustls_has() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/hello");
    for (file, ..) in SAMPLES {
        let bytes = fs::read(folder.join(format!("{file}.bin"))).unwrap();
        for at in 0..bytes.len() {
            for mask in [0x01, 0x02, 0x20, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= mask;
                support::agree(&changed);
            }
        }
    }
}

#[test]
fn cut_into_any_records() {
    let message = Parts::sample().message();
    for size in [1, 2, 3, 4, 5, 7, 100, message.len() - 1, message.len()] {
        let count = message.len().div_ceil(size);
        let stream = records(&message, &vec![size; count]);
        if count > MAX_RECORDS {
            assert_eq!(bad(&stream), Bad::TooManyRecords);
            continue;
        }
        assert_eq!(name(&stream).as_deref(), Some("rustls.example.com"), "{size}");
        assert_eq!(found(&stream).length, stream.len());
        for at in 0..stream.len() {
            assert_eq!(parse(&stream[..at]), Hello::NeedMore, "{size}, {at}");
        }
    }
    // The last record that may be, and one more.
    let sizes = |count: usize| vec![1; count - 1];
    assert!(matches!(
        parse(&records(&message, &sizes(MAX_RECORDS))),
        Hello::Found(_)
    ));
    assert_eq!(
        bad(&records(&message, &sizes(MAX_RECORDS + 1))),
        Bad::TooManyRecords
    );
}

#[test]
fn nothing_else_between_its_records() {
    let message = Parts::sample().message();
    let stream = records(&message, &[50]);
    let (first, second) = stream.split_at(55);
    for other in [
        &[21, 3, 3, 0, 2, 1, 0][..],
        &[20, 3, 3, 0, 1, 1],
        &[23, 3, 3, 0, 1, 0],
    ] {
        assert_eq!(bad(&[first, other, second].concat()), Bad::NotHandshake);
        assert_eq!(bad(&[other, &stream].concat()), Bad::NotHandshake);
    }
    assert_eq!(bad(&[first, &[22, 3, 1, 0, 0], second].concat()), Bad::Record);
    assert_eq!(bad(&[22, 3, 1, 0x40, 1]), Bad::Record);
}

#[test]
fn a_record_ends_with_the_hello() {
    let hello = Parts::sample().message();
    let two = [&hello[..], &hello].concat();
    assert_eq!(bad(&records(&two, &[])), Bad::Trailing);
    assert_eq!(bad(&records(&two, &[20, hello.len()])), Bad::Trailing);
    // It is known as soon as the record's header is.
    assert_eq!(bad(&records(&two, &[])[..9]), Bad::Trailing);
    assert!(matches!(parse(&records(&two, &[hello.len()])), Hello::Found(_)));
}

#[test]
fn other_protocols() {
    assert_eq!(bad(b"GET / HTTP/1.1\r\n"), Bad::NotHandshake);
    assert_eq!(bad(b"SSH-2.0-x\r\n"), Bad::NotHandshake);
    // An SSLv2 hello that offers TLS 1.0, as OpenSSL 0.9.8 sent it.
    let ssl2 = [0x80, 46, 1, 3, 1, 0, 21, 0, 0, 0, 16, 0, 0, 0x39];
    for at in 1..ssl2.len() {
        assert_eq!(bad(&ssl2[..at]), Bad::Ssl2);
    }
    assert_eq!(bad(&[22, 2, 0]), Bad::Version);
    assert_eq!(bad(&[22, 254, 253]), Bad::Version); // DTLS
    assert_eq!(bad(&[22, 3, 5]), Bad::Version);
    assert_eq!(bad(&[22, 3, 1, 0, 4, 2]), Bad::NotHello);
    assert_eq!(bad(&[22, 3, 1, 0, 1, 2]), Bad::NotHello);
}

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

#[test]
fn bounded() {
    // What claims to be too long is refused as soon as it says so.
    assert_eq!(bad(&[22, 3, 1, 0, 200, 1, 1, 0, 0]), Bad::TooLong);
    assert_eq!(bad(&[22, 3, 1, 0, 200, 1, 255, 255, 255]), Bad::TooLong);
    // The longest that fits, with a padding extension, and one byte more.
    let padded = |padding: usize| {
        let mut parts = Parts::sample();
        parts.extensions.push((21, vec![0; padding]));
        parts.stream()
    };
    let overhead = padded(60_000).len() - 60_000;
    let longest = padded(MAX - overhead);
    assert_eq!(longest.len(), MAX);
    assert_eq!(found(&longest).length, MAX);
    assert_eq!(bad(&padded(MAX - overhead + 1)), Bad::TooLong);
    for at in (0..longest.len()).step_by(997) {
        assert_eq!(parse(&longest[..at]), Hello::NeedMore);
    }
    assert!(SAMPLE.len() < 1000);
}
