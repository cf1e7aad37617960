//! Damaged, missing and misplaced state: one clear line and the right exit code, or made anew with a word; and nothing
//! is left behind.

use omnirun_e2e::{
    footprint_of, omnirun_in, on_qemu, private_data, run,
    state::{RUN, half, program, refused, replace},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The file of a part of the default image.
fn blob(dir: &Path, part: &str) -> PathBuf {
    let manifest = fs::read(dir.join("images/templates/default.json")).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    let part = &manifest[part];
    let digest = part["image"]["digest"]
        .as_str()
        .or_else(|| part["image"]["sha256"].as_str());
    dir.join("images/blobs")
        .join(digest.unwrap_or_else(|| panic!("{part}")))
}

#[test]
fn a_damaged_image_names_the_command_that_mends_it() {
    let mend = "omnirun image build --force default";
    for (what, part) in [("kernel", "kernel"), ("base disk", "base")] {
        let private = private_data();
        let dir = private.path();
        let path = blob(dir, part);
        replace(&path, half);
        refused(what, dir, &mut omnirun_in(dir, RUN), &[what, mend]);
        fs::remove_file(&path).expect("it is ours");
        refused(what, dir, &mut omnirun_in(dir, RUN), &[what, mend]);
    }
    let private = private_data();
    let dir = private.path();
    let manifest = dir.join("images/templates/default.json");
    for change in [half, |_| Vec::new(), |_| b"{}".to_vec(), |_| vec![0xff; 5000]] {
        let whole = fs::read(&manifest).expect("it is there");
        replace(&manifest, change);
        refused("manifest", dir, &mut omnirun_in(dir, RUN), &["manifest", mend]);
        fs::write(&manifest, whole).expect("it can be written");
    }
    fs::remove_file(&manifest).expect("it is ours");
    refused(
        "none",
        dir,
        &mut omnirun_in(dir, RUN),
        &["omnirun image build default"],
    );
}

#[test]
fn without_a_vmm_the_first_line_says_what_to_install() {
    if !on_qemu() {
        return;
    }
    let private = private_data();
    let dir = private.path();
    refused(
        "nowhere",
        dir,
        omnirun_in(dir, RUN).env("OMNIRUN_QEMU", "/nonexistent/qemu"),
        &["/nonexistent/qemu"],
    );
    refused(
        "not in PATH",
        dir,
        omnirun_in(dir, RUN)
            .env_remove("OMNIRUN_QEMU")
            .env("PATH", "/nonexistent"),
        &["qemu-system-x86_64", "install"],
    );
    refused(
        "something else",
        dir,
        omnirun_in(dir, RUN).env("OMNIRUN_QEMU", "/bin/true"),
        &["/bin/true", "cannot be used as QEMU"],
    );
    // Endless output is not waited for.
    refused(
        "something endless",
        dir,
        omnirun_in(dir, RUN).env("OMNIRUN_QEMU", program(dir, "yes QEMU emulator version 9.9.9")),
        &["does not end"],
    );
}

/// A tmpfs, gone at the end. None if we may not mount.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a folder");
        let options = format!("size={size},mode=700");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "e2e"])
            .arg(dir.path())
            .output();
        done.is_ok_and(|o| o.status.success()).then_some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// What is in the run folders; the mount itself is the test's.
fn left(dir: &Path) -> Vec<String> {
    let mut all = footprint_of(dir);
    all.retain(|line| !line.contains(" - tmpfs e2e "));
    all
}

#[test]
fn a_full_or_read_only_data_folder_is_one_line() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: what a full data folder does is not tested");
        return;
    }
    let shared = private_data();
    let images = fs::read_dir(shared.path().join("images/blobs"))
        .expect("blobs")
        .flatten();
    let bytes: u64 = images.map(|e| e.metadata().expect("it is there").len()).sum();
    // The image fits, its snapshot does not.
    let Some(full) = Tmpfs::new(&format!("{}k", (bytes >> 10) + (40 << 10))) else {
        eprintln!("may not mount: what a full data folder does is not tested");
        return;
    };
    let copied = Command::new("cp")
        .arg("-a")
        .arg(shared.path().join("images"))
        .arg(full.path())
        .status()
        .expect("cp starts");
    assert!(copied.success());
    let (code, out, err) = run(&mut omnirun_in(full.path(), RUN));
    assert_eq!((code, out.as_str()), (125, ""), "{err}");
    assert!(err.contains("free") && err.lines().count() == 1, "{err}");
    assert_eq!(left(full.path()), Vec::<String>::new());

    // To the last byte.
    let filler = fs::File::create(full.path().join("images/filler")).expect("it can be made");
    let mut chunk = vec![1u8; 1 << 20];
    while chunk.len() > 100 {
        if std::io::Write::write_all(&mut &filler, &chunk).is_err() {
            chunk.truncate(chunk.len() / 16);
        }
    }
    let (code, out, err) = run(&mut omnirun_in(full.path(), RUN));
    assert_eq!((code, out.as_str()), (125, ""), "{err}");
    assert!(err.lines().count() == 1, "{err}");
    drop(filler);
    fs::remove_file(full.path().join("images/filler")).expect("it is ours");
    assert_eq!(left(full.path()), Vec::<String>::new());

    let remounted = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(full.path())
        .status()
        .expect("mount starts");
    assert!(remounted.success());
    let (code, out, err) = run(&mut omnirun_in(full.path(), RUN));
    assert_eq!((code, out.as_str()), (125, ""), "{err}");
    assert!(err.contains("ead-only") && err.lines().count() == 1, "{err}");
    assert_eq!(left(full.path()), Vec::<String>::new());
}

#[test]
fn a_place_that_is_no_data_folder_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("file");
    fs::write(&file, "mine").expect("it can be written");
    for place in [
        &file,
        &file.join("below"),
        &PathBuf::from("/proc/omnirun"),
        &PathBuf::from("/sys"),
    ] {
        let (code, out, err) = run(&mut omnirun_in(place, RUN));
        assert_eq!(
            (code, out.as_str(), err.lines().count()),
            (125, "", 1),
            "{place:?}: {err}"
        );
        assert!(err.contains(&*place.to_string_lossy()), "{place:?}: {err}");
    }
    // A folder full of something else.
    let (code, _, err) = run(&mut omnirun_in(dir.path(), RUN));
    assert_eq!((code, err.lines().count()), (125, 1), "{err}");
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "mine");
    assert_eq!(
        fs::read_dir(dir.path())
            .expect("it is there")
            .filter(|e| {
                !e.as_ref()
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .starts_with('.')
            })
            .count(),
        1
    );
    // A layout of a later version.
    let private = private_data();
    let (code, _, err) = run(&mut omnirun_in(private.path(), ["clean"]));
    assert_eq!(code, 0, "{err}");
    fs::write(private.path().join("layout"), "99\n").expect("it is ours");
    let (code, _, err) = run(&mut omnirun_in(private.path(), RUN));
    assert_eq!((code, err.lines().count()), (125, 1), "{err}");
    assert!(err.contains("99"), "{err}");
    fs::write(private.path().join("layout"), "1\n").expect("it is ours");
    // A database that is none.
    fs::write(private.path().join("state.db"), vec![7u8; 9000]).expect("it is ours");
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(private.path().join(format!("state.db{suffix}")));
    }
    refused(
        "database",
        private.path(),
        &mut omnirun_in(private.path(), RUN),
        &["state database", "state.db", "not a database"],
    );
}
