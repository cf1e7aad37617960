//! Files and tar streams.

use super::*;
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn files_are_written_whole_and_read_in_parts() {
    let (client, folder) = agent().await;
    let content: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
    assert_eq!(
        client
            .write_file("a/b", 0o640, true, &mut &*content)
            .await
            .unwrap(),
        1_000_000
    );
    assert_eq!(std::fs::read(folder.path().join("a/b")).unwrap(), content);
    let stat = client.stat("a/b").await.unwrap();
    assert_eq!((stat.mode & 0o7777, stat.size), (0o640, 1_000_000));
    client
        .write_file("a/b", 0, false, &mut &b"short"[..])
        .await
        .unwrap();
    assert_eq!(client.stat("a/b").await.unwrap().mode & 0o7777, 0o640);
    let mut part = Vec::new();
    assert_eq!(
        client
            .read_file("a/b", 1, 3)
            .unwrap()
            .copy_to(&mut part)
            .await
            .unwrap(),
        3
    );
    assert_eq!(part, b"hor");
    assert_eq!(
        kind(client.read_file("a/none", 0, 0).unwrap().next().await),
        ErrorKind::NotFound
    );
    assert_eq!(
        kind(client.read_file("a", 0, 0).unwrap().next().await),
        ErrorKind::Invalid
    );
    client.mkdir("c/d", true).await.unwrap();
    client.rename("a/b", "c/e").await.unwrap();
    let names: Vec<_> = client
        .list("c")
        .await
        .unwrap()
        .entries
        .into_iter()
        .map(|e| e.name)
        .collect();
    assert_eq!(names, [b"d".to_vec(), b"e".to_vec()]);
    assert_eq!(kind(client.remove("c", false).await), ErrorKind::Exists);
    client.remove("c", true).await.unwrap();
    assert!(!folder.path().join("c").exists());
}

#[tokio::test]
async fn a_write_that_is_broken_off_leaves_the_file_as_it_was() {
    struct Broken(usize);
    impl tokio::io::AsyncRead for Broken {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            if self.0 == 0 {
                return std::task::Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()));
            }
            self.0 -= 1;
            buffer.put_slice(&[1; 1000]);
            std::task::Poll::Ready(Ok(()))
        }
    }
    let (client, folder) = agent().await;
    std::fs::write(folder.path().join("kept"), "old").unwrap();
    let result = client.write_file("kept", 0, false, &mut Broken(20)).await;
    assert!(matches!(result, Err(ClientError::Local { .. })), "{result:?}");
    // The answer to this comes after the cancel has been handled.
    client.ping().await.unwrap();
    assert_eq!(std::fs::read(folder.path().join("kept")).unwrap(), b"old");
}

#[tokio::test]
async fn trees_travel_as_tar_and_do_not_leave_their_folder() {
    let (client, folder) = agent().await;
    run(
        &client,
        line("mkdir -p t/u; echo hello >t/u/v; ln -s v t/u/w; mkfifo t/u/x; chmod 550 t/u"),
    )
    .await
    .2
    .unwrap();
    let mut packed = Vec::new();
    client.tar_out("t").unwrap().copy_to(&mut packed).await.unwrap();
    client.tar_in("copy", &mut &*packed).await.unwrap();
    assert_eq!(
        std::fs::read(folder.path().join("copy/t/u/v")).unwrap(),
        b"hello\n"
    );
    assert_eq!(
        std::fs::read_link(folder.path().join("copy/t/u/w"))
            .unwrap()
            .to_str(),
        Some("v")
    );
    let unpacked = std::fs::metadata(folder.path().join("copy/t/u")).unwrap();
    assert_eq!(unpacked.permissions().mode() & 0o777, 0o550);
    assert!(
        !folder.path().join("copy/t/u/x").exists(),
        "a FIFO has no content"
    );
    let mut fifo = client.tar_out("t/u/x").unwrap();
    assert_eq!(
        kind(tokio::time::timeout(BOUND, fifo.next()).await.unwrap()),
        ErrorKind::Invalid
    );
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..9].copy_from_slice(b"../escape");
    header.set_size(1);
    header.set_cksum();
    builder.append(&header, &b"x"[..]).unwrap();
    let evil = builder.into_inner().unwrap();
    assert_eq!(kind(client.tar_in("copy", &mut &*evil).await), ErrorKind::Invalid);
    assert!(!folder.path().join("escape").exists());
}
