//! What is in a jail before its process starts, and what the process makes of it.

use super::*;

#[tokio::test]
async fn what_is_planted_where_the_jail_should_be_fails_the_start_and_stays() {
    let Some(bench) = Bench::new() else { return };
    let victim = bench.path("victim");
    fs::write(&victim, "as it was").expect("written");
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).expect("ours");
    let folder = bench.path("elsewhere");
    fs::create_dir(&folder).expect("made");
    type Plant<'a> = Box<dyn Fn(&VmIdentity) + 'a>;
    let plants: [Plant<'_>; 5] = [
        Box::new(|id| symlink(&folder, id.run_dir.join("fc")).expect("planted")),
        Box::new(|id| {
            fs::create_dir(id.run_dir.join("fc")).expect("planted");
            symlink(&folder, jail_of(id).parent().expect("its parent")).expect("planted");
        }),
        Box::new(|id| {
            fs::create_dir_all(jail_of(id)).expect("planted");
            symlink(&victim, jail_of(id).join("fc")).expect("planted");
        }),
        Box::new(|id| {
            fs::create_dir_all(jail_of(id)).expect("planted");
            fs::hard_link(&victim, jail_of(id).join("fc")).expect("planted");
        }),
        Box::new(|id| {
            fs::set_permissions(&id.run_dir, fs::Permissions::from_mode(0o777)).expect("ours");
        }),
    ];
    for (number, plant) in plants.iter().enumerate() {
        let identity = bench.identity();
        plant(&identity);
        let started = identity.run_dir.join("started");
        let spec = bench.clone_spec(identity);
        let error = Machine::restore(&bench.host, spec)
            .await
            .map(drop)
            .expect_err("refused");
        assert!(matches!(error, VmmError::File { .. }), "{number}: {error:?}");
        assert!(!started.exists(), "{number}: the jailer never ran");
        assert_eq!(fs::read_to_string(&victim).expect("the victim"), "as it was");
        assert_eq!(fs::metadata(&victim).expect("the victim").uid(), 0);
        assert!(fs::read_dir(&folder).expect("the folder").next().is_none());
    }
}

#[tokio::test]
async fn a_link_that_the_process_made_of_its_socket_is_not_followed() {
    let Some(bench) = Bench::new() else { return };
    let (machine, _double) = bench.restore(&[]).await.expect("a clone");
    let elsewhere = bench.path("else.sock");
    let _listener = UnixListener::bind(&elsewhere).expect("bound");
    symlink(&elsewhere, machine.jail.path().join("run/agent.sock")).expect("made");
    let error = machine.channel().await.map(drop).expect_err("refused");
    assert!(matches!(error, VmmError::Io { .. }), "{error:?}");
}

#[tokio::test]
async fn a_disk_is_linked_once_and_belongs_to_the_vm() {
    let Some(bench) = Bench::new() else { return };
    let (machine, _double) = bench.restore(&[]).await.expect("a clone");
    let path = bench.path("disk");
    fs::write(&path, [0u8; 512]).expect("written");
    let open = || {
        File::options()
            .read(true)
            .write(true)
            .open(&path)
            .expect("a disk")
    };
    let disk = |file: File| AttachDisk {
        file: file.into(),
        bytes: 512,
    };
    machine.attach_disk(disk(open())).await.expect("attached");
    let (there, here) = (
        fs::metadata(machine.jail.path().join("session")).expect("linked"),
        fs::metadata(&path).expect("the disk"),
    );
    assert_eq!((there.dev(), there.ino()), (here.dev(), here.ino()));
    assert!(here.uid() != 0 && here.uid() == here.gid());
    let again = machine.attach_disk(disk(open())).await.expect_err("one already");
    assert!(matches!(again, VmmError::Refused { .. }), "{again:?}");
}
