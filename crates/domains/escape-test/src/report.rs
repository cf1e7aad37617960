//! What a run says in the end: as JSON, and as a table.

mod table;

use omnirun_egress_policy::Mode;
use serde::Serialize;

pub use self::table::render;
use crate::{
    attempts::{Attempt, Expect, From},
    capture::{Hit, Sign},
    judge::{Judgement, Verdict},
};

/// The whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All attempts passed.
    Green,
    /// One did not.
    Red,
    /// None failed, but some could not be tried or judged.
    Inconclusive,
}

impl Outcome {
    /// The exit code that says so.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Green => 0,
            Self::Red => 1,
            Self::Inconclusive => 2,
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The attempt.
    pub id: String,
    /// Which of the known bypasses it is.
    pub bypass: Vec<u8>,
    /// What it did.
    pub what: String,
    /// Who.
    pub from: From,
    /// What was to come of it.
    pub expected: String,
    /// What was seen.
    pub seen: String,
    /// What stopped it, or let it pass.
    pub by: Vec<String>,
    /// The verdict.
    pub verdict: Verdict,
    /// Why it is not `passed`.
    pub why: Vec<String>,
}

/// Something that no filter of this kind stops, and that a user should know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Residual {
    /// Its name.
    pub name: &'static str,
    /// Which of the known bypasses it is.
    pub bypass: &'static [u8],
    /// What it is, and what can be done.
    pub what: &'static str,
}

/// A report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The format's version.
    pub version: u32,
    /// The mode.
    pub mode: Mode,
    /// Whether it ran in a lab.
    pub lab: bool,
    /// What the sandbox ran on.
    pub driver: String,
    /// The whole.
    pub outcome: Outcome,
    /// The attempts.
    pub attempts: Vec<Row>,
    /// Frames with addresses of a sandbox's own link that were seen outside. One is enough for red.
    pub inner_addresses_outside: Vec<Hit>,
    /// What remains.
    pub residual: Vec<Residual>,
    /// How long it took.
    pub seconds: f64,
}

impl Report {
    /// Puts it together.
    #[must_use]
    pub fn new(
        mode: Mode,
        lab: bool,
        driver: String,
        attempts: &[Attempt],
        judgements: Vec<Judgement>,
        hits: &[Hit],
        seconds: f64,
    ) -> Self {
        let attempts: Vec<Row> = attempts
            .iter()
            .zip(judgements)
            .map(|(attempt, judgement)| Row {
                id: attempt.id.clone(),
                bypass: attempt.bypass.to_vec(),
                what: attempt.what.clone(),
                from: attempt.from,
                expected: expected(&attempt.expect),
                seen: judgement.seen,
                by: judgement.by,
                verdict: judgement.verdict,
                why: judgement.why,
            })
            .collect();
        let inner_addresses_outside: Vec<Hit> = hits
            .iter()
            .filter(|hit| hit.sign == Sign::Sandbox)
            .cloned()
            .collect();
        let red = !inner_addresses_outside.is_empty() || attempts.iter().any(|row| row.verdict.is_red());
        let open = attempts.iter().any(|row| row.verdict == Verdict::Inconclusive);
        Self {
            version: 1,
            mode,
            lab,
            driver,
            outcome: if red {
                Outcome::Red
            } else if open || attempts.is_empty() {
                Outcome::Inconclusive
            } else {
                Outcome::Green
            },
            attempts,
            inner_addresses_outside,
            residual: residual(mode),
            seconds,
        }
    }
}

fn expected(expect: &Expect) -> String {
    let list = |there: &[std::net::IpAddr]| {
        there
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    match expect {
        Expect::Blocked => "blocked".to_owned(),
        Expect::Local => "stays inside".to_owned(),
        Expect::Led(there) if there.is_empty() => "goes nowhere".to_owned(),
        Expect::Led(there) => format!("goes to {} alone", list(there)),
        Expect::Allowed(_) => "works".to_owned(),
    }
}

/// What remains in a mode.
fn residual(mode: Mode) -> Vec<Residual> {
    let timing = Residual {
        name: "time and volume",
        bypass: &[22],
        what: "When and how much a guest does can carry a message to whoever can watch it. Limits of bytes and rate make \
               the channel narrow; nothing closes it.",
    };
    let allow = [
        Residual {
            name: "domain fronting",
            bypass: &[2],
            what: "Within TLS, a guest may ask a listed content network for another customer's site; only the network \
                   itself can refuse that. List exact names, and no name that is shared by many.",
        },
        Residual {
            name: "listed services as carriers",
            bypass: &[19],
            what: "A listed site that takes uploads (object stores, gists, package registries) carries data out. Use \
                   limits of bytes, and look at the audit log.",
        },
        Residual {
            name: "DNS over a listed host",
            bypass: &[7],
            what: "A listed general-purpose host that also serves DNS over HTTPS resolves anything. What it answers can \
                   still not be connected to, but it learns what is asked.",
        },
        Residual {
            name: "names below a listed wildcard",
            bypass: &[6, 19],
            what: "A query for a name below a listed wildcard reaches that zone's own servers, with a few bytes that the \
                   guest chose. Length and rate are capped. List exact names where the zone is not trusted.",
        },
    ];
    let open = Residual {
        name: "the public internet",
        bypass: &[1, 3, 5, 6, 7, 19],
        what: "Mode open lets a guest talk to every public address, so to any accomplice. A denied name is denied as a \
               name: whoever knows another address or another protocol of the same service may still reach it.",
    };
    match mode {
        Mode::None => vec![timing],
        Mode::Allow => allow.into_iter().chain([timing]).collect(),
        Mode::Open => vec![open, timing],
    }
}
