use super::{super::ShellConfig, *};
use proptest::prelude::*;

fn print(nonce: &str, variables: &str) -> Vec<u8> {
    let sections = [
        nonce,
        "/w\n",
        "hB",
        "0022\n",
        "cmdhist:extglob",
        "braceexpand",
        "",
        "",
        "",
        variables,
    ];
    [sections.join("\0").as_bytes(), b"\0end ", nonce.as_bytes()].concat()
}

#[test]
fn a_print_becomes_a_state_that_can_be_stored() {
    let text =
        "declare -r a=\"1\"\ndeclare -rx b=\"2\"\ndeclare -ir UID=\"0\"\ndeclare -- __omnirun_s=\"0\"\n";
    let StateAfter::Saved { state, dropped } = read(&print("n", text), "n", &ShellConfig::default()) else {
        panic!("not saved")
    };
    let (before, _) = state.scripts();
    let before = std::str::from_utf8(before).unwrap();
    assert!(
        before.contains("declare -- a=\"1\"\ndeclare -x b=\"2\"\n"),
        "{before}"
    );
    assert!(
        !before.contains("UID") && !before.contains("__omnirun_s"),
        "{before}"
    );
    assert!(dropped.is_empty());
    assert_eq!(ShellState::from_bytes(state.as_bytes().to_vec()), Some(state));
}

#[test]
fn an_unfinished_or_foreign_print_is_no_state() {
    let whole = print("n", "declare -- a=\"1\"\n");
    for cut in 0..whole.len() {
        assert_eq!(
            read(&whole[..cut], "n", &ShellConfig::default()),
            StateAfter::Lost,
            "cut at {cut}"
        );
    }
    assert_eq!(read(&whole, "m", &ShellConfig::default()), StateAfter::Lost);
    assert_eq!(
        read(&vec![b'x'; MAX_RAW], "n", &ShellConfig::default()),
        StateAfter::TooLarge
    );
}

#[test]
fn what_does_not_fit_is_left_out_by_name() {
    let text = format!(
        "declare -- big=\"{}\"\ndeclare -- small=\"1\"\n",
        "x".repeat(2 << 20)
    );
    let StateAfter::Saved { state, dropped } = read(&print("n", &text), "n", &ShellConfig::default()) else {
        panic!("not saved")
    };
    assert_eq!(dropped, ["big"]);
    assert!(state.as_bytes().len() < 1000);
    assert!(String::from_utf8_lossy(state.as_bytes()).contains("small"));
}

#[test]
fn a_print_that_is_made_to_be_slow_is_answered_at_once() {
    // Of so many variables most do not fit, and each level looks at all of them.
    let variables =
        |count: usize| -> String { (0..count).map(|n| format!("declare -- v{n}=\"\"\n")).collect() };
    let nested = format!("{}{}", variables(90_000), "\0".repeat(8 << 20));
    let StateAfter::Saved { state, dropped } = read(&print("n", &nested), "n", &ShellConfig::default())
    else {
        panic!("not saved")
    };
    assert!(state.as_bytes().len() <= MAX_SHELL_STATE);
    assert!(dropped.len() > 1000);
    let too_many = read(
        &print("n", &variables(MAX_VARIABLES + 1)),
        "n",
        &ShellConfig::default(),
    );
    assert_eq!(too_many, StateAfter::TooLarge);
}

#[test]
fn a_global_shows_through_the_local_that_hid_it() {
    let nested =
        "declare -- a=\"inner\"\ndeclare -- b=\"1\"\n\0declare -- a=\"middle\"\n\0declare -- a=\"outer\"\n";
    let StateAfter::Saved { state, .. } = read(&print("n", nested), "n", &ShellConfig::default()) else {
        panic!("not saved")
    };
    let script = String::from_utf8_lossy(state.as_bytes());
    assert!(
        script.contains("declare -- a=\"outer\"\ndeclare -- b=\"1\"\n"),
        "{script}"
    );
}

#[test]
fn other_blobs_are_refused() {
    for blob in [
        &b""[..],
        b"omnirun-shell 2\n\0",
        b"omnirun-shell 1\n",
        b"omnirun-shell 1\n\0\0",
    ] {
        assert_eq!(ShellState::from_bytes(blob.to_vec()), None);
    }
    let long = [HEADER, &vec![b'#'; MAX_SHELL_STATE], b"\0"].concat();
    assert_eq!(ShellState::from_bytes(long), None);
}

proptest! {
    #[test]
    fn any_print_is_answered_within_the_limit(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
        let whole = [b"n\0", raw.as_slice(), b"\0end n"].concat();
        if let StateAfter::Saved { state, .. } = read(&whole, "n", &ShellConfig::default()) {
            prop_assert!(state.as_bytes().len() <= MAX_SHELL_STATE);
            prop_assert!(ShellState::from_bytes(state.as_bytes().to_vec()).is_some());
        }
    }
}
