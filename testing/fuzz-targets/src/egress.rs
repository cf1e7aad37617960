//! What a guest says about where it wants to go. Each parser is compared with a library that reads the same bytes for
//! other ends: the proxy accepts less than they do, and what it accepts means the same to both.

use crate::choice;
use hickory_proto::op::Message;
use http::{HeaderName, request::Parts};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use omnirun_egress_wire::{
    dns::{Answer, Kind, MAX_ADDRESSES, Over, answer, query},
    hello::{Hello, MAX_RECORDS, parse},
    http::{BadTarget, Carrier, Form, Head, Target, head, strip_hop_by_hop, target},
};
use rustls::server::Acceptor;
use std::{cell::RefCell, convert::Infallible, net::Ipv4Addr};

/// The beginning of a TLS stream: rustls reads the same, later bytes change no decision, other records no reading.
pub fn client_hello(data: &[u8]) {
    let (cut, stream) = choice(data);
    let whole = parse(stream);
    let part = parse(&stream[..cut.min(stream.len())]);
    match (&whole, &part) {
        (_, Hello::NeedMore) | (Hello::Bad(_), Hello::Bad(_)) => {}
        _ => assert_eq!(whole, part),
    }
    let peer = rustls(stream);
    match &whole {
        Hello::Bad(_) => {}
        // A dead end for rustls may be seen only later.
        Hello::NeedMore => assert!(!matches!(peer, Peer::Found(..)), "rustls has found something"),
        Hello::Found(hello) => {
            match peer {
                Peer::NeedMore => panic!("rustls waits for more"),
                Peer::Bad => {}
                Peer::Found(name, alpn) => {
                    assert_eq!(hello.name.as_ref().map(|n| n.as_str().to_owned()), name);
                    assert_eq!(hello.alpn, alpn);
                }
            }
            let Hello::Found(again) = parse(&recut(&stream[..hello.length], cut)) else {
                panic!("another reading in other records");
            };
            assert_eq!(
                (&again.name, again.ech, &again.alpn),
                (&hello.name, hello.ech, &hello.alpn)
            );
        }
    }
}

enum Peer {
    NeedMore,
    Bad,
    Found(Option<String>, Vec<Vec<u8>>),
}

fn rustls(mut stream: &[u8]) -> Peer {
    let mut acceptor = Acceptor::default();
    loop {
        let more = acceptor.read_tls(&mut stream).unwrap_or(0);
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let alpn = hello.alpn().map(|all| all.map(<[u8]>::to_vec).collect());
                return Peer::Found(
                    hello.server_name().map(str::to_ascii_lowercase),
                    alpn.unwrap_or_default(),
                );
            }
            Ok(None) if more == 0 => return Peer::NeedMore,
            Ok(None) => {}
            Err(_) => return Peer::Bad,
        }
    }
}

/// The same message in records of another size.
fn recut(mut stream: &[u8], size: usize) -> Vec<u8> {
    let mut message = Vec::new();
    while let Some(([_, _, _, high, low], rest)) = stream.split_first_chunk() {
        let (fragment, rest) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        message.extend(fragment);
        stream = rest;
    }
    let size = size.max(message.len().div_ceil(MAX_RECORDS)).max(1);
    let mut out = Vec::new();
    for fragment in message.chunks(size) {
        out.extend([22, 3, 3]);
        out.extend((fragment.len() as u16).to_be_bytes());
        out.extend(fragment);
    }
    out
}

/// The head of a request: hyper's server reads the same, and what goes on to the server names the same host.
pub fn http_head(data: &[u8]) {
    let (which, bytes) = choice(data);
    let carrier = match which % 3 {
        0 => Carrier::Transparent { port: 80 },
        1 => Carrier::Transparent { port: 8080 },
        _ => Carrier::Explicit,
    };
    let found = head(bytes, carrier);
    let part = head(&bytes[..(which / 3).min(bytes.len())], carrier);
    match (&found, &part) {
        (_, Head::NeedMore) | (Head::Bad(_), Head::Bad(_)) => {}
        _ => assert_eq!(found, part),
    }
    let parts = through_hyper(bytes);
    let theirs = parts.as_ref().map(|parts| target(parts, carrier));
    match (&found, theirs) {
        (Head::NeedMore, theirs) => assert!(theirs.is_none(), "hyper has found something"),
        (Head::Found { target, .. }, Some(theirs)) => assert_eq!(Ok(target), theirs.as_ref()),
        // hyper puts a body's length right that is said in two ways, and its buffer is larger.
        (Head::Bad(BadTarget::Framing | BadTarget::TooLong), _) => {}
        (Head::Bad(_), Some(theirs)) => assert!(theirs.is_err(), "{theirs:?}"),
        (_, None) => {}
    }
    if let Head::Found { target, length } = &found {
        assert!(*length <= bytes.len());
        goes_on(target);
    }
    if let Some(mut parts) = parts {
        strip_hop_by_hop(&mut parts.headers);
        for name in ["connection", "proxy-authorization", "upgrade", "te", "keep-alive"] {
            assert!(!parts.headers.contains_key(HeaderName::from_static(name)));
        }
    }
}

/// What the server is sent means what was decided on.
fn goes_on(decided: &Target) {
    if decided.form == Form::Authority {
        return;
    }
    let port = decided.port;
    let text = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", decided.host_value());
    match head(text.as_bytes(), Carrier::Transparent { port }) {
        Head::Found { target, .. } => assert_eq!((&target.host, target.port), (&decided.host, port)),
        other => panic!("{other:?}"),
    }
}

/// The first request that hyper's server hands to its service.
fn through_hyper(bytes: &[u8]) -> Option<Parts> {
    let found = RefCell::new(None);
    let service = service_fn(|request: Request<Incoming>| {
        found.borrow_mut().get_or_insert(request.into_parts().0);
        async { Ok::<_, Infallible>(Response::new(String::new())) }
    });
    let io = TokioIo::new(tokio::io::join(bytes, tokio::io::sink()));
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .serve_connection(io, service);
    // Neither end of it ever waits, so it ends; how does not matter.
    let _ = futures::executor::block_on(connection);
    found.into_inner()
}

/// A guest's DNS message: hickory reads the same question, and in each answer what was meant.
pub fn dns_query(data: &[u8]) {
    let (which, bytes) = choice(data);
    let over = if which % 2 == 0 { Over::Udp } else { Over::Tcp };
    let found = match query(bytes, over) {
        Ok(found) => found,
        Err(bad) => {
            if let Some(answer) = bad.answer() {
                let answer = Message::from_vec(answer).unwrap();
                assert!(answer.queries.is_empty() && answer.answers.is_empty());
            }
            return;
        }
    };
    match Message::from_vec(bytes) {
        Ok(theirs) => {
            assert_eq!(theirs.queries.len(), 1);
            assert_eq!(asked(&theirs), found.name());
            assert_eq!(
                Kind::from(u16::from(theirs.queries[0].query_type())),
                found.kind()
            );
        }
        // It reads the options of EDNS, which are nothing to us.
        Err(_) => assert_eq!(bytes[11], 1),
    }
    assert!(found.host().is_none_or(|host| host.as_str() == found.name()));
    let addresses = [Ipv4Addr::new(203, 0, 113, 1); MAX_ADDRESSES + 1];
    for with in [
        Answer::Addresses(&addresses, 30),
        Answer::Empty,
        Answer::NoSuchName,
        Answer::Refused,
        Answer::Failed,
        Answer::Truncated,
    ] {
        let bytes = answer(&found, with);
        assert!(bytes.len() <= 512);
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(asked(&answer), found.name());
        let records = matches!(with, Answer::Addresses(..)) && found.kind() == Kind::A;
        assert_eq!(answer.answers.len(), if records { MAX_ADDRESSES } else { 0 });
    }
}

/// The name of a message's question, lower-case, as labels that are not escaped.
fn asked(message: &Message) -> String {
    let labels: Vec<_> = message.queries[0]
        .name()
        .iter()
        .map(<[u8]>::to_ascii_lowercase)
        .collect();
    String::from_utf8(labels.join(&b'.')).unwrap()
}
