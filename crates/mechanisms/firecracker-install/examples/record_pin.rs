//! For maintainers: downloads the pinned release, holds it against its own checksum file, and writes its SHA-256 to
//! `pins.txt`. Compare the digest with a second source before you commit it.

use omnirun_firecracker_install::{Mirror, Progress, Release, Shelf, Staged, published};
use std::io::Write;

struct Words;

impl Progress for Words {
    fn step(&self, what: &str) {
        eprintln!("{what}");
    }
    fn bytes(&self, _done: u64, _total: Option<u64>) {}
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (release, mirror) = (Release::pinned(), Mirror::default());
    let expected = published(&release, &mirror).await?;
    let tmp = tempfile::tempdir()?;
    let data = omnirun_store::DataDir::open(Some(tmp.path().join("data")))?;
    let staging = Shelf::of(&data).begin()?;
    // Unpacked and tried as a user's setup would.
    Staged::download(staging, &release, &mirror, &expected, &Words)
        .await?
        .try_versions()
        .await?;
    let pins = concat!(env!("CARGO_MANIFEST_DIR"), "/pins.txt");
    let mut file = std::fs::OpenOptions::new().append(true).open(pins)?;
    writeln!(file, "{expected}  {}", release.archive())?;
    eprintln!("recorded {expected} in {pins}");
    Ok(())
}
