//! Following the host's own files about names: a laptop that changes its network has another resolver a moment later.

use super::{resolvers::Files, state::Table};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::{
    collections::BTreeSet,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{io::AsyncReadExt, net::unix::pipe, time::sleep};

/// Files are written in several steps, and several of them one after the other.
const SETTLE: Duration = Duration::from_millis(200);

/// Has the child told anew whenever what the files say has changed. Ends only if they cannot be watched; what was read
/// last holds then.
pub(super) async fn follow(files: Files, table: &Table) {
    if let Err(error) = try_follow(&files, table).await {
        let error: &dyn std::error::Error = &error;
        tracing::warn!(error, "the host's resolver is not followed as it changes");
    }
}

async fn try_follow(files: &Files, table: &Table) -> io::Result<()> {
    let mut told = files.read();
    loop {
        // Anew each time: a link may lead elsewhere now.
        let mut events = watch(files)?;
        // Whatever changed before the watch was there.
        let now = files.read();
        if now != told {
            told = now;
            table.tell_resolvers();
        }
        let mut buffer = [0; 4096];
        let _some = events.read(&mut buffer).await?;
        sleep(SETTLE).await;
    }
}

/// The folders of the files, and of what they are links to: files are replaced as often as they are written to.
fn watch(files: &Files) -> io::Result<pipe::Receiver> {
    let events: OwnedFd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let wanted = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::CREATE | WatchFlags::DELETE;
    let folders: BTreeSet<PathBuf> = files
        .paths()
        .into_iter()
        .flat_map(|path| [path.canonicalize().ok(), Some(path.to_owned())])
        .flatten()
        .filter_map(|path| path.parent().map(Path::to_owned))
        .collect();
    for folder in folders {
        // A folder that is not there has no files either.
        let _ = inotify::add_watch(&events, &folder, wanted);
    }
    // For the runtime it is read like a pipe.
    pipe::Receiver::from_owned_fd_unchecked(events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Resolvers;
    use std::{fs, os::unix::fs::symlink};
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_change_is_told_and_a_file_that_is_written_again_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let files = Files {
            resolv_conf: at("resolv.conf"),
            hosts: at("hosts"),
        };
        fs::create_dir(at("run")).unwrap();
        fs::write(at("run/stub"), "nameserver 9.9.9.9\n").unwrap();
        symlink(at("run/stub"), &files.resolv_conf).unwrap();
        fs::write(&files.hosts, "").unwrap();
        let table = Table::new(Resolvers::System);
        table.take_untold();
        let hosts = files.hosts.clone();
        let told = async || {
            let told = timeout(Duration::from_secs(10), table.changed.notified()).await;
            told.is_ok() && table.take_untold().resolvers
        };
        let test = async {
            // The watch is there when the other half has had its turn.
            tokio::task::yield_now().await;
            fs::write(at("run/stub"), "nameserver 1.1.1.1\n").unwrap();
            assert!(told().await);
            fs::write(at("new"), "10.0.0.1 a.example\n").unwrap();
            fs::rename(at("new"), &hosts).unwrap();
            assert!(told().await);
            fs::write(&hosts, "10.0.0.1 a.example\n").unwrap();
            assert!(
                timeout(Duration::from_millis(600), table.changed.notified())
                    .await
                    .is_err()
            );
        };
        tokio::select! {
            () = test => {}
            () = follow(files, &table) => panic!("it ended"),
        }
    }
}
