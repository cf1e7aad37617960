//! A run: plan, capture, attempts, judgement.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use omnirun_egress_policy::{AuditLine, Mode};
use omnirun_guest_net::{GATEWAY_IP, GATEWAY_MAC, GUEST_IP, GUEST_MAC};
use omnirun_sys::host::{net, packet::PacketSocket};
use tokio::sync::mpsc;

use crate::{
    attacker::{self, Attacker, AttackerError, Patience},
    attempts::{Act, Attempt, From, Phase, attempts},
    capture::{Capture, CaptureError, Place, Wanted},
    judge::{Evidence, judge},
    lab::Records,
    nonce::Nonce,
    report::Report,
    world::World,
};

/// The sandbox, seen from its owner.
#[async_trait]
pub trait Sandbox: Send + Sync {
    /// How many packets each of its network's rules has met, its own and those of the host's that are for it. Without a
    /// network: none.
    ///
    /// # Errors
    /// In words.
    async fn rules(&self) -> Result<BTreeMap<String, u64>, String>;

    /// Puts the policy in force that the attempts are about, in place of the less strict one that the sandbox began with,
    /// for live connections too. Called once, early in the run; where there is no other policy it has nothing to do.
    ///
    /// # Errors
    /// In words.
    async fn tighten(&self) -> Result<(), String>;

    /// What the proxy has logged of it since it was made. Called when all attempts are over; connections that have ended
    /// by then must be in it.
    ///
    /// # Errors
    /// In words.
    async fn audit(&self) -> Result<Vec<AuditLine>, String>;
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The capture is of no use.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The guest does not do what it is told.
    #[error(transparent)]
    Attacker(#[from] AttackerError),
    /// The sandbox's own side could not be asked.
    #[error("{0}")]
    Sandbox(String),
    /// An attempt that is not the guest's could not be made.
    #[error("frames could not be sent by {link}")]
    Other {
        /// Which link.
        link: String,
        /// Why.
        source: io::Error,
    },
    /// The plan could not be written.
    #[error("writing the plan for the guest")]
    Plan(#[from] serde_json::Error),
}

/// What to run.
pub struct Run<'a> {
    /// The mode of the sandbox.
    pub mode: Mode,
    /// What there is to aim at.
    pub world: &'a World,
    /// Where to look.
    pub places: Vec<Place>,
    /// The lab's records, if it is one.
    pub records: Option<&'a Records>,
    /// What the sandbox runs on, for the report.
    pub driver: String,
    /// Where attempts that are not the guest's are made, if they can be: for each who makes them, the namespace and the
    /// link to send by.
    pub others: Vec<(From, Arc<OwnedFd>, String)>,
    /// How much time there is.
    pub patience: Patience,
    /// Which attempts: all for which this is true. None: all.
    pub only: Option<&'a (dyn Fn(&Attempt) -> bool + Sync)>,
}

/// Seconds that an interpreter may take to start, besides what its plan says.
const START: u32 = 60;

impl Run<'_> {
    /// Makes the attempts and judges them.
    ///
    /// # Errors
    /// [`RunError`]: nothing can be said.
    pub async fn run(&self, attacker: &dyn Attacker, sandbox: &dyn Sandbox) -> Result<Report, RunError> {
        let begun = Instant::now();
        let mut attempts = attempts(self.mode, self.world);
        if let Some(only) = self.only {
            attempts.retain(|attempt| only(attempt));
        }
        let nonces: Vec<Nonce> = attempts.iter().map(|attempt| attempt.nonce).collect();
        if let Some(records) = self.records {
            records.look_for(&nonces);
        }
        let capture = Capture::begin(&self.places, &wanted(&attempts, self.world))?;
        tokio::task::block_in_place(|| capture.prove())?;
        let before = sandbox.rules().await.map_err(RunError::Sandbox)?;
        let mut lines = self.early(&attempts, attacker, sandbox).await?;
        for phase in [Phase::Before, Phase::Main, Phase::Flood, Phase::After] {
            lines.extend(self.phase(phase, &attempts, attacker).await?);
            tokio::task::block_in_place(|| self.others(phase, &attempts))?;
        }
        let after = sandbox.rules().await.map_err(RunError::Sandbox)?;
        let audit = sandbox.audit().await.map_err(RunError::Sandbox)?;
        let hits = tokio::task::block_in_place(|| capture.end())?;
        let evidence = Evidence {
            lines,
            hits,
            records: self.records.map(Records::seen).unwrap_or_default(),
            rules: after
                .into_iter()
                .map(|(rule, count)| {
                    let met = count.saturating_sub(before.get(&rule).copied().unwrap_or_default());
                    (rule, met)
                })
                .collect(),
            audit,
        };
        let judgements = judge(&attempts, &evidence, self.world.lab);
        Ok(Report::new(
            self.mode,
            self.world.lab,
            self.driver.clone(),
            &attempts,
            judgements,
            &evidence.hits,
            begun.elapsed().as_secs_f64(),
        ))
    }

    async fn phase(
        &self,
        phase: Phase,
        attempts: &[Attempt],
        attacker: &dyn Attacker,
    ) -> Result<HashMap<String, attacker::Line>, RunError> {
        let Some((script, _)) = self.script(phase, attempts)? else {
            return Ok(HashMap::new());
        };
        let output = self
            .listen(&script, attacker, |_| None::<std::future::Ready<_>>)
            .await?;
        Ok(attacker::lines(&output))
    }

    /// The attempts whose connections the tightened policy has to end.
    async fn early(
        &self,
        attempts: &[Attempt],
        attacker: &dyn Attacker,
        sandbox: &dyn Sandbox,
    ) -> Result<HashMap<String, attacker::Line>, RunError> {
        let mut lines = HashMap::new();
        let mut tightened = false;
        if let Some((script, count)) = self.script(Phase::Early, attempts)? {
            let output = self
                .listen(&script, attacker, |output| {
                    let now = !tightened && attacker::ready(output) >= count;
                    tightened |= now;
                    now.then(|| sandbox.tighten())
                })
                .await?;
            lines = attacker::lines(&output);
        }
        if !tightened {
            sandbox.tighten().await.map_err(RunError::Sandbox)?;
        }
        Ok(lines)
    }

    /// What the guest is to do in a phase, and how many attempts that is.
    fn script(&self, phase: Phase, attempts: &[Attempt]) -> Result<Option<(Vec<u8>, usize)>, RunError> {
        let todo: Vec<&Attempt> = attempts
            .iter()
            .filter(|attempt| attempt.phase == phase && attempt.from == From::Guest)
            .filter(|attempt| attempt.act != Act::Nothing)
            .collect();
        if todo.is_empty() {
            return Ok(None);
        }
        Ok(Some((attacker::script(&todo, phase, self.patience)?, todo.len())))
    }

    /// Runs a script, and returns what it said. `react` sees that grow, and may have something done meanwhile.
    async fn listen<F: Future<Output = Result<(), String>>>(
        &self,
        script: &[u8],
        attacker: &dyn Attacker,
        mut react: impl FnMut(&[u8]) -> Option<F>,
    ) -> Result<Vec<u8>, RunError> {
        let limit = self.patience.deadline + START;
        let (sender, mut said) = mpsc::channel(64);
        let collect = async {
            let mut output = Vec::new();
            while let Some(piece) = said.recv().await {
                output.extend(piece);
                if output.len() > attacker::OUTPUT {
                    break;
                }
                if let Some(reaction) = react(&output) {
                    reaction.await.map_err(RunError::Sandbox)?;
                }
            }
            // Nobody takes more: that ends the program.
            drop(said);
            Ok::<_, RunError>(output)
        };
        let both = async { tokio::join!(attacker.run(script, limit, sender), collect) };
        // The attacker keeps to the limit by itself; should it not, nothing waits for ever.
        let most = Duration::from_secs(u64::from(limit) + 30);
        let (ran, output) = tokio::time::timeout(most, both)
            .await
            .map_err(|_| AttackerError("it did not end".to_owned()))?;
        ran?;
        output
    }
}

impl Run<'_> {
    /// What is not the guest's to do.
    fn others(&self, phase: Phase, attempts: &[Attempt]) -> Result<(), RunError> {
        for (from, namespace, link) in &self.others {
            let frames: Vec<&[u8]> = attempts
                .iter()
                .filter(|attempt| attempt.phase == phase && attempt.from == *from)
                .flat_map(|attempt| attempt.act.frames())
                .collect();
            if frames.is_empty() {
                continue;
            }
            net::in_namespace(namespace.as_fd(), || {
                let socket = PacketSocket::open()?;
                let link = rustix::net::netdevice::name_to_index(&socket, link)?;
                frames.iter().try_for_each(|frame| socket.send(link, frame))
            })
            .map_err(|source| RunError::Other {
                link: link.clone(),
                source,
            })?;
        }
        Ok(())
    }
}

/// What the capture is to look for. Outside of a lab others may go where an attempt does, and use the addresses of our
/// sandboxes' links (a host with 464XLAT has some of those): there, nonces have to do.
fn wanted(attempts: &[Attempt], world: &World) -> Wanted {
    let tuples = attempts.iter().enumerate().flat_map(|(index, attempt)| {
        let tuples = attempt.tuples.iter();
        tuples.map(move |(protocol, to)| (index, *protocol, *to))
    });
    Wanted {
        nonces: attempts.iter().map(|attempt| attempt.nonce).collect(),
        tuples: tuples.filter(|_| world.lab).collect(),
        addresses: [GUEST_IP.into(), GATEWAY_IP.into()]
            .into_iter()
            .filter(|address| !world.host.contains(address))
            .collect(),
        hardware: vec![GUEST_MAC, GATEWAY_MAC],
    }
}
