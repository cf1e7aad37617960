//! The sandbox that is attacked from inside: root in it, and what its owner knows of it.

use crate::host::Host;
use anyhow::Context;
use async_trait::async_trait;
use omnirun_egress_policy::{AuditLine, Policy};
use omnirun_escape_test::{Attacker, AttackerError, Sandbox as Owned, attacker::OUTPUT};
use omnirun_guest_client::{ExecEvent, message::Exec};
use omnirun_ids::{ByteSize, TemplateName};
use omnirun_netns::Namespace;
use omnirun_network::OwnerNetwork;
use omnirun_sandboxes::{Card, ClaimSpec, Egress, IsolationGroup, Sandbox, SandboxSize, SandboxSpec};
use omnirun_store::AuditLog;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;

/// A disk for one script.
const DISK: ByteSize = ByteSize::mib(256);

/// The sandbox.
pub(super) struct Subject {
    sandbox: Sandbox,
    network: Arc<OwnerNetwork>,
    log: AuditLog,
}

impl Subject {
    /// Starts one under this policy.
    pub(super) async fn start(host: &Host, template: &TemplateName, policy: Policy) -> anyhow::Result<Self> {
        let purpose = "omnirun escape-test".to_owned();
        let spec = SandboxSpec {
            image: Arc::new(host.images.get(template)?),
            size: SandboxSize::default(),
            group: IsolationGroup::local(),
            card: Card::of(policy.mode()),
            purpose: purpose.clone(),
            suspendable: false,
        };
        let empty = host.images.session_disk_template(DISK)?;
        let sandbox = host.engine.create(spec).await?;
        let (disk, disk_bytes) = host.engine.scratch_disk(empty).await?;
        let egress = Egress {
            policy: watch::channel(Arc::new(policy)).1,
            tightened: None,
            subject: None,
            session: None,
        };
        let claim = ClaimSpec {
            disk,
            disk_bytes,
            env: Vec::new(),
            user: "root".to_owned(),
            cwd: "/".to_owned(),
            egress: Some(egress),
            purpose,
        };
        sandbox.claim(claim).await.context("the sandbox of the test")?;
        Ok(Self {
            sandbox,
            network: host.network.clone(),
            log: AuditLog::of(&host.data),
        })
    }

    /// Its network namespace, if it has a card.
    pub(super) fn namespace(&self) -> Option<Arc<Namespace>> {
        self.network.namespace(self.sandbox.id())
    }

    /// Ends it.
    pub(super) async fn end(self) {
        let report = self.sandbox.kill().await;
        if !report.is_clean() {
            tracing::warn!(%report, "the sandbox of the test left something behind");
        }
    }

    async fn script(&self, script: &[u8], limit: u32) -> anyhow::Result<Vec<u8>> {
        let exec = Exec {
            argv: vec![b"python3".to_vec(), b"-".to_vec()],
            timeout_ms: u64::from(limit) * 1000,
            stdin: true,
            ..Exec::default()
        };
        let mut running = self.sandbox.guest().exec(exec).await?;
        let stdin = running.stdin();
        let write = async {
            if let Some(mut stdin) = stdin {
                // An interpreter that ended early does not read all of it; its output is what counts.
                let _ = stdin.write(script).await;
                stdin.close();
            }
        };
        let read = async {
            let mut output = Vec::new();
            while let Some(event) = running.next().await {
                match event {
                    // What is beyond the bound is read, so that the script goes on, and forgotten.
                    ExecEvent::Stdout(data) if output.len() < OUTPUT => output.extend_from_slice(&data),
                    ExecEvent::Stdout(_) => {}
                    ExecEvent::Stderr(data) => {
                        tracing::debug!(said = %String::from_utf8_lossy(&data).escape_debug(), "the script")
                    }
                }
            }
            output
        };
        let ((), output) = tokio::join!(write, read);
        running.wait().await.context("running python3 in the sandbox")?;
        Ok(output)
    }
}

#[async_trait]
impl Attacker for Subject {
    async fn run(&self, script: &[u8], limit: u32) -> Result<Vec<u8>, AttackerError> {
        let output = self.script(script, limit).await;
        output.map_err(|error| AttackerError(format!("{error:#}")))
    }
}

#[async_trait]
impl Owned for Subject {
    async fn rules(&self) -> Result<BTreeMap<String, u64>, String> {
        let mut rules: BTreeMap<String, u64> = BTreeMap::new();
        if let Some(namespace) = self.namespace() {
            let (inside, outside) = tokio::join!(namespace.rules(), namespace.host_rules());
            for rule in [inside, outside] {
                for rule in rule.map_err(|e| e.to_string())? {
                    *rules.entry(rule.name).or_default() += rule.packets;
                }
            }
        }
        Ok(rules)
    }

    async fn audit(&self) -> Result<Vec<AuditLine>, String> {
        // What the proxy has said by now is to be in the log.
        self.network.written().await;
        let lines = self
            .log
            .lines(self.sandbox.id().as_str())
            .map_err(|e| e.to_string())?;
        Ok(lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }
}
