//! What an owner task says to a guest, and its bounds and errors.

use super::random;
use crate::{EngineError, snapshot::Template, spec::ClaimSpec};
use omnirun_guest_client::{
    ClientError, GuestClient,
    message::{Claim as ClaimRequest, EnvVar, Wake},
};
use omnirun_ids::SandboxId;
use omnirun_vmm::{ChannelStream, DeviceState, Vm, VmmError};
use std::{
    future::Future,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The first answer of a clone takes 20 ms, under emulation and load seconds. After this it is hung.
pub(super) const WAKE_LIMIT: Duration = Duration::from_secs(30);
/// How often a clone is dialled whose connection ends before it has answered.
const DIALS: u32 = 3;

/// For the guest to notice the end of the connection and to come to rest. There is no event for it.
const SETTLE: Duration = Duration::from_millis(250);

/// Lets go of the guest, pauses the machine and writes it to files, which `step` says in words.
pub(crate) async fn save(
    id: &SandboxId,
    vm: &dyn Vm,
    guest: GuestClient,
    to: &DeviceState,
    step: &'static str,
) -> Result<(), EngineError> {
    // A clone finds no open connection of ours in its memory.
    drop(guest);
    // Nor does it have to deal with the end of it: the guest does that, and comes to rest, before.
    tokio::time::sleep(SETTLE).await;
    vm.pause()
        .await
        .map_err(|source| vmm_error(id, "pause", source))?;
    vm.snapshot(to)
        .await
        .map_err(|source| vmm_error(id, step, source))
}

pub(crate) fn vmm_error(id: &SandboxId, step: &'static str, source: VmmError) -> EngineError {
    EngineError::Vmm {
        sandbox: id.clone(),
        step,
        source,
    }
}

fn timeout(id: &SandboxId, step: &'static str, limit: Duration) -> EngineError {
    EngineError::Timeout {
        sandbox: id.clone(),
        step,
        seconds: limit.as_secs(),
    }
}

/// The agent's first answer, with a bound.
pub(crate) async fn connect(
    id: &SandboxId,
    stream: ChannelStream,
    limit: Duration,
) -> Result<GuestClient, EngineError> {
    GuestClient::connect(stream, limit)
        .await
        .map_err(|source| match source {
            ClientError::Timeout => timeout(id, "answer", limit),
            source => EngineError::Guest {
                sandbox: id.clone(),
                step: "answer",
                source,
            },
        })
}

/// Dials the agent of a clone that is being resumed, and exchanges prefaces with it.
///
/// A restored guest resets the connections of its vsock as one of its first acts, which may take the new one along
/// (Firecracker's documentation of snapshots, "Vsock device reset"). Nothing was asked yet, so it is dialled again.
pub(super) async fn greet(id: &SandboxId, vm: &dyn Vm) -> Result<GuestClient, EngineError> {
    let mut dials = 1;
    loop {
        let stream = vm
            .channel()
            .await
            .map_err(|source| vmm_error(id, "open the channel", source))?;
        match connect(id, stream, WAKE_LIMIT).await {
            Err(EngineError::Guest {
                source: ClientError::Closed,
                ..
            }) if dials < DIALS => dials += 1,
            greeted => return greeted,
        }
    }
}

/// A call to the guest, with a bound: nothing waits for a guest without one.
pub(crate) async fn bounded<T>(
    id: &SandboxId,
    step: &'static str,
    limit: Duration,
    call: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, EngineError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(EngineError::Guest {
            sandbox: id.clone(),
            step,
            source,
        }),
        Err(_) => Err(timeout(id, step, limit)),
    }
}

pub(super) fn realtime_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Everything of a wake but the time, which is read when it is sent.
pub(super) fn wake_request(id: &SandboxId) -> Result<Wake, EngineError> {
    let random: [u8; 80] = random()?;
    let (entropy, machine) = random.split_at(64);
    let digits = id.as_str().trim_start_matches("sbx_");
    Ok(Wake {
        entropy: entropy.to_vec(),
        realtime_ns: 0,
        hostname: format!("sandbox-{}", digits.get(..12).unwrap_or(digits)),
        machine_id: hex::encode(machine),
    })
}

/// The template's identity under the claim's own.
pub(super) fn claim_request(spec: &ClaimSpec, template: &Template) -> ClaimRequest {
    let recipe = &template.image.template;
    let theirs = recipe.env.iter();
    let own = spec.env.iter().map(|(name, value)| (name, value));
    let or = |given: &str, default: &str| {
        if given.is_empty() {
            default.to_owned()
        } else {
            given.to_owned()
        }
    };
    ClaimRequest {
        realtime_ns: realtime_ns(),
        disk_bytes: spec.disk_bytes,
        env: theirs
            .filter(|(name, _)| !spec.env.iter().any(|(n, _)| n == *name))
            .chain(own)
            .map(|(name, value)| EnvVar {
                name: name.clone(),
                value: value.clone(),
            })
            .collect(),
        user: or(&spec.user, &recipe.user),
        cwd: or(&spec.cwd, &recipe.workdir),
        hostname: String::new(),
    }
}
