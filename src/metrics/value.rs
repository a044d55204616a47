//! What a metric holds: counters, gauges and histograms of plain atomics, alone or one for each combination of labels.
//! All of them are made ahead of time, so that counting takes no lock, no hash and no memory. Knows no metric by name.

use std::{
    fmt,
    marker::PhantomData,
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use prometheus_client::{
    encoding::{MetricEncoder, NoLabelSet},
    metrics::{MetricType, exemplar::Exemplar},
};

use super::labels::{Keys, Label};

/// What can be shown.
pub trait Value: fmt::Debug + Send + Sync {
    /// How it is to be read.
    fn kind(&self) -> MetricType;

    /// Nothing was ever counted.
    fn is_unused(&self) -> bool {
        false
    }

    /// What tells its series apart.
    fn labels(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Writes its samples.
    ///
    /// # Errors
    /// Those of the writer.
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result;
}

const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, f64>> = None;

/// Nanoseconds, as seconds are shown.
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// How often something happened.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Once more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many times more.
    pub fn add(&self, times: u64) {
        self.0.fetch_add(times, Ordering::Relaxed);
    }

    /// How often so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Value for Counter {
    fn kind(&self) -> MetricType {
        MetricType::Counter
    }

    fn is_unused(&self) -> bool {
        self.get() == 0
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_counter(&self.get(), NO_EXEMPLAR)
    }
}

/// How much time something took in all.
#[derive(Debug, Default)]
pub struct Seconds(AtomicU64);

impl Seconds {
    /// So much more.
    pub fn add(&self, more: Duration) {
        self.0.fetch_add(nanos(more), Ordering::Relaxed);
    }

    /// So much in all, as somebody else counts it.
    pub fn set(&self, all: Duration) {
        self.0.store(nanos(all), Ordering::Relaxed);
    }

    /// How much so far.
    #[must_use]
    pub fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

impl Value for Seconds {
    fn kind(&self) -> MetricType {
        MetricType::Counter
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_counter(&self.get().as_secs_f64(), NO_EXEMPLAR)
    }
}

/// How much there is.
#[derive(Debug, Default)]
pub struct Gauge {
    now: AtomicI64,
    /// It was ever anything but what it began with.
    moved: AtomicBool,
}

impl Gauge {
    /// So much.
    pub fn set(&self, now: u64) {
        self.now.store(i64::try_from(now).unwrap_or(i64::MAX), Ordering::Relaxed);
        self.moved.store(true, Ordering::Relaxed);
    }

    /// One more.
    pub fn inc(&self) {
        self.now.fetch_add(1, Ordering::Relaxed);
        self.moved.store(true, Ordering::Relaxed);
    }

    /// One less.
    pub fn dec(&self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }

    /// How much now.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.now.load(Ordering::Relaxed)
    }
}

impl Value for Gauge {
    fn kind(&self) -> MetricType {
        MetricType::Gauge
    }

    fn is_unused(&self) -> bool {
        !self.moved.load(Ordering::Relaxed)
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&self.get())
    }
}

/// A time: since something, or of something.
#[derive(Debug, Default)]
pub struct Moment(AtomicU64);

impl Moment {
    /// So long.
    pub fn set(&self, time: Duration) {
        self.0.store(nanos(time), Ordering::Relaxed);
    }
}

impl Value for Moment {
    fn kind(&self) -> MetricType {
        MetricType::Gauge
    }

    fn is_unused(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&seconds(self.0.load(Ordering::Relaxed)))
    }
}

/// How often which size was seen.
#[derive(Debug)]
struct Buckets {
    /// The largest value that each bucket takes, rising; one more bucket takes the rest.
    bounds: &'static [u64],
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Buckets {
    fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    fn observe(&self, value: u64) {
        // Most values are small, and the bounds few: looking along them is faster than halving.
        let place = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>, shown: fn(u64) -> f64) -> fmt::Result {
        let bounds = self.bounds.iter().map(|bound| shown(*bound)).chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        // What was observed meanwhile is in no bucket that was read, and not in the count either.
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(shown(self.sum.load(Ordering::Relaxed)), count, &buckets, None)
    }
}

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

/// From what a call in memory takes to what nobody waits for.
const DURATIONS: [u64; 18] = [
    10 * US,
    25 * US,
    50 * US,
    100 * US,
    250 * US,
    500 * US,
    MS,
    2_500 * US,
    5 * MS,
    10 * MS,
    25 * MS,
    50 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    S,
    2_500 * MS,
    10 * S,
];

/// How long something took, each time.
#[derive(Debug)]
pub struct Durations(Buckets);

impl Default for Durations {
    fn default() -> Self {
        Self(Buckets::new(&DURATIONS))
    }
}

impl Durations {
    /// Once more, and so long.
    pub fn observe(&self, duration: Duration) {
        self.0.observe(nanos(duration));
    }

    /// How often so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.count()
    }
}

impl Value for Durations {
    fn kind(&self) -> MetricType {
        MetricType::Histogram
    }

    fn is_unused(&self) -> bool {
        self.count() == 0
    }

    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder, seconds)
    }
}

/// From one to more than a revision takes.
const AMOUNTS: [u64; 10] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000];

/// How many there were, each time.
#[derive(Debug)]
pub struct Amounts(Buckets);

impl Default for Amounts {
    fn default() -> Self {
        Self(Buckets::new(&AMOUNTS))
    }
}

impl Amounts {
    /// Once more, and so many.
    pub fn observe(&self, amount: u64) {
        self.0.observe(amount);
    }

    /// How often so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.count()
    }
}

impl Value for Amounts {
    fn kind(&self) -> MetricType {
        MetricType::Histogram
    }

    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder, |amount| amount as f64)
    }
}

/// A value for each combination of labels.
#[derive(Debug)]
pub struct Family<K, V> {
    series: Box<[V]>,
    /// Combinations that never occurred are not shown: most of them never will.
    sparse: bool,
    keys: PhantomData<fn(K)>,
}

impl<K: Keys, V: Value + Default> Default for Family<K, V> {
    fn default() -> Self {
        let series: usize = K::LABELS.iter().map(|label| label.values.len()).product();
        Self { series: (0..series).map(|_| V::default()).collect(), sparse: false, keys: PhantomData }
    }
}

impl<K: Keys, V: Value + Default> Family<K, V> {
    /// One that shows only what occurred.
    #[must_use]
    pub fn sparse() -> Self {
        Self { sparse: true, ..Self::default() }
    }

    /// The value for this combination.
    pub fn of(&self, keys: K) -> &V {
        &self.series[keys.place()]
    }
}

impl<K: Keys + fmt::Debug, V: Value> Value for Family<K, V> {
    fn kind(&self) -> MetricType {
        self.series.first().map_or(MetricType::Unknown, Value::kind)
    }

    fn labels(&self) -> Vec<&'static str> {
        K::LABELS.iter().map(|label| label.name).collect()
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (place, value) in self.series.iter().enumerate() {
            if self.sparse && value.is_unused() {
                continue;
            }
            let mut stride = self.series.len();
            let pair = |label: &Label| {
                stride /= label.values.len();
                (label.name, label.values[place / stride % label.values.len()])
            };
            let pairs: Vec<(&str, &str)> = K::LABELS.iter().map(pair).collect();
            value.encode(encoder.encode_family(&pairs)?)?;
        }
        Ok(())
    }
}

/// What something is, as labels of a series that is always 1.
#[derive(Debug)]
pub struct Info(&'static [(&'static str, &'static str)]);

impl Info {
    /// What these facts say.
    #[must_use]
    pub fn new(facts: &'static [(&'static str, &'static str)]) -> Self {
        Self(facts)
    }
}

impl Value for Info {
    fn kind(&self) -> MetricType {
        MetricType::Info
    }

    fn labels(&self) -> Vec<&'static str> {
        self.0.iter().map(|(name, _)| *name).collect()
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_info(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_that_was_moved_is_shown_also_at_zero() {
        let gauge = Gauge::default();
        assert!(gauge.is_unused());
        gauge.inc();
        gauge.dec();
        assert!(!gauge.is_unused() && gauge.get() == 0);
    }
}
