//! Recorded hellos, heads and queries, and a few that are made up to be refused.

use super::chosen;

macro_rules! sample {
    ($path:literal) => {
        include_bytes!(concat!(
            "../../../../crates/contracts/egress-wire/samples/",
            $path
        ))
    };
}

pub(super) fn client_hellos() -> Vec<Vec<u8>> {
    let samples: [&[u8]; 5] = [
        sample!("hello/rustls-0.23-ring.bin"),
        sample!("hello/rustls-0.23-post-quantum-fragments.bin"),
        sample!("hello/go-1.26-ech.bin"),
        sample!("hello/openssl-3.0-tls12.bin"),
        sample!("hello/java.bin"),
    ];
    samples.iter().map(|sample| chosen(100, sample)).collect()
}

pub(super) fn http_heads() -> Vec<Vec<u8>> {
    let samples: [(u8, &[u8]); 7] = [
        (30, sample!("http/transparent-curl-post.bin")),
        (2, sample!("http/explicit-curl-port.bin")),
        (32, sample!("http/explicit-npm.bin")),
        (2, sample!("http/connect-python-3.11-urllib.bin")),
        (2, sample!("http/connect-curl.bin")),
        (
            1,
            b"GET http://u:p@a.example:8080/ HTTP/1.1\r\nHost: a.example:8080\r\nConnection: X, close\r\nX: y\r\n\r\n",
        ),
        (
            0,
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\nabc",
        ),
    ];
    samples
        .iter()
        .map(|(which, sample)| chosen(*which, sample))
        .collect()
}

pub(super) fn dns_queries() -> Vec<Vec<u8>> {
    let samples: [&[u8]; 5] = [
        sample!("dns/glibc-1.bin"),
        sample!("dns/glibc-edns-1.bin"),
        sample!("dns/go-33.bin"),
        sample!("dns/c-ares-255.bin"),
        // As dig asks: with a cookie.
        b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\x01\x07eXaMpLe\x03com\0\0\x41\0\x01\0\0\x29\x04\xd0\0\0\x80\0\0\x0c\0\x0a\0\x08cookie00",
    ];
    samples.iter().map(|sample| chosen(0, sample)).collect()
}
