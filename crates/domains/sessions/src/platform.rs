//! What sessions need of sandboxes and images, as traits: the real ones are in [`crate::engine`], a fake in the tests.

use async_trait::async_trait;
use omnirun_guest_proto::message::{FileStat, Tool, ToolResult};
use omnirun_ids::{ByteSize, Digest, TemplateName};
use omnirun_images::Image;
use omnirun_sandboxes::{ClaimSpec, SandboxSize, SandboxSpec};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

/// Any error, with its causes.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A sandbox, whichever it is.
pub type DynSandbox = Box<dyn SessionSandbox>;
/// A pool, whichever it is.
pub type DynPool = Arc<dyn SandboxPool>;

/// Images, disks and sandboxes. The functions that are not async may block.
#[async_trait]
pub trait Platform: Send + Sync {
    /// The newest image of a template.
    fn image(&self, template: &TemplateName) -> Result<Arc<Image>, BoxError>;

    /// The image of a template over this base; none if the base is not here any more.
    fn image_over(&self, template: &TemplateName, base: &Digest) -> Result<Option<Arc<Image>>, BoxError>;

    /// Makes a new session disk: a sparse file with an empty file system of this size.
    fn make_disk(&self, path: &Path, bytes: u64) -> Result<(), BoxError>;

    /// A size that a sandbox like this can have without a boot, for work that needs none in particular.
    fn ready_size(&self, spec: &SandboxSpec) -> Option<SandboxSize>;

    /// A source of sandboxes for one session, for as long as it is held.
    fn pool(&self, spec: SandboxSpec) -> DynPool;

    /// Ends the VMs that dead owners left, and waits for that.
    async fn take_over(&self) -> Result<(), BoxError>;
}

/// Sandboxes for one session.
#[async_trait]
pub trait SandboxPool: Send + Sync {
    /// A clone that is awake and nobody's: a spare one, or one made now.
    async fn take(&self) -> Result<DynSandbox, BoxError>;

    /// Goes on with a sandbox that was suspended for this binding into that folder, which is used up, also if this fails.
    async fn resume(&self, binding: &str, from: &Path, claim: ClaimSpec) -> Result<DynSandbox, BoxError>;

    /// A good time to make a spare one. Returns at once.
    fn refill(&self);
}

/// Why a sandbox did not become the session's.
#[derive(Debug, thiserror::Error)]
pub enum ClaimFailure {
    /// The agent says that the session disk cannot be used. Another clone would say the same.
    #[error("the session disk cannot be used")]
    Disk(#[source] BoxError),
    /// Anything else; another clone may do better.
    #[error("the sandbox could not be claimed")]
    Sandbox(#[source] BoxError),
}

/// Why a sandbox did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SandboxFailure {
    /// The agent answered that it cannot. Its words are guest data.
    #[error("the agent refused")]
    Refused {
        /// In the agent's words.
        message: omnirun_redact::Guest<String>,
    },
    /// There is no answer and there will be none: the connection or the VM is gone, or the agent broke the protocol.
    #[error("the sandbox is gone")]
    Gone(#[source] BoxError),
}

/// What a tool answered.
#[derive(Debug)]
pub struct Answer {
    /// The agent's result.
    pub result: ToolResult,
    /// From the request's last frame written to the reply's last frame read.
    pub guest: Duration,
}

/// One sandbox. Dropping it ends the VM in the background.
#[async_trait]
pub trait SessionSandbox: Send + Sync {
    /// Its id.
    fn id(&self) -> &str;

    /// Attaches the disk and makes the sandbox the session's.
    async fn claim(&self, spec: ClaimSpec) -> Result<(), ClaimFailure>;

    /// Runs a tool. When `cancel` fires the agent is told, and answers with what there is.
    async fn tool(&self, tool: Tool, cancel: CancellationToken) -> Result<Answer, SandboxFailure>;

    /// Makes the session's files durable on its disk.
    async fn sync(&self) -> Result<(), SandboxFailure>;

    /// What a path is; none if it is not there.
    async fn stat(&self, path: &[u8]) -> Result<Option<FileStat>, SandboxFailure>;

    /// Unpacks a tar stream below a folder.
    async fn tar_in(
        &self,
        path: &[u8],
        from: Box<dyn AsyncRead + Send + Unpin>,
    ) -> Result<(), SandboxFailure>;

    /// Packs a file or folder as a tar stream.
    async fn tar_out(
        &self,
        path: &[u8],
        to: Box<dyn AsyncWrite + Send + Unpin>,
    ) -> Result<(), SandboxFailure>;

    /// Whether it can still be of use: the VM runs and the agent is connected.
    fn is_alive(&self) -> bool;

    /// Resolves when the VM is gone, whatever way. Cancel-safe.
    async fn exited(&self) -> String;

    /// Ends the VM in such a way that it can go on later: what it was is in the folder `to` then, bound to these words and
    /// to the session disk at this path as it is now. Says how many bytes that takes. It ends also if that fails.
    async fn suspend(self: Box<Self>, binding: &str, disk: &Path, to: &Path) -> Result<ByteSize, BoxError>;

    /// Ends the VM, waits until its VMM is dead and its things are removed, and says what was removed.
    async fn kill(self: Box<Self>) -> Vec<String>;
}
