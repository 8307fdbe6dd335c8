//! Latencies as histograms: three significant digits from a microsecond to a minute, and the percentiles people ask for.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

const LONGEST_US: u64 = 60_000_000;

pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub fn new() -> Latencies {
        Latencies(Histogram::new_with_bounds(1, LONGEST_US, 3).expect("constant bounds"))
    }

    pub fn record(&mut self, latency: Duration) {
        self.0
            .saturating_record(latency.as_micros().min(u128::from(LONGEST_US)) as u64);
    }

    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// In microseconds; `percentile` from 0 to 100.
    pub fn at(&self, percentile: f64) -> f64 {
        self.0.value_at_percentile(percentile) as f64
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, p999] = [50.0, 99.0, 99.9].map(|p| self.at(p) / 1000.0);
        write!(f, "p50 {p50:.2} p99 {p99:.2} p99.9 {p999:.2} ms")
    }
}
