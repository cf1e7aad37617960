//! The agent's loop against the real client, with processes of this very host in place of a sandbox's.

use super::Agent;
use crate::{port::Port, sandbox::Sandbox};
use omnirun_guest_client::{ClientError, ExecEvent, ExecHandle, GuestClient, message::*};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const BOUND: Duration = Duration::from_secs(30);

async fn agent() -> (GuestClient, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let sandbox = Sandbox::on_host(folder.path());
    // Ends with the stream.
    std::thread::spawn(move || Agent::on_host(sandbox, Port::of_stream(theirs)).serve());
    ours.set_nonblocking(true).unwrap();
    let stream = tokio::net::UnixStream::from_std(ours).unwrap();
    (GuestClient::connect(stream, BOUND).await.unwrap(), folder)
}

fn line(text: &str) -> Exec {
    Exec {
        argv: vec![text.into()],
        shell: true,
        ..Exec::default()
    }
}

async fn all(mut exec: ExecHandle) -> (String, String, Result<Exited, ClientError>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let collect = async {
        while let Some(event) = exec.next().await {
            match event {
                ExecEvent::Stdout(bytes) => out.extend_from_slice(&bytes),
                ExecEvent::Stderr(bytes) => err.extend_from_slice(&bytes),
            }
        }
        exec.wait().await
    };
    let exited = tokio::time::timeout(BOUND, collect).await.unwrap();
    (
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
        exited,
    )
}

async fn run(client: &GuestClient, exec: Exec) -> (String, String, Result<Exited, ClientError>) {
    all(client.exec(exec).await.unwrap()).await
}

fn kind(result: Result<impl std::fmt::Debug, ClientError>) -> ErrorKind {
    match result {
        Err(ClientError::Guest { kind, .. }) => kind,
        other => panic!("{other:?}"),
    }
}

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
async fn files_are_written_whole_and_read_in_parts() {
    let (client, folder) = agent().await;
    let content: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
    assert_eq!(
        client
            .write_file("a/b", 0o640, true, &mut &*content)
            .await
            .unwrap(),
        1_000_000
    );
    assert_eq!(std::fs::read(folder.path().join("a/b")).unwrap(), content);
    let stat = client.stat("a/b").await.unwrap();
    assert_eq!((stat.mode & 0o7777, stat.size), (0o640, 1_000_000));
    client
        .write_file("a/b", 0, false, &mut &b"short"[..])
        .await
        .unwrap();
    assert_eq!(client.stat("a/b").await.unwrap().mode & 0o7777, 0o640);
    let mut part = Vec::new();
    assert_eq!(
        client
            .read_file("a/b", 1, 3)
            .unwrap()
            .copy_to(&mut part)
            .await
            .unwrap(),
        3
    );
    assert_eq!(part, b"hor");
    assert_eq!(
        kind(client.read_file("a/none", 0, 0).unwrap().next().await),
        ErrorKind::NotFound
    );
    assert_eq!(
        kind(client.read_file("a", 0, 0).unwrap().next().await),
        ErrorKind::Invalid
    );
    client.mkdir("c/d", true).await.unwrap();
    client.rename("a/b", "c/e").await.unwrap();
    let names: Vec<_> = client
        .list("c")
        .await
        .unwrap()
        .entries
        .into_iter()
        .map(|e| e.name)
        .collect();
    assert_eq!(names, [b"d".to_vec(), b"e".to_vec()]);
    assert_eq!(kind(client.remove("c", false).await), ErrorKind::Exists);
    client.remove("c", true).await.unwrap();
    assert!(!folder.path().join("c").exists());
}

#[tokio::test]
async fn a_write_that_is_broken_off_leaves_the_file_as_it_was() {
    struct Broken(usize);
    impl tokio::io::AsyncRead for Broken {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            if self.0 == 0 {
                return std::task::Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()));
            }
            self.0 -= 1;
            buffer.put_slice(&[1; 1000]);
            std::task::Poll::Ready(Ok(()))
        }
    }
    let (client, folder) = agent().await;
    std::fs::write(folder.path().join("kept"), "old").unwrap();
    let result = client.write_file("kept", 0, false, &mut Broken(20)).await;
    assert!(matches!(result, Err(ClientError::Local { .. })), "{result:?}");
    // The answer to this comes after the cancel has been handled.
    client.ping().await.unwrap();
    assert_eq!(std::fs::read(folder.path().join("kept")).unwrap(), b"old");
}

#[tokio::test]
async fn trees_travel_as_tar_and_do_not_leave_their_folder() {
    let (client, folder) = agent().await;
    run(
        &client,
        line("mkdir -p t/u; echo hello >t/u/v; ln -s v t/u/w; chmod 750 t/u"),
    )
    .await
    .2
    .unwrap();
    let mut packed = Vec::new();
    client.tar_out("t").unwrap().copy_to(&mut packed).await.unwrap();
    client.tar_in("copy", &mut &*packed).await.unwrap();
    assert_eq!(
        std::fs::read(folder.path().join("copy/t/u/v")).unwrap(),
        b"hello\n"
    );
    assert_eq!(
        std::fs::read_link(folder.path().join("copy/t/u/w"))
            .unwrap()
            .to_str(),
        Some("v")
    );
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..9].copy_from_slice(b"../escape");
    header.set_size(1);
    header.set_cksum();
    builder.append(&header, &b"x"[..]).unwrap();
    let evil = builder.into_inner().unwrap();
    assert_eq!(kind(client.tar_in("copy", &mut &*evil).await), ErrorKind::Invalid);
    assert!(!folder.path().join("escape").exists());
}

async fn tool(client: &GuestClient, name: &str, input: &str, saved_shell: bool) -> (String, ToolResult) {
    let tool = Tool {
        name: name.into(),
        input: input.into(),
        saved_shell,
        finish: saved_shell,
        timeout_ms: 0,
    };
    let result = tokio::time::timeout(BOUND, client.tool(tool))
        .await
        .unwrap()
        .unwrap();
    let text = result.content.iter().filter_map(|b| match &b.kind {
        Some(BlockKind::Text(text)) => Some(text.as_str()),
        _ => None,
    });
    (text.collect(), result)
}

#[tokio::test]
async fn a_live_shell_keeps_its_state_through_calls_timeouts_and_exits() {
    let (client, _folder) = agent().await;
    assert_eq!(
        tool(&client, "bash", r#"{"command":"cd /usr; x=1; echo hi"}"#, false)
            .await
            .0,
        "hi"
    );
    assert_eq!(
        tool(&client, "bash", r#"{"command":"pwd; echo $x"}"#, false)
            .await
            .0,
        "/usr\n1"
    );
    let (text, result) = tool(
        &client,
        "bash",
        r#"{"command":"echo part; sleep 60","timeout_ms":300}"#,
        false,
    )
    .await;
    assert!(result.timed_out && text.starts_with("part"), "{text}");
    let (_, result) = tool(&client, "bash", r#"{"command":"exit 3"}"#, false).await;
    assert_eq!(result.exit_code, Some(3));
    assert_eq!(
        tool(&client, "bash", r#"{"command":"pwd; echo $x"}"#, false)
            .await
            .0,
        "/usr\n1"
    );
    tool(&client, "bash", r#"{"restart":true}"#, false).await;
    assert_eq!(
        tool(&client, "bash", r#"{"command":"echo [$x]"}"#, false).await.0,
        "[]"
    );
}

#[tokio::test]
async fn a_saved_shell_keeps_its_state_on_the_disk() {
    let (client, folder) = agent().await;
    let (_, result) = tool(&client, "bash", r#"{"command":"cd /usr; x=1"}"#, true).await;
    assert!(result.synced);
    assert!(folder.path().join("shell").exists());
    assert_eq!(
        tool(&client, "bash", r#"{"command":"pwd; echo $x"}"#, true)
            .await
            .0,
        "/usr\n1"
    );
    // What is no state is none: the disk is hostile.
    std::fs::write(folder.path().join("shell"), vec![0; 2 << 20]).unwrap();
    assert_eq!(
        tool(&client, "bash", r#"{"command":"echo [$x]"}"#, true).await.0,
        "[]"
    );
    tool(&client, "bash", r#"{"restart":true}"#, true).await;
}

#[tokio::test]
async fn a_tool_that_is_cancelled_answers_with_what_it_had() {
    let (client, _folder) = agent().await;
    for saved_shell in [false, true] {
        let input = br#"{"command":"echo started | tee /dev/stderr > mark; sleep 60"}"#.to_vec();
        let mut handle = client
            .start_tool(Tool {
                name: "bash".into(),
                input,
                saved_shell,
                ..Tool::default()
            })
            .unwrap();
        let mark = async { while client.stat("mark").await.map_or(0, |s| s.size) == 0 {} };
        tokio::time::timeout(BOUND, mark).await.unwrap();
        handle.cancel();
        let result = tokio::time::timeout(BOUND, handle.result())
            .await
            .unwrap()
            .unwrap();
        assert!(
            result.is_error && format!("{:?}", result.content).contains("started"),
            "{result:?}"
        );
        client.remove("mark", false).await.unwrap();
    }
    assert_eq!(
        tool(&client, "bash", r#"{"command":"echo usable"}"#, false)
            .await
            .0,
        "usable"
    );
}

#[tokio::test]
async fn file_tools_run_in_the_working_directory() {
    let (client, folder) = agent().await;
    let (text, result) = tool(
        &client,
        "write",
        r#"{"file_path":"d/f.txt","content":"one\ntwo\n"}"#,
        false,
    )
    .await;
    assert!(!result.is_error, "{text}");
    assert_eq!(
        std::fs::read(folder.path().join("d/f.txt")).unwrap(),
        b"one\ntwo\n"
    );
    assert_eq!(
        tool(
            &client,
            "read",
            r#"{"file_path":"d/f.txt","view_range":[2,2]}"#,
            false
        )
        .await
        .0,
        "two"
    );
    assert!(
        tool(&client, "read", r#"{"file_path":"/etc/passwd"}"#, false)
            .await
            .1
            .is_error
    );
    assert!(tool(&client, "frobnicate", "{}", false).await.1.is_error);
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
    let mut answers = vec![0; 2 * preface::LEN];
    tokio::time::timeout(BOUND, stream.read_exact(&mut answers))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        answers[preface::LEN..],
        preface::answer([2; 16], preface::VERSION)
    );
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
