//! The sandbox that is attacked from inside: root in it, and what its owner knows of it.

use crate::host::Host;
use anyhow::Context;
use async_trait::async_trait;
use omnirun_egress_policy::{AuditLine, Policy};
use omnirun_escape_test::{Attacker, AttackerError, Sandbox as Owned};
use omnirun_guest_client::{ExecEvent, message::Exec};
use omnirun_ids::{ByteSize, SandboxId, TemplateName};
use omnirun_netns::Namespace;
use omnirun_network::OwnerNetwork;
use omnirun_sandboxes::{Card, ClaimSpec, Egress, IsolationGroup, Sandbox, SandboxSize, SandboxSpec};
use omnirun_store::AuditLog;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{Mutex, mpsc, watch};

/// How long a changed policy may take to be in force.
const IN_FORCE: Duration = Duration::from_secs(20);
/// A disk for one script.
const DISK: ByteSize = ByteSize::mib(256);

/// The sandbox.
pub(super) struct Subject {
    id: SandboxId,
    /// Until the attempts are over.
    sandbox: Mutex<Option<Sandbox>>,
    policy: watch::Sender<Arc<Policy>>,
    /// What is in force from early in the run on.
    then: Option<Arc<Policy>>,
    network: Arc<OwnerNetwork>,
    log: AuditLog,
}

impl Subject {
    /// Starts one under this policy; `then`: what follows it.
    pub(super) async fn start(
        host: &Host,
        template: &TemplateName,
        policy: Policy,
        then: Option<Policy>,
    ) -> anyhow::Result<Self> {
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
        let (policy, followed) = watch::channel(Arc::new(policy));
        let egress = Egress {
            policy: followed,
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
            id: sandbox.id().clone(),
            sandbox: Mutex::new(Some(sandbox)),
            policy,
            then: then.map(Arc::new),
            network: host.network.clone(),
            log: AuditLog::of(&host.data),
        })
    }

    /// Its network namespace, if it has a card.
    pub(super) fn namespace(&self) -> Option<Arc<Namespace>> {
        self.network.namespace(&self.id)
    }

    /// Ends it, and with it every connection: the proxy has said then what became of each.
    pub(super) async fn end(&self) {
        let Some(sandbox) = self.sandbox.lock().await.take() else {
            return;
        };
        let report = sandbox.kill().await;
        if !report.is_clean() {
            tracing::warn!(%report, "the sandbox of the test left something behind");
        }
    }

    async fn script(&self, script: &[u8], limit: u32, said: mpsc::Sender<Vec<u8>>) -> anyhow::Result<()> {
        let exec = Exec {
            argv: vec![b"python3".to_vec(), b"-".to_vec()],
            timeout_ms: u64::from(limit) * 1000,
            stdin: true,
            ..Exec::default()
        };
        let guest = self
            .sandbox
            .lock()
            .await
            .as_ref()
            .map(|sandbox| sandbox.guest().clone());
        let mut running = guest.context("it has ended")?.exec(exec).await?;
        let stdin = running.stdin();
        let write = async {
            if let Some(mut stdin) = stdin {
                // An interpreter that ended early does not read all of it; its output is what counts.
                let _ = stdin.write(script).await;
                stdin.close();
            }
        };
        let read = async {
            while let Some(event) = running.next().await {
                match event {
                    ExecEvent::Stdout(data) => {
                        if said.send(data.to_vec()).await.is_err() {
                            running.cancel();
                        }
                    }
                    ExecEvent::Stderr(data) => {
                        tracing::debug!(said = %String::from_utf8_lossy(&data).escape_debug(), "the script")
                    }
                }
            }
        };
        tokio::join!(write, read);
        running.wait().await.context("running python3 in the sandbox")?;
        Ok(())
    }
}

#[async_trait]
impl Attacker for Subject {
    async fn run(&self, script: &[u8], limit: u32, said: mpsc::Sender<Vec<u8>>) -> Result<(), AttackerError> {
        let ran = self.script(script, limit, said).await;
        ran.map_err(|error| AttackerError(format!("{error:#}")))
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

    async fn tighten(&self) -> Result<(), String> {
        let Some(then) = &self.then else { return Ok(()) };
        self.policy.send_replace(then.clone());
        let in_force = self.network.in_force(&self.id, then);
        match tokio::time::timeout(IN_FORCE, in_force).await {
            Ok(()) => Ok(()),
            Err(_) => Err("the stricter policy is not in force".to_owned()),
        }
    }

    async fn audit(&self) -> Result<Vec<AuditLine>, String> {
        // What the proxy has said by now is to be in the log.
        self.network.written().await;
        let lines = self.log.lines(self.id.as_str()).map_err(|e| e.to_string())?;
        Ok(lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }
}
