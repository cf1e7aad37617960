//! Writes the samples into the corpus of `testing/fuzz`, as `seed-NUMBER`.

use omnirun_fuzz_targets::{TARGETS, seeds::seeds};
use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, _) in TARGETS {
        let folder = corpus.join(name);
        fs::create_dir_all(&folder)?;
        for (number, sample) in seeds(name).iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), sample)?;
        }
    }
    Ok(())
}
