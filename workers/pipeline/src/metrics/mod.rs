//! Prometheus metrics: all that a process of Rounds counts and measures.
//!
//! - `definition.rs`: what a metric is.
//! - `page.rs`: `/metrics`.
//! - `queues.rs`: how long the queues and how full the streams are, which the orchestrator looks at.
//! - `sites.rs`: what sites tell of their own metrics; `heard.rs`: how the orchestrator shows it again.
//!
//! No label ever names a case, a file or a patient.

mod definition;
mod heard;
mod page;
mod queues;
mod sites;

use std::{collections::HashMap, sync::Arc};

use prometheus::{
    CounterVec, GaugeVec, HistogramVec, Registry,
    core::Collector,
    proto::{Metric, MetricFamily},
};

use definition::Kind;
use heard::Heard;

pub use definition::Definition;
pub use sites::{Speaker, beat, listen, travels};

/// Makes the struct of all metrics, and the list of their definitions, from one table. The first words are the
/// help text, the documentation, and a row of dashboards/METRICS.md.
macro_rules! metrics {
    ($( #[doc = $help:literal] $field:ident: $kind:ident $name:literal [$($label:literal),*]; )+) => {
        /// All metrics of one process. Cheap to clone; clones share the numbers.
        #[derive(Clone)]
        pub struct Metrics {
            registry: Arc<Registry>,
            heard: Heard,
            $( #[doc = $help] pub $field: $kind, )+
        }

        impl Metrics {
            /// All metrics, without series; counters without labels begin at 0.
            pub fn new() -> Self {
                let registry = Registry::new();
                let heard = Heard::default();
                register(&registry, heard.clone());
                #[cfg(target_os = "linux")]
                register(&registry, prometheus::process_collector::ProcessCollector::for_self());
                $(
                    let labels: &[&str] = &[$($label),*];
                    // Names and labels are constants of this file: a test makes them all.
                    let made: $kind = Kind::make($name, $help.trim(), labels).expect("a metric's name and labels are valid");
                    if labels.is_empty() {
                        made.with_label_values(&[] as &[&str]);
                    }
                    register(&registry, made.clone());
                    let $field = made;
                )+
                Self { registry: Arc::new(registry), heard, $($field),+ }
            }

            fn forget(&self, family: &str, labels: &HashMap<&str, &str>) -> prometheus::Result<()> {
                match family {
                    $( $name => self.$field.forget(labels), )+
                    _ => Ok(()),
                }
            }
        }

        /// The metrics above.
        fn own() -> Vec<Definition> {
            vec![$( Definition {
                name: $name.to_owned(),
                kind: <$kind as Kind>::NAME,
                labels: vec![$($label),*],
                help: $help.trim(),
            } ),+]
        }
    };
}

metrics! {
    /// 1, labelled with what was built.
    build_info: GaugeVec "rounds_build_info" ["version", "revision", "backend"];
    /// 1 while connected to NATS.
    nats_connected: GaugeVec "rounds_nats_connected" [];
    /// Connections to NATS made again after a loss.
    nats_reconnects: CounterVec "rounds_nats_reconnects_total" [];

    /// Tasks answered, by outcome: done, retry, failed, stale.
    tasks: CounterVec "rounds_tasks_total" ["site", "phase", "outcome"];
    /// Seconds of work on a task.
    task_duration: HistogramVec "rounds_task_duration_seconds" ["site", "phase"];
    /// Seconds of work on all tasks together.
    task_seconds: CounterVec "rounds_task_work_seconds_total" ["site", "phase"];
    /// Seconds from a task's message to the start of its work.
    task_wait: HistogramVec "rounds_task_wait_seconds" ["site", "phase"];
    /// Tasks being worked on.
    tasks_in_flight: GaugeVec "rounds_tasks_in_flight" ["site", "phase"];
    /// Tasks that the workers can work on at once.
    worker_slots: GaugeVec "rounds_worker_slots" ["site", "phase"];
    /// Unix time of the last progress of a task.
    task_progress_timestamp: GaugeVec "rounds_task_progress_timestamp_seconds" ["site", "phase"];
    /// Deliveries of a task after its first.
    task_redeliveries: CounterVec "rounds_task_redeliveries_total" ["site", "phase"];
    /// Bytes of artifacts, by direction: sent, received.
    wire_bytes: CounterVec "rounds_wire_bytes_total" ["site", "phase", "direction"];
    /// Iterations trained.
    train_iterations: CounterVec "rounds_train_iterations_total" ["site"];
    /// Seconds of training, by stage: load (waiting for augmented batches), forward, backward, optimise.
    train_stage_seconds: CounterVec "rounds_train_stage_seconds_total" ["site", "stage"];

    /// Memory of an accelerator in use.
    gpu_memory_used: GaugeVec "rounds_gpu_memory_used_bytes" ["site", "gpu"];
    /// Memory of an accelerator.
    gpu_memory: GaugeVec "rounds_gpu_memory_total_bytes" ["site", "gpu"];
    /// Share of the time that an accelerator is busy, 0 to 1.
    gpu_utilisation: GaugeVec "rounds_gpu_utilisation_ratio" ["site", "gpu"];
    /// Temperature of an accelerator.
    gpu_temperature: GaugeVec "rounds_gpu_temperature_celsius" ["site", "gpu"];
    /// Power that an accelerator draws.
    gpu_power: GaugeVec "rounds_gpu_power_watts" ["site", "gpu"];

    /// Tasks that no worker has taken.
    queue_pending: GaugeVec "rounds_queue_pending_messages" ["site", "phase"];
    /// Tasks that a worker has taken and not answered.
    queue_ack_pending: GaugeVec "rounds_queue_ack_pending_messages" ["site", "phase"];
    /// Unanswered tasks that were delivered more than once.
    queue_redelivered: GaugeVec "rounds_queue_redelivered_messages" ["site", "phase"];
    /// Age of the oldest unanswered task; 0 where there is none.
    queue_oldest: GaugeVec "rounds_queue_oldest_message_age_seconds" ["site", "phase"];
    /// Bytes in a stream.
    stream_bytes: GaugeVec "rounds_stream_bytes" ["stream"];
    /// Bound on the bytes in a stream; no series where there is none.
    stream_limit_bytes: GaugeVec "rounds_stream_limit_bytes" ["stream"];

    /// Unix time at which the orchestrator last heard of a site.
    site_last_seen: GaugeVec "rounds_site_last_seen_timestamp_seconds" ["site"];
    /// The orchestrator's clock less the site's, when it last heard of the site.
    site_clock_skew: GaugeVec "rounds_site_clock_skew_seconds" ["site"];
    /// Tasks that failed for good, by the failure's code.
    dead_letters: CounterVec "rounds_dead_letters_total" ["site", "phase", "reason"];
    /// Results that were not believed: they do not carry the signature of the site that their subject names.
    results_refused: CounterVec "rounds_results_refused_total" ["site"];
    /// Updates that no average takes, by the failure's code.
    updates_rejected: CounterVec "rounds_updates_rejected_total" ["site", "reason"];

    /// 1 for the state that a job is in: running, paused, failed, cancelled, finished.
    job_state: GaugeVec "rounds_job_state" ["job", "state"];
    /// Rounds averaged.
    job_rounds_completed: GaugeVec "rounds_job_rounds_completed" ["job"];
    /// Rounds to average.
    job_rounds_target: GaugeVec "rounds_job_rounds_target" ["job"];
    /// 1 for the phase that a job is in.
    job_phase: GaugeVec "rounds_job_phase" ["job", "phase"];
    /// Unix time at which the last round was released.
    round_start: GaugeVec "rounds_round_start_timestamp_seconds" ["job"];
    /// Seconds from a round's release to the next one's.
    round_duration: HistogramVec "rounds_round_duration_seconds" ["job"];
    /// Seconds of the stages of a round: train (to the last update), average.
    round_stage: HistogramVec "rounds_round_stage_seconds" ["job", "stage"];
    /// Sites that the last round was released to.
    round_sites_expected: GaugeVec "rounds_round_sites_expected" ["job"];
    /// Updates of the last round that have come.
    round_updates_received: GaugeVec "rounds_round_updates_received" ["job"];
    /// Seconds from the release of the last round that the site has done to its answer.
    site_round_duration: GaugeVec "rounds_site_round_duration_seconds" ["job", "site"];
    /// Seconds from the first answer of that round to the site's.
    site_straggler_delay: GaugeVec "rounds_site_straggler_delay_seconds" ["job", "site"];
    /// Training loss of a site's last epoch.
    site_train_loss: GaugeVec "rounds_site_train_loss" ["job", "site"];
    /// Validation loss at a site of the weights that its last round started from.
    site_val_loss: GaugeVec "rounds_site_val_loss" ["job", "site"];
    /// Pseudo Dice at a site of the weights that its last round started from; class mean is the classes' mean.
    site_pseudo_dice: GaugeVec "rounds_site_pseudo_dice" ["job", "site", "class"];
    /// Pseudo Dice of the last scored average, pooled over sites; class mean is the classes' mean.
    global_pseudo_dice: GaugeVec "rounds_global_pseudo_dice" ["job", "class"];
    /// Length (L2) of what the site's last round added to the weights.
    site_update_norm: GaugeVec "rounds_site_update_norm" ["job", "site"];
    /// Share of a site in the last average, 0 to 1.
    site_weight_ratio: GaugeVec "rounds_site_weight_ratio" ["job", "site"];
    /// 1 for a site whose plans or initial weights differ from the first site's.
    plan_mismatch: GaugeVec "rounds_plan_mismatch" ["job", "site"];
}

/// What prometheus's collector says of a process (on Linux).
const PROCESS: [(&str, &str, &str); 7] = [
    ("process_cpu_seconds_total", "counter", "Processor time spent."),
    ("process_max_fds", "gauge", "Bound on open file descriptors."),
    ("process_open_fds", "gauge", "Open file descriptors."),
    ("process_resident_memory_bytes", "gauge", "Resident memory."),
    ("process_start_time_seconds", "gauge", "Unix time of the start."),
    ("process_threads", "gauge", "Threads."),
    ("process_virtual_memory_bytes", "gauge", "Virtual memory."),
];

/// All metrics that processes of Rounds may show, by name.
pub fn catalogue() -> Vec<Definition> {
    let process = PROCESS.into_iter().map(|(name, kind, help)| Definition {
        name: name.to_owned(),
        kind,
        labels: Vec::new(),
        help,
    });
    let mut all: Vec<Definition> = own()
        .into_iter()
        .chain(process)
        .chain(sites::travelling())
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Says what was built: `rounds_build_info`.
    pub fn set_build(&self, version: &str, revision: &str, backend: &str) {
        self.build_info
            .with_label_values(&[version, revision, backend])
            .set(1.0);
    }

    /// Drops all series of a job.
    pub fn forget_job(&self, job: &str) {
        for family in self.registry.gather() {
            for metric in family.get_metric() {
                let labels = labels(metric);
                if labels.get("job") == Some(&job)
                    && let Err(error) = self.forget(family.name(), &labels)
                {
                    tracing::debug!("{}: {error}", family.name());
                }
            }
        }
    }

    /// All series as they stand.
    fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}

fn labels(metric: &Metric) -> HashMap<&str, &str> {
    let pairs = metric.get_label().iter();
    pairs.map(|pair| (pair.name(), pair.value())).collect()
}

/// Each metric is registered once.
fn register(registry: &Registry, metric: impl Collector + 'static) {
    registry
        .register(Box::new(metric))
        .expect("a metric is registered once");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_metrics_are_shown_and_a_job_is_forgotten() {
        let metrics = Metrics::new();
        metrics.set_build("0.1.0", "abc", "cpu");
        metrics.site_train_loss.with_label_values(&["j1", "a"]).set(-0.5);
        metrics.round_duration.with_label_values(&["j1"]).observe(3.0);
        metrics.job_state.with_label_values(&["j1", "running"]).set(1.0);
        metrics.job_state.with_label_values(&["j2", "running"]).set(1.0);
        let text = metrics.text();
        assert!(text.contains("rounds_build_info{backend=\"cpu\",revision=\"abc\",version=\"0.1.0\"} 1"));
        assert!(text.contains("rounds_site_train_loss{job=\"j1\",site=\"a\"} -0.5"));
        assert!(text.contains("rounds_nats_reconnects_total 0"), "{text}");
        metrics.forget_job("j1");
        let text = metrics.text();
        assert!(!text.contains("j1") && text.contains("j2"), "{text}");
    }
}
