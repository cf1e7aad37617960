//! The kernel: Debian's cloud kernel, out of its package, never compiled here.

use super::{
    apt::{Apt, package_of},
    namespace::args,
    run::Runner,
};
use crate::{
    blobs::Blobs,
    error::{ImageError, file},
    initramfs,
    manifest::{Kernel, Package},
    modules,
    progress::Progress,
    vmlinux,
};
use std::{fs, path::Path};

/// Always depends on the newest kernel of its suite.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// The kernel package that the suite has now, and its size.
pub(crate) async fn resolve(apt: &Apt<'_>) -> Result<(Package, u64), ImageError> {
    let meta = apt.candidate(META_PACKAGE).await?;
    let depends = meta.get("Depends").map(String::as_str).unwrap_or_default();
    let name = concrete(depends).ok_or_else(|| ImageError::Unexpected {
        what: format!("package {META_PACKAGE}"),
        reason: format!("it depends on no kernel: {depends:?}"),
    })?;
    let paragraph = apt.candidate(name).await?;
    let bytes = paragraph.get("Size").and_then(|s| s.parse().ok()).unwrap_or(0);
    Ok((package_of(&paragraph)?, bytes))
}

/// The kernel package in a `Depends` field.
fn concrete(depends: &str) -> Option<&str> {
    depends
        .split([',', '|'])
        .filter_map(|alternative| alternative.split_whitespace().next())
        .find(|name| name.starts_with("linux-image-"))
}

/// Downloads a kernel package and stores kernel and modules.
pub(crate) async fn build(
    runner: &Runner<'_>,
    apt: &Apt<'_>,
    (package, bytes): (Package, u64),
    blobs: &Blobs,
    progress: &dyn Progress,
) -> Result<Kernel, ImageError> {
    progress.step(&format!("downloading the kernel, {}", package.version));
    let folder = runner.dir.path().join("kernel");
    fs::create_dir(&folder).map_err(file("create", &folder))?;
    let deb = apt.download(&package, bytes, &folder, progress).await?;

    progress.step("unpacking the kernel");
    let root = folder.join("root");
    runner
        .run(
            "unpacking the kernel",
            "dpkg-deb",
            &args([&"--extract", &deb, &root]),
        )
        .await?;
    let boot = root.join("boot");
    let (image, release) = only(&boot, |name| name.strip_prefix("vmlinuz-").map(str::to_owned))?;

    // Before Debian merged /usr, modules were in /lib.
    let prefix = if root.join("usr/lib/modules").is_dir() {
        root.join("usr")
    } else {
        root
    };
    runner
        .run(
            "resolving kernel modules",
            "depmod",
            &args([&"--basedir", &prefix, &release]),
        )
        .await?;
    let modules = modules::collect(&prefix.join("lib/modules").join(&release))?;
    let archive = initramfs::modules_archive(&modules);
    let vmlinux = fs::read(&image).map_err(file("read", &image))?;
    let vmlinux = vmlinux::extract(&vmlinux).map_err(|reason| ImageError::Unexpected {
        what: "the kernel package".to_owned(),
        reason: reason.to_string(),
    })?;
    Ok(Kernel {
        package,
        release,
        image: blobs.put_file(&image, |_| {})?,
        vmlinux: blobs.put_bytes(&vmlinux)?,
        modules: blobs.put_bytes(&archive)?,
        module_files: modules.into_iter().map(|m| m.file).collect(),
    })
}

/// The one file of a folder that a pattern fits.
fn only(
    folder: &Path,
    fits: impl Fn(&str) -> Option<String>,
) -> Result<(std::path::PathBuf, String), ImageError> {
    let entries = fs::read_dir(folder).map_err(file("list", folder))?.flatten();
    let mut found: Vec<_> = entries
        .filter_map(|e| Some((e.path(), fits(&e.file_name().to_string_lossy())?)))
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(ImageError::Unexpected {
            what: "the kernel package".to_owned(),
            reason: "it does not hold one vmlinuz".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_concrete_kernel_is_found() {
        let depends = "linux-base (>= 4), linux-image-6.12.118+deb13-cloud-amd64 (= 6.12.118-1)";
        assert_eq!(concrete(depends), Some("linux-image-6.12.118+deb13-cloud-amd64"));
        assert_eq!(concrete("linux-base"), None);
    }
}
