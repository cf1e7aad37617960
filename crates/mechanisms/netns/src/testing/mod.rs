//! For tests: rules that are golden files.

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
