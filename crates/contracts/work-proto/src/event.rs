//! Events of a session, as far as serving its tool calls needs them.

use crate::{json::mend_surrogates, work::null_is_default};
use omnirun_ids::ApiId;
use omnirun_redact::Guest;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

/// Whether a call is the agent's own tool or one that the customer declared; it decides the form of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    /// `agent.tool_use`.
    Tool,
    /// `agent.custom_tool_use`.
    Custom,
}

/// `evaluated_permission`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// `allow`, or absent.
    Allow,
    /// `ask`, or any value that this version does not know.
    Ask,
    /// `deny`.
    Deny,
}

/// A tool call of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolUse {
    /// The id of the event, which is the id of the call.
    pub id: ApiId,
    /// What kind of tool.
    pub kind: CallKind,
    /// The name of the tool.
    pub name: String,
    /// The input as JSON text, as it came; `{}` where there was none.
    pub input: Guest<String>,
    /// What the server's policy says.
    pub permission: Permission,
    /// The thread that made the call, if it is not the main one.
    pub thread: Option<String>,
}

/// Why a turn stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// `requires_action`: results or confirmations are due.
    RequiresAction,
    /// Anything else ends the turn: `end_turn`, `refusal`, a reason that this version does not know.
    TurnEnded,
}

/// An event. What a worker does not act on is [`Event::Other`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The agent calls a tool that a worker may own.
    ToolUse(ToolUse),
    /// A call has its result, from whoever served it.
    Result {
        /// The call.
        call: ApiId,
    },
    /// A person decided about a call.
    Confirmation {
        /// The call.
        call: ApiId,
        /// Whether it may run.
        allow: bool,
    },
    /// A thread of the session is over; its calls need no results.
    ThreadTerminated {
        /// The thread.
        thread: String,
    },
    /// The model waits.
    Idle(Stop),
    /// The session is over.
    Terminated,
    /// The session is deleted.
    Deleted,
    /// Keep-alive; not an event of the session.
    Ping,
    /// `error` on the stream: the server ends it.
    StreamError {
        /// The error's type, for the log.
        kind: String,
    },
    /// Anything else.
    Other,
}

/// Why an event could not be read. Says nothing of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// It is not a JSON object with a type.
    #[error("not a JSON object with a type")]
    Shape,
    /// An event that matters lacks what it needs.
    #[error("an event without its required fields, or with an id that is none")]
    Fields,
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, borrow)]
    id: Option<&'a RawValue>,
    #[serde(default, borrow)]
    name: Option<&'a RawValue>,
    #[serde(default, borrow)]
    input: Option<&'a RawValue>,
    #[serde(default, borrow)]
    evaluated_permission: Option<&'a RawValue>,
    #[serde(default, borrow)]
    session_thread_id: Option<&'a RawValue>,
    #[serde(default, borrow)]
    tool_use_id: Option<&'a RawValue>,
    #[serde(default, borrow)]
    custom_tool_use_id: Option<&'a RawValue>,
    #[serde(default, borrow)]
    result: Option<&'a RawValue>,
    #[serde(default, borrow)]
    stop_reason: Option<&'a RawValue>,
    #[serde(default, borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct Typed {
    #[serde(rename = "type", default, deserialize_with = "null_is_default")]
    kind: String,
}

fn read<T: for<'de> Deserialize<'de>>(raw: Option<&RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

fn id(raw: Option<&RawValue>) -> Result<ApiId, EventError> {
    read(raw).ok_or(EventError::Fields)
}

impl Event {
    /// Reads one event from its JSON text. Fields of a type that does not matter here are never an error.
    pub fn parse(text: &str) -> Result<Self, EventError> {
        let text = mend_surrogates(text);
        let raw: Raw<'_> = serde_json::from_str(&text).map_err(|_| EventError::Shape)?;
        Ok(match raw.kind.as_str() {
            "agent.tool_use" => Self::ToolUse(tool_use(&raw, CallKind::Tool)?),
            "agent.custom_tool_use" => Self::ToolUse(tool_use(&raw, CallKind::Custom)?),
            "user.tool_result" => Self::Result {
                call: id(raw.tool_use_id)?,
            },
            "user.custom_tool_result" => Self::Result {
                call: id(raw.custom_tool_use_id)?,
            },
            "user.tool_confirmation" => Self::Confirmation {
                call: id(raw.tool_use_id)?,
                allow: read::<String>(raw.result).as_deref() == Some("allow"),
            },
            "session.thread_status_terminated" => Self::ThreadTerminated {
                thread: read(raw.session_thread_id).ok_or(EventError::Fields)?,
            },
            "session.status_idle" => Self::Idle(
                match read::<Typed>(raw.stop_reason).unwrap_or_default().kind.as_str() {
                    "requires_action" => Stop::RequiresAction,
                    _ => Stop::TurnEnded,
                },
            ),
            "session.status_terminated" => Self::Terminated,
            "session.deleted" => Self::Deleted,
            "ping" => Self::Ping,
            "error" => Self::StreamError {
                kind: read::<Typed>(raw.error).unwrap_or_default().kind,
            },
            _ => Self::Other,
        })
    }
}

fn tool_use(raw: &Raw<'_>, kind: CallKind) -> Result<ToolUse, EventError> {
    let input = raw.input.map(RawValue::get).filter(|text| *text != "null");
    Ok(ToolUse {
        id: id(raw.id)?,
        kind,
        name: read(raw.name).ok_or(EventError::Fields)?,
        input: Guest(input.unwrap_or("{}").to_owned()),
        permission: match raw.evaluated_permission.map(RawValue::get) {
            None | Some("null") => Permission::Allow,
            Some(text) => match serde_json::from_str::<String>(text).as_deref() {
                Ok("allow") => Permission::Allow,
                Ok("deny") => Permission::Deny,
                _ => Permission::Ask,
            },
        },
        thread: read(raw.session_thread_id),
    })
}

/// The event that answers a call. `is_error` and `content` are always there; content that is no array of blocks, or an
/// empty one, becomes the text `(no output)`.
pub fn result_event(call: &ApiId, kind: CallKind, is_error: bool, content: Value) -> Value {
    let content = match content {
        Value::Array(blocks) if !blocks.is_empty() => Value::Array(blocks.into_iter().map(block).collect()),
        Value::String(text) if !text.is_empty() => json!([{"type": "text", "text": text}]),
        _ => json!([{"type": "text", "text": "(no output)"}]),
    };
    match kind {
        CallKind::Tool => json!({"type": "user.tool_result", "tool_use_id": call.as_str(),
            "is_error": is_error, "content": content}),
        CallKind::Custom => json!({"type": "user.custom_tool_result", "custom_tool_use_id": call.as_str(),
            "is_error": is_error, "content": content}),
    }
}

/// A block that the API takes passes; any other is sent as a text block that holds its JSON.
fn block(value: Value) -> Value {
    match value.get("type").and_then(Value::as_str) {
        Some("text" | "image" | "document" | "search_result") => value,
        _ => json!({"type": "text", "text": value.to_string()}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn use_of(text: &str) -> ToolUse {
        match Event::parse(text).unwrap() {
            Event::ToolUse(u) => u,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_call_as_the_api_writes_it() {
        let u = use_of(
            r#"{"type":"agent.tool_use","id":"sevt_20","name":"bash","input":{"command":"echo  hello"},
            "evaluated_permission":"allow","evaluation":{"type":"always_allow"},"session_thread_id":null,
            "processed_at":"2026-11-02T09:00:06Z"}"#,
        );
        assert_eq!(
            (u.id.as_str(), u.name.as_str(), u.kind),
            ("sevt_20", "bash", CallKind::Tool)
        );
        assert_eq!(u.input.0, r#"{"command":"echo  hello"}"#);
        assert_eq!((u.permission, u.thread), (Permission::Allow, None));
    }

    #[test]
    fn permissions_inputs_and_threads() {
        let with = |extra: &str| {
            use_of(&format!(
                r#"{{"type":"agent.tool_use","id":"a","name":"b"{extra}}}"#
            ))
        };
        for (extra, permission) in [
            ("", Permission::Allow),
            (r#","evaluated_permission":null"#, Permission::Allow),
            (r#","evaluated_permission":"deny""#, Permission::Deny),
            (r#","evaluated_permission":"ask""#, Permission::Ask),
            (r#","evaluated_permission":"later""#, Permission::Ask),
            (r#","evaluated_permission":7"#, Permission::Ask),
        ] {
            assert_eq!(with(extra).permission, permission, "{extra}");
        }
        assert_eq!(with("").input.0, "{}");
        assert_eq!(with(r#","input":null"#).input.0, "{}");
        assert_eq!(with(r#","input":[1]"#).input.0, "[1]");
        assert_eq!(with(r#","input":{"a":"\ud800"}"#).input.0, r#"{"a":"\ufffd"}"#);
        assert_eq!(with(r#","session_thread_id":"t""#).thread.as_deref(), Some("t"));
    }

    #[test]
    fn the_other_events_that_matter() {
        let id: ApiId = "c".parse().unwrap();
        for (text, event) in [
            (
                r#"{"type":"user.tool_result","tool_use_id":"c"}"#,
                Event::Result { call: id.clone() },
            ),
            (
                r#"{"type":"user.custom_tool_result","custom_tool_use_id":"c"}"#,
                Event::Result { call: id.clone() },
            ),
            (
                r#"{"type":"user.tool_confirmation","tool_use_id":"c","result":"allow"}"#,
                Event::Confirmation {
                    call: id.clone(),
                    allow: true,
                },
            ),
            (
                r#"{"type":"user.tool_confirmation","tool_use_id":"c","result":"perhaps"}"#,
                Event::Confirmation {
                    call: id,
                    allow: false,
                },
            ),
            (
                r#"{"type":"session.thread_status_terminated","session_thread_id":"t"}"#,
                Event::ThreadTerminated { thread: "t".into() },
            ),
            (
                r#"{"type":"session.status_idle","stop_reason":{"type":"requires_action","event_ids":["x"]}}"#,
                Event::Idle(Stop::RequiresAction),
            ),
            (
                r#"{"type":"session.status_idle","stop_reason":{"type":"new"}}"#,
                Event::Idle(Stop::TurnEnded),
            ),
            (r#"{"type":"session.status_idle"}"#, Event::Idle(Stop::TurnEnded)),
            (r#"{"type":"session.status_terminated"}"#, Event::Terminated),
            (r#"{"type":"session.deleted","id":5}"#, Event::Deleted),
            (
                r#"{"type":"error","error":{"type":"overloaded_error"}}"#,
                Event::StreamError {
                    kind: "overloaded_error".into(),
                },
            ),
            (
                r#"{"type":"user.message","id":{"no":"id"},"content":"\ud800"}"#,
                Event::Other,
            ),
            (
                r#"{"type":"agent.mcp_tool_use","id":"m","name":"x","input":{}}"#,
                Event::Other,
            ),
            (r#"{"type":"brand.new"}"#, Event::Other),
        ] {
            assert_eq!(Event::parse(text), Ok(event), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_so_without_its_content() {
        for text in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"type":7}"#,
            "not json",
            r#"{"type":"agent.tool_use""#,
        ] {
            assert_eq!(Event::parse(text), Err(EventError::Shape), "{text}");
        }
        for text in [
            r#"{"type":"agent.tool_use","name":"bash"}"#,
            r#"{"type":"agent.tool_use","id":"../x","name":"bash"}"#,
            r#"{"type":"agent.tool_use","id":"a"}"#,
            r#"{"type":"user.tool_result"}"#,
        ] {
            assert_eq!(Event::parse(text), Err(EventError::Fields), "{text}");
        }
    }

    #[test]
    fn results_have_the_form_of_their_call() {
        let id: ApiId = "c".parse().unwrap();
        assert_eq!(
            result_event(
                &id,
                CallKind::Tool,
                true,
                json!([{"type":"text","text":"x"},{"type":"odd","n":1}])
            ),
            json!({"type":"user.tool_result","tool_use_id":"c","is_error":true,
                "content":[{"type":"text","text":"x"},{"type":"text","text":"{\"n\":1,\"type\":\"odd\"}"}]})
        );
        for empty in [json!([]), json!(null), json!("")] {
            assert_eq!(
                result_event(&id, CallKind::Custom, false, empty),
                json!({"type":"user.custom_tool_result","custom_tool_use_id":"c","is_error":false,
                    "content":[{"type":"text","text":"(no output)"}]})
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _ = Event::parse(&text);
        }

        #[test]
        fn every_prefix_of_a_call_is_an_error(cut in 0usize..96) {
            let text = r#"{"type":"agent.tool_use","id":"sevt_20","name":"bash","input":{"command":"echo \u00e9"}}"#;
            if cut < text.len() {
                prop_assert_eq!(Event::parse(&text[..cut]), Err(EventError::Shape));
            }
        }
    }
}
