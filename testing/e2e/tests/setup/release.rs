//! A release that is none: programs of a few instructions, and archives of them.

use super::*;

/// A static program that prints a text and ends with a code.
pub(super) fn program(says: &str, code: u8) -> Vec<u8> {
    let mut machine = vec![
        0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0, 0x48, 0x8d, 0x35, 24, 0, 0, 0, 0xba,
    ];
    machine.extend((says.len() as u32).to_le_bytes()); // edx = length; write(1, text, length)
    machine.extend([0x0f, 0x05, 0xb8, 60, 0, 0, 0, 0x6a, code, 0x5f, 0x0f, 0x05]); // exit(code)
    // The text begins 24 bytes behind the instruction that takes its address.
    machine.resize(17 + 24, 0x90);
    machine.extend(says.as_bytes());
    let base: u64 = 0x40_0000;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]); // an executable for x86-64
    elf.extend((base + 120).to_le_bytes());
    elf.extend(64u64.to_le_bytes());
    elf.extend(0u64.to_le_bytes());
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]); // one segment, to be read and run
    let size = (120 + machine.len()) as u64;
    for number in [0, base, base, size, size, 0x1000] {
        elf.extend(number.to_le_bytes());
    }
    elf.extend(machine);
    elf
}

/// A folder as release archives have it, and the archive of it.
pub(super) struct Release {
    pub(super) dir: tempfile::TempDir,
    pub(super) version: String,
}

impl Release {
    pub(super) fn new(version: &str) -> Self {
        let release = Self {
            dir: tempfile::tempdir().expect("a folder"),
            version: version.to_owned(),
        };
        let folder = release.folder();
        fs::create_dir(&folder).expect("a folder");
        release.put("firecracker", &program(&format!("Firecracker v{version}\n\n"), 0));
        release.put("jailer", &program(&format!("Jailer v{version}\n\n"), 0));
        fs::write(folder.join("LICENSE"), "Apache").expect("written");
        fs::write(folder.join(format!("seccompiler-bin-v{version}-{ARCH}")), "x").expect("written");
        release
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.dir.path().join(format!("release-v{}-{ARCH}", self.version))
    }

    pub(super) fn put(&self, program: &str, bytes: &[u8]) {
        let path = self.folder().join(format!("{program}-v{}-{ARCH}", self.version));
        fs::write(&path, bytes).expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("made a program");
    }

    pub(super) fn name(&self) -> String {
        format!("firecracker-v{}-{ARCH}.tgz", self.version)
    }

    /// Makes the archive, with the list of digests in it; returns its path and digest.
    pub(super) fn pack(&self) -> (PathBuf, String) {
        let sums = "find . -type f -not -name SHA256SUMS | sort | xargs sha256sum > SHA256SUMS";
        shell(&self.folder(), sums);
        let inside = self.folder();
        let inside = inside.file_name().expect("a name").to_string_lossy();
        shell(self.dir.path(), &format!("tar -czf {PACKED} {inside}"));
        let path = self.dir.path().join(PACKED);
        let digest = sha256(&path);
        (path, digest)
    }
}

pub(super) fn shell(dir: &Path, script: &str) {
    let status = Command::new("sh")
        .args(["-euc", script])
        .current_dir(dir)
        .status();
    assert!(status.expect("sh starts").success(), "{script}");
}

pub(super) fn sha256(path: &Path) -> String {
    let out = Command::new("sha256sum").arg(path).output().expect("sha256sum");
    omnirun_e2e::text(&out.stdout)[..64].to_owned()
}
