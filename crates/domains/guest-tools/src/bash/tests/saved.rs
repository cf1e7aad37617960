//! Isolation mode `call`: a shell for each command, state in between.

use super::*;

mod carried;

/// A session: its state goes from call to call as a stored blob.
struct Session {
    config: ShellConfig,
    blob: Option<Vec<u8>>,
    limit: Duration,
    /// It is not over before the command has printed this, however slow the machine.
    limit_after: &'static str,
    last: Option<StateAfter>,
}

impl Session {
    fn new(workdir: &Path) -> Self {
        Self {
            config: config(workdir),
            blob: None,
            limit: LIMIT,
            limit_after: "",
            last: None,
        }
    }

    fn run(&mut self, command: &str) -> ToolResult {
        let state = self
            .blob
            .clone()
            .map(|blob| ShellState::from_bytes(blob).unwrap());
        let (launch, call) = SavedCall::launch(&self.config, state.as_ref(), command).unwrap();
        let mut child = spawn(&launch);
        let (mut output, started) = (Output::default(), Instant::now());
        let ending = loop {
            drain(&launch, &mut output);
            if let Some(status) = child.try_wait().unwrap() {
                break ending(status);
            }
            if started.elapsed() > self.limit && output.text().contains(self.limit_after) {
                kill(&mut child);
                break Ending::TimedOut(self.limit);
            }
            wait_a_little(&[&launch.output]);
        };
        drain(&launch, &mut output);
        output.finish();
        self.last = match ending {
            Ending::TimedOut(_) => None,
            _ => Some(call.take_state().unwrap()),
        };
        if let Some(StateAfter::Saved { state, .. }) = &self.last {
            self.blob = Some(state.as_bytes().to_vec());
        }
        let state = self.last.as_ref();
        Report {
            output: &output,
            ending,
            state,
            live: false,
            ended_processes: 0,
            spill: None,
        }
        .result()
    }

    fn text(&mut self, command: &str) -> String {
        text_of(&self.run(command))
    }
}

fn session() -> (tempfile::TempDir, Session) {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::new(dir.path());
    (dir, session)
}

#[test]
fn output_code_and_order() {
    let (_dir, mut session) = session();
    assert_eq!(
        session.text("echo out; echo err >&2; echo out2"),
        "out\nerr\nout2"
    );
    let result = session.run("echo x; (exit 7)");
    assert_eq!(
        (text_of(&result).as_str(), result.is_error, result.exit_code),
        ("x\nexit code: 7", true, Some(7))
    );
    assert_eq!(session.text("true"), "(no output)");
    assert_eq!(session.text("cat"), "(no output)");
    assert_eq!(session.text("printf '\\033[31mred\\033[0m\\377'"), "red\u{fffd}");
    assert_eq!(
        session.text("echo $ANTHROPIC_KEY$BASE $TERM $0"),
        "from the template dumb /bin/bash"
    );
}

#[test]
fn odd_commands_neither_hang_nor_lose_the_shell() {
    let (_dir, mut session) = session();
    session.run("x=1");
    assert!(
        session
            .text("echo 'unclosed")
            .contains("unexpected EOF while looking for matching")
    );
    assert!(
        session
            .text("if then")
            .contains("syntax error near unexpected token `then'")
    );
    assert!(session.text("echo a; (").contains("syntax error"));
    assert_eq!(session.text("# only a comment"), "(no output)");
    assert_eq!(session.text(""), "(no output)");
    assert_eq!(session.text("}").lines().last(), Some("exit code: 2"));
    assert!(session.text("break; echo on").ends_with("on"));
    assert!(session.text("return 4").contains("return"));
    assert!(session.text("cat <<EOF\nopen").starts_with("/bin/bash: line"));
    assert_eq!(session.text("echo $x \\"), "1 \\");
    assert_eq!(
        session.text("nosuchcommand"),
        "/bin/bash: line 1: nosuchcommand: command not found\nexit code: 127"
    );
    assert!(
        session
            .text("\n\nnosuchcommand")
            .starts_with("/bin/bash: line 3: ")
    );
}

#[test]
fn a_users_own_exit_trap_runs_and_the_state_is_saved() {
    let (_dir, mut session) = session();
    assert_eq!(
        session.text("e=1; trap 'echo bye $?' EXIT; echo hi; exit 3"),
        "hi\nbye 3\nexit code: 3"
    );
    assert_eq!(session.text("echo $e"), "1", "and the trap is not carried");
    assert_eq!(
        session.text("trap 'echo one' EXIT; trap 'echo two' 0; trap -p EXIT"),
        "trap -- 'echo two' EXIT\ntwo"
    );
    assert_eq!(
        session.text("trap 'echo one' EXIT; trap - EXIT; trap -p EXIT; echo end"),
        "end"
    );
    assert_eq!(
        session.text("(trap 'echo sub' EXIT); trap 'echo int' INT; trap -p INT"),
        "sub\ntrap -- 'echo int' SIGINT"
    );
    assert_eq!(
        session.text("set -euo pipefail; f=2; t=$(mktemp); trap 'rm -f $t; echo cleaned' EXIT; false"),
        "cleaned\nexit code: 1"
    );
    assert_eq!(
        session.text("set +eu; echo $f; test -e $t || echo gone"),
        "2\ngone"
    );
    assert_eq!(session.run("trap 'exit 9' EXIT; g=3").exit_code, Some(9));
    assert_eq!(session.text("echo $g"), "3");
}

#[test]
fn tracing_shows_the_users_commands_alone() {
    let (_dir, mut session) = session();
    assert_eq!(session.text("set -x; echo a"), "++ echo a\na");
    assert_eq!(session.text("echo b; exit 0"), "++ echo b\nb\n++ exit 0");
    assert_eq!(session.text("set +x"), "++ set +x");
    assert_eq!(session.text("echo c"), "c");
}

#[test]
fn exec_and_kill_leave_the_state_from_before_and_say_so() {
    let (_dir, mut session) = session();
    session.run("k=before");
    let text = session.text("k=after; exec echo replaced");
    assert!(
        text.starts_with("replaced\n[the shell ended without saving its state"),
        "{text}"
    );
    assert_eq!(session.text("echo $k"), "before");
    let result = session.run("k=after; echo x; kill -9 $$");
    assert!(
        text_of(&result).starts_with("x\nexit code: 137 (signal 9)\n["),
        "{}",
        text_of(&result)
    );
    assert_eq!(session.text("echo $k"), "before");
}

#[test]
fn a_timeout_keeps_output_and_the_state_from_before() {
    let (_dir, mut session) = session();
    session.run("k=before");
    (session.limit, session.limit_after) = (Duration::from_millis(300), "part");
    let result = session.run("k=after; echo part; sleep 100");
    assert!(
        result.timed_out && text_of(&result).starts_with("part\n[timed out after 0.3 s"),
        "{}",
        text_of(&result)
    );
    session.limit = LIMIT;
    session.limit_after = "";
    assert_eq!(session.text("echo $k"), "before");
}

#[test]
fn hostile_settings_do_not_break_it() {
    let (_dir, mut session) = session();
    for command in [
        "IFS=x",
        "set -a",
        "set -k",
        "set -C",
        "shopt -s nocasematch",
        "trap 'true' DEBUG ERR RETURN",
        "PATH=/nowhere",
        "printf() { echo mine; }; eval() { echo mine; }; alias builtin=false mapfile=false",
        "BASH_XTRACEFD=9",
        "TMOUT=1",
        "set -- a b c",
        "export LC_ALL=C",
        "shopt -s expand_aliases",
        "set -o posix",
        "set +o posix",
        "set -n",
        "exec 3>&1",
        "POSIXLY_CORRECT=1",
        "unset POSIXLY_CORRECT",
        "readonly PATH",
        "LINENO=77",
        "unset PWD OLDPWD",
    ] {
        session.run(command);
        session.run("marker=$((marker+1))");
    }
    assert_eq!(session.text("builtin echo $marker"), "22");
    let env = session.text("set -a; /usr/bin/env");
    assert!(!env.contains("__omnirun"), "{env}");
}

#[test]
fn large_commands_run() {
    let (_dir, mut session) = session();
    let command = format!("x='{}'\necho ${{#x}}", "0123456789 \n".repeat(100_000));
    assert_eq!(session.text(&command).lines().next(), Some("1200000"));
}

#[test]
fn descriptors_are_the_users() {
    let (_dir, mut session) = session();
    assert_eq!(
        session.text("exec 3>f 10>g; echo a >&3; echo b >&10; cat f g"),
        "a\nb"
    );
    assert_eq!(session.text("exec >out; echo hidden"), "(no output)");
    assert_eq!(
        session.text("cat out; exec 2>&-; echo x >&2; echo y"),
        "hidden\ny"
    );
}
