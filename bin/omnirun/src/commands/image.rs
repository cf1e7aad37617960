//! `omnirun image`: builds, lists, shows and removes what microVMs boot from. The work is in `omnirun_images`; this is
//! its words.

mod show;

use crate::{Global, host, output, progress};
use anyhow::Context;
use clap::Subcommand;
use omnirun_ids::{ByteSize, Digest, TemplateName};
use omnirun_images::{BuildOptions, ImageError, ImageStore, Recipe};
use omnirun_store::{
    DataDir, Db,
    sessions::{Durability, Sessions},
};
use std::{collections::BTreeMap, process::ExitCode};

/// Build and manage images: what microVMs boot from.
///
/// An image is made of Debian packages by a recipe, a small TOML file. `omnirun image build` makes the default one;
/// a recipe of your own is given by its path, or by name once it lies in DATA_DIR/templates.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Build(BuildArgs),
    /// List templates that have an image.
    #[command(visible_alias = "list")]
    Ls {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what an image was made of.
    Inspect {
        /// The template.
        #[arg(default_value = "default")]
        template: TemplateName,
        /// Hash every file, to see that none has changed.
        #[arg(long)]
        verify: bool,
        /// Print the manifest.
        #[arg(long)]
        json: bool,
    },
    /// Remove a template's image. Refused while a session uses it.
    Rm {
        /// The templates.
        #[arg(required = true)]
        templates: Vec<TemplateName>,
        /// Remove it although sessions use it. Their disks and the base they need stay until the sessions go.
        #[arg(long)]
        force: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove files that no image names and no session uses.
    Gc {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Build a template's image, if it is not there.
#[derive(clap::Args)]
struct BuildArgs {
    /// A template's name, or the path of a recipe.
    #[arg(default_value = "default", value_name = "TEMPLATE|FILE.toml")]
    template: String,
    /// Where Debian packages come from. Default: Debian's own mirrors.
    #[arg(long, value_name = "URL", value_parser = mirror_url)]
    mirror: Option<String>,
    /// Build even if the image is there, with the packages that the mirror has now.
    #[arg(long)]
    force: bool,
    /// End with one JSON line on standard output.
    #[arg(long)]
    json: bool,
}

/// A mirror goes into apt's sources, where a blank would end it.
fn mirror_url(text: &str) -> Result<String, String> {
    let ok = ["http://", "https://", "file:///"]
        .iter()
        .any(|scheme| text.starts_with(scheme));
    if !ok || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("give a URL, for example http://mirror.example/debian".to_owned());
    }
    Ok(text.to_owned())
}

/// Runs the command.
pub fn main(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let data = DataDir::open(global.data_dir.clone()).context("cannot open the data folder")?;
    for line in host::sweep(&data) {
        say!("removed {line}");
    }
    let store = ImageStore::open(data.root())?;
    match args.command {
        Command::Build(args) => build(&store, &args),
        Command::Ls { json } => show::list(&store, json),
        Command::Inspect {
            template,
            verify,
            json,
        } => show::inspect(&store, &template, verify, json),
        Command::Rm {
            templates,
            force,
            json,
        } => remove(&data, &store, &templates, force, json),
        Command::Gc { json } => collect(&data, &store, json),
    }
}

fn build(store: &ImageStore, args: &BuildArgs) -> anyhow::Result<ExitCode> {
    let recipe = Recipe::find(&args.template, store.recipes())?;
    let options = BuildOptions {
        mirror: args.mirror.clone(),
        force: args.force,
    };
    let name = recipe.template.name.clone();
    let progress = progress::Shown::new(&name);
    let started = std::time::Instant::now();
    let runtime = output::runtime()?;
    let built = runtime.block_on(async {
        tokio::select! {
            // Dropping the build ends what it started and removes what it wrote.
            built = store.build(&recipe, &options, &progress) => Ok(built),
            code = output::interrupted() => Err(code),
        }
    });
    progress.finish();
    let built = match built {
        Ok(built) => built?,
        Err(code) => {
            say!("omnirun: interrupted; nothing of the build is left");
            return Ok(ExitCode::from(code));
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    if built.fresh {
        say!("built {} in {seconds:.0} s", show::summary(&built.manifest));
    } else {
        say!(
            "{} is there; --force builds it anew",
            show::summary(&built.manifest)
        );
    }
    if args.json {
        let line = serde_json::json!({
            "template": name, "fresh": built.fresh, "seconds": seconds, "manifest": built.manifest,
        });
        out!("{line}");
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(
    data: &DataDir,
    store: &ImageStore,
    templates: &[TemplateName],
    force: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let mut users: BTreeMap<Digest, usize> = BTreeMap::new();
    for session in sessions(data)?.list()? {
        *users.entry(session.base).or_default() += 1;
    }
    for name in templates {
        let users = match store.manifest(name) {
            Ok(manifest) => users.get(&manifest.base.image.digest).copied().unwrap_or(0),
            // Neither names a base that could be looked up.
            Err(ImageError::DamagedManifest { .. } | ImageError::OlderManifest { .. }) if force => 0,
            Err(error) => return Err(error.into()),
        };
        store.remove(name, users, force)?;
        say!("removed the image of {name}; its files go with: omnirun image gc");
    }
    if json {
        out!("{}", serde_json::json!({ "removed": templates }));
    }
    Ok(ExitCode::SUCCESS)
}

fn collect(data: &DataDir, store: &ImageStore, json: bool) -> anyhow::Result<ExitCode> {
    let progress = progress::Shown::new(&"gc");
    let sessions = sessions(data)?;
    let removed = output::runtime()?.block_on(store.gc(|| sessions.bases(), &progress));
    progress.finish();
    let removed = removed?;
    if json {
        let line = serde_json::json!({ "removed": removed.files.len(), "bytes": removed.bytes() });
        out!("{line}");
    } else {
        out!(
            "removed {} files, {}",
            removed.files.len(),
            ByteSize(removed.bytes())
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The sessions, whose disks lie over the bases of images.
fn sessions(data: &DataDir) -> anyhow::Result<Sessions> {
    let db = Db::open(data).context("cannot open the state database")?;
    Ok(Sessions::new(&db, data, Durability::default())?)
}
