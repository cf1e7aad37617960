//! What sandboxes may reach: the flag, and what it means on this host.

use crate::Global;
use anyhow::Context;
use omnirun_egress_policy::NetFlag;
use omnirun_policy_files::{ConfigDir, PolicySource};

/// What sandboxes of a command may reach.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct NetArgs {
    /// What sandboxes may reach: none (no network card), allow:NAME,... (these hosts, by TLS server name and HTTP host),
    /// preset:NAME, a policy FILE, or open (the public internet; nothing private).
    #[arg(long, value_name = "POLICY", env = "OMNIRUN_NET", value_parser = |s: &str| s.parse::<NetFlag>())]
    pub net: Option<NetFlag>,
}

impl NetArgs {
    /// The policy, followed as its files change. Without the flag it is the environment's own file, if there is one, and
    /// nothing otherwise. Only inside a runtime.
    pub fn source(&self, global: &Global, environment: Option<&str>) -> anyhow::Result<PolicySource> {
        let config = config(global);
        let flag = self.net.clone().unwrap_or_else(|| {
            let file = environment.and_then(|id| config.environment(id));
            file.map_or(NetFlag::None, NetFlag::File)
        });
        let source = PolicySource::open(&flag, &config).context("cannot use the network policy")?;
        tracing::debug!(policy = %flag, mode = source.policy().borrow().mode().as_str(), "what sandboxes may reach");
        Ok(source)
    }
}

/// The configuration folder.
pub fn config(global: &Global) -> ConfigDir {
    ConfigDir::find(global.config_dir.clone())
}
