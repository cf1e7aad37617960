//! `omnirun escape-test`: everything that is known to get out of a sandbox's network, tried from inside a real one.
//!
//! ```text
//!   --lab   this program again, in a host of its own with an internet around it (omnirun_escape_test::lab)
//!   for each mode
//!     a sandbox under the mode's policy  --- root in it runs the attempts     [guest]
//!     its namespace's rules, its audit   --- what stopped them                [guest]
//!     a capture outside                  --- what got out
//! ```

mod guest;

use crate::{
    Global,
    host::{self, DriverArgs, Host},
    output,
};
use anyhow::Context;
use guest::Subject;
use omnirun_egress_policy::{NoPresets, Policy};
use omnirun_escape_test::{
    Mode, Outcome, Patience, Report, Run, World,
    attempts::From,
    capture::Place,
    lab::{LINK, Lab, enter},
    report,
    world::Uplink,
};
use omnirun_guest_net::UPLINK;
use omnirun_ids::{ByteSize, TemplateName};
use omnirun_sys::host::net;
use std::{io::IsTerminal, os::fd::AsFd, process::ExitCode, sync::Arc};

/// How the names of links begin that lead out of sandboxes' namespaces.
const THRESHOLD: &str = "omr";

/// Try to get out of a sandbox's network, from inside one.
///
/// A sandbox is started in each mode, and root in it tries what is known to get around filters: forged and missing server
/// names, tunnels, spoofed addresses, the host's and other sandboxes' addresses, metadata services, floods. What gets out
/// is looked for by a capture on every interface of the host, which has to prove first that it sees; what stopped each
/// attempt is read off the rules and the proxy. With --lab all of it happens in an internet of its own, made of network
/// namespaces: nothing leaves this host, whatever fails. Without, each attempt costs a few packets in the real network if
/// it gets out. Needs root.
///
/// Exit codes: 0 everything was stopped, 1 something was not, 2 it could not be said; 125 OmniRun could not start.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  omnirun escape-test --lab\n  omnirun escape-test --net none --json")]
pub struct Args {
    /// The mode to try; may be given again. Default: all three.
    #[arg(long = "net", value_name = "MODE", value_parser = mode)]
    modes: Vec<Mode>,
    /// Do it in an internet of its own, made of network namespaces.
    #[arg(long)]
    lab: bool,
    /// Without --lab: a host that answers on port 443, which the policy of mode allow lists.
    #[arg(long, value_name = "NAME", default_value = "example.com")]
    site: String,
    /// The template of the sandbox; it needs python3.
    #[arg(long, default_value = "default", value_name = "NAME")]
    template: TemplateName,
    #[command(flatten)]
    driver: DriverArgs,
    /// Print JSON: one object for each mode.
    #[arg(long)]
    json: bool,
}

fn mode(text: &str) -> Result<Mode, String> {
    let known = [Mode::None, Mode::Allow, Mode::Open];
    let found = known.into_iter().find(|mode| mode.as_str() == text);
    found.ok_or_else(|| format!("{text:?} is no mode: none, allow or open"))
}

/// Runs the command.
pub fn main(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    if args.lab && !enter::inside() {
        let again: Vec<_> = std::env::args_os().skip(1).collect();
        let ended = enter::again(&again).context("cannot make the lab")?;
        let code = ended.code().and_then(|code| u8::try_from(code).ok());
        return Ok(ExitCode::from(code.unwrap_or(output::EXIT_OWN_FAILURE)));
    }
    output::runtime()?.block_on(async {
        tokio::select! {
            done = run(global, &args) => done,
            // Whoever started the lab is gone, and with him whoever waits for this.
            () = abandoned(args.lab) => anyhow::bail!("the command outside of the lab has ended"),
        }
    })
}

async fn abandoned(lab: bool) {
    match lab {
        true => enter::abandoned().await,
        false => std::future::pending().await,
    }
}

async fn run(global: &Global, args: &Args) -> anyhow::Result<ExitCode> {
    let lab = args
        .lab
        .then(Lab::build)
        .transpose()
        .context("cannot build the lab")?;
    let host = host::open(global, args.driver, "omnirun escape-test", Some(ByteSize(0))).await?;
    let modes = match args.modes.as_slice() {
        [] => &[Mode::None, Mode::Allow, Mode::Open],
        some => some,
    };
    let mut worst = Outcome::Green;
    let mut failed = None;
    for mode in modes {
        match one(&host, args, lab.as_ref(), *mode).await {
            Ok(report) => {
                worst = worse(worst, report.outcome);
                print(&report, args.json);
            }
            Err(error) => {
                failed = Some(error.context(format!("mode {}", mode.as_str())));
                break;
            }
        }
    }
    for report in host.engine.shutdown().await {
        if !report.is_clean() {
            say!("omnirun: {report}; `omnirun clean` tries again");
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(ExitCode::from(worst.exit_code())),
    }
}

/// Red is worse than what could not be said.
fn worse(one: Outcome, other: Outcome) -> Outcome {
    let badness = |outcome: &Outcome| match outcome {
        Outcome::Green => 0,
        Outcome::Inconclusive => 1,
        Outcome::Red => 2,
    };
    std::cmp::max_by_key(one, other, badness)
}

fn print(report: &Report, json: bool) {
    if json {
        out!("{}", serde_json::to_string(report).unwrap_or_default());
    } else {
        out!("{}", report::render(report, std::io::stdout().is_terminal()));
    }
}

/// One mode, in a sandbox of its own.
async fn one(host: &Host, args: &Args, lab: Option<&Lab>, mode: Mode) -> anyhow::Result<Report> {
    let open = mode == Mode::Open;
    let (mut world, first, then) = match (lab, mode) {
        (Some(_), Mode::None) => (World::lab(), None, None),
        (Some(_), _) => (
            World::lab(),
            Some(World::lab_policy_at_first(open)),
            Some(World::lab_policy(open)),
        ),
        (None, _) => {
            let world = World::real(&args.site).with_context(|| {
                format!(
                    "{} is of no use here; name a host that answers with --site, or take --lab",
                    args.site
                )
            })?;
            (world, World::real_policy(mode, &args.site), None)
        }
    };
    let policy = |text: Option<String>| match text {
        Some(text) => Policy::from_toml(&text, &NoPresets).context("the policy of the test"),
        None => Ok(Policy::none()),
    };
    let then = then.map(|text| policy(Some(text))).transpose()?;
    let subject = Subject::start(host, &args.template, policy(first)?, then).await?;
    let mut others = Vec::new();
    if let Some(namespace) = subject.namespace() {
        let uplink = Uplink::find(namespace.descriptor().as_fd());
        world.uplink = uplink.context("cannot look at the sandbox's uplink")?;
        others.push((From::Namespace, namespace.descriptor(), UPLINK.to_owned()));
    }
    if let Some(lab) = lab {
        others.push((From::Internet, lab.internet(), LINK.to_owned()));
    }
    let run = Run {
        mode,
        world: &world,
        places: match lab {
            Some(lab) => lab.places(THRESHOLD),
            None => vec![here()?],
        },
        records: lab.map(Lab::records),
        driver: format!("{} ({})", host.vmm.facts().driver, host.vmm.facts().accelerator),
        others,
        patience: Patience::default(),
        only: None,
    };
    let report = run.run(&subject, &subject).await;
    subject.end().await;
    Ok(report?)
}

/// This host's own namespace.
fn here() -> anyhow::Result<Place> {
    let namespace = net::namespace().context("cannot open the host's network namespace")?;
    Ok(Place {
        name: "host".to_owned(),
        namespace: Arc::new(namespace),
        threshold: Some(THRESHOLD.to_owned()),
    })
}
