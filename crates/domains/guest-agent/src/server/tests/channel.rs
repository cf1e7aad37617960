//! The host takes the channel up anew.

use super::*;
use std::{os::unix::net::UnixListener, path::Path};

fn listening() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("listener")).unwrap();
    let sandbox = Sandbox::on_host(folder.path());
    // Listens for as long as the tests run.
    std::thread::spawn(move || Agent::on_host(sandbox, Port::of_listener(listener)).serve());
    folder
}

async fn connect(folder: &Path) -> GuestClient {
    let stream = tokio::net::UnixStream::connect(folder.join("listener"))
        .await
        .unwrap();
    GuestClient::connect(stream, BOUND).await.unwrap()
}

#[tokio::test]
async fn one_connection_after_the_other_is_served() {
    let folder = listening();
    for round in ["first", "second", "third"] {
        let client = connect(folder.path()).await;
        let (out, ..) = run(&client, line(&format!("echo {round}"))).await;
        assert_eq!(out, format!("{round}\n"));
    }
}

#[tokio::test]
async fn a_new_connection_ends_the_old_one_and_its_calls() {
    let folder = listening();
    let old = connect(folder.path()).await;
    let mut endless = old.exec(line("echo $$; sleep 1000")).await.unwrap();
    let Some(ExecEvent::Stdout(pid)) = endless.next().await else {
        panic!("no output");
    };
    let process = format!("/proc/{}", String::from_utf8(pid.to_vec()).unwrap().trim());
    assert!(Path::new(&process).exists());

    let new = connect(folder.path()).await;
    let (out, _, exited) = run(&new, line("echo here")).await;
    assert_eq!(out, "here\n");
    assert_eq!(exited.unwrap().code, Some(0));
    tokio::time::timeout(BOUND, endless.wait())
        .await
        .unwrap()
        .unwrap_err();
    let ended = async {
        while Path::new(&process).exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, ended).await.unwrap();
}
