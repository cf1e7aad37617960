//! From bytes to programs that may be put in place. Each state is consumed by the next, so nothing is put in place that
//! was not held against its digest and tried; whichever is dropped takes its files with it.

use crate::{
    InstallError, Progress,
    archive::{self, Name, PROGRAM, PROGRAMS, Taken},
    error::file,
    fetch::{ARCHIVE_LIMIT, Fetch},
    place::{Installed, Record, Staging},
    release::{Mirror, Release},
};
use omnirun_ids::Digest;
use omnirun_vmm::firecracker::{self, Linkage, linkage};
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

/// Where the bytes came from, for the record.
#[derive(Debug)]
struct Source {
    words: String,
    archive: Option<Digest>,
}

/// The two programs, in the staging folder.
#[derive(Debug)]
pub struct Staged {
    staging: Staging,
    taken: Taken,
    source: Source,
}

impl Staged {
    /// Downloads a release: its checksum file first, then the archive. Cancel-safe: nothing stays.
    ///
    /// # Errors
    /// [`InstallError`] if a server or a proxy fails, or either digest is another one.
    pub async fn download(
        staging: Staging,
        release: &Release,
        mirror: &Mirror,
        expected: &Digest,
        progress: &dyn Progress,
    ) -> Result<Self, InstallError> {
        let fetch = Fetch::new(mirror, release)?;
        let (url, checksums) = (mirror.archive(release), mirror.checksums(release));
        progress.step("fetching the release's checksum file");
        let published = fetch.checksum(release, mirror).await?;
        if published != *expected {
            return Err(InstallError::Digest {
                what: format!("{checksums}: the archive"),
                found: published,
                expected: expected.clone(),
                by: "what is recorded or was given".into(),
            });
        }
        progress.step("downloading Firecracker");
        let archive = staging.archive();
        let found = fetch.archive(&url, &archive, progress).await?;
        compare(&url, found.clone(), expected, &checksums)?;
        let source = Source {
            words: url,
            archive: Some(found),
        };
        Self::unpack(staging, archive, source, progress).await
    }

    /// Takes what is here already: a release's archive, or a folder that holds the two programs. `expected` is the
    /// archive's digest, if one is known; a checksum file beside the archive is compared too.
    ///
    /// # Errors
    /// [`InstallError`].
    pub async fn from_path(
        staging: Staging,
        path: &Path,
        expected: Option<&Digest>,
        progress: &dyn Progress,
    ) -> Result<Self, InstallError> {
        let meta = fs::metadata(path).map_err(file("look at", path))?;
        let words = path.display().to_string();
        if meta.is_dir() {
            if expected.is_some() {
                return Err(InstallError::NotARelease {
                    what: words,
                    reason: "it is a folder, and a SHA-256 is that of an archive".into(),
                });
            }
            progress.step("taking the programs out of the folder");
            let (from, into) = (path.to_owned(), staging.programs());
            let taken = blocking(move || copy_programs(&from, &into)).await?;
            let source = Source { words, archive: None };
            return Self::checked(staging, taken, source);
        }
        progress.step("reading the archive");
        // A copy of our own: what is unpacked is what was hashed.
        let (from, archive) = (path.to_owned(), staging.archive());
        let to = archive.clone();
        let found = blocking(move || {
            let mut reader = open_plain(&from)?;
            archive::put_down(&mut reader, &to, ARCHIVE_LIMIT, 0o600)
        })
        .await?;
        if let Some(expected) = expected {
            compare(&words, found.clone(), expected, "what is recorded or was given")?;
        }
        if let Some((beside, digest)) = checksum_beside(path)? {
            compare(&words, found.clone(), &digest, &beside)?;
        }
        let source = Source {
            words,
            archive: Some(found),
        };
        Self::unpack(staging, archive, source, progress).await
    }

    async fn unpack(
        staging: Staging,
        archive: PathBuf,
        source: Source,
        progress: &dyn Progress,
    ) -> Result<Self, InstallError> {
        progress.step("unpacking");
        let (into, what) = (staging.programs(), source.words.clone());
        let taken = blocking(move || archive::unpack(&archive, &into, &what, std::env::consts::ARCH)).await?;
        Self::checked(staging, taken, source)
    }

    fn checked(staging: Staging, taken: Taken, source: Source) -> Result<Self, InstallError> {
        for program in PROGRAMS {
            let path = staging.programs().join(program);
            let mut head = Vec::new();
            fs::File::open(&path)
                .and_then(|f| f.take(64 << 10).read_to_end(&mut head))
                .map_err(file("read", &path))?;
            let reason = match linkage(&head) {
                Linkage::Static => continue,
                Linkage::Dynamic => {
                    "it is linked dynamically, and in its jail there is no loader; a release's is static"
                }
                Linkage::Other => "it is no program for this machine",
            };
            return Err(InstallError::NotARelease {
                what: source.words,
                reason: format!("{program}: {reason}"),
            });
        }
        Ok(Self {
            staging,
            taken,
            source,
        })
    }

    /// Whether these are the very programs that are in place.
    pub fn is(&self, installed: &Installed) -> bool {
        PROGRAMS
            .iter()
            .all(|p| installed.record.files.get(*p) == self.taken.files.get(*p))
    }

    /// Starts both programs and reads their versions, as the driver does.
    ///
    /// # Errors
    /// [`InstallError::Program`], [`InstallError::NotARelease`].
    pub async fn try_versions(self) -> Result<Tried, InstallError> {
        let folder = self.staging.programs();
        let asked = blocking(move || Ok(firecracker::release_in(&folder)?));
        let version = asked.await?;
        if let Some(named) = self.taken.version.as_ref().filter(|v| **v != version) {
            return Err(InstallError::NotARelease {
                what: self.source.words,
                reason: format!("it is named {named} and says that it is {version}"),
            });
        }
        Ok(Tried {
            staged: self,
            version,
        })
    }
}

/// Programs that have said their version.
#[derive(Debug)]
pub struct Tried {
    staged: Staged,
    version: String,
}

impl Tried {
    /// The version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where `firecracker` and `jailer` are for now, for trials of whoever puts them in place: a jail, a guest.
    pub fn folder(&self) -> PathBuf {
        self.staged.staging.programs()
    }

    /// Puts them in place, durably, and makes them the current ones. What was current before is gone with that, or
    /// stays for as long as a process may still start VMs of it.
    ///
    /// # Errors
    /// [`InstallError::File`], [`InstallError::Store`]: what was current is still.
    pub fn commit(self) -> Result<Installed, InstallError> {
        let Staged {
            staging,
            taken,
            source,
        } = self.staged;
        let record = Record {
            version: self.version,
            arch: std::env::consts::ARCH.to_owned(),
            source: source.words,
            archive: source.archive,
            files: taken.files,
            installed: jiff::Timestamp::now().to_string(),
        };
        staging.commit(record)
    }
}

fn compare(what: &str, found: Digest, expected: &Digest, by: &str) -> Result<(), InstallError> {
    if found == *expected {
        return Ok(());
    }
    Err(InstallError::Digest {
        what: what.to_owned(),
        found,
        expected: expected.clone(),
        by: by.to_owned(),
    })
}

/// The digest that `FILE.sha256.txt` has for `FILE`, if that file is there.
fn checksum_beside(path: &Path) -> Result<Option<(String, Digest)>, InstallError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    let archive = name.to_string_lossy().into_owned();
    name.push(".sha256.txt");
    let beside = path.with_file_name(name);
    let mut text = String::new();
    match fs::File::open(&beside) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(file("read", &beside)(e)),
        Ok(f) => f
            .take(64 << 10)
            .read_to_string(&mut text)
            .map_err(file("read", &beside))?,
    };
    let beside = beside.display().to_string();
    match crate::checksums::find(&text, &archive) {
        Some(digest) => Ok(Some((beside, digest))),
        None => Err(InstallError::Checksums {
            from: beside,
            name: archive,
        }),
    }
}

/// Copies the programs out of a folder, by their plain names or by a release's.
fn copy_programs(from: &Path, into: &Path) -> Result<Taken, InstallError> {
    let mut taken = Taken::default();
    let entries = fs::read_dir(from).map_err(file("list", from))?;
    let mut names: Vec<_> = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    names.sort();
    for name in names {
        let (put, limit, mode) = match Name::parse(&name) {
            Some(Name::Program(program, version, arch)) if arch == std::env::consts::ARCH => {
                taken.version = Some(version.to_owned());
                (program, PROGRAM, 0o755)
            }
            Some(Name::Text(text)) => (text, 1 << 20, 0o644),
            _ => match PROGRAMS.iter().find(|p| **p == name) {
                Some(program) => (*program, PROGRAM, 0o755),
                None => continue,
            },
        };
        if taken.files.contains_key(put) {
            return Err(InstallError::NotARelease {
                what: from.display().to_string(),
                reason: format!("it holds more than one {put}"),
            });
        }
        let mut reader = open_plain(&from.join(&name))?;
        let digest = archive::put_down(&mut reader, &into.join(put), limit, mode)?;
        taken.files.insert(put.to_owned(), digest);
    }
    match PROGRAMS.iter().find(|p| !taken.files.contains_key(**p)) {
        None => Ok(taken),
        Some(program) => Err(InstallError::NotARelease {
            what: from.display().to_string(),
            reason: format!("there is no {program} in it"),
        }),
    }
}

/// Opens a plain file; a pipe or a device would be read for ever.
fn open_plain(path: &Path) -> Result<fs::File, InstallError> {
    let meta = fs::metadata(path).map_err(file("look at", path))?;
    if !meta.is_file() {
        return Err(InstallError::NotARelease {
            what: path.display().to_string(),
            reason: "it is no plain file".into(),
        });
    }
    fs::File::open(path).map_err(file("open", path))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, InstallError> + Send + 'static,
) -> Result<T, InstallError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| InstallError::Thread)?
}
