//! A stage for the worker: `omnirun sim` as a process of its own, a scenario in a file, and workers that can be killed
//! and started again against it.

use crate::{omnirun_in, text};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Size of a worker's sandboxes in tests: what one clone needs, so that several fit a small machine.
const SIZE: [&str; 4] = ["--memory", "256M", "--disk", "1G"];

/// A running simulator. It ends by itself when its scripts have ended; killed with the test.
pub struct Sim {
    child: Child,
    report: PathBuf,
    log: PathBuf,
    /// Where it listens.
    pub url: String,
    /// The environment.
    pub environment: String,
    /// Its key.
    pub key: String,
    /// The organization's key.
    pub organization_key: String,
}

impl Sim {
    /// Starts it with a scenario; `dir` takes its files.
    pub fn start(dir: &Path, scenario: &str) -> Self {
        Self::start_with(dir, scenario, true)
    }

    /// One that goes on after its scripts have ended, until [`Sim::end`] tells it to stop.
    pub fn start_open(dir: &Path, scenario: &str) -> Self {
        Self::start_with(dir, scenario, false)
    }

    fn start_with(dir: &Path, scenario: &str, exit_when_done: bool) -> Self {
        let file = dir.join("scenario.yaml");
        fs::write(&file, scenario).expect("the scenario");
        let report = dir.join("report.json");
        let mut command = omnirun_in(dir, ["sim", "--json", "--scenario"]);
        command.arg(&file).arg("--report").arg(&report);
        if exit_when_done {
            command.arg("--exit-when-done");
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(File::create(dir.join("sim.log")).expect("a log"))
            .spawn()
            .expect("omnirun sim starts");
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        out.read_line(&mut line).expect("a line");
        let said: Value = serde_json::from_str(&line)
            .unwrap_or_else(|e| panic!("{e}: {line:?}; {:?}", fs::read_to_string(dir.join("sim.log"))));
        // The report is read from its file; the pipe must not fill up.
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        let field = |name: &str| said[name].as_str().expect("a text").to_owned();
        Self {
            child,
            report,
            log: dir.join("worker.log"),
            url: field("url"),
            environment: field("environment_id"),
            key: field("environment_key"),
            organization_key: field("organization_key"),
        }
    }

    /// Whether all its scripts have ended.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().expect("it can be waited for").is_some()
    }

    /// Waits for its end, as long as its worker lives, and reads the report.
    pub fn wait(mut self, worker: &mut Worker, bound: Duration) -> Report {
        let start = Instant::now();
        while !self.is_over() && start.elapsed() < bound && worker.lives() {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        self.end()
    }

    /// Tells it to end, if it has not, and reads the report.
    pub fn end(mut self) -> Report {
        if !self.is_over() {
            let pid = rustix::process::Pid::from_child(&self.child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        self.child.wait().expect("it ends");
        let bytes = fs::read(&self.report).expect("the report");
        Report(serde_json::from_slice(&bytes).expect("JSON"))
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the simulator saw.
pub struct Report(pub Value);

impl Report {
    /// Fails with what was wrong, if anything was.
    pub fn assert_ok(&self, log: &Worker) {
        assert!(
            self.0["ok"] == true,
            "{:#}\n{:#}\n{}",
            self.0["failures"],
            self.0["sessions"],
            log.log()
        );
    }

    /// Fails, with what was wrong, if not all sessions have ended. What came of their calls is another question.
    pub fn assert_ended(&self, log: &Worker) {
        assert!(self.0["ended"] == true, "{:#}\n{}", self.0["failures"], log.log());
    }

    /// Its sessions.
    pub fn sessions(&self) -> &[Value] {
        self.0["sessions"].as_array().expect("sessions")
    }

    /// A session by its name.
    pub fn session(&self, name: &str) -> &Value {
        let found = self.sessions().iter().find(|s| s["name"] == name);
        found.unwrap_or_else(|| panic!("no session {name}"))
    }

    /// A call of a session by its name.
    pub fn call(&self, session: &str, name: &str) -> &Value {
        let calls = self.session(session)["calls"].as_array().expect("calls");
        let found = calls.iter().find(|c| c["name"] == name);
        found.unwrap_or_else(|| panic!("no call {name} in {session}"))
    }

    /// What a call was answered with.
    pub fn text(&self, session: &str, name: &str) -> &str {
        self.call(session, name)["seen"]["text"]
            .as_str()
            .unwrap_or_default()
    }
}

/// A running worker; killed with the test.
pub struct Worker {
    child: Child,
    log: PathBuf,
}

impl Worker {
    /// Starts `omnirun worker` over a data folder against a simulator. Its log goes beside
    /// the simulator's; a later worker's is appended.
    pub fn start(data: &Path, sim: &Sim, args: &[&str]) -> Self {
        Self::start_as(data, sim, args, |_| {})
    }

    /// The same, with a last word on the command.
    pub fn start_as(data: &Path, sim: &Sim, args: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let log = sim.log.clone();
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log");
        let mut command = omnirun_in(data, ["worker"]);
        command
            .args(SIZE)
            .args(args)
            .env("ANTHROPIC_BASE_URL", &sim.url)
            .env("ANTHROPIC_ENVIRONMENT_ID", &sim.environment)
            .env("ANTHROPIC_ENVIRONMENT_KEY", &sim.key)
            .stdout(Stdio::null())
            .stderr(file);
        change(&mut command);
        let child = command.spawn().expect("omnirun worker starts");
        Self { child, log }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs.
    pub fn lives(&mut self) -> bool {
        self.child.try_wait().expect("it can be waited for").is_none()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// SIGTERM, and its end.
    pub fn stop(&mut self, bound: Duration) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status;
            }
            assert!(
                start.elapsed() < bound,
                "the worker does not end:\n{}",
                self.log()
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        text(&fs::read(&self.log).unwrap_or_default())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
