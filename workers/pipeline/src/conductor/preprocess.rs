//! preprocess: each shard of cases is cropped, normalised and resampled.

use schemas::{
    event::Event,
    names::Phase,
    task::{Failure, TaskInput},
};

use super::{next::Job, record::Step, train};

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

/// Then the first round starts.
pub(super) fn after(job: &Job<'_>) -> Result<Event, Failure> {
    train::release(job, job.training()?.starting_fed_round)
}
