//! The client against guests that do what no agent does.

#![allow(clippy::unwrap_used)] // helpers of tests

use omnirun_guest_client::{ClientError, ExecEvent, GuestClient, ProtocolError, message::*};
use omnirun_guest_proto::{
    Message,
    frame::{self, Channel, Kind},
    guest::GuestEvent,
    limits::{DATA_WINDOW, MAX_CALLS},
};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::UnixStream,
};

mod bounds;
mod fake;

use fake::{BOUND, Fake};

fn done() -> Vec<u8> {
    Reply {
        outcome: Some(Outcome::Done(Empty {})),
    }
    .encode_to_vec()
}

fn cat() -> Exec {
    Exec {
        argv: vec![b"cat".to_vec()],
        stdin: true,
        ..Exec::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_answers_is_given_up_in_time() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let result = GuestClient::connect(ours, Duration::from_secs(3)).await;
    assert!(matches!(result, Err(ClientError::Timeout)), "{result:?}");
}

#[tokio::test]
async fn endless_noise_instead_of_a_preface_is_a_protocol_error() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let noise = tokio::spawn(async move { while theirs.write_all(&[0x9f; 65536]).await.is_ok() {} });
    let result = GuestClient::connect(ours, BOUND).await;
    assert!(
        matches!(result, Err(ClientError::Protocol(ProtocolError::Preface(_)))),
        "{result:?}"
    );
    noise.await.unwrap();
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_connection_for_everybody() {
    type Build = fn(&mut Vec<u8>);
    let cases: [(&str, Build); 7] = [
        ("a call of the guest's own", |w| {
            frame::put_message(w, 77, &done())
        }),
        ("two replies", |w| {
            frame::put_message(w, 1, &done());
            frame::put_message(w, 1, &done());
        }),
        ("no frame", |w| w.extend_from_slice(&[0xee; 64])),
        ("no message", |w| frame::put_message(w, 1, &[0xff; 64])),
        ("more than granted", |w| {
            frame::put_data(w, 3, Channel::Output, &vec![0; DATA_WINDOW as usize + 1])
        }),
        ("a message without end", |w| {
            for _ in 0..500 {
                frame::put_one(w, 1, Kind::Part, Channel::Input, &[0; 65536]);
            }
        }),
        ("credit for nothing", |w| {
            frame::put_one(w, 1, Kind::Credit, Channel::Input, &5u32.to_le_bytes())
        }),
    ];
    for (what, build) in cases {
        let (client, mut fake) = Fake::start().await;
        let (a, b) = (client.clone(), client.clone());
        let first = tokio::spawn(async move { a.exec(cat()).await?.wait().await });
        assert_eq!(fake.request().await, 1);
        let second = tokio::spawn(async move { b.exec(cat()).await?.wait().await });
        assert_eq!(fake.request().await, 2);
        // Nobody takes its output.
        let _third = client.exec(cat()).await.unwrap();
        let mut wire = Vec::new();
        build(&mut wire);
        // It may hang up before it has read all of it.
        let _ = fake.stream.write_all(&wire).await;
        let waiting = async { (first.await.unwrap(), second.await.unwrap()) };
        let (_, second) = tokio::time::timeout(BOUND, waiting).await.unwrap();
        assert!(
            matches!(second, Err(ClientError::Protocol(_))),
            "{what}: {second:?}"
        );
        tokio::time::timeout(BOUND, client.closed()).await.unwrap();
        assert!(
            matches!(client.ping().await, Err(ClientError::Protocol(_))),
            "{what}"
        );
    }
}

#[tokio::test]
async fn a_reply_of_another_kind_is_an_error_of_that_call() {
    let (client, mut fake) = Fake::start().await;
    let (result, _) = tokio::join!(client.ping(), async {
        let call = fake.request().await;
        fake.reply(call, Outcome::Claimed(Claimed { fresh: true })).await;
    });
    assert!(
        matches!(result, Err(ClientError::Protocol(ProtocolError::WrongReply))),
        "{result:?}"
    );
}

#[tokio::test]
async fn the_guests_own_errors_are_told_and_their_words_are_not_printed() {
    let (client, mut fake) = Fake::start().await;
    let (result, _) = tokio::join!(client.stat("x"), async {
        let call = fake.request().await;
        let message = format!("the agent's secret {}", "é".repeat(10_000));
        fake.reply(
            call,
            Outcome::Error(Error {
                kind: ErrorKind::NotFound.into(),
                message,
            }),
        )
        .await;
    });
    let Err(ClientError::Guest {
        kind: ErrorKind::NotFound,
        message,
    }) = &result
    else {
        panic!("{result:?}")
    };
    assert!(message.0.len() <= 4096 && message.0.starts_with("the agent's"));
    assert!(!format!("{result:?}").contains("secret"));
}

#[tokio::test]
async fn requests_made_together_go_out_together() {
    let (client, mut fake) = Fake::start().await;
    let started = tokio::spawn(async move {
        let (claimed, mut exec) = client
            .wake_claim_exec(Wake::default(), Claim::default(), cat())
            .await?;
        Ok::<_, ClientError>((claimed.fresh, exec.wait().await?.code))
    });
    let mut buffer = [0; 4096];
    let count = fake.stream.read(&mut buffer).await.unwrap();
    fake.end.push(&buffer[..count]);
    let requests: Vec<_> = std::iter::from_fn(|| fake.end.next()).collect();
    assert_eq!(requests.len(), 3, "{requests:?}");
    fake.end.reply(
        1,
        &Reply {
            outcome: Some(Outcome::Done(Empty {})),
        },
    );
    fake.end.reply(
        2,
        &Reply {
            outcome: Some(Outcome::Claimed(Claimed { fresh: true })),
        },
    );
    fake.reply(
        3,
        Outcome::Exited(Exited {
            code: Some(0),
            ..Exited::default()
        }),
    )
    .await;
    assert_eq!(started.await.unwrap().unwrap(), (true, Some(0)));
}

#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled_and_its_place_is_free_after_its_reply() {
    let (client, mut fake) = Fake::start().await;
    let mut calls = Vec::new();
    for _ in 0..MAX_CALLS {
        calls.push(client.exec(cat()).await.unwrap());
    }
    assert!(matches!(client.exec(cat()).await, Err(ClientError::Refused(_))));
    calls.clear();
    assert!(
        matches!(client.exec(cat()).await, Err(ClientError::Refused(_))),
        "the guest has not answered"
    );
    loop {
        if let GuestEvent::Cancel(1) = fake.event().await {
            break;
        }
    }
    fake.reply(
        1,
        Outcome::Exited(Exited {
            signal: Some(9),
            ..Exited::default()
        }),
    )
    .await;
    let again = async {
        while client.exec(cat()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, again).await.unwrap();
}

#[tokio::test]
async fn a_guest_that_goes_away_ends_every_wait_and_the_last_client_ends_the_stream() {
    let (client, fake) = Fake::start().await;
    let mut exec = client.exec(cat()).await.unwrap();
    drop(fake);
    let result = tokio::time::timeout(BOUND, exec.wait()).await.unwrap();
    assert!(matches!(result, Err(ClientError::Closed)), "{result:?}");

    let (client, mut fake) = Fake::start().await;
    let exec = client.exec(cat()).await.unwrap();
    drop(client);
    let call = fake.request().await;
    assert_eq!(call, exec.call_id());
    drop(exec);
    let mut rest = Vec::new();
    tokio::time::timeout(BOUND, fake.stream.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn who_asks_again_after_the_end_is_not_kept_waiting() {
    let (client, mut fake) = Fake::start().await;
    let mut file = client.read_file("x", 0, 0).unwrap();
    let call = fake.request().await;
    let gone = Outcome::Error(Error {
        kind: ErrorKind::NotFound.into(),
        message: "no".into(),
    });
    fake.reply(call, gone).await;
    assert!(matches!(file.next().await, Err(ClientError::Guest { .. })));
    let again = tokio::time::timeout(BOUND, file.next()).await.unwrap();
    assert!(matches!(again, Err(ClientError::Closed)), "{again:?}");
}

#[tokio::test]
async fn the_last_client_ends_the_stream_though_the_guest_reads_nothing() {
    let (client, mut fake) = Fake::start().await;
    // More than a socket holds.
    let tool = Tool {
        input: vec![0; 8 << 20],
        ..Tool::default()
    };
    let handle = client.start_tool(tool).unwrap();
    let mut first = [0; 1];
    fake.stream.read_exact(&mut first).await.unwrap();
    drop((handle, client));
    let gone = async {
        while !fake
            .stream
            .ready(Interest::READABLE)
            .await
            .unwrap()
            .is_read_closed()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, gone).await.unwrap();
}
