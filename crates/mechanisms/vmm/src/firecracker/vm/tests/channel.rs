//! The way to the agent.

use super::*;

/// Takes a connection as Firecracker does: reads the line, and the rest is the guest's.
async fn accept(listener: &UnixListener) -> UnixStream {
    let (mut stream, _) = listener.accept().await.expect("accepted");
    let mut line = vec![0u8; "CONNECT 1024\n".len()];
    stream.read_exact(&mut line).await.expect("the line");
    assert_eq!(line, b"CONNECT 1024\n");
    stream
}

#[tokio::test]
async fn a_clones_channel_is_there_once_it_runs_and_the_next_replaces_it() {
    let Some(bench) = Bench::new() else { return };
    let (machine, _double) = bench.restore(&[]).await.expect("a clone");
    let listener = UnixListener::bind(machine.jail.path().join("run/agent.sock")).expect("bound");
    tokio::select! {
        biased;
        channel = machine.channel() => panic!("before it runs: {channel:?}"),
        taken = listener.accept() => panic!("dialled before it runs: {taken:?}"),
        () = std::future::ready(()) => {}
    }
    let (first, resumed) = tokio::join!(machine.channel(), machine.resume());
    resumed.expect("it runs");
    // Nobody has taken the connection yet.
    let mut first = first.expect("a channel");
    first.write_all(b"hello").await.expect("it waits");
    let mut guest = accept(&listener).await;
    let mut word = [0u8; 5];
    guest.read_exact(&mut word).await.expect("the first bytes");
    assert_eq!(&word, b"hello");
    let _second = machine.channel().await.expect("another");
    assert_eq!(first.read(&mut word).await.expect("its end is seen"), 0);
    assert_eq!(guest.read(&mut word).await.expect("here as well"), 0);
}

#[tokio::test]
async fn a_booting_machines_channel_waits_for_its_agent() {
    let Some(bench) = Bench::new() else { return };
    let (machine, _double) = bench.boot(&[]).await.expect("it boots");
    let listener = UnixListener::bind(machine.jail.path().join("run/agent.sock")).expect("bound");
    let guest = tokio::spawn(async move {
        for _ in 0..3 {
            drop(accept(&listener).await);
        }
        let mut stream = accept(&listener).await;
        stream.write_all(b"OK 1073741824\n").await.expect("written");
        stream
    });
    let mut channel = machine.channel().await.expect("in the end");
    let mut line = [0u8; 14];
    channel
        .read_exact(&mut line)
        .await
        .expect("the answer is still there");
    assert_eq!(&line, b"OK 1073741824\n");
    drop(guest.await.expect("it went well"));
    machine.kill();
    let error = machine.channel().await.map(drop).expect_err("it is gone");
    assert!(matches!(error, VmmError::Gone { .. }), "{error:?}");
}
