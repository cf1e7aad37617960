//! What mmdebstrap says it is doing, in our words.

/// A step of a bootstrap.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) words: &'static str,
    /// Whether bytes can be counted.
    pub(crate) downloads: bool,
}

/// The step that a line of mmdebstrap's begins.
pub(crate) fn step_of(line: &str) -> Option<Step> {
    let (words, downloads) = match line.strip_prefix("I: ")? {
        "running apt-get update..." => ("fetching package lists for the base", false),
        "downloading packages with apt..." => ("downloading packages", true),
        "extracting archives..." => ("unpacking essential packages", false),
        "installing essential packages..." => ("installing essential packages", false),
        // These are downloaded by apt in the tree, unless they were along with the essential ones.
        "installing remaining packages inside the chroot..." => ("installing the template's packages", true),
        _ => return None,
    };
    Some(Step { words, downloads })
}
