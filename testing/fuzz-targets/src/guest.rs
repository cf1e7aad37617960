//! What a guest prints and answers, and what lies on its disk.

use crate::choice;
use omnirun_guest_proto::{Message, limits::MAX_SHELL_STATE, message::ToolResult};
use omnirun_guest_tools::bash::{
    Ending, OUTPUT_LIMIT, Output, Report, SPILL_LIMIT, ShellConfig, ShellState, StateAfter, fuzz_state,
};
use omnirun_sessions::Isolation;
use serde_json::Value;

/// What a shell prints as its state, and a stored state: what is kept can be stored and is bounded. An odd choice takes
/// the bytes for all of it, an even one for what stands between the first and the last section.
pub fn shell_state(data: &[u8]) {
    let (kind, data) = choice(data);
    let config = ShellConfig {
        env: vec![("LANG".into(), "C.UTF-8".into()), ("a b".into(), "".into())],
        workdir: "/w".into(),
    };
    let print = match kind % 2 {
        0 => [b"n\0", data, b"\0end n"].concat(),
        _ => data.to_vec(),
    };
    match fuzz_state(&print, "n", &config) {
        StateAfter::Saved { state, dropped } => {
            assert!(state.as_bytes().len() <= MAX_SHELL_STATE);
            assert_eq!(
                ShellState::from_bytes(state.as_bytes().to_vec()).as_ref(),
                Some(&state)
            );
            // What was printed alone, small as it is, fits.
            assert!(dropped.is_empty() || data.len() > MAX_SHELL_STATE / 8);
            // A shell that was killed while it printed left nothing.
            let cut = &print[..print.len() - 1];
            assert!(
                kind % 2 == 1 || data.windows(5).any(|w| w == b"end n") || {
                    fuzz_state(cut, "n", &config) == StateAfter::Lost
                }
            );
        }
        StateAfter::TooLarge => assert!(data.len() > 1000),
        StateAfter::Lost => {}
    }
    if let Some(state) = ShellState::from_bytes(data.to_vec()) {
        assert_eq!(state.as_bytes(), data);
    }
}

/// A command's output: the same however it was read, bounded, and told in words.
pub fn output(data: &[u8]) {
    let (step, data) = choice(data);
    let collect = |step: usize| {
        let mut output = Output::default();
        data.chunks(step.max(1)).for_each(|piece| output.push(piece));
        output.finish();
        output
    };
    let (whole, pieces) = (collect(data.len()), collect(step));
    assert_eq!((pieces.total(), pieces.spill()), (whole.total(), whole.spill()));
    assert!(whole.total() <= data.len() as u64 && whole.spill().len() <= SPILL_LIMIT);
    let text = whole.text();
    assert_eq!(pieces.text(), text);
    assert!(text.len() <= OUTPUT_LIMIT);
    for ending in [
        Ending::Done(0),
        Ending::Exited(3),
        Ending::Signaled(9),
        Ending::Cancelled,
    ] {
        let report = Report {
            output: &whole,
            ending,
            state: Some(&StateAfter::Lost),
            live: step % 2 == 0,
            ended_processes: 1,
            spill: None,
        };
        blocks(report.result(), Isolation::Session);
    }
}

/// A tool's result, as the worker gets it.
pub fn tool_result(data: &[u8]) {
    let (isolation, data) = choice(data);
    let isolation = match isolation % 2 {
        0 => Isolation::Call,
        _ => Isolation::Session,
    };
    if let Ok(result) = ToolResult::decode(data) {
        blocks(result, isolation);
    }
}

/// The content that the API is sent: there is some, of types that it takes, and not too much.
fn blocks(result: ToolResult, isolation: Isolation) {
    let content = omnirun_sessions::fuzz_tool_result(result, isolation);
    let blocks: Vec<Value> = serde_json::from_str(&content).unwrap();
    assert!((1..=20).contains(&blocks.len()));
    let mut text = 0;
    for block in blocks {
        let media = block["source"]["media_type"].as_str();
        match block["type"].as_str() {
            Some("text") => {
                let said = block["text"].as_str().unwrap();
                assert!(!said.is_empty());
                text += said.len();
            }
            Some("image") => assert!(media.is_some_and(|m| m.starts_with("image/"))),
            Some("document") => assert_eq!(media, Some("application/pdf")),
            other => panic!("{other:?} is no block"),
        }
    }
    assert!(text <= (1 << 20) + 4096);
}

/// A console's last words: the same however they were read, and nothing that a terminal obeys.
pub fn console(data: &[u8]) {
    const LIMIT: usize = 64;
    let (step, data) = choice(data);
    let text = omnirun_vmm::qemu::fuzz_console(data, LIMIT, data.len());
    assert_eq!(omnirun_vmm::qemu::fuzz_console(data, LIMIT, step), text);
    assert!(text.len() <= 3 * LIMIT);
    assert!(!text.contains(|c: char| c.is_control() && c != '\n' && c != '\t'));
}

/// A name to look for, a sandbox's passwd and its group file, with NUL bytes between them.
pub fn passwd(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.splitn(3, '\0');
    let mut part = || parts.next().unwrap_or_default();
    let (wanted, passwd, group) = (part(), part(), part());
    if let Some((groups, home)) = omnirun_guest_agent::fuzz_users(passwd, group, wanted) {
        assert!(groups.len() <= 64 && home.starts_with('/'));
    }
}
