//! For tests: a guest that is no VM, and frames that no honest one sends.
//!
//! ```text
//!   guest    a namespace of its own whose card is pumped into a sandbox's tap, as a VMM would
//!   frame    Ethernet frames, field by field
//! ```

pub mod frame;
mod guest;

pub use self::guest::{Guest, Wire};

#[cfg(test)]
pub(crate) fn golden(file: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert!(
        golden == text,
        "{file} is not what is made now; if that is right, run again with UPDATE_GOLDEN=1"
    );
}
