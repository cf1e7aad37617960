//! The policy as the public API's fields have it.

use crate::{
    Limits, Mode, PolicyError, PresetSource, layer::Written, policy::check_open_denial, preset::expand,
};
use serde::{Deserialize, Serialize};

/// `internet` and `network` of a create call.
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

/// `network` of a create call, and the body of the policy call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NetworkSpec {
    /// Names.
    #[serde(alias = "allow")]
    pub allow_domains: Vec<String>,
    /// Names.
    pub deny_domains: Vec<String>,
    /// Addresses and CIDRs.
    #[serde(rename = "allowIPs", alias = "allowIps")]
    pub allow_ips: Vec<String>,
    /// Addresses and CIDRs.
    #[serde(rename = "denyIPs", alias = "denyIps")]
    pub deny_ips: Vec<String>,
    /// Enforce names by TLS server name; we always do.
    pub sni_proxy: bool,
    /// Let everything public through and log its names.
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
    if network.sni_proxy && !network.sni_proxy_log_only && network.allow_domains.is_empty() {
        return contradiction("sniProxy needs allowDomains, or sniProxyLogOnly");
    }
    let mut allow = expand(&network.allow_domains, Limits::default(), presets)?;
    allow.extend(expand(&network.allow_ips, Limits::default(), presets)?);
    let mut deny = expand(&network.deny_domains, Limits::default(), presets)?;
    deny.extend(expand(&network.deny_ips, Limits::default(), presets)?);
    let mode = if internet && allow.is_empty() {
        Mode::Open
    } else {
        Mode::Allow
    };
    if mode == Mode::Open {
        deny.iter().try_for_each(check_open_denial)?;
    }
    Ok(Some(Written {
        mode,
        log_only: network.sni_proxy_log_only,
        allow,
        deny,
    }))
}
