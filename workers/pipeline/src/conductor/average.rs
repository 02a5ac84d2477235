//! average pass 0: FedAvg of a round.

use std::collections::BTreeMap;

use schemas::{
    event::{Accepted, Event},
    job::Payload,
    names::Phase,
    task::{ArtifactRef, Failure, TaskInput, TaskOutput, Weights},
};

use super::{
    next::{Job, Outputs},
    record::{Record, Step},
    train,
};

/// Then the next round, or the scoring of the last average.
pub(super) fn after(job: &Job<'_>, outputs: &Outputs) -> Result<Event, Failure> {
    let TaskOutput::Averaged { global, .. } = job.single(outputs)? else {
        return Err(job.unknown_step());
    };
    let training = job.training()?;
    let round = job.step.round;
    if round + 1 < training.starting_fed_round + training.num_rounds {
        train::release(job, round + 1)
    } else {
        let last = Weights::Average {
            artifact: global.clone(),
        };
        train::release_scoring(job, round, last)
    }
}

/// The average of a round, when it is made.
pub(super) fn global(record: &Record, round: u32) -> Option<ArtifactRef> {
    let outputs = record.outputs_of(step(round));
    match &outputs.first()?.1[..] {
        [TaskOutput::Averaged { global, .. }] => Some(global.clone()),
        _ => None,
    }
}

/// The digests of the updates that went into a round's average, by site; empty before its release.
pub(super) fn updates(record: &Record, round: u32) -> Vec<(String, String)> {
    let input = record
        .release(step(round))
        .and_then(|release| release.work.first());
    match input.map(|work| &work.input) {
        Some(TaskInput::Average { updates, .. }) => updates
            .iter()
            .map(|update| (update.site.clone(), update.artifact.digest.clone()))
            .collect(),
        _ => Vec::new(),
    }
}

/// The digest of each site's last update that an average before `round` counts, by site: its momentum goes on.
pub(super) fn last_updates(record: &Record, accepted: &Accepted, round: u32) -> Vec<(String, String)> {
    let start = match &accepted.message.payload {
        Payload::Training(training) => training.starting_fed_round,
        Payload::Inference(_) => round,
    };
    let earlier = accepted.continues.as_ref().map(|earlier| earlier.updates.clone());
    let mut last: BTreeMap<String, String> = earlier.unwrap_or_default().into_iter().collect();
    last.extend((start..round).flat_map(|round| updates(record, round)));
    last.into_iter().collect()
}

fn step(round: u32) -> Step {
    Step {
        phase: Phase::Average,
        round,
        pass: 0,
    }
}
