//! Running a build's programs: what they print, how they end, and that they end when the build does.

use super::{namespace::Namespace, work::BuildDir};
use crate::error::{ImageError, file};
use std::{ffi::OsString, path::PathBuf, process::Stdio, time::Duration};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// How often a running program's progress is looked at.
const TICK: Duration = Duration::from_millis(200);

/// What is kept of a program's standard output.
const MAX_OUTPUT: u64 = 64 << 20;

/// Lines of standard error that an error message has.
const TAIL_LINES: usize = 12;

/// Runs programs in the build's namespace.
#[derive(Debug)]
pub(crate) struct Runner<'a> {
    pub(crate) namespace: Namespace,
    pub(crate) dir: &'a BuildDir,
    /// Environment beyond the minimum.
    pub(crate) env: Vec<(&'static str, OsString)>,
}

impl Runner<'_> {
    /// Runs a program to its end and returns its standard output.
    pub(crate) async fn run(
        &self,
        step: &str,
        program: &str,
        args: &[OsString],
    ) -> Result<String, ImageError> {
        self.run_watched(step, program, args, self.dir.path().to_owned(), |_| {}, || {})
            .await
    }

    /// Runs a program in a folder; `line` hears each line of its standard error, `tick` is called now and then.
    ///
    /// Cancel-safe: dropping the future closes the pipe that keeps the namespace alive.
    pub(crate) async fn run_watched(
        &self,
        step: &str,
        program: &str,
        args: &[OsString],
        folder: PathBuf,
        mut line: impl FnMut(&str) + Send,
        mut tick: impl FnMut() + Send,
    ) -> Result<String, ImageError> {
        tracing::debug!(program, ?args, "running");
        let mut command = self.namespace.command(self.dir.lock_path(), program, args);
        command
            .current_dir(&folder)
            .env("TMPDIR", self.dir.path())
            .envs(self.env.iter().map(|(k, v)| (k, v)));
        // A plain pipe, not tokio's: its end has to be written before the runtime looks at it, and has to outlive the
        // child's use of it.
        let (reader, writer) = std::io::pipe().map_err(file("make a pipe in", &folder))?;
        let mut writer = writer;
        let mut child = tokio::process::Command::from(command)
            .stdin(Stdio::from(reader))
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| ImageError::Spawn {
                program: "unshare".to_owned(),
                source,
            })?;
        self.namespace
            .entered(child.id().unwrap_or_default(), &mut writer)?;

        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let mut tail: Vec<String> = Vec::new();
        let read_out = async {
            let mut bytes = Vec::new();
            if let Some(stdout) = stdout {
                let mut bounded = stdout.take(MAX_OUTPUT);
                bounded.read_to_end(&mut bytes).await?;
                drain(bounded.into_inner()).await?;
            }
            Ok::<_, std::io::Error>(bytes)
        };
        let read_err = async {
            let Some(stderr) = stderr else { return Ok(()) };
            let mut lines = BufReader::new(stderr).split(b'\n');
            let mut interval = tokio::time::interval(TICK);
            loop {
                tokio::select! {
                    // Both arms are cancel-safe: `next_segment` keeps what it has read.
                    next = lines.next_segment() => match next? {
                        None => return Ok::<_, std::io::Error>(()),
                        Some(bytes) => {
                            let text = String::from_utf8_lossy(&bytes);
                            let text = text.trim_end();
                            line(text);
                            tail.push(text.to_owned());
                            if tail.len() > 200 {
                                tail.drain(..100);
                            }
                        }
                    },
                    _ = interval.tick() => tick(),
                }
            }
        };
        let (out, err) = tokio::join!(read_out, read_err);
        let status = child.wait().await.map_err(file("wait for", program))?;
        drop(writer);
        let out = out
            .and_then(|bytes| err.map(|()| bytes))
            .map_err(file("read the output of", program))?;
        let out = String::from_utf8_lossy(&out).into_owned();
        if status.success() {
            return Ok(out);
        }
        Err(ImageError::Program {
            step: step.to_owned(),
            status: status.to_string(),
            tail: telling(&tail),
        })
    }
}

async fn drain(mut rest: impl AsyncRead + Unpin) -> std::io::Result<()> {
    tokio::io::copy(&mut rest, &mut tokio::io::sink())
        .await
        .map(|_| ())
}

/// The lines that say why: apt's and mmdebstrap's errors if there are any, else the last ones.
fn telling(lines: &[String]) -> String {
    let errors: Vec<&str> = lines
        .iter()
        .map(String::as_str)
        .filter(|l| l.starts_with("E: ") || l.starts_with("W: ") || l.starts_with("dpkg: error"))
        .collect();
    let all: Vec<&str> = lines
        .iter()
        .map(String::as_str)
        .filter(|l| !l.is_empty())
        .collect();
    let chosen = if errors.is_empty() { all } else { errors };
    let start = chosen.len().saturating_sub(TAIL_LINES);
    let text = chosen[start..].join("; ");
    if text.is_empty() {
        "it said nothing".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::namespace::args;
    use std::{fs, time::Instant};

    fn runner(dir: &BuildDir) -> Option<Runner<'_>> {
        // Only root (and a user with subordinate ids) may make namespaces; the end-to-end tests insist on both.
        let namespace = Namespace::detect().ok()?;
        Some(Runner {
            namespace,
            dir,
            env: Vec::new(),
        })
    }

    #[tokio::test]
    async fn output_and_errors_come_back() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = BuildDir::create(tmp.path()).unwrap();
        let Some(runner) = runner(&dir) else { return };
        let out = runner
            .run("saying", "sh", &args([&"-c", &"echo $$; env"]))
            .await
            .unwrap();
        assert!(out.contains("TMPDIR=") && !out.contains("CARGO"), "{out}");
        let error = runner
            .run("failing", "sh", &args([&"-c", &"echo 'E: no' >&2; exit 7"]))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "failing failed (exit status: 7): E: no");
    }

    #[tokio::test]
    async fn dropping_a_run_ends_all_that_it_started() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = BuildDir::create(tmp.path()).unwrap();
        let Some(runner) = runner(&dir) else { return };
        let started = dir.path().join("started");
        // A daemonised grandchild: what a group kill would miss.
        let script = "setsid sh -c 'echo up > started; sleep 1000' & sleep 1000";
        {
            let script_args = args([&"-c", &script]);
            let run = runner.run("hanging", "sh", &script_args);
            tokio::pin!(run);
            let bound = Instant::now() + Duration::from_secs(20);
            while !started.exists() {
                assert!(Instant::now() < bound, "the program did not start");
                let _ = tokio::time::timeout(Duration::from_millis(20), &mut run).await;
            }
        }
        // The lock is free once the last member of the namespace is gone; the drop of the folder waits for that.
        drop(runner);
        drop(dir);
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0);
    }
}
