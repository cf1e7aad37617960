//! What a data folder's commands have left on this host, whoever's it is by now.
//!
//! A process counts when it holds a file of the folder open or, in a jail, has one mounted: a VMM's command line names
//! none, other people's sandboxes on the same machine do not disturb, and one that hid would show.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Processes, mounts, loop devices, sockets, control groups, and entries of the folders that are empty when nothing
/// runs. Each is a line for people.
pub fn leftovers(data: &Path) -> Vec<String> {
    let root = data.canonicalize().unwrap_or_else(|_| data.to_path_buf());
    let name = root.display().to_string();
    let mut found: Vec<String> = processes(&root)
        .into_iter()
        .map(|(pid, line)| format!("process {pid}: {line}"))
        .collect();
    for table in ["/proc/self/mountinfo", "/proc/net/unix"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        found.extend(
            text.lines()
                .filter(|l| l.contains(&name))
                .map(|l| format!("{table}: {l}")),
        );
    }
    for entry in entries(Path::new("/sys/block")) {
        let backing = fs::read_to_string(entry.join("loop/backing_file")).unwrap_or_default();
        if backing.starts_with(&name) {
            found.push(format!("{}: {}", entry.display(), backing.trim()));
        }
    }
    control_groups(Path::new("/sys/fs/cgroup"), 4, &mut found);
    for folder in ["run", "tmp", "owners"] {
        // Names with a dot in front are lock files that stay.
        let listed = entries(&root.join(folder)).into_iter();
        let visible = listed.filter(|p| {
            !p.file_name()
                .is_some_and(|n| n.as_encoded_bytes().starts_with(b"."))
        });
        found.extend(visible.map(|p| p.display().to_string()));
    }
    found.sort();
    found
}

/// VMMs that have a file of the folder open, with their command lines.
pub fn vmms(data: &Path) -> Vec<(u32, String)> {
    let root = data.canonicalize().unwrap_or_else(|_| data.to_path_buf());
    let mut all = processes(&root);
    all.retain(|(_, line)| is_vmm(line));
    all
}

fn is_vmm(line: &str) -> bool {
    line.contains("qemu-system") || is_jailed(line)
}

/// Whether it is a Firecracker, or its jailer: nobody else has a table of mounts of his own.
fn is_jailed(line: &str) -> bool {
    line.contains(" --id sbx-")
}

/// Processes, other than this one, that hold anything of the folder.
fn processes(root: &Path) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    let within = Within::of(root);
    for entry in entries(Path::new("/proc")) {
        let pid = entry
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.parse::<u32>().ok());
        let Some(pid) = pid.filter(|pid| *pid != std::process::id()) else {
            continue;
        };
        let line = fs::read(entry.join("cmdline")).unwrap_or_default();
        let line = crate::text(&line).replace('\0', " ");
        let mut links = entries(&entry.join("fd"));
        links.push(entry.join("cwd"));
        let holds = links
            .iter()
            .any(|l| fs::read_link(l).is_ok_and(|to| to.starts_with(root)));
        if (holds && (is_vmm(&line) || line.contains("omnirun")))
            || (is_jailed(&line) && mounts(&entry, &within))
        {
            found.push((pid, line.chars().take(200).collect()));
        }
    }
    found
}

/// Whether a process has something of this folder mounted: what is in a jail has no other name outside it.
fn mounts(process: &Path, folder: &Within) -> bool {
    let table = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
    table.lines().any(|line| {
        let mut fields = line.split(' ').skip(2);
        let (device, root) = (fields.next(), fields.next());
        device == Some(&folder.device) && root.is_some_and(|root| Path::new(root).starts_with(&folder.path))
    })
}

/// A folder as a table of mounts has it.
struct Within {
    /// The number of its file system's device.
    device: String,
    /// Its path in that file system.
    path: PathBuf,
}

impl Within {
    fn of(folder: &Path) -> Self {
        let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
        let here = device(folder);
        let top = folder.ancestors().take_while(|path| device(path) == here).last();
        let within = top.and_then(|top| folder.strip_prefix(top).ok());
        let number = here.unwrap_or_default();
        Self {
            device: format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number)),
            path: Path::new("/").join(within.unwrap_or(folder)),
        }
    }
}

fn control_groups(dir: &Path, depth: u32, found: &mut Vec<String>) {
    for entry in entries(dir).into_iter().filter(|e| e.is_dir()) {
        let name = entry
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.contains("omnirun") || name.contains("sbx_") {
            found.push(format!("control group {}", entry.display()));
        } else if depth > 0 {
            control_groups(&entry, depth - 1, found);
        }
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect()
}
