//! One layer of a policy: a mode and two lists, looked up without going through them.

use crate::{
    Decision, Limits, Mode, Name, PolicyError, Reason, RuleLimits, Verdict,
    special::special,
    target::{Entry, Target},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// More entries than a person writes.
pub(crate) const MOST_ENTRIES: usize = 20_000;
/// What a name without a port is about: HTTP and TLS.
const WEB: [u16; 2] = [80, 443];

/// An entry of a list, as it was written and as it was understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    pub(crate) text: Arc<str>,
    pub(crate) entry: Entry,
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub(crate) limits: Limits,
}

/// A layer as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) mode: Mode,
    pub(crate) log_only: bool,
    pub(crate) allow: Vec<Rule>,
    pub(crate) deny: Vec<Rule>,
}

/// A layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub(crate) struct Layer {
    written: Written,
    allow: Index,
    deny: Index,
}

impl PartialEq for Layer {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

/// Places in a list of rules, by what they are about.
#[derive(Debug, Clone, Default)]
struct Index {
    names: HashMap<Name, Vec<usize>>,
    below: HashMap<Name, Vec<usize>>,
    nets: Vec<usize>,
}

impl Index {
    fn of(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (at, rule) in rules.iter().enumerate() {
            match &rule.entry.target {
                Target::Name(name) => index.names.entry(name.clone()).or_default().push(at),
                Target::Below(name) => index.below.entry(name.clone()).or_default().push(at),
                Target::Net(_) => index.nets.push(at),
            }
        }
        index
    }

    /// The rules about this name, the most particular first.
    fn about<'a>(&'a self, rules: &'a [Rule], name: &'a Name) -> impl Iterator<Item = &'a Rule> {
        let exact = self.names.get(name).into_iter().flatten();
        let below = name
            .parents()
            .filter_map(|parent| self.below.get(&Name::parse(parent.as_bytes()).ok()?))
            .flatten();
        exact.chain(below).filter_map(|at| rules.get(*at))
    }

    fn containing<'a>(&'a self, rules: &'a [Rule], address: IpAddr) -> impl Iterator<Item = &'a Rule> {
        let all = self.nets.iter().filter_map(|at| rules.get(*at));
        all.filter(move |rule| matches!(rule.entry.target, Target::Net(net) if net.contains(&address)))
    }
}

impl TryFrom<Written> for Layer {
    type Error = PolicyError;

    fn try_from(written: Written) -> Result<Self, PolicyError> {
        if written.allow.len() + written.deny.len() > MOST_ENTRIES {
            return Err(PolicyError::TooMany { most: MOST_ENTRIES });
        }
        for rule in &written.allow {
            rule.entry.may_be_allowed(&rule.text)?;
        }
        let (allow, deny) = (Index::of(&written.allow), Index::of(&written.deny));
        Ok(Self { written, allow, deny })
    }
}

impl From<Layer> for Written {
    fn from(layer: Layer) -> Self {
        layer.written
    }
}

impl Layer {
    pub(crate) fn allowed(&self) -> &[Rule] {
        &self.written.allow
    }

    pub(crate) fn denied(&self) -> &[Rule] {
        &self.written.deny
    }

    pub(crate) fn mode(&self) -> Mode {
        self.written.mode
    }

    pub(crate) fn log_only(&self) -> bool {
        self.written.log_only
    }

    /// What it says of a name; `port`: none for whether its addresses may be told.
    pub(crate) fn name(&self, name: &Name, port: Option<u16>) -> Decision {
        let Written {
            mode, allow, deny, ..
        } = &self.written;
        let mut denied = self.deny.about(deny, name);
        // Where no port is asked for, only what denies all of them does.
        if let Some(rule) = denied.find(|rule| rule.entry.port.is_none() || rule.entry.port == port) {
            return self.refuse(Reason::Denied, Some(rule));
        }
        match mode {
            Mode::None => Decision::deny(Reason::NoNetwork, None),
            Mode::Open => Decision::new(Verdict::Allow, Reason::Public, None),
            Mode::Allow => {
                let fits = |rule: &&Rule| match (port, rule.entry.port) {
                    (None, _) => true,
                    (Some(port), None) => WEB.contains(&port),
                    (Some(port), Some(listed)) => port == listed,
                };
                match self.allow.about(allow, name).find(fits) {
                    Some(rule) => by(rule),
                    None => {
                        let other = self.allow.about(allow, name).next();
                        let reason = other.map_or(Reason::NotListed, |_| Reason::PortNotListed);
                        self.refuse(reason, other)
                    }
                }
            }
        }
    }

    /// What it says of an address that the sandbox chose.
    pub(crate) fn address(&self, to: SocketAddr) -> Decision {
        let Written {
            mode, allow, deny, ..
        } = &self.written;
        let (address, port) = (to.ip().to_canonical(), to.port());
        let what = special(address);
        if what.is_some_and(|what| !what.listable) {
            return Decision::deny(Reason::SpecialAddress, None);
        }
        let fits = |rule: &&Rule| rule.entry.port.is_none_or(|listed| listed == port);
        if let Some(rule) = self.deny.containing(deny, address).find(fits) {
            return self.refuse_address(Reason::Denied, Some(rule), what.is_some());
        }
        // A wide net over the public internet is no word for what is private.
        let meant = |rule: &&Rule| what.is_none() || rule.entry.is_private();
        let mut about = self.allow.containing(allow, address).filter(meant);
        let allowed = about.find(fits);
        match (mode, allowed) {
            (Mode::None, _) => Decision::deny(Reason::NoNetwork, None),
            (_, Some(rule)) => by(rule),
            (_, None) if what.is_some() => Decision::deny(Reason::SpecialAddress, None),
            (Mode::Open, None) => Decision::new(Verdict::Allow, Reason::Public, None),
            (Mode::Allow, None) => {
                let other = self.allow.containing(allow, address).find(meant);
                let reason = other.map_or(Reason::NotListed, |_| Reason::PortNotListed);
                self.refuse_address(reason, other, false)
            }
        }
    }

    fn refuse(&self, reason: Reason, rule: Option<&Rule>) -> Decision {
        let verdict = match self.written.log_only && self.written.mode != Mode::None {
            true => Verdict::Log,
            false => Verdict::Deny,
        };
        Decision::new(verdict, reason, rule.map(|rule| rule.text.clone()))
    }

    fn refuse_address(&self, reason: Reason, rule: Option<&Rule>, is_special: bool) -> Decision {
        match is_special {
            true => Decision::deny(reason, rule.map(|rule| rule.text.clone())),
            false => self.refuse(reason, rule),
        }
    }

    /// Whether an entry lists this special-purpose address: whether a name may lead there.
    pub(crate) fn lists_special(&self, to: SocketAddr) -> bool {
        let address = to.ip().to_canonical();
        special(address).is_some_and(|what| what.listable) && self.address(to).allows()
    }

    pub(crate) fn allowed_nets(&self) -> impl Iterator<Item = IpNet> {
        self.written
            .allow
            .iter()
            .filter_map(|rule| match rule.entry.target {
                Target::Net(net) => Some(net),
                _ => None,
            })
    }

    /// What is denied on every port.
    pub(crate) fn denied_nets(&self) -> impl Iterator<Item = IpNet> {
        let denied: &[Rule] = if self.written.log_only {
            &[]
        } else {
            &self.written.deny
        };
        denied
            .iter()
            .filter_map(|rule| match (&rule.entry.target, rule.entry.port) {
                (Target::Net(net), None) => Some(*net),
                _ => None,
            })
    }

    pub(crate) fn denies_names(&self) -> bool {
        !self.deny.names.is_empty() || !self.deny.below.is_empty()
    }

    pub(crate) fn allowed_names(&self) -> impl Iterator<Item = &Name> {
        self.allow.names.keys()
    }
}

fn by(rule: &Rule) -> Decision {
    let mut decision = Decision::new(Verdict::Allow, Reason::Listed, Some(rule.text.clone()));
    if !rule.limits.is_empty() {
        decision.limits.push(RuleLimits {
            rule: rule.text.clone(),
            limits: rule.limits,
        });
    }
    decision
}
