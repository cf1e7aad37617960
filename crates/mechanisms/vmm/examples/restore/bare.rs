//! Firecracker without a jail, as its own documents start it.

use super::{Begun, Sample, tiny};
use rustix::fs::inotify;
use std::{
    fs,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// The snapshot of a bare machine. Its files are named relative to the folder in which a process runs.
pub struct Bare {
    program: PathBuf,
    folder: PathBuf,
}

/// The connection, and what its socket was waited for with: to close that waits for every CPU of the host.
struct Api(UnixStream, #[allow(dead_code, reason = "held")] OwnedFd);

impl Api {
    fn call(&mut self, method: &str, path: &str, body: &str) {
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        self.0.write_all(request.as_bytes()).expect("it is asked");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0u8; 4096];
            let count = self.0.read(&mut byte).expect("it answers");
            assert_ne!(count, 0, "it ended");
            answer.extend(&byte[..count]);
            assert!(
                answer.starts_with(b"HTTP/1.1 20"),
                "{}",
                String::from_utf8_lossy(&answer)
            );
        }
    }
}

impl Bare {
    /// Boots the guest, waits until it runs, and takes its snapshot.
    pub fn new(bench: &tiny::Bench) -> Self {
        let program = std::env::var_os("FIRECRACKER_BIN").unwrap_or_else(|| "firecracker".into());
        let bare = Self {
            program: program.into(),
            folder: bench.path("bare"),
        };
        fs::create_dir(&bare.folder).expect("its folder");
        for name in ["vmlinux", "base", "placeholder"] {
            let from = bench.path(if name == "placeholder" { "base" } else { name });
            fs::copy(from, bare.folder.join(name)).expect("copied");
        }
        let (mut child, mut api) = bare.start(&bare.folder, Stdio::piped());
        let mib = tiny::SIZE.memory_mib;
        api.call(
            "PUT",
            "/machine-config",
            &format!(r#"{{"vcpu_count":1,"mem_size_mib":{mib}}}"#),
        );
        api.call("PUT", "/boot-source", r#"{"kernel_image_path":"vmlinux"}"#);
        for (id, read_only) in [("base", true), ("placeholder", false)] {
            let drive = format!(
                r#"{{"drive_id":"{id}","path_on_host":"{id}","is_root_device":false,"is_read_only":{read_only}}}"#
            );
            api.call("PUT", &format!("/drives/{id}"), &drive);
        }
        api.call("PUT", "/vsock", r#"{"guest_cid":3,"uds_path":"agent.sock"}"#);
        api.call("PUT", "/entropy", "{}");
        api.call("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#);
        let mut console = child.stdout.take().expect("its console");
        let mut byte = [0u8];
        while byte != *b"." {
            console
                .read_exact(&mut byte)
                .expect("the guest says that it runs");
        }
        // It says more, and would wait for a reader.
        let rest = std::thread::spawn(move || std::io::copy(&mut console, &mut std::io::sink()));
        api.call("PATCH", "/vm", r#"{"state":"Paused"}"#);
        api.call(
            "PUT",
            "/snapshot/create",
            r#"{"snapshot_path":"state","mem_file_path":"memory"}"#,
        );
        end(child);
        rest.join().expect("a reader").expect("read to its end");
        fs::remove_file(bare.folder.join("agent.sock")).expect("its socket");
        bare
    }

    fn start(&self, folder: &Path, console: Stdio) -> (Child, Api) {
        let socket = folder.join("api.sock");
        let news = inotify::init(inotify::CreateFlags::CLOEXEC).expect("news");
        inotify::add_watch(&news, folder, inotify::WatchFlags::CREATE).expect("news of names");
        let child = Command::new(&self.program)
            .args(["--id", "bare", "--api-sock", "api.sock"])
            .current_dir(folder)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(console)
            .stderr(Stdio::null())
            .spawn()
            .expect("Firecracker");
        let mut buffer = [0u8; 1024];
        loop {
            // It has its name a moment before it listens.
            match UnixStream::connect(&socket) {
                Ok(stream) => return (child, Api(stream, news)),
                Err(_) if socket.exists() => std::thread::yield_now(),
                Err(_) => drop(rustix::io::read(&news, &mut buffer).expect("news")),
            }
        }
    }

    /// A clone that runs, until it is ended.
    pub fn restore(&self, name: &str) -> (Clone, Sample) {
        let folder = self.folder.join(name);
        fs::create_dir(&folder).expect("its folder");
        for name in ["base", "placeholder", "state", "memory"] {
            fs::hard_link(self.folder.join(name), folder.join(name)).expect("linked");
        }
        let begun = Begun::now();
        let (child, mut api) = self.start(&folder, Stdio::null());
        let backend = r#"{"backend_type":"File","backend_path":"memory"}"#;
        let load = format!(r#"{{"snapshot_path":"state","mem_backend":{backend}}}"#);
        api.call("PUT", "/snapshot/load", &load);
        api.call("PATCH", "/vm", r#"{"state":"Resumed"}"#);
        let sample = begun.done(child.id());
        (Clone { child, folder }, sample)
    }
}

/// A bare machine.
pub struct Clone {
    child: Child,
    folder: PathBuf,
}

impl Clone {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it.
    pub fn end(self) {
        end(self.child);
        fs::remove_dir_all(self.folder).expect("removed");
    }
}

fn end(mut child: Child) {
    child.kill().expect("killed");
    child.wait().expect("ended");
}
