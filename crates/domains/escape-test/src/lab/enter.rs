//! Running this program again, inside a host of its own.
//!
//! A process with threads cannot change its namespace as a whole, and a VMM or a proxy that it starts must begin in the
//! right one. So the program starts itself again from a thread that has a new network namespace and a new view of the
//! file systems, and waits for it.
//!
//! Names are resolved inside by the lab's resolver alone. `/etc/resolv.conf` and `/etc/nsswitch.conf` are covered, and so
//! are the sockets by which a library could ask a resolver that runs outside: Unix sockets are no part of a network
//! namespace, and a question asked there would leave the lab.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use omnirun_sys::host::net;
use rustix::mount::{MountFlags, mount, mount_bind};

use super::{Lab, LabError, ROUTER_IP};

/// Folders with the sockets of resolvers.
const RESOLVERS: [&str; 4] = [
    "/run/systemd/resolve",
    "/run/nscd",
    "/var/run/nscd",
    "/run/avahi-daemon",
];
/// The variable that is set for the process inside.
pub const INSIDE: &str = "OMNIRUN_LAB";

/// Whether this process was started by [`again`].
#[must_use]
pub fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Resolves, inside, when the process outside is gone: nobody waits for this one any more.
pub async fn abandoned() {
    let (tell, told) = tokio::sync::oneshot::channel();
    // Not one of the runtime's own threads, which a read that never ends would keep it from ending.
    let started = std::thread::Builder::new()
        .name("lifeline".to_owned())
        .spawn(move || {
            // Nothing is ever written; the end comes when the other process has let go.
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            let _ = tell.send(());
        });
    if started.is_err() || told.await.is_err() {
        std::future::pending().await
    }
}

/// Runs this program with `arguments` inside, waits for it, and returns how it ended. It has our standard output and
/// error; its standard input tells it that we are there ([`abandoned`]). A signal to the terminal's foreground group
/// reaches both.
///
/// # Errors
/// [`LabError::Step`]: not root, mostly.
pub fn again<S: AsRef<std::ffi::OsStr> + Sync>(arguments: &[S]) -> Result<ExitStatus, LabError> {
    net::in_new_host(|| {
        cover()?;
        let program = std::env::current_exe().map_err(LabError::step("finding this program"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .env(INSIDE, "1")
            .stdin(Stdio::piped())
            .spawn()
            .map_err(LabError::step("starting this program again"))?;
        // `wait` would close it.
        let _lifeline = child.stdin.take();
        child
            .wait()
            .map_err(LabError::step("waiting for the program inside"))
    })
}

/// For tests: runs `test` inside a lab, for which the test of this name is run again there. Without root nothing is
/// tested, which is said.
///
/// # Panics
/// If the test does, or there is no lab.
pub fn test<F: Future<Output = ()>>(name: &str, test: impl FnOnce(Lab) -> F) {
    if !inside() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: a lab takes root");
            return;
        }
        let ended = again(&["--exact", name, "--nocapture", "--include-ignored"]).expect("a lab");
        assert!(ended.success(), "{ended}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let lab = Lab::build().expect("a lab");
        tokio::select! {
            () = test(lab) => {}
            () = abandoned() => panic!("nobody waits for this test"),
        }
    });
}

impl From<io::Error> for LabError {
    fn from(source: io::Error) -> Self {
        Self::Step {
            step: "making a host".to_owned(),
            source,
        }
    }
}

/// Covers what says how names are resolved, in the calling thread's view.
fn cover() -> Result<(), LabError> {
    // Where they lead: perhaps into one of the folders that are covered next.
    let [resolv, switch] = ["/etc/resolv.conf", "/etc/nsswitch.conf"].map(real);
    for folder in RESOLVERS
        .map(Path::new)
        .into_iter()
        .filter(|folder| folder.is_dir())
    {
        mount("none", folder, "tmpfs", MountFlags::empty(), None)
            .map_err(io::Error::from)
            .map_err(LabError::step(format!("covering {}", folder.display())))?;
    }
    cover_file(
        &resolv,
        &format!("nameserver {ROUTER_IP}\noptions timeout:2 attempts:2\n"),
    )
    .map_err(LabError::step(format!("covering {}", resolv.display())))?;
    // Without this file, only what the other one says is done.
    if switch.exists() {
        cover_file(&switch, "passwd: files\ngroup: files\nhosts: files dns\n")
            .map_err(LabError::step(format!("covering {}", switch.display())))?;
    }
    Ok(())
}

fn cover_file(target: &Path, text: &str) -> io::Result<()> {
    if RESOLVERS.iter().any(|folder| target.starts_with(folder)) {
        return fs::write(target, text);
    }
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), text)?;
    // The mount holds the file, which loses its name here.
    Ok(mount_bind(file.path(), target)?)
}

/// Where a path leads.
fn real(path: &str) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.into())
}
