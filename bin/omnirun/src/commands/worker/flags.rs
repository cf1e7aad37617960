//! Flags that `worker` and `spawn` share, and what is made of them.

use crate::{
    host::{DriverArgs, Host},
    net::NetArgs,
};
use anyhow::Context;
use omnirun_ids::{ApiId, ByteSize, TemplateName};
use omnirun_policy_files::PolicySource;
use omnirun_redact::Secret;
use omnirun_sandboxes::{Card, SandboxSize, SandboxSpec, check_disk};
use omnirun_sessions::{Allowed, EnginePlatform, Isolation, SessionFactory, SessionsConfig, isolation_group};
use omnirun_work_client::{BaseUrl, Client, ClientConfig, Limits};
use std::{os::unix::fs::MetadataExt, path::PathBuf, sync::Arc, time::Duration};

/// Where the queue is, and as whom.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Anthropic")]
pub struct ConnectionArgs {
    /// The environment, from the Console or the API.
    #[arg(long, value_name = "ID", env = "ANTHROPIC_ENVIRONMENT_ID")]
    pub environment_id: Option<String>,
    /// The environment's key, from the Console. The process list shows flags: better set the variable or use
    /// --environment-key-file.
    #[arg(
        long,
        value_name = "KEY",
        env = "ANTHROPIC_ENVIRONMENT_KEY",
        hide_env_values = true
    )]
    pub environment_key: Option<String>,
    /// A file with the environment's key, readable by its owner alone.
    #[arg(long, value_name = "FILE", conflicts_with = "environment_key")]
    pub environment_key_file: Option<PathBuf>,
    /// The API; a path prefix is kept.
    #[arg(long, value_name = "URL", env = "ANTHROPIC_BASE_URL", default_value = BaseUrl::DEFAULT)]
    pub base_url: String,
}

/// A connection that has been checked.
pub struct Connection {
    /// The client.
    pub client: Client,
    /// The environment.
    pub environment: ApiId,
    /// Its key, if there is one.
    pub key: Option<Secret>,
}

impl ConnectionArgs {
    /// Checks all of it before anything is started.
    pub fn checked(&self) -> anyhow::Result<Connection> {
        let environment = self
            .environment_id
            .as_deref()
            .filter(|id| !id.is_empty())
            .context("an environment is needed: set ANTHROPIC_ENVIRONMENT_ID or give --environment-id ID")?;
        let environment = environment.parse().context("the environment id")?;
        let key = match &self.environment_key_file {
            Some(path) => Some(key_file(path)?),
            None => self.environment_key.clone(),
        };
        let key = key.map(|k| k.trim().to_owned()).filter(|k| !k.is_empty());
        if let Some(key) = &key {
            anyhow::ensure!(
                key.bytes().all(|b| b.is_ascii_graphic()),
                "the environment key holds characters that no key has (a line break, a space, a quote?)"
            );
        }
        let base: BaseUrl = match self.base_url.as_str() {
            "" => BaseUrl::DEFAULT.parse(),
            url => url.parse(),
        }
        .with_context(|| format!("--base-url {}", self.base_url))?;
        let https = base.is_https();
        let client = Client::new(ClientConfig {
            base,
            user_agent: concat!("omnirun/", env!("CARGO_PKG_VERSION")).to_owned(),
            limits: Limits::default(),
        })
        .with_context(|| {
            if https {
                "HTTPS (is the package ca-certificates installed?)"
            } else {
                "HTTP"
            }
        })?;
        Ok(Connection {
            client,
            environment,
            key: key.map(Secret::new),
        })
    }
}

/// The key in a file that nobody else may read.
fn key_file(path: &std::path::Path) -> anyhow::Result<String> {
    let shown = path.display();
    let meta = std::fs::metadata(path).with_context(|| format!("cannot read {shown}"))?;
    anyhow::ensure!(
        !meta.is_file() || meta.mode() & 0o077 == 0,
        "others may read {shown}, which holds a key; make it private first: chmod 600 {shown}"
    );
    let key = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    anyhow::ensure!(!key.trim().is_empty(), "{shown} is empty");
    Ok(key)
}

/// How sessions are served.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Sandboxes")]
pub struct ServeArgs {
    /// What the calls of a session share: `call` gives each call a fresh microVM, `session` one to each session.
    #[arg(long, value_name = "MODE", default_value = "call", env = "OMNIRUN_ISOLATION",
        value_parser = |s: &str| s.parse::<Isolation>())]
    pub isolation: Isolation,
    /// The template of new sessions (omnirun image ls).
    #[arg(
        long,
        value_name = "NAME",
        default_value = "default",
        env = "OMNIRUN_TEMPLATE"
    )]
    pub template: TemplateName,
    #[command(flatten)]
    pub net: NetArgs,
    #[command(flatten)]
    pub driver: DriverArgs,
    /// Virtual CPUs of a sandbox.
    #[arg(long, value_name = "N", default_value_t = SandboxSize::default().vcpus)]
    pub cpus: u32,
    /// Memory of a sandbox.
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    pub memory: ByteSize,
    /// Size of a new session's disk; it occupies what is written.
    #[arg(long, value_name = "SIZE", default_value = "8G")]
    pub disk: ByteSize,
    /// What spare microVMs may take of this host's memory [default: a quarter of what is free].
    #[arg(long, value_name = "SIZE")]
    pub pool_memory: Option<ByteSize>,
    /// How long a session's disk stays after its last use.
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = duration)]
    pub keep: Duration,
    /// With --isolation session: disk space for the memory of idle sessions, so that the next work item finds shell and
    /// background processes as they were; 0 keeps none.
    #[arg(long, value_name = "SIZE", default_value = "8G", env = "OMNIRUN_KEEP_MEMORY")]
    pub keep_memory: ByteSize,
    /// A folder that each new session finds a copy of in /workspace.
    #[arg(long, value_name = "DIR", env = "OMNIRUN_SEED")]
    pub seed: Option<PathBuf>,
    /// Give a session's work item up when its turn has been over for so long; 0 is never. Its next message queues new
    /// work, and its disk is still here then.
    #[arg(long, value_name = "TIME", default_value = "60s", env = "OMNIRUN_MAX_IDLE", value_parser = duration)]
    pub max_idle: Duration,
}

impl ServeArgs {
    /// The idle time, with 0 as never.
    pub fn max_idle(&self) -> Option<Duration> {
        Some(self.max_idle).filter(|d| !d.is_zero())
    }

    fn size(&self) -> SandboxSize {
        SandboxSize {
            vcpus: self.cpus,
            memory: self.memory,
        }
    }

    /// Opens the sessions of this host.
    pub fn hands(&self, host: &Host, policy: &PolicySource) -> anyhow::Result<SessionFactory> {
        check_disk(self.disk).context("--disk")?;
        let config = SessionsConfig {
            isolation: self.isolation,
            network: Allowed::new(policy.policy()),
            size: self.size(),
            disk: self.disk,
            keep: self.keep,
            keep_memory: self.keep_memory,
            seed: self.seed.clone(),
            ..SessionsConfig::new(self.template.clone())
        };
        let platform = Arc::new(EnginePlatform::new(host.engine.clone(), host.images.clone()));
        Ok(SessionFactory::new(config, platform, &host.db, &host.data)?)
    }

    /// Makes the snapshot that the first session will want.
    pub async fn prepare(
        &self,
        host: &Host,
        connection: &Connection,
        policy: &PolicySource,
    ) -> anyhow::Result<()> {
        let spec = SandboxSpec {
            image: Arc::new(host.images.get(&self.template)?),
            size: self.size(),
            card: Card::of(policy.policy().borrow().mode()),
            group: isolation_group(&connection.client.origin(), &connection.environment),
            purpose: "omnirun worker".to_owned(),
            suspendable: false,
        };
        host.engine.prepare(&spec).await?;
        Ok(())
    }
}

/// Ends what is left of this process's VMs, and says what could not be removed.
pub async fn close(host: &Host) {
    for report in host.engine.shutdown().await {
        if !report.is_clean() {
            crate::output::say(format_args!("omnirun: {report}; `omnirun clean` tries again"));
        }
    }
}

/// A time as people and `ant` write it: 60s, 1m30s, 2h, 7d; a bare 0 is no time.
pub fn duration(text: &str) -> Result<Duration, String> {
    match text.trim() {
        "0" => Ok(Duration::ZERO),
        text => humantime::parse_duration(text).map_err(|_| {
            format!("{text:?} is not a time: give a number with a unit, for example 60s, 5m or 2h")
        }),
    }
}

/// A number of sessions.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1000) => Ok(n),
        _ => Err("a number from 1 to 1000".to_owned()),
    }
}

/// A value that may stand in a request header.
pub fn header_safe(text: String) -> anyhow::Result<String> {
    let fine = (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    anyhow::ensure!(fine, "--worker-id must have 1 to 128 visible ASCII characters");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn args() -> ConnectionArgs {
        ConnectionArgs {
            environment_id: Some("env_1".into()),
            environment_key: Some("sk-ant-oat01-x\n".into()),
            environment_key_file: None,
            base_url: "http://127.0.0.1:1/p".into(),
        }
    }

    #[test]
    fn a_connection_is_checked_before_anything_starts() {
        let good = args().checked().unwrap();
        assert_eq!(good.key.unwrap().expose(), "sk-ant-oat01-x");
        assert_eq!(good.client.origin(), "http://127.0.0.1:1");
        let none = ConnectionArgs {
            environment_key: Some(String::new()),
            ..args()
        };
        assert!(none.checked().unwrap().key.is_none());
        for (bad, says) in [
            (
                ConnectionArgs {
                    environment_id: None,
                    ..args()
                },
                "ANTHROPIC_ENVIRONMENT_ID",
            ),
            (
                ConnectionArgs {
                    environment_id: Some("../x".into()),
                    ..args()
                },
                "environment id",
            ),
            (
                ConnectionArgs {
                    environment_key: Some("a b".into()),
                    ..args()
                },
                "characters",
            ),
            (
                ConnectionArgs {
                    base_url: "ftp://x".into(),
                    ..args()
                },
                "--base-url ftp://x",
            ),
        ] {
            let error = format!("{:#}", bad.checked().err().expect(says));
            assert!(error.contains(says), "{error}");
            assert!(!error.contains("sk-ant"), "{error}");
        }
    }

    #[test]
    fn a_key_file_must_be_private() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "  key-1\n").unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            key_file(file.path())
                .unwrap_err()
                .to_string()
                .contains("chmod 600")
        );
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(key_file(file.path()).unwrap().trim(), "key-1");
        std::fs::write(file.path(), "\n").unwrap();
        assert!(key_file(file.path()).is_err());
    }

    #[test]
    fn times() {
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for bad in ["", "60", "-1s", "x"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
