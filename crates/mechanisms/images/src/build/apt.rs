//! A private apt: own lists, own sources, Debian's keys alone. Nothing of the host's apt is read or changed, so kernel
//! and base come from one pinned suite whatever the host is.

use super::{host::ARCHITECTURE, namespace::args, run::Runner};
use crate::{
    error::{ImageError, file},
    manifest::{Package, Source},
    progress::Progress,
};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

/// The pinned suite.
pub(crate) const SUITE: &str = "trixie";

/// Debian's own mirrors: a network of caches behind one name.
pub(crate) const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";
const DEFAULT_SECURITY_MIRROR: &str = "http://deb.debian.org/debian-security";

/// Where the base has the keys.
const GUEST_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A paragraph of a package list.
type Paragraph = BTreeMap<String, String>;

/// Suites and the mirrors that have them. Security updates are fetched from Debian's own mirror, unless another mirror
/// was asked for: then everything is to come from that one.
fn suites(mirror: &str) -> Vec<(&str, String)> {
    let mut suites = vec![(mirror, SUITE.to_owned()), (mirror, format!("{SUITE}-updates"))];
    if mirror == DEFAULT_MIRROR {
        suites.push((DEFAULT_SECURITY_MIRROR, format!("{SUITE}-security")));
    }
    suites
}

/// One-line sources, for the build.
fn sources_list(mirror: &str, keyring: &Path) -> String {
    suites(mirror)
        .iter()
        .map(|(url, suite)| format!("deb [signed-by={}] {url} {suite} main\n", keyring.display()))
        .collect()
}

/// The sources that the guest has, so that `apt-get install` works where a sandbox has a network.
pub(crate) fn guest_sources(mirror: &str) -> String {
    let stanza = |(url, suite): &(&str, String)| {
        format!("Types: deb\nURIs: {url}\nSuites: {suite}\nComponents: main\nSigned-By: {GUEST_KEYRING}\n")
    };
    suites(mirror).iter().map(stanza).collect::<Vec<_>>().join("\n")
}

/// A private apt directory.
pub(crate) struct Apt<'a> {
    runner: &'a Runner<'a>,
    folder: PathBuf,
    mirror: String,
}

impl<'a> Apt<'a> {
    pub(crate) fn create(runner: &'a Runner<'a>, mirror: &str, keyring: &Path) -> Result<Self, ImageError> {
        let folder = runner.dir.path().join("apt");
        for sub in ["lists/partial", "cache/archives/partial", "etc"] {
            let path = folder.join(sub);
            fs::create_dir_all(&path).map_err(file("create", path))?;
        }
        let apt = Self {
            runner,
            mirror: mirror.to_owned(),
            folder,
        };
        let write = |path: PathBuf, text: String| fs::write(&path, text).map_err(file("write", path));
        write(apt.sources(), sources_list(mirror, keyring))?;
        write(apt.config(), apt.configuration())?;
        Ok(apt)
    }

    pub(crate) fn sources(&self) -> PathBuf {
        self.folder.join("etc/sources.list")
    }

    fn config(&self) -> PathBuf {
        self.folder.join("apt.conf")
    }

    fn configuration(&self) -> String {
        format!(
            r#"Dir "{0}/";
Dir::State "{0}/";
Dir::State::lists "lists/";
Dir::State::status "/dev/null";
Dir::Cache "cache/";
Dir::Etc "etc/";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "/dev/null";
APT::Architecture "{ARCHITECTURE}";
APT::Architectures {{ "{ARCHITECTURE}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
"#,
            self.folder.display()
        )
    }

    async fn apt(&self, step: &str, program: &str, rest: Vec<OsString>) -> Result<String, ImageError> {
        let mut argv = args([&"--config-file", &self.config()]);
        argv.extend(rest);
        self.runner.run(step, program, &argv).await
    }

    /// Fetches the package lists and checks their signatures.
    pub(crate) async fn update(&self, progress: &dyn Progress) -> Result<Source, ImageError> {
        progress.step("fetching package lists");
        let lists = self.folder.join("lists");
        let argv = args([&"--config-file", &self.config(), &"--quiet", &"update"]);
        let step = format!("fetching Debian's package lists from {}", self.mirror);
        let tick = || progress.bytes(folder_bytes(&lists), None);
        self.runner
            .run_watched(&step, "apt-get", &argv, self.folder.clone(), |_| {}, tick)
            .await?;
        progress.bytes(folder_bytes(&lists), None);
        Ok(Source {
            suite: SUITE.to_owned(),
            mirror: self.mirror.clone(),
            release_date: self.release_date()?,
        })
    }

    /// The date of the youngest release file.
    fn release_date(&self) -> Result<u64, ImageError> {
        let lists = self.folder.join("lists");
        let mut newest = None;
        for entry in fs::read_dir(&lists).map_err(file("list", &lists))?.flatten() {
            if !entry.file_name().to_string_lossy().ends_with("Release") {
                continue;
            }
            let text = fs::read_to_string(entry.path()).map_err(file("read", entry.path()))?;
            let date = text
                .lines()
                .find_map(|l| l.strip_prefix("Date: "))
                .and_then(parse_date);
            newest = newest.max(date);
        }
        newest.ok_or_else(|| ImageError::Unexpected {
            what: format!("the release file of Debian {SUITE}"),
            reason: "it has no date".to_owned(),
        })
    }

    /// The candidate of a package, as the lists describe it.
    pub(crate) async fn candidate(&self, package: &str) -> Result<Paragraph, ImageError> {
        let out = self
            .apt(
                "looking up a package",
                "apt-cache",
                args([&"show", &"--no-all-versions", &package]),
            )
            .await
            .map_err(|error| no_package(error, package))?;
        paragraphs(&out)
            .into_iter()
            .next()
            .ok_or_else(|| ImageError::NoPackage {
                suite: SUITE,
                package: package.to_owned(),
            })
    }

    /// Digests of installed packages, from the signed lists.
    pub(crate) async fn describe(&self, installed: &[(String, String)]) -> Result<Vec<Package>, ImageError> {
        let mut argv = args([&"show"]);
        argv.extend(
            installed
                .iter()
                .map(|(name, version)| OsString::from(format!("{name}={version}"))),
        );
        let out = self
            .apt("looking up the base's packages", "apt-cache", argv)
            .await?;
        let mut known = BTreeMap::new();
        for paragraph in paragraphs(&out) {
            let package = package_of(&paragraph)?;
            known.insert((package.name.clone(), package.version.clone()), package);
        }
        installed
            .iter()
            .map(|key| {
                known.remove(key).ok_or_else(|| ImageError::Unexpected {
                    what: format!("package {} {}", key.0, key.1),
                    reason: "it is not in the lists: the mirror changed during the build, so build again"
                        .to_owned(),
                })
            })
            .collect()
    }

    /// Bytes that installing packages on top of the essential ones would fetch.
    pub(crate) async fn download_size(&self, packages: &[String]) -> Result<u64, ImageError> {
        let base = [
            "--print-uris",
            "--yes",
            "install",
            "?essential",
            "?priority(required)",
            "apt",
        ];
        let argv = base
            .iter()
            .map(OsString::from)
            .chain(packages.iter().map(OsString::from));
        let out = self
            .apt("resolving the template's packages", "apt-get", argv.collect())
            .await
            .map_err(|error| match unlocated(&error) {
                Some(package) => no_package(error, &package),
                None => error,
            })?;
        Ok(out
            .lines()
            .filter(|l| l.starts_with('\''))
            .filter_map(|l| l.split_whitespace().nth(2)?.parse::<u64>().ok())
            .sum())
    }

    /// Downloads a package of a version into a folder; apt checks it against the signed lists.
    pub(crate) async fn download(
        &self,
        package: &Package,
        bytes: u64,
        to: &Path,
        progress: &dyn Progress,
    ) -> Result<PathBuf, ImageError> {
        let what = format!("{}={}", package.name, package.version);
        let argv = args([&"--config-file", &self.config(), &"--quiet", &"download", &what]);
        let tick = || progress.bytes(folder_bytes(to), Some(bytes));
        self.runner
            .run_watched(
                "downloading the kernel",
                "apt-get",
                &argv,
                to.to_owned(),
                |_| {},
                tick,
            )
            .await?;
        progress.bytes(bytes, Some(bytes));
        let debs = fs::read_dir(to)
            .map_err(file("list", to))?
            .flatten()
            .map(|e| e.path());
        debs.into_iter()
            .find(|p| p.extension().is_some_and(|e| e == "deb"))
            .ok_or_else(|| ImageError::Unexpected {
                what: format!("the download of {what}"),
                reason: "apt-get left no file".to_owned(),
            })
    }
}

/// Name, version and digest of a paragraph.
pub(crate) fn package_of(paragraph: &Paragraph) -> Result<Package, ImageError> {
    let field = |name: &str| paragraph.get(name).cloned().unwrap_or_default();
    let sha256 = field("SHA256").parse().map_err(|e| ImageError::Unexpected {
        what: format!("the list's entry of {}", field("Package")),
        reason: format!("{e}"),
    })?;
    Ok(Package {
        name: field("Package"),
        version: field("Version"),
        sha256,
    })
}

/// Splits a control file into its paragraphs; of a field with continuation lines, the first line.
pub(crate) fn paragraphs(text: &str) -> Vec<Paragraph> {
    text.split("\n\n")
        .map(|block| {
            block
                .lines()
                .filter(|l| !l.starts_with([' ', '\t']))
                .filter_map(|l| l.split_once(':'))
                .map(|(k, v)| (k.to_owned(), v.trim().to_owned()))
                .collect::<Paragraph>()
        })
        .filter(|p| !p.is_empty())
        .collect()
}

/// Bytes of the files in a folder and the folders in it.
pub(crate) fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

fn no_package(error: ImageError, package: &str) -> ImageError {
    match &error {
        ImageError::Program { tail, .. }
            if tail.contains("locate package") || tail.contains("No packages found") =>
        {
            ImageError::NoPackage {
                suite: SUITE,
                package: package.to_owned(),
            }
        }
        _ => error,
    }
}

/// The package that apt could not find, by its message.
fn unlocated(error: &ImageError) -> Option<String> {
    let ImageError::Program { tail, .. } = error else {
        return None;
    };
    let (_, rest) = tail.split_once("Unable to locate package ")?;
    rest.split([';', ' ']).next().map(str::to_owned)
}

/// A release file's date: `Sat, 21 Nov 2026 09:15:44 UTC`.
fn parse_date(text: &str) -> Option<u64> {
    let time = jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text.trim().replace("UTC", "+0000"))
        .ok()?;
    u64::try_from(time.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_date_is_read() {
        assert_eq!(parse_date(" Sat, 21 Nov 2026 09:15:44 UTC"), Some(1_795_252_544));
        assert_eq!(parse_date("yesterday"), None);
    }

    #[test]
    fn another_mirror_is_the_only_one() {
        let plain = sources_list(DEFAULT_MIRROR, Path::new("/k.gpg"));
        assert!(plain.contains("[signed-by=/k.gpg] http://deb.debian.org/debian trixie main\n"));
        assert!(plain.contains("debian-security trixie-security"));
        let other = sources_list("http://mirror.example/debian", Path::new("/k.gpg"));
        assert_eq!(other.lines().count(), 2);
        assert!(!other.contains("deb.debian.org"));
        assert!(
            guest_sources("http://mirror.example/debian")
                .contains("\n\nTypes: deb\nURIs: http://mirror.example/debian\n")
        );
    }

    #[test]
    fn paragraphs_are_told_apart() {
        let text = "Package: a\nVersion: 1\nDescription: x\n more: y\n\nPackage: b\nSHA256: zz\n\n";
        let found = paragraphs(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0]["Description"], "x");
        assert!(!found[0].contains_key(" more"));
        assert!(package_of(&found[1]).is_err());
    }

    #[test]
    fn an_unknown_package_is_named() {
        let error = ImageError::Program {
            step: "x".to_owned(),
            status: "1".to_owned(),
            tail: "E: Unable to locate package rigrep; E: other".to_owned(),
        };
        let package = unlocated(&error).unwrap();
        assert_eq!(
            no_package(error, &package).to_string(),
            "Debian trixie has no package rigrep"
        );
    }
}
