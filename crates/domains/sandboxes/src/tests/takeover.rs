//! What a dead owner left.

use super::bench;
use crate::{look, testing::spec};

#[tokio::test(start_paused = true)]
async fn what_a_dead_owner_left_is_taken_over() {
    let b = bench().await;
    let dead = b.other().await;
    let sandbox = dead.create(spec()).await.unwrap();
    let id = sandbox.id().to_string();
    // The process dies: its tasks never run again, its lock is let go.
    std::mem::forget(sandbox);
    dead.die();
    assert!(
        look(b.engine.data(), b.engine.db())
            .unwrap()
            .iter()
            .any(|l| l.contains(&id))
    );
    assert_eq!(b.vmm.living(), 1);
    let report = b.engine.take_over().await.unwrap();
    assert!(
        report.is_clean() && report.lines().iter().any(|l| l.contains(&id)),
        "{report}"
    );
    assert_eq!(b.vmm.living(), 0);
    assert!(
        b.engine.take_over().await.unwrap().is_empty(),
        "a second pass finds nothing"
    );
    // A folder and a row of nobody.
    std::fs::create_dir(b.root.join("run/sbx_0123456789abcdef01234567")).unwrap();
    assert_eq!(b.engine.take_over().await.unwrap().paths.len(), 1);
    // Work that a dead owner had under way, with a VM that has no row, and a file that was half written.
    let work = b.root.join("tmp/bench-1.own_0123456789abcdef01234567");
    std::fs::create_dir_all(work.join("sbx_0123456789abcdef01234567")).unwrap();
    std::fs::write(b.root.join("snapshot.key.0123456789abcdef.new"), "half").unwrap();
    let mine = b.root.join("tmp").join(format!("bench-2.{}", b.engine.owner()));
    std::fs::create_dir(&mine).unwrap();
    assert_eq!(look(b.engine.data(), b.engine.db()).unwrap().len(), 2);
    assert_eq!(b.engine.take_over().await.unwrap().paths.len(), 2);
    assert!(!work.exists() && mine.exists());
    std::fs::remove_dir(mine).unwrap();
    b.engine.shutdown().await;
    b.assert_nothing_left("after a takeover");
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_trial_of_a_jail_left_goes_with_the_rest() {
    let b = bench().await;
    let folder = b.engine.data().tmp().join("sbx_trial_1_0");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("something"), "left").unwrap();
    let found = look(b.engine.data(), b.engine.db()).unwrap();
    assert!(found.iter().any(|l| l.contains("sbx_trial_1_0")), "{found:?}");
    assert_eq!(b.engine.take_over().await.unwrap().paths, [folder]);
    b.engine.shutdown().await;
    b.assert_nothing_left("after a killed trial");
}
