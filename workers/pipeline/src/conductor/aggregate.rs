//! aggregate: the orchestrator's part of each pass of the fingerprint.

use schemas::{
    event::Event,
    names::Phase,
    task::{ArtifactRef, Failure, Pooled, TaskOutput},
};

use super::{
    masking,
    next::{Job, Outputs},
    plan_verify,
    record::Step,
    scan, select,
};

/// Pass 0 leads to the scan (by way of the keys, where its numbers are hidden), pass 1 to the selection, pass 2 to the plans.
pub(super) fn after(job: &Job<'_>, outputs: &Outputs) -> Result<Event, Failure> {
    match job.single(outputs)? {
        TaskOutput::PooledDescriptors { cases_total, .. } => {
            match job.accepted.message.federation.secure_aggregation {
                Some(_) => Ok(masking::fingerprint_release(job)),
                None => scan::release(job, *cases_total),
            }
        }
        TaskOutput::PooledScan { request, .. } => {
            let (_, cases_total) = descriptors(job)?;
            select::release(job, cases_total, request)
        }
        TaskOutput::PooledFingerprint { fingerprint } => {
            let (dataset_json, _) = descriptors(job)?;
            let pooled = Pooled {
                fingerprint: fingerprint.clone(),
                dataset_json,
            };
            Ok(plan_verify::release(job, pooled))
        }
        _ => Err(job.unknown_step()),
    }
}

/// Once there are keys by which to hide the fingerprint's numbers: the scan.
pub(super) fn after_keys(job: &Job<'_>) -> Result<Event, Failure> {
    let (_, cases_total) = descriptors(job)?;
    scan::release(job, cases_total)
}

/// What pass 0 made: the pooled dataset.json, and the number of all cases.
fn descriptors(job: &Job<'_>) -> Result<(ArtifactRef, u64), Failure> {
    let outputs = job.record.outputs_of(Step::once(Phase::Aggregate, 0));
    match job.single(&outputs)? {
        TaskOutput::PooledDescriptors {
            dataset_json,
            cases_total,
        } => Ok((dataset_json.clone(), *cases_total)),
        _ => Err(job.unknown_step()),
    }
}
