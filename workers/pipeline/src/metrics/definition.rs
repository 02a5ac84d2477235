//! What a metric is: the list of all of them is made from these.

use std::collections::HashMap;

use prometheus::{
    CounterVec, GaugeVec, HistogramOpts, HistogramVec, Opts,
    core::{Collector, MetricVec, MetricVecBuilder},
};

/// Bounds of all histograms, in seconds: from what a laptop does to what a large federation does.
const SECONDS: [f64; 12] = [
    0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 3_600.0, 7_200.0, 28_800.0, 86_400.0,
];

/// One row of the list of metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// `gauge`, `counter` or `histogram`.
    pub kind: &'static str,
    /// The names of its labels.
    pub labels: Vec<&'static str>,
    /// What it says.
    pub help: &'static str,
}

/// A kind of metric, with any labels.
pub(super) trait Kind: Collector + Clone + Sized + 'static {
    /// As Prometheus calls it.
    const NAME: &'static str;

    /// A metric without series.
    fn make(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self>;

    /// Drops the series with these labels, all of which are given.
    fn forget(&self, labels: &HashMap<&str, &str>) -> prometheus::Result<()>;
}

impl Kind for GaugeVec {
    const NAME: &'static str = "gauge";

    fn make(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self> {
        GaugeVec::new(Opts::new(name, help), labels)
    }

    fn forget(&self, labels: &HashMap<&str, &str>) -> prometheus::Result<()> {
        remove(self, labels)
    }
}

impl Kind for CounterVec {
    const NAME: &'static str = "counter";

    fn make(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self> {
        CounterVec::new(Opts::new(name, help), labels)
    }

    fn forget(&self, labels: &HashMap<&str, &str>) -> prometheus::Result<()> {
        remove(self, labels)
    }
}

impl Kind for HistogramVec {
    const NAME: &'static str = "histogram";

    fn make(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<Self> {
        HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), labels)
    }

    fn forget(&self, labels: &HashMap<&str, &str>) -> prometheus::Result<()> {
        remove(self, labels)
    }
}

fn remove<T: MetricVecBuilder>(
    metric: &MetricVec<T>,
    labels: &HashMap<&str, &str>,
) -> prometheus::Result<()> {
    metric.remove(labels)
}
