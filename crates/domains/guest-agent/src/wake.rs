//! First stage of waking: nothing of a clone is like another's after it. Fails closed: whatever goes wrong, the agent goes
//! on refusing all that would run something.

use crate::{machine::Machine, reply::Failure};
use omnirun_guest_proto::message::{ErrorKind, Wake};
use rustix::time::{ClockId, Timespec, clock_settime};

/// Less entropy than this is no wake.
const MIN_ENTROPY: usize = 32;

pub(crate) fn set_clock(realtime_ns: u64) -> Result<(), Failure> {
    let time = Timespec {
        tv_sec: (realtime_ns / 1_000_000_000) as i64,
        tv_nsec: (realtime_ns % 1_000_000_000) as i64,
    };
    clock_settime(ClockId::Realtime, time).map_err(|e| Failure::of("cannot set the clock", e))
}

pub(crate) fn check_hostname(name: &str) -> Result<(), Failure> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(fine) {
        return Err(Failure::new(ErrorKind::Invalid, "not a host name"));
    }
    Ok(())
}

/// A claimed sandbox goes on after it was suspended. It is who it was, so its names stay; but a file had its generator's
/// state, and its clock has stood still.
pub(crate) fn again(machine: &Machine, wake: &Wake) -> Result<(), Failure> {
    reseed(machine, wake)?;
    set_clock(wake.realtime_ns)
}

fn reseed(machine: &Machine, wake: &Wake) -> Result<(), Failure> {
    if wake.entropy.len() < MIN_ENTROPY {
        return Err(Failure::new(ErrorKind::Invalid, "too little entropy"));
    }
    omnirun_sys::guest::random::reseed(std::os::fd::AsFd::as_fd(&machine.random), &wake.entropy)
        .map_err(|e| Failure::of("cannot reseed the random generator", e))
}

pub(crate) fn wake(machine: &Machine, wake: &Wake) -> Result<(), Failure> {
    check_hostname(&wake.hostname)?;
    let hexadecimal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if wake.machine_id.len() != 32 || !wake.machine_id.bytes().all(hexadecimal) {
        return Err(Failure::new(ErrorKind::Invalid, "not a machine id"));
    }
    // Before all that could draw from the generator.
    reseed(machine, wake)?;
    set_clock(wake.realtime_ns)?;
    machine
        .names
        .set_hostname(&wake.hostname)
        .map_err(|e| Failure::of("cannot set the host name", e))?;
    machine
        .names
        .set_machine_id(&wake.machine_id)
        .map_err(|e| Failure::of("cannot set the machine id", e))
}
