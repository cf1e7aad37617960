//! What either end may make the other keep.

use super::*;

#[tokio::test]
async fn replies_that_nobody_takes_are_bounded() {
    let (client, mut fake) = Fake::start().await;
    let calls = [
        client.start_tool(Tool::default()).unwrap(),
        client.start_tool(Tool::default()).unwrap(),
        client.start_tool(Tool::default()).unwrap(),
        client.start_tool(Tool::default()).unwrap(),
    ];
    let long = || {
        Outcome::Tool(ToolResult {
            content: vec![Block {
                kind: Some(BlockKind::Text("x".repeat(20 << 20))),
            }],
            ..ToolResult::default()
        })
    };
    for _ in 0..3 {
        let call = fake.request().await;
        fake.reply(call, long()).await;
    }
    // All that came is there for who asks.
    let [first, second, third, fourth] = calls;
    let taken = tokio::time::timeout(BOUND, first.wait()).await.unwrap().unwrap();
    assert_eq!(taken.content.len(), 1);
    let call = fake.request().await;
    fake.reply(call, long()).await;
    tokio::time::timeout(BOUND, fourth.wait()).await.unwrap().unwrap();
    let fifth = client.start_tool(Tool::default()).unwrap();
    let sixth = client.start_tool(Tool::default()).unwrap();
    for _ in 0..2 {
        let call = fake.request().await;
        fake.end.reply(
            call,
            &Reply {
                outcome: Some(long()),
            },
        );
        // It may hang up before it has read all of it.
        let out = std::mem::take(&mut fake.end.out);
        let _ = fake.stream.write_all(&out).await;
    }
    tokio::time::timeout(BOUND, client.closed()).await.unwrap();
    assert!(matches!(client.error(), Some(ClientError::Protocol(_))));
    drop((second, third, fifth, sixth));
}

#[tokio::test]
async fn output_is_granted_as_it_is_taken_and_not_before() {
    let (client, mut fake) = Fake::start().await;
    let mut exec = client.exec(cat()).await.unwrap();
    let call = fake.request().await;
    let much = vec![7; DATA_WINDOW as usize * 3];
    // In frames of one byte too, as a guest would that wants us to keep much for little.
    let mut sent = 0;
    while fake.end.room(call, Channel::Output) > 200_000 {
        sent += fake.end.send(call, Channel::Output, &much[..1]);
    }
    sent += fake.end.send(call, Channel::Output, &much[sent..]);
    assert_eq!(sent, DATA_WINDOW as usize);
    fake.end.send(call, Channel::Error, b"oops");
    fake.flush().await;
    let (mut out, mut err) = (0, Vec::new());
    while out < much.len() {
        match tokio::time::timeout(BOUND, exec.next()).await.unwrap().unwrap() {
            ExecEvent::Stdout(bytes) => out += bytes.len(),
            ExecEvent::Stderr(bytes) => err.extend(bytes),
        }
        if sent < much.len() {
            // The grant for what has just been taken.
            while fake.end.room(call, Channel::Output) == 0 {
                let mut buffer = [0; 4096];
                let count = tokio::time::timeout(BOUND, fake.stream.read(&mut buffer))
                    .await
                    .unwrap()
                    .unwrap();
                fake.end.push(&buffer[..count]);
                assert_eq!(fake.end.next(), None);
            }
            sent += fake.end.send(call, Channel::Output, &much[sent..]);
            fake.flush().await;
        }
    }
    assert_eq!(err, b"oops");
    fake.reply(
        call,
        Outcome::Exited(Exited {
            code: Some(3),
            ..Exited::default()
        }),
    )
    .await;
    assert_eq!(exec.wait().await.unwrap().code, Some(3));
    assert_eq!(exec.next().await, None);
}

#[tokio::test]
async fn input_waits_for_the_guest_and_stops_when_the_call_is_over() {
    let (client, mut fake) = Fake::start().await;
    let mut exec = client.exec(cat()).await.unwrap();
    let mut input = exec.stdin().unwrap();
    let writer = tokio::spawn(async move { input.write(&vec![1; DATA_WINDOW as usize * 2]).await });
    let call = fake.request().await;
    let mut taken = 0;
    while taken < DATA_WINDOW as usize {
        if let GuestEvent::Data(_, bytes) = fake.event().await {
            taken += bytes.len();
        }
    }
    assert_eq!(taken, DATA_WINDOW as usize);
    assert!(!writer.is_finished());
    fake.end.grant(call, 1000);
    fake.flush().await;
    while taken < DATA_WINDOW as usize + 1000 {
        if let GuestEvent::Data(_, bytes) = fake.event().await {
            taken += bytes.len();
        }
    }
    fake.reply(call, Outcome::Exited(Exited::default())).await;
    assert!(
        !tokio::time::timeout(BOUND, writer)
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    );
}
