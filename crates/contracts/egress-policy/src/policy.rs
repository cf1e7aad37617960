//! The policy of a sandbox: layers that all have to agree.

use crate::{
    Decision, Name, NetFlag, PolicyError, PresetSource, Reason, file,
    index::Rule,
    layer::{Layer, Written},
    preset::Expanded,
    ranges::Ranges,
    spec::{self, PolicySpec},
    special_v4_nets,
    target::Target,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

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
        let mut expanded = Expanded::new(presets);
        expanded.allow(&file::lines(entries))?;
        Self::of(Written {
            mode: Mode::Allow,
            log_only: false,
            allow: expanded.allow,
            deny: expanded.deny,
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
            NetFlag::File(path) => Err(PolicyError::NoFile(path.display().to_string())),
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
        self.all(|layer| layer.resolve(name))
    }

    /// Whether a connection may go to this name and port. Its address is another question: [`Self::may_lead_to`].
    pub fn name(&self, name: &Name, port: u16) -> Decision {
        self.all(|layer| layer.name(name, port))
    }

    /// Whether a connection may go to this address, which the sandbox chose.
    pub fn address(&self, to: SocketAddr) -> Decision {
        self.all(|layer| layer.address(to))
    }

    /// Whether a name that is allowed may lead to this address: public ones, and those that every layer lists as such. To
    /// be asked of the very address that is dialled (a name can be made to lead anywhere).
    pub fn may_lead_to(&self, to: SocketAddr) -> bool {
        !self.layers.is_empty() && self.layers.iter().all(|layer| layer.may_lead_to(to))
    }

    /// Addresses that a namespace lets pass to the proxy, which looks closer. In mode `open`, where the kernel forwards what
    /// is public, these are the private ones that are listed. Never one that no policy can list. IPv4 only.
    pub fn permitted(&self) -> Vec<IpNet> {
        let lists = self.layers.iter().map(|layer| layer.permitted());
        let all = lists.reduce(|all, list| all.and(&list));
        let all = all.unwrap_or_else(|| Ranges::of([]));
        match self.mode() {
            Mode::None => Vec::new(),
            Mode::Allow => all.nets(),
            Mode::Open => {
                let special = special_v4_nets().into_iter().flat_map(|(_, nets)| nets);
                all.and(&Ranges::of(special.map(IpNet::V4))).nets()
            }
        }
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
        self.mode() == Mode::Open && (self.log_only() || self.denies_names())
    }

    /// Whether names are denied: what goes to an address has to be looked at for one as well.
    pub fn denies_names(&self) -> bool {
        self.layers.iter().any(|layer| layer.denies_names())
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

/// Where everything public is allowed, an entry can only open what is private, or deny.
pub(crate) fn check_open(allow: &[Rule], deny: &[Rule]) -> Result<(), PolicyError> {
    if let Some(rule) = allow.iter().find(|rule| !rule.entry.is_private()) {
        return Err(PolicyError::Contradiction(format!(
            "internet = true allows everything public, so allowing {:?} says nothing; for a sandbox that reaches its list \
             alone take internet = true out",
            &*rule.text
        )));
    }
    let with_port = |rule: &&Rule| matches!(rule.entry.target, Target::Net(_)) && rule.entry.port.is_some();
    match deny.iter().find(with_port) {
        // The kernel forwards, by address.
        Some(rule) => Err(PolicyError::entry(
            &rule.text,
            "with internet = true an address is denied on all ports or on none; leave the port out",
        )),
        None => Ok(()),
    }
}
