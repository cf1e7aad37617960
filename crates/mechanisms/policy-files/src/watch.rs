//! News of folders.

use crate::PolicyFileError;
use omnirun_sys::host::ready::Readable;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::{io, os::fd::BorrowedFd, path::PathBuf, sync::Arc};

/// What happens to a file that somebody writes, replaces, removes or makes. Folders are watched and not files: a file that
/// is replaced is another one.
const CHANGES: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM);

/// The folders in which something may change.
#[derive(Debug)]
pub(crate) struct Folders(Readable);

impl Folders {
    /// Watches those that are there. Only inside a runtime.
    pub(crate) fn watch(folders: &[PathBuf]) -> Result<Self, PolicyFileError> {
        let failed = |path: &PathBuf| {
            let path = path.clone();
            move |source| PolicyFileError::File {
                step: "watch",
                path,
                source,
            }
        };
        let first = folders.first().cloned().unwrap_or_default();
        let news = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|e| failed(&first)(e.into()))?;
        for folder in folders.iter().filter(|folder| folder.is_dir()) {
            inotify::add_watch(&news, folder, CHANGES).map_err(|e| failed(folder)(e.into()))?;
        }
        Readable::new(Arc::new(news)).map(Self).map_err(failed(&first))
    }

    /// Waits until something has changed since the last call. Cancel-safe.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        self.0.read(drain).await
    }
}

/// Takes all that is there; what it was does not matter.
fn drain(news: BorrowedFd<'_>) -> io::Result<()> {
    let mut buffer = [0u8; 4096];
    rustix::io::read(news, &mut buffer)?;
    while rustix::io::read(news, &mut buffer).is_ok_and(|read| read > 0) {}
    Ok(())
}
