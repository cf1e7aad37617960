//! A lab leaves nothing, whatever becomes of who made it.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
};

use omnirun_escape_test::lab::{Lab, enter};

/// The argument that makes this program have a lab until it is killed.
pub const HOLD: &str = "hold";

/// Has a lab, and says so; inside and outside.
pub fn hold() {
    if !enter::inside() {
        let _ = enter::again(&[HOLD]);
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let _lab = Lab::build().unwrap();
        println!("here");
        enter::abandoned().await;
    });
}

/// Links of this process's namespace.
fn links() -> String {
    std::fs::read_to_string("/proc/net/dev")
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| format!("{} ", name.trim()))
        .collect()
}

/// Kills the process outside with SIGKILL: the one inside ends by itself, and nothing was ever seen of it out here.
pub fn test() {
    let before = links();
    let mut outside = Command::new(std::env::current_exe().unwrap())
        .arg(HOLD)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(outside.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "here\n");
    assert_eq!(links(), before);
    outside.kill().unwrap();
    outside.wait().unwrap();
    // The process inside has the other end: it is gone when there is no more to read.
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert_eq!((rest, links()), (String::new(), before));
}
