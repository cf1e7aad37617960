//! Bytes to lines to messages. Pure; whatever comes, memory stays bounded and nothing panics.
//!
//! A VMM that a guest has taken over speaks here too, so this is not a friendly peer.

use serde::Deserialize;
use serde_json::Value;

/// Longest line that is taken. The longest answer the driver ever asks for is a few kilobytes.
pub(super) const MAX_LINE: usize = 256 * 1024;

/// What QEMU sends.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Message {
    /// The first line.
    Greeting,
    /// Answer to the command of that id.
    Return { id: u64, value: Value },
    /// Refusal of the command of that id; without one, the line that we sent was not understood.
    Error { id: Option<u64>, reason: String },
    /// Something happened.
    Event { name: String, data: Value },
}

/// Why a line is not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    /// Too long.
    #[error("a line of more than {MAX_LINE} bytes")]
    TooLong,
    /// Not what the protocol allows.
    #[error("a line that is no message")]
    Malformed,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "QMP")]
    qmp: Option<Value>,
    #[serde(rename = "return")]
    value: Option<Value>,
    error: Option<RawError>,
    event: Option<String>,
    data: Option<Value>,
    id: Option<Value>,
}

#[derive(Deserialize)]
struct RawError {
    desc: String,
}

impl Message {
    /// Parses one line.
    pub(super) fn parse(line: &[u8]) -> Result<Self, WireError> {
        let raw: Raw = serde_json::from_slice(line).map_err(|_| WireError::Malformed)?;
        let id = raw.id.as_ref().and_then(Value::as_u64);
        match (raw.qmp, raw.event, raw.error, raw.value) {
            (Some(_), None, None, None) => Ok(Self::Greeting),
            (None, Some(name), None, None) => Ok(Self::Event {
                name,
                data: raw.data.unwrap_or_default(),
            }),
            (None, None, Some(error), None) => Ok(Self::Error {
                id,
                reason: error.desc,
            }),
            (None, None, None, value) => match (id, value) {
                (Some(id), Some(value)) => Ok(Self::Return { id, value }),
                _ => Err(WireError::Malformed),
            },
            _ => Err(WireError::Malformed),
        }
    }
}

/// Collects bytes into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    held: Vec<u8>,
    searched: usize,
}

impl Lines {
    /// Takes bytes in.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// The next message, if a whole line is there. Empty lines are skipped.
    pub(super) fn next(&mut self) -> Result<Option<Message>, WireError> {
        loop {
            let Some(end) = self.held[self.searched..].iter().position(|b| *b == b'\n') else {
                self.searched = self.held.len();
                return if self.held.len() > MAX_LINE {
                    Err(WireError::TooLong)
                } else {
                    Ok(None)
                };
            };
            let end = self.searched + end;
            self.searched = 0;
            if end > MAX_LINE {
                return Err(WireError::TooLong);
            }
            let line: Vec<u8> = self.held.drain(..=end).collect();
            let line = line.trim_ascii();
            if !line.is_empty() {
                return Message::parse(line).map(Some);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(lines: &mut Lines) -> Result<Vec<Message>, WireError> {
        std::iter::from_fn(|| lines.next().transpose()).collect()
    }

    const EXCHANGE: &str = concat!(
        r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}"#,
        "\r\n",
        r#"{"return": {}, "id": 1}"#,
        "\r\n",
        r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "MIGRATION", "data": {"status": "completed"}}"#,
        "\r\n\r\n",
        r#"{"id": 2, "error": {"class": "GenericError", "desc": "no"}}"#,
        "\r\n",
        r#"{"error": {"class": "GenericError", "desc": "JSON parse error"}}"#,
        "\n",
    );

    fn expected() -> Vec<Message> {
        vec![
            Message::Greeting,
            Message::Return {
                id: 1,
                value: serde_json::json!({}),
            },
            Message::Event {
                name: "MIGRATION".into(),
                data: serde_json::json!({"status": "completed"}),
            },
            Message::Error {
                id: Some(2),
                reason: "no".into(),
            },
            Message::Error {
                id: None,
                reason: "JSON parse error".into(),
            },
        ]
    }

    #[test]
    fn is_the_same_however_it_is_cut() {
        for cut in 0..=EXCHANGE.len() {
            let mut lines = Lines::default();
            let (first, second) = EXCHANGE.as_bytes().split_at(cut);
            lines.push(first);
            let mut got = all(&mut lines).expect("well formed");
            lines.push(second);
            got.extend(all(&mut lines).expect("well formed"));
            assert_eq!(got, expected(), "cut at {cut}");
        }
    }

    #[test]
    fn refuses_a_line_without_end() {
        let mut lines = Lines::default();
        let mut pushed = 0;
        let error = loop {
            lines.push(&[b'x'; 4096]);
            pushed += 4096;
            if let Err(error) = lines.next() {
                break error;
            }
            assert!(pushed <= MAX_LINE, "it had to stop");
        };
        assert_eq!(error, WireError::TooLong);
    }

    #[test]
    fn refuses_what_is_two_things_at_once() {
        for line in [
            r#"{"return": {}, "error": {"desc": "x"}, "id": 1}"#,
            r#"{"return": {}}"#,
            r#"{"id": 1}"#,
            "[]",
            "{\"return\": {}, \"id\": \"one\"}",
            "\u{0}",
        ] {
            assert_eq!(
                Message::parse(line.as_bytes()),
                Err(WireError::Malformed),
                "{line}"
            );
        }
    }

    proptest! {
        #[test]
        fn garbage_neither_panics_nor_grows(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..40)) {
            let mut lines = Lines::default();
            for chunk in chunks {
                lines.push(&chunk);
                while let Ok(Some(_)) = lines.next() {}
                prop_assert!(lines.held.len() <= MAX_LINE + 300);
            }
        }

        #[test]
        fn survives_random_cuts(cuts in prop::collection::vec(1usize..60, 1..30)) {
            let mut lines = Lines::default();
            let mut got = Vec::new();
            let mut rest = EXCHANGE.as_bytes();
            for cut in cuts.into_iter().cycle() {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                lines.push(now);
                got.extend(all(&mut lines).expect("well formed"));
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(got, expected());
        }
    }
}
