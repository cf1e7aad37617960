//! The data folder: where it is, that it is ours, private and local, and what is in it.

use crate::{
    atomic::{self, FileLock, write_atomic},
    error::{StoreError, file},
};
use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Version of the folder's layout.
const LAYOUT: i64 = 1;
const SUBFOLDERS: [&str; 7] = ["images", "snapshots", "sessions", "owners", "run", "audit", "tmp"];

/// File systems that are reached over a network, by the magic of `statfs(2)`.
const NETWORK: [(u32, &str); 15] = [
    (0x6969, "nfs"),
    (0x517b, "smb"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x00c3_6400, "ceph"),
    (0x0102_1997, "9p"),
    (0x5346_414f, "afs"),
    (0x6b41_4653, "afs"),
    (0x7375_7245, "coda"),
    (0x0bd0_0bd0, "lustre"),
    (0x0116_1970, "gfs2"),
    (0x7461_636f, "ocfs2"),
    (0x4750_4653, "gpfs"),
    (0x1983_0326, "beegfs"),
    (0x0000_564c, "ncp"),
];
/// `statfs` magic of everything that goes through FUSE; the mount table knows more.
const FUSE: u32 = 0x6573_5546;
/// FUSE file systems that are local.
const FUSE_LOCAL: [&str; 5] = [
    "fuseblk",
    "fuse.fuse-overlayfs",
    "fuse.mergerfs",
    "fuse.bindfs",
    "fuse.ntfs-3g",
];

/// An open data folder. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir {
    root: PathBuf,
}

impl DataDir {
    /// Opens the data folder, making it if it is not there: the one given, else `/var/lib/omnirun` for root, else
    /// `$XDG_DATA_HOME/omnirun` or `~/.local/share/omnirun`.
    ///
    /// # Errors
    /// [`StoreError`] if there is no such place, or it is not ours, not local, of a newer layout, or full of something
    /// else.
    pub fn open(given: Option<PathBuf>) -> Result<Self, StoreError> {
        let root = match given {
            Some(root) => root,
            None => default_root()?,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root)
            .map_err(file("create", &root))?;
        let root = root.canonicalize().map_err(file("resolve", &root))?;
        refuse_network(&root)?;

        let meta = fs::metadata(&root).map_err(file("stat", &root))?;
        let me = rustix::process::geteuid().as_raw();
        if meta.uid() != me {
            return Err(StoreError::NotOurs {
                path: root,
                owner: meta.uid(),
                me,
            });
        }
        let dir = Self { root };
        let layout = dir.root.join("layout");
        if dir.check_layout(&layout)?.is_none() {
            // Several processes may open a new folder at once: one of them writes the layout.
            let lock = FileLock::exclusive(&dir.root.join(".lock"))?;
            if dir.check_layout(&layout)?.is_none() {
                dir.must_be_empty()?;
                write_atomic(&layout, format!("{LAYOUT}\n").as_bytes())?;
            }
            drop(lock);
        }
        // Each time: somebody may have removed one that was empty.
        for name in SUBFOLDERS {
            dir.subfolder(name)?;
        }
        if meta.mode() & 0o077 != 0 {
            fs::set_permissions(&dir.root, fs::Permissions::from_mode(0o700))
                .map_err(file("make private", &dir.root))?;
        }
        Ok(dir)
    }

    /// Where it is: absolute, without links.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Images, by digest.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Snapshots, by key.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// Session disks.
    pub fn sessions(&self) -> PathBuf {
        self.root.join("sessions")
    }

    /// Lock files of owners.
    pub fn owners(&self) -> PathBuf {
        self.root.join("owners")
    }

    /// Run folders of VMs.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// What left sandboxes and what was stopped.
    pub fn audit(&self) -> PathBuf {
        self.root.join("audit")
    }

    /// Work in progress.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.root.join("state.db")
    }

    /// The key that authenticates snapshots.
    pub fn snapshot_key(&self) -> PathBuf {
        self.root.join("snapshot.key")
    }

    /// Bytes that an ordinary user may still write to its file system.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        let s = rustix::fs::statvfs(&self.root).map_err(|e| file("statfs", &self.root)(e.into()))?;
        Ok(s.f_bavail.saturating_mul(s.f_frsize))
    }

    /// Files that processes were writing when they were killed.
    pub fn unfinished(&self) -> Vec<PathBuf> {
        let folders = self.written_to();
        folders.iter().flat_map(|f| atomic::unfinished(f)).collect()
    }

    /// Removes the files that processes were writing when they were killed; returns their paths.
    pub fn sweep_unfinished(&self) -> Vec<PathBuf> {
        let folders = self.written_to();
        folders.iter().flat_map(|f| atomic::sweep_unfinished(f)).collect()
    }

    /// The folders in which an [`Unfinished`](crate::Unfinished) may be.
    fn written_to(&self) -> Vec<PathBuf> {
        let images = self.images();
        let mut folders = vec![self.root.clone(), images.join("blobs"), images.join("templates")];
        let snapshots = fs::read_dir(self.snapshots()).into_iter().flatten().flatten();
        folders.extend(snapshots.map(|e| e.path()).filter(|p| p.is_dir()));
        folders
    }

    fn subfolder(&self, name: &str) -> Result<(), StoreError> {
        let path = self.root.join(name);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(file("create", &path)(e)),
            _ => Ok(()),
        }
    }

    fn check_layout(&self, path: &Path) -> Result<Option<()>, StoreError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(file("read", path)(e)),
        };
        let found: i64 = text.trim().parse().map_err(|_| StoreError::Damaged {
            path: path.to_owned(),
            what: "it must hold one number".to_owned(),
        })?;
        if found > LAYOUT {
            return Err(StoreError::Newer {
                path: path.to_owned(),
                found,
                known: LAYOUT,
            });
        }
        Ok(Some(()))
    }

    /// A folder without a layout may hold what an interrupted first opening left, recipes that a user has put there, and
    /// nothing else: making somebody's home private and filling it would be rude.
    fn must_be_empty(&self) -> Result<(), StoreError> {
        for entry in fs::read_dir(&self.root).map_err(file("list", &self.root))? {
            let name = entry.map_err(file("list", &self.root))?.file_name();
            let name = name.to_string_lossy();
            let ours = SUBFOLDERS.contains(&&*name)
                || matches!(&*name, ".lock" | ".owners" | "templates")
                || name.starts_with("layout.");
            if !ours && name != "lost+found" {
                return Err(StoreError::Foreign {
                    path: self.root.clone(),
                });
            }
        }
        Ok(())
    }
}

fn default_root() -> Result<PathBuf, StoreError> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/omnirun"));
    }
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|base| base.join("omnirun"))
        .ok_or(StoreError::NoPlace)
}

fn refuse_network(root: &Path) -> Result<(), StoreError> {
    let stat = rustix::fs::statfs(root).map_err(|e| file("statfs", root)(e.into()))?;
    // The magic is 32 bits wide whatever the field's type is.
    let magic = (stat.f_type as u64 & 0xffff_ffff) as u32;
    let kind = match NETWORK.iter().find(|(m, _)| *m == magic) {
        Some((_, name)) => Some((*name).to_owned()),
        None if magic == FUSE => mount_type(root).filter(|name| !FUSE_LOCAL.contains(&name.as_str())),
        None => None,
    };
    match kind {
        Some(kind) => Err(StoreError::Network {
            path: root.to_owned(),
            kind,
        }),
        None => Ok(()),
    }
}

/// The file system type of the mount that holds a path.
fn mount_type(path: &Path) -> Option<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let dev = fs::metadata(path).ok()?.dev();
    let wanted = format!("{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev));
    table
        .lines()
        .rev()
        .find(|l| l.split(' ').nth(2) == Some(&*wanted))
        .and_then(type_of_mount)
}

/// The type field of a line of `mountinfo`: the first after the lone hyphen.
fn type_of_mount(line: &str) -> Option<String> {
    line.split_once(" - ")?.1.split(' ').next().map(str::to_owned)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A new data folder, gone with the first of the two.
    pub(crate) fn dir() -> (tempfile::TempDir, DataDir) {
        let tmp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(Some(tmp.path().join("d"))).unwrap();
        (tmp, dir)
    }

    #[test]
    fn makes_a_private_folder_and_opens_it_again() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().join("a/b");
        let dir = DataDir::open(Some(root.clone())).unwrap();
        for sub in SUBFOLDERS {
            assert_eq!(
                fs::metadata(root.join(sub)).unwrap().mode() & 0o777,
                0o700,
                "{sub}"
            );
        }
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        fs::remove_dir(root.join("run")).unwrap();
        assert_eq!(DataDir::open(Some(root.clone())).unwrap(), dir);
        assert!(root.join("run").is_dir());
        assert_eq!(fs::metadata(&root).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn recipes_may_be_there_before_anything_else() {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir(tmp.path().join("templates")).unwrap();
        DataDir::open(Some(tmp.path().to_owned())).unwrap();
    }

    #[test]
    fn leaves_other_peoples_folders_alone() {
        let tmp = tempfile::tempdir().unwrap();
        fs::set_permissions(tmp.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(tmp.path().join("thesis.tex"), "x").unwrap();
        assert!(matches!(
            DataDir::open(Some(tmp.path().to_owned())),
            Err(StoreError::Foreign { .. })
        ));
        assert_eq!(fs::metadata(tmp.path()).unwrap().mode() & 0o777, 0o755);
    }

    #[test]
    fn refuses_a_newer_layout_and_a_damaged_one() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().join("d");
        DataDir::open(Some(root.clone())).unwrap();
        fs::write(root.join("layout"), "2\n").unwrap();
        assert!(matches!(
            DataDir::open(Some(root.clone())),
            Err(StoreError::Newer { found: 2, .. })
        ));
        fs::write(root.join("layout"), "two").unwrap();
        assert!(matches!(
            DataDir::open(Some(root)),
            Err(StoreError::Damaged { .. })
        ));
    }

    #[test]
    fn many_open_a_new_folder_at_once() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().join("d");
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| DataDir::open(Some(root.clone())).unwrap());
            }
        });
    }

    #[test]
    fn reads_the_type_out_of_the_mount_table() {
        let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - fuse.sshfs me@host:/ rw";
        assert_eq!(type_of_mount(line).as_deref(), Some("fuse.sshfs"));
        assert_eq!(type_of_mount("garbage"), None);
    }
}
