//! Where everything runs that a build starts: a mount and pid namespace that dies with the build.
//!
//! ```text
//!   omnirun ── pipe ──> sh (PID 1 of the namespace) ── program (mmdebstrap, apt-get, ...)
//!                        └─ cat: sees the end of the pipe, ends PID 1, and with it the kernel ends all the rest
//! ```
//!
//! However `omnirun` ends, its end of the pipe closes. So a killed build leaves no process, and since mounts are the
//! namespace's own, no mount. Every member holds the build folder's lock, shared (see [`super::work`]).
//!
//! An ordinary user gets a user namespace around it, in which the user is root and the subordinate ids are everybody
//! else: a base disk has files of several owners.

use crate::error::{ImageError, file};
use std::{
    ffi::{OsStr, OsString},
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// PID 1 of the namespace. Arguments: the lock file, then the program.
const WATCH: &str = r#"
exec 3<&0 </dev/null 9<"$1"
shift
flock --shared 9 || exit 125
trap 'exit 143' TERM
"$@" 3<&- &
child=$!
(cat <&3 >/dev/null; kill -TERM 1) &
wait "$child"
"#;

/// Waits until the ids are mapped, then becomes the program.
const AWAIT_IDS: &str = r#"read -r go && [ "$go" = go ] && exec "$@""#;

/// Directories in which programs are looked for. An ordinary user of Debian has no `sbin` in PATH.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Variables that a build's programs may see. None of the rest: scripts of packages run in there.
const PASSED_ON: [&str; 6] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// How this user's builds are namespaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Namespace {
    /// Root needs no mapping of ids.
    Root,
    /// An ordinary user: own ids, and subordinate ones.
    User {
        uid: u32,
        gid: u32,
        subuids: (u32, u32),
        subgids: (u32, u32),
    },
}

impl Namespace {
    /// Finds out what this user needs.
    pub(crate) fn detect() -> Result<Self, ImageError> {
        let uid = rustix::process::geteuid();
        if uid.is_root() {
            return Ok(Self::Root);
        }
        let uid = uid.as_raw();
        let gid = rustix::process::getegid().as_raw();
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let user = passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.get(2).is_some_and(|f| f.parse() == Ok(uid)))
            .map_or_else(|| uid.to_string(), |fields| fields[0].to_owned());
        let range = |path: &str| {
            subordinate(&fs::read_to_string(path).unwrap_or_default(), &user, uid).ok_or_else(|| ImageError::Namespace {
                what: format!("at least 65536 subordinate ids for {user} in {path}"),
                mend: format!(
                    "add them with: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
                ),
            })
        };
        if fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
            .is_ok_and(|s| s.trim() == "1")
        {
            return Err(ImageError::Namespace {
                what: "user namespaces, which AppArmor forbids on this host".to_owned(),
                mend: "allow them with: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
                    .to_owned(),
            });
        }
        Ok(Self::User {
            uid,
            gid,
            subuids: range("/etc/subuid")?,
            subgids: range("/etc/subgid")?,
        })
    }

    /// A command that runs a program in the namespace; standard input is a pipe that [`Self::entered`] wants.
    pub(crate) fn command(&self, lock: &Path, program: &str, args: &[OsString]) -> Command {
        let mut argv: Vec<OsString> = Vec::new();
        if let Self::User { .. } = self {
            argv.extend(["unshare", "--user", "--", "sh", "-c", AWAIT_IDS, "sh"].map(OsString::from));
        }
        argv.extend(
            [
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--",
                "sh",
                "-c",
                WATCH,
                "sh",
            ]
            .map(OsString::from),
        );
        argv.push(lock.as_os_str().to_owned());
        argv.push(program.into());
        argv.extend_from_slice(args);
        let mut command = Command::new(&argv[0]);
        command
            .args(&argv[1..])
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .envs(
                PASSED_ON
                    .iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Lets a started command begin: maps its ids where that is needed, and says so through its standard input.
    pub(crate) fn entered(&self, pid: u32, stdin: &mut dyn Write) -> Result<(), ImageError> {
        let Self::User {
            uid,
            gid,
            subuids,
            subgids,
        } = self
        else {
            return Ok(());
        };
        for (program, own, (first, count)) in [("newuidmap", uid, subuids), ("newgidmap", gid, subgids)] {
            let ids = [pid, 0, *own, 1, 1, *first, *count].map(|n| n.to_string());
            let output = Command::new(program)
                .args(ids)
                .env_clear()
                .env("PATH", PATH)
                .output()
                .map_err(|source| ImageError::Spawn {
                    program: program.to_owned(),
                    source,
                })?;
            if !output.status.success() {
                return Err(ImageError::Program {
                    step: format!("mapping subordinate ids with {program}"),
                    status: output.status.to_string(),
                    tail: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                });
            }
        }
        stdin
            .write_all(b"go\n")
            .map_err(file("start the namespace through", "its standard input"))
    }

    /// Removes a tree with files of subordinate ids.
    pub(crate) fn remove_tree(&self, path: &Path) -> Result<(), ImageError> {
        let args = ["-rf", "--one-file-system", "--"].map(OsString::from);
        let args: Vec<OsString> = args.into_iter().chain([path.as_os_str().to_owned()]).collect();
        let mut child = self
            .command(Path::new("/dev/null"), "rm", &args)
            .spawn()
            .map_err(|source| ImageError::Spawn {
                program: "unshare".to_owned(),
                source,
            })?;
        let Some(mut stdin) = child.stdin.take() else {
            return Ok(());
        };
        self.entered(child.id(), &mut stdin)?;
        // The pipe stays open until the program has ended: its end would end the program.
        let mut tail = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            let _ = std::io::Read::read_to_string(&mut stderr, &mut tail);
        }
        let status = child.wait().map_err(file("wait for", "rm"))?;
        drop(stdin);
        if status.success() {
            return Ok(());
        }
        Err(ImageError::Program {
            step: format!("removing {}", path.display()),
            status: status.to_string(),
            tail: tail.trim().to_owned(),
        })
    }
}

/// The first range of at least 65,536 ids that a `subuid(5)` file gives a user.
fn subordinate(text: &str, user: &str, uid: u32) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let first: u32 = fields.next()?.trim().parse().ok()?;
        let count: u32 = fields.next()?.trim().parse().ok()?;
        ((owner == user || owner.parse() == Ok(uid)) && count >= 65_536).then_some((first, 65_535))
    })
}

/// Arguments from strings and paths.
pub(crate) fn args<const N: usize>(items: [&dyn AsRef<OsStr>; N]) -> Vec<OsString> {
    items.iter().map(|item| item.as_ref().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ids_are_found_by_name_and_by_number() {
        let text = "# none\nother:1:65536\nann:5:100\nann:100000:65536\n1001:300000:131072\n";
        assert_eq!(subordinate(text, "ann", 1000), Some((100_000, 65_535)));
        assert_eq!(subordinate(text, "bob", 1001), Some((300_000, 65_535)));
        assert_eq!(subordinate(text, "eve", 1002), None);
    }
}
