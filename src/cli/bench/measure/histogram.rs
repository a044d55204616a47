//! How long things took, in buckets that grow with the value: 64 to each power of two, so that a quantile is right to
//! within 1 %.

use std::time::Duration;

/// Buckets to each power of two, as a power of two.
const BITS: u32 = 6;
const BUCKETS: usize = (64 - BITS as usize + 1) << BITS;

/// Counts of durations.
#[derive(Clone)]
pub(in crate::cli::bench) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], count: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one.
    pub(in crate::cli::bench) fn record(&mut self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.count += 1;
        self.max = self.max.max(nanos);
    }

    /// Takes in another's counts.
    pub(in crate::cli::bench) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// How many were counted.
    pub(in crate::cli::bench) fn count(&self) -> u64 {
        self.count
    }

    /// The longest.
    pub(in crate::cli::bench) fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// What a share `share` of all did not exceed.
    pub(in crate::cli::bench) fn quantile(&self, share: f64) -> Duration {
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(upper(bucket).min(self.max));
            }
        }
        self.max()
    }
}

/// The bucket of a value.
fn bucket(value: u64) -> usize {
    let power = 63 - (value | 1).leading_zeros();
    if power < BITS {
        return value as usize;
    }
    let within = (value >> (power - BITS)) as usize & ((1 << BITS) - 1);
    (((power - BITS + 1) as usize) << BITS) + within
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let (power, within) = ((bucket >> BITS) as u32, (bucket & ((1 << BITS) - 1)) as u64);
    match power {
        0 => within,
        power => (((1 << BITS) + within) << (power - 1)) + ((1 << (power - 1)) - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_their_values() {
        let mut last = 0;
        for value in (0..64).flat_map(|shift| [1u64 << shift, (1 << shift) + (1 << shift) / 3]).chain([u64::MAX, 77]) {
            let upper = upper(bucket(value));
            assert!(upper >= value && upper - value <= value / 64, "{value} in a bucket up to {upper}");
        }
        for bucket in 0..BUCKETS {
            assert!(bucket == 0 || upper(bucket) > last);
            last = upper(bucket);
        }
    }

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::default();
        (1..=1_000).for_each(|micros| histogram.record(Duration::from_micros(micros)));
        let near = |share, micros: f64| (histogram.quantile(share).as_secs_f64() * 1e6 / micros - 1.0).abs() < 0.02;
        assert!(near(0.5, 500.0) && near(0.99, 990.0) && near(1.0, 1_000.0));
        assert_eq!(histogram.max(), Duration::from_millis(1));
        assert_eq!(Histogram::default().quantile(0.5), Duration::ZERO);
    }
}
