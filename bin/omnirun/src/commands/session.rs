//! `omnirun session`: what is kept of agents' sessions on this host. The work is in `omnirun_sessions` and
//! `omnirun_store`; this is its words.

mod cp;
mod show;

pub(in crate::commands) use show::table;

use crate::{Global, output};
use anyhow::Context;
use clap::Subcommand;
use omnirun_store::{
    DataDir, Db,
    sessions::{Durability, SessionRow, Sessions},
};
use std::process::ExitCode;

/// List, show, remove or copy from and to sessions kept on this host.
///
/// A session is named by its id or the start of it, as long as that fits one session alone.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List sessions, the last used first.
    #[command(visible_alias = "list")]
    Ls {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a session and its calls.
    Show {
        /// The session.
        session: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove sessions: their disks, and what is known of their calls. Refused while a process serves one.
    Rm {
        /// The sessions.
        #[arg(required = true)]
        sessions: Vec<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    Cp(cp::Args),
}

/// Runs the command.
pub fn main(global: &Global, args: Args) -> anyhow::Result<ExitCode> {
    let data = DataDir::open(global.data_dir.clone()).context("cannot open the data folder")?;
    let db = Db::open(&data).context("cannot open the state database")?;
    let sessions = Sessions::new(&db, &data, Durability::default())?;
    match args.command {
        Command::Ls { json } => show::list(&sessions, json),
        Command::Show { session, json } => show::one(&sessions, &find(&sessions, &session)?, json),
        Command::Rm {
            sessions: names,
            json,
        } => remove(&sessions, &names, json),
        Command::Cp(args) => output::runtime()?.block_on(cp::run(global, &sessions, args)),
    }
}

/// The session that a person means.
fn find(sessions: &Sessions, name: &str) -> anyhow::Result<SessionRow> {
    pick(sessions.list()?, name)
}

fn pick(rows: Vec<SessionRow>, name: &str) -> anyhow::Result<SessionRow> {
    anyhow::ensure!(
        !name.is_empty(),
        "name a session: its id or the start of it (omnirun session ls)"
    );
    let exact = |r: &&SessionRow| r.key.session.as_str() == name || r.hash.as_str() == name;
    let starts =
        |r: &&SessionRow| r.key.session.as_str().starts_with(name) || r.hash.as_str().starts_with(name);
    let mut found: Vec<&SessionRow> = rows.iter().filter(exact).collect();
    if found.is_empty() {
        found = rows.iter().filter(starts).collect();
    }
    match found.as_slice() {
        [] => anyhow::bail!("there is no session {name:?} on this host (omnirun session ls)"),
        [one] => Ok((*one).clone()),
        several => {
            let mut text = format!("{name:?} fits {} sessions; name one by its key:", several.len());
            for row in several.iter().take(10) {
                text += &format!(
                    "\n  {}  {} of {} at {}",
                    row.hash, row.key.session, row.key.environment, row.key.origin
                );
            }
            anyhow::bail!(text)
        }
    }
}

fn remove(sessions: &Sessions, names: &[String], json: bool) -> anyhow::Result<ExitCode> {
    // All of them are looked up first: a typing error removes nothing.
    let rows = names
        .iter()
        .map(|name| find(sessions, name))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut removed = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for row in rows {
        let Some(lease) = sessions.lease(&row.hash)? else {
            let pid = sessions.holder(&row.hash)?.map_or(0, |h| h.pid);
            say!(
                "omnirun: session {} is in use by process {pid}; it stays",
                row.key.session
            );
            code = ExitCode::FAILURE;
            continue;
        };
        let what = sessions.remove(lease)?;
        if !json {
            say!("removed session {}", row.key.session);
        }
        removed.push(
            serde_json::json!({ "session": row.key.session, "key": row.hash.as_str(), "removed": what }),
        );
    }
    if json {
        out!("{}", serde_json::Value::from(removed));
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use omnirun_ids::{Digest, SessionKey};
    use omnirun_store::sessions::{Seed, SessionHash, SessionState};

    fn row(origin: &str, session: &str) -> SessionRow {
        let key = SessionKey {
            origin: origin.to_owned(),
            environment: "env_1".parse().unwrap(),
            session: session.parse().unwrap(),
        };
        SessionRow {
            hash: SessionHash::of(&key),
            key,
            state: SessionState::Ready,
            template: "default".parse().unwrap(),
            base: Digest::from([1; 32]),
            disk_bytes: 1,
            user: "root".to_owned(),
            seed: Seed::None,
            live_shell: false,
            memory: None,
            created_ms: 0,
            used_ms: 0,
            keep_ms: 0,
        }
    }

    #[test]
    fn a_unique_start_names_a_session() {
        let rows = || {
            vec![
                row("http://a", "sesn_1"),
                row("http://a", "sesn_12"),
                row("http://a", "sesn_3"),
            ]
        };
        assert_eq!(pick(rows(), "sesn_3").unwrap().key.session.as_str(), "sesn_3");
        // A whole id is not ambiguous because another begins with it.
        assert_eq!(pick(rows(), "sesn_1").unwrap().key.session.as_str(), "sesn_1");
        assert!(
            pick(rows(), "sesn_")
                .unwrap_err()
                .to_string()
                .contains("3 sessions")
        );
        assert!(pick(rows(), "x").is_err() && pick(rows(), "").is_err());
    }

    #[test]
    fn one_id_of_two_origins_is_named_by_its_key() {
        let rows = vec![row("http://a", "sesn_1"), row("http://b", "sesn_1")];
        let error = pick(rows.clone(), "sesn_1").unwrap_err().to_string();
        assert!(error.contains(rows[1].hash.as_str()), "{error}");
        assert_eq!(pick(rows.clone(), rows[1].hash.as_str()).unwrap(), rows[1]);
    }
}
