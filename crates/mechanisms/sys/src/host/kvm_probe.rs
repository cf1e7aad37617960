//! Whether `/dev/kvm` can run a stock kernel.
//!
//! Some hosts offer a `/dev/kvm` that passes every cheap check (version, extensions, CPUID, making a VM, a small
//! real-mode guest) and yet cannot run an ordinary kernel: page-table virtualisation serves para-virtual kernels only,
//! emulates the code of any other kernel an instruction at a time, and does not deliver its system calls. So a guest of
//! a few instructions is put straight into long mode and shows both:
//!
//! 1. a counting loop in kernel mode, timed: 1 to 2.5 ns an iteration on hardware, over 1,000 when emulated;
//! 2. `SYSCALL` from user mode, which must arrive at `LSTAR` in kernel mode.
//!
//! The guest speaks by writing to I/O ports; each of its ways ends in such a write. What cannot be foreseen is bounded
//! by the caller's clock: see [`Kick`].

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, Msrs, kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::{
    ffi::c_void,
    io,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

/// What the guest of a few instructions did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// Nanoseconds an iteration of the counting loop took in kernel mode.
    pub loop_ns: f64,
    /// Where `SYSCALL` from user mode went.
    pub syscall: SyscallWent,
}

/// Where `SYSCALL` from user mode went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyscallWent {
    /// To `LSTAR`, in kernel mode, as on hardware.
    ToLstar,
    /// To `LSTAR`, but not in kernel mode.
    WrongRing,
    /// An exception was raised instead.
    Exception,
}

/// Why the probe saw nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The device cannot be opened or used.
    #[error("{step} failed")]
    Kvm {
        /// The step.
        step: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The guest left in a way that it cannot.
    #[error("the probe's guest stopped with {exit}")]
    Unexpected {
        /// How.
        exit: String,
    },
    /// The guest was interrupted by [`Kick`].
    #[error("the probe's guest did not finish")]
    Kicked,
}

const MEMORY: usize = 2 << 20;
const PML4: usize = 0x1000;
const PDPT: usize = 0x2000;
const PD: usize = 0x3000;
const GDT: usize = 0x4000;
const IDT: usize = 0x5000;
const TSS: usize = 0x6000;
const COUNT: usize = 0x8000;
const ENTER_USER: usize = 0x8100;
const USER: usize = 0x8200;
const AT_LSTAR: usize = 0x8300;
const EXCEPTION: usize = 0x8400;
const KERNEL_STACK: u64 = 0x10_0000;
const USER_STACK: u64 = 0x18_0000;

const KERNEL_CODE: u16 = 0x08;
const KERNEL_DATA: u16 = 0x10;
const USER_DATA: u16 = 0x18;
const USER_CODE: u16 = 0x20;

const PORT_COUNTED: u16 = 0xf1;
const PORT_LSTAR: u16 = 0xf2;
const PORT_EXCEPTION: u16 = 0xf3;

/// Iterations of the counting loop: 2 to 7 ms at the slowest rates seen; an exit adds under 40 ns to each, even on a
/// nested host.
const ITERATIONS: u32 = 2_000;

/// How often; the fastest counts. The first one also pays for what a VM does once, which was 5 ms on a nested host, and
/// on a busy machine others are interrupted: of two rounds, both were in every third probe of a busy nested host.
const ROUNDS: u32 = 8;

const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_SFMASK: u32 = 0xc000_0084;

/// Interrupts a probe that runs in another thread.
#[derive(Debug, Default)]
pub struct Kick {
    asked: AtomicBool,
    thread: std::sync::Mutex<Option<libc::pthread_t>>,
}

impl Kick {
    /// Makes a [`probe`] under way return [`ProbeError::Kicked`]. Idempotent; to be repeated until it has, since a
    /// signal that arrives just before `KVM_RUN` is entered is lost.
    pub fn kick(&self) {
        self.asked.store(true, Ordering::SeqCst);
        install_handler();
        let thread = self.thread.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(thread) = *thread {
            // SAFETY: the probing thread takes its entry out, under the lock held here, before it ends, so the id is
            // that of a live thread. The handler does nothing.
            unsafe { libc::pthread_kill(thread, signal()) };
        }
    }
}

fn signal() -> i32 {
    libc::SIGRTMIN() + 7
}

extern "C" fn nothing(_: i32) {}

/// A handler that does nothing, without `SA_RESTART`: the signal's only use is to make `KVM_RUN` return.
fn install_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the structure is all zero but for a handler that is async-signal-safe since it does nothing.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            libc::sigaction(signal(), &action, std::ptr::null_mut());
        }
    });
}

/// Guest memory. Never seen as a Rust reference: the guest may write to it at any time.
struct Memory(*mut c_void);

impl Memory {
    fn new() -> io::Result<Self> {
        // SAFETY: a new private mapping at an address of the kernel's choice touches no memory of ours.
        let at = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                MEMORY,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        Ok(Self(at))
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= MEMORY, "the layout fits");
        // SAFETY: in bounds by the assertion, and the source is a slice of ours outside the mapping.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.cast::<u8>().add(at), bytes.len()) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this size; the VM that used it is gone (declared after it, see
        // `probe`, so dropped before it).
        unsafe {
            let _ = munmap(self.0, MEMORY);
        }
    }
}

fn failed(step: &'static str) -> impl Fn(kvm_ioctls::Error) -> ProbeError {
    move |e| ProbeError::Kvm {
        step,
        source: io::Error::from_raw_os_error(e.errno()),
    }
}

/// Runs the probe on the calling thread. `kick` bounds it, from another.
pub fn probe(kick: &Kick) -> Result<Observation, ProbeError> {
    let set = |to| *kick.thread.lock().unwrap_or_else(|e| e.into_inner()) = to;
    // SAFETY: `pthread_self` has no conditions.
    set(Some(unsafe { libc::pthread_self() }));
    let result = run(kick);
    set(None);
    result
}

fn run(kick: &Kick) -> Result<Observation, ProbeError> {
    let memory = Memory::new().map_err(|source| ProbeError::Kvm {
        step: "mapping memory",
        source,
    })?;
    lay_out(&memory);
    let kvm = Kvm::new().map_err(failed("opening /dev/kvm"))?;
    let vm = kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: memory.0 as u64,
    };
    // SAFETY: the region is a mapping of that size which lives until after the VM is gone.
    unsafe { vm.set_user_memory_region(region) }.map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
    let mut vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
    vcpu.set_cpuid2(&cpuid).map_err(failed("KVM_SET_CPUID2"))?;
    let mut sregs = vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
    let segment = |selector: u16, type_: u8, l: u8| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 1 - l,
        s: 1,
        l,
        g: 1,
        ..Default::default()
    };
    sregs.cs = segment(KERNEL_CODE, 0xb, 1);
    for data in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *data = segment(KERNEL_DATA, 0x3, 0);
    }
    sregs.tr = kvm_segment {
        base: TSS as u64,
        limit: 0x67,
        selector: 0x28,
        type_: 0xb,
        present: 1,
        ..Default::default()
    };
    sregs.gdt = kvm_dtable {
        base: GDT as u64,
        limit: 0x37,
        ..Default::default()
    };
    sregs.idt = kvm_dtable {
        base: IDT as u64,
        limit: 32 * 16 - 1,
        ..Default::default()
    };
    sregs.cr0 = 0x8005_0033;
    sregs.cr3 = PML4 as u64;
    sregs.cr4 = 0x620;
    sregs.efer = 0xd01;
    vcpu.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS"))?;
    let msr = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let star = (u64::from(KERNEL_CODE) << 32) | (u64::from(KERNEL_DATA) << 48);
    let entries = [
        msr(MSR_STAR, star),
        msr(MSR_LSTAR, AT_LSTAR as u64),
        msr(MSR_SFMASK, 0),
    ];
    let msrs = Msrs::from_entries(&entries).map_err(|_| ProbeError::Unexpected {
        exit: "a list of MSRs that is too long".into(),
    })?;
    vcpu.set_msrs(&msrs).map_err(failed("KVM_SET_MSRS"))?;
    let regs = kvm_regs {
        rip: COUNT as u64,
        rsp: KERNEL_STACK,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(failed("KVM_SET_REGS"))?;

    let mut entered = Instant::now();
    let mut loop_ns: Option<f64> = None;
    loop {
        if kick.asked.load(Ordering::SeqCst) {
            return Err(ProbeError::Kicked);
        }
        match vcpu.run() {
            Ok(VcpuExit::IoOut(PORT_COUNTED, _)) => {
                let took = entered.elapsed().as_nanos() as f64 / f64::from(ITERATIONS);
                loop_ns = Some(loop_ns.map_or(took, |before| before.min(took)));
                entered = Instant::now();
            }
            Ok(VcpuExit::IoOut(port @ (PORT_LSTAR | PORT_EXCEPTION), data)) => {
                let syscall = match (port, data.first().copied().unwrap_or(0xff) & 3) {
                    (PORT_LSTAR, 0) => SyscallWent::ToLstar,
                    (PORT_LSTAR, _) => SyscallWent::WrongRing,
                    _ => SyscallWent::Exception,
                };
                let loop_ns = loop_ns.ok_or_else(|| ProbeError::Unexpected {
                    exit: "an exception at once".into(),
                })?;
                return Ok(Observation { loop_ns, syscall });
            }
            Ok(exit) => {
                return Err(ProbeError::Unexpected {
                    exit: format!("{exit:?}"),
                });
            }
            Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => {}
            Err(e) => return Err(failed("KVM_RUN")(e)),
        }
    }
}

/// Page tables (one 2 MiB page, open to user mode), descriptor tables, and the code.
fn lay_out(memory: &Memory) {
    memory.put(PML4, &(PDPT as u64 | 7).to_le_bytes());
    memory.put(PDPT, &(PD as u64 | 7).to_le_bytes());
    memory.put(PD, &(0x87u64).to_le_bytes());
    let gdt: [u64; 7] = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0x0000_8b00_0000_0067 | ((TSS as u64) << 16),
        0,
    ];
    for (i, entry) in gdt.iter().enumerate() {
        memory.put(GDT + i * 8, &entry.to_le_bytes());
    }
    for vector in 0..32 {
        let gate = (EXCEPTION as u64 & 0xffff) | (u64::from(KERNEL_CODE) << 16) | (0x8e00 << 32);
        memory.put(IDT + vector * 16, &gate.to_le_bytes());
    }
    // RSP0: where exceptions from user mode put their frame.
    memory.put(TSS + 4, &KERNEL_STACK.to_le_bytes());

    let mut count = vec![0xbb];
    count.extend(ROUNDS.to_le_bytes()); // mov ebx, ROUNDS
    count.push(0xb9); // 1:
    count.extend(ITERATIONS.to_le_bytes()); // mov ecx, ITERATIONS
    count.extend([0xff, 0xc9, 0x75, 0xfc]); // 2: dec ecx; jnz 2b
    count.extend([0xe6, PORT_COUNTED as u8]); // out PORT_COUNTED, al
    count.extend([0xff, 0xcb, 0x75, 0xf1]); // dec ebx; jnz 1b
    count.push(0xe9); // jmp ENTER_USER
    count.extend(((ENTER_USER as i32) - (COUNT + count.len() + 4) as i32).to_le_bytes());
    memory.put(COUNT, &count);

    let mut enter = vec![0x6a, USER_DATA as u8 | 3]; // push ss
    enter.push(0x68); // push rsp
    enter.extend((USER_STACK as u32).to_le_bytes());
    enter.extend([0x6a, 0x02]); // push rflags
    enter.extend([0x6a, USER_CODE as u8 | 3]); // push cs
    enter.push(0x68); // push rip
    enter.extend((USER as u32).to_le_bytes());
    enter.extend([0x48, 0xcf]); // iretq
    memory.put(ENTER_USER, &enter);

    memory.put(USER, &[0x0f, 0x05, 0xeb, 0xfe]); // syscall; 1: jmp 1b
    // mov eax, cs; out PORT, al; 1: jmp 1b
    memory.put(AT_LSTAR, &[0x8c, 0xc8, 0xe6, PORT_LSTAR as u8, 0xeb, 0xfe]);
    memory.put(EXCEPTION, &[0x8c, 0xc8, 0xe6, PORT_EXCEPTION as u8, 0xeb, 0xfe]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ends_within_a_second_whatever_the_device_is() {
        let started = Instant::now();
        let kick = std::sync::Arc::new(Kick::default());
        let (send, receive) = std::sync::mpsc::channel();
        let inner = std::sync::Arc::clone(&kick);
        std::thread::spawn(move || send.send(probe(&inner)));
        let result = receive
            .recv_timeout(Duration::from_millis(800))
            .unwrap_or(Err(ProbeError::Kicked));
        kick.kick();
        println!("{result:?} after {:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(1));
    }
}
