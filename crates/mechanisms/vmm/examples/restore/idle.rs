//! The memory of clones that do nothing.

use super::{bare, bench_of, tiny};
use omnirun_vmm::Vmm;
use std::{collections::BTreeMap, fs};

/// How many at a time: what they share is the larger part.
const CLONES: u32 = 20;

/// Says that it runs, and waits for interrupts that do not come.
const HALTED: &[u8] = &[
    0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
    0xb0, b'B', 0xee, // mov al, 'B'; out dx, al
    0xb0, b'.', 0xee, // mov al, '.'; out dx, al
    0xf4, 0xeb, 0xfd, // 1: hlt; jmp 1b
];

/// What the kernel counts of a process's memory, in KiB: all of it, and by what it is.
#[derive(Default)]
struct Memory {
    proportional: u64,
    private: u64,
    /// The proportional part of mappings, by what is mapped.
    parts: BTreeMap<String, u64>,
}

impl Memory {
    fn add(&mut self, pid: u32) {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("its memory");
        let mut name = String::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(first), second) = (words.next(), words.next()) else {
                continue;
            };
            match first.strip_suffix(':') {
                None => {
                    let path = words.nth(3).unwrap_or("anonymous");
                    name = path.rsplit('/').next().unwrap_or(path).to_owned();
                }
                Some(field) => {
                    let kib = second.and_then(|n| n.parse::<u64>().ok()).unwrap_or_default();
                    match field {
                        "Pss" => {
                            self.proportional += kib;
                            *self.parts.entry(name.clone()).or_default() += kib;
                        }
                        "Private_Clean" | "Private_Dirty" => self.private += kib,
                        _ => {}
                    }
                }
            }
        }
    }

    fn line(&self, way: &str) {
        let each = |kib: u64| kib / u64::from(CLONES);
        let mut parts: Vec<_> = self.parts.iter().map(|(name, kib)| (each(*kib), name)).collect();
        parts.sort_unstable_by(|a, b| b.cmp(a));
        let parts = parts.iter().take_while(|(kib, _)| *kib > 0);
        let parts: Vec<String> = parts.map(|(kib, name)| format!("{name} {kib}")).collect();
        println!(
            "{way:<10} {:>13} {:>9}   {}",
            each(self.proportional),
            each(self.private),
            parts.join(", ")
        );
    }
}

/// Measures both kinds, one after the other.
pub async fn compare(vmm: &dyn Vmm) {
    let bench = bench_of(HALTED);
    let files = tiny::snapshot(&bench, vmm).await;
    let bare = bare::Bare::new(&bench);
    println!("{CLONES} idle clones    proportional   private   of that");

    let alone: Vec<bare::Clone> = (0..CLONES).map(|n| bare.restore(&n.to_string()).0).collect();
    let mut least = Memory::default();
    alone.iter().for_each(|clone| least.add(clone.pid()));
    alone.into_iter().for_each(bare::Clone::end);
    least.line("bare");

    let mut confined = Vec::new();
    for _ in 0..CLONES {
        let vm = vmm.restore(bench.clone_of(&files)).await.expect("a clone");
        vm.resume().await.expect("it resumes");
        confined.push(vm);
    }
    let mut ours = Memory::default();
    confined.iter().for_each(|vm| ours.add(vm.pid()));
    for vm in &confined {
        vm.kill();
        vm.wait().await;
    }
    ours.line("jailed");
    println!(
        "ratio {:.2}",
        ours.proportional as f64 / least.proportional as f64
    );
}
