//! Which names a guest was told have which addresses: for connections that say no name themselves.

use omnirun_egress_policy::Name;
use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long past its time an answer is remembered, and let through: programs use addresses a little longer than they
/// were told, and a connection takes a while to be made.
pub(super) const GRACE: Duration = Duration::from_secs(60);
/// At most so many addresses.
const MOST: usize = 4096;
/// At most so many names for an address; the oldest are forgotten.
const NAMES: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<HashMap<Ipv4Addr, Vec<(Name, Instant)>>>);

impl Answers {
    /// Notes an answer. Whether there was room.
    pub(super) fn note(&self, name: &Name, addresses: &[Ipv4Addr], until: Instant) -> bool {
        let until = until + GRACE;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = addresses
            .iter()
            .filter(|address| !all.contains_key(address))
            .count();
        if new > 0 && all.len() + new > MOST {
            let now = Instant::now();
            all.retain(|_, names| {
                names.retain(|(_, until)| *until > now);
                !names.is_empty()
            });
            if all.len() + new > MOST {
                return false;
            }
        }
        for address in addresses {
            let names = all.entry(*address).or_default();
            names.retain(|(known, _)| known != name);
            if names.len() >= NAMES {
                names.remove(0);
            }
            names.push((name.clone(), until));
        }
        true
    }

    /// The names that were answered with this address, the latest first.
    pub(super) fn of(&self, address: Ipv4Addr) -> Vec<Name> {
        let now = Instant::now();
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let names = all.get(&address).into_iter().flatten().rev();
        names
            .filter(|(_, until)| *until > now)
            .map(|(name, _)| name.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_latest_comes_first_and_the_old_is_forgotten() {
        let answers = Answers::default();
        let (now, at) = (Instant::now(), Ipv4Addr::new(9, 9, 9, 1));
        answers.note(&name("a.example"), &[at], now);
        answers.note(&name("b.example"), &[at], now);
        answers.note(&name("a.example"), &[at], now);
        assert_eq!(answers.of(at), [name("a.example"), name("b.example")]);
        let past = now.checked_sub(2 * GRACE).unwrap();
        answers.note(&name("a.example"), &[at], past);
        assert_eq!(answers.of(at), [name("b.example")]);
        assert!(answers.of(Ipv4Addr::new(9, 9, 9, 2)).is_empty());
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let answers = Answers::default();
        let now = Instant::now();
        let address = |n: u32| Ipv4Addr::from(0x0900_0000 + n);
        for n in 0..MOST as u32 {
            assert!(answers.note(&name("a.example"), &[address(n)], now));
        }
        assert!(!answers.note(&name("a.example"), &[address(1 << 20)], now));
        for n in 0..100 {
            answers.note(&name(&format!("n{n}.example")), &[address(0)], now);
        }
        assert_eq!(answers.of(address(0)).len(), NAMES);
    }
}
