//! Running `nft`.
//!
//! It reads a namespace's rules once, when that is made (8 ms, measured, mostly the kernel's part), and lists them when
//! asked. There is no library of a fitting licence that knows all expressions used here, and the text is what an
//! administrator can read.

use std::{
    io::{Read, Write},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
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
        self.call(what, &["-f", "-"], script).map(drop)
    }

    /// What `nft -j ARGUMENTS` prints in the calling thread's namespace.
    pub(crate) fn list(&self, what: &'static str, arguments: &[&str]) -> Result<Vec<Entry>, NetError> {
        let mut all = vec!["-j"];
        all.extend(arguments);
        let text = self.call(what, &all, "")?;
        serde_json::from_slice::<Listing>(&text)
            .map(|listing| listing.nftables)
            .map_err(|e| NetError::Nft {
                what,
                message: e.to_string(),
            })
    }

    fn call(&self, what: &'static str, arguments: &[&str], input: &str) -> Result<Vec<u8>, NetError> {
        let step = || NetError::step(format!("running {}", self.program.display()));
        let mut child = Command::new(&self.program)
            .args(arguments)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(step())?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) = (stdin, stdout, stderr) else {
            return Err(NetError::NoNft);
        };
        // It reads all of its input before it says anything; of the two outputs, either may be long.
        let fed = stdin.write_all(input.as_bytes());
        drop(stdin);
        let mut output = Vec::new();
        let mut complaint = Vec::new();
        thread::scope(|scope| {
            let reader = scope.spawn(|| stderr.read_to_end(&mut complaint));
            let read = stdout.read_to_end(&mut output);
            reader.join().map_or(read, |_| Ok(0))
        })
        .map_err(step())?;
        let status = child.wait().map_err(step())?;
        if status.success() {
            fed.map_err(step())?;
            return Ok(output);
        }
        let message: String = String::from_utf8_lossy(&complaint)
            .trim()
            .chars()
            .take(COMPLAINT)
            .collect();
        Err(NetError::Nft { what, message })
    }
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
