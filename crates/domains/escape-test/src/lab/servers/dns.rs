//! DNS, for all names.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};

use super::{Records, Via, Zone, tcp};

pub(super) async fn udp(socket: UdpSocket, server: &'static str, records: Records, zone: Arc<Zone>) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        // An error tells of an earlier answer that was refused.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let query = buffer.get(..length).unwrap_or_default();
        records.look(query, server, None, Via::Dns);
        if let Some(answer) = zone.answer(query) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

pub(super) async fn tcp(listener: TcpListener, server: &'static str, records: Records, zone: Arc<Zone>) {
    loop {
        let Some(stream) = tcp::accept(&listener).await else {
            return;
        };
        let (records, zone) = (records.clone(), zone.clone());
        tokio::spawn(tokio::time::timeout(tcp::PATIENCE, async move {
            let _ = session(stream, server, &records, &zone).await;
        }));
    }
}

async fn session(mut stream: TcpStream, server: &str, records: &Records, zone: &Zone) -> std::io::Result<()> {
    let at = tcp::destination(&stream);
    loop {
        let mut query = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut query).await?;
        records.look(&query, server, at, Via::Dns);
        let Some(answer) = zone.answer(&query) else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).unwrap_or_default();
        stream.write_u16(length).await?;
        stream.write_all(&answer).await?;
    }
}
