//! Prometheus metrics, and the page that shows them.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use async_nats::jetstream::{consumer, stream::Stream};
use axum::{Router, http::header, routing::get};
use futures::StreamExt;
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Error, connection::Connection, streams, subjects};

/// Between two looks at the queues.
const QUEUE_INTERVAL: Duration = Duration::from_secs(10);

/// All metrics of one process. Cheap to clone; clones share the numbers.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// 1, with what was built.
    pub build_info: IntGaugeVec,
    /// Tasks by phase and outcome: done, retry, failed, stale.
    pub tasks: IntCounterVec,
    /// Seconds of work by phase.
    pub task_duration: HistogramVec,
    /// Tasks being worked on, by phase.
    pub tasks_in_flight: IntGaugeVec,
    /// Deliveries after the first, by phase.
    pub task_redeliveries: IntCounterVec,
    /// Unix time of the last progress of a task, by phase.
    pub task_progress_timestamp: GaugeVec,
    /// Tasks that no worker has taken, by site and phase.
    pub queue_pending: IntGaugeVec,
    /// Tasks that a worker has taken and not answered, by site and phase.
    pub queue_ack_pending: IntGaugeVec,
    /// Tasks that were delivered more than once, by site and phase.
    pub queue_redelivered: IntGaugeVec,
    /// Bytes in a stream.
    pub stream_bytes: IntGaugeVec,
    /// Bound on the bytes in a stream; no series where there is none.
    pub stream_limit_bytes: IntGaugeVec,
    /// Rounds averaged, by job.
    pub job_rounds_completed: IntGaugeVec,
    /// Rounds to average, by job.
    pub job_rounds_target: IntGaugeVec,
    /// 1 for the state a job is in, 0 for the others.
    pub job_state: IntGaugeVec,
    /// Training loss of a site's last epoch.
    pub site_train_loss: GaugeVec,
    /// Validation loss of the weights that a site's last round started from.
    pub site_val_loss: GaugeVec,
    /// Pooled pseudo Dice of the last scored average, by job and class; class `mean` is their mean.
    pub global_pseudo_dice: GaugeVec,
    /// 1 while connected to NATS.
    pub nats_connected: IntGauge,
    /// Connections made again after a loss.
    pub nats_reconnects: IntCounter,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        let counts = |name, help, labels: &[&str]| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let values =
            |name, help, labels: &[&str]| register(&registry, GaugeVec::new(Opts::new(name, help), labels));
        let counters = |name, help, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let buckets = vec![0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0, 28_800.0];
        let duration = HistogramOpts::new("rounds_task_duration_seconds", "Seconds of work on a task.");
        Self {
            build_info: counts(
                "rounds_build_info",
                "1, labelled with what was built.",
                &["version", "revision", "backend"],
            ),
            tasks: counters("rounds_tasks_total", "Tasks answered.", &["phase", "outcome"]),
            task_duration: register(
                &registry,
                HistogramVec::new(duration.buckets(buckets), &["phase"]),
            ),
            tasks_in_flight: counts("rounds_tasks_in_flight", "Tasks being worked on.", &["phase"]),
            task_redeliveries: counters(
                "rounds_task_redeliveries_total",
                "Deliveries of a task after its first.",
                &["phase"],
            ),
            task_progress_timestamp: values(
                "rounds_task_progress_timestamp_seconds",
                "Unix time of the last progress of a task.",
                &["phase"],
            ),
            queue_pending: counts(
                "rounds_queue_pending_messages",
                "Tasks that no worker has taken.",
                &["site", "phase"],
            ),
            queue_ack_pending: counts(
                "rounds_queue_ack_pending_messages",
                "Tasks that a worker has taken and not answered.",
                &["site", "phase"],
            ),
            queue_redelivered: counts(
                "rounds_queue_redelivered_messages",
                "Unanswered tasks that were delivered more than once.",
                &["site", "phase"],
            ),
            stream_bytes: counts("rounds_stream_bytes", "Bytes in a stream.", &["stream"]),
            stream_limit_bytes: counts(
                "rounds_stream_limit_bytes",
                "Bound on the bytes in a stream.",
                &["stream"],
            ),
            job_rounds_completed: counts("rounds_job_rounds_completed", "Rounds averaged.", &["job"]),
            job_rounds_target: counts("rounds_job_rounds_target", "Rounds to average.", &["job"]),
            job_state: counts(
                "rounds_job_state",
                "1 for the state that a job is in.",
                &["job", "state"],
            ),
            site_train_loss: values(
                "rounds_site_train_loss",
                "Training loss of a site's last epoch.",
                &["job", "site"],
            ),
            site_val_loss: values(
                "rounds_site_val_loss",
                "Validation loss at a site of the weights that its last round started from.",
                &["job", "site"],
            ),
            global_pseudo_dice: values(
                "rounds_global_pseudo_dice",
                "Pseudo Dice of the last scored average, pooled over sites.",
                &["job", "class"],
            ),
            nats_connected: register(
                &registry,
                IntGauge::new("rounds_nats_connected", "1 while connected to NATS."),
            ),
            nats_reconnects: register(
                &registry,
                IntCounter::new(
                    "rounds_nats_reconnects_total",
                    "Connections to NATS made again after a loss.",
                ),
            ),
            registry: Arc::new(registry),
        }
    }

    /// Says what was built: `rounds_build_info`.
    pub fn set_build(&self, version: &str, revision: &str, backend: &str) {
        self.build_info
            .with_label_values(&[version, revision, backend])
            .set(1);
    }

    /// The metrics in Prometheus's text format.
    pub fn text(&self) -> String {
        let mut bytes = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut bytes) {
            tracing::error!("metrics: {error}");
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Takes an address for `/metrics`, and serves it until `stop`. Gives the address, with the port that
    /// was found for port 0.
    pub async fn serve(&self, address: SocketAddr, stop: CancellationToken) -> Result<SocketAddr, Error> {
        let failed = |error| Error::request(format!("listen on {address} for /metrics"), error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let metrics = self.clone();
        let page = move || {
            let text = metrics.text();
            async move { ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text) }
        };
        let router = Router::new().route("/metrics", get(page));
        tokio::spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
            if let Err(error) = served.await {
                tracing::error!("/metrics: {error}");
            }
        });
        Ok(bound)
    }

    /// Looks at the queues and streams every ten seconds until `stop`.
    pub async fn watch_queues(&self, connection: &Connection, stop: CancellationToken) {
        loop {
            if let Err(error) = self.read_queues(connection).await {
                tracing::debug!("queues: {error}");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(QUEUE_INTERVAL) => {}
            }
        }
    }

    /// Looks at the queues and streams once.
    pub async fn read_queues(&self, connection: &Connection) -> Result<(), Error> {
        let tasks = connection.stream(streams::TASKS).await?;
        let mut consumers = tasks.consumers();
        while let Some(info) = consumers.next().await {
            self.read_queue(&info.map_err(|error| Error::request("list consumers", error))?);
        }
        for name in [
            streams::JOBS,
            streams::TASKS,
            streams::RESULTS,
            streams::ARTIFACTS,
        ] {
            let stream: Stream<()> = connection.stream(name).await?;
            let info = stream
                .get_info()
                .await
                .map_err(|error| Error::request(format!("stream {name}"), error))?;
            self.stream_bytes
                .with_label_values(&[name])
                .set(info.state.bytes as i64);
            if info.config.max_bytes > 0 {
                self.stream_limit_bytes
                    .with_label_values(&[name])
                    .set(info.config.max_bytes);
            }
        }
        Ok(())
    }

    fn read_queue(&self, info: &consumer::Info) {
        let Some((site, phase)) = subjects::durable_of(&info.name) else {
            return;
        };
        let labels = [site, phase.as_str()];
        self.queue_pending
            .with_label_values(&labels)
            .set(info.num_pending as i64);
        self.queue_ack_pending
            .with_label_values(&labels)
            .set(info.num_ack_pending as i64);
        self.queue_redelivered
            .with_label_values(&labels)
            .set(info.num_redelivered as i64);
    }

    /// Drops all series of a job.
    pub fn forget_job(&self, job: &str) {
        for family in self.registry.gather() {
            for metric in family.get_metric() {
                let labels: BTreeMap<&str, &str> = metric
                    .get_label()
                    .iter()
                    .map(|pair| (pair.name(), pair.value()))
                    .collect();
                if labels.get("job") == Some(&job) {
                    self.forget_series(family.name(), job, &labels);
                }
            }
        }
    }

    fn forget_series(&self, family: &str, job: &str, labels: &BTreeMap<&str, &str>) {
        let label = |name| labels.get(name).copied().unwrap_or_default();
        let removed = match family {
            "rounds_job_rounds_completed" => self.job_rounds_completed.remove_label_values(&[job]),
            "rounds_job_rounds_target" => self.job_rounds_target.remove_label_values(&[job]),
            "rounds_job_state" => self.job_state.remove_label_values(&[job, label("state")]),
            "rounds_site_train_loss" => self.site_train_loss.remove_label_values(&[job, label("site")]),
            "rounds_site_val_loss" => self.site_val_loss.remove_label_values(&[job, label("site")]),
            "rounds_global_pseudo_dice" => self
                .global_pseudo_dice
                .remove_label_values(&[job, label("class")]),
            _ => Ok(()),
        };
        if let Err(error) = removed {
            tracing::debug!("{family}: {error}");
        }
    }
}

/// The names, labels and buckets are constants of this file: a test makes them all.
fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<C>) -> C {
    let metric = metric.expect("a metric's name and labels are valid");
    registry
        .register(Box::new(metric.clone()))
        .expect("a metric is registered once");
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_metrics_are_shown_and_a_job_is_forgotten() {
        let metrics = Metrics::new();
        metrics.set_build("0.1.0", "abc", "cpu");
        metrics.site_train_loss.with_label_values(&["j1", "a"]).set(-0.5);
        metrics.job_state.with_label_values(&["j1", "running"]).set(1);
        metrics.job_state.with_label_values(&["j2", "running"]).set(1);
        metrics.tasks.with_label_values(&["train-round", "done"]).inc();
        let text = metrics.text();
        assert!(text.contains("rounds_build_info{backend=\"cpu\",revision=\"abc\",version=\"0.1.0\"} 1"));
        assert!(text.contains("rounds_site_train_loss{job=\"j1\",site=\"a\"} -0.5"));
        metrics.forget_job("j1");
        let text = metrics.text();
        assert!(!text.contains("j1") && text.contains("j2"), "{text}");
    }
}
