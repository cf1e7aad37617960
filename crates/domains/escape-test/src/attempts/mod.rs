//! The attempts: what is tried, what is expected of it in each mode, and what is meant to stop it.
//!
//! The list is made for a mode and a [`World`], from the tables of the modules below. An attempt says what is done
//! ([`Act`]), by whom ([`From`]), what may come of it ([`Expect`]), and which rules of the sandbox's network it meets on
//! its way ([`Attempt::meets`]) or which answer the proxy's log has for it ([`Attempt::reasons`]). The last two are what
//! finds a wall that has fallen behind another: an attempt that was stopped by something else than what is meant to stop
//! it has not passed.
//!
//! ```text
//!   act         what a guest is told to do
//!   packet      frames and packets, byte by byte
//!   hello       TLS's first message, and DNS queries
//!   control     what must work, lest a dead network look safe
//!   early       what a tightened policy must end
//!   structure   what is not there at all: no card, no vsock
//!   link        what a frame is made of, and who it claims to be from
//!   address     where it goes
//!   names       DNS
//!   unlisted    what mode allow does not list
//!   web         names on their way through the proxy: tls, http, explicit
//!   flood       how much
//!   outside     from where no guest is: the sandbox's namespace itself, and the world
//! ```

mod act;
mod address;
mod control;
mod early;
mod explicit;
mod flood;
pub mod hello;
mod http;
mod link;
mod names;
mod outside;
pub mod packet;
mod structure;
mod tls;
mod unlisted;
mod web;

use std::net::{IpAddr, SocketAddr};

use omnirun_egress_policy::{Mode, Reason};
use serde::Serialize;

pub use self::act::Act;
use crate::{capture::Protocol, nonce::Nonce, world::World};

/// Who does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// Root in the guest.
    Guest,
    /// Whoever has taken over the sandbox's namespace: its frames come by the link to the host.
    Namespace,
    /// Somebody in the internet of a lab.
    Internet,
}

/// What may come of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// Nothing: no answer, and nothing of it outside.
    Blocked,
    /// The sandbox's own sockets may answer; nothing of it outside.
    Local,
    /// It goes on, but to these addresses alone, whichever it asked for.
    Led(Vec<IpAddr>),
    /// It must work, at one of these addresses.
    Allowed(Vec<IpAddr>),
}

/// How many packets of an attempt a rule must count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Count {
    /// Each that was sent.
    Each,
    /// One at least.
    Once,
    /// None: it stands behind others, and is only to be there. The test that takes those others away shows that it works.
    Stands,
}

/// When it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// First, under a policy that is tightened meanwhile.
    Early,
    /// Then, for others need what it makes.
    Before,
    /// All together.
    Main,
    /// One by one: they take all there is.
    Flood,
    /// Last: to see that there still is a network.
    After,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attempt {
    /// Its name, which never changes.
    pub id: String,
    /// The lines of the list of known bypasses that it tries (field notes, 3.2).
    pub bypass: &'static [u8],
    /// What it does, in words.
    pub what: String,
    /// Who does it.
    pub from: From,
    /// What it carries.
    pub nonce: Nonce,
    /// What is done.
    pub act: Act,
    /// What may come of it.
    pub expect: Expect,
    /// The rules that it meets on its way.
    pub meets: Vec<(String, Count)>,
    /// What the proxy's log must say of it, one of these.
    pub reasons: Vec<Reason>,
    /// Names that belong to it alone, beside those that have its nonce in them.
    pub names: Vec<String>,
    /// Destinations by which the proxy's log tells it from others, beside those that belong to it alone.
    pub asked_for: Vec<SocketAddr>,
    /// A port that it alone asks the HTTP proxy for.
    pub asked: Option<u16>,
    /// Whether the proxy's log cannot tell it from others: one line with one of its reasons will do.
    pub anonymous: bool,
    /// Whether a guest whose own kernel does not send it has nothing to show.
    pub may_be_unsent: bool,
    /// Destinations that belong to it alone.
    pub tuples: Vec<(Protocol, SocketAddr)>,
    /// When.
    pub phase: Phase,
}

impl Attempt {
    /// One of the main phase, by the guest, blocked, that nothing else is known of.
    pub(crate) fn new(nonce: Nonce, act: Act) -> Self {
        Self {
            id: String::new(),
            bypass: &[],
            what: String::new(),
            from: From::Guest,
            nonce,
            act,
            expect: Expect::Blocked,
            meets: Vec::new(),
            reasons: Vec::new(),
            names: Vec::new(),
            asked_for: Vec::new(),
            asked: None,
            anonymous: false,
            may_be_unsent: false,
            tuples: Vec::new(),
            phase: Phase::Main,
        }
    }

    /// It is expected to have this outcome.
    fn expect(&mut self, expect: Expect) -> &mut Self {
        self.expect = expect;
        self
    }

    /// Every packet of it meets this rule.
    fn meets(&mut self, rule: impl Into<String>) -> &mut Self {
        self.meets.push((rule.into(), Count::Each));
        self
    }

    /// At least one packet of it meets each of these.
    fn passes(&mut self, rules: &[&str]) -> &mut Self {
        self.meets
            .extend(rules.iter().map(|rule| ((*rule).to_owned(), Count::Once)));
        self
    }

    /// The proxy logs it with one of these reasons.
    fn logged(&mut self, reasons: &[Reason]) -> &mut Self {
        self.reasons.extend(reasons);
        self
    }

    /// Nobody else goes there.
    fn alone_at(&mut self, protocol: Protocol, to: SocketAddr) -> &mut Self {
        self.tuples.push((protocol, to));
        self
    }

    /// Nobody else asks for this name.
    fn named(&mut self, name: &str) -> &mut Self {
        self.names.push(name.to_owned());
        self
    }

    /// The proxy's log tells it by this destination.
    fn asked_for(&mut self, to: SocketAddr) -> &mut Self {
        self.asked_for.push(to);
        self
    }

    /// Not every guest can do this.
    fn may_be_unsent(&mut self) -> &mut Self {
        self.may_be_unsent = true;
        self
    }

    fn phase(&mut self, phase: Phase) -> &mut Self {
        self.phase = phase;
        self
    }

    fn by(&mut self, from: From) -> &mut Self {
        self.from = from;
        self
    }
}

/// A table that is being made.
struct Table<'a> {
    mode: Mode,
    world: &'a World,
    list: Vec<Attempt>,
    /// How many sites are somebody's own.
    sites: u8,
}

impl Table<'_> {
    /// Adds one: of the main phase, by the guest, blocked, until it is said otherwise.
    fn add(
        &mut self,
        id: impl Into<String>,
        bypass: &'static [u8],
        what: impl Into<String>,
        act: impl FnOnce(Nonce) -> Act,
    ) -> &mut Attempt {
        let nonce = Nonce::random();
        let at = self.list.len();
        self.list.push(Attempt {
            id: id.into(),
            bypass,
            what: what.into(),
            ..Attempt::new(nonce, act(nonce))
        });
        &mut self.list[at]
    }

    /// Adds one that the proxy is to end: a connection to `port` of a listed site. In a lab that site is its own, so that
    /// the proxy's log can be told from others'; the act is given what to connect to.
    fn proxied(
        &mut self,
        id: impl Into<String>,
        bypass: &'static [u8],
        what: impl Into<String>,
        port: u16,
        reasons: &[Reason],
        act: impl FnOnce(Nonce, &str) -> Act,
    ) -> &mut Attempt {
        self.sites += 1;
        let own = self.world.own_site(self.sites);
        let to = format!("@{}", own.as_ref().unwrap_or(&self.world.listed).name);
        let attempt = self.add(id, bypass, what, |nonce| act(nonce, &to));
        attempt.expect(Expect::Local).logged(reasons);
        match own {
            Some(own) => {
                attempt.alone_at(Protocol::Tcp, (own.address(), port).into());
            }
            None => attempt.anonymous = true,
        }
        attempt
    }

    /// Adds a rule that no packet comes to as long as others hold.
    fn stands(&mut self, rule: &str, behind: &str) {
        let what = format!("the rule {rule} stands behind {behind}");
        let attempt = self.add(format!("stands-{rule}"), &[17], what, |_| Act::Nothing);
        attempt.meets.push((rule.to_owned(), Count::Stands));
    }

    fn open(&self) -> bool {
        self.mode == Mode::Open
    }
}

/// All attempts for `mode` in `world`, in the order of the report.
#[must_use]
pub fn attempts(mode: Mode, world: &World) -> Vec<Attempt> {
    let mut table = Table {
        mode,
        world,
        list: Vec::new(),
        sites: 0,
    };
    structure::fill(&mut table);
    if mode != Mode::None {
        early::fill(&mut table);
        control::fill(&mut table);
        link::fill(&mut table);
        address::fill(&mut table);
        names::fill(&mut table);
        web::fill(&mut table);
        flood::fill(&mut table);
        outside::fill(&mut table);
    }
    table.list
}

impl Serialize for Nonce {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.hex())
    }
}

#[cfg(test)]
mod tests;
