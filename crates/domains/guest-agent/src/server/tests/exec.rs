//! Processes of the host.

use super::*;

#[tokio::test]
async fn streams_apart_exit_codes_signals_and_usage() {
    let (client, folder) = agent().await;
    let (out, err, exited) = run(&client, line("echo out; echo err >&2; exit 7")).await;
    let exited = exited.unwrap();
    assert_eq!(
        (&*out, &*err, exited.code, exited.signal),
        ("out\n", "err\n", Some(7), None)
    );
    assert!(exited.max_rss > 0);
    assert_eq!(run(&client, line("kill -9 $$")).await.2.unwrap().signal, Some(9));
    let env = vec![EnvVar {
        name: "X".into(),
        value: "a b".into(),
    }];
    let exec = Exec {
        argv: vec!["printenv".into(), "X".into()],
        env,
        cwd: "/".into(),
        ..Exec::default()
    };
    assert_eq!(run(&client, exec).await.0, "a b\n");
    assert_eq!(
        run(&client, line("pwd")).await.0.trim(),
        folder.path().to_str().unwrap()
    );
}

#[tokio::test]
async fn what_cannot_be_started_is_told_by_its_kind() {
    let (client, folder) = agent().await;
    let program = |name: &str| Exec {
        argv: vec![name.into()],
        ..Exec::default()
    };
    assert_eq!(
        kind(run(&client, program("no-such-program")).await.2),
        ErrorKind::NotFound
    );
    let file = folder.path().join("plain");
    std::fs::write(&file, "x").unwrap();
    assert_eq!(
        kind(run(&client, program(file.to_str().unwrap())).await.2),
        ErrorKind::Permission
    );
    let elsewhere = Exec {
        cwd: "/no/such/folder".into(),
        ..line("true")
    };
    assert_eq!(kind(run(&client, elsewhere).await.2), ErrorKind::NotFound);
    assert_eq!(kind(run(&client, Exec::default()).await.2), ErrorKind::Invalid);
    assert_eq!(
        kind(
            run(
                &client,
                Exec {
                    user: "no-such-user".into(),
                    ..line("true")
                }
            )
            .await
            .2
        ),
        ErrorKind::NotFound
    );
    // None of it did any harm.
    assert_eq!(run(&client, line("echo fine")).await.0, "fine\n");
}

#[tokio::test]
async fn megabytes_both_ways_arrive_while_another_call_is_answered() {
    let (client, _folder) = agent().await;
    let mut exec = client
        .exec(Exec {
            argv: vec!["cat".into()],
            stdin: true,
            ..Exec::default()
        })
        .await
        .unwrap();
    let mut input = exec.stdin().unwrap();
    let sent: Vec<u8> = (0..5_000_000u32).flat_map(|n| (n as u16).to_le_bytes()).collect();
    let copy = sent.clone();
    tokio::spawn(async move {
        assert!(input.write(&copy).await.unwrap());
        input.close();
    });
    // Nothing of it is taken: the agent must not wait for us.
    tokio::time::timeout(BOUND, client.ping()).await.unwrap().unwrap();
    let mut arrived = Vec::new();
    while let Some(ExecEvent::Stdout(bytes)) = exec.next().await {
        arrived.extend_from_slice(&bytes);
    }
    assert!(arrived == sent, "{} of {} bytes", arrived.len(), sent.len());
    assert_eq!(exec.wait().await.unwrap().code, Some(0));
}

#[tokio::test]
async fn a_daemon_that_keeps_stdout_does_not_keep_the_call() {
    let (client, _folder) = agent().await;
    let started = Instant::now();
    let (out, _, exited) = run(
        &client,
        line("echo first; (sleep 60; echo late) & echo last; echo $!"),
    )
    .await;
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(exited.unwrap().code, Some(0));
    let mut words = out.split_whitespace();
    assert_eq!((words.next(), words.next()), (Some("first"), Some("last")));
    run(&client, line(&format!("kill {}", words.next().unwrap())))
        .await
        .2
        .unwrap();
}

#[tokio::test]
async fn time_limits_signals_and_cancels_end_the_whole_group() {
    let (client, _folder) = agent().await;
    let exited = run(
        &client,
        Exec {
            timeout_ms: 200,
            ..line("echo x; sleep 60 | sleep 60")
        },
    )
    .await
    .2
    .unwrap();
    assert!(exited.timed_out && exited.signal == Some(9));
    let mut exec = client
        .exec(line(
            "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.05; done",
        ))
        .await
        .unwrap();
    assert_eq!(exec.next().await, Some(ExecEvent::Stdout("ready\n".into())));
    exec.signal(15).await.unwrap();
    let (out, _, exited) = all(exec).await;
    assert_eq!((&*out, exited.unwrap().code), ("caught\n", Some(3)));
    let mut exec = client.exec(line("echo $$; exec sleep 60")).await.unwrap();
    assert!(matches!(exec.next().await, Some(ExecEvent::Stdout(_))));
    exec.cancel();
    assert_eq!(exec.wait().await.unwrap().signal, Some(9));
    assert_eq!(kind(exec.signal(15).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn without_a_host_its_processes_end_and_the_sandbox_stays() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::on_host(folder.path());
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let serving = std::thread::spawn(move || Agent::on_host(sandbox, Port::of_stream(theirs)).serve());
    ours.set_nonblocking(true).unwrap();
    let mut stream = tokio::net::UnixStream::from_std(ours).unwrap();
    // A second preface on the same stream: the host has come back before the guest saw it go.
    use omnirun_guest_proto::{Message, frame, preface};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut wire = preface::offer([1; 16]).to_vec();
    let request = Request {
        op: Some(Op::Exec(line("echo $$ > pid; exec sleep 60"))),
    };
    frame::put_message(&mut wire, 1, &request.encode_to_vec());
    stream.write_all(&wire).await.unwrap();
    let pid = folder.path().join("pid");
    let pid = tokio::time::timeout(BOUND, async {
        loop {
            match std::fs::read_to_string(&pid) {
                Ok(text) if text.ends_with('\n') => break text,
                _ => tokio::task::yield_now().await,
            }
        }
    })
    .await
    .unwrap();
    // What an agent has not yet sent when the host comes back, it forgets: the first answer has to be here before.
    let mut answer = [0; preface::LEN];
    tokio::time::timeout(BOUND, stream.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer, preface::answer([1; 16], preface::VERSION));
    // In the middle of a frame.
    let broken = [
        &frame::Head {
            length: 5000,
            call: 2,
            kind: frame::Kind::Message,
            channel: frame::Channel::Input,
        }
        .encode()[..],
        b"half",
    ]
    .concat();
    stream.write_all(&broken).await.unwrap();
    stream.write_all(&preface::offer([2; 16])).await.unwrap();
    tokio::time::timeout(BOUND, stream.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(answer, preface::answer([2; 16], preface::VERSION));
    let gone = async {
        while std::path::Path::new("/proc").join(pid.trim()).exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, gone).await.unwrap();
    drop(stream);
    tokio::task::spawn_blocking(|| serving.join())
        .await
        .unwrap()
        .unwrap();
}
