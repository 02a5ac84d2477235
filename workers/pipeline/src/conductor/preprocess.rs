//! preprocess: each shard of cases is cropped, normalised and resampled.

use schemas::{
    event::Event,
    names::Phase,
    task::{Failure, TaskInput, Weights},
};

use super::{next::Job, plan_verify, record::Step, train};

/// The release, once all sites planned the same.
pub(super) fn release(job: &Job<'_>, plans_digest: String) -> Result<Event, Failure> {
    let pooled = job.pooled()?;
    Ok(job.at_sites(Step::once(Phase::Preprocess, 0), |member| {
        let input = TaskInput::Preprocess {
            pooled: pooled.clone(),
            plans_digest: plans_digest.clone(),
        };
        (job.shards(member.cases), input)
    }))
}

/// Then the first round starts: from the initial weights, or from an earlier job's average.
pub(super) fn after(job: &Job<'_>) -> Result<Event, Failure> {
    let plans = plan_verify::sites(job.record);
    let first = plans.first().ok_or_else(|| job.unknown_step())?;
    let base = match &job.accepted.continues {
        None => Weights::Initial {
            digest: first.weights_digest.clone(),
        },
        Some(earlier) => Weights::Average {
            artifact: earlier.weights.clone(),
        },
    };
    train::release(job, job.training()?.starting_fed_round, base)
}
