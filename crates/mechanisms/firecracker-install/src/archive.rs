//! The two programs and the licence out of a release's archive. Nothing else is unpacked, and an archive is not trusted
//! although its digest was compared: whoever gave the digest may have been wrong.
//!
//! ```text
//!   release-v1.16.1-x86_64/firecracker-v1.16.1-x86_64   taken
//!                          jailer-v1.16.1-x86_64        taken
//!                          LICENSE, NOTICE              taken
//!                          SHA256SUMS                   read, and the programs held against it
//!                          ...                          passed over
//! ```

use crate::{InstallError, checksums, error::file, release::is_version};
use omnirun_ids::Digest;
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path},
};

/// A release has some twenty entries.
const ENTRIES: usize = 1000;
/// All of it unpacked: some hundreds of megabytes, with debug information.
const UNPACKED: u64 = 4 << 30;
/// A program has some megabytes, a debug build some tens.
pub(crate) const PROGRAM: u64 = 256 << 20;
/// Licences and lists.
const TEXT: u64 = 1 << 20;

/// What was taken.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The version in the programs' names, if they have one.
    pub(crate) version: Option<String>,
    /// Digests of the files, by the name under which they were put down.
    pub(crate) files: BTreeMap<String, Digest>,
}

/// The names under which the programs are put down.
pub(crate) const PROGRAMS: [&str; 2] = ["firecracker", "jailer"];

/// A name of a release.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    /// A program, with version and architecture.
    Program(&'static str, &'a str, &'a str),
    /// A licence.
    Text(&'static str),
    /// The list of digests.
    Sums,
}

impl<'a> Name<'a> {
    pub(crate) fn parse(name: &'a str) -> Option<Self> {
        match name {
            "LICENSE" => return Some(Self::Text("LICENSE")),
            "NOTICE" => return Some(Self::Text("NOTICE")),
            "SHA256SUMS" => return Some(Self::Sums),
            _ => {}
        }
        PROGRAMS.into_iter().find_map(|program| {
            let rest = name.strip_prefix(program)?.strip_prefix("-v")?;
            let (version, arch) = rest.split_once('-')?;
            let plain = arch.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            (is_version(version) && plain).then_some(Self::Program(program, version, arch))
        })
    }
}

/// Takes what is wanted out of an archive and puts it into a folder that is there and empty. `what` names the archive
/// in messages.
pub(crate) fn unpack(archive: &Path, into: &Path, what: &str, arch: &str) -> Result<Taken, InstallError> {
    let unreadable = |source| InstallError::Archive {
        what: what.to_owned(),
        source,
    };
    let no_release = |reason: String| InstallError::NotARelease {
        what: what.to_owned(),
        reason,
    };
    let compressed = fs::File::open(archive).map_err(file("open", archive))?;
    let plain = flate2::read::GzDecoder::new(io::BufReader::new(compressed));
    let mut tar = tar::Archive::new(Bounded {
        inner: plain,
        left: UNPACKED,
    });
    let mut taken = Taken::default();
    let mut published: BTreeMap<&'static str, String> = BTreeMap::new();
    let mut sums = None;
    for (index, entry) in tar.entries().map_err(unreadable)?.enumerate() {
        if index == ENTRIES {
            return Err(no_release(format!("it has more than {ENTRIES} entries")));
        }
        let mut entry = entry.map_err(unreadable)?;
        let path = entry.path().map_err(unreadable)?.into_owned();
        let inside = path
            .components()
            .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !inside {
            return Err(no_release(format!("{path:?} leads out of it")));
        }
        let depth = path
            .components()
            .filter(|c| matches!(c, Component::Normal(_)))
            .count();
        let name = path.file_name().and_then(|n| n.to_str()).and_then(Name::parse);
        let Some(name) = name.filter(|_| depth <= 2) else {
            continue;
        };
        if !entry.header().entry_type().is_file() {
            return Err(no_release(format!("{path:?} is no plain file")));
        }
        let (put, limit, mode) = match name {
            Name::Program(program, version, its_arch) => {
                if its_arch != arch {
                    return Err(no_release(format!(
                        "it is for {its_arch}, and this machine is {arch}"
                    )));
                }
                if taken.version.as_deref().is_some_and(|v| v != version) {
                    return Err(no_release("its programs are of different versions".into()));
                }
                taken.version = Some(version.to_owned());
                published.insert(program, format!("{program}-v{version}-{arch}"));
                (program, PROGRAM, 0o755)
            }
            Name::Text(name) => (name, TEXT, 0o644),
            Name::Sums => {
                let mut text = String::new();
                let read = (&mut entry).take(TEXT + 1).read_to_string(&mut text);
                if read.map_err(unreadable)? as u64 > TEXT || sums.replace(text).is_some() {
                    return Err(no_release("its SHA256SUMS is too large, or there twice".into()));
                }
                continue;
            }
        };
        if taken.files.contains_key(put) {
            return Err(no_release(format!("{put} is in it twice")));
        }
        let digest = put_down(&mut entry, &into.join(put), limit, mode)?;
        taken.files.insert(put.to_owned(), digest);
    }
    if let Some(program) = PROGRAMS.iter().find(|p| !taken.files.contains_key(**p)) {
        return Err(no_release(format!("there is no {program} in it")));
    }
    for (program, name) in sums.iter().flat_map(|_| &published) {
        let expected = sums.as_deref().and_then(|text| checksums::find(text, name));
        let found = &taken.files[*program];
        match expected {
            Some(expected) if expected == *found => {}
            Some(expected) => {
                return Err(InstallError::Digest {
                    what: name.clone(),
                    found: found.clone(),
                    expected,
                    by: "the archive's own SHA256SUMS".into(),
                });
            }
            None => {
                return Err(InstallError::Checksums {
                    from: "the archive's own SHA256SUMS".into(),
                    name: name.clone(),
                });
            }
        }
    }
    Ok(taken)
}

/// Writes a new file, bounded and durable; returns its digest.
pub(crate) fn put_down(
    from: &mut impl Read,
    to: &Path,
    limit: u64,
    mode: u32,
) -> Result<Digest, InstallError> {
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(to)
        .map_err(file("create", to))?;
    let (mut hasher, mut buffer, mut done) = (Sha256::new(), vec![0; 64 << 10], 0);
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(file("read what goes to", to)(e)),
        };
        done += n as u64;
        if done > limit {
            return Err(InstallError::TooLarge {
                what: to.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                limit,
            });
        }
        hasher.update(&buffer[..n]);
        out.write_all(&buffer[..n]).map_err(file("write", to))?;
    }
    // The mode of creation went through the umask.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    out.set_permissions(mode).map_err(file("set the mode of", to))?;
    out.sync_all().map_err(file("sync", to))?;
    Ok(Digest::from(<[u8; 32]>::from(hasher.finalize())))
}

/// A reader that fails when it has given too much: a small archive can unpack to anything.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| {
            io::Error::other(format!(
                "it unpacks to more than {UNPACKED} bytes, which no release does"
            ))
        })?;
        Ok(n)
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
