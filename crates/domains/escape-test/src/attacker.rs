//! Who makes the attempts, and what it says of them.

use std::collections::HashMap;

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use omnirun_guest_net::{GATEWAY_IP, GATEWAY_MAC, GUEST_IP, GUEST_MAC};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::attempts::{Act, Attempt, Phase};

/// The script that a guest runs, without its plan.
const SCRIPT: &str = concat!(
    include_str!("../guest/base.py"),
    include_str!("../guest/link.py"),
    include_str!("../guest/talk.py")
);

/// The longest output that is read: some hundred lines.
pub const OUTPUT: usize = 1 << 20;
/// The longest line.
const LINE: usize = 4096;

/// What could not be run in a guest.
#[derive(Debug, thiserror::Error)]
#[error("the script could not be run in the guest: {0}")]
pub struct AttackerError(pub String);

/// Root in a guest.
#[async_trait]
pub trait Attacker: Send + Sync {
    /// Runs `python3 -` with this standard input and passes on its standard output, piece by piece, as it comes. It ends
    /// when the program does. Should that take longer than `limit` seconds, or nobody take what it says any more, the
    /// program is killed, which is no error.
    ///
    /// # Errors
    /// It could not be started.
    async fn run(&self, script: &[u8], limit: u32, said: mpsc::Sender<Vec<u8>>) -> Result<(), AttackerError>;
}

/// What a guest saw of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Saw {
    /// It was sent, and nothing came back.
    Silent,
    /// A reset, an ICMP error, an answer without data.
    Refused,
    /// A connection, without data.
    Connected,
    /// Data.
    Reply,
    /// The guest's own kernel did not send it.
    Unsent,
    /// The guest has no such tool.
    Unable,
}

/// A line of a guest's. It may lie: see the judge.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Line {
    /// Which attempt.
    pub id: String,
    /// What was seen.
    pub saw: Saw,
    /// How many packets were sent.
    #[serde(default)]
    pub sent: u32,
    /// More.
    #[serde(default)]
    pub text: String,
    /// How the answer begins, in hexadecimal.
    #[serde(default)]
    pub reply: String,
}

impl Line {
    /// The beginning of the answer.
    #[must_use]
    pub fn reply(&self) -> Vec<u8> {
        hex::decode(&self.reply).unwrap_or_default()
    }
}

/// How much time attempts have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patience {
    /// Seconds for one of them.
    pub limit: f32,
    /// Seconds for all of a phase.
    pub deadline: u32,
    /// How many at a time.
    pub threads: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            limit: 3.0,
            deadline: 120,
            threads: 24,
        }
    }
}

#[derive(Serialize)]
struct Plan<'a> {
    limit: f32,
    deadline: u32,
    threads: u32,
    mac: String,
    address: String,
    gateway: String,
    gateway_mac: String,
    attempts: Vec<Step<'a>>,
}

#[derive(Serialize)]
struct Step<'a> {
    id: &'a str,
    act: &'a Act,
}

/// The script with its plan: these attempts.
///
/// # Errors
/// None in practice: the plan is data of our own.
pub fn script(attempts: &[&Attempt], phase: Phase, patience: Patience) -> Result<Vec<u8>, serde_json::Error> {
    let plan = Plan {
        limit: patience.limit,
        deadline: patience.deadline,
        threads: if phase == Phase::Flood {
            1
        } else {
            patience.threads
        },
        mac: hex::encode(GUEST_MAC),
        address: GUEST_IP.to_string(),
        gateway: GATEWAY_IP.to_string(),
        gateway_mac: hex::encode(GATEWAY_MAC),
        attempts: attempts
            .iter()
            .map(|attempt| Step {
                id: &attempt.id,
                act: &attempt.act,
            })
            .collect(),
    };
    let plan = STANDARD.encode(serde_json::to_vec(&plan)?);
    Ok(format!("{SCRIPT}\nmain(\"{plan}\")\n").into_bytes())
}

/// How many attempts of an output are ready for the policy to be tightened.
#[must_use]
pub fn ready(output: &[u8]) -> usize {
    #[derive(Deserialize)]
    struct Ready {
        #[serde(rename = "ready")]
        _to: String,
    }
    output
        .split(|byte| *byte == b'\n')
        .filter(|line| line.len() <= LINE && serde_json::from_slice::<Ready>(line).is_ok())
        .count()
}

/// The lines of an output, one for each attempt that it speaks of. What is no line of ours is passed over.
#[must_use]
pub fn lines(output: &[u8]) -> HashMap<String, Line> {
    output
        .get(..output.len().min(OUTPUT))
        .unwrap_or_default()
        .split(|byte| *byte == b'\n')
        .filter(|line| line.len() <= LINE)
        .filter_map(|line| serde_json::from_slice::<Line>(line).ok())
        .map(|line| (line.id.clone(), line))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_whatever_stands_between_them() {
        let output = b"hello\n{\"id\":\"a\",\"saw\":\"silent\",\"sent\":2}\n\xff\xfe\n{\"end\":true}\n\
            {\"id\":\"b\",\"saw\":\"nonsense\"}\n{\"id\":\"c\",\"saw\":\"reply\",\"reply\":\"4142\",\"more\":[1]}";
        let lines = lines(output);
        assert_eq!(lines.len(), 2);
        assert_eq!((lines["a"].saw, lines["a"].sent), (Saw::Silent, 2));
        assert_eq!(lines["c"].reply(), b"AB");
    }
}
