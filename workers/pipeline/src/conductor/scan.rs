//! fingerprint pass 1: each shard of cases is scanned.

use schemas::{
    event::Event,
    names::Phase,
    task::{ArtifactRef, Failure, TaskInput, TaskOutput},
};

use super::{
    masking,
    next::{Job, Outputs},
    record::Step,
};

/// The release, once the number of all cases is known.
pub(super) fn release(job: &Job<'_>, cases_total: u64) -> Result<Event, Failure> {
    let keys = masking::fingerprint_keys(job)?;
    Ok(job.at_sites(Step::once(Phase::Fingerprint, 1), |member| {
        let input = TaskInput::Scan {
            cases_total,
            keys: keys.clone(),
        };
        (job.shards(member.cases), input)
    }))
}

/// Then the orchestrator merges the scans.
pub(super) fn after(job: &Job<'_>, outputs: &Outputs) -> Result<Event, Failure> {
    let parts = parts(job, outputs)?;
    Ok(job.at_orchestrator(
        Step::once(Phase::Aggregate, 1),
        TaskInput::AggregateScan { parts },
    ))
}

/// The parts of a pass of the fingerprint, in site and shard order.
pub(super) fn parts(job: &Job<'_>, outputs: &Outputs) -> Result<Vec<ArtifactRef>, Failure> {
    let part = |output: &TaskOutput| match output {
        TaskOutput::FingerprintPart { part } => Ok(part.clone()),
        _ => Err(job.unknown_step()),
    };
    outputs
        .iter()
        .flat_map(|(_, outputs)| outputs)
        .map(part)
        .collect()
}
