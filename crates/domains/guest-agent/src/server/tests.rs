//! The agent's loop against the real client, with processes of this very host in place of a sandbox's.

mod channel;
mod exec;
mod files;
mod tools;

use super::Agent;
use crate::{port::Port, sandbox::Sandbox};
use omnirun_guest_client::{ClientError, ExecEvent, ExecHandle, GuestClient, message::*};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const BOUND: Duration = Duration::from_secs(30);

async fn agent() -> (GuestClient, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let sandbox = Sandbox::on_host(folder.path());
    // Ends with the stream.
    std::thread::spawn(move || Agent::on_host(sandbox, Port::of_stream(theirs)).serve());
    ours.set_nonblocking(true).unwrap();
    let stream = tokio::net::UnixStream::from_std(ours).unwrap();
    (GuestClient::connect(stream, BOUND).await.unwrap(), folder)
}

fn line(text: &str) -> Exec {
    Exec {
        argv: vec![text.into()],
        shell: true,
        ..Exec::default()
    }
}

async fn all(mut exec: ExecHandle) -> (String, String, Result<Exited, ClientError>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let collect = async {
        while let Some(event) = exec.next().await {
            match event {
                ExecEvent::Stdout(bytes) => out.extend_from_slice(&bytes),
                ExecEvent::Stderr(bytes) => err.extend_from_slice(&bytes),
            }
        }
        exec.wait().await
    };
    let exited = tokio::time::timeout(BOUND, collect).await.unwrap();
    (
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
        exited,
    )
}

async fn run(client: &GuestClient, exec: Exec) -> (String, String, Result<Exited, ClientError>) {
    all(client.exec(exec).await.unwrap()).await
}

fn kind(result: Result<impl std::fmt::Debug, ClientError>) -> ErrorKind {
    match result {
        Err(ClientError::Guest { kind, .. }) => kind,
        other => panic!("{other:?}"),
    }
}
