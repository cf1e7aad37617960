//! Figures of how a sandbox comes and goes.

use crate::{BenchError, Figure, Floor, Samples, Setup, floor::ANSWER_LIMIT};
use omnirun_guest_client::GuestClient;
use omnirun_guest_proto::message::Exec;
use omnirun_images::copy_sparse;
use omnirun_sandboxes::{Begun, ClaimSpec, EngineError, First, Sandbox, SandboxSpec};
use std::{
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Idle clones that a memory figure is the mean of.
const IDLE_CLONES: usize = 4;
/// Cold boots are slow, and nothing is demanded of them.
const COLD_BOOTS: usize = 5;

/// Takes the figures; ours and the floor's in turn.
///
/// # Errors
/// [`BenchError`].
pub async fn boots(setup: &Setup, floor: &Floor) -> Result<Vec<Figure>, BenchError> {
    let mut figures = Vec::new();
    (setup.say)("cold boot");
    figures.push(cold_boot(setup, floor).await?);
    (setup.say)("clone to first exec");
    figures.extend(clone_to_first_exec(setup, floor).await?);
    (setup.say)("warm claim to first exec");
    figures.extend(warm_claim(setup, floor).await?);
    (setup.say)("idle clones");
    figures.push(idle_memory(setup, floor).await?);
    Ok(figures)
}

/// The command that every exec figure runs.
pub(crate) fn shell_true() -> Exec {
    Exec {
        argv: vec![b"true".to_vec()],
        shell: true,
        ..Exec::default()
    }
}

/// A session disk of the bench's own.
pub(crate) struct BenchDisk {
    path: PathBuf,
    bytes: u64,
}

impl BenchDisk {
    pub(crate) fn new(setup: &Setup, name: &str) -> Result<Self, BenchError> {
        let template = setup
            .images
            .session_disk_template(omnirun_ids::ByteSize(setup.disk_bytes))?;
        let path = setup.dir.join(name);
        copy_sparse(&template, &path)?;
        Ok(Self {
            path,
            bytes: setup.disk_bytes,
        })
    }

    pub(crate) fn open(&self) -> Result<(OwnedFd, u64), BenchError> {
        let file = File::options().read(true).write(true).open(&self.path);
        let file = file.map_err(|source| BenchError::File {
            step: "open",
            path: self.path.clone(),
            source,
        })?;
        Ok((file.into(), self.bytes))
    }

    pub(crate) fn claim(&self) -> Result<ClaimSpec, BenchError> {
        let (disk, disk_bytes) = self.open()?;
        Ok(ClaimSpec {
            disk,
            disk_bytes,
            env: Vec::new(),
            user: String::new(),
            cwd: String::new(),
            egress: None,
            purpose: "omnirun bench".to_owned(),
        })
    }
}

impl Drop for BenchDisk {
    fn drop(&mut self) {
        // The folder goes with the bench in any case.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Waits for a begun exec that has to succeed.
pub(crate) async fn finish(begun: Begun) -> Result<(), BenchError> {
    let Begun::Exec(mut exec) = begun else {
        return Err(BenchError::Command("nothing begun".to_owned()));
    };
    while exec.next().await.is_some() {}
    let exited = exec.wait().await?;
    match exited.code {
        Some(0) => Ok(()),
        _ => Err(BenchError::Command(format!(
            "code {:?}, signal {:?}",
            exited.code, exited.signal
        ))),
    }
}

/// The durable record that a claim is not without: one small file, written and renamed.
fn record(dir: &Path) -> Result<(), BenchError> {
    let (new, path) = (dir.join("record.new"), dir.join("record"));
    let failed = |source| BenchError::File {
        step: "write",
        path: path.clone(),
        source,
    };
    std::fs::write(&new, b"claimed\n").map_err(failed)?;
    std::fs::rename(&new, &path).map_err(failed)
}

async fn cold_boot(setup: &Setup, floor: &Floor) -> Result<Figure, BenchError> {
    let (mut ours, mut least) = (Samples::default(), Samples::default());
    for _ in 0..COLD_BOOTS {
        let start = Instant::now();
        let vm = floor.boot().await?;
        least.push_ms(start.elapsed());
        vm.end().await?;
        ours.push_ms(our_cold_boot(setup, floor).await?);
    }
    Ok(Figure::time("cold_boot", &ours, Some(&least)))
}

/// A cold boot of the real agent up to its first answer, driven as the floor's is.
async fn our_cold_boot(setup: &Setup, floor: &Floor) -> Result<Duration, BenchError> {
    let (identity, run_dir) = floor.identity()?;
    let start = Instant::now();
    let vm = setup
        .vmm
        .start(floor.boot_spec(identity, &setup.image.initramfs))
        .await?;
    let guest = GuestClient::connect(vm.channel().await?, ANSWER_LIMIT).await?;
    guest.ping().await?;
    let took = start.elapsed();
    vm.kill();
    vm.wait().await;
    std::fs::remove_dir_all(&run_dir).map_err(|source| BenchError::File {
        step: "remove",
        path: run_dir,
        source,
    })?;
    Ok(took)
}

/// A new clone that has run a command, and how long that took.
pub(crate) async fn create_to_first_exec(
    setup: &Setup,
    spec: SandboxSpec,
    claim: ClaimSpec,
) -> Result<(Sandbox, Duration), BenchError> {
    let start = Instant::now();
    let claim = async move { Ok::<_, EngineError>(claim) };
    let (sandbox, _, begun) = setup
        .engine
        .create_claimed(spec, claim, First::Exec(shell_true()))
        .await?;
    finish(begun).await?;
    Ok((sandbox, start.elapsed()))
}

async fn clone_to_first_exec(setup: &Setup, floor: &Floor) -> Result<Vec<Figure>, BenchError> {
    let (mut ours, mut least) = (Samples::default(), Samples::default());
    let (mut ours_end, mut least_end) = (Samples::default(), Samples::default());
    let mut phases: Vec<(&'static str, Samples)> = Vec::new();
    for _ in 0..setup.rounds {
        let disk = BenchDisk::new(setup, "floor.disk")?;
        let start = Instant::now();
        let mut vm = floor.clone_vm().await?;
        let (file, bytes) = disk.open()?;
        vm.attach(file, bytes).await?;
        vm.ask("mount", "ok").await?;
        vm.ask("run", "exit 0").await?;
        least.push_ms(start.elapsed());
        let start = Instant::now();
        vm.end().await?;
        least_end.push_ms(start.elapsed());

        let disk = BenchDisk::new(setup, "ours.disk")?;
        let (sandbox, took) = create_to_first_exec(setup, setup.spec(), disk.claim()?).await?;
        ours.push_ms(took);
        add_phases(&mut phases, &sandbox);
        let start = Instant::now();
        sandbox.kill().await;
        ours_end.push_ms(start.elapsed());
    }
    let mut figures = vec![
        Figure::time("clone_to_first_exec", &ours, Some(&least)),
        Figure::time("teardown", &ours_end, Some(&least_end)),
    ];
    for (name, samples) in &phases {
        figures.push(Figure::time(name, samples, None));
    }
    Ok(figures)
}

/// Adds the engine's own phases under the names that a report has for them.
fn add_phases(phases: &mut Vec<(&'static str, Samples)>, sandbox: &Sandbox) {
    for (phase, took) in sandbox.timings() {
        let name = match phase {
            "restore" => "clone_restore",
            "connect" => "clone_connect",
            "wake" => "clone_wake",
            "attach" => "clone_attach",
            "claim" => "clone_claim",
            _ => continue,
        };
        match phases.iter_mut().find(|(known, _)| *known == name) {
            Some((_, samples)) => samples.push_ms(took),
            None => {
                let mut samples = Samples::default();
                samples.push_ms(took);
                phases.push((name, samples));
            }
        }
    }
}

async fn warm_claim(setup: &Setup, floor: &Floor) -> Result<Vec<Figure>, BenchError> {
    let (mut ours, mut least) = (Samples::default(), Samples::default());
    for _ in 0..setup.rounds {
        let disk = BenchDisk::new(setup, "floor.disk")?;
        let mut vm = floor.clone_vm().await?;
        vm.ask("ping", "pong").await?;
        let start = Instant::now();
        record(&setup.dir)?;
        let (file, bytes) = disk.open()?;
        vm.attach(file, bytes).await?;
        vm.ask("mount", "ok").await?;
        vm.ask("run", "exit 0").await?;
        least.push_ms(start.elapsed());
        vm.end().await?;

        let disk = BenchDisk::new(setup, "ours.disk")?;
        let sandbox = setup.engine.create(setup.spec()).await?;
        let start = Instant::now();
        let (_, begun) = sandbox
            .claim_with(disk.claim()?, First::Exec(shell_true()))
            .await?;
        finish(begun).await?;
        ours.push_ms(start.elapsed());
        sandbox.kill().await;
    }
    Ok(vec![Figure::time(
        "warm_claim_to_first_exec",
        &ours,
        Some(&least),
    )])
}

async fn idle_memory(setup: &Setup, floor: &Floor) -> Result<Figure, BenchError> {
    const MIB: f64 = (1u64 << 20) as f64;
    let (mut ours, mut least) = (Samples::default(), Samples::default());
    let mut vms = Vec::new();
    for _ in 0..IDLE_CLONES {
        let mut vm = floor.clone_vm().await?;
        vm.ask("ping", "pong").await?;
        vms.push(vm);
    }
    for vm in &vms {
        least.push(vm.memory()? as f64 / MIB);
    }
    for vm in vms {
        vm.end().await?;
    }
    let mut sandboxes = Vec::new();
    for _ in 0..IDLE_CLONES {
        sandboxes.push(setup.engine.create(setup.spec()).await?);
    }
    for sandbox in &sandboxes {
        ours.push(sandbox.memory().await?.0 as f64 / MIB);
    }
    for sandbox in sandboxes {
        sandbox.kill().await;
    }
    Ok(Figure::memory("idle_clone_memory", &ours, Some(&least)))
}
