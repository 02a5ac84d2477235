//! What sites tell of their metrics. A hospital only dials out, so no Prometheus of the hub can read its page: each
//! process says some of its series every few seconds over NATS, and the orchestrator shows them as `rounds_site_*`.

use std::time::Duration;

use futures::StreamExt;
use prometheus::proto::MetricType;
use schemas::{
    Invalid,
    names::{self, ORCHESTRATOR},
    site::{Announce, Heartbeat, Sample},
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Definition, Metrics, labels, own};
use crate::{Error, clock, connection::Connection, publish, streams, subjects, tail};

/// Between two heartbeats of a process.
const INTERVAL: Duration = Duration::from_secs(5);
/// Series of one heartbeat.
const MOST_SAMPLES: usize = 1_000;
/// Characters of a label's value.
const LONGEST_VALUE: usize = 128;

/// Metrics that leave a site, all of them counters or gauges.
const TRAVELLING: [&str; 14] = [
    "rounds_tasks_total",
    "rounds_task_work_seconds_total",
    "rounds_tasks_in_flight",
    "rounds_worker_slots",
    "rounds_task_progress_timestamp_seconds",
    "rounds_task_redeliveries_total",
    "rounds_wire_bytes_total",
    "rounds_train_iterations_total",
    "rounds_train_stage_seconds_total",
    "rounds_gpu_memory_used_bytes",
    "rounds_gpu_memory_total_bytes",
    "rounds_gpu_utilisation_ratio",
    "rounds_gpu_temperature_celsius",
    "rounds_gpu_power_watts",
];

/// Whether a metric of this name leaves a site.
pub fn travels(name: &str) -> bool {
    TRAVELLING.contains(&name)
}

/// The metrics as the orchestrator shows them: `rounds_x` of a site's process is `rounds_site_x`.
pub(super) fn travelling() -> Vec<Definition> {
    let own = own()
        .into_iter()
        .filter(|metric| TRAVELLING.contains(&&*metric.name));
    own.map(|metric| {
        let mut labels = metric.labels;
        labels.push("worker");
        Definition {
            name: shown(&metric.name),
            labels,
            ..metric
        }
    })
    .collect()
}

pub(super) fn shown(name: &str) -> String {
    name.replacen("rounds_", "rounds_site_", 1)
}

/// Who speaks.
#[derive(Clone, Debug)]
pub struct Speaker {
    /// The site, or `orchestrator`.
    pub site: String,
    /// The process, `<host>-<process id>`.
    pub worker: String,
    /// The version of its program.
    pub version: String,
}

/// Says every few seconds what of a site's metrics leaves it, until `stop`.
pub async fn beat(metrics: Metrics, connection: Connection, who: Speaker, stop: CancellationToken) {
    let subject = subjects::heartbeat(&who.site);
    loop {
        let heartbeat = Heartbeat {
            site: who.site.clone(),
            worker: who.worker.clone(),
            version: who.version.clone(),
            time: clock::unix(),
            samples: samples(&metrics, &who.site),
        };
        // A lost heartbeat is no loss: another follows.
        publish::say(&connection, subject.clone(), publish::encode(&heartbeat)).await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(INTERVAL) => {}
        }
    }
}

fn samples(metrics: &Metrics, site: &str) -> Vec<Sample> {
    let mut samples = Vec::new();
    for family in metrics.gather() {
        if !TRAVELLING.contains(&family.name()) {
            continue;
        }
        for metric in family.get_metric() {
            let mut labels = labels(metric);
            let value = match family.get_field_type() {
                MetricType::COUNTER => metric.get_counter().get_value(),
                _ => metric.get_gauge().get_value(),
            };
            if labels.remove("site") == Some(site) && value.is_finite() {
                let labels = labels
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value.to_owned()));
                samples.push(Sample {
                    name: family.name().to_owned(),
                    labels: labels.collect(),
                    value,
                });
            }
        }
    }
    samples
}

/// Listens to all sites' heartbeats until `stop`, and shows what they say.
pub async fn listen(metrics: Metrics, connection: Connection, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = hear(&metrics, &connection) => {}
    }
}

async fn hear(metrics: &Metrics, connection: &Connection) {
    loop {
        if let Err(error) = hear_until_lost(metrics, connection).await {
            tracing::debug!("heartbeats: {error}");
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn hear_until_lost(metrics: &Metrics, connection: &Connection) -> Result<(), Error> {
    let mut heard = connection
        .client()
        .subscribe(subjects::ALL_HEARTBEATS)
        .await
        .map_err(|error| Error::request("subscribe to heartbeats", error))?;
    // Sites that fell silent before this process began are silent too.
    for message in tail::read_all(connection, streams::SITES, subjects::ALL_ANNOUNCES).await? {
        if let Ok(Announce { site, .. }) = schemas::parse(&message.payload) {
            let seen = metrics.site_last_seen.with_label_values(&[&site]);
            seen.set(seen.get().max(message.time));
        }
    }
    while let Some(message) = heard.next().await {
        let taken = schemas::parse::<Heartbeat>(&message.payload)
            .and_then(|heartbeat| check(&heartbeat, &message.subject).map(|()| heartbeat));
        match taken {
            Ok(heartbeat) => {
                let now = clock::unix();
                if heartbeat.site != ORCHESTRATOR {
                    let site = [&*heartbeat.site];
                    metrics.site_last_seen.with_label_values(&site).set(now);
                    metrics
                        .site_clock_skew
                        .with_label_values(&site)
                        .set(now - heartbeat.time);
                }
                metrics.heard.take(heartbeat);
            }
            Err(error) => tracing::warn!("{}: {error}", message.subject),
        }
    }
    Ok(())
}

/// Checks what came from a site before it is shown.
fn check(heartbeat: &Heartbeat, subject: &str) -> Result<(), Invalid> {
    let Heartbeat {
        site,
        worker,
        version,
        time,
        samples,
    } = heartbeat;
    names::check_token("site", site)?;
    if subjects::heartbeat(site) != *subject {
        return Err(Invalid::new(
            "site",
            format!("{site:?} is another site than the subject's"),
        ));
    }
    let value_fits = |value: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        !value.is_empty() && value.len() <= LONGEST_VALUE && value.bytes().all(allowed)
    };
    for (field, value) in [("worker", worker), ("version", version)] {
        if !value_fits(value) {
            return Err(Invalid::new(field, "expected 1 to 128 of A-Z a-z 0-9 _ - ."));
        }
    }
    if !time.is_finite() {
        return Err(Invalid::new("time", "expected seconds"));
    }
    if samples.len() > MOST_SAMPLES {
        return Err(Invalid::new(
            "samples",
            format!("{}: expected at most {MOST_SAMPLES}", samples.len()),
        ));
    }
    let known = own();
    for (index, sample) in samples.iter().enumerate() {
        let at = |field: &str| format!("samples[{index}].{field}");
        let metric = known
            .iter()
            .find(|metric| metric.name == sample.name)
            .filter(|_| TRAVELLING.contains(&&*sample.name))
            .ok_or_else(|| Invalid::new(at("name"), "is no metric that leaves a site"))?;
        let mut expected: Vec<&str> = metric
            .labels
            .iter()
            .copied()
            .filter(|label| *label != "site")
            .collect();
        expected.sort_unstable();
        if !sample
            .labels
            .keys()
            .map(String::as_str)
            .eq(expected.iter().copied())
        {
            return Err(Invalid::new(
                at("labels"),
                format!("expected {}", expected.join(", ")),
            ));
        }
        if !sample.labels.values().all(|value| value_fits(value)) || !sample.value.is_finite() {
            return Err(Invalid::new(
                at("labels"),
                "expected 1 to 128 of A-Z a-z 0-9 _ - ., and a number",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeat(samples: Vec<Sample>) -> Heartbeat {
        Heartbeat {
            site: "a".into(),
            worker: "host-1".into(),
            version: "0.1.0".into(),
            time: 1.0,
            samples,
        }
    }

    fn sample(name: &str, labels: &[(&str, &str)]) -> Sample {
        Sample {
            name: name.into(),
            labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            value: 2.0,
        }
    }

    #[test]
    fn what_a_site_says_is_shown_again_under_its_name() {
        let site = Metrics::new();
        site.tasks.with_label_values(&["a", "infer", "done"]).inc_by(2.0);
        // A process may hold several sites: each speaks for itself.
        site.tasks.with_label_values(&["b", "infer", "done"]).inc_by(3.0);
        site.site_train_loss.with_label_values(&["job", "a"]).set(1.0);
        let said = heartbeat(samples(&site, "a"));
        assert_eq!(said.samples.len(), 1);
        check(&said, "rounds.heartbeat.a").unwrap();

        let hub = Metrics::new();
        hub.heard.take(said);
        let text = hub.text();
        let expected =
            "rounds_site_tasks_total{outcome=\"done\",phase=\"infer\",site=\"a\",worker=\"host-1\"} 2";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn what_may_not_leave_a_site_is_refused() {
        for (samples, field) in [
            (
                vec![sample("rounds_job_state", &[("state", "x")])],
                "samples[0].name",
            ),
            (vec![sample("rounds_site_tasks_total", &[])], "samples[0].name"),
            (
                vec![sample("rounds_tasks_total", &[("phase", "infer")])],
                "samples[0].labels",
            ),
            (
                vec![sample("rounds_worker_slots", &[("phase", "Mr Smith")])],
                "samples[0].labels",
            ),
            (
                vec![sample("rounds_worker_slots", &[("phase", "infer")]); MOST_SAMPLES + 1],
                "samples",
            ),
        ] {
            let error = check(&heartbeat(samples), "rounds.heartbeat.a").unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
        let error = check(&heartbeat(Vec::new()), "rounds.heartbeat.b").unwrap_err();
        assert!(error.to_string().contains("another site"), "{error}");
    }
}
