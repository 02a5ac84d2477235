//! What a training job with starting_fed_round > 0 starts from.

use schemas::{
    Invalid,
    event::{Accepted, Best, Continuation, History},
    job::{JobMessage, Payload},
    task::{ArtifactRef, Weights},
};

use super::{
    average, history,
    next::Job,
    plan_verify,
    record::{Record, Step},
};
use schemas::{names::Phase, task::TaskInput};

/// Whether a job could be the one that a message continues: no dry run, and the same data sets, configuration, fold and
/// trainer.
pub(super) fn matches(earlier: &Accepted, message: &JobMessage) -> bool {
    let (Payload::Training(a), Payload::Training(b)) = (&earlier.message.payload, &message.payload) else {
        return false;
    };
    let sorted = |datasets: &[String]| {
        let mut datasets = datasets.to_vec();
        datasets.sort();
        datasets
    };
    !earlier.message.federation.dry_run
        && sorted(&earlier.message.datasets) == sorted(&message.datasets)
        && a.model_configuration == b.model_configuration
        && a.fold_id == b.fold_id
        && a.trainer_name == b.trainer_name
}

/// What a job that starts at `round` takes over from an earlier one.
pub(super) fn continuation(record: &Record, round: u32) -> Result<Continuation, Invalid> {
    let Some(accepted) = &record.accepted else {
        return Err(Invalid::new("resume_from", "not a job"));
    };
    let wrong = |reason: String| Invalid::new("payload.starting_fed_round", reason);
    let name = &accepted.job;
    let Payload::Training(training) = &accepted.message.payload else {
        return Err(Invalid::new("resume_from", format!("{name} is no training job")));
    };
    let start = training.starting_fed_round;
    let done: Vec<u32> = (start..start + training.num_rounds)
        .filter(|&round| average::global(record, round).is_some())
        .collect();
    let Some(last) = round.checked_sub(1).filter(|last| done.contains(last)) else {
        let has = match (done.first(), done.last()) {
            (Some(first), Some(last)) => format!("it has rounds {first} to {last}"),
            _ => "it has no finished round".to_owned(),
        };
        return Err(wrong(format!(
            "{round}: job {name} has no average of the round before; {has}"
        )));
    };
    let job = Job {
        record,
        accepted,
        step: Step {
            phase: Phase::TrainRound,
            round,
            pass: 0,
        },
    };
    let scored = history::of(record, accepted);
    let history = History {
        // The new job scores the average after `last` itself, as the start of its first round.
        scores: scored
            .history
            .scores
            .into_iter()
            .filter(|score| score.round < round)
            .collect(),
        epochs: scored
            .history
            .epochs
            .into_iter()
            .filter(|epoch| epoch.round < round)
            .collect(),
    };
    let weights = average::global(record, last).ok_or_else(|| wrong(format!("{round}: no such average")))?;
    let pooled = job.pooled().map_err(|failure| wrong(failure.message))?;
    let epochs = accepted.continues.as_ref().map_or(0, |earlier| earlier.epochs)
        + (round - start) * training.epochs_per_round;
    Ok(Continuation {
        job: name.clone(),
        pooled,
        kept_plans: plan_verify::kept_plans(&job),
        weights,
        updates: average::last_updates(record, accepted, round),
        epochs,
        best: best(record, accepted, &history),
        history,
    })
}

/// The best average of a history that was cut.
fn best(record: &Record, accepted: &Accepted, history: &History) -> Option<Best> {
    let mut best = accepted
        .continues
        .as_ref()
        .and_then(|earlier| earlier.best.clone());
    let known = accepted
        .continues
        .as_ref()
        .map_or(0, |earlier| earlier.history.scores.len());
    for score in history.scores.iter().skip(known) {
        if let Some(ema_dice) = score.ema_dice
            && best.as_ref().is_none_or(|best| ema_dice > best.ema_dice)
            && let Some(weights) = scored_weights(record, score.round)
        {
            best = Some(Best { ema_dice, weights });
        }
    }
    best
}

/// The weights that a round started from.
fn scored_weights(record: &Record, round: u32) -> Option<ArtifactRef> {
    let step = Step {
        phase: Phase::TrainRound,
        round,
        pass: 0,
    };
    match &record.release(step)?.work.first()?.input {
        TaskInput::TrainRound {
            base: Weights::Average { artifact },
            ..
        } => Some(artifact.clone()),
        _ => None,
    }
}
