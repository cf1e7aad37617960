//! Which kernel modules a guest needs, in which order they load, and their bytes without compression.
//!
//! What is built in differs from one kernel release to the next, so nothing is assumed: `modules.builtin` says what
//! needs no file, `modules.dep` what does and what it needs in turn.

use crate::error::{ImageError, file};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    path::Path,
};

/// What a guest needs: its devices, as QEMU has them on PCI and Firecracker on virtio-mmio with vsock, and its file
/// systems.
pub(crate) const NEEDED: [&str; 10] = [
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_console",
    "vmw_vsock_virtio_transport",
    "virtio_rng",
    "virtio_net",
    "erofs",
    "overlay",
    "ext4",
];

/// A module is at most this large when decompressed: the largest of Debian's is 8 MiB.
const MAX_MODULE_BYTES: u64 = 64 << 20;

/// A module, ready to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// File name without compression suffix: `virtio_blk.ko`.
    pub(crate) file: String,
    /// The ELF object.
    pub(crate) bytes: Vec<u8>,
}

/// A module's name, whatever its file is called: `virtio-rng.ko.xz` is `virtio_rng`.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// Paths of the modules to load, dependencies first, each once. What is built in is not among them.
///
/// # Errors
/// The name of a module that is neither a file nor built in.
pub(crate) fn resolve(needed: &[&str], dep: &str, builtin: &str) -> Result<Vec<String>, String> {
    let builtin: BTreeSet<String> = builtin.lines().map(|line| name(line.trim())).collect();
    let mut files: BTreeMap<String, (&str, Vec<&str>)> = BTreeMap::new();
    for line in dep.lines() {
        if let Some((path, needs)) = line.split_once(':') {
            files.insert(name(path), (path, needs.split_whitespace().collect()));
        }
    }
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for wanted in needed {
        visit(wanted, &files, &builtin, &mut seen, &mut order)?;
    }
    Ok(order)
}

fn visit(
    wanted: &str,
    files: &BTreeMap<String, (&str, Vec<&str>)>,
    builtin: &BTreeSet<String>,
    seen: &mut BTreeSet<String>,
    order: &mut Vec<String>,
) -> Result<(), String> {
    if !seen.insert(wanted.to_owned()) || builtin.contains(wanted) {
        return Ok(());
    }
    let (path, needs) = files.get(wanted).ok_or_else(|| wanted.to_owned())?;
    // `seen` bounds the depth, should the file name a cycle.
    for need in needs {
        visit(&name(need), files, builtin, seen, order)?;
    }
    order.push((*path).to_owned());
    Ok(())
}

/// Reads the needed modules out of an unpacked kernel package on which `depmod` has run; `folder` holds `modules.dep`.
///
/// # Errors
/// [`ImageError`] if a file cannot be read or the kernel has no such module.
pub(crate) fn collect(folder: &Path) -> Result<Vec<Module>, ImageError> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).map_err(file("read", path))
    };
    let order = resolve(&NEEDED, &read("modules.dep")?, &read("modules.builtin")?).map_err(|missing| {
        ImageError::Unexpected {
            what: "the kernel package".to_owned(),
            reason: format!("it has no module {missing}, and it is not built in"),
        }
    })?;
    order
        .iter()
        .map(|path| {
            let bytes = decompressed(&folder.join(path))?;
            let base = path.rsplit('/').next().unwrap_or(path);
            let stem = base.split(".ko").next().unwrap_or(base);
            Ok(Module {
                file: format!("{stem}.ko"),
                bytes,
            })
        })
        .collect()
}

fn decompressed(path: &Path) -> Result<Vec<u8>, ImageError> {
    let raw = fs::File::open(path).map_err(file("open", path))?;
    let reader: Box<dyn Read> = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => Box::new(xz2::read::XzDecoder::new(raw)),
        Some("zst") => Box::new(zstd::stream::read::Decoder::new(raw).map_err(file("decompress", path))?),
        _ => Box::new(raw),
    };
    let mut bytes = Vec::new();
    reader
        .take(MAX_MODULE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(file("decompress", path))?;
    if !bytes.starts_with(b"\x7fELF") {
        return Err(ImageError::Unexpected {
            what: path.display().to_string(),
            reason: "it is not a kernel module".to_owned(),
        });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const DEP: &str = "\
kernel/drivers/block/virtio_blk.ko.xz:
kernel/drivers/char/hw_random/virtio-rng.ko.xz: kernel/drivers/char/hw_random/rng-core.ko.xz
kernel/drivers/char/hw_random/rng-core.ko.xz:
kernel/fs/erofs/erofs.ko.xz: kernel/fs/netfs/netfs.ko.xz kernel/lib/lz4.ko.xz
kernel/fs/netfs/netfs.ko.xz: kernel/lib/lz4.ko.xz
kernel/lib/lz4.ko.xz:
kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz
kernel/drivers/net/net_failover.ko.xz:
kernel/drivers/virtio/virtio_mmio.ko.xz:
kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko.xz: kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko.xz kernel/net/vmw_vsock/vsock.ko.xz
kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko.xz: kernel/net/vmw_vsock/vsock.ko.xz
kernel/net/vmw_vsock/vsock.ko.xz:
kernel/a.ko: kernel/b.ko
kernel/b.ko: kernel/a.ko
";
    const BUILTIN: &str = "kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio_pci.ko\n";

    #[test]
    fn dependencies_come_first_and_once() {
        let order = resolve(&["virtio_pci", "virtio_rng", "erofs", "ext4"], DEP, BUILTIN).unwrap();
        assert_eq!(
            order,
            [
                "kernel/drivers/char/hw_random/rng-core.ko.xz",
                "kernel/drivers/char/hw_random/virtio-rng.ko.xz",
                "kernel/lib/lz4.ko.xz",
                "kernel/fs/netfs/netfs.ko.xz",
                "kernel/fs/erofs/erofs.ko.xz",
            ]
        );
    }

    #[test]
    fn a_transport_comes_before_the_devices_on_it() {
        let console = "kernel/drivers/char/virtio_console.ko:\n";
        let overlay = "kernel/fs/overlayfs/overlay.ko:\n";
        let order = resolve(&NEEDED, &[DEP, console, overlay].concat(), BUILTIN).unwrap();
        let names: Vec<_> = order.iter().map(|path| name(path)).collect();
        assert_eq!(
            names[..6],
            [
                "virtio_mmio",
                "virtio_blk",
                "virtio_console",
                "vsock",
                "vmw_vsock_virtio_transport_common",
                "vmw_vsock_virtio_transport",
            ]
        );
    }

    #[test]
    fn a_module_that_is_nowhere_is_named() {
        assert_eq!(resolve(&["virtio_fs"], DEP, BUILTIN), Err("virtio_fs".to_owned()));
    }

    #[test]
    fn a_cycle_ends() {
        assert_eq!(
            resolve(&["a"], DEP, BUILTIN).unwrap(),
            ["kernel/b.ko", "kernel/a.ko"]
        );
    }

    #[test]
    fn every_compression_is_undone() {
        let dir = tempfile::tempdir().unwrap();
        let elf = [b"\x7fELF".as_slice(), &[7; 5000]].concat();
        let mut xz = xz2::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&elf).unwrap();
        let zst = zstd::stream::encode_all(elf.as_slice(), 1).unwrap();
        for (file, content) in [
            ("m.ko", elf.clone()),
            ("m.ko.xz", xz.finish().unwrap()),
            ("m.ko.zst", zst),
        ] {
            let path = dir.path().join(file);
            fs::write(&path, content).unwrap();
            assert_eq!(decompressed(&path).unwrap(), elf, "{file}");
        }
        fs::write(dir.path().join("bad.ko.xz"), "no").unwrap();
        assert!(decompressed(&dir.path().join("bad.ko.xz")).is_err());
    }
}
