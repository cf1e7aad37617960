//! Tests that run in a lab.

use omnirun_escape_test::lab::{Lab, enter};

/// Runs `test` inside a lab: this test, `name`, is run again there. Without root nothing is tested.
pub fn in_lab<F: Future<Output = ()>>(name: &str, test: impl FnOnce(Lab) -> F) {
    if !enter::inside() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("nothing tested: this takes root");
            return;
        }
        let ended = enter::again(&["--exact", name, "--nocapture", "--include-ignored"]).unwrap();
        assert!(ended.success(), "{ended}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let lab = Lab::build().unwrap();
        tokio::select! {
            () = test(lab) => {}
            () = enter::abandoned() => panic!("nobody waits for this test"),
        }
    });
}
