//! The client against a double of the API that gives recorded, slow and garbled answers.

use super::*;
use std::future::Future;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SOON: Duration = Duration::from_secs(5);

/// What Firecracker 1.16.1 says, head and body, when it refuses.
const FAULTS: [(&str, &str); 9] = [
    (
        "Load snapshot error: Failed to restore from snapshot: Failed to get snapshot state from file: \
         Failed to deserialize: CRC64 validation failed",
        "400 Bad Request",
    ),
    (
        "Load snapshot error: Failed to restore from snapshot: Failed to load guest memory: \
         Error creating guest memory from file: Cannot open the memory file: No such file or directory (os error 2)",
        "400 Bad Request",
    ),
    (
        "Loading a microVM snapshot not allowed after configuring boot-specific resources.",
        "400 Bad Request",
    ),
    (
        "The requested operation is not supported after starting the microVM.",
        "400 Bad Request",
    ),
    (
        "The requested operation is not supported before starting the microVM.",
        "400 Bad Request",
    ),
    (
        "Cannot create snapshot: save/restore unavailable while running",
        "400 Bad Request",
    ),
    (
        "Start microvm error: Cannot create VM: Error opening /dev/kvm: Permission denied (os error 13)",
        "400 Bad Request",
    ),
    (
        "Unable to patch the block device: Block: Unable to set block device: No such file or directory (os error 2) /session",
        "400 Bad Request",
    ),
    (
        "An error occurred when deserializing the json body of a request: missing field `uds_path` at line 1 column 2.",
        "400 Bad Request",
    ),
];

/// A client, and what the other side saw and did.
async fn with<F>(side: impl FnOnce(UnixStream) -> F + Send + 'static) -> (Client, tokio::task::JoinHandle<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let side = tokio::spawn(side(theirs));
    (Client::new(ours).await.expect("connected"), side)
}

/// Reads one request whole: head and, as its length says, body.
async fn request(stream: &mut UnixStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|l| {
            let (name, value) = l.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().ok())?
        });
        if body.len() >= length.unwrap_or(0) {
            return Some((head.lines().next()?.to_owned(), body.to_owned()));
        }
    }
}

/// Answers every request with the same bytes.
async fn answering(mut stream: UnixStream, answer: Vec<u8>) {
    while request(&mut stream).await.is_some() {
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

fn with_body(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nServer: Firecracker API\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn good() -> Vec<u8> {
    b"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n".to_vec()
}

#[tokio::test]
async fn the_calls_are_in_firecrackers_words() {
    let (send, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let (client, _side) = with(|mut stream| async move {
        while let Some(request) = request(&mut stream).await {
            send.send(request).expect("somebody listens");
            stream.write_all(&good()).await.expect("written");
        }
    })
    .await;
    let config = MachineConfig {
        vcpu_count: 1,
        mem_size_mib: 256,
        smt: false,
        track_dirty_pages: false,
    };
    client.machine_config(&config).await.expect("good");
    let source = BootSource {
        kernel_image_path: "/vmlinux",
        initrd_path: "/initramfs",
        boot_args: "quiet",
    };
    client.boot_source(&source).await.expect("good");
    let drive = Drive {
        drive_id: "base",
        path_on_host: "/base",
        is_root_device: false,
        is_read_only: true,
        cache_type: "Unsafe",
    };
    client.drive(&drive).await.expect("good");
    let vsock = Vsock {
        guest_cid: 3,
        uds_path: "/run/agent.sock",
    };
    client.vsock(&vsock).await.expect("good");
    client.entropy(&Entropy {}).await.expect("good");
    client.act(&Action::InstanceStart).await.expect("good");
    client.set_state(State::Paused).await.expect("good");
    let snapshot = Snapshot {
        snapshot_type: "Full",
        snapshot_path: "/s",
        mem_file_path: "/m",
    };
    client.create_snapshot(&snapshot).await.expect("good");
    let load = LoadSnapshot {
        snapshot_path: "/state",
        mem_backend: MemoryBackend::File("/memory"),
        track_dirty_pages: false,
        resume_vm: false,
    };
    client.load_snapshot(&load).await.expect("good");
    client.swap_drive("session", "/session").await.expect("good");
    client.set_state(State::Resumed).await.expect("good");
    drop(client);
    let mut all = String::new();
    while let Some((line, body)) = seen.recv().await {
        all.push_str(&format!("{line}\n{body}\n"));
    }
    assert_eq!(all, include_str!("../golden/calls.txt"));
}

#[tokio::test]
async fn every_documented_fault_is_told_in_its_words() {
    for (words, status) in FAULTS {
        let body = serde_json::json!({"fault_message": words}).to_string();
        let (client, _side) = with(move |stream| answering(stream, with_body(status, &body))).await;
        // The connection stays: a fault is an answer.
        for _ in 0..2 {
            match client.set_state(State::Paused).await {
                Err(ApiError::Fault(said)) => assert_eq!(said, excerpt(words)),
                other => panic!("{words}: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_fault_without_its_form_is_one_all_the_same() {
    for (answer, expected) in [
        (
            with_body("500 Internal Server Error", "out of luck\x1b[2J\n"),
            "out of luck[2J",
        ),
        (
            with_body("404 Not Found", ""),
            "status 404 Not Found, without a reason",
        ),
        (
            with_body("400 Bad Request", "{\"fault_message\":7}"),
            "{\"fault_message\":7}",
        ),
    ] {
        let (client, _side) = with(move |stream| answering(stream, answer)).await;
        match client.set_state(State::Paused).await {
            Err(ApiError::Fault(said)) => assert_eq!(said, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn garbage_is_no_answer() {
    let huge = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1 << 30);
    let endless = [huge.into_bytes(), vec![b' '; 2 * MAX_ANSWER]].concat();
    let headers = [b"HTTP/1.1 200 OK\r\n".as_slice(), &b"a: b\r\n".repeat(20_000)].concat();
    for (what, answer) in [
        ("noise", b"\x00\xff\xfe not http at all\r\n\r\n".to_vec()),
        ("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("a redirection", with_body("302 Found", "")),
        ("no JSON", with_body("200 OK", "<html>")),
        ("another JSON", with_body("200 OK", "[1,2]")),
        ("an endless body", endless),
        ("endless headers", headers),
    ] {
        let (client, _side) = with(move |stream| answering(stream, answer)).await;
        match client.version().await {
            Err(ApiError::Garbled(_)) => {}
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_anywhere_is_the_end_of_the_connection() {
    let whole = with_body("200 OK", "{\"firecracker_version\":\"1.16.1\"}");
    for cut in 0..whole.len() {
        let part = whole[..cut].to_vec();
        let (client, _side) = with(move |mut stream| async move {
            let _ = request(&mut stream).await;
            let _ = stream.write_all(&part).await;
        })
        .await;
        match client.version().await {
            Err(ApiError::Closed) => {}
            other => panic!("{cut}: {other:?}"),
        }
        match client.version().await {
            Err(ApiError::Closed) => {}
            other => panic!("{cut}, again: {other:?}"),
        }
    }
    let (client, _side) = with(move |stream| answering(stream, whole)).await;
    assert_eq!(client.version().await.expect("whole"), "1.16.1");
}

#[tokio::test]
async fn a_slow_answer_is_waited_for_and_a_late_one_is_not_taken_for_the_next() {
    let (client, _side) = with(|mut stream| async move {
        let _ = request(&mut stream).await;
        for byte in with_body("200 OK", "{\"firecracker_version\":\"1.16.1\"}") {
            let _ = stream.write_all(&[byte]).await;
            tokio::task::yield_now().await;
        }
        // And then none.
        let _ = request(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(client.version().await.expect("slow"), "1.16.1");
    let patch = client.patch("/vm", &State::Paused, Duration::from_millis(50));
    match patch.await {
        Err(ApiError::Timeout(within)) => assert_eq!(within, Duration::from_millis(50)),
        other => panic!("{other:?}"),
    }
    let next = tokio::time::timeout(SOON, client.version())
        .await
        .expect("at once");
    assert!(matches!(next, Err(ApiError::Closed)), "{next:?}");
}
