//! Isolation mode `call`: a shell for each command, state in between.

use super::*;

/// A session: its state goes from call to call as a stored blob.
struct Session {
    config: ShellConfig,
    blob: Option<Vec<u8>>,
    limit: Duration,
    last: Option<StateAfter>,
}

impl Session {
    fn new(workdir: &Path) -> Self {
        Self {
            config: config(workdir),
            blob: None,
            limit: Duration::from_secs(20),
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
            if started.elapsed() > self.limit {
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
fn state_is_carried() {
    let (dir, mut session) = session();
    std::fs::create_dir(dir.path().join("sub dir")).unwrap();
    let long = "y".repeat(70_000);
    session.run(
        r#"
        cd 'sub dir'; plain='a b'; export EXPORTED=$'line1\nline2"q$x`'; unset BASE
        arr=(1 'two words' $'three\nlines'); arr[9]=nine; declare -A map=([k]=v ["a b"]='c"d' [$'n\nl']=x)
        declare -i num=5; declare -u up=abc; declare -n ref=plain; readonly RO=fixed; export -n nothing
        uni='žluťoučký 🐎'; empty=; declare -x declared
        f() { cat <<EOF
heredoc $1
}
EOF
        local inner=1
        }
        g() { echo exported; }; export -f g
        shopt -s extglob nullglob expand_aliases; h() { [[ $1 == @(a|b) ]] && echo "ext $1"; }
        alias ll='ls -l' q=$'it\'s'; umask 027; set -o pipefail -f
        "#,
    );
    session.run(&format!("long={long}"));
    assert_eq!(
        session.text("basename \"$PWD\"; umask; echo $plain/$ref"),
        "sub dir\n0027\na b/a b"
    );
    assert_eq!(session.text("bash -c 'echo \"$EXPORTED\"'"), "line1\nline2\"q$x`");
    assert_eq!(
        session.text("echo ${BASE-unset}; env | grep -c ^BASE"),
        "unset\n0\nexit code: 1"
    );
    assert_eq!(
        session.text("echo ${#arr[@]} \"${arr[2]}\" ${arr[9]} ${!arr[*]}"),
        "4 three\nlines nine 0 1 2 9"
    );
    assert_eq!(
        session.text("echo ${map[k]} ${map[a b]} ${map[$'n\\nl']} ${#map[@]}"),
        "v c\"d x 3"
    );
    assert_eq!(
        session.text("num+=2; up=def; echo $num $up $uni \"[$empty]\" ${#long}"),
        "7 DEF žluťoučký 🐎 [] 70000"
    );
    assert_eq!(session.text("echo $RO; RO=changed; echo $RO"), "fixed\nchanged");
    assert_eq!(
        session.text("f arg; bash -c g; h b"),
        "heredoc arg\n}\nexported\next b"
    );
    assert_eq!(
        session.text("alias ll; alias q; shopt -q nullglob extglob && echo yes"),
        "alias ll='ls -l'\nalias q='it'\\''s'\nyes"
    );
    assert_eq!(session.text("alias hi='echo hello'"), "(no output)");
    assert_eq!(session.text("hi"), "hello");
    assert_eq!(session.text("false | true; echo $?; echo *"), "1\n*");
    assert_eq!(
        session.text("declare -p declared; cd -").lines().next(),
        Some("declare -x declared")
    );
}

#[test]
fn exit_and_errexit_keep_the_state() {
    let (_dir, mut session) = session();
    let result = session.run("a=1; echo before; exit 3; echo after");
    assert_eq!(
        (text_of(&result).as_str(), result.exit_code),
        ("before\nexit code: 3", Some(3))
    );
    assert_eq!(session.text("echo $a"), "1");
    assert_eq!(session.run("f() { exit 4; }; b=2; f").exit_code, Some(4));
    assert_eq!(session.text("echo $b"), "2");
    assert_eq!(
        session.text("(exit 5); c=3; echo $?; (c=4; exit 6)"),
        "5\nexit code: 6".replace("5\n", "0\n")
    );
    assert_eq!(session.text("echo $c"), "3");
    let result = session.run("set -eu; d=4; false; echo not reached");
    assert_eq!(
        (text_of(&result).as_str(), result.exit_code),
        ("exit code: 1", Some(1))
    );
    assert_eq!(
        session
            .text("echo $d; echo $nosuch; echo not reached")
            .lines()
            .next(),
        Some("4")
    );
    assert_eq!(
        session.text("echo $d; set +eu; false; echo reached"),
        "4\nreached"
    );
}

#[test]
fn options_are_carried_both_ways() {
    let (_dir, mut session) = session();
    session.run("shopt -u sourcepath; shopt -s dotglob; set +o braceexpand; set -o noclobber; set -E");
    assert_eq!(
        session.text("shopt sourcepath dotglob | tr '\\t\\n' '  '; echo {a,b} $-"),
        "sourcepath      off dotglob         on {a,b} hCEs"
    );
    session.run("shopt -s sourcepath; shopt -u dotglob; set -o braceexpand; set +o noclobber; set +E");
    assert_eq!(
        session.text("shopt sourcepath dotglob | tr '\\t\\n' '  '; echo {a,b} $-"),
        "sourcepath      on dotglob         off a b hBs"
    );
}

#[test]
fn an_exit_within_functions_does_not_turn_locals_into_globals() {
    let (_dir, mut session) = session();
    session.run("x=global; y=(1 2); readonly z=3; export w=env");
    let command = "f() { local x=a y=b w=c; g; }; g() { local x=d; new=1; exit 3; }; f";
    assert_eq!(session.run(command).exit_code, Some(3));
    assert_eq!(
        session.text("echo $x ${y[*]} $z $w $new; bash -c 'echo $w'"),
        "global 1 2 3 env 1\nenv"
    );
    assert_eq!(
        session
            .run("h() { local x=e; trap 'echo bye $x' EXIT; set -e; false; }; h")
            .exit_code,
        Some(1)
    );
    assert_eq!(
        session.text("set +e; echo $x; x=changed; k() { x=again; exit 0; }; k"),
        "global"
    );
    assert_eq!(session.text("echo $x"), "again");
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
        session.text("trap 'echo one' EXIT; trap - EXIT; trap; echo end"),
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
    session.limit = Duration::from_millis(300);
    let result = session.run("k=after; echo part; sleep 100");
    assert!(
        result.timed_out && text_of(&result).starts_with("part\n[timed out after 0.3 s"),
        "{}",
        text_of(&result)
    );
    session.limit = Duration::from_secs(20);
    assert_eq!(session.text("echo $k"), "before");
}

#[test]
fn a_directory_that_is_gone_is_said() {
    let (dir, mut session) = session();
    session.run("mkdir gone; cd gone; x=1");
    session.run("rmdir ../gone");
    let text = session.text("pwd; echo $x");
    let dir = dir.path().display();
    assert_eq!(
        text,
        format!("[the working directory {dir}/gone is gone; now in {dir}]\n{dir}\n1")
    );
}

#[test]
fn what_is_too_large_is_named() {
    let (_dir, mut session) = session();
    let text = session.text("big=$(head -c 3000000 /dev/zero | tr '\\0' x); small=1; echo ok");
    assert_eq!(text, "ok\n[too large to be kept for the next command: big]");
    assert_eq!(session.text("echo \"[$big]\" $small"), "[] 1");
    let text = session.text("small=2; big=$(head -c 20000000 /dev/zero | tr '\\0' x); echo ok");
    assert!(
        text.starts_with("ok\n[the shell's variables are too large to be kept"),
        "{text}"
    );
    assert_eq!(session.text("echo $small"), "1");
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
    let command = format!("x='{}'\necho ${{#x}}", "0123456789 \n".repeat(500_000));
    assert_eq!(session.text(&command).lines().next(), Some("6000000"));
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
