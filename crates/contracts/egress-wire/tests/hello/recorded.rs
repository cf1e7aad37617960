//! Real clients' hellos, whole, in part and changed.

use crate::{found, peer::agree};
use omnirun_egress_wire::hello::{Hello, parse};
use std::{fs, path::Path};

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
                agree(&changed);
            }
        }
    }
}
