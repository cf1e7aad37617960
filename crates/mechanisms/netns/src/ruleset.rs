//! The rules of a namespace, and how often each was met.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use omnirun_sys::host::net;

use crate::{
    NetError,
    networks::blocking,
    nft::{Nft, Rule},
};

/// A rule, and how often it was met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleState {
    /// Its name.
    pub name: String,
    /// Packets that it applied to (for a redirection: connections).
    pub packets: u64,
}

/// All rules of a namespace, or those of one table of it.
#[derive(Debug)]
pub(crate) struct Ruleset {
    pub(crate) namespace: Arc<OwnedFd>,
    pub(crate) nft: Nft,
    /// Name of the table, of family `inet`.
    pub(crate) table: Option<String>,
}

impl Ruleset {
    /// Those with a name, in the order in which packets meet them.
    pub(crate) async fn states(self) -> Result<Vec<RuleState>, NetError> {
        let state = |rule: Rule| {
            Some(RuleState {
                packets: rule.packets()?,
                name: rule.comment?,
            })
        };
        blocking(move || Ok(self.listing()?.into_iter().filter_map(state).collect())).await
    }

    /// Takes one out.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) async fn remove(self, name: &str) -> Result<(), NetError> {
        let name = name.to_owned();
        blocking(move || {
            let rule = self
                .listing()?
                .into_iter()
                .find(|rule| rule.comment.as_deref() == Some(&*name));
            let Rule {
                family,
                table,
                chain,
                handle,
                ..
            } = rule.ok_or(NetError::NoRule(name))?;
            net::in_namespace(self.namespace.as_fd(), || {
                self.nft.run(
                    "remove a rule",
                    &format!("delete rule {family} {table} {chain} handle {handle}\n"),
                )
            })
        })
        .await
    }

    fn listing(&self) -> Result<Vec<Rule>, NetError> {
        let entries = net::in_namespace(self.namespace.as_fd(), || match &self.table {
            Some(table) => self.nft.list("list the rules", &["list", "table", "inet", table]),
            None => self.nft.list("list the rules", &["list", "ruleset"]),
        })?;
        Ok(entries.into_iter().filter_map(|entry| entry.rule).collect())
    }
}
