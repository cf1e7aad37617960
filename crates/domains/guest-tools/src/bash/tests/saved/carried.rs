//! What of a shell the next one has.

use super::*;

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
