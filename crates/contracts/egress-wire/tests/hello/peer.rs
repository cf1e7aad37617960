//! rustls' reading of a stream, and how this crate's may differ.

use omnirun_egress_wire::hello::{Hello, parse};
use rustls::server::Acceptor;

/// What rustls makes of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Peer {
    NeedMore,
    Bad,
    Found {
        name: Option<String>,
        alpn: Vec<Vec<u8>>,
    },
}

pub fn rustls(mut bytes: &[u8]) -> Peer {
    let mut acceptor = Acceptor::default();
    loop {
        let more = acceptor.read_tls(&mut bytes).unwrap_or(0);
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                return Peer::Found {
                    name: hello.server_name().map(str::to_ascii_lowercase),
                    alpn: hello
                        .alpn()
                        .map(|all| all.map(<[u8]>::to_vec).collect())
                        .unwrap_or_default(),
                };
            }
            Ok(None) if more == 0 => return Peer::NeedMore,
            Ok(None) => {}
            Err(_) => return Peer::Bad,
        }
    }
}

/// Checks what must hold between the two readings of any bytes: this crate accepts less, waits no longer, and reads
/// the same.
pub fn agree(bytes: &[u8]) {
    let theirs = rustls(bytes);
    match (parse(bytes), theirs) {
        (Hello::Found(hello), Peer::Found { name, alpn }) => {
            assert_eq!(hello.name.map(|n| n.as_str().to_owned()), name);
            assert_eq!(hello.alpn, alpn);
        }
        (Hello::Found(_), Peer::NeedMore) => panic!("rustls waits for more"),
        (Hello::NeedMore, Peer::Found { name, .. }) => panic!("rustls has found {name:?}"),
        _ => {}
    }
}
