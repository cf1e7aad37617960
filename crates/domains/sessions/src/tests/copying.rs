//! Files in and out of idle sessions.

use super::*;
use crate::{CopyError, pack, unpack::UnpackError};
use omnirun_sandboxes::SandboxSize;
use std::{fs, path::PathBuf};

struct Idle {
    host: Host,
    out: PathBuf,
}

/// A session that nobody serves, and a folder of the host.
async fn idle() -> Idle {
    let host = Host::new(Isolation::Call);
    host.open().await.close(Release::Keep).await.unwrap();
    let out = host.tmp.path().join("out");
    fs::create_dir(&out).unwrap();
    Idle { host, out }
}

impl Idle {
    /// The agent sends this folder, under its name.
    fn sends(&self, files: &[(&str, &str)]) {
        let from = self.host.tmp.path().join("from");
        fs::create_dir(&from).unwrap();
        for (name, text) in files {
            fs::write(from.join(name), text).unwrap();
        }
        let mut bytes = Vec::new();
        pack::pack(&from, &pack::Root::As("dir".into()), &mut bytes).unwrap();
        *self.host.fake.archive.lock().unwrap() = bytes;
        self.host
            .fake
            .modes
            .lock()
            .unwrap()
            .insert("out/dir".into(), 0o040_755);
    }

    async fn copy_out(&self, path: &str, dest: PathBuf) -> Result<crate::unpack::Unpacked, CopyError> {
        self.host
            .process()
            .copy_out(&SessionHash::of(&key()), path, &dest)
            .await
    }

    async fn copy_in(&self, source: PathBuf, path: &str) -> Result<(), CopyError> {
        self.host
            .process()
            .copy_in(&SessionHash::of(&key()), &source, path)
            .await
    }

    /// What is in the host's folder; nothing half-done may be.
    fn found(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.out).unwrap();
        entries
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect()
    }
}

#[tokio::test]
async fn a_folder_comes_out_under_its_name_or_a_new_one() {
    let idle = idle().await;
    idle.sends(&[("f", "text")]);
    idle.copy_out("out/dir", idle.out.clone()).await.unwrap();
    assert_eq!(fs::read_to_string(idle.out.join("dir/f")).unwrap(), "text");
    idle.copy_out("out/dir", idle.out.join("renamed")).await.unwrap();
    assert_eq!(fs::read_to_string(idle.out.join("renamed/f")).unwrap(), "text");
    let again = idle.copy_out("out/dir", idle.out.clone()).await;
    assert!(matches!(again, Err(CopyError::Exists { .. })), "{again:?}");
    assert_eq!(idle.found().len(), 2);
    assert!(idle.host.fake.living.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_a_hostile_guest_sends_leaves_nothing() {
    let idle = idle().await;
    idle.sends(&[("f", "text")]);
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    header.as_mut_bytes()[..10].copy_from_slice(b"../escaped");
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(&[0; 1 << 20]);
    *idle.host.fake.archive.lock().unwrap() = bytes;
    let refused = idle.copy_out("out/dir", idle.out.clone()).await;
    assert!(
        matches!(refused, Err(CopyError::Unpack(UnpackError::Path(_)))),
        "{refused:?}"
    );
    assert!(idle.found().is_empty() && !idle.host.tmp.path().join("escaped").exists());
}

#[tokio::test]
async fn no_link_comes_that_would_lead_to_its_neighbours_on_the_host() {
    let idle = idle().await;
    idle.sends(&[("f", "text")]);
    let link = |name: &str, target: &str| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, name, target).unwrap();
        tar.into_inner().unwrap()
    };
    for bytes in [link("dir/l", "../.ssh/id_rsa"), link("dir", ".ssh/id_rsa")] {
        *idle.host.fake.archive.lock().unwrap() = bytes;
        let refused = idle.copy_out("out/dir", idle.out.clone()).await;
        assert!(
            matches!(refused, Err(CopyError::Unpack(UnpackError::Link(_)))),
            "{refused:?}"
        );
        assert!(idle.found().is_empty());
    }
}

#[tokio::test]
async fn a_stream_of_nothing_is_not_a_copy() {
    let idle = idle().await;
    idle.sends(&[("f", "text")]);
    *idle.host.fake.archive.lock().unwrap() = vec![0; 1024];
    let nothing = idle.copy_out("out/dir", idle.out.clone()).await;
    assert!(nothing.is_err() && idle.found().is_empty(), "{nothing:?}");
}

#[tokio::test]
async fn a_copy_takes_the_sandbox_that_is_at_hand_and_leaves_the_retention_as_it_is() {
    let mut idle = idle().await;
    // Not the worker's configuration: the command knows neither its size nor its retention.
    idle.host.config.keep = Duration::from_secs(1);
    let source = idle.out.join("data.csv");
    fs::write(&source, "1,2").unwrap();
    idle.copy_in(source.clone(), "").await.unwrap();
    let asked = || idle.host.fake.last_size.lock().unwrap().unwrap();
    assert_eq!(asked(), idle.host.config.size);
    let size = SandboxSize {
        vcpus: 2,
        memory: ByteSize::mib(256),
    };
    *idle.host.fake.ready_size.lock().unwrap() = Some(size);
    idle.copy_in(source, "").await.unwrap();
    assert_eq!(asked(), size);
    let hash = SessionHash::of(&key());
    let row = idle.host.process().store().get(&hash).unwrap().unwrap();
    assert_eq!(
        Duration::from_millis(row.keep_ms.unsigned_abs()),
        crate::config::DEFAULT_KEEP
    );
}

#[tokio::test]
async fn a_stream_that_is_cut_off_is_not_a_copy() {
    let idle = idle().await;
    idle.sends(&[("f", "text")]);
    idle.host.fake.archive.lock().unwrap().truncate(1024);
    let cut = idle.copy_out("out/dir", idle.out.clone()).await;
    assert!(cut.is_err() && idle.found().is_empty(), "{cut:?}");
}

#[tokio::test]
async fn a_served_session_is_not_copied_and_a_missing_path_is_named() {
    let idle = idle().await;
    let missing = idle.copy_out("nowhere", idle.out.clone()).await.unwrap_err();
    assert!(
        matches!(&missing, CopyError::NotFound { path } if path == "nowhere"),
        "{missing}"
    );
    let hands = idle.host.open().await;
    let held = idle.copy_out("out/dir", idle.out.clone()).await.unwrap_err();
    assert!(
        held.to_string().contains(&std::process::id().to_string()),
        "{held}"
    );
    hands.close(Release::Remove).await.unwrap();
    let gone = idle.copy_out("out/dir", idle.out.clone()).await;
    assert!(matches!(gone, Err(CopyError::NoSession)));
}

#[tokio::test]
async fn a_file_goes_in_as_a_new_name_or_into_a_folder() {
    let idle = idle().await;
    let source = idle.out.join("data.csv");
    fs::write(&source, "1,2").unwrap();
    let fake = &idle.host.fake;
    fake.modes.lock().unwrap().insert("inputs".into(), 0o040_755);
    for (path, folder, name) in [
        ("", ".", "data.csv"),
        ("inputs", "inputs", "data.csv"),
        ("new/", "new/", "data.csv"),
        ("renamed.csv", ".", "renamed.csv"),
        ("/srv/renamed.csv", "/srv", "renamed.csv"),
    ] {
        idle.copy_in(source.clone(), path).await.unwrap();
        assert_eq!(
            fake.unpacked_in.lock().unwrap().pop().as_deref(),
            Some(folder),
            "{path:?}"
        );
        assert_eq!(
            fake.seeded.lock().unwrap().pop().as_deref(),
            Some(name),
            "{path:?}"
        );
    }
    let missing = idle.copy_in(idle.out.join("nothing"), "").await;
    assert!(matches!(missing, Err(CopyError::File { .. })), "{missing:?}");
}
