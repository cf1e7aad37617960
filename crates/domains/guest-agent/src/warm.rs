//! Before the snapshot: programs that calls will need are run once from the base, so that their pages are in the memory
//! that every clone shares. They see nothing but the base.

use crate::{paths::BASE, process::ends_within, sandbox::Sandbox};
use omnirun_sys::guest::{
    spawn::{self, Command, Place},
    wait,
};
use std::{ffi::CString, time::Duration};

/// How long one of them may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// None of them draws ids; those that the base does not have are left out.
const PROGRAMS: &[&[&str]] = &[
    &["/bin/sh", "-c", "true"],
    &[
        "/bin/bash",
        "--noprofile",
        "--norc",
        "-c",
        "declare -p >/dev/null; x=$(type ls); :",
    ],
    &["/usr/bin/git", "--version"],
    &["/usr/bin/python3", "-c", "import json, os, sys"],
    &["/usr/bin/ls", "-la", "/"],
    &["/usr/bin/cat", "/etc/passwd"],
];

pub(crate) fn warm(sandbox: &Sandbox) {
    let Some(skeleton) = sandbox.skeleton() else {
        return;
    };
    let Ok(root) = CString::new(BASE) else { return };
    let place = Place {
        mounts: Some(std::os::fd::AsFd::as_fd(&skeleton.mounts)),
        cgroup: Some(std::os::fd::AsFd::as_fd(&skeleton.cgroup)),
        root: Some(&root),
    };
    let env = crate::sandbox::env_strings(&sandbox.env(sandbox.user(), &[]));
    for program in PROGRAMS {
        let argv: Vec<CString> = program.iter().filter_map(|a| CString::new(*a).ok()).collect();
        let started = spawn::spawn(&Command {
            programs: &argv[..1],
            argv: &argv,
            env: &env,
            cwd: c"/",
            fds: &[(sandbox.null(), 0), (sandbox.null(), 1), (sandbox.null(), 2)],
            place,
            identity: None,
        });
        let Ok(child) = started else { continue };
        if !ends_within(&child, PATIENCE) {
            let _ = rustix::process::pidfd_send_signal(&child.pidfd, rustix::process::Signal::KILL);
            ends_within(&child, PATIENCE);
        }
        let _ = wait::try_wait(child.pid);
    }
}
