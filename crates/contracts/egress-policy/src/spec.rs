//! The policy as the public API's fields have it.

use crate::{
    Mode, PolicyError, PresetSource, file::lines, layer::Written, policy::check_open, preset::Expanded,
};
use serde::{Deserialize, Serialize};

/// `internet` and `network` of a create call.
///
/// The policy call has the fields of `network` alone, and puts them in the place of the earlier ones. What the create call
/// said of `internet` goes on to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicySpec {
    /// The public internet, or an air gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internet: Option<bool>,
    /// What is allowed and denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkSpec>,
}

/// `network` of a create call, and the body of the policy call. A list that is there and empty is a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NetworkSpec {
    /// Names.
    #[serde(alias = "allow", skip_serializing_if = "Option::is_none")]
    pub allow_domains: Option<Vec<String>>,
    /// Names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny_domains: Option<Vec<String>>,
    /// Addresses and CIDRs.
    #[serde(
        rename = "allowIPs",
        alias = "allowIps",
        skip_serializing_if = "Option::is_none"
    )]
    pub allow_ips: Option<Vec<String>>,
    /// Addresses and CIDRs.
    #[serde(
        rename = "denyIPs",
        alias = "denyIps",
        skip_serializing_if = "Option::is_none"
    )]
    pub deny_ips: Option<Vec<String>>,
    /// Enforce names by TLS server name; we always do.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sni_proxy: bool,
    /// Let everything public through and log its names.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sni_proxy_log_only: bool,
}

/// The layer that it means; none: no network.
pub(crate) fn written(spec: &PolicySpec, presets: &dyn PresetSource) -> Result<Option<Written>, PolicyError> {
    let (internet, network) = match (spec.internet, &spec.network) {
        (Some(false), _) | (None, None) => return Ok(None),
        (internet, network) => (internet == Some(true), network.clone().unwrap_or_default()),
    };
    let contradiction = |words: &str| Err(PolicyError::Contradiction(words.to_owned()));
    if network.sni_proxy_log_only && !network.sni_proxy {
        return contradiction("sniProxyLogOnly is a way for sniProxy to work: set sniProxy as well");
    }
    let no_names = network.allow_domains.as_ref().is_none_or(Vec::is_empty);
    if network.sni_proxy && !network.sni_proxy_log_only && no_names {
        return contradiction("sniProxy needs allowDomains, or sniProxyLogOnly");
    }
    let mut expanded = Expanded::new(presets);
    for (field, list) in [
        ("allowDomains", &network.allow_domains),
        ("allowIPs", &network.allow_ips),
    ] {
        let entries = lines(list.as_deref().unwrap_or_default());
        expanded.allow(&entries).map_err(|error| error.within(field))?;
    }
    for (field, list) in [
        ("denyDomains", &network.deny_domains),
        ("denyIPs", &network.deny_ips),
    ] {
        let entries = lines(list.as_deref().unwrap_or_default());
        expanded.deny(&entries).map_err(|error| error.within(field))?;
    }
    let restricted = !internet || network.allow_domains.is_some() || network.allow_ips.is_some();
    let mode = match restricted {
        true => Mode::Allow,
        false => {
            check_open(&expanded.allow, &expanded.deny)?;
            Mode::Open
        }
    };
    Ok(Some(Written {
        mode,
        log_only: network.sni_proxy_log_only,
        allow: expanded.allow,
        deny: expanded.deny,
    }))
}
