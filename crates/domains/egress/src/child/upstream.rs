//! The host's own way to resolve names, as its owner told it.

use crate::channel::Resolution;
use hickory_resolver::{
    Resolver, TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy},
    net::runtime::TokioRuntimeProvider,
    proto::rr::{Name as DnsName, RData, RecordType},
};
use omnirun_egress_policy::Name;
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

/// For a server to answer, before the next is asked.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often all are asked.
const ATTEMPTS: usize = 2;
/// At most so many addresses of a name are looked at.
const MAX_ADDRESSES: usize = 32;
/// What the hosts file says is good for so long.
const HOSTS_TTL: Duration = Duration::from_secs(60);

/// Addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) addresses: Arc<[Ipv4Addr]>,
    pub(super) until: Instant,
}

/// Why there are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotFound {
    /// There is no such name.
    NoSuchName,
    /// It has no IPv4 address.
    NoAddress,
    /// Nobody could say.
    Failed,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Upstream {
    hosts: BTreeMap<String, Vec<Ipv4Addr>>,
    servers: Option<TokioResolver>,
}

impl Upstream {
    pub(super) fn new(told: Resolution) -> Self {
        let servers = told.servers.into_iter().map(|(ip, port)| {
            let mut server = NameServerConfig::udp_and_tcp(ip);
            for connection in &mut server.connections {
                connection.port = port;
            }
            server
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        let mut options = ResolverOpts::default();
        options.timeout = TIMEOUT;
        options.attempts = ATTEMPTS;
        // Each guest has a cache of its own.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        // As the C library does it: the second is for when the first does not answer.
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        options.num_concurrent_reqs = 1;
        options.try_tcp_on_error = true;
        let has_servers = !config.name_servers().is_empty();
        let built = Resolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build();
        Self {
            hosts: told.hosts,
            servers: built.ok().filter(|_| has_servers),
        }
    }

    /// The addresses of a name; at the end of whatever chain of aliases it has.
    pub(super) async fn find(&self, name: &Name) -> Result<Found, NotFound> {
        if let Some(addresses) = self.hosts.get(name.as_str()) {
            return Ok(Found {
                addresses: addresses.iter().copied().take(MAX_ADDRESSES).collect(),
                until: Instant::now() + HOSTS_TTL,
            });
        }
        let servers = self.servers.as_ref().ok_or(NotFound::Failed)?;
        // With the dot at the end nothing is appended to it.
        let whole = DnsName::from_ascii(format!("{name}.")).map_err(|_| NotFound::NoSuchName)?;
        let answer = servers
            .lookup(whole, RecordType::A)
            .await
            .map_err(|error| match error {
                error if error.is_nx_domain() => NotFound::NoSuchName,
                error if error.is_no_records_found() => NotFound::NoAddress,
                _ => NotFound::Failed,
            })?;
        let addresses: Arc<[Ipv4Addr]> = answer
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::A(address) => Some(address.0),
                _ => None,
            })
            .take(MAX_ADDRESSES)
            .collect();
        match addresses.is_empty() {
            true => Err(NotFound::NoAddress),
            false => Ok(Found {
                addresses,
                until: answer.valid_until(),
            }),
        }
    }
}
