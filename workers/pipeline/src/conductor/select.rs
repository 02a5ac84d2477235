//! fingerprint pass 2: the bins that hold the wanted ranks are counted exactly.

use schemas::{
    event::Event,
    names::Phase,
    task::{ArtifactRef, Failure, TaskInput, TaskOutput},
};

use super::{
    masking,
    next::{Job, Outputs},
    record::Step,
    scan,
};

/// The release, once the bins are known.
pub(super) fn release(job: &Job<'_>, cases_total: u64, request: &ArtifactRef) -> Result<Event, Failure> {
    let keys = masking::fingerprint_keys(job)?;
    Ok(job.at_sites(Step::once(Phase::Fingerprint, 2), |member| {
        let input = TaskInput::Select {
            cases_total,
            request: request.clone(),
            keys: keys.clone(),
        };
        (job.shards(member.cases), input)
    }))
}

/// Then the orchestrator makes the pooled fingerprint.
pub(super) fn after(job: &Job<'_>, outputs: &Outputs) -> Result<Event, Failure> {
    let parts = scan::parts(job, outputs)?;
    let merged = job.record.outputs_of(Step::once(Phase::Aggregate, 1));
    let TaskOutput::PooledScan { scan, .. } = job.single(&merged)? else {
        return Err(job.unknown_step());
    };
    let input = TaskInput::AggregateSelect {
        scan: scan.clone(),
        parts,
    };
    Ok(job.at_orchestrator(Step::once(Phase::Aggregate, 2), input))
}
