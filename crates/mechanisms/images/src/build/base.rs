//! The base disk: a Debian tree made by mmdebstrap, cleaned of everything that is one machine's, packed as EROFS.
//!
//! No file is younger than the suite's release file, and none loses an older time: Python compares the times of its
//! sources with those in its compiled files, and one time for all would have it compile everything anew in each guest.

use super::{
    apt::{Apt, SUITE, folder_bytes, guest_sources, paragraphs},
    host::ARCHITECTURE,
    namespace::args,
    run::Runner,
};
use crate::{
    blobs::Blobs,
    build::apt_progress::step_of,
    error::{ImageError, file},
    manifest::{Base, Source},
    progress::Progress,
    recipe::Recipe,
};
use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// One UUID for all bases: they are told apart by digest.
const UUID: &str = "6f6d6e69-7275-6e00-8000-000000000001";

/// Runs inside the new tree, as its root. Arguments: user, working directory, sources.
const FINISH: &str = include_str!("finish.sh");

/// Builds and stores the base disk.
pub(crate) async fn build(
    runner: &Runner<'_>,
    apt: &Apt<'_>,
    recipe: &Recipe,
    source: &Source,
    blobs: &Blobs,
    progress: &dyn Progress,
) -> Result<Base, ImageError> {
    let total = apt.download_size(&recipe.packages).await?;
    let root = runner.dir.path().join("root");
    bootstrap(runner, apt, recipe, &root, total, progress).await?;

    progress.step("finishing the base");
    let t = &recipe.template;
    let sources = guest_sources(&source.mirror);
    let finish = args([
        &root, &"/bin/sh", &"-c", &FINISH, &"finish", &t.user, &t.workdir, &sources,
    ]);
    runner.run("finishing the base", "chroot", &finish).await?;
    let packages = apt.describe(&installed(&root)?).await?;

    progress.step("packing the base disk");
    let disk = runner.dir.path().join("base.erofs");
    let size = || fs::metadata(&disk).map_or(0, |m| m.len());
    let mkfs = args([&"-d0", &"-U", &UUID, &disk, &root]);
    runner
        .run_watched(
            "packing the base disk",
            "mkfs.erofs",
            &mkfs,
            runner.dir.path().to_owned(),
            |_| {},
            || progress.bytes(size(), None),
        )
        .await?;
    let bytes = size();
    progress.step("storing the base disk");
    let image = blobs.put_file(&disk, |done| progress.bytes(done, Some(bytes)))?;
    Ok(Base {
        image,
        recipe: recipe.base_digest(),
        packages,
    })
}

async fn bootstrap(
    runner: &Runner<'_>,
    apt: &Apt<'_>,
    recipe: &Recipe,
    root: &Path,
    total: u64,
    progress: &dyn Progress,
) -> Result<(), ImageError> {
    progress.step("preparing the base");
    let mut argv = args([&"--mode=unshare", &"--format=directory", &"--variant=minbase"]);
    argv.extend(args([&format!("--architectures={ARCHITECTURE}")]));
    // The download's own user could not reach a private data folder.
    argv.extend(args([
        &"--aptopt=APT::Sandbox::User \"root\"",
        &"--aptopt=Acquire::Retries \"3\"",
    ]));
    if !recipe.packages.is_empty() {
        argv.extend(args([&format!("--include={}", recipe.packages.join(","))]));
    }
    argv.extend(args([&SUITE, &root, &apt.sources()]));

    let archives = root.join("var/cache/apt/archives");
    // Set by the one closure and read by the other, both on this task.
    let downloading = AtomicBool::new(false);
    let mut counter = Counter::default();
    let line = |text: &str| {
        if let Some(step) = step_of(text) {
            downloading.store(step.downloads, Ordering::Relaxed);
            progress.step(step.words);
        }
    };
    let tick = || {
        if downloading.load(Ordering::Relaxed) {
            progress.bytes(counter.seen(folder_bytes(&archives)).min(total), Some(total));
        }
    };
    let folder = runner.dir.path().to_owned();
    runner
        .run_watched("building the base", "mmdebstrap", &argv, folder, line, tick)
        .await
        .map(|_| ())
}

/// Counts bytes that arrive in a folder which is emptied between two lots.
#[derive(Default)]
struct Counter {
    earlier: u64,
    last: u64,
}

impl Counter {
    fn seen(&mut self, now: u64) -> u64 {
        if now < self.last {
            self.earlier += self.last;
        }
        self.last = now;
        self.earlier + now
    }
}

/// Name and version of each package that dpkg has installed in a tree.
fn installed(root: &Path) -> Result<Vec<(String, String)>, ImageError> {
    let path = root.join("var/lib/dpkg/status");
    let text = fs::read_to_string(&path).map_err(file("read", &path))?;
    let mut packages: Vec<_> = paragraphs(&text)
        .into_iter()
        .filter(|p| p.get("Status").is_some_and(|s| s == "install ok installed"))
        .filter_map(|mut p| Some((p.remove("Package")?, p.remove("Version")?)))
        .collect();
    packages.sort();
    Ok(packages)
}
