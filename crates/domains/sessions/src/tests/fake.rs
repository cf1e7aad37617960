//! A platform without VMs. What it keeps to is what sessions rely on: a sandbox has its disk until it is killed, and
//! the disk remembers what was written. It fails the test if two sandboxes have one disk.

use crate::{
    Answer, BoxError, ClaimFailure, DynPool, DynSandbox, Platform, SandboxFailure, SandboxPool,
    SessionSandbox,
};
use async_trait::async_trait;
use omnirun_guest_proto::message::{Block, BlockKind, FileStat, Tool, ToolResult};
use omnirun_ids::{ByteSize, Digest, TemplateName};
use omnirun_images::{Image, Template};
use omnirun_redact::Guest;
use omnirun_sandboxes::{ClaimSpec, IsolationGroup, SandboxSize, SandboxSpec};
use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Notify, watch},
};
use tokio_util::sync::CancellationToken;

#[derive(Default)]
pub struct Fake {
    /// Pools handed out so far.
    pub pools: AtomicU32,
    /// Times at which a spare could have been made.
    pub refills: AtomicU32,
    /// Sandboxes made so far.
    pub made: AtomicU32,
    /// Claims that fail before one succeeds.
    pub failing_claims: AtomicU32,
    /// The disk cannot be mounted.
    pub bad_disk: AtomicBool,
    /// The base is gone.
    pub base_gone: AtomicBool,
    /// Seeds that fail before one succeeds.
    pub failing_seeds: AtomicU32,
    /// Tools that ran, by their command.
    pub ran: Mutex<BTreeMap<String, u32>>,
    /// Names in the seeds that arrived.
    pub seeded: Mutex<Vec<String>>,
    /// What `tar_out` sends, and what `stat` says of paths.
    pub archive: Mutex<Vec<u8>>,
    pub modes: Mutex<BTreeMap<String, u32>>,
    /// Folders that something was unpacked into.
    pub unpacked_in: Mutex<Vec<String>>,
    /// The size that there is a snapshot for, and the one that the last pool was asked for.
    pub ready_size: Mutex<Option<SandboxSize>>,
    pub last_size: Mutex<Option<SandboxSize>>,
    /// Who the pools were for, one after the other.
    pub groups: Mutex<Vec<IsolationGroup>>,
    /// Sandboxes that cannot be suspended, or resumed, before one can.
    pub failing_suspends: AtomicU32,
    pub failing_resumes: AtomicU32,
    /// Whether a sandbox has the disk.
    attached: Arc<AtomicBool>,
    /// Kills of the sandboxes that live, by number.
    pub living: Arc<Mutex<BTreeMap<u32, watch::Sender<bool>>>>,
}

impl Fake {
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    pub fn runs(&self, command: &str) -> u32 {
        self.ran.lock().unwrap().get(command).copied().unwrap_or(0)
    }

    /// Every VM dies of itself.
    pub fn crash_vms(&self) {
        for gone in self.living.lock().unwrap().values() {
            gone.send_replace(true);
        }
    }
}

/// The platform over a shared fake.
pub struct FakePlatform(pub Arc<Fake>);

#[async_trait]
impl Platform for FakePlatform {
    fn image(&self, template: &TemplateName) -> Result<Arc<Image>, BoxError> {
        let digest = Digest::from([1; 32]);
        Ok(Arc::new(Image {
            kernel: PathBuf::new(),
            vmlinux: PathBuf::new(),
            initramfs: PathBuf::new(),
            base: PathBuf::new(),
            modules: PathBuf::new(),
            kernel_digest: digest.clone(),
            initramfs_digest: digest.clone(),
            base_digest: digest.clone(),
            agent_digest: digest,
            kernel_release: String::new(),
            template: Template {
                name: template.clone(),
                user: "root".into(),
                env: BTreeMap::new(),
                workdir: "/workspace".into(),
                keep_capabilities: false,
            },
        }))
    }

    fn image_over(&self, template: &TemplateName, _base: &Digest) -> Result<Option<Arc<Image>>, BoxError> {
        if self.0.base_gone.load(SeqCst) {
            Ok(None)
        } else {
            self.image(template).map(Some)
        }
    }

    fn make_disk(&self, path: &Path, _bytes: u64) -> Result<(), BoxError> {
        Ok(std::fs::write(path, b"fresh")?)
    }

    fn ready_size(&self, _spec: &SandboxSpec) -> Option<SandboxSize> {
        *self.0.ready_size.lock().unwrap()
    }

    fn pool(&self, spec: SandboxSpec) -> DynPool {
        self.0.pools.fetch_add(1, SeqCst);
        *self.0.last_size.lock().unwrap() = Some(spec.size);
        self.0.groups.lock().unwrap().push(spec.group);
        Arc::new(FakePool(self.0.clone()))
    }

    async fn take_over(&self) -> Result<(), BoxError> {
        Ok(())
    }
}

struct FakePool(Arc<Fake>);

#[async_trait]
impl SandboxPool for FakePool {
    async fn take(&self) -> Result<DynSandbox, BoxError> {
        tokio::task::yield_now().await;
        let number = self.0.made.fetch_add(1, SeqCst) + 1;
        let (gone, _) = watch::channel(false);
        self.0.living.lock().unwrap().insert(number, gone.clone());
        let id = format!("sbx_{number}");
        Ok(Box::new(FakeSandbox {
            fake: self.0.clone(),
            number,
            id,
            gone,
            end_seen: Notify::new(),
            disk: Mutex::new(None),
        }))
    }

    async fn resume(&self, binding: &str, from: &Path, claim: ClaimSpec) -> Result<DynSandbox, BoxError> {
        let memory = std::fs::read_to_string(from.join("memory"))?;
        // Used up.
        std::fs::remove_dir_all(from)?;
        let (bound, id) = memory.split_once('\n').ok_or("no memory")?;
        if bound != binding {
            return Err("it is another one's".into());
        }
        let failing = &self.0.failing_resumes;
        if failing.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err("it does not start".into());
        }
        assert!(!self.0.attached.swap(true, SeqCst), "two sandboxes have one disk");
        let number = self.0.made.fetch_add(1, SeqCst) + 1;
        let (gone, _) = watch::channel(false);
        self.0.living.lock().unwrap().insert(number, gone.clone());
        Ok(Box::new(FakeSandbox {
            fake: self.0.clone(),
            number,
            id: id.to_owned(),
            gone,
            end_seen: Notify::new(),
            disk: Mutex::new(Some(claim.disk)),
        }))
    }

    fn refill(&self) {
        self.0.refills.fetch_add(1, SeqCst);
    }
}

struct FakeSandbox {
    fake: Arc<Fake>,
    number: u32,
    id: String,
    gone: watch::Sender<bool>,
    /// Somebody has been told of its end.
    end_seen: Notify,
    disk: Mutex<Option<OwnedFd>>,
}

impl Drop for FakeSandbox {
    fn drop(&mut self) {
        if self.disk.lock().unwrap().take().is_some() {
            self.fake.attached.store(false, SeqCst);
        }
        self.fake.living.lock().unwrap().remove(&self.number);
    }
}

#[async_trait]
impl SessionSandbox for FakeSandbox {
    fn id(&self) -> &str {
        &self.id
    }

    async fn claim(&self, spec: ClaimSpec) -> Result<(), ClaimFailure> {
        assert!(
            !self.fake.attached.swap(true, SeqCst),
            "two sandboxes have one disk"
        );
        *self.disk.lock().unwrap() = Some(spec.disk);
        tokio::task::yield_now().await;
        if self.fake.bad_disk.load(SeqCst) {
            return Err(ClaimFailure::Disk("bad superblock".into()));
        }
        let failing = &self.fake.failing_claims;
        if failing.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err(ClaimFailure::Sandbox("no answer".into()));
        }
        Ok(())
    }

    async fn tool(&self, tool: Tool, cancel: CancellationToken) -> Result<Answer, SandboxFailure> {
        let input: serde_json::Value = serde_json::from_slice(&tool.input).unwrap();
        let command = input["command"].as_str().unwrap_or(&tool.name).to_owned();
        *self.fake.ran.lock().unwrap().entry(command.clone()).or_default() += 1;
        let mut result = ToolResult {
            synced: tool.finish || tool.sync,
            exit_code: Some(0),
            ..ToolResult::default()
        };
        let mut text = format!("ran {command} in {}", self.id);
        match command.split(' ').next().unwrap() {
            "until-cancelled" => {
                cancel.cancelled().await;
                text = "partial".into();
                result.is_error = true;
            }
            "stuck" => std::future::pending().await,
            "crash" => {
                self.gone.send_replace(true);
                std::future::pending().await
            }
            "hang-up" => return Err(SandboxFailure::Gone("reset".into())),
            "refuse" => {
                return Err(SandboxFailure::Refused {
                    message: Guest("no room".into()),
                });
            }
            "background" => result.ended_processes = 1,
            "unsynced" => result.synced = false,
            "last-words" => {
                self.gone.send_replace(true);
                // Its end is known first, and its answer comes all the same.
                self.end_seen.notified().await;
            }
            _ => {}
        }
        result.content = vec![Block {
            kind: Some(BlockKind::Text(text)),
        }];
        Ok(Answer {
            result,
            guest: Duration::from_millis(1),
        })
    }

    async fn sync(&self) -> Result<(), SandboxFailure> {
        Ok(())
    }

    async fn stat(&self, path: &[u8]) -> Result<Option<FileStat>, SandboxFailure> {
        let modes = self.fake.modes.lock().unwrap();
        let mode = modes.get(std::str::from_utf8(path).unwrap()).copied();
        Ok(mode.map(|mode| FileStat {
            mode,
            ..FileStat::default()
        }))
    }

    async fn tar_in(
        &self,
        path: &[u8],
        mut from: Box<dyn AsyncRead + Send + Unpin>,
    ) -> Result<(), SandboxFailure> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).await.unwrap();
        if self
            .fake
            .failing_seeds
            .fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1))
            .is_ok()
        {
            return Err(SandboxFailure::Gone("killed".into()));
        }
        self.fake
            .unpacked_in
            .lock()
            .unwrap()
            .push(String::from_utf8_lossy(path).into_owned());
        let mut archive = tar::Archive::new(&bytes[..]);
        for entry in archive.entries().unwrap() {
            let name = entry.unwrap().path().unwrap().display().to_string();
            self.fake.seeded.lock().unwrap().push(name);
        }
        Ok(())
    }

    async fn tar_out(
        &self,
        _path: &[u8],
        mut to: Box<dyn AsyncWrite + Send + Unpin>,
    ) -> Result<(), SandboxFailure> {
        let archive = self.fake.archive.lock().unwrap().clone();
        // The other end may have refused it half-way.
        let sent = to.write_all(&archive).await;
        sent.map_err(|e| SandboxFailure::Gone(e.into()))
    }

    fn is_alive(&self) -> bool {
        !*self.gone.borrow()
    }

    async fn exited(&self) -> String {
        let mut gone = self.gone.subscribe();
        let _ = gone.wait_for(|gone| *gone).await;
        self.end_seen.notify_one();
        "exited".into()
    }

    async fn suspend(self: Box<Self>, binding: &str, disk: &Path, to: &Path) -> Result<ByteSize, BoxError> {
        assert!(disk.exists());
        let failing = &self.fake.failing_suspends;
        if failing.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err("no".into());
        }
        std::fs::create_dir(to)?;
        std::fs::write(to.join("memory"), format!("{binding}\n{}", self.id))?;
        Ok(ByteSize(4096))
    }

    async fn kill(self: Box<Self>) -> Vec<String> {
        // A VMM takes a moment to die, and has the disk until then.
        tokio::time::sleep(Duration::from_millis(5)).await;
        vec![format!("sandbox {}", self.id)]
    }
}
