//! The filter for builds for the gnu target, compiled into the form that Firecracker reads.
//!
//! The rules are Firecracker's own in `resources/seccomp`, in the same format, with two changes: calls that the GNU C
//! library makes in place of musl's (`openat`, `epoll_wait`, `tgkill`, `statx`, heaps of threads), and without those that
//! only serve devices which no VM has here (io_uring, pmem, balloon, vhost-user, PCI, hot-plugging, network cards). One
//! that gets such a device needs their rules again.

use crate::VmmError;
use seccompiler::{BpfMap, compile_from_json};
use std::{collections::BTreeMap, io};

/// Of the only processor that there are rules for.
const ARCH: &str = "x86_64";
const RULES: &[u8] = include_bytes!("x86_64.json");

/// Compiles it; nothing where there are no rules for this processor. Takes a millisecond.
pub(in crate::firecracker) fn compile() -> Result<Option<Vec<u8>>, VmmError> {
    if std::env::consts::ARCH != ARCH {
        return Ok(None);
    }
    programs(RULES)
        .and_then(|programs| pack(&programs))
        .map(Some)
        .map_err(|source| VmmError::Io {
            step: "compiling the seccomp filter",
            source,
        })
}

fn programs(rules: &[u8]) -> io::Result<BpfMap> {
    let arch = ARCH.try_into().map_err(io::Error::other)?;
    compile_from_json(rules, arch).map_err(io::Error::other)
}

/// As `seccompiler-bin` of Firecracker 1.15 and 1.16 writes them: for each kind of thread its instructions, each as the
/// number whose bytes are the kernel's structure.
fn pack(programs: &BpfMap) -> io::Result<Vec<u8>> {
    let packed: BTreeMap<&str, Vec<u64>> = programs
        .iter()
        .map(|(thread, program)| {
            let instructions = program.iter().map(|i| {
                let [low, high] = i.code.to_le_bytes();
                let [a, b, c, d] = i.k.to_le_bytes();
                u64::from_le_bytes([low, high, i.jt, i.jf, a, b, c, d])
            });
            (thread.as_str(), instructions.collect())
        })
        .collect();
    bitcode::serialize(&packed).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firecracker::{Host, is_there, trial, version::Programs};
    use std::{
        fs, net,
        os::unix::{fs::symlink, process::ExitStatusExt},
        process::Command,
        sync::Arc,
    };

    /// Firecracker's own limit for the file, and the kernel's for a program.
    const MOST: (usize, usize) = (100_000, 4096);

    #[test]
    fn there_is_one_for_each_kind_of_thread_within_all_limits() {
        let Some(bytes) = compile().expect("compiled") else {
            return;
        };
        assert!(bytes.len() < MOST.0, "{}", bytes.len());
        let read: BTreeMap<String, Vec<u64>> = bitcode::deserialize(&bytes).expect("read again");
        assert_eq!(read.keys().collect::<Vec<_>>(), ["api", "vcpu", "vmm"]);
        let compiled = programs(RULES).expect("compiled");
        for (thread, program) in &read {
            assert!(
                (100..MOST.1).contains(&program.len()),
                "{thread}: {}",
                program.len()
            );
            assert_eq!(program.len(), compiled[thread].len());
            // Loads the architecture; a number on the wrong end would show here.
            assert_eq!(program[0], 0x0000_0004_0000_0020);
        }
    }

    #[test]
    fn what_no_rule_names_ends_the_process() {
        const NAME: &str = "OMNIRUN_TEST_FILTERED_CALL";
        let calls: [(&str, fn()); 7] = [
            ("nothing", || {}),
            ("allowed", || drop(fs::File::open("/proc/self/stat"))),
            ("unlink", || drop(fs::remove_file("/nowhere"))),
            ("mkdir", || drop(fs::create_dir("/proc/nowhere"))),
            ("symlink", || drop(symlink("/nowhere", "/proc/nowhere"))),
            ("internet socket", || drop(net::UdpSocket::bind("127.0.0.1:0"))),
            ("thread", || drop(std::thread::Builder::new().spawn(|| {}))),
        ];
        if let Ok(wanted) = std::env::var(NAME) {
            let (thread, wanted) = wanted.split_once(' ').expect("two words");
            let compiled = programs(RULES).expect("compiled");
            let (_, call) = calls.iter().find(|(name, _)| *name == wanted).expect("known");
            // What dies of it leaves no core.
            let none = rustix::process::Rlimit {
                current: Some(0),
                maximum: Some(0),
            };
            rustix::process::setrlimit(rustix::process::Resource::Core, none).expect("less is granted");
            seccompiler::apply_filter(&compiled[thread]).expect("applied");
            call();
            std::process::exit(0);
        }
        for thread in ["vmm", "api", "vcpu"] {
            for (call, _) in calls {
                let name = std::thread::current().name().expect("a test has one").to_owned();
                let status = Command::new(std::env::current_exe().expect("ours"))
                    .args(["--exact", &name])
                    .env(NAME, format!("{thread} {call}"))
                    .output()
                    .expect("it runs")
                    .status;
                let good = ["nothing", "allowed"].contains(&call);
                let expected = (
                    good.then_some(0),
                    (!good).then_some(rustix::process::Signal::SYS.as_raw()),
                );
                assert_eq!((status.code(), status.signal()), expected, "{thread}: {call}");
            }
        }
    }

    #[tokio::test]
    async fn firecracker_itself_obeys_it() {
        if !is_there(None) || !rustix::process::geteuid().is_root() || std::env::consts::ARCH != ARCH {
            eprintln!("SKIPPED: needs Firecracker, and root");
            return;
        }
        let mut host = Host::of(Programs::find(None).expect("both programs")).expect("Firecracker");
        let rules = String::from_utf8(RULES.to_vec()).expect("text");
        // What it would log with is still there.
        let without: String = rules
            .split_inclusive('\n')
            .filter(|l| !l.contains("\"accept4\""))
            .collect();
        host.filter = Some(pack(&programs(without.as_bytes()).expect("compiled")).expect("packed"));
        match trial::run(&Arc::new(host), &std::env::temp_dir())
            .await
            .expect_err("it cannot answer")
        {
            VmmError::Gone { tail, .. } => {
                assert!(tail.contains("bad syscall (288)"), "{tail}");
                assert!(tail.ends_with("counted: seccomp.num_faults 1"), "{tail}");
            }
            other => panic!("{other:?}"),
        }
    }
}
