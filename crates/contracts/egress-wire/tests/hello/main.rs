//! ClientHellos: recorded ones, those that somebody who wants to get through would make, and any.

#![allow(clippy::unwrap_used)] // helpers of tests

mod fields;
mod parts;
mod peer;
mod properties;
mod recorded;
mod streams;

use omnirun_egress_wire::hello::{Bad, ClientHello, Hello, parse};

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
