//! infer pass 3, of a training job that asks: the last average segments every site's validation cases.

use schemas::{
    event::Event,
    names::Phase,
    task::{Failure, SiteScores, TaskInput, TaskOutput, Weights},
};

use super::{
    average,
    next::{Job, Outputs},
    plan_verify,
    record::Step,
    results,
};

/// Behind those of an inference job.
pub(super) const PASS: u32 = 3;

/// After the scoring pass.
pub(super) fn release(job: &Job<'_>) -> Result<Event, Failure> {
    let last = average::global(job.record, job.step.round).ok_or_else(|| job.unknown_step())?;
    let plans = plan_verify::sites(job.record);
    let first = plans.first().ok_or_else(|| job.unknown_step())?;
    let input = TaskInput::Validate {
        pooled: job.pooled()?,
        plans_digest: first.plans_digest.clone(),
        weights: Weights::Average { artifact: last },
    };
    let step = Step {
        phase: Phase::Infer,
        round: job.step.round,
        pass: PASS,
    };
    Ok(job.at_some(step, |member| {
        let own = plans.iter().find(|plans| plans.site == member.site)?;
        Some((job.shards(own.validation_cases), input.clone()))
    }))
}

/// Then the results folder, with what the sites counted.
pub(super) fn after(job: &Job<'_>, outputs: &Outputs) -> Result<Event, Failure> {
    let mut validations = Vec::new();
    for (site, outputs) in outputs {
        for output in outputs {
            let TaskOutput::Validated { scores } = output else {
                return Err(job.unknown_step());
            };
            validations.push(SiteScores {
                site: site.clone(),
                scores: scores.clone(),
            });
        }
    }
    results::release(job, validations)
}
