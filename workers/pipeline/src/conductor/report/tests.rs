//! What is counted, once, and by whose clock.

use bytes::Bytes;
use schemas::task::{TaskKey, TaskResult};
use serde_json::json;

use super::*;
use crate::{subjects, tail::Tailed};

/// A training job of sites a and b whose first round was released.
fn record(accepted: &Accepted) -> Record {
    let mut record = Record::default();
    record.event(Event::Accepted(Box::new(accepted.clone())));
    record.event(release(accepted, Phase::TrainRound, 0));
    record
}

fn accepted() -> Accepted {
    let sample = include_str!("../../../../../schemas/v1/examples/event--accepted.json");
    let Event::Accepted(accepted) = schemas::parse(sample.as_bytes()).unwrap() else {
        panic!("the sample is another event")
    };
    *accepted
}

fn release(accepted: &Accepted, phase: Phase, round: u32) -> Event {
    let artifact = json!({ "owner": "global", "job": accepted.job, "digest": "00", "size": 1 });
    let input = match phase {
        Phase::Average => json!({ "kind": "average", "updates": [
            { "site": "a", "artifact": artifact, "weight": 3 },
            { "site": "b", "artifact": artifact, "weight": 1 },
        ] }),
        _ => json!({
            "kind": "train-round", "pooled": { "fingerprint": artifact, "dataset_json": artifact },
            "plans_digest": "00", "base": { "source": "initial", "digest": "right" },
            "previous_update": null, "epochs_before": 0, "total_epochs": 2,
        }),
    };
    let work: Vec<_> = ["a", "b"]
        .iter()
        .map(|site| json!({ "site": site, "shards": 1, "input": input }))
        .collect();
    serde_json::from_value(json!({
        "event": "released", "job": accepted.job, "phase": phase, "round": round, "pass": 0, "work": work,
    }))
    .unwrap()
}

fn key(accepted: &Accepted, site: &str) -> TaskKey {
    TaskKey {
        site: site.into(),
        phase: Phase::TrainRound,
        job: accepted.job.clone(),
        round: 0,
        pass: 0,
        shard: 0,
        attempt: 1,
    }
}

fn result(accepted: &Accepted, site: &str, outcome: serde_json::Value) -> TaskResult {
    serde_json::from_value(json!({ "key": key(accepted, site), "outcome": outcome, "made": null })).unwrap()
}

fn message(subject: String, time: f64) -> Tailed {
    Tailed {
        sequence: 1,
        subject,
        payload: Bytes::new(),
        headers: None,
        time,
    }
}

#[test]
fn failures_are_counted_once_and_not_those_of_before() {
    let accepted = accepted();
    let job = &*accepted.job;
    let failed = json!({ "outcome": "failed", "failure":
        { "code": "nan-weights", "message": "", "case": null, "retryable": false } });
    let other_base = json!({ "outcome": "done", "output": { "kind": "trained", "update": null, "epochs": [],
        "validation": { "true_positives": [6], "false_positives": [2], "false_negatives": [2], "loss": 0.5,
                        "on_training_cases": false }, "base": "wrong" } });
    for (old, expected) in [(false, 1.0), (true, 0.0)] {
        let (metrics, mut seen) = (Metrics::new(), Seen::default());
        let mut record = record(&accepted);
        record.result(result(&accepted, "a", failed.clone()));
        record.result(result(&accepted, "b", other_base.clone()));
        for site in ["a", "b"] {
            let answered = message(subjects::result(&key(&accepted, site)), 10.0);
            seen.message(&answered, old, &Default::default());
        }
        report(&metrics, &record, &mut seen);
        report(&metrics, &record, &mut seen);
        let dead = metrics
            .dead_letters
            .with_label_values(&["a", "train-round", "nan-weights"]);
        assert_eq!(dead.get(), expected);
        for (site, reason) in [("a", "nan-weights"), ("b", "stale-base")] {
            let refused = metrics.updates_rejected.with_label_values(&[site, reason]);
            assert_eq!(refused.get(), expected, "{site}");
        }
        let dice = metrics.site_pseudo_dice.with_label_values(&[job, "b", "1"]);
        assert_eq!(dice.get(), 0.75);
    }
}

#[test]
fn rounds_take_as_long_as_the_server_says() {
    let accepted = accepted();
    let job = &*accepted.job;
    let (metrics, mut seen) = (Metrics::new(), Seen::default());
    let mut record = record(&accepted);
    for event in [
        release(&accepted, Phase::Average, 0),
        release(&accepted, Phase::TrainRound, 1),
    ] {
        record.event(event);
    }
    for (subject, time) in [
        (subjects::release(job, Phase::TrainRound, 0, 0), 100.0),
        (subjects::result(&key(&accepted, "b")), 110.0),
        (subjects::result(&key(&accepted, "a")), 125.0),
        (subjects::release(job, Phase::Average, 0, 0), 126.0),
        (subjects::release(job, Phase::TrainRound, 1, 0), 130.0),
    ] {
        seen.message(&message(subject, time), false, &Default::default());
    }
    report(&metrics, &record, &mut seen);
    report(&metrics, &record, &mut seen);
    let text = metrics.text();
    for line in [
        format!("rounds_round_duration_seconds_sum{{job=\"{job}\"}} 30"),
        format!("rounds_round_duration_seconds_count{{job=\"{job}\"}} 1"),
        format!("rounds_round_stage_seconds_sum{{job=\"{job}\",stage=\"train\"}} 26"),
        format!("rounds_round_stage_seconds_sum{{job=\"{job}\",stage=\"average\"}} 4"),
        format!("rounds_round_start_timestamp_seconds{{job=\"{job}\"}} 130"),
        format!("rounds_site_round_duration_seconds{{job=\"{job}\",site=\"a\"}} 25"),
        format!("rounds_site_straggler_delay_seconds{{job=\"{job}\",site=\"a\"}} 15"),
        format!("rounds_site_straggler_delay_seconds{{job=\"{job}\",site=\"b\"}} 0"),
        format!("rounds_site_weight_ratio{{job=\"{job}\",site=\"a\"}} 0.75"),
    ] {
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    metrics.forget_job(job);
    assert!(!metrics.text().contains(job));
}
