//! average pass 1: the results folder, and the end of a training job.

use schemas::{
    event::{Event, Finished},
    names::Phase,
    task::{ArtifactRef, Failure, SiteScores, TaskInput, TaskOutput, Weights},
};

use super::{
    average, history,
    next::{Job, Outputs},
    plan_verify,
    record::Step,
};

/// After the last average was scored: the results folder of it and of the best one, with how it segmented the
/// validation cases.
pub(super) fn release(job: &Job<'_>, validations: Vec<SiteScores>) -> Result<Event, Failure> {
    let last = average::global(job.record, job.step.round).ok_or_else(|| job.unknown_step())?;
    let scored = history::of(job.record, job.accepted);
    let best = scored.best.map_or_else(|| last.clone(), |best| best.weights);
    let plans = plan_verify::sites(job.record);
    let plans_digest = plans.first().map(|plans| plans.plans_digest.clone());
    let input = TaskInput::Results {
        pooled: job.pooled()?,
        kept_plans: plan_verify::kept_plans(job),
        plans_digest: plans_digest.ok_or_else(|| job.unknown_step())?,
        last: Weights::Average { artifact: last },
        best: Weights::Average { artifact: best },
        history: scored.history,
        validations,
    };
    let step = Step {
        phase: Phase::Average,
        round: job.step.round,
        pass: 1,
    };
    Ok(job.at_orchestrator(step, input))
}

/// Then the job is finished.
pub(super) fn after(job: &Job<'_>, outputs: &Outputs) -> Result<Event, Failure> {
    let TaskOutput::Results { archive } = job.single(outputs)? else {
        return Err(job.unknown_step());
    };
    Ok(finished(job, Some(archive.clone())))
}

/// The end of a dry run.
pub(super) fn without(job: &Job<'_>) -> Event {
    finished(job, None)
}

fn finished(job: &Job<'_>, results: Option<ArtifactRef>) -> Event {
    Event::Finished(Box::new(Finished {
        job: job.accepted.job.clone(),
        results,
        segmentations: Vec::new(),
        history: history::of(job.record, job.accepted).history,
        resumes: job.record.resumes(),
    }))
}
