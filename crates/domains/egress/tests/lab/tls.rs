//! ClientHellos, as bytes.

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

/// A hello for this name; none for no name.
pub fn hello(name: Option<&str>) -> Vec<u8> {
    hello_with(name, &[])
}

/// The same, with more extensions (number, data).
pub fn hello_with(name: Option<&str>, more: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut extensions = Vec::new();
    if let Some(name) = name {
        let mut list = vec![0];
        list.extend((name.len() as u16).to_be_bytes());
        list.extend(name.as_bytes());
        let mut data = (list.len() as u16).to_be_bytes().to_vec();
        data.extend(list);
        extension(&mut extensions, 0, &data);
    }
    for (number, data) in more {
        extension(&mut extensions, *number, data);
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0x13, 1]);
    body.extend([1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend((body.len() as u16).to_be_bytes());
    message.extend(body);
    record(&message)
}

fn extension(all: &mut Vec<u8>, number: u16, data: &[u8]) {
    all.extend(number.to_be_bytes());
    all.extend((data.len() as u16).to_be_bytes());
    all.extend(data);
}

/// A record of a handshake.
pub fn record(message: &[u8]) -> Vec<u8> {
    let mut record = vec![22, 3, 1];
    record.extend((message.len() as u16).to_be_bytes());
    record.extend(message);
    record
}

/// Reads the line in which an echo server says who it is; nothing if the connection is gone.
pub async fn whom(stream: &mut TcpStream) -> Option<String> {
    let mut line = Vec::new();
    loop {
        match timeout(super::SOON, stream.read_u8())
            .await
            .expect("a line or an end")
        {
            Ok(b'\n') => return Some(String::from_utf8(line).unwrap()),
            Ok(byte) => line.push(byte),
            Err(_) => return None,
        }
    }
}
