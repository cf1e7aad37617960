use super::*;
use flate2::{Compression, write::GzEncoder};
use tar::{EntryType, Header};

const FIRECRACKER: &str = "release-v1.16.1-x86_64/firecracker-v1.16.1-x86_64";
const JAILER: &str = "release-v1.16.1-x86_64/jailer-v1.16.1-x86_64";

/// An entry, its path as it is: also one that a tar program would refuse to write.
fn entry(tar: &mut tar::Builder<impl Write>, path: &str, kind: EntryType, bytes: &[u8]) {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_size(bytes.len() as u64);
    header.set_mode(0o777);
    header.set_cksum();
    tar.append(&header, bytes).unwrap();
}

type Entry<'a> = (&'a str, EntryType, &'a [u8]);

fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, kind, bytes) in entries {
        entry(&mut tar, path, *kind, bytes);
    }
    tar.into_inner().unwrap().finish().unwrap()
}

fn take(bytes: &[u8]) -> (Result<Taken, InstallError>, Vec<String>) {
    let tmp = tempfile::tempdir().unwrap();
    let (file, into) = (tmp.path().join("a.tgz"), tmp.path().join("in/to"));
    fs::create_dir_all(&into).unwrap();
    fs::write(&file, bytes).unwrap();
    let taken = unpack(&file, &into, "a.tgz", "x86_64");
    let names = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect()
    };
    // Whatever is in an archive, nothing is written anywhere else.
    assert_eq!(names(&tmp.path().join("in")), ["to"]);
    assert_eq!(names(tmp.path()).len(), 2);
    let mut put = names(&into);
    put.sort();
    (taken, put)
}

fn sha256(bytes: &[u8]) -> String {
    Digest::from(<[u8; 32]>::from(Sha256::digest(bytes))).to_string()
}

#[test]
fn the_programs_and_the_licence_are_taken_and_nothing_else() {
    let sums = format!(
        "{}  ./firecracker-v1.16.1-x86_64\n{}  ./jailer-v1.16.1-x86_64\n",
        sha256(b"fc"),
        sha256(b"jl")
    );
    let file = EntryType::Regular;
    let (taken, put) = take(&archive(&[
        ("release-v1.16.1-x86_64/", EntryType::Directory, b""),
        (FIRECRACKER, file, b"fc"),
        (
            "release-v1.16.1-x86_64/firecracker-v1.16.1-x86_64.debug",
            file,
            b"debug",
        ),
        (JAILER, file, b"jl"),
        ("release-v1.16.1-x86_64/LICENSE", file, b"license"),
        ("release-v1.16.1-x86_64/SHA256SUMS", file, sums.as_bytes()),
        ("release-v1.16.1-x86_64/a/b/LICENSE", file, b"deeper"),
        ("release-v1.16.1-x86_64/link", EntryType::Symlink, b""),
    ]));
    let taken = taken.unwrap();
    assert_eq!(taken.version.as_deref(), Some("1.16.1"));
    assert_eq!(put, ["LICENSE", "firecracker", "jailer"]);
    assert_eq!(taken.files["jailer"].as_str(), sha256(b"jl"));
}

#[test]
fn what_is_no_release_is_refused() {
    let file = EntryType::Regular;
    let (fc, jl) = ((FIRECRACKER, file, &b"fc"[..]), (JAILER, file, &b"jl"[..]));
    let wrong = format!(
        "{}  ./firecracker-v1.16.1-x86_64\n{}  ./jailer-v1.16.1-x86_64\n",
        sha256(b"fc"),
        sha256(b"other")
    );
    let cases: [(&str, Vec<Entry<'_>>); 10] = [
        ("no jailer", vec![fc]),
        (
            "leads out",
            vec![fc, jl, ("../firecracker-v1.16.1-x86_64", file, b"x")],
        ),
        ("leads out", vec![fc, jl, ("/etc/LICENSE", file, b"x")]),
        ("no plain file", vec![(FIRECRACKER, EntryType::Symlink, b""), jl]),
        ("no plain file", vec![fc, (JAILER, EntryType::Link, b"")]),
        ("twice", vec![fc, fc, jl]),
        (
            "for aarch64",
            vec![("r/firecracker-v1.16.1-aarch64", file, b"fc"), jl],
        ),
        (
            "different versions",
            vec![fc, ("r/jailer-v1.15.1-x86_64", file, b"jl")],
        ),
        (
            "SHA256SUMS says",
            vec![fc, jl, ("r/SHA256SUMS", file, wrong.as_bytes())],
        ),
        ("no single SHA-256", vec![fc, jl, ("r/SHA256SUMS", file, b"")]),
    ];
    for (words, entries) in cases {
        let (taken, _) = take(&archive(&entries));
        let error = taken.expect_err(words).to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn an_archive_that_was_cut_off_gives_nothing() {
    let file = EntryType::Regular;
    let whole = archive(&[(FIRECRACKER, file, &[7; 3000]), (JAILER, file, &[8; 3000])]);
    let all = take(&whole).0.unwrap();
    for end in 0..whole.len() {
        // Its last bytes are the end of the padding, which nobody misses.
        let (taken, _) = take(&whole[..end]);
        assert!(
            taken.is_err() || taken.is_ok_and(|t| t == all && end + 16 > whole.len()),
            "{end}"
        );
    }
    assert!(take(b"no gzip").0.is_err());
}

#[test]
fn a_program_has_a_size() {
    let tmp = tempfile::tempdir().unwrap();
    let to = tmp.path().join("f");
    let error = put_down(&mut io::repeat(1), &to, 1000, 0o644).unwrap_err();
    assert!(
        matches!(error, InstallError::TooLarge { limit: 1000, .. }),
        "{error}"
    );
    let mut bounded = Bounded {
        inner: io::repeat(1),
        left: 10,
    };
    assert!(bounded.read(&mut [0; 10]).is_ok());
    assert!(bounded.read(&mut [0; 1]).is_err());
}

#[test]
fn only_names_of_releases_are_known() {
    assert_eq!(
        Name::parse("jailer-v1.16.1-x86_64"),
        Some(Name::Program("jailer", "1.16.1", "x86_64"))
    );
    for name in [
        "jailer",
        "firecracker-v1.16.1-x86_64.debug",
        "firecracker-vx-x86_64",
        "license",
    ] {
        assert_eq!(Name::parse(name), None, "{name}");
    }
}
