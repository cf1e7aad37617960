//! `omnirun setup`: puts Firecracker and its jailer in place. The work is in `omnirun_firecracker_install`; this is its
//! words.

mod trial;

use crate::{Global, host, output, progress};
use anyhow::Context;
use omnirun_firecracker_install::{InstallError, Installed, Mirror, Release, Shelf, Staged};
use omnirun_ids::Digest;
use omnirun_store::DataDir;
use std::{path::PathBuf, process::ExitCode, time::Instant};

/// Put Firecracker and its jailer in place, below the data folder.
///
/// Downloads the release that this omnirun works with (through HTTPS_PROXY, if that is set), or takes it from a file.
/// An archive is held against its SHA-256 before it is unpacked. Before the new programs replace what was there they have
/// to say their version, to start in a jail, and to boot a guest: as much of that as this machine can do, and what was not
/// tried is said. Does nothing if they are in place.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  omnirun setup --sha256 HEX\n  omnirun setup --from firecracker-v1.16.1-x86_64.tgz\n  \
                        omnirun setup --url https://mirror.example/firecracker --sha256 HEX"
)]
pub struct Args {
    /// Take a release's archive, or a folder with `firecracker` and `jailer` in it, instead of a download.
    #[arg(long, value_name = "FILE|DIR")]
    from: Option<PathBuf>,
    /// Where releases are downloaded from, without the version. Default: the project's own release page.
    #[arg(long, value_name = "URL", conflicts_with = "from")]
    url: Option<Mirror>,
    /// SHA-256 of the archive. Needed for a download unless this omnirun has it recorded.
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    sha256: Option<Digest>,
    /// Put it in place anew, even if it is there.
    #[arg(long)]
    force: bool,
    /// Ask the new programs for their version and no more: for the build of a container's or machine's image, where no
    /// jail can be built.
    #[arg(long)]
    no_trial: bool,
    /// End with one JSON line on standard output.
    #[arg(long)]
    json: bool,
}

fn sha256(text: &str) -> Result<Digest, String> {
    let text = text.trim().to_ascii_lowercase();
    text.parse()
        .map_err(|_| "give 64 hexadecimal digits, as sha256sum prints them".to_owned())
}

/// Runs the command.
pub fn main(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let data = DataDir::open(global.data_dir.clone()).context("cannot open the data folder")?;
    for line in host::sweep(&data) {
        say!("removed {line}");
    }
    let shelf = Shelf::of(&data);
    let there = match shelf.installed() {
        Ok(there) => there,
        // What is damaged is put in place anew.
        Err(error @ InstallError::Damaged { .. }) => {
            say!("omnirun: {error}");
            None
        }
        Err(error) => return Err(error.into()),
    };
    let progress = progress::Shown::new(&"setup");
    let began = Instant::now();
    let bench = trial::Bench::default();
    let done = output::runtime()?.block_on(async {
        let done = tokio::select! {
            // Dropped, it removes what it wrote, and ends the program that it was trying.
            done = setup(&data, &shelf, there, &args, &progress, &bench) => Ok(done),
            code = output::interrupted() => Err(code),
        };
        bench.close().await;
        done
    });
    progress.finish();
    let (installed, tried) = match done {
        Ok(done) => done?,
        Err(code) => {
            say!("omnirun: interrupted; nothing of the setup is left");
            return Ok(ExitCode::from(code));
        }
    };
    let record = &installed.record;
    match &tried {
        Some(trial) => {
            say!(
                "Firecracker {} is in place: {}",
                record.version,
                installed.firecracker.display()
            );
            say!("{trial}");
        }
        None => say!(
            "Firecracker {} is there; --force puts it in place anew",
            record.version
        ),
    }
    if args.json {
        let line = serde_json::json!({
            "version": record.version, "fresh": tried.is_some(), "seconds": began.elapsed().as_secs_f64(),
            "firecracker": installed.firecracker, "jailer": installed.jailer, "record": record,
            "trial": tried,
        });
        out!("{line}");
    }
    Ok(ExitCode::SUCCESS)
}

/// What is in place at the end, and what it was tried by if this setup put it there.
async fn setup(
    data: &DataDir,
    shelf: &Shelf,
    there: Option<Installed>,
    args: &Args,
    progress: &progress::Shown,
    bench: &trial::Bench,
) -> anyhow::Result<(Installed, Option<trial::Trial>)> {
    use omnirun_firecracker_install::Progress as _;
    let release = Release::pinned();
    let staged = match &args.from {
        Some(path) => {
            // A file that is named like the release's archive is held against what is recorded of that.
            let named = path.file_name().is_some_and(|name| *name == *release.archive());
            let recorded = named.then(|| release.pin()).flatten();
            let expected = args.sha256.clone().or(recorded);
            let staging = shelf.begin()?;
            Staged::from_path(staging, path, expected.as_ref(), progress).await?
        }
        None => {
            let same = |i: &Installed| {
                i.record.version == release.version()
                    && (args.sha256.is_none() || args.sha256 == i.record.archive)
            };
            if let Some(there) = there.as_ref().filter(|i| !args.force && same(i)) {
                return Ok((there.clone(), None));
            }
            let mirror = args.url.clone().unwrap_or_default();
            let expected = release.expected(args.sha256.clone(), &mirror)?;
            let staging = shelf.begin()?;
            Staged::download(staging, &release, &mirror, &expected, progress).await?
        }
    };
    if let Some(there) = there.filter(|there| !args.force && staged.is(there)) {
        return Ok((there, None));
    }
    progress.step("starting both programs");
    let tried = staged.try_versions().await?;
    let trial = match args.no_trial {
        true => trial::Trial::skipped("--no-trial says so"),
        false => bench.run(data, &tried.folder(), progress).await?,
    };
    Ok((tried.commit()?, Some(trial)))
}
