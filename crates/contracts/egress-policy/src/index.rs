//! A list of rules, so that those about a name or address are looked up and not searched for.

use crate::{
    Name, RuleLimits,
    target::{Entry, Target},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, net::IpAddr, sync::Arc};

/// An entry of a list, as it was written and as it was understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    pub(crate) text: Arc<str>,
    pub(crate) entry: Entry,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limits: Option<RuleLimits>,
}

/// Places in a list of rules, by what they are about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    names: HashMap<Name, Vec<usize>>,
    below: HashMap<Name, Vec<usize>>,
    /// The most labels of a name in `below`. A name of 127 labels is not looked up 126 times.
    deepest: usize,
    nets: HashMap<IpNet, Vec<usize>>,
    /// The lengths of prefixes that there are, the longest first.
    v4_lengths: Vec<u8>,
    v6_lengths: Vec<u8>,
}

impl Index {
    /// The networks of the rules have to be canonical. Of equal entries one with bounds comes first: it is the one that is
    /// meant.
    pub(crate) fn of(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        let (bounded, plain): (Vec<_>, Vec<_>) = rules
            .iter()
            .enumerate()
            .partition(|(_, rule)| rule.limits.is_some());
        for (at, rule) in bounded.into_iter().chain(plain) {
            match &rule.entry.target {
                Target::Name(name) => index.names.entry(name.clone()).or_default().push(at),
                Target::Below(name) => {
                    index.deepest = index.deepest.max(name.dots() + 1);
                    index.below.entry(name.clone()).or_default().push(at);
                }
                Target::Net(net) => {
                    index.nets.entry(*net).or_default().push(at);
                    let lengths = match net {
                        IpNet::V4(_) => &mut index.v4_lengths,
                        IpNet::V6(_) => &mut index.v6_lengths,
                    };
                    lengths.push(net.prefix_len());
                }
            }
        }
        for lengths in [&mut index.v4_lengths, &mut index.v6_lengths] {
            lengths.sort_unstable_by_key(|length| std::cmp::Reverse(*length));
            lengths.dedup();
        }
        index
    }

    /// The rules about this name, the most particular first.
    pub(crate) fn about<'a>(&'a self, rules: &'a [Rule], name: &Name) -> impl Iterator<Item = &'a Rule> {
        let exact = self.names.get(name).into_iter().flatten();
        // The nearest parent has as many labels as the name has dots.
        let parents = name.parents().skip(name.dots().saturating_sub(self.deepest));
        let below = parents.filter_map(|parent| self.below.get(parent)).flatten();
        exact.chain(below).filter_map(|at| rules.get(*at))
    }

    /// The rules about this address, the most particular first.
    pub(crate) fn containing<'a>(
        &'a self,
        rules: &'a [Rule],
        address: IpAddr,
    ) -> impl Iterator<Item = &'a Rule> {
        let lengths = match address {
            IpAddr::V4(_) => &self.v4_lengths,
            IpAddr::V6(_) => &self.v6_lengths,
        };
        lengths
            .iter()
            .filter_map(move |length| {
                let net = IpNet::new(address, *length).ok()?.trunc();
                self.nets.get(&net)
            })
            .flatten()
            .filter_map(|at| rules.get(*at))
    }

    pub(crate) fn has_names(&self) -> bool {
        !self.names.is_empty() || !self.below.is_empty()
    }

    /// Those that are listed as such, not by a wildcard.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Name> {
        self.names.keys()
    }
}
