//! The six tools.

use super::*;

async fn tool(client: &GuestClient, name: &str, input: &str, saved_shell: bool) -> (String, ToolResult) {
    let tool = Tool {
        name: name.into(),
        input: input.into(),
        saved_shell,
        finish: saved_shell,
        ..Tool::default()
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
        r#"{"command":"echo part; sleep 60","timeout_ms":2000}"#,
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

#[test]
fn a_shell_that_gave_its_output_away_does_not_keep_the_loop_busy() {
    use crate::bash::{Bash, Start};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::on_host(folder.path());
    let mut bash = Bash::default();
    let tool = Tool {
        name: "bash".into(),
        input: r#"{"command":"exec >log 2>&1 63>&-; touch given; sleep 60"}"#.into(),
        ..Tool::default()
    };
    assert!(matches!(bash.start(&sandbox, 1, &tool), Ok(Start::Running)));
    let (mut buffer, started) = (vec![0; 65536], Instant::now());
    while !folder.path().join("given").exists() {
        assert!(started.elapsed() < BOUND);
        std::thread::yield_now();
    }
    assert!(bash.progress(&sandbox, &mut buffer).is_none());
    let running = bash.running.as_ref().unwrap();
    let mut fds: Vec<_> = running
        .fds()
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    let now = Timespec::default();
    assert_eq!(poll(&mut fds, Some(&now)).unwrap(), 0, "nothing is ready");
    drop(fds);
    bash.cancel(1);
    while bash.progress(&sandbox, &mut buffer).is_none() {
        assert!(started.elapsed() < BOUND);
        std::thread::yield_now();
    }
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
    assert!(!folder.path().join("shell").exists());
}

#[tokio::test]
async fn what_an_earlier_call_put_in_the_states_place_does_no_harm() {
    let (client, folder) = agent().await;
    let save = r#"{"command":"x=1"}"#;
    run(&client, line("mkfifo shell.new")).await.2.unwrap();
    assert_eq!(tool(&client, "bash", save, true).await.0, "(no output)");
    run(&client, line("rm shell; mkdir -p shell/full"))
        .await
        .2
        .unwrap();
    let text = tool(&client, "bash", save, true).await.0;
    assert!(text.contains("without saving its state"), "{text}");
    run(&client, line("rm -r shell*; mkdir shell.new; echo x > shell"))
        .await
        .2
        .unwrap();
    let text = tool(&client, "bash", r#"{"command":"echo [$x]"}"#, true).await.0;
    assert!(
        text.starts_with("[]\n[the shell ended without saving its state"),
        "{text}"
    );
    drop(folder);
}

#[tokio::test]
async fn the_disk_is_synced_where_that_is_asked_for() {
    let (client, _folder) = agent().await;
    for (name, input) in [
        ("bash", r#"{"command":"true"}"#),
        ("bash", r#"{"restart":true}"#),
        ("write", r#"{"file_path":"f","content":"x"}"#),
    ] {
        for sync in [true, false] {
            let tool = Tool {
                name: name.into(),
                input: input.into(),
                sync,
                ..Tool::default()
            };
            let result = tokio::time::timeout(BOUND, client.tool(tool))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(result.synced, sync, "{name} {input}");
        }
    }
    tokio::time::timeout(BOUND, client.sync()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_file_tool_that_is_cut_short_is_an_error_of_the_tool() {
    let (client, _folder) = agent().await;
    // An ignore file that nobody writes to keeps a search waiting.
    run(&client, line("mkdir .git; mkfifo .gitignore"))
        .await
        .2
        .unwrap();
    let search = |timeout_ms| Tool {
        name: "grep".into(),
        input: r#"{"pattern":"x"}"#.into(),
        timeout_ms,
        ..Tool::default()
    };
    let result = tokio::time::timeout(BOUND, client.tool(search(200)))
        .await
        .unwrap()
        .unwrap();
    assert!(
        result.is_error && result.timed_out && format!("{:?}", result.content).contains("took too long"),
        "{result:?}"
    );
    let handle = client.start_tool(search(0)).unwrap();
    handle.cancel();
    let result = tokio::time::timeout(BOUND, handle.wait()).await.unwrap().unwrap();
    assert!(result.is_error && !result.timed_out, "{result:?}");
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
