//! One attempt, and what each witness says of it.

use std::{collections::BTreeMap, net::IpAddr};

use omnirun_egress_policy::{AuditLine, Protocol as Logged};

use super::{Evidence, Judgement, Verdict};
use crate::{
    attacker::{Line, Saw},
    attempts::{Act, Attempt, Count, Expect, From},
    capture::Sign,
    lab::MARK,
    nonce::Nonce,
};

pub(super) struct Case<'a> {
    pub(super) index: usize,
    pub(super) attempt: &'a Attempt,
    pub(super) evidence: &'a Evidence,
    pub(super) lab: bool,
    pub(super) needed: &'a BTreeMap<String, u64>,
}

impl Case<'_> {
    pub(super) fn judge(&self) -> Judgement {
        let mut judgement = Judgement {
            verdict: Verdict::Passed,
            seen: String::new(),
            by: Vec::new(),
            why: Vec::new(),
        };
        self.outside(&mut judgement);
        if self.attempt.from == From::Guest && !self.stands() {
            self.guest(&mut judgement);
        } else {
            judgement.seen = "nothing".to_owned();
        }
        self.rules(&mut judgement);
        self.log(&mut judgement);
        judgement
    }

    fn stands(&self) -> bool {
        self.attempt
            .meets
            .iter()
            .all(|(_, count)| *count == Count::Stands)
            && !self.attempt.meets.is_empty()
    }

    /// What the capture and the servers saw.
    fn outside(&self, judgement: &mut Judgement) {
        let mine = |sign: &Sign| matches!(sign, Sign::Nonce(at) | Sign::Destination(at) if *at == self.index);
        for hit in self.evidence.hits.iter().filter(|hit| mine(&hit.sign)) {
            if self.may_be_at(hit.from, hit.to) {
                continue;
            }
            if self.attempt.from == From::Internet && !hit.threshold && hit.place != INSIDE {
                continue;
            }
            let to = match (hit.to, hit.port) {
                (Some(to), Some(port)) => format!("{to} port {port}"),
                (Some(to), None) => to.to_string(),
                _ => "nobody".to_owned(),
            };
            let what = format!("{} to {to} on {} of {}", hit.protocol, hit.link, hit.place);
            if !hit.threshold {
                judgement.add(Verdict::Leaked, format!("seen outside: {what}"));
            } else if !self.beyond_the_first_wall() {
                judgement.add(Verdict::Weakened, format!("seen as it left the sandbox: {what}"));
            }
        }
        for record in self
            .evidence
            .records
            .iter()
            .filter(|record| record.attempt == self.index)
        {
            let here = record.at.map(|at| at.ip());
            let fine = match &self.attempt.expect {
                // What the server does not know, the capture does.
                Expect::Led(_) | Expect::Allowed(_) => here.is_none() || self.may_be_at(None, here),
                Expect::Blocked | Expect::Local => false,
            };
            if !fine {
                let at = record
                    .at
                    .map_or_else(|| record.server.clone(), |at| at.to_string());
                judgement.add(Verdict::Leaked, format!("reached the server of {at}"));
            }
        }
    }

    /// Whether it may be seen on its way between these.
    fn may_be_at(&self, from: Option<IpAddr>, to: Option<IpAddr>) -> bool {
        let ends = |there: &[IpAddr]| [from, to].into_iter().flatten().any(|end| there.contains(&end));
        match &self.attempt.expect {
            Expect::Blocked | Expect::Local => false,
            Expect::Led(there) => ends(there) || (!there.is_empty() && !self.lab && ends(&self.dialled())),
            Expect::Allowed(there) => there.is_empty() || ends(there),
        }
    }

    /// Where the proxy led what it let through. Elsewhere than in a lab, a site may have more addresses than we were told.
    fn dialled(&self) -> Vec<IpAddr> {
        let lines = self.evidence.audit.iter();
        lines
            .filter_map(|line| line.dialled)
            .map(|dialled| dialled.ip())
            .collect()
    }

    /// Whether it begins, or is meant to end, on the host's side of the sandbox's link.
    fn beyond_the_first_wall(&self) -> bool {
        self.attempt.from == From::Namespace
            || self
                .attempt
                .meets
                .iter()
                .any(|(rule, count)| *count != Count::Stands && rule.starts_with("host-"))
    }

    /// What came back.
    fn guest(&self, judgement: &mut Judgement) {
        let Some(line) = self.evidence.lines.get(&self.attempt.id) else {
            judgement.seen = "nothing was said of it".to_owned();
            judgement.add(Verdict::Inconclusive, "the guest said nothing of it".to_owned());
            return;
        };
        let reply = line.reply();
        let text = printable(&line.text);
        judgement.seen = match line.saw {
            Saw::Silent => "nothing came back",
            Saw::Refused => "refused",
            Saw::Connected => "connected, no data",
            Saw::Reply => "an answer",
            Saw::Unsent => "not sent by the guest's own kernel",
            Saw::Unable => "not tried",
        }
        .to_owned();
        if !text.is_empty() {
            judgement.seen = format!("{} ({text})", judgement.seen);
        }
        let marked = reply.windows(MARK.len()).any(|part| part == MARK.as_bytes());
        match (&self.attempt.expect, line.saw) {
            (_, Saw::Unable) if !self.attempt.may_be_unsent => {
                judgement.add(Verdict::Inconclusive, format!("the guest cannot do it: {text}"));
            }
            (Expect::Allowed(_), Saw::Reply) => {
                // In a lab, the answer says who gave it; elsewhere any will do. DNS answers have no room for it.
                let dns = matches!(self.attempt.act, Act::Dns { .. });
                if self.lab && !marked && !dns && !self.is_echo(&reply) {
                    judgement.add(Verdict::Denied, "the answer is not the server's".to_owned());
                }
            }
            (Expect::Allowed(_), _) => {
                judgement.add(
                    Verdict::Denied,
                    format!("this must work, and did not: {}", judgement.seen),
                );
            }
            (Expect::Blocked, Saw::Connected | Saw::Reply) => {
                judgement.add(
                    Verdict::Allowed,
                    format!("the guest got through: {}", judgement.seen),
                );
            }
            (Expect::Local, Saw::Reply) if marked || server_hello(&reply) || self.is_dns_answer(line) => {
                judgement.add(
                    Verdict::Allowed,
                    "the guest got an answer from outside".to_owned(),
                );
            }
            // Where the proxy was to say why, its log tells.
            (_, Saw::Unsent) if self.attempt.reasons.is_empty() && !self.attempt.may_be_unsent => {
                judgement.add(Verdict::Inconclusive, format!("nothing was sent: {text}"));
            }
            _ => {}
        }
    }

    fn is_echo(&self, reply: &[u8]) -> bool {
        reply
            .windows(Nonce::LENGTH)
            .any(|part| part == self.attempt.nonce.raw())
    }

    fn is_dns_answer(&self, line: &Line) -> bool {
        matches!(self.attempt.act, Act::Dns { .. }) && line.saw == Saw::Reply
    }

    /// Which rules it met.
    fn rules(&self, judgement: &mut Judgement) {
        for (rule, count) in &self.attempt.meets {
            let Some(met) = self.evidence.rules.get(rule) else {
                judgement.add(Verdict::Weakened, format!("there is no rule {rule}"));
                continue;
            };
            let needed = self.needed.get(rule).copied().unwrap_or_default();
            if *count != Count::Stands && *met < needed {
                judgement.add(
                    Verdict::Weakened,
                    format!("the rule {rule} met {met} packets of the {needed} that are meant for it"),
                );
            } else {
                judgement.by.push(rule.clone());
            }
        }
    }

    /// What the proxy said.
    fn log(&self, judgement: &mut Judgement) {
        if self.attempt.reasons.is_empty() {
            return;
        }
        let (hex, base32) = (
            self.attempt.nonce.hex(),
            self.attempt.nonce.base32().to_ascii_lowercase(),
        );
        let mine = |line: &&AuditLine| {
            let name = line.name.as_ref().map(|name| name.to_ascii_lowercase());
            name.is_some_and(|name| {
                name.contains(&hex)
                    || name.contains(&base32)
                    || self
                        .attempt
                        .names
                        .iter()
                        .any(|own| own.eq_ignore_ascii_case(&name))
            }) || line.to.is_some_and(|to| {
                self.attempt.tuples.iter().any(|(_, own)| *own == to) || self.attempt.asked_for.contains(&to)
            }) || (line.protocol == Logged::Connect && self.attempt.asked == Some(line.port))
                || self.attempt.anonymous
        };
        let said: Vec<_> = self
            .evidence
            .audit
            .iter()
            .filter(mine)
            .map(|line| line.reason)
            .collect();
        if let Some(reason) = said.iter().find(|reason| self.attempt.reasons.contains(reason)) {
            judgement.by.push(format!("proxy: {reason}"));
            return;
        }
        let wanted = self
            .attempt
            .reasons
            .iter()
            .map(|reason| reason.as_str())
            .collect::<Vec<_>>()
            .join(" or ");
        let said = said
            .iter()
            .map(|reason| reason.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        let said = if said.is_empty() {
            "nothing".to_owned()
        } else {
            said
        };
        judgement.add(
            Verdict::Weakened,
            format!("the proxy was to refuse it ({wanted}), and logged {said}"),
        );
    }
}

/// The lab's namespace where nobody may come.
const INSIDE: &str = "inside";

/// Whether a TLS server answered: a handshake record with a ServerHello.
fn server_hello(reply: &[u8]) -> bool {
    matches!(reply, [0x16, 3, _, _, _, 2, ..])
}

/// A guest's text, without what a terminal would act upon.
fn printable(text: &str) -> String {
    text.chars()
        .take(120)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
