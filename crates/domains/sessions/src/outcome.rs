//! From what an agent answered to the content blocks of the API, and the sentences that OmniRun itself puts there.
//!
//! The agent's words are a guest's: bounded here whatever the guest's own tools did, media types from a list, bytes
//! as base64.

use crate::{CallOutcome, Isolation};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use omnirun_guest_proto::message::{Block, BlockKind, Media, ToolResult};
use omnirun_redact::Guest;
use omnirun_store::sessions::StoredResult;
use serde_json::{Value, json};
use std::time::Duration;

/// Text of one result. The tools themselves stop at 262,144 bytes; this stops a guest that does not.
const MAX_TEXT: usize = 1 << 20;
/// Blocks of one result. A tool answers with one or two.
const MAX_BLOCKS: usize = 16;
/// Raw bytes of an image: 5 MiB as base64, the API's limit.
const MAX_IMAGE: usize = 3_932_160;
/// Raw bytes of a document.
const MAX_DOCUMENT: usize = 20 << 20;

/// What a call says whose run was cut off.
pub(crate) const INTERRUPTED: &str = "The worker was interrupted while this call was running. The call may have \
                                      partly run: check what it did before you repeat it.";
/// What each call of a session says whose disk cannot be used.
pub(crate) const DISK_UNUSABLE: &str = "The disk of this session cannot be mounted: its file system is damaged. No \
                                        tool can run in this session any more; start a new session. (For the \
                                        operator: the disk is kept until it is removed with `omnirun session rm`.)";
/// What a call says whose id was used before.
pub(crate) const DIFFERS: &str =
    "A call with this id has been made before, with another input. Nothing was run.";
/// What is added when the VM of a session in mode `session` is not the one of the call before.
pub(crate) const RESTARTED: &str = "[The sandbox was restarted since the last call: files are kept, the shell's \
                                    state (directory, variables) and background processes are lost.]";
const NOT_SYNCED: &str = "[The session's disk did not confirm this call's changes: files that it wrote may be missing \
                          in the next call. Check them.]";

/// What an error says that is OmniRun's to tell.
pub(crate) fn error(text: impl Into<String>) -> StoredResult {
    StoredResult {
        is_error: true,
        content: content(vec![text_block(text.into())]),
        exit_code: None,
    }
}

/// The result of a tool, with `notes` of ours behind the agent's blocks.
pub(crate) fn of_tool(
    result: ToolResult,
    isolation: Isolation,
    synced: bool,
    mut notes: Vec<String>,
) -> StoredResult {
    if isolation == Isolation::Call && result.ended_processes > 0 {
        let n = result.ended_processes;
        let what = if n == 1 {
            "1 process was".to_owned()
        } else {
            format!("{n} processes were")
        };
        notes.push(format!(
            "[{what} still running at the end of this call and ended with it: in this sandbox \
                            background processes do not outlive a call.]"
        ));
    }
    if !synced {
        notes.push(NOT_SYNCED.to_owned());
    }
    let mut left = MAX_TEXT;
    let mut blocks: Vec<Value> = result
        .content
        .into_iter()
        .take(MAX_BLOCKS)
        .filter_map(|block| self::block(block, &mut left))
        .collect();
    if blocks.is_empty() && notes.is_empty() {
        blocks.push(text_block("(no output)".to_owned()));
    }
    blocks.extend(notes.into_iter().map(text_block));
    StoredResult {
        is_error: result.is_error,
        content: content(blocks),
        exit_code: result.exit_code,
    }
}

/// As the worker gets it.
pub(crate) fn outcome(
    result: StoredResult,
    sandbox: Option<String>,
    timings: Vec<(&'static str, Duration)>,
) -> CallOutcome {
    CallOutcome {
        is_error: result.is_error,
        content: result.content,
        sandbox,
        exit_code: result.exit_code,
        timings,
    }
}

fn content(blocks: Vec<Value>) -> Guest<String> {
    Guest(Value::Array(blocks).to_string())
}

fn text_block(text: String) -> Value {
    json!({"type": "text", "text": text})
}

fn block(block: Block, left: &mut usize) -> Option<Value> {
    Some(match block.kind? {
        BlockKind::Text(text) => {
            if text.is_empty() {
                return None;
            }
            let cut = floor_char_boundary(&text, *left);
            *left -= cut;
            if cut == text.len() {
                text_block(text)
            } else {
                text_block(format!("{}\n[output truncated]", &text[..cut]))
            }
        }
        BlockKind::Image(media) => {
            let known = ["image/png", "image/jpeg", "image/gif", "image/webp"];
            media_block("image", media, &known, MAX_IMAGE)
        }
        BlockKind::Document(media) => media_block("document", media, &["application/pdf"], MAX_DOCUMENT),
    })
}

fn media_block(kind: &str, media: Media, known: &[&str], max: usize) -> Value {
    if !known.contains(&media.media_type.as_str()) {
        return text_block(format!("[a {kind} of a type that cannot be shown was left out]"));
    }
    if media.data.len() > max {
        return text_block(format!(
            "[a {kind} of {} bytes was left out: at most {max} can be shown]",
            media.data.len()
        ));
    }
    json!({"type": kind, "source": {
        "type": "base64", "media_type": media.media_type, "data": STANDARD.encode(&media.data),
    }})
}

fn floor_char_boundary(text: &str, max: usize) -> usize {
    let mut at = max.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &str) -> Block {
        Block {
            kind: Some(BlockKind::Text(s.to_owned())),
        }
    }

    fn blocks(result: ToolResult, synced: bool) -> Vec<Value> {
        let stored = of_tool(result, Isolation::Call, synced, Vec::new());
        serde_json::from_str(&stored.content.0).unwrap()
    }

    #[test]
    fn text_media_and_notes() {
        let image = Block {
            kind: Some(BlockKind::Image(Media {
                media_type: "image/png".into(),
                data: vec![1, 2, 3],
            })),
        };
        let found = blocks(
            ToolResult {
                content: vec![text("out"), image],
                ended_processes: 2,
                ..ToolResult::default()
            },
            false,
        );
        assert_eq!(found[0], json!({"type": "text", "text": "out"}));
        assert_eq!(
            found[1],
            json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AQID"}})
        );
        assert!(found[2]["text"].as_str().unwrap().contains("2 processes were"));
        assert!(found[3]["text"].as_str().unwrap().contains("may be missing"));
    }

    #[test]
    fn an_empty_result_says_so() {
        let found = blocks(
            ToolResult {
                content: vec![text("")],
                ..ToolResult::default()
            },
            true,
        );
        assert_eq!(found, [json!({"type": "text", "text": "(no output)"})]);
    }

    #[test]
    fn a_guest_cannot_flood_or_invent_types() {
        let media = |media_type: &str, len| Media {
            media_type: media_type.to_owned(),
            data: vec![0; len],
        };
        let found = blocks(
            ToolResult {
                content: vec![
                    text(&"ä".repeat(MAX_TEXT)),
                    text("more"),
                    Block {
                        kind: Some(BlockKind::Image(media("text/html", 1))),
                    },
                    Block {
                        kind: Some(BlockKind::Document(media("application/pdf", MAX_DOCUMENT + 1))),
                    },
                    Block { kind: None },
                ],
                ..ToolResult::default()
            },
            true,
        );
        assert!(found[0]["text"].as_str().unwrap().ends_with("[output truncated]"));
        assert_eq!(found[1]["text"], "\n[output truncated]");
        assert!(found[2]["text"].as_str().unwrap().contains("left out"));
        assert!(found[3]["text"].as_str().unwrap().contains("left out"));
        assert_eq!(found.len(), 4);
        let many = blocks(
            ToolResult {
                content: vec![text("x"); 1000],
                ..ToolResult::default()
            },
            true,
        );
        assert_eq!(many.len(), MAX_BLOCKS);
    }
}
