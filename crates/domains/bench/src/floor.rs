//! Floors: the minimal agent, driven with nothing of ours in between but the VMM driver.
//!
//! The VMM's command line is the driver's, so that both sides have the same machine; agent, protocol, snapshot and
//! sequence are the floor's own.

use crate::BenchError;
use omnirun_ids::SandboxId;
use omnirun_images::{Image, ImageStore};
use omnirun_vmm::{
    AttachDisk, BootSpec, ChannelStream, CloneSpec, DeviceState, MachineSize, Vm, VmIdentity, Vmm,
};
use std::{
    fs::{self, File},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

/// What one answer may take; a loaded machine under emulation is slow.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// A snapshot of the minimal agent, and all that is needed to clone it.
pub struct Floor {
    vmm: Arc<dyn Vmm>,
    image: Image,
    initramfs: PathBuf,
    size: MachineSize,
    dir: PathBuf,
    memory: Arc<OwnedFd>,
    state: Arc<OwnedFd>,
}

/// One machine with the minimal agent.
pub struct FloorVm {
    vm: Box<dyn Vm>,
    stream: BufReader<ChannelStream>,
    run_dir: PathBuf,
}

impl Floor {
    /// Boots the minimal agent once and makes its snapshot in `dir`.
    ///
    /// # Errors
    /// [`BenchError`] of the step that failed.
    pub async fn prepare(
        vmm: Arc<dyn Vmm>,
        images: &ImageStore,
        image: &Image,
        size: MachineSize,
        dir: &Path,
    ) -> Result<Self, BenchError> {
        let initramfs = images.compose_initramfs(image, omnirun_guest_bin::FLOOR)?;
        let to = DeviceState {
            memory: dir.join("floor.memory"),
            state: dir.join("floor.state"),
        };
        let (identity, run_dir) = identity(dir)?;
        let vm = answering(&vmm, boot_spec(image, size, identity, &initramfs), run_dir).await?;
        let FloorVm { vm, stream, run_dir } = vm;
        drop(stream);
        // The guest has to notice the end of the connection; there is no event for it on this side.
        tokio::time::sleep(Duration::from_millis(250)).await;
        vm.pause().await?;
        vm.snapshot(&to).await?;
        vm.kill();
        vm.wait().await;
        remove(&run_dir)?;
        let memory = vmm.open_memory(&to.memory).await?;
        let state = File::open(&to.state).map_err(|source| BenchError::File {
            step: "open",
            path: to.state.clone(),
            source,
        })?;
        Ok(Self {
            image: image.clone(),
            initramfs,
            size,
            dir: dir.to_path_buf(),
            memory,
            state: Arc::new(state.into()),
            vmm,
        })
    }

    /// A clone, running, connected; nothing asked yet.
    ///
    /// # Errors
    /// [`BenchError`].
    pub async fn clone_vm(&self) -> Result<FloorVm, BenchError> {
        let (identity, run_dir) = self.identity()?;
        let vm = self
            .vmm
            .restore(CloneSpec {
                identity,
                base: self.image.base.clone(),
                size: self.size,
                network: None,
                memory: self.memory.clone(),
                state: self.state.clone(),
                disk: None,
                tracked: false,
            })
            .await?;
        vm.resume().await?;
        let stream = BufReader::new(vm.channel().await?);
        Ok(FloorVm { vm, stream, run_dir })
    }

    /// A cold boot up to the first answer.
    ///
    /// # Errors
    /// [`BenchError`].
    pub async fn boot(&self) -> Result<FloorVm, BenchError> {
        let (identity, run_dir) = self.identity()?;
        answering(&self.vmm, self.boot_spec(identity, &self.initramfs), run_dir).await
    }

    /// The same machine for any initramfs.
    pub(crate) fn boot_spec(&self, identity: VmIdentity, initramfs: &Path) -> BootSpec {
        boot_spec(&self.image, self.size, identity, initramfs)
    }

    /// A name and a folder for the next machine.
    pub(crate) fn identity(&self) -> Result<(VmIdentity, PathBuf), BenchError> {
        identity(&self.dir)
    }
}

fn boot_spec(image: &Image, size: MachineSize, identity: VmIdentity, initramfs: &Path) -> BootSpec {
    BootSpec {
        identity,
        kernel: image.kernel.clone(),
        vmlinux: image.vmlinux.clone(),
        initramfs: initramfs.to_path_buf(),
        cmdline: String::new(),
        base: image.base.clone(),
        size,
        network: None,
    }
}

/// Boots a machine and waits for its first answer.
async fn answering(vmm: &Arc<dyn Vmm>, spec: BootSpec, run_dir: PathBuf) -> Result<FloorVm, BenchError> {
    let vm = vmm.start(spec).await?;
    let stream = BufReader::new(vm.channel().await?);
    let mut vm = FloorVm { vm, stream, run_dir };
    vm.ask("ping", "pong").await?;
    Ok(vm)
}

impl FloorVm {
    /// Sends a line and waits for the answer, which must begin with `expect`.
    ///
    /// # Errors
    /// [`BenchError::Floor`] for another answer, none in time, or a closed channel.
    pub async fn ask(&mut self, line: &str, expect: &str) -> Result<(), BenchError> {
        let failed = |why: String| BenchError::Floor {
            asked: line.to_owned(),
            why,
        };
        self.stream
            .get_mut()
            .write_all(format!("{line}\n").as_bytes())
            .await
            .map_err(|e| failed(e.to_string()))?;
        let mut answer = String::new();
        let reading = async {
            (&mut self.stream).take(256).read_line(&mut answer).await?;
            // Whatever precedes the agent's bytes is passed over, as a client of the real agent does: on vsock the VMM
            // says that the connection is there.
            if is_vmms(&answer) {
                answer.clear();
                (&mut self.stream).take(256).read_line(&mut answer).await?;
            }
            Ok::<_, std::io::Error>(())
        };
        match tokio::time::timeout(ANSWER_LIMIT, reading).await {
            Ok(Ok(())) if answer.trim_end() == expect => Ok(()),
            Ok(Ok(())) => Err(failed(format!(
                "answered {:?}; console: {}",
                answer.trim_end(),
                self.vm.console_tail()
            ))),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer; console: {}", self.vm.console_tail()))),
        }
    }

    /// Puts a disk behind the second drive.
    ///
    /// # Errors
    /// [`BenchError::Vmm`].
    pub async fn attach(&self, file: OwnedFd, bytes: u64) -> Result<(), BenchError> {
        Ok(self.vm.attach_disk(AttachDisk { file, bytes }).await?)
    }

    /// Takes in `bytes` of output of a process in the guest.
    ///
    /// # Errors
    /// [`BenchError::Floor`].
    pub async fn output(&mut self, bytes: u64) -> Result<(), BenchError> {
        let failed = |why: String| BenchError::Floor {
            asked: "out".to_owned(),
            why,
        };
        let line = format!("out {bytes}\n");
        self.stream
            .get_mut()
            .write_all(line.as_bytes())
            .await
            .map_err(|e| failed(e.to_string()))?;
        let mut sink = tokio::io::sink();
        let read = tokio::io::copy(&mut (&mut self.stream).take(bytes), &mut sink)
            .await
            .map_err(|e| failed(e.to_string()))?;
        let mut answer = String::new();
        self.stream
            .read_line(&mut answer)
            .await
            .map_err(|e| failed(e.to_string()))?;
        if read == bytes && answer == "ok\n" {
            Ok(())
        } else {
            Err(failed(format!("{read} bytes, then {answer:?}")))
        }
    }

    /// Proportional memory of the VMM process, in bytes.
    ///
    /// # Errors
    /// [`BenchError::Vmm`].
    pub fn memory(&self) -> Result<u64, BenchError> {
        Ok(self.vm.memory()?.0)
    }

    /// Kills the VMM, waits for it and removes its folder.
    ///
    /// # Errors
    /// [`BenchError::File`].
    pub async fn end(self) -> Result<(), BenchError> {
        self.vm.kill();
        self.vm.wait().await;
        remove(&self.run_dir)
    }
}

/// Firecracker's own line on a vsock connection: `OK`, and the port on the host's side.
fn is_vmms(line: &str) -> bool {
    let port = line.strip_prefix("OK ").and_then(|rest| rest.strip_suffix('\n'));
    port.is_some_and(|port| port.parse::<u32>().is_ok())
}

/// A name that no other bench of this host has: whoever clears up after a dead one ends VMMs by their names.
fn identity(dir: &Path) -> Result<(VmIdentity, PathBuf), BenchError> {
    let mut random = [0; 12];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).map_err(|e| {
        BenchError::File {
            step: "draw a name in",
            path: dir.to_path_buf(),
            source: e.into(),
        }
    })?;
    let sandbox = SandboxId::from_random(random);
    let run_dir = dir.join(sandbox.as_str());
    fs::create_dir_all(&run_dir).map_err(|source| BenchError::File {
        step: "make",
        path: run_dir.clone(),
        source,
    })?;
    Ok((
        VmIdentity {
            sandbox,
            run_dir: run_dir.clone(),
        },
        run_dir,
    ))
}

fn remove(dir: &Path) -> Result<(), BenchError> {
    fs::remove_dir_all(dir).map_err(|source| BenchError::File {
        step: "remove",
        path: dir.to_path_buf(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vmms_line_is_none_of_the_agents() {
        assert!(is_vmms("OK 1073741824\n"));
        for other in [
            "", "ok\n", "pong\n", "OK\n", "OK \n", "OK 12", "OK 1 2\n", "exit 0\n",
        ] {
            assert!(!is_vmms(other), "{other:?}");
        }
    }
}
