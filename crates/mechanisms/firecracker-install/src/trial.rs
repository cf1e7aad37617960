//! The least that a program must do before it is put in place: start on this machine and say which version it is.

use crate::{InstallError, archive::PROGRAMS, release::is_version};
use std::{path::Path, process::Stdio, time::Duration};
use tokio::{io::AsyncReadExt, process::Command};

/// Both programs answer in milliseconds.
const BOUND: Duration = Duration::from_secs(20);
/// Firecracker says its version and that it exits.
const OUTPUT: u64 = 4096;

/// Asks a program of a folder for its version: `Firecracker v1.16.1`, `Jailer v1.16.1`.
pub(crate) async fn version_of(folder: &Path, program: &'static str) -> Result<String, InstallError> {
    let failed = |reason: String| InstallError::Trial { program, reason };
    let path = folder.join(program);
    let mut attempts = 0;
    let mut child = loop {
        let spawned = Command::new(&path)
            .arg("--version")
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        match spawned {
            Ok(child) => break child,
            // A process that another thread forked while the file was open for writing still has it for a moment.
            Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy && attempts < 50 => {
                attempts += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(e) => return Err(failed(format!("it does not start: {e}"))),
        }
    };
    let Some(stdout) = child.stdout.take() else {
        return Err(failed("its output cannot be read".into()));
    };
    let mut text = Vec::new();
    let answer = async {
        // What is beyond the bound is not read: such a program gets SIGPIPE.
        let read = stdout.take(OUTPUT).read_to_end(&mut text).await;
        (read, child.wait().await)
    };
    let Ok((read, status)) = tokio::time::timeout(BOUND, answer).await else {
        return Err(failed(format!(
            "it did not say its version within {} s",
            BOUND.as_secs()
        )));
    };
    read.map_err(|e| failed(format!("its output cannot be read: {e}")))?;
    let status = status.map_err(|e| failed(format!("its end cannot be seen: {e}")))?;
    if !status.success() {
        return Err(failed(format!("asked for its version it ends with {status}")));
    }
    parse(program, &String::from_utf8_lossy(&text)).ok_or_else(|| {
        let said: String = String::from_utf8_lossy(&text).chars().take(60).collect();
        failed(format!("asked for its version it says {said:?}"))
    })
}

fn parse(program: &str, text: &str) -> Option<String> {
    let (name, version) = text.lines().next()?.trim().split_once(" v")?;
    let right = PROGRAMS.contains(&program) && name.eq_ignore_ascii_case(program) && is_version(version);
    right.then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_the_first_line_and_nothing_else() {
        let text = "Firecracker v1.16.1\n\n2026-11-24T21:01:12 [anonymous-instance:main] exiting\n";
        assert_eq!(parse("firecracker", text).as_deref(), Some("1.16.1"));
        assert_eq!(parse("jailer", "Jailer v1.15.1\n").as_deref(), Some("1.15.1"));
        for text in [
            "",
            "\n",
            "Firecracker 1.16.1",
            "Jailer v1.16.1",
            "Firecracker v1.17.0-dev",
            "v1.16.1",
        ] {
            assert_eq!(parse("firecracker", text), None, "{text}");
        }
    }
}
