//! Sets of IPv4 addresses, as ranges: what several lists leave in common.

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets};
use std::net::Ipv4Addr;

/// Sorted, apart from each other, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<(u32, u32)>);

impl Ranges {
    /// All addresses.
    pub(crate) fn all() -> Self {
        Self(vec![(0, u32::MAX)])
    }

    /// What is in one of these networks. Those of IPv6 do not count.
    pub(crate) fn of(nets: impl IntoIterator<Item = IpNet>) -> Self {
        let v4 = nets.into_iter().filter_map(|net| match net {
            IpNet::V4(net) => Some((net.network().to_bits(), net.broadcast().to_bits())),
            IpNet::V6(_) => None,
        });
        Self::sorted(v4.collect())
    }

    fn sorted(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    /// What is in one of both.
    pub(crate) fn or(self, other: Self) -> Self {
        let mut ranges = self.0;
        ranges.extend(other.0);
        Self::sorted(ranges)
    }

    /// What is in both.
    pub(crate) fn and(&self, other: &Self) -> Self {
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut common = Vec::new();
        while let (Some(&&(first, last)), Some(&&(other_first, other_last))) = (left.peek(), right.peek()) {
            let (from, to) = (first.max(other_first), last.min(other_last));
            if from <= to {
                common.push((from, to));
            }
            match last < other_last {
                true => left.next(),
                false => right.next(),
            };
        }
        Self(common)
    }

    /// What is not in the other.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        let mut gaps = Vec::with_capacity(other.0.len() + 1);
        let mut next = Some(0);
        for &(first, last) in &other.0 {
            if let Some(from) = next.filter(|from| *from < first) {
                gaps.push((from, first - 1));
            }
            next = last.checked_add(1);
        }
        gaps.extend(next.map(|from| (from, u32::MAX)));
        self.and(&Self(gaps))
    }

    /// The networks that make it up.
    pub(crate) fn nets(&self) -> Vec<IpNet> {
        let all = self.0.iter();
        all.flat_map(|&(first, last)| {
            Ipv4Subnets::new(Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(last), 0)
        })
        .map(|net: Ipv4Net| IpNet::V4(net))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets() -> impl Strategy<Value = Vec<IpNet>> {
        let net = (any::<[u8; 4]>(), 0..=32u8);
        let net = net.prop_map(|(address, length)| IpNet::new(address.into(), length).unwrap().trunc());
        let edge = prop::sample::select(vec![
            "0.0.0.0/32",
            "255.255.255.255/32",
            "0.0.0.0/0",
            "128.0.0.0/1",
        ]);
        let edge = edge.prop_map(|text| text.parse().unwrap());
        prop::collection::vec(prop_oneof![4 => net, 1 => edge], 0..6)
    }

    fn has(nets: &[IpNet], address: u32) -> bool {
        nets.iter()
            .any(|net| net.contains(&std::net::IpAddr::V4(Ipv4Addr::from_bits(address))))
    }

    proptest! {
        #[test]
        fn they_are_what_sets_are(a in nets(), b in nets(), anywhere: u32, near in 0..12usize, off in -1..=1i64) {
            // Where mistakes would be: at the ends.
            let ends: Vec<u32> = a.iter().chain(&b).flat_map(|net| match net {
                IpNet::V4(net) => [net.network().to_bits(), net.broadcast().to_bits()],
                IpNet::V6(_) => [0, 0],
            }).collect();
            let end = ends.get(near).map(|end| end.wrapping_add_signed(off as i32));
            let (ra, rb) = (Ranges::of(a.clone()), Ranges::of(b.clone()));
            for address in [Some(anywhere), end, Some(0), Some(u32::MAX)].into_iter().flatten() {
                let (in_a, in_b) = (has(&a, address), has(&b, address));
                prop_assert_eq!(has(&ra.nets(), address), in_a);
                prop_assert_eq!(has(&ra.and(&rb).nets(), address), in_a && in_b);
                prop_assert_eq!(has(&ra.minus(&rb).nets(), address), in_a && !in_b);
                prop_assert_eq!(has(&ra.clone().or(rb.clone()).nets(), address), in_a || in_b);
            }
            prop_assert_eq!(Ranges::of(ra.nets()), ra);
        }
    }
}
