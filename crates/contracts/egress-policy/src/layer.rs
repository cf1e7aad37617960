//! One layer of a policy: a mode and two lists.

use crate::{
    Decision, Mode, Name, PolicyError, Reason, Verdict,
    index::{Index, Rule},
    ranges::Ranges,
    special::{never_v4_nets, special, special_v4_nets},
    target::Target,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// More entries than a person writes.
pub(crate) const MOST_ENTRIES: usize = 20_000;

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

/// Checks it, wherever it comes from: the proxy is handed a policy as bytes.
impl TryFrom<Written> for Layer {
    type Error = PolicyError;

    fn try_from(mut written: Written) -> Result<Self, PolicyError> {
        if written.allow.len() + written.deny.len() > MOST_ENTRIES {
            return Err(PolicyError::TooMany { most: MOST_ENTRIES });
        }
        for rule in written.allow.iter_mut().chain(&mut written.deny) {
            rule.entry = rule.entry.clone().canonical();
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

    fn allowing(&self, name: &Name) -> impl Iterator<Item = &Rule> {
        self.allow.about(&self.written.allow, name)
    }

    /// What denies the name on this port; on none: what denies it on all of them.
    fn denying(&self, name: &Name, port: Option<u16>) -> Option<&Rule> {
        let mut about = self.deny.about(&self.written.deny, name);
        about.find(|rule| rule.entry.port.is_none() || rule.entry.port == port)
    }

    /// What it says of a name's addresses being told: they are where there is a port to connect to.
    pub(crate) fn resolve(&self, name: &Name) -> Decision {
        if let Some(rule) = self.denying(name, None) {
            return self.refuse(Reason::Denied, Some(rule));
        }
        match self.written.mode {
            Mode::None => Decision::deny(Reason::NoNetwork, None),
            Mode::Open => Decision::new(Verdict::Allow, Reason::Public, None),
            Mode::Allow => {
                let mut any = None;
                for rule in self.allowing(name) {
                    any = Some(rule);
                    let mut ports = rule.entry.name_ports().iter();
                    if ports.any(|port| self.denying(name, Some(*port)).is_none()) {
                        return by(rule);
                    }
                }
                let reason = any.map_or(Reason::NotListed, |_| Reason::Denied);
                self.refuse(reason, any)
            }
        }
    }

    /// What it says of a connection to a name.
    pub(crate) fn name(&self, name: &Name, port: u16) -> Decision {
        if let Some(rule) = self.denying(name, Some(port)) {
            return self.refuse(Reason::Denied, Some(rule));
        }
        match self.written.mode {
            Mode::None => Decision::deny(Reason::NoNetwork, None),
            Mode::Open => Decision::new(Verdict::Allow, Reason::Public, None),
            Mode::Allow => {
                let fits = |rule: &&Rule| rule.entry.name_ports().contains(&port);
                match self.allowing(name).find(fits) {
                    Some(rule) => by(rule),
                    None => {
                        let other = self.allowing(name).next();
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
        let allowed = self.allow.containing(allow, address).filter(meant).find(fits);
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

    /// What is special is not let through to be logged either.
    fn refuse_address(&self, reason: Reason, rule: Option<&Rule>, is_special: bool) -> Decision {
        match is_special {
            true => Decision::deny(reason, rule.map(|rule| rule.text.clone())),
            false => self.refuse(reason, rule),
        }
    }

    /// Whether a name that is allowed may lead there: to what is public and not denied, or special and listed as such.
    pub(crate) fn may_lead_to(&self, to: SocketAddr) -> bool {
        let decision = self.address(to);
        match special(to.ip()) {
            Some(_) => decision.allows(),
            None => decision.allows() || !matches!(decision.reason, Reason::Denied | Reason::NoNetwork),
        }
    }

    /// The addresses for which [`Self::address`] may say yes.
    pub(crate) fn permitted(&self) -> Ranges {
        let listed = |private: bool| {
            let rules = self.written.allow.iter();
            let rules = rules.filter(move |rule| rule.entry.is_private() == private);
            Ranges::of(rules.filter_map(|rule| match rule.entry.target {
                Target::Net(net) => Some(net),
                _ => None,
            }))
        };
        let special = special_v4_nets().into_iter().flat_map(|(_, nets)| nets);
        let (special, never) = (Ranges::of(special.map(IpNet::V4)), Ranges::of(never_v4_nets()));
        let public = match self.written.mode {
            Mode::None => return Ranges::of([]),
            Mode::Allow if !self.written.log_only => listed(false),
            Mode::Allow | Mode::Open => Ranges::all(),
        };
        public.minus(&special).or(listed(true).minus(&never))
    }

    /// What is denied on every port.
    pub(crate) fn denied_nets(&self) -> impl Iterator<Item = IpNet> {
        let denied: &[Rule] = match self.written.log_only {
            true => &[],
            false => &self.written.deny,
        };
        denied
            .iter()
            .filter_map(|rule| match (&rule.entry.target, rule.entry.port) {
                (Target::Net(net), None) => Some(*net),
                _ => None,
            })
    }

    pub(crate) fn denies_names(&self) -> bool {
        self.deny.has_names()
    }

    pub(crate) fn allowed_names(&self) -> impl Iterator<Item = &Name> {
        self.allow.names()
    }
}

fn by(rule: &Rule) -> Decision {
    let mut decision = Decision::new(Verdict::Allow, Reason::Listed, Some(rule.text.clone()));
    decision.limits.extend(rule.limits.clone());
    decision
}
