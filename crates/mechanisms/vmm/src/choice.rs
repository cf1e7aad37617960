//! Which driver a process uses.

use crate::{Vmm, VmmError, accel, accel::Accel, firecracker, firecracker::Firecracker, qemu::Qemu};
use std::{fmt, path::Path, str::FromStr, sync::Arc};

/// What a user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DriverChoice {
    /// The best that works here.
    #[default]
    Auto,
    /// QEMU, on KVM or under emulation.
    Qemu,
    /// Firecracker under its jailer.
    Firecracker,
}

impl DriverChoice {
    /// All of them, as they are written.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Qemu, Self::Firecracker];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Qemu => "qemu",
            Self::Firecracker => "firecracker",
        }
    }
}

impl fmt::Display for DriverChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is none of a driver.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no driver {0:?}; there are auto, qemu and firecracker")]
pub struct UnknownDriver(String);

impl FromStr for DriverChoice {
    type Err = UnknownDriver;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|choice| choice.as_str() == text);
        found.ok_or_else(|| UnknownDriver(text.chars().take(40).collect()))
    }
}

/// The driver of that choice. Takes tens of milliseconds; once per process. `installed` is the folder in which
/// `omnirun setup` puts `firecracker` and `jailer`, `scratch` one for what is tried with them.
///
/// By itself the choice falls on Firecracker where KVM runs stock kernels, both programs are there and we are root; else
/// on QEMU. If all of that is so and Firecracker does not work all the same, that is logged.
///
/// # Errors
/// [`VmmError`]: why the driver that was asked for, or the last one left, cannot be used.
pub async fn detect(
    choice: DriverChoice,
    installed: Option<&Path>,
    scratch: &Path,
) -> Result<Arc<dyn Vmm>, VmmError> {
    match choice {
        DriverChoice::Qemu => {}
        DriverChoice::Firecracker => {
            if let Accel::Emulation { reason } = accelerator().await {
                return Err(VmmError::Unfit {
                    driver: "Firecracker",
                    reason,
                });
            }
            return Ok(Arc::new(Firecracker::find(installed, scratch).await?));
        }
        DriverChoice::Auto => {
            // The probe last: where the programs are missing, QEMU's own search runs beside it.
            let possible = rustix::process::geteuid().is_root() && firecracker::is_there(installed);
            if possible && accelerator().await == Accel::Kvm {
                match Firecracker::find(installed, scratch).await {
                    Ok(found) => return Ok(Arc::new(found)),
                    Err(error) => tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "Firecracker is there and cannot be used; QEMU it is"
                    ),
                }
            }
        }
    }
    Ok(Arc::new(Qemu::find().await?))
}

async fn accelerator() -> Accel {
    let found = tokio::task::spawn_blocking(accel::detect).await;
    found.unwrap_or_else(|_| Accel::Emulation {
        reason: "the probe of /dev/kvm failed".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_it_is_read() {
        for choice in DriverChoice::ALL {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        let error = "Xen".parse::<DriverChoice>().expect_err("none");
        assert!(error.to_string().contains("\"Xen\""), "{error}");
    }

    #[tokio::test]
    async fn a_forced_firecracker_that_cannot_work_says_why() {
        if accel::detect() == Accel::Kvm {
            return;
        }
        let error = detect(DriverChoice::Firecracker, None, &std::env::temp_dir())
            .await
            .map(drop)
            .expect_err("no KVM");
        assert!(error.to_string().contains("/dev/kvm"), "{error}");
    }
}
