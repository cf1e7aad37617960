//! `omnirun session cp`.

use crate::{
    Global,
    host::{self, DriverArgs},
    output,
};
use anyhow::Context;
use omnirun_ids::ByteSize;
use omnirun_sessions::{CopyError, EnginePlatform, SessionFactory, SessionsConfig};
use omnirun_store::sessions::{SessionRow, Sessions};
use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

/// Copy a file or folder out of an idle session, or into one.
///
/// One of the two is SESSION:PATH; a path that does not begin with / is relative to the session's working directory.
/// It goes through the agent of a sandbox: the host never reads a session's disk itself. The memory that an idle session
/// keeps for its next work item is dropped by that.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  omnirun session cp sesn_01Xy:report.md .\n  omnirun session cp data.csv sesn_01Xy:inputs/"
)]
pub struct Args {
    /// What to copy: SESSION:PATH or PATH.
    source: String,
    /// Where to: PATH or SESSION:PATH. A folder to put it in, or its new name.
    dest: String,
    #[command(flatten)]
    driver: DriverArgs,
    /// Wait while a worker serves the session, instead of refusing.
    #[arg(long)]
    wait: bool,
}

/// Between two looks at whether the session is idle.
const LOOK: Duration = Duration::from_millis(200);

/// Which way.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    Out {
        session: String,
        path: String,
        dest: PathBuf,
    },
    In {
        source: PathBuf,
        session: String,
        path: String,
    },
}

impl Args {
    fn way(&self) -> anyhow::Result<Way> {
        match (remote(&self.source), remote(&self.dest)) {
            (Some((session, path)), None) => Ok(Way::Out {
                session,
                path,
                dest: PathBuf::from(&self.dest),
            }),
            (None, Some((session, path))) => Ok(Way::In {
                source: PathBuf::from(&self.source),
                session,
                path,
            }),
            (Some(_), Some(_)) => anyhow::bail!("one of the two is a path of this host; copy in two steps"),
            (None, None) => anyhow::bail!("one of the two must be SESSION:PATH"),
        }
    }
}

/// `SESSION:PATH`. What has a slash before the colon is a path of this host.
fn remote(text: &str) -> Option<(String, String)> {
    let (session, path) = text.split_once(':')?;
    (!session.is_empty() && !session.contains('/')).then(|| (session.to_owned(), path.to_owned()))
}

/// Runs the command.
pub async fn run(global: &Global, sessions: &Sessions, args: Args) -> anyhow::Result<ExitCode> {
    let way = args.way()?;
    let (Way::Out { session, .. } | Way::In { session, .. }) = &way;
    let row = super::find(sessions, session)?;
    let host = host::open(global, args.driver, "omnirun session cp", Some(ByteSize(0))).await?;
    let platform = Arc::new(EnginePlatform::new(host.engine.clone(), host.images.clone()));
    let config = SessionsConfig::new(row.template.clone());
    let factory =
        SessionFactory::new(config, platform, &host.db, &host.data).context("cannot open the sessions")?;
    let mut term = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let done = tokio::select! {
        done = copy(&factory, &row, &way, args.wait) => Ok(done),
        // What was half done is dropped: nothing of it stays on the host.
        _ = tokio::signal::ctrl_c() => Err(130),
        _ = term.recv() => Err(143),
    };
    for report in host.engine.shutdown().await.iter().filter(|r| !r.is_clean()) {
        anstream::eprintln!("omnirun: {report}");
    }
    match done {
        Err(signal) => Ok(ExitCode::from(signal)),
        Ok(Ok(())) => {
            if row.memory.is_some() {
                output::say(format_args!(
                    "omnirun: the memory of session {} is dropped: its disk was in use without it",
                    row.key.session
                ));
            }
            Ok(ExitCode::SUCCESS)
        }
        Ok(Err(CopyError::Agent {
            step,
            message,
            source,
        })) if !message.is_empty() => {
            anyhow::bail!("the sandbox could not {step}: {message} ({source})")
        }
        Ok(Err(error)) => Err(error.into()),
    }
}

async fn copy(factory: &SessionFactory, row: &SessionRow, way: &Way, wait: bool) -> Result<(), CopyError> {
    let mut told = false;
    loop {
        let copied = match way {
            Way::Out { path, dest, .. } => factory.copy_out(&row.hash, path, dest).await.map(Some),
            Way::In { source, path, .. } => factory.copy_in(&row.hash, source, path).await.map(|()| None),
        };
        match copied {
            Err(CopyError::Held { session, holder }) if wait => {
                if !told {
                    output::say(format_args!(
                        "omnirun: session {session} is in use by process {}; waiting until it is idle",
                        holder.pid
                    ));
                    told = true;
                }
                tokio::time::sleep(LOOK).await;
            }
            Err(error) => return Err(error),
            Ok(Some(out)) => {
                output::say(format_args!(
                    "copied {} entries, {}",
                    out.entries,
                    ByteSize(out.bytes)
                ));
                return Ok(());
            }
            Ok(None) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_side_with_a_session_is_the_remote_one() {
        let way = |source: &str, dest: &str| {
            Args {
                source: source.into(),
                dest: dest.into(),
                driver: DriverArgs::default(),
                wait: false,
            }
            .way()
        };
        assert_eq!(
            way("sesn_1:out/a.txt", ".").unwrap(),
            Way::Out {
                session: "sesn_1".into(),
                path: "out/a.txt".into(),
                dest: ".".into()
            }
        );
        assert_eq!(
            way("./a:b", "sesn_1:").unwrap(),
            Way::In {
                source: "./a:b".into(),
                session: "sesn_1".into(),
                path: String::new()
            }
        );
        assert!(way("a", "b").is_err() && way("s:a", "t:b").is_err());
    }
}
