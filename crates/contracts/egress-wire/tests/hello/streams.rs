//! Records and lengths.

use crate::{
    bad, found, name,
    parts::{Parts, records},
};
use omnirun_egress_wire::hello::{Bad, Hello, MAX, MAX_RECORDS, parse};

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
}
