//! From what was seen to a verdict: a pure function.
//!
//! Three witnesses, none of whom is enough. The *capture* and the *servers* outside know whether something got out; the
//! *guest* knows what came back; the *rules'* counters and the *proxy's* log know who stopped it. The guest is not to be
//! trusted, but what it can gain by a lie is small: it runs our own script in a sandbox that is made for it.
//!
//! | | |
//! | -- | -- |
//! | `passed` | as expected, and stopped by what is meant to stop it |
//! | `leaked` | something of it was seen outside where it may not be |
//! | `allowed` | the guest got an answer that it may not get |
//! | `weakened` | it was stopped, but not by what is meant to stop it, or only after it had left the sandbox |
//! | `denied` | what must work did not |
//! | `inconclusive` | it could not be tried, or not be judged |
//!
//! The first is green, the last is neither, all else is red.

mod case;

use std::collections::{BTreeMap, HashMap};

use omnirun_egress_policy::AuditLine;
use serde::Serialize;

use self::case::Case;
use crate::{
    attacker::Line,
    attempts::{Attempt, Count, From},
    capture::Hit,
    lab::Record,
};

/// What is known after a run.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// What the guest said, by attempt.
    pub lines: HashMap<String, Line>,
    /// What the capture found.
    pub hits: Vec<Hit>,
    /// What the lab's servers saw.
    pub records: Vec<Record>,
    /// How many packets each rule met meanwhile. A rule that is not there is not in it.
    pub rules: BTreeMap<String, u64>,
    /// The proxy's log of this time.
    pub audit: Vec<AuditLine>,
}

/// What an attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Passed,
    /// Neither good nor bad.
    Inconclusive,
    /// What must work did not.
    Denied,
    /// Stopped by something else than what is meant to stop it.
    Weakened,
    /// The guest got an answer that it may not get.
    Allowed,
    /// Something of it got out.
    Leaked,
}

impl Verdict {
    /// Whether it makes the whole red.
    #[must_use]
    pub fn is_red(self) -> bool {
        !matches!(self, Self::Passed | Self::Inconclusive)
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Inconclusive => "inconclusive",
            Self::Denied => "denied",
            Self::Weakened => "weakened",
            Self::Allowed => "allowed",
            Self::Leaked => "leaked",
        }
    }
}

/// A verdict with its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// What was seen, in words.
    pub seen: String,
    /// What stopped it, or let it pass.
    pub by: Vec<String>,
    /// Why it is not `passed`.
    pub why: Vec<String>,
}

/// Judges all attempts, in their order.
#[must_use]
pub fn judge(attempts: &[Attempt], evidence: &Evidence, lab: bool) -> Vec<Judgement> {
    let needed = needed(attempts, evidence);
    attempts
        .iter()
        .enumerate()
        .map(|(index, attempt)| {
            Case {
                index,
                attempt,
                evidence,
                lab,
                needed: &needed,
            }
            .judge()
        })
        .collect()
}

/// How many packets each rule must have met: the sum over the attempts that are meant for it.
fn needed(attempts: &[Attempt], evidence: &Evidence) -> BTreeMap<String, u64> {
    let mut needed = BTreeMap::new();
    for attempt in attempts {
        let sent = match attempt.from {
            From::Guest => evidence.lines.get(&attempt.id).map_or(0, |line| line.sent),
            From::Namespace | From::Internet => attempt.act.packets(),
        };
        for (rule, count) in &attempt.meets {
            *needed.entry(rule.clone()).or_default() += match count {
                Count::Each => u64::from(sent),
                Count::Once => u64::from(sent.min(1)),
                Count::Stands => 0,
            };
        }
    }
    needed
}

impl Judgement {
    fn add(&mut self, verdict: Verdict, why: String) {
        self.verdict = self.verdict.max(verdict);
        if !self.why.contains(&why) {
            self.why.push(why);
        }
    }
}

#[cfg(test)]
mod tests;
