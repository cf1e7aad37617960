//! Snapshots that are damaged, forged or another VMM's: made anew with a word, never loaded.

use omnirun_e2e::{
    footprint_of, omnirun_in, on_qemu, private_data, run,
    state::{RUN, mended, program, refused, replace},
    text,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn snapshot_folder(dir: &Path) -> PathBuf {
    let all = fs::read_dir(dir.join("snapshots"))
        .expect("it is there")
        .flatten();
    let mut folders = all.map(|e| e.path()).filter(|p| p.is_dir());
    let one = folders.next().expect("a snapshot");
    assert_eq!(folders.next(), None);
    one
}

#[test]
fn a_damaged_or_foreign_snapshot_is_made_anew_with_a_word() {
    let private = private_data();
    let dir = private.path();
    mended("first", dir, "first use of this size");
    let folder = snapshot_folder(dir);
    replace(&folder.join("memory"), |mut bytes| {
        bytes.truncate(4096);
        bytes
    });
    mended("memory", dir, "bytes instead of");
    replace(&folder.join("state"), |mut bytes| {
        bytes[1000..1007].copy_from_slice(b"garbage");
        bytes
    });
    mended("state", dir, "not what was written");
    fs::remove_file(folder.join("manifest.json")).expect("it is ours");
    mended("manifest", dir, "no manifest");
    // Somebody says that it is another VMM's, or another CPU's: the seal does not hold.
    for (from, to) in [
        ("\\\"cpu\\\":\\\"", "\\\"cpu\\\":\\\"x"),
        ("\\\"driver_version\\\":\\\"", "\\\"driver_version\\\":\\\"99"),
    ] {
        let edit = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).expect("text");
            assert!(text.contains(from), "{text}");
            text.replacen(from, to, 1).into_bytes()
        };
        replace(&folder.join("manifest.json"), edit);
        mended(from, dir, "making the snapshot anew");
    }
    fs::write(dir.join("snapshot.key"), "short").expect("it is ours");
    refused(
        "bad key",
        dir,
        &mut omnirun_in(dir, RUN),
        &["snapshot.key", "damaged"],
    );
    // Without the key nothing that was made with it is trusted.
    fs::remove_file(dir.join("snapshot.key")).expect("it is there");
    mended("no key", dir, "making the snapshot anew");
    // And what is whole is used without a word.
    let (code, out, err) = run(&mut omnirun_in(dir, RUN));
    assert_eq!((code, out.as_str(), err.as_str()), (0, "fine\n", ""));
}

#[test]
fn a_snapshot_of_another_vmm_and_cpu_is_never_loaded_as_ours() {
    if !on_qemu() {
        return;
    }
    let private = private_data();
    let dir = private.path();
    let real = ["/usr/bin", "/usr/local/bin"]
        .map(|bin| Path::new(bin).join("qemu-system-x86_64"))
        .into_iter()
        .find(|path| path.is_file());
    let real = std::env::var_os("OMNIRUN_QEMU")
        .map(PathBuf::from)
        .or(real)
        .expect("QEMU");
    // The same program in the shape of another release with another CPU: another machine type, other features, and
    // another word for its version.
    let other = program(
        dir,
        &format!(
            r#"[ "$1" = --version ] && exec echo "QEMU emulator version 8.1.99 (another)"
args=()
for arg; do
    case $arg in q35,*) arg=pc-q35-6.2,${{arg#q35,}};; max) arg=qemu64;; esac
    args+=("$arg")
done
exec -a qemu-system-x86_64 {} "${{args[@]}}""#,
            real.display()
        ),
    );
    let with_other = |word: &str| {
        let (code, out, err) = run(omnirun_in(dir, RUN).env("OMNIRUN_QEMU", &other));
        assert_eq!((code, out.as_str()), (0, "fine\n"), "{word}: {err}");
        assert!(err.contains(word), "{word}: {err}");
    };
    with_other("first use of this size");
    let theirs = snapshot_folder(dir);
    // Ours does not so much as look at it.
    mended("another's snapshot", dir, "first use of this size");
    with_other("");
    let all = fs::read_dir(dir.join("snapshots"))
        .expect("it is there")
        .flatten();
    let ours = all
        .map(|e| e.path())
        .find(|p| p.is_dir() && *p != theirs)
        .expect("a snapshot of ours");
    // Its files under our name, with our manifest: they are not what was sealed.
    for file in ["memory", "state"] {
        fs::remove_file(ours.join(file)).expect("it is ours");
        fs::copy(theirs.join(file), ours.join(file)).expect("it can be copied");
    }
    mended("files of another's", dir, "making the snapshot anew");
    // And under a name that our own key sealed, as a fault of OmniRun's would leave it: the VMM refuses it, the line says
    // so, and the next use makes one that it takes.
    reseal(dir, &ours, &theirs);
    let (code, out, err) = run(&mut omnirun_in(dir, RUN));
    assert_eq!((code, out.as_str()), (125, ""), "{err}");
    assert!(err.contains("restore the snapshot"), "{err}");
    assert_eq!(footprint_of(dir), Vec::<String>::new());
    mended("a refused one", dir, "first use of this size");
    fs::remove_file(other).expect("it is ours");
}

/// Puts another snapshot's files in a snapshot's place, and its manifest under their digests and the data folder's key.
fn reseal(dir: &Path, ours: &Path, theirs: &Path) {
    let read = |folder: &Path| -> serde_json::Value {
        let sealed = fs::read(folder.join("manifest.json")).expect("a manifest");
        let sealed: serde_json::Value = serde_json::from_slice(&sealed).expect("JSON");
        serde_json::from_str(sealed["body"].as_str().expect("a body")).expect("JSON")
    };
    let (mut body, other) = (read(ours), read(theirs));
    for file in ["memory", "state"] {
        fs::remove_file(ours.join(file)).expect("it is ours");
        fs::copy(theirs.join(file), ours.join(file)).expect("it can be copied");
        // The digest is of the bytes alone; the copy is another inode, so it is read whole.
        body[file] = other[file].clone();
    }
    let body = body.to_string();
    let key = fs::read(dir.join("snapshot.key")).expect("the key");
    let mac = Command::new("python3")
        .args([
            "-c",
            "import sys, hmac; print(hmac.new(bytes.fromhex(sys.argv[1]), \
                b'omnirun snapshot manifest\\0' + sys.argv[2].encode(), 'sha256').hexdigest())",
        ])
        .arg(key.iter().map(|b| format!("{b:02x}")).collect::<String>())
        .arg(&body)
        .output()
        .expect("python3 starts");
    let mac = text(&mac.stdout).trim().to_owned();
    // In the very form in which it is written: any other is refused before the VMM sees a file.
    let sealed = serde_json::to_vec_pretty(&serde_json::json!({"body": body, "mac": mac})).expect("JSON");
    replace(&ours.join("manifest.json"), |_| sealed);
}
