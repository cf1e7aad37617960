//! Isolation mode `session`: one shell that stays, and its successors.

use super::*;

struct Session {
    config: ShellConfig,
    shell: Option<(Launch, LiveShell, Child)>,
    state: Option<ShellState>,
    limit: Duration,
    /// It is not over before the command has printed this, however slow the machine.
    limit_after: &'static str,
}

impl Session {
    fn new(workdir: &Path) -> Self {
        Self {
            config: config(workdir),
            shell: None,
            state: None,
            limit: LIMIT,
            limit_after: "",
        }
    }

    /// One command, as the agent runs it.
    fn run(&mut self, command: &str) -> ToolResult {
        let (launch, mut shell, mut child) = self.shell.take().unwrap_or_else(|| {
            let (launch, shell) = LiveShell::launch(&self.config, self.state.take()).unwrap();
            let child = spawn(&launch);
            (launch, shell, child)
        });
        shell.begin(command).unwrap();
        let (mut output, started) = (Output::default(), Instant::now());
        let ending = loop {
            drain(&launch, &mut output);
            if let Some(code) = shell.poll_done().unwrap() {
                break Ending::Done(code);
            }
            if let Some(status) = child.try_wait().unwrap() {
                break ending(status);
            }
            if started.elapsed() > self.limit && output.text().contains(self.limit_after) {
                kill(&mut child);
                break Ending::TimedOut(self.limit);
            }
            match shell.status_fd() {
                Some(status) => wait_a_little(&[&launch.output, &status]),
                None => wait_a_little(&[&launch.output]),
            }
        };
        drain(&launch, &mut output);
        output.finish();
        let state = (!matches!(ending, Ending::TimedOut(_))).then(|| shell.take_state().unwrap());
        if matches!(ending, Ending::Done(_)) {
            self.shell = Some((launch, shell, child));
        } else {
            self.state = shell.into_state();
        }
        let state = state.as_ref();
        Report {
            output: &output,
            ending,
            state,
            live: true,
            ended_processes: 0,
            spill: None,
        }
        .result()
    }

    fn text(&mut self, command: &str) -> String {
        text_of(&self.run(command))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some((_, _, child)) = &mut self.shell {
            kill(child);
        }
    }
}

fn session() -> (tempfile::TempDir, Session) {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::new(dir.path());
    (dir, session)
}

#[test]
fn one_shell_serves_many_commands() {
    let (_dir, mut session) = session();
    let pid = session.text("echo $$; x=1; cd /; declare -A m=([a]=b); set -- p q");
    assert_eq!(session.text("echo $$"), pid);
    assert_eq!(session.text("pwd; echo $x ${m[a]} $2"), "/\n1 b q");
    assert_eq!(session.text("(exit 3)"), "exit code: 3");
    assert_eq!(
        session.text("echo 'unclosed").lines().last(),
        Some("exit code: 2")
    );
    assert_eq!(session.text("# comment"), "(no output)");
    assert_eq!(session.text("cat"), "(no output)");
    assert!(session.text("nosuch").contains("nosuch: command not found"));
    assert_eq!(session.text("echo $$"), pid);
}

#[test]
fn jobs_live_on_and_their_late_output_is_not_lost() {
    let (_dir, mut session) = session();
    session.run("(until [ -e go ]; do sleep 0.02; done; echo late; touch done) & job=$!");
    assert_eq!(
        session.text("touch go; until [ -e done ]; do sleep 0.02; done; wait $job; echo waited $?"),
        "late\nwaited 0"
    );
    assert_eq!(session.text("exec 5>log; echo a >&5"), "(no output)");
    assert_eq!(session.text("echo b >&5; cat log"), "a\nb");
    assert_eq!(session.text("exec 5>&-; echo x"), "x");
}

#[test]
fn exit_errexit_and_kill_are_survived_with_the_state() {
    let (_dir, mut session) = session();
    let pid = session.text("a=1; f() { echo func; }; cd /tmp; echo $$");
    let result = session.run("b=2; echo out; exit 3");
    assert_eq!(result.exit_code, Some(3));
    assert_eq!(
        text_of(&result),
        "out\nexit code: 3\n[the shell exited; a new one goes on with its working directory, variables and functions]"
    );
    assert_eq!(session.text("f; echo $a $b; pwd"), "func\n1 2\n/tmp");
    assert_ne!(session.text("echo $$"), pid);
    assert!(
        session
            .text("set -e; c=3; false")
            .starts_with("exit code: 1\n[the shell exited")
    );
    assert_eq!(session.text("set +e; false; echo $c"), "3");
    assert!(
        session
            .text("c=4; kill -9 $$")
            .starts_with("exit code: 137 (signal 9)\n[the shell ended without")
    );
    assert_eq!(session.text("echo $c; f"), "3\nfunc");
    assert!(
        session
            .text("c=5; exec true")
            .starts_with("(no output)\n[the shell ended without")
    );
    assert_eq!(session.text("echo $c; trap 'echo trapped' EXIT"), "3");
    assert!(session.text("exit").starts_with("trapped\n["));
}

#[test]
fn after_a_timeout_the_shell_is_there_at_once_as_it_was_before() {
    let (_dir, mut session) = session();
    session.run("x=before; cd /tmp; g() { echo g; }");
    (session.limit, session.limit_after) = (Duration::from_millis(300), "part");
    let started = Instant::now();
    let result = session.run("x=after; cd /; echo part; sleep 100");
    assert!(
        result.timed_out && text_of(&result).starts_with("part\n[timed out after 0.3 s; it and"),
        "{}",
        text_of(&result)
    );
    session.limit = LIMIT;
    session.limit_after = "";
    assert_eq!(session.text("echo $x; pwd; g"), "before\n/tmp\ng");
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "the sleep was waited for"
    );
}

#[test]
fn forged_status_lines_and_markers_mean_nothing() {
    let (_dir, mut session) = session();
    assert_eq!(
        session.text("echo 'x 0' >&63; head -c 9000 /dev/zero >&63; echo on"),
        "on"
    );
    assert_eq!(session.text("echo still"), "still");
}

#[test]
fn a_flood_where_the_status_comes_does_not_hide_it() {
    let (_dir, mut session) = session();
    session.run("yes noise >&63 & job=$!");
    for number in 0..20 {
        assert_eq!(session.text(&format!("echo {number}")), number.to_string());
    }
    assert_eq!(session.text("kill $job"), "(no output)");
}

#[test]
fn tracing_shows_the_users_commands_alone() {
    let (_dir, mut session) = session();
    assert_eq!(session.text("set -x; echo a"), "++ echo a\na");
    assert_eq!(session.text("echo b"), "++ echo b\nb");
    assert_eq!(session.text("set +x"), "++ set +x");
    assert_eq!(session.text("echo c"), "c");
}

#[test]
fn a_lot_of_output_is_cut_to_its_end() {
    let (_dir, mut session) = session();
    let text = session.text("seq 1 200000");
    assert!(text.starts_with("[output truncated]\n"));
    assert!(
        text.contains("\n200000\n[only the last 102400 of 1288895 bytes are shown"),
        "{}",
        &text[102_300..]
    );
}

#[test]
fn no_execution_mode_is_survived() {
    let (_dir, mut session) = session();
    session.run("x=1");
    session.limit = Duration::from_millis(300);
    session.run("set -n");
    session.limit = LIMIT;
    assert_eq!(session.text("echo $x"), "1");
}
