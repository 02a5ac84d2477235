//! train-round: pass 0 trains at every site, pass 1 scores the last average.

use schemas::{
    event::Event,
    job::{Momentum, Weighting},
    names::Phase,
    task::{Base, Failure, TaskInput, TaskOutput, Update, Weights},
};

use super::{
    average,
    next::{Job, Outputs},
    plan_verify,
    record::Step,
};

/// A round of training from global weights.
pub(super) fn release(job: &Job<'_>, round: u32, base: Weights) -> Result<Event, Failure> {
    let previous = match job.accepted.message.federation.momentum {
        Momentum::Reset => Vec::new(),
        Momentum::Keep | Momentum::Average => average::last_updates(job.record, job.accepted, round),
    };
    let step = Step {
        phase: Phase::TrainRound,
        round,
        pass: 0,
    };
    at_sites(job, step, round, base, &previous)
}

/// The scoring pass behind the last round.
pub(super) fn release_scoring(job: &Job<'_>, round: u32, last: Weights) -> Result<Event, Failure> {
    let step = Step {
        phase: Phase::TrainRound,
        round,
        pass: 1,
    };
    at_sites(job, step, round + 1, last, &[])
}

fn at_sites(
    job: &Job<'_>,
    step: Step,
    rounds_before: u32,
    base: Weights,
    previous: &[(String, String)],
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
    Ok(job.at_sites(step, |member| {
        let previous = previous.iter().find(|(site, _)| *site == member.site);
        let input = TaskInput::TrainRound {
            pooled: pooled.clone(),
            plans_digest: plans_digest.clone(),
            base: base.clone(),
            previous_update: previous.map(|(_, digest)| digest.clone()),
            epochs_before: epochs(rounds_before),
            total_epochs: epochs(rounds),
        };
        (1, input)
    }))
}

/// What the round started from.
fn base(job: &Job<'_>) -> Result<Base, Failure> {
    let release = job
        .record
        .release(job.step)
        .and_then(|release| release.work.first());
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

/// After pass 0: the average of the round, in site order.
pub(super) fn after(job: &Job<'_>, outputs: &Outputs) -> Result<Event, Failure> {
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
            format!(
                "the updates of round {} all count 0 in the average",
                job.step.round
            ),
        ));
    }
    let step = Step {
        phase: Phase::Average,
        ..job.step
    };
    let base = match federation.norm_bound {
        Some(_) => Some(base(job)?),
        None => None,
    };
    Ok(job.at_orchestrator(step, TaskInput::Average { updates, base }))
}
