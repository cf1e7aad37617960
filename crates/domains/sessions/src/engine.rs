//! The real platform: the engine's sandboxes, the image store's images and disks.

use crate::{
    Answer, BoxError, ClaimFailure, DynPool, DynSandbox, Platform, SandboxFailure, SandboxPool,
    SessionSandbox,
};
use async_trait::async_trait;
use omnirun_guest_client::{
    ClientError,
    message::{ErrorKind, FileStat, Tool},
};
use omnirun_ids::{ByteSize, Digest, TemplateName};
use omnirun_images::{Image, ImageError, ImageStore, copy_sparse};
use omnirun_redact::Guest;
use omnirun_sandboxes::{ClaimSpec, Engine, EngineError, PoolHandle, Sandbox, SandboxSize, SandboxSpec};
use std::{path::Path, sync::Arc, time::Instant};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// Sessions over an engine and an image store.
pub struct EnginePlatform {
    engine: Arc<Engine>,
    images: ImageStore,
}

impl EnginePlatform {
    /// Over these two.
    pub fn new(engine: Arc<Engine>, images: ImageStore) -> Self {
        Self { engine, images }
    }
}

#[async_trait]
impl Platform for EnginePlatform {
    fn image(&self, template: &TemplateName) -> Result<Arc<Image>, BoxError> {
        Ok(Arc::new(self.images.get(template)?))
    }

    fn image_over(&self, template: &TemplateName, base: &Digest) -> Result<Option<Arc<Image>>, BoxError> {
        match self.images.get_over(template, base) {
            Ok(image) => Ok(Some(Arc::new(image))),
            Err(ImageError::NoBase { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn make_disk(&self, path: &Path, bytes: u64) -> Result<(), BoxError> {
        let template = self.images.session_disk_template(ByteSize(bytes))?;
        Ok(copy_sparse(&template, path)?)
    }

    fn ready_size(&self, spec: &SandboxSpec) -> Option<SandboxSize> {
        // Without an answer the asked size is as good; what is wrong shows when it is used.
        self.engine.ready_size(spec).ok().flatten()
    }

    fn pool(&self, spec: SandboxSpec) -> DynPool {
        Arc::new(Pool {
            spares: self.engine.pool(spec.clone()),
            engine: self.engine.clone(),
            spec,
        })
    }

    async fn take_over(&self) -> Result<(), BoxError> {
        let report = self.engine.take_over().await?;
        if !report.is_empty() {
            tracing::info!(%report, "took over from a dead owner");
        }
        Ok(())
    }
}

struct Pool {
    spares: Arc<PoolHandle>,
    engine: Arc<Engine>,
    spec: SandboxSpec,
}

impl Pool {
    fn claimable(&self, sandbox: Sandbox) -> DynSandbox {
        Box::new(Claimable(sandbox, self.engine.clone()))
    }
}

#[async_trait]
impl SandboxPool for Pool {
    async fn take(&self) -> Result<DynSandbox, BoxError> {
        Ok(self.claimable(self.spares.take().await?))
    }

    async fn resume(&self, binding: &str, from: &Path, claim: ClaimSpec) -> Result<DynSandbox, BoxError> {
        let resumed = self.engine.resume(&self.spec, binding, from, claim).await;
        Ok(self.claimable(resumed?))
    }

    fn refill(&self) {
        self.spares.refill();
    }
}

struct Claimable(Sandbox, Arc<Engine>);

#[async_trait]
impl SessionSandbox for Claimable {
    fn id(&self) -> &str {
        self.0.id().as_str()
    }

    async fn claim(&self, spec: ClaimSpec) -> Result<(), ClaimFailure> {
        match self.0.claim(spec).await {
            Ok(_) => Ok(()),
            Err(error) if is_disk(&error) => Err(ClaimFailure::Disk(error.into())),
            Err(error) => Err(ClaimFailure::Sandbox(error.into())),
        }
    }

    async fn tool(&self, tool: Tool, cancel: CancellationToken) -> Result<Answer, SandboxFailure> {
        let begun = Instant::now();
        let mut running = self.0.guest().start_tool(tool).map_err(failure)?;
        let result = tokio::select! {
            biased;
            result = running.result() => result,
            () = cancel.cancelled() => {
                running.cancel();
                running.result().await
            }
        };
        Ok(Answer {
            result: result.map_err(failure)?,
            guest: begun.elapsed(),
        })
    }

    async fn sync(&self) -> Result<(), SandboxFailure> {
        self.0.guest().sync().await.map_err(failure)
    }

    async fn stat(&self, path: &[u8]) -> Result<Option<FileStat>, SandboxFailure> {
        match self.0.guest().stat(path).await {
            Ok(stat) => Ok(Some(stat)),
            Err(ClientError::Guest {
                kind: ErrorKind::NotFound,
                ..
            }) => Ok(None),
            Err(error) => Err(failure(error)),
        }
    }

    async fn tar_in(
        &self,
        path: &[u8],
        mut from: Box<dyn AsyncRead + Send + Unpin>,
    ) -> Result<(), SandboxFailure> {
        self.0
            .guest()
            .tar_in(path, &mut from)
            .await
            .map(drop)
            .map_err(failure)
    }

    async fn tar_out(
        &self,
        path: &[u8],
        mut to: Box<dyn AsyncWrite + Send + Unpin>,
    ) -> Result<(), SandboxFailure> {
        let stream = self.0.guest().tar_out(path).map_err(failure)?;
        stream.copy_to(&mut to).await.map_err(failure)?;
        to.shutdown().await.map_err(|e| SandboxFailure::Gone(e.into()))
    }

    fn is_alive(&self) -> bool {
        self.0.is_alive()
    }

    async fn exited(&self) -> String {
        self.0.exited().await.to_string()
    }

    async fn suspend(self: Box<Self>, binding: &str, disk: &Path, to: &Path) -> Result<ByteSize, BoxError> {
        let Self(sandbox, engine) = *self;
        Ok(engine.suspend(sandbox, binding, disk, to).await?)
    }

    async fn kill(self: Box<Self>) -> Vec<String> {
        let report = self.0.kill().await;
        if !report.is_clean() {
            tracing::warn!(%report, "a sandbox left something behind");
        }
        vec![report.to_string()]
    }
}

/// Whether a claim failed because of the disk and not of the clone.
fn is_disk(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::Guest {
            source: ClientError::Guest {
                kind: ErrorKind::Disk,
                ..
            },
            ..
        }
    )
}

fn failure(error: ClientError) -> SandboxFailure {
    match error {
        ClientError::Guest { message, .. } => SandboxFailure::Refused { message },
        ClientError::Refused(why) => SandboxFailure::Refused {
            message: Guest(why.to_string()),
        },
        other => SandboxFailure::Gone(other.into()),
    }
}
