//! Running `nft`.
//!
//! It reads a namespace's rules once, when that is made (8 ms, measured, mostly the kernel's part), and lists them when
//! asked. There is no library of a fitting licence that knows all expressions used here, and the text is what an
//! administrator can read.

use std::{
    io::{self, Write},
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde::Deserialize;

use crate::NetError;

/// How much of a complaint is repeated.
const COMPLAINT: usize = 400;

/// The program.
#[derive(Debug, Clone)]
pub(crate) struct Nft {
    program: PathBuf,
}

impl Nft {
    /// Finds it, also where an ordinary user's PATH does not lead.
    pub(crate) fn find() -> Result<Self, NetError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join("nft"))
            .find(|program| program.is_file())
            .map(|program| Self { program })
            .ok_or(NetError::NoNft)
    }

    /// Does what `script` says, all of it or nothing, in the calling thread's namespace.
    pub(crate) fn run(&self, what: &'static str, script: &str) -> Result<(), NetError> {
        self.feed(what, script, Stdio::null())
    }

    /// The same, holding a lock: should this process be killed, the program goes on, and nobody gets the lock before it
    /// has ended. (It is its standard output, to which it has nothing to say.)
    pub(crate) fn run_locked(
        &self,
        lock: &OwnedFd,
        what: &'static str,
        script: &str,
    ) -> Result<(), NetError> {
        let lock = lock.try_clone().map_err(NetError::step("passing on a lock"))?;
        self.feed(what, script, lock.into())
    }

    fn feed(&self, what: &'static str, script: &str, stdout: Stdio) -> Result<(), NetError> {
        let mut command = Command::new(&self.program);
        command
            .args(["-f", "-"])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(self.step())?;
        // It reads all of it before it says anything.
        let fed = child
            .stdin
            .take()
            .map_or(Ok(()), |mut stdin| stdin.write_all(script.as_bytes()));
        let output = child.wait_with_output().map_err(self.step())?;
        outcome(what, output)?;
        fed.map_err(self.step())
    }

    /// What `nft -j ARGUMENTS` prints in the calling thread's namespace.
    pub(crate) fn list(&self, what: &'static str, arguments: &[&str]) -> Result<Vec<Entry>, NetError> {
        let mut command = Command::new(&self.program);
        command.arg("-j").args(arguments).env_clear().stdin(Stdio::null());
        let text = outcome(what, command.output().map_err(self.step())?)?;
        serde_json::from_slice::<Listing>(&text)
            .map(|listing| listing.nftables)
            .map_err(|e| NetError::Nft {
                what,
                message: e.to_string(),
            })
    }

    fn step(&self) -> impl FnOnce(io::Error) -> NetError + use<> {
        NetError::step(format!("running {}", self.program.display()))
    }
}

fn outcome(what: &'static str, output: Output) -> Result<Vec<u8>, NetError> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    let message = String::from_utf8_lossy(&output.stderr)
        .trim()
        .chars()
        .take(COMPLAINT)
        .collect();
    Err(NetError::Nft { what, message })
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Entry>,
}

/// One entry of a listing: exactly one of these is there.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Entry {
    pub(crate) table: Option<Table>,
    pub(crate) chain: Option<Chain>,
    pub(crate) rule: Option<Rule>,
    pub(crate) set: Option<Set>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Table {
    pub(crate) name: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Chain {
    pub(crate) family: String,
    pub(crate) table: String,
    pub(crate) name: String,
    pub(crate) hook: Option<String>,
    pub(crate) policy: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Rule {
    pub(crate) family: String,
    pub(crate) table: String,
    pub(crate) chain: String,
    #[cfg(any(test, feature = "testing"))]
    pub(crate) handle: u64,
    pub(crate) comment: Option<String>,
    #[serde(default)]
    pub(crate) expr: Vec<serde_json::Value>,
}

impl Rule {
    /// How many packets its counter has seen.
    pub(crate) fn packets(&self) -> Option<u64> {
        self.expr
            .iter()
            .find_map(|expression| expression.get("counter")?.get("packets")?.as_u64())
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Set {
    #[serde(default)]
    pub(crate) elem: Vec<serde_json::Value>,
}
