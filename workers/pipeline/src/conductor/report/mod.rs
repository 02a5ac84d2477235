//! What a job's record says in metrics.

mod seen;

use std::time::Duration;

use schemas::{
    event::{Accepted, Event, Release},
    job::Payload,
    names::Phase,
    task::{Outcome, TaskInput, TaskOutput},
};

use super::{
    checks, history, masking, plan_verify,
    record::{Record, ShardState, Step},
};
use crate::{clock, metrics::Metrics};
use seen::{Times, of_round};

pub use seen::Seen;

/// Metrics of an ended job are shown for so long: enough to be scraped and looked at.
pub(super) const SERIES_KEPT: Duration = Duration::from_secs(3_600);

/// Releases that are looked at again at each change.
const STAY: usize = 4;

/// The states of a job, as the label `state` names them.
const STATES: [&str; 5] = ["running", "paused", "failed", "cancelled", "finished"];

/// Failures of train-round by which a site's update is refused.
const USELESS: [&str; 6] = [
    "not-finite",
    "nan-weights",
    "unchanged-weights",
    "out-of-range",
    "update-too-long",
    "result-refused",
];

/// Sets a job's metrics from its record. A job that ended long ago has none.
pub(super) fn report(metrics: &Metrics, record: &Record, seen: &mut Seen) {
    let Some(accepted) = &record.accepted else {
        return;
    };
    let times = seen.job(&accepted.job);
    let long_ago = clock::unix() - SERIES_KEPT.as_secs_f64();
    if record.end.is_some() && times.ended.is_some_and(|ended| ended < long_ago) {
        return;
    }
    state(metrics, record, accepted);
    failures(metrics, record, times);
    if let Payload::Training(training) = &accepted.message.payload {
        let job = [&*accepted.job];
        metrics
            .job_rounds_target
            .with_label_values(&job)
            .set(f64::from(training.num_rounds));
        let open = record.releases.get(times.settled..).unwrap_or_default();
        let averages = times.averaged + open.iter().filter(|release| is_averaged(record, release)).count();
        metrics
            .job_rounds_completed
            .with_label_values(&job)
            .set(averages as f64);
        plans(metrics, record);
        round(metrics, record, &accepted.job, times);
        durations(metrics, &accepted.job, times);
        dice(metrics, record, &accepted.job);
    }
    settle(record, times);
}

fn is_averaged(record: &Record, release: &Release) -> bool {
    release.phase == Phase::Average && release.pass == 0 && record.outputs(release).is_some()
}

/// Counts the releases that were reported and change no more: a job of a thousand rounds is not looked through at each
/// answer. The last few stay: what is said late is of them.
fn settle(record: &Record, times: &mut Times) {
    while let Some(release) = record.releases.get(times.settled)
        && times.settled + STAY < record.releases.len()
    {
        let open = release.work.iter().any(|work| {
            (0..work.shards)
                .any(|shard| matches!(record.shard(release, &work.site, shard), ShardState::Open(_)))
        });
        if open {
            return;
        }
        times.averaged += usize::from(is_averaged(record, release));
        times.settled += 1;
    }
}

fn state(metrics: &Metrics, record: &Record, accepted: &Accepted) {
    let job = &*accepted.job;
    let state = match &record.end {
        None if record.overdue() => "paused",
        None => "running",
        Some(Event::Failed(_)) => "failed",
        Some(Event::Cancelled(_)) => "cancelled",
        Some(_) => "finished",
    };
    for name in STATES {
        let is = if name == state { 1.0 } else { 0.0 };
        metrics.job_state.with_label_values(&[job, name]).set(is);
    }
    let at = record.releases.last().map(|release| release.phase);
    for phase in Phase::ALL {
        let is = if record.end.is_none() && at == Some(phase) {
            1.0
        } else {
            0.0
        };
        metrics
            .job_phase
            .with_label_values(&[job, phase.as_str()])
            .set(is);
    }
}

/// Counts what failed for good, and the updates that no average takes.
fn failures(metrics: &Metrics, record: &Record, times: &mut Times) {
    for release in record.releases.get(times.settled..).unwrap_or_default() {
        for work in &release.work {
            for shard in 0..work.shards {
                let (key, code, dead) = match record.shard(release, &work.site, shard) {
                    ShardState::Ended(result) => match &result.outcome {
                        Outcome::Failed { failure } => (result.key.clone(), failure.code.clone(), true),
                        _ => continue,
                    },
                    ShardState::Done(output) => match checks::output(record, release, work, output) {
                        Ok(()) => continue,
                        Err(failure) => {
                            let key = super::record::key(release, &work.site, shard, 1);
                            (key, failure.code, false)
                        }
                    },
                    ShardState::Open(_) => continue,
                };
                if times.old.contains(&key) || !times.counted.insert(key.clone()) {
                    continue;
                }
                if dead {
                    let labels = [&*key.site, key.phase.as_str(), &*code];
                    metrics.dead_letters.with_label_values(&labels).inc();
                }
                if key.phase == Phase::TrainRound && (!dead || USELESS.contains(&&*code)) {
                    metrics
                        .updates_rejected
                        .with_label_values(&[&*key.site, &*code])
                        .inc();
                }
            }
        }
    }
}

/// Which sites planned otherwise than the first.
fn plans(metrics: &Metrics, record: &Record) {
    let Some(accepted) = &record.accepted else {
        return;
    };
    let Some(release) = record.release(Step::once(Phase::PlanVerify, 0)) else {
        return;
    };
    let sites = plan_verify::planned(record, release);
    let Some(first) = sites.first() else {
        return;
    };
    for site in &sites {
        let same = site.plans_digest == first.plans_digest && site.weights_digest == first.weights_digest;
        metrics
            .plan_mismatch
            .with_label_values(&[&*accepted.job, &*site.site])
            .set(if same { 0.0 } else { 1.0 });
    }
}

/// What the sites said in the last round.
fn round(metrics: &Metrics, record: &Record, job: &str, times: &Times) {
    let train_rounds = || record.releases.iter().filter(|release| trains(release));
    if let Some(release) = train_rounds().next_back() {
        if let Some(released) = times.released.get(&Step::of(release)) {
            metrics.round_start.with_label_values(&[job]).set(*released);
        }
        let done = |site: &str| matches!(record.shard(release, site, 0), ShardState::Done(_));
        let received = release.work.iter().filter(|work| done(&work.site)).count();
        metrics
            .round_sites_expected
            .with_label_values(&[job])
            .set(release.work.len() as f64);
        metrics
            .round_updates_received
            .with_label_values(&[job])
            .set(received as f64);
    }
    // In stream order: what a site said last stands.
    let open = record.releases.get(times.settled..).unwrap_or_default();
    for release in open.iter().filter(|release| trains(release)) {
        for work in &release.work {
            if let ShardState::Done(output) = record.shard(release, &work.site, 0) {
                trained(metrics, job, &work.site, output);
            }
        }
        if release.pass == 0 {
            delays(metrics, job, times, Step::of(release));
        }
    }
    let averages = open.iter().filter(|release| release.phase == Phase::Average);
    for work in averages.flat_map(|release| &release.work) {
        let TaskInput::Average { updates, .. } = &work.input else {
            continue;
        };
        let all: u64 = updates.iter().map(|update| update.weight).sum();
        for update in updates {
            metrics
                .site_weight_ratio
                .with_label_values(&[job, &*update.site])
                .set(update.weight as f64 / all.max(1) as f64);
        }
    }
}

/// Whether sites train or score in a step; else they make keys, or tell what takes masks off.
fn trains(release: &Release) -> bool {
    release.phase == Phase::TrainRound && release.pass < masking::KEYS
}

fn trained(metrics: &Metrics, job: &str, site: &str, output: &TaskOutput) {
    let TaskOutput::Trained {
        epochs,
        validation,
        update_norm,
        ..
    } = output
    else {
        return;
    };
    let labels = [job, site];
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
    if let Some(norm) = update_norm {
        metrics.site_update_norm.with_label_values(&labels).set(*norm);
    }
    let dice = history::pooled_dice(std::iter::once(validation));
    set_dice(&dice, history::mean_of(&dice), |class, value| {
        metrics
            .site_pseudo_dice
            .with_label_values(&[job, site, class])
            .set(value);
    });
}

/// Sets the Dice of each class that appeared, and their mean. Classes are named from 1, as labels are: 0 is the
/// background.
fn set_dice(dice: &[Option<f64>], mean: Option<f64>, set: impl Fn(&str, f64)) {
    for (place, value) in dice.iter().enumerate() {
        if let Some(value) = value {
            set(&(place + 1).to_string(), *value);
        }
    }
    if let Some(mean) = mean {
        set("mean", mean);
    }
}

/// How long each site took for a round, and how much longer than the first.
fn delays(metrics: &Metrics, job: &str, times: &Times, step: Step) {
    let Some(released) = times.released.get(&step) else {
        return;
    };
    let Some(first) = times.answers(step).map(|(_, at)| at).min_by(f64::total_cmp) else {
        return;
    };
    for (site, at) in times.answers(step) {
        let labels = [job, site];
        metrics
            .site_round_duration
            .with_label_values(&labels)
            .set((at - released).max(0.0));
        metrics
            .site_straggler_delay
            .with_label_values(&labels)
            .set(at - first);
    }
}

/// Observes each round and its stages once, when they are over.
fn durations(metrics: &Metrics, job: &str, times: &mut Times) {
    let rounds: Vec<u32> = times
        .released
        .keys()
        .filter(|step| step.phase == Phase::TrainRound && step.pass == 0)
        .map(|step| step.round)
        .collect();
    for round in rounds {
        let is_observed = |what| {
            times
                .observed
                .contains(&(of_round(Phase::TrainRound, round), what))
        };
        if ["round", "train", "average"].into_iter().all(is_observed) {
            continue;
        }
        let (train, average) = (
            of_round(Phase::TrainRound, round),
            of_round(Phase::Average, round),
        );
        let next = |step: &Step| {
            step.phase == Phase::TrainRound && (step.round > round || (step.round == round && step.pass == 1))
        };
        let (begun, trained, ended) = (
            times.released.get(&train).copied(),
            times.released.get(&average).copied(),
            times.left(train, next),
        );
        for (what, from, to) in [
            ("round", begun, ended),
            ("train", begun, trained),
            ("average", trained, ended),
        ] {
            let (Some(from), Some(to)) = (from, to) else {
                continue;
            };
            if !times.observed.insert((train, what)) {
                continue;
            }
            let seconds = (to - from).max(0.0);
            match what {
                "round" => metrics.round_duration.with_label_values(&[job]).observe(seconds),
                stage => metrics
                    .round_stage
                    .with_label_values(&[job, stage])
                    .observe(seconds),
            }
        }
    }
}

fn dice(metrics: &Metrics, record: &Record, job: &str) {
    let Some(score) = record.scored().history.scores.last() else {
        return;
    };
    set_dice(&score.dice, score.mean_dice, |class, value| {
        metrics
            .global_pseudo_dice
            .with_label_values(&[job, class])
            .set(value);
    });
}

#[cfg(test)]
mod tests;
