//! train-round: pass 0 trains at every site, pass 1 scores the last average. Passes 2 to 4 are of updates that are
//! masked: see `masking.rs`.

use schemas::{
    event::Event,
    job::{Momentum, Weighting},
    masking::Unmasking,
    names::Phase,
    task::{Base, Failure, TaskInput, TaskOutput, Update, Weights},
};

use super::{
    average, masking,
    next::{Job, Outputs},
    plan_verify,
    record::Step,
};

/// The start of a round.
pub(super) fn release(job: &Job<'_>, round: u32) -> Result<Event, Failure> {
    match job.accepted.message.federation.secure_aggregation {
        Some(_) => Ok(masking::release(job, round)),
        None => release_at(job, round, base(job, round)?, Vec::new()),
    }
}

/// The training of a round from global weights: at every member, or of a round whose updates are masked at the
/// `sharers`.
pub(super) fn release_at(
    job: &Job<'_>,
    round: u32,
    base: Weights,
    sharers: Vec<String>,
) -> Result<Event, Failure> {
    let previous = match job.accepted.message.federation.momentum {
        Momentum::Reset => Vec::new(),
        Momentum::Keep | Momentum::Average => average::last_updates(job.record, job.accepted, round),
    };
    let step = Step {
        phase: Phase::TrainRound,
        round,
        pass: 0,
    };
    at_sites(job, step, round, base, &previous, sharers)
}

/// What a round starts from: the average of the round before, an earlier job's, or the initial weights.
pub(super) fn base(job: &Job<'_>, round: u32) -> Result<Weights, Failure> {
    if round > job.training()?.starting_fed_round {
        let artifact = average::global(job.record, round - 1).ok_or_else(|| job.unknown_step())?;
        return Ok(Weights::Average { artifact });
    }
    if let Some(earlier) = &job.accepted.continues {
        return Ok(Weights::Average {
            artifact: earlier.weights.clone(),
        });
    }
    let plans = plan_verify::sites(job.record).into_iter().next();
    let digest = plans.ok_or_else(|| job.unknown_step())?.weights_digest;
    Ok(Weights::Initial { digest })
}

/// The scoring pass behind the last round.
pub(super) fn release_scoring(job: &Job<'_>, round: u32, last: Weights) -> Result<Event, Failure> {
    let step = Step {
        phase: Phase::TrainRound,
        round,
        pass: 1,
    };
    at_sites(job, step, round + 1, last, &[], Vec::new())
}

fn at_sites(
    job: &Job<'_>,
    step: Step,
    rounds_before: u32,
    base: Weights,
    previous: &[(String, String)],
    sharers: Vec<String>,
) -> Result<Event, Failure> {
    let training = job.training()?;
    let start = training.starting_fed_round;
    let rounds = job.accepted.message.federation.total_rounds;
    let rounds = rounds.unwrap_or(start + training.num_rounds);
    let earlier = job
        .accepted
        .continues
        .as_ref()
        .map_or(0, |earlier| earlier.epochs);
    let epochs = |rounds: u32| earlier + (rounds - start) * training.epochs_per_round;
    let pooled = job.pooled()?;
    let plans = plan_verify::sites(job.record);
    let plans_digest = plans.first().map(|plans| plans.plans_digest.clone());
    let plans_digest = plans_digest.ok_or_else(|| job.unknown_step())?;
    Ok(job.at_some(step, |member| {
        if !sharers.is_empty() && !sharers.contains(&member.site) {
            return None;
        }
        let previous = previous.iter().find(|(site, _)| *site == member.site);
        let input = TaskInput::TrainRound {
            pooled: pooled.clone(),
            plans_digest: plans_digest.clone(),
            base: base.clone(),
            previous_update: previous.map(|(_, digest)| digest.clone()),
            epochs_before: epochs(rounds_before),
            total_epochs: epochs(rounds),
            sharers: sharers.clone(),
        };
        Some((1, input))
    }))
}

/// What the round started from.
fn started_from(job: &Job<'_>, round: u32) -> Result<Base, Failure> {
    let step = Step {
        phase: Phase::TrainRound,
        round,
        pass: 0,
    };
    let release = job.record.release(step).and_then(|release| release.work.first());
    match release.map(|work| &work.input) {
        Some(TaskInput::TrainRound {
            pooled,
            plans_digest,
            base,
            ..
        }) => {
            let sent = plan_verify::sites(job.record)
                .into_iter()
                .find_map(|site| site.weights);
            let weights = match (base, sent) {
                (Weights::Initial { .. }, Some(artifact)) => Weights::Average { artifact },
                _ => base.clone(),
            };
            Ok(Base {
                pooled: pooled.clone(),
                plans_digest: plans_digest.clone(),
                weights,
            })
        }
        _ => Err(job.unknown_step()),
    }
}

/// After pass 0: the average of the round. Where the updates are masked, what takes the masks off comes before it.
pub(super) fn after(job: &Job<'_>, outputs: &Outputs) -> Result<Event, Failure> {
    match job.accepted.message.federation.secure_aggregation {
        Some(_) => masking::after_training(job, outputs),
        None => average(job, job.step.round, outputs, None),
    }
}

/// The average of a round's updates, in site order.
pub(super) fn average(
    job: &Job<'_>,
    round: u32,
    outputs: &Outputs,
    unmasking: Option<Unmasking>,
) -> Result<Event, Failure> {
    let plans = plan_verify::sites(job.record);
    let federation = &job.accepted.message.federation;
    let mut updates = Vec::new();
    for (site, outputs) in outputs {
        let [
            TaskOutput::Trained {
                update: Some(artifact),
                epochs,
                ..
            },
        ] = &outputs[..]
        else {
            return Err(job.unknown_step());
        };
        let cases = plans.iter().find(|plans| plans.site == *site);
        let cases = cases.map_or(0, |plans| u64::from(plans.training_cases));
        let iterations: u64 = epochs.iter().map(|epoch| u64::from(epoch.iterations)).sum();
        // Without a limit of time, all sites do the same number.
        let done = federation.round_seconds.map_or(1, |_| iterations);
        let weight = match federation.weighting {
            Weighting::Cases => cases.saturating_mul(done),
            Weighting::Iterations => iterations,
            Weighting::Equal => done,
        };
        updates.push(Update {
            site: site.clone(),
            artifact: artifact.clone(),
            weight,
        });
    }
    if updates.iter().all(|update| update.weight == 0) {
        return Err(Failure::fatal(
            "no-weight",
            format!("the updates of round {} all count 0 in the average", round),
        ));
    }
    if unmasking.is_some() {
        masking::check_total(&updates)?;
    }
    let base = match federation.norm_bound {
        Some(_) => Some(started_from(job, round)?),
        None => None,
    };
    let step = Step {
        phase: Phase::Average,
        round,
        pass: 0,
    };
    let input = TaskInput::Average {
        updates,
        base,
        unmasking,
    };
    Ok(job.at_orchestrator(step, input))
}
