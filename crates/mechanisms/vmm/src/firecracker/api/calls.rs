//! The calls that the driver makes, in Firecracker's words.

use super::{ApiError, Client};
use crate::{CardRate, DiskRate};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// For calls that do nothing slow. A host under load may be slow all the same.
const COMMAND: Duration = Duration::from_secs(30);
/// For what moves a whole machine.
const MOVE: Duration = Duration::from_secs(120);

/// `PUT /machine-config`
#[derive(Debug, Serialize)]
pub(crate) struct MachineConfig {
    pub(crate) vcpu_count: u32,
    pub(crate) mem_size_mib: u64,
    pub(crate) smt: bool,
    pub(crate) track_dirty_pages: bool,
}

/// `PUT /boot-source`
#[derive(Debug, Serialize)]
pub(crate) struct BootSource<'a> {
    pub(crate) kernel_image_path: &'a str,
    pub(crate) initrd_path: &'a str,
    pub(crate) boot_args: &'a str,
}

/// `PUT /drives/ID`
#[derive(Debug, Serialize)]
pub(crate) struct Drive<'a> {
    pub(crate) drive_id: &'a str,
    pub(crate) path_on_host: &'a str,
    pub(crate) is_root_device: bool,
    pub(crate) is_read_only: bool,
    /// `Unsafe`: a flush of the guest reaches the host's page cache, which outlives every process here.
    pub(crate) cache_type: &'a str,
}

/// `PATCH /drives/ID`
#[derive(Debug, Serialize)]
struct DriveUpdate<'a> {
    drive_id: &'a str,
    path_on_host: &'a str,
    rate_limiter: RateLimiter,
}

/// What a device passes.
#[derive(Debug, Serialize)]
pub(crate) struct RateLimiter {
    bandwidth: TokenBucket,
    ops: TokenBucket,
}

/// Holds `size` tokens, and is filled within `refill_time` milliseconds.
#[derive(Debug, Serialize)]
struct TokenBucket {
    size: u64,
    refill_time: u64,
}

impl RateLimiter {
    /// So many bytes and operations a second; `burst` seconds' worth at once, after a rest.
    fn new(bytes: u64, operations: u64, burst: u64) -> Self {
        let bucket = |a_second: u64| TokenBucket {
            size: a_second.saturating_mul(burst),
            refill_time: burst * 1000,
        };
        Self {
            bandwidth: bucket(bytes),
            ops: bucket(operations),
        }
    }
}

impl From<DiskRate> for RateLimiter {
    fn from(rate: DiskRate) -> Self {
        Self::new(rate.bytes, rate.operations, DiskRate::BURST)
    }
}

impl From<CardRate> for RateLimiter {
    fn from(rate: CardRate) -> Self {
        Self::new(rate.bytes, rate.packets, CardRate::BURST)
    }
}

/// `PUT /vsock`
#[derive(Debug, Serialize)]
pub(crate) struct Vsock<'a> {
    pub(crate) guest_cid: u32,
    pub(crate) uds_path: &'a str,
}

/// `PUT /network-interfaces/ID`
#[derive(Debug, Serialize)]
pub(crate) struct NetworkInterface<'a> {
    pub(crate) iface_id: &'a str,
    pub(crate) guest_mac: &'a str,
    pub(crate) host_dev_name: &'a str,
    pub(crate) rx_rate_limiter: RateLimiter,
    pub(crate) tx_rate_limiter: RateLimiter,
}

/// `PUT /entropy`
#[derive(Debug, Serialize)]
pub(crate) struct Entropy {}

/// `PUT /actions`
#[derive(Debug, Serialize)]
#[serde(tag = "action_type")]
pub(crate) enum Action {
    InstanceStart,
}

/// `PATCH /vm`
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(tag = "state")]
pub(crate) enum State {
    Paused,
    Resumed,
}

/// `PUT /snapshot/create`
#[derive(Debug, Serialize)]
pub(crate) struct Snapshot<'a> {
    pub(crate) snapshot_type: &'a str,
    pub(crate) snapshot_path: &'a str,
    pub(crate) mem_file_path: &'a str,
}

/// `PUT /snapshot/load`
#[derive(Debug, Serialize)]
pub(crate) struct LoadSnapshot<'a> {
    pub(crate) snapshot_path: &'a str,
    pub(crate) mem_backend: MemoryBackend<'a>,
    pub(crate) track_dirty_pages: bool,
    pub(crate) resume_vm: bool,
}

/// Where a clone's memory comes from.
#[derive(Debug, Serialize)]
#[serde(tag = "backend_type", content = "backend_path")]
pub(crate) enum MemoryBackend<'a> {
    /// A file, mapped privately.
    File(&'a str),
}

impl Client {
    pub(crate) async fn machine_config(&self, config: &MachineConfig) -> Result<(), ApiError> {
        self.put("/machine-config", config, COMMAND).await
    }

    pub(crate) async fn boot_source(&self, source: &BootSource<'_>) -> Result<(), ApiError> {
        self.put("/boot-source", source, COMMAND).await
    }

    pub(crate) async fn drive(&self, drive: &Drive<'_>) -> Result<(), ApiError> {
        self.put(&format!("/drives/{}", drive.drive_id), drive, COMMAND)
            .await
    }

    /// Puts another file behind a drive, which passes no more than this.
    pub(crate) async fn swap_drive(
        &self,
        drive_id: &str,
        path_on_host: &str,
        rate: DiskRate,
    ) -> Result<(), ApiError> {
        let body = DriveUpdate {
            drive_id,
            path_on_host,
            rate_limiter: rate.into(),
        };
        self.patch(&format!("/drives/{drive_id}"), &body, COMMAND).await
    }

    pub(crate) async fn vsock(&self, vsock: &Vsock<'_>) -> Result<(), ApiError> {
        self.put("/vsock", vsock, COMMAND).await
    }

    pub(crate) async fn network_interface(&self, interface: &NetworkInterface<'_>) -> Result<(), ApiError> {
        self.put(
            &format!("/network-interfaces/{}", interface.iface_id),
            interface,
            COMMAND,
        )
        .await
    }

    pub(crate) async fn entropy(&self, entropy: &Entropy) -> Result<(), ApiError> {
        self.put("/entropy", entropy, COMMAND).await
    }

    pub(crate) async fn act(&self, action: &Action) -> Result<(), ApiError> {
        self.put("/actions", action, MOVE).await
    }

    pub(crate) async fn set_state(&self, state: State) -> Result<(), ApiError> {
        self.patch("/vm", &state, COMMAND).await
    }

    pub(crate) async fn create_snapshot(&self, snapshot: &Snapshot<'_>) -> Result<(), ApiError> {
        self.put("/snapshot/create", snapshot, MOVE).await
    }

    pub(crate) async fn load_snapshot(&self, snapshot: &LoadSnapshot<'_>) -> Result<(), ApiError> {
        self.put("/snapshot/load", snapshot, MOVE).await
    }

    /// The version of the process that answers.
    pub(crate) async fn version(&self) -> Result<String, ApiError> {
        #[derive(Deserialize)]
        struct Version {
            firecracker_version: String,
        }
        let answer: Version = self.get("/version", COMMAND).await?;
        Ok(answer.firecracker_version)
    }
}
