//! Servers of the lab's internet.

use omnirun_egress_wire::dns::{self, Answer, Kind, Over};
use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

/// What the DNS server knows, and what it was asked.
#[derive(Default)]
pub struct Zone {
    names: Mutex<HashMap<String, Vec<Ipv4Addr>>>,
    aliases: Mutex<HashMap<String, String>>,
    asked: Mutex<Vec<String>>,
}

impl Zone {
    pub fn set(&self, name: &str, addresses: &[[u8; 4]]) {
        let addresses = addresses.iter().map(|a| Ipv4Addr::from(*a)).collect();
        self.names.lock().unwrap().insert(name.to_owned(), addresses);
    }

    /// An alias. Its answer has nothing but that.
    pub fn alias(&self, name: &str, of: &str) {
        self.aliases
            .lock()
            .unwrap()
            .insert(name.to_owned(), of.to_owned());
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

pub async fn dns(socket: UdpSocket, zone: Arc<Zone>) {
    let mut buffer = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let Ok(query) = dns::query(&buffer[..length], Over::Udp) else {
            continue;
        };
        zone.asked.lock().unwrap().push(query.name().to_owned());
        if let Some(of) = zone.aliases.lock().unwrap().get(query.name()).cloned() {
            let _ = socket.try_send_to(&alias_answer(&buffer[..length], &of), from);
            continue;
        }
        let found = zone.names.lock().unwrap().get(query.name()).cloned();
        let answer = match (&found, query.kind()) {
            (Some(addresses), Kind::A) => Answer::Addresses(addresses, 60),
            (Some(_), _) => Answer::Empty,
            (None, _) => Answer::NoSuchName,
        };
        let _ = socket.send_to(&dns::answer(&query, answer), from).await;
    }
}

/// A CNAME record for the question.
fn alias_answer(question: &[u8], of: &str) -> Vec<u8> {
    let mut end = 12;
    while question[end] != 0 {
        end += 1 + usize::from(question[end]);
    }
    let mut answer = question[..end + 5].to_vec();
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    let name = &query(of, 5)[12..];
    let name = &name[..name.len() - 4];
    answer.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60]);
    answer.extend((name.len() as u16).to_be_bytes());
    answer.extend(name);
    answer
}

/// A query.
pub fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend(1u16.to_be_bytes());
    message
}

/// Response code and addresses of an answer as ours are: names are two bytes long.
pub fn read_answer(message: &[u8]) -> (u8, Vec<Ipv4Addr>) {
    let count = u16::from_be_bytes([message[6], message[7]]);
    let mut at = 12;
    while message[at] != 0 {
        at += 1 + usize::from(message[at]);
    }
    at += 5;
    let mut addresses = Vec::new();
    for _ in 0..count {
        let octets: [u8; 4] = message[at + 12..at + 16].try_into().unwrap();
        addresses.push(octets.into());
        at += 16;
    }
    (message[3] & 0xf, addresses)
}

/// Says which address it was reached at, in a line, and then sends back whatever comes. Counts connections.
pub fn echo(listener: TcpListener) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(echo_one(stream));
        }
    });
    count
}

async fn echo_one(mut stream: TcpStream) {
    let here = stream.local_addr().unwrap();
    if stream.write_all(format!("{here}\n").as_bytes()).await.is_ok() {
        let (mut reader, mut writer) = stream.split();
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = writer.shutdown().await;
    }
}

/// HTTP/1.1, by hand: answers each request with where it came to, what it asked for and how long its body was. What it was
/// sent is kept.
pub fn http(listener: TcpListener) -> Arc<Mutex<Vec<String>>> {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let heads = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(http_one(stream, Arc::clone(&heads)));
        }
    });
    seen
}

async fn http_one(mut stream: TcpStream, seen: Arc<Mutex<Vec<String>>>) {
    let here: SocketAddr = stream.local_addr().unwrap();
    let mut bytes = Vec::new();
    loop {
        let Some((head, body)) = read_message(&mut stream, &mut bytes).await else {
            return;
        };
        seen.lock().unwrap().push(head.clone());
        if head.to_ascii_lowercase().contains("upgrade: websocket") {
            let answer =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello ";
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
            let (mut reader, mut writer) = stream.split();
            let _ = writer.write_all(&bytes).await;
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            return;
        }
        let line = head.lines().next().unwrap_or_default();
        let path = line.split(' ').nth(1).unwrap_or_default();
        let text = match path.strip_prefix("/bytes/") {
            Some(count) => "x".repeat(count.parse().unwrap()),
            None => format!("{here} {line} {}", body.len()),
        };
        let answer = match path {
            "/chunked" => format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n0\r\n\r\n",
                text.len()
            ),
            _ => format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nKeep-Alive: timeout=5\r\n\r\n{text}",
                text.len()
            ),
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The next head and body of a stream; `bytes` keeps what is beyond.
pub async fn read_message(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    bytes.drain(..end);
    let field = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    if field("transfer-encoding").is_some() {
        let mut body = Vec::new();
        loop {
            let line = loop {
                if let Some(at) = bytes.windows(2).position(|two| two == b"\r\n") {
                    break at;
                }
                if stream.read_buf(bytes).await.ok()? == 0 {
                    return None;
                }
            };
            let size = std::str::from_utf8(&bytes[..line]).ok()?.to_owned();
            let size = usize::from_str_radix(&size, 16).ok()?;
            while bytes.len() < line + 2 + size + 2 {
                if stream.read_buf(bytes).await.ok()? == 0 {
                    return None;
                }
            }
            body.extend(&bytes[line + 2..line + 2 + size]);
            bytes.drain(..line + 2 + size + 2);
            if size == 0 {
                return Some((head, body));
            }
        }
    }
    let length: usize = field("content-length").map_or(0, |length| length.parse().unwrap());
    while bytes.len() < length {
        if stream.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = bytes.drain(..length).collect();
    Some((head, body))
}
