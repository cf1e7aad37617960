//! What can go wrong with images. Each variant names the step; where a command mends it, the message has the command.

use omnirun_ids::TemplateName;
use omnirun_store::StoreError;
use std::{io, path::PathBuf};

/// Why an image could not be built, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no recipe of this name.
    #[error("there is no template {name}; known: {known}. A recipe of your own goes to {}", folder.display())]
    UnknownTemplate {
        /// The name.
        name: TemplateName,
        /// Names that would have been found.
        known: String,
        /// Where the user's recipes live.
        folder: PathBuf,
    },
    /// A recipe file that cannot be used.
    #[error("cannot use the recipe {}: {reason}", path.display())]
    Recipe {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, with the line where that is known.
        reason: String,
    },
    /// The template has not been built on this host.
    #[error("template {template} has no image yet; build it with: omnirun image build {template}")]
    NoImage {
        /// The template.
        template: TemplateName,
    },
    /// A manifest that cannot be read.
    #[error("the manifest {} is damaged ({reason}); build it anew with: omnirun image build --force {template}", path.display())]
    DamagedManifest {
        /// The template.
        template: TemplateName,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A manifest that an earlier release wrote, of an image that lacks what this one needs.
    #[error(
        "the image of template {template} is that of an earlier omnirun (version {found}); build it anew with: omnirun image build {template}"
    )]
    OlderManifest {
        /// The template.
        template: TemplateName,
        /// Its version.
        found: u64,
    },
    /// A manifest that a newer release wrote.
    #[error("the manifest {} is of version {found}, this omnirun knows {known}; use the newer omnirun", path.display())]
    NewerManifest {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest that is known here.
        known: u64,
    },
    /// A file of an image that is missing or not what it was.
    #[error("the {what} of template {template}, {}, is {damage}; build it anew with: omnirun image build --force {template}", path.display())]
    DamagedBlob {
        /// The template.
        template: TemplateName,
        /// Kernel, base disk, ...
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Missing, truncated or changed.
        damage: &'static str,
    },
    /// A base disk that a session is bound to is gone.
    #[error("the base disk {digest} is gone: it was removed although a session used it")]
    NoBase {
        /// Its digest.
        digest: String,
    },
    /// Programs or files that a build needs.
    #[error("building an image needs {missing}; install with: {install}")]
    MissingTools {
        /// All that is missing.
        missing: String,
        /// The command that installs it.
        install: String,
    },
    /// The host does not let this user make the namespace that a build runs in.
    #[error("building an image as an ordinary user needs {what}; {mend}")]
    Namespace {
        /// What is not there.
        what: String,
        /// The command that mends it.
        mend: String,
    },
    /// Only x86-64 is supported.
    #[error("images can be built for x86-64 only, and this is {arch}")]
    Architecture {
        /// This host's architecture.
        arch: &'static str,
    },
    /// A program could not be started.
    #[error("cannot start {program}")]
    Spawn {
        /// The program.
        program: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("{step} failed ({status}): {tail}")]
    Program {
        /// What was being done.
        step: String,
        /// How it ended.
        status: String,
        /// The end of what it said.
        tail: String,
    },
    /// A file could not be used.
    #[error("cannot {step} {}", path.display())]
    File {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Something that a program printed or a package held is not as it should be.
    #[error("{what}: {reason}")]
    Unexpected {
        /// Where it came from.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// A package of the recipe is not in the suite.
    #[error("Debian {suite} has no package {package}")]
    NoPackage {
        /// The suite.
        suite: &'static str,
        /// The package.
        package: String,
    },
    /// The image is in use.
    #[error(
        "template {template} is used by {users} session(s); remove them with omnirun session rm, or give --force"
    )]
    InUse {
        /// The template.
        template: TemplateName,
        /// How many sessions are bound to its base.
        users: usize,
    },
    /// The data folder could not be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// For `map_err`: a file operation that failed.
pub(crate) fn file(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.into();
    move |source| ImageError::File { step, path, source }
}
