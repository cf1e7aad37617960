//! The policy of a sandbox: layers that all have to agree.

use crate::{
    Decision, Limits, Name, NetFlag, PolicyError, PresetSource, Reason, file,
    layer::{Layer, Rule, Written},
    preset::expand,
    spec::{self, PolicySpec},
    target::{Entry, Target},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// How much network there is. In order: the stricter one is less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// No network card.
    None,
    /// What is listed, through the proxy.
    Allow,
    /// The public internet.
    Open,
}

impl Mode {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Allow => "allow",
            Self::Open => "open",
        }
    }
}

/// What a sandbox may reach. Cheap to clone.
///
/// As JSON it is a list of layers, each with its rules as they were understood; reading it checks it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Policy {
    layers: Vec<Arc<Layer>>,
}

impl Policy {
    /// Nothing.
    pub fn none() -> Self {
        Self { layers: Vec::new() }
    }

    /// The public internet.
    pub fn open() -> Self {
        let written = Written {
            mode: Mode::Open,
            log_only: false,
            allow: Vec::new(),
            deny: Vec::new(),
        };
        // Nothing in it that could be refused.
        Self::of(written).unwrap_or_else(|_| Self::none())
    }

    /// What is listed: names, addresses, CIDRs, `preset:NAME`.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn allow(entries: &[String], presets: &dyn PresetSource) -> Result<Self, PolicyError> {
        Self::of(Written {
            mode: Mode::Allow,
            log_only: false,
            allow: expand(entries, Limits::default(), presets)?,
            deny: Vec::new(),
        })
    }

    /// What a policy file says.
    ///
    /// # Errors
    /// [`PolicyError`], with line and column where the text is wrong.
    pub fn from_toml(text: &str, presets: &dyn PresetSource) -> Result<Self, PolicyError> {
        match file::read(text, presets)? {
            Some(written) => Self::of(written),
            None => Ok(Self::none()),
        }
    }

    /// What the API's fields say.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn compile(spec: &PolicySpec, presets: &dyn PresetSource) -> Result<Self, PolicyError> {
        match spec::written(spec, presets)? {
            Some(written) => Self::of(written),
            None => Ok(Self::none()),
        }
    }

    /// What a flag says that names no file.
    ///
    /// # Errors
    /// [`PolicyError`]; also if it names a file.
    pub fn from_flag(flag: &NetFlag, presets: &dyn PresetSource) -> Result<Self, PolicyError> {
        match flag {
            NetFlag::None => Ok(Self::none()),
            NetFlag::Open => Ok(Self::open()),
            NetFlag::Allow(entries) => Self::allow(entries, presets),
            NetFlag::File(path) => Err(PolicyError::Flag(path.display().to_string())),
        }
    }

    /// What a session's metadata says: a flag without a file, with the presets that come with OmniRun.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn from_metadata(text: &str) -> Result<Self, PolicyError> {
        Self::from_flag(&text.parse()?, &crate::NoPresets)
    }

    fn of(written: Written) -> Result<Self, PolicyError> {
        let layer = Layer::try_from(written)?;
        Ok(Self {
            layers: vec![Arc::new(layer)],
        })
    }

    /// How much network there is: the strictest layer's.
    pub fn mode(&self) -> Mode {
        self.layers
            .iter()
            .map(|layer| layer.mode())
            .min()
            .unwrap_or(Mode::None)
    }

    /// Whether something is let through only to be logged.
    pub fn log_only(&self) -> bool {
        self.layers.iter().any(|layer| layer.log_only())
    }

    /// What both allow.
    pub fn tightened(&self, by: &Self) -> Self {
        if self.layers.is_empty() || by.layers.is_empty() {
            return Self::none();
        }
        let mut layers = self.layers.clone();
        layers.extend(
            by.layers
                .iter()
                .filter(|layer| !self.layers.contains(layer))
                .cloned(),
        );
        Self { layers }
    }

    fn all(&self, ask: impl Fn(&Layer) -> Decision) -> Decision {
        let asked = self.layers.iter().map(|layer| ask(layer));
        asked
            .reduce(Decision::and)
            .unwrap_or_else(|| Decision::deny(Reason::NoNetwork, None))
    }

    /// Whether a name's addresses may be told.
    pub fn resolve(&self, name: &Name) -> Decision {
        self.all(|layer| layer.name(name, None))
    }

    /// Whether a connection may go to this name and port. Its address is another question: [`Self::may_lead_to`].
    pub fn name(&self, name: &Name, port: u16) -> Decision {
        self.all(|layer| layer.name(name, Some(port)))
    }

    /// Whether a connection may go to this address, which the sandbox chose.
    pub fn address(&self, to: SocketAddr) -> Decision {
        self.all(|layer| layer.address(to))
    }

    /// Whether a name that is allowed may lead to this address: public ones, and those that every layer lists as such. To
    /// be asked of the very address that is dialled (a name can be made to lead anywhere).
    pub fn may_lead_to(&self, to: SocketAddr) -> bool {
        match crate::special(to.ip()) {
            None => !self
                .denied()
                .iter()
                .any(|net| net.contains(&to.ip().to_canonical())),
            Some(_) => !self.layers.is_empty() && self.layers.iter().all(|layer| layer.lists_special(to)),
        }
    }

    /// Addresses that a namespace lets pass to the proxy, which looks closer. Mode `allow`.
    pub fn permitted(&self) -> Vec<IpNet> {
        let listing = self.layers.iter().filter(|layer| layer.mode() == Mode::Allow);
        // Of several lists any is a superset of what all allow.
        let lists = listing.map(|layer| layer.allowed_nets().collect::<Vec<_>>());
        let everything = || vec![IpNet::from(IpAddr::from([0, 0, 0, 0])).supernet_of_all()];
        match self.mode() == Mode::Allow && self.log_only() {
            true => everything(),
            false => lists
                .min_by_key(Vec::len)
                .unwrap_or_else(|| self.special_permitted()),
        }
    }

    /// In mode `open`: the private networks that every layer lists.
    fn special_permitted(&self) -> Vec<IpNet> {
        let mut lists = self
            .layers
            .iter()
            .map(|layer| layer.allowed_nets().collect::<Vec<_>>());
        let first = lists.next().unwrap_or_default();
        lists.fold(first, |all, list| {
            all.into_iter().filter(|net| list.contains(net)).collect()
        })
    }

    /// Addresses that nothing goes to, on no port.
    pub fn denied(&self) -> Vec<IpNet> {
        self.layers.iter().flat_map(|layer| layer.denied_nets()).collect()
    }

    /// What is allowed and what is denied, as it was written, layer by layer.
    pub fn entries(&self) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let all = |of: fn(&Layer) -> &[Rule]| {
            let rules = self.layers.iter().flat_map(|layer| of(layer));
            rules.map(|rule| rule.text.clone()).collect()
        };
        (all(Layer::allowed), all(Layer::denied))
    }

    /// Whether HTTP and TLS have to go through the proxy although the mode is `open`: names are denied, or logged.
    pub fn proxies_web(&self) -> bool {
        let layers = || self.layers.iter();
        self.mode() == Mode::Open && (self.log_only() || layers().any(|layer| layer.denies_names()))
    }

    /// The names that are listed as such and allowed: what can be resolved before anybody asks.
    pub fn listed_names(&self) -> BTreeSet<Name> {
        let names = self.layers.iter().flat_map(|layer| layer.allowed_names());
        names
            .filter(|name| self.resolve(name).allows())
            .cloned()
            .collect()
    }
}

trait SupernetOfAll {
    fn supernet_of_all(self) -> IpNet;
}

impl SupernetOfAll for IpNet {
    /// The network of all addresses of this one's family.
    fn supernet_of_all(self) -> IpNet {
        std::iter::successors(Some(self), IpNet::supernet)
            .last()
            .unwrap_or(self)
    }
}

/// Rules of entries that are no presets.
pub(crate) fn rule(text: &str, limits: Limits) -> Result<Rule, PolicyError> {
    Ok(Rule {
        entry: Entry::parse(text)?,
        text: text.trim().into(),
        limits,
    })
}

/// Whether a denied entry can be enforced in mode `open`, where addresses are the kernel's.
pub(crate) fn check_open_denial(rule: &Rule) -> Result<(), PolicyError> {
    match (&rule.entry.target, rule.entry.port) {
        (Target::Net(_), Some(_)) => Err(PolicyError::Entry {
            entry: rule.text.to_string(),
            what: "with internet = true an address is denied on all ports or on none; leave the port out"
                .to_owned(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
