//! What was heard of sites' processes, shown as `rounds_site_*`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use prometheus::{
    core::{Collector, Desc},
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};
use schemas::site::{Heartbeat, Sample};

use super::{
    Definition,
    sites::{shown, travelling},
};

/// A process that is silent for so long is gone, and its series with it.
const SILENT: Duration = Duration::from_secs(60);
/// Processes whose series are shown; there is a bound to what a site can make us hold.
const MOST_PROCESSES: usize = 1_000;

/// The last heartbeat of each site's processes, and when it came.
type Last = BTreeMap<(String, String), (Instant, Vec<Sample>)>;

/// What was heard of sites' processes, as a collector of `rounds_site_*`.
#[derive(Clone, Default)]
pub(super) struct Heard {
    last: Arc<Mutex<Last>>,
    described: Arc<Described>,
}

struct Described(Vec<(Definition, Desc)>);

impl Default for Described {
    fn default() -> Self {
        let described = travelling().into_iter().filter_map(|metric| {
            let labels = metric.labels.iter().map(|label| (*label).to_owned()).collect();
            let desc = Desc::new(
                metric.name.clone(),
                metric.help.to_owned(),
                labels,
                Default::default(),
            );
            Some((metric, desc.ok()?))
        });
        Self(described.collect())
    }
}

impl Heard {
    pub(super) fn take(&self, heartbeat: Heartbeat) {
        let Ok(mut last) = self.last.lock() else {
            return;
        };
        last.retain(|_, (at, _)| at.elapsed() < SILENT);
        let process = (heartbeat.site, heartbeat.worker);
        if last.len() < MOST_PROCESSES || last.contains_key(&process) {
            last.insert(process, (Instant::now(), heartbeat.samples));
        }
    }
}

impl Collector for Heard {
    fn desc(&self) -> Vec<&Desc> {
        self.described.0.iter().map(|(_, desc)| desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(last) = self.last.lock() else {
            return Vec::new();
        };
        let alive = || last.iter().filter(|(_, (at, _))| at.elapsed() < SILENT);
        let mut families = Vec::new();
        for (metric, _) in &self.described.0 {
            let mut series = Vec::new();
            for ((site, worker), (_, samples)) in alive() {
                for sample in samples.iter().filter(|sample| shown(&sample.name) == metric.name) {
                    let own = sample.labels.iter().map(|(name, value)| (&**name, &**value));
                    let labels = own.chain([("site", &**site), ("worker", &**worker)]);
                    series.push(one(metric.kind, labels, sample.value));
                }
            }
            if !series.is_empty() {
                let mut family = MetricFamily::default();
                family.set_name(metric.name.clone());
                family.set_help(metric.help.to_owned());
                family.set_field_type(match metric.kind {
                    "counter" => MetricType::COUNTER,
                    _ => MetricType::GAUGE,
                });
                family.set_metric(series);
                families.push(family);
            }
        }
        families
    }
}

fn one<'a>(kind: &str, labels: impl Iterator<Item = (&'a str, &'a str)>, value: f64) -> Metric {
    let pairs = labels.map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    });
    let mut metric = Metric::from_label(pairs.collect());
    if kind == "counter" {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}
