//! What a job's record says in metrics.

use schemas::{
    event::Event,
    job::Payload,
    names::Phase,
    task::{TaskInput, TaskOutput},
};

use super::{
    history,
    record::{Record, Step},
};
use crate::metrics::Metrics;

/// The states of a job, as the label `state` names them.
const STATES: [&str; 5] = ["running", "paused", "failed", "cancelled", "finished"];

/// Sets a job's metrics from its record.
pub(super) fn report(metrics: &Metrics, record: &Record) {
    let Some(accepted) = &record.accepted else {
        return;
    };
    let job = &*accepted.job;
    let state = match &record.end {
        None if record.overdue() => "paused",
        None => "running",
        Some(Event::Failed(_)) => "failed",
        Some(Event::Cancelled(_)) => "cancelled",
        Some(_) => "finished",
    };
    for name in STATES {
        metrics
            .job_state
            .with_label_values(&[job, name])
            .set(i64::from(name == state));
    }
    let Payload::Training(training) = &accepted.message.payload else {
        return;
    };
    metrics
        .job_rounds_target
        .with_label_values(&[job])
        .set(i64::from(training.num_rounds));
    let averages = record.releases.iter().filter(|release| {
        release.phase == Phase::Average && release.pass == 0 && record.outputs(release).is_some()
    });
    metrics
        .job_rounds_completed
        .with_label_values(&[job])
        .set(averages.count() as i64);
    let trained = record
        .releases
        .iter()
        .rev()
        .find(|release| release.phase == Phase::TrainRound);
    let Some(release) = trained else {
        return;
    };
    for work in &release.work {
        let outputs = match record.shard(release, &work.site, 0) {
            super::record::ShardState::Done(output) => output,
            _ => continue,
        };
        let (
            TaskInput::TrainRound { .. },
            TaskOutput::Trained {
                epochs, validation, ..
            },
        ) = (&work.input, outputs)
        else {
            continue;
        };
        let labels = [job, &*work.site];
        metrics
            .site_val_loss
            .with_label_values(&labels)
            .set(validation.loss);
        if let Some(epoch) = epochs.last() {
            metrics
                .site_train_loss
                .with_label_values(&labels)
                .set(epoch.train_loss);
        }
    }
    if Step::of(release).pass == 1 || record.outputs(release).is_some() {
        dice(metrics, record);
    }
}

fn dice(metrics: &Metrics, record: &Record) {
    let Some(accepted) = &record.accepted else {
        return;
    };
    let job = &*accepted.job;
    let scored = history::of(record, accepted);
    let Some(score) = scored.history.scores.last() else {
        return;
    };
    let gauge = |class: &str, value: Option<f64>| {
        if let Some(value) = value {
            metrics
                .global_pseudo_dice
                .with_label_values(&[job, class])
                .set(value);
        }
    };
    for (class, value) in score.dice.iter().enumerate() {
        // Classes are named from 1, as labels are: 0 is the background.
        gauge(&(class + 1).to_string(), *value);
    }
    gauge("mean", score.mean_dice);
}
