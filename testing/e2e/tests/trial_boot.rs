//! A trial boot with a real guest: what `omnirun setup` has a new Firecracker show, here with whatever driver this host has.

use omnirun_e2e::{driver, private_data};
use omnirun_ids::ByteSize;
use omnirun_images::ImageStore;
use omnirun_sandboxes::{
    Card, Engine, EngineConfig, IsolationGroup, SandboxSize, SandboxSpec, SnapshotLimits,
};
use omnirun_store::{DataDir, Db};
use std::{fs, sync::Arc, time::Duration};

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_comes_up_passes_and_one_that_does_not_says_why() {
    let folder = tokio::task::spawn_blocking(private_data)
        .await
        .expect("a data folder");
    let data = DataDir::open(Some(folder.path().to_owned())).expect("it opens");
    let images = ImageStore::open(data.root()).expect("images");
    let engine = Engine::open(EngineConfig {
        data: data.clone(),
        db: Db::open(&data).expect("a database"),
        vmm: driver().await,
        command: "e2e trial".to_owned(),
        pool_memory: None,
        network: None,
        snapshots: SnapshotLimits::default(),
        say: Arc::new(|notice| panic!("{notice}")),
    })
    .await
    .expect("an engine");
    let mut spec = SandboxSpec {
        image: Arc::new(images.get(&"default".parse().expect("a name")).expect("an image")),
        size: SandboxSize {
            vcpus: 1,
            memory: ByteSize::mib(256),
        },
        group: IsolationGroup::local(),
        card: Card::None,
        purpose: "e2e trial".to_owned(),
        suspendable: false,
    };
    let took = engine.try_boot(&spec).await.expect("it boots");
    assert!(took > Duration::from_millis(10));
    assert_eq!(engine.snapshots().expect("listed"), []);

    // Without an agent the kernel has nothing to run, says so, and ends.
    let mut image = (*spec.image).clone();
    image.initramfs = folder.path().join("nothing.cpio");
    fs::write(&image.initramfs, [0u8; 512]).expect("written");
    spec.image = Arc::new(image);
    let error = engine.try_boot(&spec).await.expect_err("nothing answers");
    assert!(
        error.console().is_some_and(|text| text.contains("panic")),
        "{error:?}"
    );

    let reports = engine.shutdown().await;
    assert!(reports.iter().all(|r| r.is_clean()), "{reports:?}");
    let left: Vec<_> = fs::read_dir(data.run()).expect("listed").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}
