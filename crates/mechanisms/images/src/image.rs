//! What a built template is to those who boot it: its files, their digests, and the facts that a sandbox needs.

use omnirun_ids::{Digest, TemplateName};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// A template's image, ready to boot. Every path names an immutable, content-addressed file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The kernel: a bzImage.
    pub kernel: PathBuf,
    /// The same kernel as an ELF file.
    pub vmlinux: PathBuf,
    /// The initramfs, with the guest agent as `/init` and the modules that the kernel needs.
    pub initramfs: PathBuf,
    /// The base disk: EROFS, read-only, shared by every VM of the template.
    pub base: PathBuf,
    /// The archive with the kernel's modules, which is a part of the initramfs.
    pub modules: PathBuf,
    /// Digest of [`kernel`](Self::kernel).
    pub kernel_digest: Digest,
    /// Digest of [`initramfs`](Self::initramfs).
    pub initramfs_digest: Digest,
    /// Digest of [`base`](Self::base). A session is bound to it: its disk is an overlay over this very base.
    pub base_digest: Digest,
    /// Digest of the agent in the initramfs.
    pub agent_digest: Digest,
    /// Version of the kernel, as `uname -r` prints it.
    pub kernel_release: String,
    /// What the recipe says about the processes in a sandbox.
    pub template: Template,
}

/// What a recipe says about the processes in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// Its name.
    pub name: TemplateName,
    /// Whom tools run as: a user of the base's passwd file.
    pub user: String,
    /// Environment of every process, on top of the agent's own minimum (`PATH`, `HOME`, ...).
    pub env: BTreeMap<String, String>,
    /// Working directory, absolute.
    pub workdir: String,
    /// Whether processes keep SYS_MODULE, SYS_RAWIO, SYS_BOOT and MKNOD.
    pub keep_capabilities: bool,
}
