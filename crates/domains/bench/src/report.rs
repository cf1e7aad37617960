//! What a bench says: figures with their floors, and the host that they were taken on.

use serde::Serialize;
use std::time::Duration;

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where it was measured.
    pub host: HostFacts,
    /// What was measured.
    pub results: Vec<Figure>,
}

/// What a figure depends on that the figure does not say.
#[derive(Debug, Clone, Serialize)]
pub struct HostFacts {
    /// `omnirun` version.
    pub omnirun: String,
    /// CPU model.
    pub cpu: String,
    /// Processors that are online.
    pub cpus: usize,
    /// Memory, bytes.
    pub memory: u64,
    /// `uname -r`.
    pub kernel: String,
    /// Frequency governor of the first CPU, where there is one.
    pub governor: Option<String>,
    /// VMM and its version.
    pub vmm: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Digest of the base image.
    pub base: String,
    /// Digest of the guest agent.
    pub agent: String,
    /// Guest kernel.
    pub guest_kernel: String,
    /// vCPUs and memory of the sandboxes, as text.
    pub sandbox: String,
}

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Its name, stable between releases.
    pub name: &'static str,
    /// `ms`, `MiB/s` or `MiB`.
    pub unit: &'static str,
    /// Samples.
    pub n: usize,
    /// Median.
    pub p50: f64,
    /// 99th percentile (the largest sample, where there are fewer than 100); for a throughput, the 1st.
    pub p99: f64,
    /// Median of the floor, where there is one.
    pub floor_p50: Option<f64>,
    /// p50 over the floor's p50. For a throughput below 1 is slower, for all else above 1 is.
    pub ratio: Option<f64>,
}

/// Samples of one quantity.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds a duration, in milliseconds.
    pub fn push_ms(&mut self, duration: Duration) {
        self.0.push(duration.as_secs_f64() * 1e3);
    }

    /// Adds a number.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value below which the fraction `q` of the samples lies (nearest rank); 0 without samples.
    pub fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (q * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    }
}

impl Figure {
    /// A time in milliseconds, beside its floor.
    pub fn time(name: &'static str, ours: &Samples, floor: Option<&Samples>) -> Self {
        Self::new(name, "ms", ours, floor, 0.99)
    }

    /// A throughput; its p99 is the slow end.
    pub fn throughput(name: &'static str, ours: &Samples, floor: Option<&Samples>) -> Self {
        Self::new(name, "MiB/s", ours, floor, 0.01)
    }

    /// An amount of memory.
    pub fn memory(name: &'static str, ours: &Samples, floor: Option<&Samples>) -> Self {
        Self::new(name, "MiB", ours, floor, 0.99)
    }

    fn new(
        name: &'static str,
        unit: &'static str,
        ours: &Samples,
        floor: Option<&Samples>,
        tail: f64,
    ) -> Self {
        let floor_p50 = floor.filter(|f| !f.is_empty()).map(|f| f.quantile(0.5));
        let p50 = ours.quantile(0.5);
        Self {
            name,
            unit,
            n: ours.len(),
            p50,
            p99: ours.quantile(tail),
            floor_p50,
            ratio: floor_p50.filter(|f| *f > 0.0).map(|f| p50 / f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: impl IntoIterator<Item = f64>) -> Samples {
        Samples(values.into_iter().collect())
    }

    #[test]
    fn quantiles_are_samples_that_were_taken() {
        let s = samples((1..=100).rev().map(f64::from));
        assert_eq!(
            (s.quantile(0.5), s.quantile(0.99), s.quantile(0.01)),
            (50.0, 99.0, 1.0)
        );
        assert_eq!(samples([7.0]).quantile(0.99), 7.0);
        assert_eq!(samples([]).quantile(0.5), 0.0);
    }

    #[test]
    fn a_figure_without_a_floor_has_no_ratio() {
        let ours = samples([2.0, 4.0, 6.0]);
        let with = Figure::time("x", &ours, Some(&samples([2.0])));
        assert_eq!(
            (with.p50, with.floor_p50, with.ratio),
            (4.0, Some(2.0), Some(2.0))
        );
        let without = Figure::time("x", &ours, Some(&samples([])));
        assert_eq!((without.floor_p50, without.ratio), (None, None));
    }
}
