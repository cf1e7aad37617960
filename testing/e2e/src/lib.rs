//! End-to-end tests: the shipped binary, real guests. This crate holds what the tests share; the tests are in `tests/`.
//!
//! ```text
//!   OMNIRUN_BIN        the binary under test; default: `omnirun` beside the test's own profile folder
//!   OMNIRUN_TEST_DATA  the data folder with the image; default: `e2e-data` in the target folder
//!   OMNIRUN_DRIVER     what sandboxes run on, as for the binary itself
//! ```
//!
//! All tests share one data folder, as processes of one host do, so they also test that sharing. A test that must see a
//! folder of its own takes [`private_data`], which has the shared image and nothing else.

pub mod hands;
pub mod journal;
pub mod leftovers;
pub mod machines;
pub mod processes;
pub mod stage;
pub mod state;

pub use leftovers::leftovers as footprint_of;

use omnirun_vmm::{DriverChoice, Vmm};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

/// The binary under test.
pub fn bin() -> PathBuf {
    if let Some(path) = std::env::var_os("OMNIRUN_BIN") {
        return path.into();
    }
    target_dir().join("omnirun")
}

/// The profile folder that this test was built into (`target/debug`, `target/release`).
fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("a test has a path");
    exe.ancestors()
        .nth(2)
        .expect("tests live in <profile>/deps")
        .to_path_buf()
}

/// The shared data folder, with the default image in it. Built once; the build's own lock lets many tests ask at once.
pub fn data() -> &'static Path {
    static DATA: OnceLock<PathBuf> = OnceLock::new();
    DATA.get_or_init(|| {
        let dir = match std::env::var_os("OMNIRUN_TEST_DATA") {
            Some(dir) => PathBuf::from(dir),
            None => target_dir().join("../e2e-data"),
        };
        fs::create_dir_all(&dir).expect("the test data folder can be made");
        let built = omnirun_in(&dir, ["image", "build"])
            .output()
            .expect("omnirun starts");
        assert!(
            built.status.success(),
            "omnirun image build: {}",
            text(&built.stderr)
        );
        dir
    })
}

/// A data folder of the caller's own, with the shared image in it (hard links), removed at the end.
pub fn private_data() -> tempfile::TempDir {
    let shared = data();
    let dir = tempfile::Builder::new()
        .prefix("e2e-")
        .tempdir_in(shared.parent().expect("the data folder has a parent"))
        .expect("a folder beside the shared one");
    let copied = Command::new("cp")
        .arg("-al")
        .arg(shared.join("images"))
        .arg(dir.path().join("images"))
        .status()
        .expect("cp starts");
    assert!(copied.success());
    dir
}

/// `omnirun` with the shared data folder, without any variable that would point it at a real account.
pub fn omnirun<I, S>(args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<std::ffi::OsStr>,
{
    omnirun_in(data(), args)
}

/// `omnirun` with a data folder.
pub fn omnirun_in<I, S>(data: &Path, args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<std::ffi::OsStr>,
{
    let mut command = Command::new(bin());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ANTHROPIC_") {
            command.env_remove(name);
        }
    }
    command
        .env("OMNIRUN_DATA_DIR", data)
        .args(args)
        .stdin(Stdio::null());
    command
}

/// Runs it to its end and returns exit code, standard output and standard error.
pub fn run(command: &mut Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("omnirun starts");
    (status.code().unwrap_or(-1), text(&stdout), text(&stderr))
}

/// Bytes as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until a condition holds; fails with its name when the bound has passed.
pub fn wait_until(what: &str, bound: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < bound, "{what}: not within {bound:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// The driver that the environment names, as the binary would find it.
pub async fn driver() -> Arc<dyn Vmm> {
    let name = std::env::var("OMNIRUN_DRIVER").unwrap_or_default();
    let choice = match name.as_str() {
        "" => DriverChoice::Auto,
        name => name.parse().expect("a driver"),
    };
    let scratch = std::env::temp_dir();
    omnirun_vmm::detect(choice, None, &scratch)
        .await
        .expect("a driver")
}

/// Whether sandboxes run on QEMU, whose own ways a test is about; says so if not.
pub fn on_qemu() -> bool {
    let other = std::env::var("OMNIRUN_DRIVER").is_ok_and(|name| name == "firecracker");
    if other {
        eprintln!("SKIPPED: this is about QEMU");
    }
    !other
}

/// Process ids of the VMMs that have a file of this data folder open.
pub fn vmms_of(data: &Path) -> Vec<u32> {
    leftovers::vmms(data).into_iter().map(|(pid, _)| pid).collect()
}
