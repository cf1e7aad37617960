//! The manifest of a snapshot: its key and the keyed digest of each file, itself authenticated.

use super::{
    SnapshotError, SnapshotKey,
    record::{FileRecord, open_plain},
    store::unwrap_file,
};
use hmac::{Hmac, KeyInit, Mac};
use omnirun_store::Unfinished;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::Sha256;
use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

/// What a template's manifest is authenticated with before its body.
const LABEL: &str = "omnirun snapshot manifest\0";
/// Format of the manifest.
const VERSION: u32 = 1;
/// A manifest is a page or so; more is not one.
const MAX_MANIFEST: u64 = 64 * 1024;

/// The key that authenticates snapshots of this data folder.
#[derive(Clone)]
pub(crate) struct MacKey([u8; 32]);

impl std::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[key]")
    }
}

impl MacKey {
    /// Reads the key, or draws one.
    pub(crate) fn load_or_create(path: &Path) -> Result<Self, SnapshotError> {
        let err = |step| {
            move |source| SnapshotError::File {
                step,
                path: path.to_owned(),
                source,
            }
        };
        loop {
            match File::open(path) {
                Ok(mut file) => {
                    let meta = file.metadata().map_err(err("stat"))?;
                    let mut bytes = Vec::new();
                    (&mut file)
                        .take(64)
                        .read_to_end(&mut bytes)
                        .map_err(err("read"))?;
                    let key = bytes.try_into().map_err(|_| SnapshotError::Key {
                        path: path.to_owned(),
                    })?;
                    if meta.permissions().mode() & 0o077 != 0 {
                        return Err(SnapshotError::Key {
                            path: path.to_owned(),
                        });
                    }
                    return Ok(Self(key));
                }
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(err("open")(e)),
            }
            let mut key = [0u8; 32];
            rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty())
                .map_err(|e| err("draw the bytes of")(e.into()))?;
            // Whole or not at all, and the first process to be there wins: link(2) does not replace.
            let new = Unfinished::create(path).map_err(unwrap_file)?;
            let made = new
                .as_file()
                .write_all(&key)
                .and_then(|()| new.as_file().sync_all())
                .and_then(|()| fs::hard_link(new.path(), path));
            match made {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(err("create")(e)),
                _ => {}
            }
        }
    }

    pub(crate) fn mac(&self) -> Hmac<Sha256> {
        // HMAC pads a short key with zeros to the block's 64 bytes; so do we, and need no fallible constructor.
        let mut block = [0u8; 64];
        block[..self.0.len()].copy_from_slice(&self.0);
        Hmac::<Sha256>::new(&block.into())
    }
}

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    pub(crate) key: SnapshotKey,
    /// When it was made, ms since the epoch.
    pub(crate) created_ms: i64,
    pub(crate) memory: FileRecord,
    pub(crate) state: FileRecord,
}

/// The manifest as it is written: the body's JSON as a string, so that the very bytes are authenticated.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    body: String,
    mac: String,
}

impl Manifest {
    pub(crate) fn new(key: SnapshotKey, created_ms: i64, memory: FileRecord, state: FileRecord) -> Self {
        Self {
            version: VERSION,
            key,
            created_ms,
            memory,
            state,
        }
    }

    pub(crate) fn seal(&self, key: &MacKey) -> Vec<u8> {
        seal(LABEL, self, key)
    }

    /// Reads a manifest. `Ok(None)`: there is none.
    pub(crate) fn read(path: &Path, name: &str, key: &MacKey) -> Result<Option<Self>, SnapshotError> {
        let manifest: Option<Self> = read_sealed(LABEL, path, name, key)?;
        match manifest {
            Some(manifest) if manifest.version != VERSION => Err(SnapshotError::Damaged {
                name: name.to_owned(),
                what: "its manifest is of another version".to_owned(),
            }),
            manifest => Ok(manifest),
        }
    }
}

/// What is written of a manifest. One of another kind, and so of another label, is none of this kind.
pub(super) fn seal(label: &str, body: &impl Serialize, key: &MacKey) -> Vec<u8> {
    let body = serde_json::to_string(body).unwrap_or_default();
    let mac = hex::encode(body_mac(label, key, &body).finalize().into_bytes());
    serde_json::to_vec_pretty(&Sealed { body, mac }).unwrap_or_default()
}

/// Reads what was sealed. `Ok(None)`: there is none.
pub(super) fn read_sealed<T: DeserializeOwned>(
    label: &str,
    path: &Path,
    name: &str,
    key: &MacKey,
) -> Result<Option<T>, SnapshotError> {
    let err = |step| {
        move |source| SnapshotError::File {
            step,
            path: path.to_owned(),
            source,
        }
    };
    let damaged = |what: &str| SnapshotError::Damaged {
        name: name.to_owned(),
        what: what.to_owned(),
    };
    let file = match open_plain(path) {
        Ok(Some(file)) => file,
        Ok(None) => return Err(damaged("its manifest is no plain file")),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) if e.kind() == ErrorKind::NotADirectory => return Err(damaged("it is no folder")),
        Err(e) => return Err(err("open")(e)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST)
        .read_to_end(&mut bytes)
        .map_err(err("read"))?;
    let sealed: Sealed =
        serde_json::from_slice(&bytes).map_err(|_| damaged("its manifest is not readable"))?;
    let mac = hex::decode(&sealed.mac).map_err(|_| damaged("its manifest has no digest"))?;
    body_mac(label, key, &sealed.body)
        .verify_slice(&mac)
        .map_err(|_| damaged("its manifest was not written with this data folder's key"))?;
    // The same in other letters or with something around it is not what was written.
    let written = serde_json::to_vec_pretty(&sealed).unwrap_or_default();
    if written != bytes || hex::encode(mac) != sealed.mac {
        return Err(damaged("its manifest is not as it was written"));
    }
    serde_json::from_str(&sealed.body)
        .map(Some)
        .map_err(|_| damaged("its manifest is of another version"))
}

fn body_mac(label: &str, key: &MacKey, body: &str) -> Hmac<Sha256> {
    let mut mac = key.mac();
    mac.update(label.as_bytes());
    mac.update(body.as_bytes());
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_key_is_drawn_once_and_private() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("k");
        let keys: Vec<_> = std::thread::scope(|s| {
            (0..4)
                .map(|_| s.spawn(|| MacKey::load_or_create(&path).unwrap().0))
                .collect::<Vec<_>>()
                .into_iter()
                .map(|t| t.join().unwrap())
                .collect()
        });
        assert!(keys.iter().all(|k| *k == keys[0]) && keys[0] != [0; 32]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::write(&path, "short").unwrap();
        assert!(matches!(
            MacKey::load_or_create(&path),
            Err(SnapshotError::Key { .. })
        ));
    }

    #[test]
    fn a_manifest_that_somebody_else_wrote_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let key = MacKey::load_or_create(&tmp.path().join("k")).unwrap();
        let other = MacKey::load_or_create(&tmp.path().join("k2")).unwrap();
        let file = tmp.path().join("f");
        fs::write(&file, "x").unwrap();
        let record = FileRecord::of(&key, &file).unwrap().unwrap();
        let manifest = Manifest::new(crate::snapshot::key::tests::key(), 1, record.clone(), record);
        let path = tmp.path().join("manifest.json");
        fs::write(&path, manifest.seal(&key)).unwrap();
        assert_eq!(Manifest::read(&path, "n", &key).unwrap(), Some(manifest.clone()));
        assert!(matches!(
            Manifest::read(&path, "n", &other),
            Err(SnapshotError::Damaged { .. })
        ));
        let text = String::from_utf8(manifest.seal(&key))
            .unwrap()
            .replace("tcg", "kvm");
        fs::write(&path, text).unwrap();
        assert!(matches!(
            Manifest::read(&path, "n", &key),
            Err(SnapshotError::Damaged { .. })
        ));
        fs::write(&path, "{").unwrap();
        assert!(matches!(
            Manifest::read(&path, "n", &key),
            Err(SnapshotError::Damaged { .. })
        ));
        assert_eq!(Manifest::read(&tmp.path().join("none"), "n", &key).unwrap(), None);
    }
}
