//! Builds the guest's programs with a cargo of their own.
//!
//! They are linked statically for the ordinary gnu target, which needs nothing but the C library's development files.
//! `crt-static` in RUSTFLAGS breaks proc-macros unless `--target` is given too, hence `--target`. The nested cargo has a
//! target folder of its own, since the outer one's is locked; it is shared by all profiles, so the guest is built once.

use sha2::{Digest, Sha256};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    let root = PathBuf::from(env("CARGO_MANIFEST_DIR")).join("../../..");
    let root = root.canonicalize().unwrap_or(root);
    for part in [
        "Cargo.lock",
        "Cargo.toml",
        "bin/omnirun-guest",
        "bin/omnirun-floor",
        "crates/words",
        "crates/contracts/guest-net",
        "crates/contracts/guest-proto",
        "crates/contracts/tool-schema",
        "crates/domains/guest-agent",
        "crates/domains/guest-tools",
        "crates/mechanisms/sys",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(part).display());
    }

    let target_dir = nested_target_dir();
    let mut cargo = Command::new(env("CARGO"));
    cargo
        .current_dir(&root)
        .args(["build", "--locked", "--profile", "guest", "--target", TARGET])
        .args(["-p", "omnirun-guest", "-p", "omnirun-floor", "--target-dir"])
        .arg(&target_dir);
    // What the outer cargo told its own children would change this build's meaning.
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        let keep = matches!(
            &*name_text,
            "CARGO_HOME" | "CARGO_NET_OFFLINE" | "RUSTUP_HOME" | "RUSTUP_TOOLCHAIN"
        );
        let outer = ["CARGO", "RUST", "CLIPPY", "__CARGO", "DEP_"]
            .iter()
            .any(|p| name_text.starts_with(p));
        if outer
            && !keep
            && !name_text.starts_with("CARGO_REGISTRIES")
            && !name_text.starts_with("CARGO_HTTP")
        {
            cargo.env_remove(&name);
        }
    }
    cargo.env(
        "RUSTFLAGS",
        "-C target-feature=+crt-static -C relocation-model=static",
    );
    match cargo.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!(
            "the guest's programs do not build ({status}); see above"
        )),
        Err(error) => fail(&format!("cannot run cargo for the guest's programs: {error}")),
    }

    let built = target_dir.join(TARGET).join("guest");
    let guest = embed(&built.join("omnirun-guest"), "OMNIRUN_GUEST");
    embed(&built.join("omnirun-floor"), "OMNIRUN_FLOOR");
    let digest: String = Sha256::digest(&guest)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    println!("cargo::rustc-env=OMNIRUN_GUEST_SHA256={digest}");
}

/// Copies a program to where `include_bytes!` may look, and returns it.
fn embed(from: &Path, variable: &str) -> Vec<u8> {
    let bytes =
        fs::read(from).unwrap_or_else(|error| fail(&format!("cannot read {}: {error}", from.display())));
    let to = PathBuf::from(env("OUT_DIR")).join(variable.to_lowercase());
    if let Err(error) = fs::write(&to, &bytes) {
        fail(&format!("cannot write {}: {error}", to.display()));
    }
    println!("cargo::rustc-env={variable}={}", to.display());
    bytes
}

/// `<target>/guest-build`: beside the profile folder that OUT_DIR is in.
fn nested_target_dir() -> PathBuf {
    // OUT_DIR is <target>/<profile>/build/<package>/out, with the target triple before the profile if one was given.
    let out = PathBuf::from(env("OUT_DIR"));
    out.ancestors()
        .nth(4)
        .map_or_else(|| out.join("target"), |target| target.join("guest-build"))
}

fn env(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| fail(&format!("{name}: {error}")))
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    std::process::exit(1);
}
