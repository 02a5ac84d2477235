//! Which artifacts nothing needs any more.
//!
//! Kept are the pooled documents, the last three averages, the best one, and what a user downloads. Updates of
//! a round go once the next round's average is released: only then is it known that no site sent the same
//! bytes again. A job that failed or was cancelled keeps what it would go on with when it is resumed.

use std::collections::BTreeSet;

use schemas::{
    event::{Accepted, Event},
    job::Payload,
    names::Phase,
    task::{ArtifactRef, TaskInput, TaskOutput},
};

use super::{
    average,
    next::Job,
    record::{Record, ShardState, Step},
};

/// Averages that are kept, counted from the last.
const KEPT: u32 = 3;

/// Artifacts to delete.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Purge {
    /// Their owner: a site, or `global`.
    pub owner: String,
    /// Their job.
    pub job: String,
    /// Which one; none: all of the owner's.
    pub digest: Option<String>,
}

impl Purge {
    fn one(artifact: &ArtifactRef) -> Self {
        Self {
            owner: artifact.owner.clone(),
            job: artifact.job.clone(),
            digest: Some(artifact.digest.clone()),
        }
    }
}

/// What can go while a job runs.
pub(super) fn while_running(job: &Job<'_>) -> Vec<Purge> {
    let Step { phase, round, pass } = job.step;
    match (phase, pass) {
        (Phase::PlanVerify, _) => fingerprint_parts(job.record),
        (Phase::Average, 0) => updates(job.record, round),
        // As the round begins: the history is long, and what goes then is gone.
        (Phase::TrainRound, 0) if !has_answers(job) => averages(job.record, job.accepted, round),
        _ => Vec::new(),
    }
}

/// Whether a site has done its part of the last step.
fn has_answers(job: &Job<'_>) -> bool {
    let Some(release) = job.record.releases.last() else {
        return false;
    };
    let done = |site: &str| matches!(job.record.shard(release, site, 0), ShardState::Done(_));
    release.work.iter().any(|work| done(&work.site))
}

/// What can go once a job has ended and no task is open.
pub(super) fn after_end(record: &Record) -> Vec<Purge> {
    let Some(accepted) = &record.accepted else {
        return Vec::new();
    };
    let training = match &accepted.message.payload {
        Payload::Training(training) => Some(training),
        Payload::Inference(_) => None,
    };
    // An inference job's zips belong to the sites, and wait to be downloaded.
    if training.is_none() || !matches!(record.end, Some(Event::Finished(_))) {
        return Vec::new();
    }
    let all_of = |member: &schemas::event::Member| Purge {
        owner: member.site.clone(),
        job: accepted.job.clone(),
        digest: None,
    };
    let mut purges: Vec<Purge> = accepted.members.iter().map(all_of).collect();
    purges.extend(
        fingerprint_parts(record)
            .into_iter()
            .filter(|purge| purge.owner == schemas::names::GLOBAL),
    );
    if let Some(training) = training {
        let rounds = training.starting_fed_round..training.starting_fed_round + training.num_rounds;
        let done = rounds
            .rev()
            .find(|&round| average::global(record, round).is_some());
        if let Some(last) = done {
            purges.extend(averages(record, accepted, last + 1));
        }
    }
    purges
}

/// Scans and selections, once they are merged.
fn fingerprint_parts(record: &Record) -> Vec<Purge> {
    let mut purges = Vec::new();
    for step in [
        Step::once(Phase::Fingerprint, 1),
        Step::once(Phase::Fingerprint, 2),
        Step::once(Phase::Aggregate, 1),
    ] {
        for output in record.outputs_of(step).iter().flat_map(|(_, outputs)| outputs) {
            match output {
                TaskOutput::FingerprintPart { part } => purges.push(Purge::one(part)),
                TaskOutput::PooledScan { scan, request } => {
                    purges.extend([Purge::one(scan), Purge::one(request)])
                }
                _ => {}
            }
        }
    }
    purges
}

/// Updates of the round before `round`, whose average is released.
fn updates(record: &Record, round: u32) -> Vec<Purge> {
    let Some(before) = round.checked_sub(1) else {
        return Vec::new();
    };
    let needed = update_artifacts(record, round);
    update_artifacts(record, before)
        .iter()
        .chain(&left_out(record, before))
        .filter(|update| !needed.contains(update))
        .map(Purge::one)
        .collect()
}

fn update_artifacts(record: &Record, round: u32) -> Vec<ArtifactRef> {
    let step = Step {
        phase: Phase::Average,
        round,
        pass: 0,
    };
    let release = record.release(step).and_then(|release| release.work.first());
    match release.map(|work| &work.input) {
        Some(TaskInput::Average { updates, .. }) => {
            updates.iter().map(|update| update.artifact.clone()).collect()
        }
        _ => Vec::new(),
    }
}

/// Updates of a round that came too late for its average.
fn left_out(record: &Record, round: u32) -> Vec<ArtifactRef> {
    let step = Step {
        phase: Phase::TrainRound,
        round,
        pass: 0,
    };
    let Some(release) = record.release(step) else {
        return Vec::new();
    };
    let without = record.without(release).unwrap_or_default();
    let late = without
        .iter()
        .filter_map(|site| match record.shard(release, site, 0) {
            ShardState::Done(TaskOutput::Trained { update, .. }) => update.clone(),
            _ => None,
        });
    late.collect()
}

/// Averages before round `round` that are neither among the last nor the best.
fn averages(record: &Record, accepted: &Accepted, round: u32) -> Vec<Purge> {
    let Payload::Training(training) = &accepted.message.payload else {
        return Vec::new();
    };
    let start = training.starting_fed_round;
    if round < start + KEPT + 1 {
        return Vec::new();
    }
    let mut kept: BTreeSet<String> = (round - KEPT..round)
        .filter_map(|round| Some(average::global(record, round)?.digest))
        .collect();
    let best = record.scored().best.as_ref();
    kept.extend(best.map(|best| best.weights.digest.clone()));
    (start..round - KEPT)
        .filter_map(|round| average::global(record, round))
        .filter(|global| !kept.contains(&global.digest))
        .map(|global| Purge::one(&global))
        .collect()
}
