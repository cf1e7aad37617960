//! Decisions on heads: recorded ones, and those that somebody who wants to get through would write.

#![allow(clippy::unwrap_used)] // helpers of tests

mod fields;
mod recorded;
mod targets;

use omnirun_egress_wire::http::{BadTarget, Carrier, Form, Head, Target, head};

const TRANSPARENT: Carrier = Carrier::Transparent { port: 80 };

type Read = Result<(String, u16, Form), BadTarget>;

fn read(carrier: Carrier, text: &str) -> Read {
    match head(format!("{text}\r\n\r\n").as_bytes(), carrier) {
        Head::Found {
            target: Target { host, port, form },
            ..
        } => Ok((host.to_string(), port, form)),
        Head::Bad(bad) => Err(bad),
        Head::NeedMore => panic!("not whole: {text}"),
    }
}

fn transparent(text: &str) -> Read {
    read(TRANSPARENT, text)
}

fn explicit(text: &str) -> Read {
    read(Carrier::Explicit, text)
}

fn ok(host: &str, port: u16, form: Form) -> Read {
    Ok((host.to_owned(), port, form))
}
