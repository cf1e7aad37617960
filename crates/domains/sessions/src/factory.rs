//! Opening a session: its lease, its record, its disk.

use crate::{
    BoxError, DynPool, Hands, HandsError, HandsFactory, Isolation, Platform, SessionsConfig,
    config::default_floor,
    network::Reach,
    session::Session,
    warm::{self, Warmed},
};
use async_trait::async_trait;
use omnirun_ids::{ApiId, ByteSize, SessionKey};
use omnirun_images::Image;
use omnirun_sandboxes::{Card, IsolationGroup, SandboxSpec};
use omnirun_store::{
    DataDir, Db, StoreError,
    sessions::{Lease, NewSession, Removal, SessionHash, SessionRow, SessionState, Sessions},
};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};
use tokio_util::task::AbortOnDropHandle;

/// Why sessions cannot be served, or one cannot.
#[derive(Debug, thiserror::Error)]
pub enum SessionsError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The seed cannot be used.
    #[error("cannot use {path} as the seed of new sessions")]
    Seed {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// No image for the session.
    #[error("no image for the session")]
    Image(#[source] BoxError),
    /// The image that a session's disk needs is gone.
    #[error(
        "session {session} needs the base {base} of template {template}, which is not here any more; its disk cannot \
         be used with another one. Remove it with: omnirun session rm {session}"
    )]
    BaseGone {
        /// The session.
        session: String,
        /// Its template.
        template: String,
        /// Start of the base's digest.
        base: String,
    },
    /// The disk is gone though the record says that it is there.
    #[error("the disk of session {session} is gone; remove what is left with: omnirun session rm {session}")]
    DiskGone {
        /// The session.
        session: String,
    },
    /// Not enough space.
    #[error(
        "no new session starts with {free} of free space in {path} (floor: {floor}); remove sessions (omnirun session \
         ls, rm) or images (omnirun image gc)"
    )]
    NoSpace {
        /// The data folder.
        path: PathBuf,
        /// What is free.
        free: ByteSize,
        /// The floor.
        floor: ByteSize,
    },
    /// The disk could not be made.
    #[error("cannot make the disk of a new session")]
    Disk(#[source] BoxError),
}

/// What all sessions of a process share.
pub(crate) struct Shared {
    pub config: SessionsConfig,
    pub platform: Arc<dyn Platform>,
    pub store: Sessions,
    pub dir: DataDir,
    pub warmed: Warmed,
}

/// How often a process that runs on looks for sessions whose time is over.
const SWEEP: Duration = Duration::from_secs(60);

/// Opens sessions over real sandboxes.
#[derive(Clone)]
pub struct SessionFactory {
    pub(crate) shared: Arc<Shared>,
}

impl SessionFactory {
    /// Checks the configuration and sweeps sessions whose time is over.
    ///
    /// # Errors
    /// [`SessionsError`].
    pub fn new(
        config: SessionsConfig,
        platform: Arc<dyn Platform>,
        db: &Db,
        dir: &DataDir,
    ) -> Result<Self, SessionsError> {
        if let Some(seed) = &config.seed {
            std::fs::read_dir(seed).map_err(|source| SessionsError::Seed {
                path: seed.clone(),
                source,
            })?;
        }
        let store = Sessions::new(db, dir, config.durability)?;
        let factory = Self {
            shared: Arc::new(Shared {
                config,
                platform,
                store,
                dir: dir.clone(),
                warmed: Warmed::default(),
            }),
        };
        said(factory.sweep()?);
        Ok(factory)
    }

    /// Removes the sessions whose time is over, and what dead processes left half-made.
    ///
    /// # Errors
    /// [`SessionsError::Store`].
    pub fn sweep(&self) -> Result<Vec<Removal>, SessionsError> {
        Ok(self.shared.store.sweep()?)
    }

    /// Sweeps again and again, for as long as the handle lives: a process that runs for weeks keeps no disk longer than
    /// its time.
    pub fn keep_swept(&self) -> AbortOnDropHandle<()> {
        let factory = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let factory = factory.clone();
                let swept = tokio::task::spawn_blocking(move || factory.sweep()).await;
                match swept {
                    Ok(Ok(removed)) => said(removed),
                    Ok(Err(error)) => tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot remove sessions whose time is over"
                    ),
                    // The runtime ends.
                    Err(_) => return,
                }
            }
        }))
    }

    /// The sessions in the store.
    pub fn store(&self) -> &Sessions {
        &self.shared.store
    }
}

#[async_trait]
impl HandsFactory for SessionFactory {
    fn warm(&self, key: &SessionKey) {
        warm::begin(&self.shared, key);
    }

    async fn forget(&self, key: &SessionKey) -> Result<Vec<String>, HandsError> {
        forget(&self.shared, key).await
    }

    async fn open(
        &self,
        key: &SessionKey,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Box<dyn Hands>, HandsError> {
        let isolation = self.shared.config.isolation.for_session(metadata);
        let reach = self.shared.config.network.of(key, metadata);
        Ok(Box::new(open(&self.shared, key, isolation, reach).await?))
    }
}

fn said(removed: Vec<Removal>) {
    for Removal { hash, what } in removed {
        tracing::info!(session.hash = %hash, removed = what, "session removed");
    }
}

/// Removes a session that nobody serves, without opening it first.
async fn forget(shared: &Arc<Shared>, key: &SessionKey) -> Result<Vec<String>, HandsError> {
    shared.warmed.take(key);
    let (store, hash) = (shared.store.clone(), SessionHash::of(key));
    let removed = tokio::task::spawn_blocking(move || {
        if store.get(&hash)?.is_none() {
            return Ok(Some(Vec::new()));
        }
        store.lease(&hash)?.map(|lease| store.remove(lease)).transpose()
    });
    let removed: Result<_, StoreError> = removed.await.map_err(|e| failed("remove the session", e))?;
    removed
        .map_err(|e| failed("remove the session", e))?
        .ok_or_else(|| HandsError::Held {
            session: key.session.to_string(),
        })
}

/// Takes the lease and makes ready what does not need a VM. The first clone starts at once beside that.
async fn open(
    shared: &Arc<Shared>,
    key: &SessionKey,
    isolation: Isolation,
    reach: Reach,
) -> Result<Session, HandsError> {
    let blocking = {
        let (shared, key) = (shared.clone(), key.clone());
        tokio::task::spawn_blocking(move || prepare_disk(&shared, &key))
    };
    let opened = blocking.await.map_err(|e| failed("open the session", e))?;
    let (lease, row, image) = opened
        .map_err(|e| failed("open the session", e))?
        .ok_or_else(|| HandsError::Held {
            session: key.session.to_string(),
        })?;
    // The pool that was begun at the claim, with the clone that is on its way in it; unless the template has been built
    // anew since, or the session wants another card.
    let warmed = shared.warmed.take(key);
    let warmed = warmed.filter(|warm| warm.base == row.base && warm.card == reach.card);
    let pool = warmed.map_or_else(|| pool(shared, key, image, reach.card), |warm| warm.pool);
    // A session that goes on with its memory needs no clone.
    if row.memory.is_none() || isolation == Isolation::Call {
        pool.refill();
    }
    Ok(Session::new(
        shared.clone(),
        lease,
        row,
        isolation,
        reach.egress,
        pool,
    ))
}

pub(crate) fn pool(shared: &Shared, key: &SessionKey, image: Arc<Image>, card: Card) -> DynPool {
    shared.platform.pool(SandboxSpec {
        image,
        size: shared.config.size,
        group: group(key),
        card,
        purpose: format!("session {}", key.session),
        suspendable: shared.config.isolation == Isolation::Session && shared.config.keep_memory.0 > 0,
    })
}

pub(crate) fn group(key: &SessionKey) -> IsolationGroup {
    isolation_group(&key.origin, &key.environment)
}

/// Sessions of one environment may share a snapshot; those of two may not.
pub fn isolation_group(origin: &str, environment: &ApiId) -> IsolationGroup {
    IsolationGroup(format!("{origin} {environment}"))
}

type Opened = (Lease, SessionRow, Arc<Image>);

fn prepare_disk(shared: &Shared, key: &SessionKey) -> Result<Option<Opened>, SessionsError> {
    let Shared {
        config,
        platform,
        store,
        ..
    } = shared;
    let hash = SessionHash::of(key);
    let Some(mut lease) = store.lease(&hash)? else {
        return Ok(None);
    };
    match store.get(&hash)? {
        Some(row) if row.state == SessionState::Ready => {
            let image = image_of(platform.as_ref(), &row)?;
            if !store.disk_path(&hash).exists() {
                return Err(SessionsError::DiskGone {
                    session: key.session.to_string(),
                });
            }
            store.touch(&lease, config.keep)?;
            return Ok(Some((lease, row, image)));
        }
        // No call has run on it, or it was on its way out: begin anew.
        Some(_) => {
            store.remove(lease)?;
            match store.lease(&hash)? {
                Some(again) => lease = again,
                None => return Ok(None),
            }
        }
        None => {}
    }
    let made = make(shared, &lease, key);
    match made {
        Ok((row, image)) => Ok(Some((lease, row, image))),
        Err(error) => {
            if let Err(left) = store.remove(lease) {
                tracing::warn!(error = %left, "a half-made session stays until the next sweep");
            }
            Err(error)
        }
    }
}

fn make(shared: &Shared, lease: &Lease, key: &SessionKey) -> Result<(SessionRow, Arc<Image>), SessionsError> {
    let Shared {
        config,
        platform,
        store,
        dir,
        ..
    } = shared;
    check_floor(config, dir)?;
    let image = platform.image(&config.template).map_err(SessionsError::Image)?;
    let new = NewSession {
        template: image.template.name.clone(),
        base: image.base_digest.clone(),
        disk_bytes: config.disk.0,
        user: image.template.user.clone(),
        seed: config.seed.is_some(),
    };
    let mut row = store.create(lease, key, &new, config.keep)?;
    store.make_disk(lease, |path| {
        platform
            .make_disk(path, config.disk.0)
            .map_err(SessionsError::Disk)
    })?;
    store.set_state(lease, SessionState::Ready)?;
    row.state = SessionState::Ready;
    Ok((row, image))
}

fn check_floor(config: &SessionsConfig, dir: &DataDir) -> Result<(), SessionsError> {
    let (free, floor) = free_and_floor(config, dir)?;
    if free < floor {
        return Err(SessionsError::NoSpace {
            path: dir.root().to_owned(),
            free,
            floor,
        });
    }
    Ok(())
}

/// What is free of the data folder's file system, and what has to be before anything new is put there.
pub(crate) fn free_and_floor(
    config: &SessionsConfig,
    dir: &DataDir,
) -> Result<(ByteSize, ByteSize), StoreError> {
    let space = rustix::fs::statvfs(dir.root()).map_err(|source| StoreError::File {
        step: "statfs",
        path: dir.root().to_owned(),
        source: source.into(),
    })?;
    let free = ByteSize(space.f_bavail.saturating_mul(space.f_frsize));
    let total = ByteSize(space.f_blocks.saturating_mul(space.f_frsize));
    Ok((free, config.floor.unwrap_or_else(|| default_floor(total))))
}

/// The image that a session's disk is an overlay over.
pub(crate) fn image_of(platform: &dyn Platform, row: &SessionRow) -> Result<Arc<Image>, SessionsError> {
    let image = platform
        .image_over(&row.template, &row.base)
        .map_err(SessionsError::Image)?;
    image.ok_or_else(|| SessionsError::BaseGone {
        session: row.key.session.to_string(),
        template: row.template.to_string(),
        base: row.base.short().to_owned(),
    })
}

/// OmniRun's own failure.
pub(crate) fn failed(step: &str, source: impl Into<BoxError>) -> HandsError {
    HandsError::Failed {
        step: format!("cannot {step}"),
        source: source.into(),
    }
}
