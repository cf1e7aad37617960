//! `omnirun session cp`: files in and out of a session that nobody serves, through the agent of a clone.

use crate::{
    BoxError, SandboxFailure, SessionFactory, SessionsError,
    factory::{group, image_of},
    pack::{self, Root},
    prepare::{PrepareError, Preparer, Ready},
    unpack::{self, UnpackError, Unpacked},
};
use omnirun_sandboxes::{Card, SandboxSpec};
use omnirun_store::{
    StoreError, now_ms,
    sessions::{Holder, SessionHash, SessionState},
};
use std::{
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::sync::Mutex;

/// File type bits of `st_mode`, and a folder's.
const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;

/// Why nothing was copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// No such session.
    #[error("there is no such session on this host (omnirun session ls)")]
    NoSession,
    /// A live process serves it.
    #[error("session {session} is in use by process {}; copy when it is idle, or with --wait", holder.pid)]
    Held {
        /// The session.
        session: String,
        /// Who has it.
        holder: Holder,
    },
    /// Not there.
    #[error("{path} is not in the session")]
    NotFound {
        /// The path, as it was given.
        path: String,
    },
    /// It would replace what is there.
    #[error("{path} exists already and is not replaced")]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// A path without a last part that could be a name.
    #[error("{path} does not name a file or folder")]
    NoName {
        /// The path.
        path: String,
    },
    /// The session's disk, image or record.
    #[error(transparent)]
    Session(#[from] SessionsError),
    /// No sandbox over the session's disk.
    #[error("cannot open the session's disk in a sandbox")]
    Sandbox(#[source] BoxError),
    /// The agent refused or is gone.
    #[error("the sandbox could not {step}")]
    Agent {
        /// What it was asked.
        step: &'static str,
        /// In its words, made harmless; empty if it is gone.
        message: String,
        /// The cause.
        #[source]
        source: SandboxFailure,
    },
    /// What came was refused.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The host's own files.
    #[error("cannot {step} {path}")]
    File {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl From<StoreError> for CopyError {
    fn from(error: StoreError) -> Self {
        Self::Session(error.into())
    }
}

impl SessionFactory {
    /// Copies a file or folder out of a session. `dest`: a folder to put it in, or its new name. Either all of it is
    /// there in the end or nothing.
    ///
    /// # Errors
    /// [`CopyError`].
    pub async fn copy_out(&self, hash: &SessionHash, path: &str, dest: &Path) -> Result<Unpacked, CopyError> {
        let name = last_name(path)?;
        let target = if dest.is_dir() {
            dest.join(name.as_deref().unwrap_or(OsStr::new("workspace")))
        } else {
            dest.to_owned()
        };
        let max = self.shared.store.get(hash)?.map_or(0, |row| row.disk_bytes);
        let preparer = self.idle(hash).await?;
        let ready = sandbox(&preparer).await?;
        let copied = out(&ready, path, name.as_deref(), &target, max).await;
        preparer.end(ready.sandbox).await;
        preparer.ended().await;
        copied
    }

    /// Copies a file or folder of the host into a session. `path`: a folder to put it in, or its new name.
    ///
    /// # Errors
    /// [`CopyError`].
    pub async fn copy_in(&self, hash: &SessionHash, source: &Path, path: &str) -> Result<(), CopyError> {
        // A link that was named is meant to be followed; those inside are not.
        let source = source.canonicalize().map_err(|e| CopyError::File {
            step: "read",
            path: source.to_owned(),
            source: e,
        })?;
        let preparer = self.idle(hash).await?;
        let ready = sandbox(&preparer).await?;
        let copied = into(&ready, &source, path).await;
        preparer.end(ready.sandbox).await;
        preparer.ended().await;
        copied?;
        // How long it is kept is for those who serve it to say.
        let keep = u64::try_from(preparer.row.lock().await.keep_ms).unwrap_or_default();
        Ok(self
            .shared
            .store
            .touch(&preparer.lease, Duration::from_millis(keep))?)
    }

    /// The lease of a session that nobody serves, and what a sandbox for it needs.
    async fn idle(&self, hash: &SessionHash) -> Result<Preparer, CopyError> {
        let shared = self.shared.clone();
        let hash = hash.clone();
        let found = tokio::task::spawn_blocking(move || {
            let row = shared
                .store
                .get(&hash)?
                .filter(|r| r.state == SessionState::Ready)
                .ok_or(CopyError::NoSession)?;
            let Some(lease) = shared.store.lease(&hash)? else {
                let holder = shared.store.holder(&hash)?.unwrap_or(Holder {
                    pid: 0,
                    since_ms: now_ms(),
                });
                return Err(CopyError::Held {
                    session: row.key.session.to_string(),
                    holder,
                });
            };
            let mut spec = SandboxSpec {
                image: image_of(shared.platform.as_ref(), &row)?,
                size: shared.config.size,
                group: group(&row.key),
                card: Card::None,
                purpose: format!("omnirun session cp {}", row.key.session),
                suspendable: false,
            };
            // The session's worker has most likely made a snapshot, of whatever size: no need to boot for another.
            spec.size = shared.platform.ready_size(&spec).unwrap_or(spec.size);
            Ok((row, lease, spec))
        });
        let (row, lease, spec) = found.await.map_err(|e| CopyError::Sandbox(e.into()))??;
        let pool = self.shared.platform.pool(spec);
        Ok(Preparer {
            shared: self.shared.clone(),
            lease: Arc::new(lease),
            pool,
            row: Mutex::new(row),
            egress: None,
            seed: false,
            ending: Mutex::new(None),
        })
    }
}

async fn sandbox(preparer: &Preparer) -> Result<Ready, CopyError> {
    preparer.ready().await.map_err(|e| match e {
        PrepareError::Store(e) => e.into(),
        other => CopyError::Sandbox(other.into()),
    })
}

async fn out(
    ready: &Ready,
    path: &str,
    name: Option<&OsStr>,
    target: &Path,
    max: u64,
) -> Result<Unpacked, CopyError> {
    let stat = ready
        .sandbox
        .stat(here(path))
        .await
        .map_err(|e| agent("look at the path", e))?;
    if stat.is_none() {
        return Err(CopyError::NotFound {
            path: path.to_owned(),
        });
    }
    if target.is_dir() {
        return Err(CopyError::Exists {
            path: target.to_owned(),
        });
    }
    let temp = Temp::beside(target)?;
    let file = |step: &'static str| {
        move |source| CopyError::File {
            step,
            path: target.to_owned(),
            source,
        }
    };
    let (ours, theirs) = pack::pair().map_err(file("receive"))?;
    let (folder, only) = (temp.0.clone(), name.map(OsStr::to_owned));
    let unpacking =
        tokio::task::spawn_blocking(move || unpack::unpack_named(ours, &folder, only.as_deref(), max));
    let sent = ready.sandbox.tar_out(here(path), Box::new(theirs)).await;
    let unpacked = unpacking.await.map_err(|e| CopyError::Sandbox(e.into()))?;
    // A refusal of ours breaks the stream, so it comes first. A stream that was cut off is never taken for whole.
    let unpacked = match (unpacked, sent) {
        (Err(error @ UnpackError::Broken(_)), Err(sent)) => {
            tracing::debug!(%error, "the stream was cut off");
            return Err(agent("read the path", sent));
        }
        (Err(error), _) => return Err(error.into()),
        (Ok(_), Err(sent)) => return Err(agent("read the path", sent)),
        (Ok(unpacked), Ok(())) => unpacked,
    };
    let item = match name.map(|name| temp.0.join(name)) {
        Some(item) if fs::symlink_metadata(&item).is_err() => {
            return Err(UnpackError::Broken(io::Error::other("nothing came")).into());
        }
        Some(item) => item,
        None => {
            // The folder's contents, without the folder.
            fs::set_permissions(&temp.0, fs::Permissions::from_mode(0o755)).map_err(file("make readable"))?;
            temp.0.clone()
        }
    };
    fs::rename(&item, target).map_err(file("write"))?;
    Ok(unpacked)
}

async fn into(ready: &Ready, source: &Path, path: &str) -> Result<(), CopyError> {
    let stat = ready
        .sandbox
        .stat(here(path))
        .await
        .map_err(|e| agent("look at the path", e))?;
    let folder = path.is_empty() || path.ends_with('/') || stat.is_some_and(|s| s.mode & TYPE == DIRECTORY);
    let (parent, name) = if folder {
        let name = source.file_name().ok_or_else(|| CopyError::NoName {
            path: source.display().to_string(),
        })?;
        (PathBuf::from(path), name.to_owned())
    } else {
        let name = last_name(path)?.ok_or_else(|| CopyError::NoName {
            path: path.to_owned(),
        })?;
        (
            Path::new(path).parent().map(Path::to_owned).unwrap_or_default(),
            name,
        )
    };
    let parent = if parent.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        parent
    };
    let (stream, packing) = pack::stream(source.to_owned(), Root::As(name));
    let sent = ready
        .sandbox
        .tar_in(parent.as_os_str().as_bytes(), Box::new(stream))
        .await;
    let packed = packing.await.map_err(|e| CopyError::Sandbox(e.into()))?;
    match (packed, sent) {
        // The stream broke because the other end stopped reading: its word is the better one.
        (Err(error), Err(sent)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return Err(agent("write the path", sent));
        }
        (Err(error), _) => {
            return Err(CopyError::File {
                step: "read",
                path: source.to_owned(),
                source: error,
            });
        }
        (Ok(()), Err(sent)) => return Err(agent("write the path", sent)),
        (Ok(()), Ok(())) => {}
    }
    ready
        .sandbox
        .sync()
        .await
        .map_err(|e| agent("write the session's disk", e))
}

/// A path of a session, as its agent is asked: nothing is the working directory.
fn here(path: &str) -> &[u8] {
    if path.is_empty() { b"." } else { path.as_bytes() }
}

/// The last part of a path of a session; none for its working directory itself.
fn last_name(path: &str) -> Result<Option<OsString>, CopyError> {
    let trimmed = Path::new(path);
    match trimmed.file_name() {
        Some(name) => Ok(Some(name.to_owned())),
        None if path.is_empty() || path.trim_matches(['.', '/']).is_empty() && !path.contains("..") => {
            Ok(None)
        }
        None => Err(CopyError::NoName {
            path: path.to_owned(),
        }),
    }
}

fn agent(step: &'static str, source: SandboxFailure) -> CopyError {
    let message = match &source {
        SandboxFailure::Refused { message } => message
            .0
            .chars()
            .take(300)
            .collect::<String>()
            .escape_debug()
            .to_string(),
        SandboxFailure::Gone(_) => String::new(),
    };
    CopyError::Agent {
        step,
        message,
        source,
    }
}

/// A private folder beside the target, on the same file system. Removed when dropped, if it is still there.
struct Temp(PathBuf);

impl Temp {
    fn beside(target: &Path) -> Result<Self, CopyError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!(".omnirun-cp-{}-{n}-{}", std::process::id(), now_ms()));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(CopyError::File {
                step: "create",
                path,
                source,
            }),
        }
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
