//! The lab by itself: everything is there, everything is seen, nothing leads out.

#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    time::Duration,
};

use omnirun_escape_test::{
    capture::{Capture, Protocol, Sign, Wanted},
    lab::{HOST_IP, HOST_PORTS, Lab, MARK, Via, enter, zone},
    nonce::Nonce,
};

const PATIENCE: Duration = Duration::from_secs(5);

fn tcp(to: impl ToSocketAddrs, say: &str) -> String {
    let to = to.to_socket_addrs().unwrap().next().unwrap();
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap_or_else(|e| panic!("{to}: {e}"));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(say.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn udp(to: SocketAddr, say: &[u8]) -> Vec<u8> {
    let from: IpAddr = if to.is_ipv4() {
        [0, 0, 0, 0].into()
    } else {
        [0; 16].into()
    };
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(to).unwrap();
    socket.send(say).unwrap();
    let mut answer = vec![0; 2048];
    let length = socket.recv(&mut answer).unwrap();
    answer.truncate(length);
    answer
}

fn wanted(nonces: &[Nonce]) -> Wanted {
    Wanted {
        nonces: nonces.to_vec(),
        tuples: Vec::new(),
        addresses: vec![omnirun_guest_net::GUEST_IP.into()],
        hardware: vec![omnirun_guest_net::GUEST_MAC],
    }
}

#[test]
fn whatever_is_sent_to_any_address_arrives_and_is_recorded() {
    enter::test(
        "whatever_is_sent_to_any_address_arrives_and_is_recorded",
        everything_arrives,
    );
}

async fn everything_arrives(lab: Lab) {
    let targets = [
        ("9.9.9.9:443", "internet"),
        ("8.8.8.8:853", "internet"),
        ("203.0.112.10:80", "internet"),
        ("10.77.0.3:22", "internet"),
        ("169.254.169.254:80", "inside"),
        ("10.1.2.3:8080", "inside"),
        ("172.16.9.9:1", "inside"),
        ("192.168.77.1:445", "inside"),
        ("100.64.3.2:80", "inside"),
        ("[fd00:ec2::254]:80", "inside"),
        ("[2606:4700::1111]:443", "internet"),
        ("[64:ff9b::a9fe:a9fe]:80", "internet"),
    ];
    let nonces: Vec<Nonce> = targets
        .iter()
        .flat_map(|_| [Nonce::random(), Nonce::random()])
        .collect();
    lab.records().look_for(&nonces);
    let capture = Capture::begin(&lab.places("omr"), &wanted(&nonces)).unwrap();
    capture.prove().unwrap();
    for ((target, server), nonces) in targets.iter().zip(nonces.chunks(2)) {
        let target: SocketAddr = target.parse().unwrap();
        let answer = tcp(target, &format!("GET /{} HTTP/1.1\r\n\r\n", nonces[0].hex()));
        assert!(
            answer.contains(MARK) && answer.contains(server),
            "{target}: {answer}"
        );
        let answer = udp(target, &nonces[1].raw());
        assert!(answer.starts_with(MARK.as_bytes()), "{target}: {answer:?}");
    }
    let seen = lab.records().seen();
    let hits = capture.end().unwrap();
    for (index, (target, server)) in targets.iter().enumerate() {
        let target: SocketAddr = target.parse().unwrap();
        let tcp = seen.iter().find(|r| r.attempt == index * 2).unwrap();
        assert_eq!((&*tcp.server, tcp.at, tcp.via), (*server, Some(target), Via::Tcp));
        assert!(
            seen.iter()
                .any(|r| r.attempt == index * 2 + 1 && r.via == Via::Udp && r.server == *server)
        );
        for (nonce, protocol) in [(index * 2, Protocol::Tcp), (index * 2 + 1, Protocol::Udp)] {
            for place in ["host", server] {
                assert!(
                    hits.iter().any(|hit| hit.sign == Sign::Nonce(nonce)
                        && hit.place == place
                        && hit.protocol == protocol
                        && hit.to == Some(target.ip())
                        && hit.port == Some(target.port())),
                    "{target} {place} {hits:?}"
                );
            }
        }
    }
    assert!(!hits.iter().any(|hit| hit.sign == Sign::Sandbox || hit.threshold));
    for port in HOST_PORTS {
        assert!(tcp((HOST_IP, port), "hello").contains("host"));
    }
}

#[test]
fn names_are_resolved_by_the_lab() {
    enter::test("names_are_resolved_by_the_lab", names);
}

async fn names(lab: Lab) {
    let nonce = Nonce::random();
    lab.records().look_for(&[nonce]);
    // By the C library, as any program on the host would.
    let resolve = |name: &str| (name, 1).to_socket_addrs().unwrap().next().unwrap().ip();
    assert_eq!(resolve(zone::LISTED.0), zone::LISTED.1);
    assert_eq!(resolve(zone::ALIAS.0), zone::ALIAS.2);
    for (name, address) in zone::REBINDING {
        assert_eq!(resolve(name), address);
    }
    assert_eq!(resolve(zone::FLIP.0), zone::FLIP.1);
    assert_eq!(resolve(zone::FLIP.0), zone::FLIP.2);
    assert!(("nowhere.example", 1).to_socket_addrs().is_err());
    resolve(&format!("{}.{}", nonce.base32(), zone::ATTACKER));
    assert!(
        lab.records()
            .seen()
            .iter()
            .all(|record| record.via == Via::Dns && record.attempt == 0)
    );
    assert_eq!(lab.records().seen().len(), 1);
}
