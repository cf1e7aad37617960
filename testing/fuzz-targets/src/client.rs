//! The client against a guest that writes arbitrary bytes.

use crate::choice;
use omnirun_guest_client::{
    GuestClient,
    message::{Claim, Exec, Tool, Wake},
};
use omnirun_guest_proto::preface;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Long enough for a busy machine; nothing in here waits for time.
const BOUND: Duration = Duration::from_secs(60);

/// Every operation at once. The guest answers the preface, writes the bytes, and hangs up: every operation has to end.
pub fn guest_client(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let (step, bytes) = choice(data);
    let ended = runtime.block_on(async {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::time::timeout(BOUND, async {
            tokio::join!(host(ours), guest(theirs, step, bytes))
        })
        .await
    });
    assert!(ended.is_ok(), "an operation never ended");
}

async fn guest(mut stream: DuplexStream, step: usize, bytes: &[u8]) {
    let mut offer = [0; preface::LEN];
    if stream.read_exact(&mut offer).await.is_err() {
        return;
    }
    let Some(offer) = preface::Offer::read(&offer) else {
        return;
    };
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reading = async {
        let mut buffer = [0; 4096];
        while reader.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    };
    let writing = async {
        // An odd step leaves the answer to the bytes themselves.
        if step % 16 != 15
            && writer
                .write_all(&preface::answer(offer.nonce, preface::VERSION))
                .await
                .is_err()
        {
            return;
        }
        for piece in bytes.chunks(step.max(1)) {
            // The host's task gets to see each piece on its own.
            tokio::task::yield_now().await;
            if writer.write_all(piece).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    };
    tokio::join!(reading, writing);
}

async fn host(stream: DuplexStream) {
    let Ok(client) = GuestClient::connect(stream, BOUND).await else {
        return;
    };
    let exec = || Exec {
        argv: vec![b"cat".to_vec()],
        stdin: true,
        ..Exec::default()
    };
    let process = async {
        let Ok(mut exec) = client.exec(exec()).await else {
            return;
        };
        if let Some(mut stdin) = exec.stdin() {
            let _ = stdin.write(&[b'x'; 3000]).await;
            stdin.close();
        }
        while exec.next().await.is_some() {}
        let _ = exec.wait().await;
    };
    let file = async {
        let Ok(mut file) = client.read_file("f", 0, 0) else {
            return;
        };
        while let Ok(Some(_)) = file.next().await {}
    };
    let tree = async {
        let Ok(tar) = client.tar_out("d") else { return };
        let _ = tar.copy_to(&mut tokio::io::sink()).await;
    };
    let input = vec![b'y'; 600_000];
    let mut reader = input.as_slice();
    let _ = tokio::join!(
        client.ping(),
        process,
        file,
        client.stat("x"),
        client.list("y"),
        client.tool(Tool {
            name: "bash".into(),
            ..Tool::default()
        }),
        tree,
        client.write_file("w", 0, false, &mut reader),
        client.wake_claim_exec(Wake::default(), Claim::default(), exec()),
    );
    client.closed().await;
    assert!(client.error().is_some());
}
