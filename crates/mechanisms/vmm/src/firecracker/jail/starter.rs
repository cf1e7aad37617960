//! What the jailer is told to start.
//!
//! The jailer copies the program that it starts into the jail, so that no two processes have a page of it in common. That
//! is 3 MiB of memory for each clone, four times what all else of an idle one takes, and as much to be written for each
//! start. So it is told to start something else: a few instructions, which run the program that is mounted in the jail,
//! read-only, with the same arguments and as the same process. Clones share it as processes that nobody jails do, and as
//! they share the memory of their snapshot.

/// The program, inside the jail, and its folder. Its threads are called after it.
pub(in crate::firecracker) const PROGRAM: &str = "bin/firecracker";
pub(in crate::firecracker) const FOLDER: &str = "bin";

/// The whole file. `None` for a processor whose instructions are not here: there the jailer copies.
pub(in crate::firecracker) fn image() -> Option<Vec<u8>> {
    cfg!(target_arch = "x86_64").then(x86_64)
}

fn x86_64() -> Vec<u8> {
    let code: &[u8] = &[
        0x48, 0x8b, 0x04, 0x24, // mov rax, [rsp]: how many arguments
        0x48, 0x8d, 0x74, 0x24, 0x08, // lea rsi, [rsp + 8]: the arguments
        0x48, 0x8d, 0x54, 0xc6,
        0x08, // lea rdx, [rsi + rax * 8 + 8]: the environment, behind them and a null
        0x48, 0x8d, 0x3d, 0x13, 0, 0, 0, // lea rdi, [path]
        0xb8, 59, 0, 0, 0, // mov eax, execve
        0x0f, 0x05, // syscall
        0xbf, 127, 0, 0, 0, // mov edi, 127: as a shell says that it found no program
        0xb8, 60, 0, 0, 0, // mov eax, exit
        0x0f, 0x05, // syscall
    ];
    let path = format!("/{PROGRAM}\0");
    elf(62, &[code, path.as_bytes()].concat())
}

/// An ELF file with one segment, all of it, read and run from the byte behind the headers on.
fn elf(machine: u16, code: &[u8]) -> Vec<u8> {
    const AT: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let mut image = Vec::new();
    image.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    image.extend([2, machine].iter().flat_map(|n| n.to_le_bytes())); // an executable
    image.extend(1u32.to_le_bytes());
    image.extend([AT + HEADERS, 64, 0].iter().flat_map(|n| n.to_le_bytes())); // entry, segments, no sections
    image.extend(0u32.to_le_bytes());
    image.extend([64u16, 56, 1, 64, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
    image.extend([1u32, 5].iter().flat_map(|n| n.to_le_bytes())); // to be loaded, read and run
    let size = HEADERS + code.len() as u64;
    image.extend(
        [0, AT, AT, size, size, 4096]
            .iter()
            .flat_map(|n: &u64| n.to_le_bytes()),
    );
    image.extend(code);
    image
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firecracker::{Linkage, linkage};
    use std::{fs, os::unix::fs::PermissionsExt, process::Command};

    #[test]
    fn it_is_a_program_that_runs_another_or_says_that_there_is_none() {
        let Some(image) = image() else { return };
        assert_eq!(linkage(&image), Linkage::Static);
        assert!(image.ends_with(b"/bin/firecracker\0"));
        // Here is none of that name; in a root of one's own the tests of whole jails run one.
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("starter");
        fs::write(&path, &image).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
        let status = Command::new("sh")
            .arg("-c")
            .arg(&path)
            .status()
            .expect("it starts");
        assert_eq!(status.code(), Some(127));
    }
}
