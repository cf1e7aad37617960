//! The driver against a real `/bin/bash`.

use super::*;
use crate::answer::tests::text_of;
use omnirun_guest_proto::message::ToolResult;
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
};
use std::{
    os::{fd::AsFd, fd::AsRawFd, unix::process::CommandExt, unix::process::ExitStatusExt},
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

mod live;
mod saved;

/// For commands that end by themselves, on a loaded machine too.
const LIMIT: Duration = Duration::from_secs(120);

/// What the agent does in Rust is done here by a first bash that moves the descriptors and becomes the second.
fn spawn(launch: &Launch) -> Child {
    let mut script = String::new();
    for (fd, target) in &launch.fds {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
        script += &format!("exec {target}<&{0} {0}<&-;", fd.as_raw_fd());
    }
    let cwd = launch.cwd.to_str().unwrap();
    script += &format!(
        "cd {cwd} 2>&60 || cd /; unset -v PWD OLDPWD SHLVL _; exec -a /bin/bash /bin/bash --noprofile --norc"
    );
    // A signal that is ignored from birth cannot be trapped: a test run in the background begins so, the agent does not.
    let mut command = Command::new("env");
    command
        .args([
            "--default-signal",
            "/bin/bash",
            "--noprofile",
            "--norc",
            "-c",
            &script,
        ])
        .env_clear()
        .process_group(0)
        .stdin(Stdio::null());
    for entry in &launch.envp {
        let (name, value) = entry.to_str().unwrap().split_once('=').unwrap();
        command.env(name, value);
    }
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn config(workdir: &Path) -> ShellConfig {
    let env = [
        ("PATH", "/usr/bin:/bin"),
        ("HOME", "/root"),
        ("BASE", "from the template"),
        ("ANTHROPIC_KEY", "k"),
    ];
    ShellConfig {
        env: env.map(|(name, value)| (name.into(), value.into())).into(),
        workdir: workdir.into(),
    }
}

/// Reads what is there now.
fn drain(launch: &Launch, output: &mut Output) {
    let mut buffer = [0; 65536];
    loop {
        match rustix::io::read(&launch.output, &mut buffer) {
            Ok(0) | Err(Errno::AGAIN) => return,
            Ok(count) => output.push(&buffer[..count]),
            Err(Errno::INTR) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Waits until one of the descriptors has something, or a little.
fn wait_a_little(fds: &[&dyn AsFd]) {
    let mut polled: Vec<PollFd<'_>> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN))
        .collect();
    let limit = rustix::time::Timespec {
        tv_sec: 0,
        tv_nsec: 5_000_000,
    };
    let _ = rustix::event::poll(&mut polled, Some(&limit));
}

fn kill(child: &mut Child) {
    let group = rustix::process::Pid::from_child(child);
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    child.wait().unwrap();
}

fn ending(status: std::process::ExitStatus) -> Ending {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Exited(code),
        (None, signal) => Ending::Signaled(signal.unwrap_or(0)),
    }
}

#[test]
fn the_shortest_limit_counts() {
    let limit = |timeout_ms, request_ms| {
        time_limit(
            &BashInput {
                command: None,
                restart: false,
                timeout_ms,
            },
            request_ms,
        )
        .as_millis()
    };
    assert_eq!(limit(None, 0), 120_000);
    assert_eq!(limit(Some(500), 0), 500);
    assert_eq!(limit(Some(500), 100), 100);
    assert_eq!(limit(None, 150_000), 120_000);
}
